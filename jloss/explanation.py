"""Why a loss or a gradient is not finite: which term, which example, and where it began."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import checkify
from jax.extend import core
from jax.extend.source_info_util import summarize
from jax.tree_util import keystr, tree_leaves_with_path

from jloss._gradient import leading
from jloss.average import Terms
from jloss.objective import Objective, call
from jloss.update import all_finite

# A call of a function, looked into; loops and branches are looked at from outside.
_CALLS = {"jit", "closed_call", "remat2", "custom_jvp_call", "custom_vjp_call"}


@dataclass(frozen=True)
class Explanation:
    """What `explain` found; its ``str`` says it in words.

    Attributes:
      quantity: ``"value"`` or ``"gradient"``, whichever is not finite; None where both are.
      term: the name of the term it is of; None of an objective that is not made of several, or if
        each term is finite by itself.
      leaf: the first of the params whose gradient is not finite.
      example: the first row of the batch that is bad by itself, or None.
      examples: how many rows are bad by themselves, of how many.
      cause: where it began: NaN or infinity that went in, a number that a loss does not allow, or
        the operation that made it of finite numbers.
    """

    quantity: str | None = None
    term: str | None = None
    leaf: str | None = None
    example: int | None = None
    examples: tuple[int, int] = (0, 0)
    cause: str | None = None

    def __str__(self) -> str:
        if self.quantity is None:
            return "The value and its gradient are finite."
        of = "" if self.term is None else f" of the term {self.term!r}"
        at = "" if self.leaf is None else f", first at {self.leaf}"
        bad, rows = self.examples
        where = (
            "No example is bad by itself: it takes the batch as a whole."
            if self.example is None
            else f"Example {self.example} is the first that is bad by itself, of {bad} in {rows}."
        )
        return f"The {self.quantity}{of} is not finite{at}. {where} Cause: {self.cause}."


def explain(
    objective: Objective,
    params: Any,
    batch: Any,
    *,
    model_state: Any = None,
    key: Array | None = None,
    step: Any = None,
) -> Explanation:
    """Finds out why an objective or its gradient is not finite on a batch.

    NaN and infinity are followed from where they come up to the result, through every operation of
    the objective and its derivative; those that a mask hides on the way are not blamed.

    Args:
      objective: ``objective(params, batch) -> Average``, or what `combine` made.
      params: the model's parameters.
      batch: the rows on which an update was skipped.
      model_state: as the `State` had it, for an objective that names it; likewise ``key`` and
        ``step``.
      key: see ``model_state``.
      step: see ``model_state``.

    Returns:
      An `Explanation`; print it.

    >>> square_root = lambda params, batch: jloss.average(jnp.sqrt(params * batch))
    >>> report = jloss.explain(square_root, jnp.array(1.0), jnp.array([4.0, 1.0, 0.0]))
    >>> report.quantity, report.example, report.examples
    ('gradient', 2, (1, 3))
    """

    def values(params: Any, model_state: Any, batch: Any) -> dict[str | None, Array]:
        found, _ = call(objective, params, batch, model_state=model_state, key=key, step=step)
        terms = found.averages if isinstance(found, Terms) else {}
        return {**{name: average.value for name, average in terms.items()}, None: found.value}

    names: list[str | None] = []
    jax.eval_shape(lambda *inputs: names.extend(values(*inputs)), params, model_state, batch)
    for quantity, change in (("value", lambda term: term), ("gradient", jax.grad)):
        for name in names:
            judged = change(lambda *inputs, name=name: values(*inputs)[name])
            found = jax.jit(judged)(params, model_state, batch)
            if _is_bad(found):
                return _explained(quantity, name, judged, found, (params, model_state, batch))
    return Explanation()


def _explained(
    quantity: str, term: str | None, judged: Callable[..., Any], found: Any, inputs: Sequence[Any]
) -> Explanation:
    params, model_state, batch = inputs
    bad, rows = _bad_rows(judged, inputs)
    example = None
    if bad.size:
        example = int(bad[0])
        batch = _rows(batch, example)
    leaf, cause = _followed(judged, (params, model_state, batch), example or 0)
    if quantity == "value":
        leaf = None
    elif example is None:
        leaf = _first_bad("params", found)
    return Explanation(quantity, term, leaf, example, (bad.size, rows), cause)


def _bad_rows(judged: Callable[..., Any], inputs: Sequence[Any]) -> tuple[np.ndarray, int]:
    """The numbers of the rows that are bad alone, and how many rows there are."""
    params, model_state, batch = inputs
    try:
        rows = leading("explain", batch)
    except ValueError:  # not made of rows
        return np.array([], int), 0

    @jax.jit
    def bad(params: Any, model_state: Any, batch: Any) -> Array:
        alone = lambda row: ~all_finite(judged(params, model_state, _rows(batch, row)))  # noqa: E731
        return lax.map(alone, jnp.arange(rows), batch_size=min(rows, 32))

    return np.flatnonzero(bad(params, model_state, batch)), rows


def _rows(batch: Any, row: Any) -> Any:
    return jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(jnp.asarray(leaf), row, 1), batch)


def _is_bad(leaf: Any) -> bool:
    leaves = [leaf for leaf in jax.tree.leaves(leaf) if hasattr(leaf, "dtype")]
    floats = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return any(not np.all(np.isfinite(np.asarray(leaf, np.float64))) for leaf in floats)


def _first_bad(name: str, tree: Any, first_row: int = 0) -> str | None:
    """The first place that is not finite, as in ``params['w'][2, 1]``."""
    for path, leaf in tree_leaves_with_path(tree):
        if _is_bad(leaf):
            at = np.argwhere(~np.isfinite(np.asarray(leaf, np.float64)))[0].tolist()
            at[:1] = [row + first_row for row in at[:1]]
            return f"{name}{keystr(path)}{at if at else ''}"
    return None


# Following what is not finite from where it begins.


def _followed(
    judged: Callable[..., Any], inputs: Sequence[Any], first_row: int
) -> tuple[str | None, str]:
    """The first bad leaf of the result, and what is to blame for it."""
    closed, shapes = jax.make_jaxpr(judged, return_shape=True)(*inputs)
    values, blames = [], []
    for name, tree in zip(("params", "model_state", "batch"), inputs, strict=True):
        row = first_row if name == "batch" else 0
        for path, leaf in tree_leaves_with_path(tree):
            place = _first_bad(name + keystr(path), leaf, row)
            values.append(leaf)
            blames.append(place and f"{place} is {_example_of(leaf)}")
    found, blamed = _run(closed.jaxpr, closed.consts, values, blames)
    paths = [f"params{keystr(path)}" for path, _ in tree_leaves_with_path(shapes)]
    leaf, cause = next(
        (_first_bad(path, value), blame)
        for path, value, blame in zip(paths, found, blamed, strict=True)
        if blame is not None
    )
    if not any(cause == blame for blame in blames):
        error, _ = jax.jit(checkify.checkify(judged, errors=checkify.user_checks))(*inputs)
        cause = error.get() or cause
    return leaf, cause


def _run(
    jaxpr: core.Jaxpr, consts: Sequence[Any], values: Sequence[Any], blames: Sequence[str | None]
) -> tuple[list[Any], list[str | None]]:
    """The results of a program, and for each that is not finite what is to blame."""
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *values), strict=True))
    blamed = dict(zip(jaxpr.invars, blames, strict=True))

    def read(places: Sequence[Any]) -> tuple[list[Any], list[str | None]]:
        literal = [isinstance(place, core.Literal) for place in places]
        return (
            [p.val if lit else known[p] for p, lit in zip(places, literal, strict=True)],
            [None if lit else blamed.get(p) for p, lit in zip(places, literal, strict=True)],
        )

    for equation in jaxpr.eqns:
        ins, guilty = read(equation.invars)
        if equation.primitive.name in _CALLS:
            inner = equation.params.get("jaxpr") or equation.params["call_jaxpr"]
            inner = inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())
            outs, blames = _run(inner.jaxpr, inner.consts, ins, guilty)
        else:
            outs = _result(jaxpr, equation, ins)
            blames = [_blame(equation, out, ins, guilty) for out in outs]
        known.update(zip(equation.outvars, outs, strict=True))
        blamed.update(zip(equation.outvars, blames, strict=True))
    return read(jaxpr.outvars)


def _result(jaxpr: core.Jaxpr, equation: Any, ins: Sequence[Any]) -> Sequence[Any]:
    """What one operation of the program gives."""
    given = {
        place: value
        for place, value in zip(equation.invars, ins, strict=True)
        if not isinstance(place, core.Literal)
    }
    alone = core.Jaxpr(
        (),
        list(given),
        equation.outvars,
        [equation],
        jaxpr.effects,
        debug_info=jaxpr.debug_info.with_unknown_names(),
    )
    return core.jaxpr_as_fun(core.ClosedJaxpr(alone, ()))(*given.values())


def _blame(equation: Any, out: Any, ins: Sequence[Any], guilty: Sequence[str | None]) -> str | None:
    """Whatever is to blame for an input, or else the operation itself."""
    if not _is_bad(out):
        return None
    inherited = next((blame for blame in guilty if blame is not None), None)
    made = f"{_example_of(out)} made of finite numbers by {equation.primitive.name}"
    return inherited or f"{made} at {summarize(equation.source_info)}"


def _example_of(leaf: Any) -> float:
    numbers = np.asarray(leaf, np.float64)
    return float(numbers[~np.isfinite(numbers)][0])
