"""One pass over the data: the programs that a fit is made of. Knows no loop over epochs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jloss._batches import Arrays
from jloss.average import Statistic, Terms
from jloss.objective import Objective, call, term_gradients
from jloss.update import State, advance

# Compiled once per objective, optimizer and shapes, for all fits of a process.


@partial(
    jax.jit,
    static_argnames=("objective", "batch_size", "microbatches", "rows"),
    donate_argnames=("state",),
)
def train(
    objective: Objective,
    batch_size: int,
    microbatches: int,
    state: State,
    data: Any,
    order: Array,
    start: ArrayLike = 0,
    rows: int | None = None,
) -> tuple[State, Statistic]:
    """One pass over the data in this order, and the sum of the losses met on the way.

    Or of that pass only the updates from ``start`` on, for so many rows.
    """
    if rows is not None:
        order = lax.dynamic_slice_in_dim(order, start * batch_size, rows)

    def update(state: State, chosen: Array) -> tuple[State, Statistic]:
        parts = cut(len(chosen), batch_size, microbatches)
        return advance(objective, state, _take(data, chosen), parts)

    return _over_batches(update, state, order, batch_size)


def cut(rows: int, batch_size: int, microbatches: int) -> int:
    """Into how many equal parts so many rows are cut, none larger than those of a whole batch."""
    most = max(1, batch_size // microbatches)
    return next(
        parts for parts in range(1, rows + 1) if rows % parts == 0 and rows // parts <= most
    )


@partial(jax.jit, static_argnames=("judges", "batch_size"))
def evaluate(
    judges: tuple[Objective, ...], batch_size: int, params: Any, context: Any, data: Any
) -> tuple[Statistic, ...]:
    """The statistics of objective and metrics over all rows."""

    # In batches of the training's size: a loss that looks at the whole batch depends on it.
    def judged(_: None, chosen: Array) -> tuple[None, tuple[Statistic, ...]]:
        return None, _judgements(judges, params, context, _take(data, chosen))

    return _over_batches(judged, None, jnp.arange(Arrays(data).rows), batch_size)[1]


@partial(jax.jit, static_argnames=("judges",))
def judge(
    judges: tuple[Objective, ...], params: Any, context: Any, batches: Any
) -> tuple[Statistic, ...]:
    """The same over several batches, which lie along the leading axis."""
    parts = lax.map(partial(_judgements, judges, params, context), batches)
    return summed(parts)


@partial(jax.jit, static_argnames=("objective",))
def contributions(objective: Objective, params: Any, context: Any, batch: Any) -> dict[str, Array]:
    """The norm and the share of each term's gradient on a batch."""
    terms = term_gradients(objective, params, batch, **context)
    norms = {f"norm_{name}": term.norm for name, term in terms.items()}
    return norms | {f"share_{name}": term.share for name, term in terms.items()}


def context(state: State) -> dict[str, Any]:
    """What an objective is evaluated with; without a key, it does as when it is used."""
    return {"model_state": state.model_state, "step": state.step}


def _judgements(
    judges: tuple[Objective, ...], params: Any, context: Any, batch: Any
) -> tuple[Statistic, ...]:
    return tuple(call(judge, params, batch, **context)[0] for judge in judges)


def _over_batches(
    body: Callable[[Any, Array], tuple[Any, Any]], carry: Any, order: Array, batch_size: int
) -> tuple[Any, Any]:
    """Carries ``body`` over the batches of ``order``, a smaller last one included; adds up."""
    batch_size = min(batch_size, len(order))
    full = len(order) // batch_size * batch_size
    if full == len(order) == batch_size:  # no loop of one, which would cost what a loop costs
        return body(carry, order)
    carry, parts = lax.scan(body, carry, order[:full].reshape(-1, batch_size))
    total = summed(parts)
    if full < len(order):
        carry, rest = body(carry, order[full:])
        total = jax.tree.map(jnp.add, total, rest)
    return carry, total


@partial(jax.jit, static_argnames=("rows",))
def shuffled(key: Array, step: ArrayLike, rows: int) -> Array:
    """The numbers of the rows in the random order of an epoch that begins with this step.

    By the step, not by the epoch, so that a fit in two parts sees what one fit sees.
    `jax.random.permutation` sorts pairs, which took a third of the time of many small fits at once;
    a draw and the place it belongs to in one number are sorted ten times as fast.
    """
    key = jax.random.fold_in(key, step)
    bits = max(1, (rows - 1).bit_length())
    if bits > 16:
        return jax.random.permutation(key, rows)
    order = places = jnp.arange(rows, dtype=jnp.uint32)
    # Twice, as draws cut to 32 - bits are sometimes equal, and then keep the order from before.
    for each in jax.random.split(key):
        draws = jax.random.bits(each, (rows,), jnp.uint32)
        order = order[jnp.sort((draws >> bits << bits) | places) & (2**bits - 1)]
    return order.astype(int)


@jax.jit
def summed(parts: Any) -> Any:
    """Statistics add up leaf by leaf."""
    return jax.tree.map(lambda part: jnp.sum(part, axis=0), parts)


def _take(data: Any, chosen: Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[chosen], data)


@jax.jit
def _sum(total: Any, part: Any) -> Any:
    return jax.tree.map(jnp.add, total, part)


def added(total: Any, part: Any) -> Any:
    """The sum of both; of what a checkpoint kept of the first only the leaves are known."""
    if total is None:
        return part
    return _sum(jax.tree.unflatten(jax.tree.structure(part), jax.tree.leaves(total)), part)


@jax.jit
def values(statistics: tuple[Statistic, ...]) -> tuple[dict[str, Array], ...]:
    """The value of each under the name "", and those of its terms under theirs."""

    def values(statistic: Statistic) -> dict[str, Array]:
        terms = statistic.averages if isinstance(statistic, Terms) else {}
        return {"": statistic.value} | {f"_{name}": terms[name].value for name in terms}

    return tuple(values(statistic) for statistic in statistics)
