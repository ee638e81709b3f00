"""The fit: predict, compare, update, and judge after each pass over the data. Knows no loss."""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jloss._optional import optional
from jloss.average import Average
from jloss.objective import Objective, call
from jloss.update import State, advance, copied

Row = dict[str, float]


def fit(
    objective: Objective,
    state: State,
    train: Any,
    *,
    validation: Any = None,
    metrics: Mapping[str, Objective] | None = None,
    epochs: int = 100,
    batch_size: int = 32,
    key: Array | None = None,
    patience: int | None = None,
    callback: Callable[[State, Row], bool | None] | None = None,
    progress: bool = False,
) -> tuple[State, dict[str, np.ndarray]]:
    """Predict, compare, update: passes over the data in random order, judged after each of them.

    Every row is used once an epoch (the last batch may be smaller). Averages over batches are
    merged, so that every reported mean is exact whatever the batches, masks and weights. An
    update that is not finite is skipped and counted in ``state.skipped``.

    Args:
      objective: ``objective(params, batch) -> Average``; what is minimised.
      state: from `init` or from an earlier `fit`, which is continued. It stays valid.
      train: a pytree of arrays with a common leading axis, from which batches are taken: ``(inputs,
        targets)``, or what else the objective wants.
      validation: the same for data that are judged but never trained on. Where it is given, the
        params of the epoch with the smallest validation loss come back; the rest of the state
        (optimizer, counts) is that of the last epoch.
      metrics: functions like the objective, by name, to be judged beside it.
      epochs: passes over ``train`` at most.
      batch_size: rows per update, and per step of an evaluation.
      key: orders the rows; ``jax.random.key(0)`` if not given.
      patience: stop after so many epochs without a smaller validation loss.
      callback: ``callback(state, row)`` after each epoch, with a copy of the state that may be
        kept and the epoch's entries of the history; True stops.
      progress: show a bar (needs tqdm).

    Returns:
      The trained state and the history: arrays with one entry per epoch, ``loss`` (the mean while
      training), ``train_loss`` and ``train_NAME`` (with the params at the epoch's end), and, where
      validation is given, ``validation_loss`` and ``validation_NAME``.

    Raises:
      ValueError: data without rows or of differing lengths, or a number out of its range.
      TypeError: data that are not numbers, or a state that is none.
      FloatingPointError: no update of the first epoch was finite.
      ImportError: ``progress`` without tqdm.

    >>> line = lambda params, inputs: params * inputs
    >>> objective = jloss.objective(line, jloss.squared_error)
    >>> state = jloss.init(jnp.array(0.0), optax.sgd(0.1))
    >>> x = jnp.array([1.0, 2.0, 3.0])
    >>> state, history = jloss.fit(objective, state, (x, 2 * x), epochs=10, batch_size=1)
    >>> round(float(state.params), 4), history["loss"].shape
    (2.0, (10,))
    """
    _check_numbers(epochs=epochs, batch_size=batch_size, patience=patience)
    if not isinstance(state, State):
        raise TypeError(
            f"fit: state is {type(state).__name__}; make one by jloss.init(params, optimizer)"
        )
    if patience is not None and validation is None:
        raise ValueError("fit: patience needs validation data, whose loss it waits for")
    parts = {"train": _data("train", train)}
    if validation is not None:
        parts["validation"] = _data("validation", validation)
    names, judges = _judges(objective, metrics)
    key = jax.random.key(0) if key is None else key
    before, state = state, copied(state)
    rows, best, best_params = [], (-1, math.inf), None

    with _shown(epochs, progress) as show:
        for epoch in range(epochs):
            state, loss = _epoch(objective, batch_size, state, parts["train"], key)
            judged = {
                name: _evaluate(judges, batch_size, state.params, parts[name]) for name in parts
            }
            row = _row(loss, names, judged)
            rows.append(row)
            if epoch == 0:
                _check_progress(before, state, row)
            show(row)
            judgement = row.get("validation_loss", math.nan)
            if math.isfinite(judgement) and judgement < best[1]:
                best, best_params = (epoch, judgement), copied(state.params)
            if callback is not None and callback(copied(state), dict(row)):
                break
            if patience is not None and epoch - best[0] >= patience:
                break

    if best_params is not None:
        state = replace(state, params=best_params)
    elif validation is not None:
        warnings.warn(
            f"fit: the validation loss was finite in none of {len(rows)} epochs; "
            "the params are those of the last one",
            RuntimeWarning,
            stacklevel=2,
        )
    return state, {name: np.array([row[name] for row in rows]) for name in rows[0]}


# The programs: compiled once per objective, optimizer and shapes, for all fits of a process.


@partial(jax.jit, static_argnames=("objective", "batch_size"), donate_argnames=("state",))
def _epoch(
    objective: Objective, batch_size: int, state: State, data: Any, key: Array
) -> tuple[State, Array]:
    """One pass over the data in an order of its own, and the mean loss met on the way."""
    # By the step, not by the epoch, so that a fit in two parts sees what one fit sees.
    key = jax.random.fold_in(key, state.step)
    order = jax.random.permutation(key, _rows(data))

    def update(state: State, chosen: Array) -> tuple[State, Average]:
        return advance(objective, state, _take(data, chosen))

    state, average = _over_batches(update, state, order, batch_size)
    return state, average.value


@partial(jax.jit, static_argnames=("judges", "batch_size"))
def _evaluate(
    judges: tuple[Objective, ...], batch_size: int, params: Any, data: Any
) -> tuple[Array, ...]:
    """The exact means of objective and metrics over all rows."""

    # In batches of the training's size: a loss that looks at the whole batch depends on it.
    def judged(_: None, chosen: Array) -> tuple[None, tuple[Average, ...]]:
        batch = _take(data, chosen)
        return None, tuple(call(judge, params, batch)[0] for judge in judges)

    _, averages = _over_batches(judged, None, jnp.arange(_rows(data)), batch_size)
    return tuple(average.value for average in averages)


def _over_batches(
    body: Callable[[Any, Array], tuple[Any, Any]], carry: Any, order: Array, batch_size: int
) -> tuple[Any, Any]:
    """Carries ``body`` over the batches of ``order``, a smaller last one included; adds up."""
    batch_size = min(batch_size, len(order))
    full = len(order) // batch_size * batch_size
    carry, parts = lax.scan(body, carry, order[:full].reshape(-1, batch_size))
    total = jax.tree.map(lambda part: jnp.sum(part, axis=0), parts)
    if full < len(order):
        carry, rest = body(carry, order[full:])
        total = jax.tree.map(jnp.add, total, rest)
    return carry, total


def _take(data: Any, chosen: Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[chosen], data)


def _rows(data: Any) -> int:
    return len(jax.tree.leaves(data)[0])


# What goes into a fit and what comes out.


def _check_numbers(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and (number < 1 or number != int(number)):
            raise ValueError(f"fit: {name} must be a whole number of at least 1, not {number}")


def _data(name: str, data: Any) -> Any:
    """The arrays of ``data`` on the device, all with the same number of rows, at least one."""
    rows: dict[str, int] = {}

    def checked(path: tuple[Any, ...], leaf: Any) -> Array:
        place = name + jax.tree_util.keystr(path)
        array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
        if isinstance(array, np.ndarray) and array.dtype.kind in "OSUMm":
            raise TypeError(
                f"fit: {place} holds {array.dtype}, not numbers; encode it first "
                "(classes as integers 0, 1, 2, ...)"
            )
        if array.ndim == 0:
            raise ValueError(
                f"fit: {place} is a single number; every array of {name} needs a leading axis of "
                "rows (lists of numbers become arrays by jnp.array)"
            )
        rows[place] = len(array)
        return jax.device_put(array)

    arrays = jax.tree_util.tree_map_with_path(checked, data)
    if len(set(rows.values())) > 1:
        found = ", ".join(f"{place} has {count}" for place, count in rows.items())
        raise ValueError(f"fit: the arrays of {name} must have the same number of rows: {found}")
    if not rows or 0 in rows.values():
        raise ValueError(f"fit: {name} has no rows; at least one is needed")
    return arrays


def _judges(
    objective: Objective, metrics: Mapping[str, Objective] | None
) -> tuple[tuple[str, ...], tuple[Objective, ...]]:
    metrics = metrics or {}
    if "loss" in metrics:
        raise ValueError("fit: a metric cannot be named loss, which is the objective's own entry")
    return ("loss", *metrics), (objective, *metrics.values())


def _row(loss: Array, names: tuple[str, ...], judged: Mapping[str, tuple[Array, ...]]) -> Row:
    row = {"loss": loss}
    for position, name in enumerate(names):
        row |= {f"{part}_{name}": values[position] for part, values in judged.items()}
    # One transfer for all of them: each would wait for the device on its own.
    return {name: float(value) for name, value in jax.device_get(row).items()}


def _check_progress(before: State, after: State, row: Row) -> None:
    tried = int(after.step) - int(before.step)
    if int(after.skipped) - int(before.skipped) < tried:
        return
    culprit = "gradient or update" if math.isfinite(row["loss"]) else "loss"
    raise FloatingPointError(
        f"fit: no update was made: in all {tried} batches of the first epoch the {culprit} was "
        "not finite. Look for NaN or infinity in params, inputs and targets, and at the scale of "
        "both, or hide bad places by a mask `where`"
    )


@contextlib.contextmanager
def _shown(epochs: int, progress: bool) -> Iterator[Callable[[Row], None]]:
    """A function that shows an epoch's row: nothing, or a bar that is closed whatever happens."""
    if not progress:
        yield lambda row: None
        return
    with optional("tqdm", "train").tqdm(total=epochs, unit="epoch") as bar:

        def show(row: Row) -> None:
            bar.set_postfix({name: f"{value:.4g}" for name, value in row.items()}, refresh=False)
            bar.update()

        yield show
