"""The fit: predict, compare, update, and judge after each pass over the data. Knows no loss."""

import contextlib
import inspect
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from jloss import checkpoint as checkpoints
from jloss._batches import Arrays, Batches, said, source, spec, stacked
from jloss._optional import optional
from jloss._traced_fit import traced_fit, tracing
from jloss.average import Statistic, Terms
from jloss.checkpoint import Folder, Row, Run
from jloss.objective import Objective, call
from jloss.update import State, advance, copied, step

Callback = Callable[[State, Row], bool | None]

# Beyond so many parameters an update takes longer than its dispatch, and stacking saves nothing.
_SMALL_MODEL = 100_000


class NotFiniteError(FloatingPointError):
    """Too many updates of a fit were not finite. It carries what was reached before.

    Attributes:
      state: after the last good update; what was skipped did not touch its params.
      history: of the epochs that were finished.
    """

    def __init__(self, message: str, state: State, history: dict[str, np.ndarray]):
        super().__init__(message)
        self.state, self.history = state, history


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
    max_bad_steps: int | None = None,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int | None = None,
    callback: Callback | Sequence[Callback] = (),
    progress: bool = False,
) -> tuple[State, dict[str, Any]]:
    """Predict, compare, update: passes over the data in random order, judged after each of them.

    Every row is used once an epoch (the last batch may be smaller). Averages over batches are
    merged, so that every reported mean is exact whatever the batches, masks and weights. An
    update that is not finite is skipped and counted in ``state.skipped``.

    With a folder for checkpoints a fit that was killed goes on, called again in the same way, as
    if nothing had happened: bit for bit, in the order of the rows, the keys, the best params and
    the history. Only the callbacks of its last epoch may be repeated.

    Within `sweep`, or any transformation of JAX, a fit is one program: learning rates, seeds,
    hyper-parameters and data may be traced, and many fits are trained at once, each stopped by
    itself. It raises no `NotFiniteError` there, and its history has NaN after the stop.

    Args:
      objective: ``objective(params, batch) -> Average``; what is minimised.
      state: from `init` or from an earlier `fit`, which is continued. It stays valid.
      train: a pytree of arrays with a common leading axis, from which batches are taken: ``(inputs,
        targets)``, or what else the objective wants. Or batches, in their own order: anything that
        can be iterated anew for each epoch (a loader of grain, torch or tensorflow), or a function
        ``train(epoch)`` that returns something to be iterated, which makes an endless iterator an
        epoch of 500: ``lambda epoch: itertools.islice(endless, 500)``. To be resumed exactly, they
        must be the same whenever they are asked for.
      validation: the same for data that are judged but never trained on. Where it is given, the
        params and the model state of the epoch with the smallest validation loss come back; the
        rest of the state (optimizer, counts) is that of the last epoch.
      metrics: functions like the objective, by name, to be judged beside it. They may return any
        `Statistic`.
      epochs: passes over ``train`` at most, those of a resumed fit included.
      batch_size: rows per update, and per step of an evaluation. Batches have their own.
      key: orders the rows; ``jax.random.key(0)`` if not given.
      patience: stop after so many epochs without a smaller validation loss.
      max_bad_steps: end with an error if more updates than this were skipped.
      checkpoint: a folder that is written to in the background, each checkpoint whole or not at
        all, of which the last two are kept. If it holds any, the fit goes on from the last one, and
        ``state`` only says how its arrays are shaped and placed; a fit that had ended comes back as
        it was. Needs orbax.
      checkpoint_every: updates between two checkpoints, which may fall inside an epoch; if not
        given, one is written after each epoch. The last epoch is always kept.
      callback: ``callback(state, row)`` after each epoch, with a copy of the state that may be
        kept and the epoch's entries of the history; True stops. Or several of them.
      progress: show a bar (needs tqdm).

    Returns:
      The trained state and the history: arrays with one entry per epoch, ``loss`` (the mean while
      training), ``train_loss`` and ``train_NAME`` (with the params at the epoch's end, where train
      are arrays), and, where validation is given, ``validation_loss`` and ``validation_NAME``. Of
      several terms ``loss_TERM`` and so on are there as well.

    Raises:
      ValueError: data without rows or of differing lengths, a batch that the objective refuses
        after others, a number out of its range, or a checkpoint that is damaged or of another
        model, optimizer, setting or version.
      TypeError: data that are not numbers, or a state that is none.
      NotFiniteError: no update of the first epoch was finite, or more than ``max_bad_steps``
        were not. It has ``state`` and ``history``.
      RuntimeError: a callback failed; what it raised is the cause.
      ImportError: ``progress`` without tqdm, ``checkpoint`` without orbax.

    >>> line = lambda params, inputs: params * inputs
    >>> objective = jloss.objective(line, jloss.squared_error)
    >>> state = jloss.init(jnp.array(0.0), optax.sgd(0.1))
    >>> x = jnp.array([1.0, 2.0, 3.0])
    >>> state, history = jloss.fit(objective, state, (x, 2 * x), epochs=10, batch_size=1)
    >>> round(float(state.params), 4), history["loss"].shape
    (2.0, (10,))
    >>> def rate(rate):
    ...     state = jloss.init(jnp.array(0.0), optax.sgd(rate))
    ...     return jloss.fit(objective, state, (x, 2 * x), epochs=10)[1]["train_loss"][-1]
    >>> jloss.sweep(rate, rate=jnp.array([0.01, 0.1, 1.0])).argmin()
    {'rate': Array(0.1, dtype=float32)}
    """
    _check_numbers(
        epochs=epochs,
        batch_size=batch_size,
        patience=patience,
        checkpoint_every=checkpoint_every,
        max_bad_steps=max_bad_steps,
    )
    if not isinstance(state, State):
        raise TypeError(
            f"fit: state is {type(state).__name__}; make one by jloss.init(params, optimizer)"
        )
    if patience is not None and validation is None:
        raise ValueError("fit: patience needs validation data, whose loss it waits for")
    if checkpoint_every is not None and checkpoint is None:
        raise ValueError("fit: checkpoint_every needs checkpoint, the folder to write to")
    data = {"train": source("train", train, once=epochs == 1)}
    if validation is not None:
        data["validation"] = source("validation", validation)
    # Batches may be costly to come by: what is known of them is the loss while training.
    judged = [name for name in data if name != "train" or isinstance(data[name], Arrays)]
    names, judges = _judges(objective, metrics)
    key = jax.random.key(0) if key is None else key
    callbacks = [callback] if callable(callback) else list(callback)
    if tracing():
        _check_traceable(
            data,
            checkpoint=checkpoint,
            callback=callbacks,
            max_bad_steps=max_bad_steps is not None,
            progress=progress,
        )
        epoch = partial(_traced_epoch, objective, judges, names, batch_size, key, data)
        return traced_fit(epoch, state, epochs, patience)
    run = Run(copied(state), (int(state.step), int(state.skipped)))
    setting = {
        "key": jax.random.key_data(key),
        "batch_size": batch_size,
        "train": data["train"].said,
    }

    with (
        checkpoints.folder(checkpoint, state, checkpoint_every, setting) as folder,
        _shown(epochs, progress) as show,
    ):
        run = folder.last(run) if folder else run
        for row in run.rows:
            show(row)
        while len(run.rows) < epochs and not run.stopped:
            _train(objective, run, data["train"], batch_size, key, folder, max_bad_steps)
            found = [_evaluation(judges, run, data[name], batch_size) for name in judged]
            row = _row(run.total, names, dict(zip(judged, found, strict=True)))
            run.rows.append(row)
            run.updates, run.total = 0, None
            show(row)
            judgement = row.get("validation_loss", math.nan)
            if math.isfinite(judgement) and judgement < run.best[1]:
                run.best = len(run.rows) - 1, judgement
                run.best_model = copied((run.state.params, run.state.model_state))
            waited = len(run.rows) - 1 - run.best[0]
            run.stopped = _called(callbacks, run) or (patience is not None and waited >= patience)
            if folder and (folder.due(run) or run.stopped or len(run.rows) == epochs):
                folder.save(run)

    state = run.state
    if run.best_model is not None:
        params, model_state = run.best_model
        state = replace(state, params=params, model_state=model_state)
    elif validation is not None:
        warnings.warn(
            f"fit: the validation loss was finite in none of {len(run.rows)} epochs; "
            "the params are those of the last one",
            RuntimeWarning,
            stacklevel=2,
        )
    return state, _history(run)


def _traced_epoch(
    objective: Objective,
    judges: tuple[Objective, ...],
    names: tuple[str, ...],
    batch_size: int,
    key: Array,
    data: dict[str, Any],
    state: State,
) -> tuple[State, dict[str, Array]]:
    """An epoch and its entries of the history, as a part of a larger program."""
    # Not the compiled ones, whose cache would keep what is being traced.
    epoch, evaluate = map(inspect.unwrap, (_epoch, _evaluate))
    state, total = epoch(objective, batch_size, state, data["train"].tree, key)
    judged = {
        name: evaluate(judges, batch_size, state.params, _context(state), part.tree)
        for name, part in data.items()
    }
    return state, _entries(total, names, judged, inspect.unwrap(_values))


def _check_traceable(data: Mapping[str, Any], **between_epochs: Any) -> None:
    streamed = [name for name, part in data.items() if not isinstance(part, Arrays)]
    if streamed:
        raise ValueError(
            f"fit: within a sweep or another transformation {' and '.join(streamed)} must be "
            "arrays, not batches that are read while it runs"
        )
    given = [name for name, value in between_epochs.items() if value]
    if given:
        raise ValueError(
            f"fit: within a sweep or another transformation there can be no {', '.join(given)}: "
            "all epochs are one program"
        )


# One epoch, in pieces that each are one dispatch.


def _train(
    objective: Objective,
    run: Run,
    data: Arrays | Batches,
    batch_size: int,
    key: Array,
    folder: Folder | None,
    max_bad_steps: int | None,
) -> None:
    """The updates of an epoch that are left to do."""
    every = folder.every if folder else None
    if isinstance(data, Arrays):
        together = 1 if _is_convolutional(run.state) else every
        pieces = _pieces_of_arrays(objective, data, batch_size, key, run.updates, together)
    else:
        pieces = _pieces_of_batches(objective, data, run, every)
    batches: Iterable[Any] = ()
    for updates, piece, batches in pieces:
        # Not right after the piece before, which may turn out to be the last one.
        if folder and every and run.updates % every == 0 and folder.due(run):
            folder.save(run)
        before = run.total
        run.state, total = piece(run.state)
        run.updates, run.total = run.updates + updates, _added(run.total, total)
        jax.block_until_ready(before)  # lest the batches of many pieces wait on the device
        if max_bad_steps is not None:
            _check_bad(objective, run, batches, max_bad_steps)
    if not run.rows:
        _check_bad(objective, run, batches)


# Updates of a piece, the function that makes them, and batches among which a bad one may be.
Piece = tuple[int, Callable[[State], tuple[State, Any]], Iterable[Any]]


def _pieces_of_arrays(
    objective: Objective, data: Arrays, batch_size: int, key: Array, start: int, every: int | None
) -> Iterator[Piece]:
    """A whole epoch at once, or ``every`` so many updates."""
    updates = -(-data.rows // batch_size)
    while start < updates:
        stop = min(updates, (start // every + 1) * every) if every else updates
        rows = None if every is None else min(data.rows, stop * batch_size) - start * batch_size
        piece = partial(
            _epoch, objective, batch_size, data=data.tree, key=key, start=start, rows=rows
        )
        yield stop - start, piece, data.slices(batch_size)
        start = stop


def _pieces_of_batches(
    objective: Objective, data: Batches, run: Run, every: int | None
) -> Iterator[Piece]:
    """Single batches, or for a small model stacks of them."""
    update, epoch, first = step(objective), len(run.rows), {}

    def piece(state: State, *, group: list[Any], place: int) -> tuple[State, Statistic]:
        try:
            if len(group) == 1:
                return update(state, group[0])
            return _updates(objective, state, stacked(group))
        except (TypeError, ValueError) as error:
            if spec(group[0]) == first:
                raise
            raise ValueError(
                f"fit: the objective refuses batch {place} of epoch {epoch}, which has "
                f"{said(spec(group[0]))}, while the batches before had {said(first)}: {error}"
            ) from error

    place = run.updates
    stack = _is_small(run.state) and not _is_convolutional(run.state)
    for group in data.groups(epoch, start=place, stop_at=every, stack=stack):
        first = first or spec(group[0])
        yield len(group), partial(piece, group=group, place=place), group
        place += len(group)


def _is_small(state: State) -> bool:
    return sum(leaf.size for leaf in jax.tree.leaves(state.params)) <= _SMALL_MODEL


def _is_convolutional(state: State) -> bool:
    """Whether updates are dispatched one by one, since a kernel has three axes or more.

    Within a loop XLA's processor backend takes six times as long for the gradient of a convolution.
    """
    kernels = any(leaf.ndim > 2 for leaf in jax.tree.leaves(state.params))
    return kernels and jax.default_backend() == "cpu"


def _evaluation(
    judges: tuple[Objective, ...], run: Run, data: Arrays | Batches, batch_size: int
) -> tuple[Statistic, ...]:
    """What objective and metrics say of a whole data set, whatever its size."""
    model = run.state.params, _context(run.state)
    if isinstance(data, Arrays):
        return _evaluate(judges, batch_size, *model, data.tree)
    total: Any = None
    for group in data.groups(len(run.rows), stack=_is_small(run.state)):
        found = _judge(judges, *model, stacked(group))
        jax.block_until_ready(total)
        total = _added(total, found)
    return total


# The programs: compiled once per objective, optimizer and shapes, for all fits of a process.


@partial(jax.jit, static_argnames=("objective", "batch_size", "rows"), donate_argnames=("state",))
def _epoch(
    objective: Objective,
    batch_size: int,
    state: State,
    data: Any,
    key: Array,
    start: ArrayLike = 0,
    rows: int | None = None,
) -> tuple[State, Statistic]:
    """One pass over the data in an order of its own, and the sum of the losses met on the way.

    Or of that pass only the updates from ``start`` on, for so many rows.
    """
    # By the step, not by the epoch, so that a fit in two parts sees what one fit sees.
    key = jax.random.fold_in(key, state.step - start)
    order = _shuffled(key, Arrays(data).rows)
    if rows is not None:
        order = lax.dynamic_slice_in_dim(order, start * batch_size, rows)

    def update(state: State, chosen: Array) -> tuple[State, Statistic]:
        return advance(objective, state, _take(data, chosen))

    return _over_batches(update, state, order, batch_size)


@partial(jax.jit, static_argnames=("objective",), donate_argnames=("state",))
def _updates(objective: Objective, state: State, batches: Any) -> tuple[State, Statistic]:
    """The updates of several batches, which lie along the leading axis."""
    state, parts = lax.scan(partial(advance, objective), state, batches)
    return state, _summed(parts)


@partial(jax.jit, static_argnames=("judges", "batch_size"))
def _evaluate(
    judges: tuple[Objective, ...], batch_size: int, params: Any, context: Any, data: Any
) -> tuple[Statistic, ...]:
    """The statistics of objective and metrics over all rows."""

    # In batches of the training's size: a loss that looks at the whole batch depends on it.
    def judged(_: None, chosen: Array) -> tuple[None, tuple[Statistic, ...]]:
        return None, _judgements(judges, params, context, _take(data, chosen))

    return _over_batches(judged, None, jnp.arange(Arrays(data).rows), batch_size)[1]


@partial(jax.jit, static_argnames=("judges",))
def _judge(
    judges: tuple[Objective, ...], params: Any, context: Any, batches: Any
) -> tuple[Statistic, ...]:
    """The same over several batches, which lie along the leading axis."""
    parts = lax.map(partial(_judgements, judges, params, context), batches)
    return _summed(parts)


def _context(state: State) -> dict[str, Any]:
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
    total = _summed(parts)
    if full < len(order):
        carry, rest = body(carry, order[full:])
        total = jax.tree.map(jnp.add, total, rest)
    return carry, total


def _shuffled(key: Array, rows: int) -> Array:
    """The numbers of the rows in random order.

    `jax.random.permutation` sorts pairs, which took a third of the time of many small fits at once;
    a draw and the place it belongs to in one number are sorted ten times as fast.
    """
    bits = max(1, (rows - 1).bit_length())
    if bits > 16:
        return jax.random.permutation(key, rows)
    order = places = jnp.arange(rows, dtype=jnp.uint32)
    # Twice, as draws cut to 32 - bits are sometimes equal, and then keep the order from before.
    for each in jax.random.split(key):
        draws = jax.random.bits(each, (rows,), jnp.uint32)
        order = order[jnp.sort((draws >> bits << bits) | places) & (2**bits - 1)]
    return order.astype(int)


def _summed(parts: Any) -> Any:
    """Statistics add up leaf by leaf."""
    return jax.tree.map(lambda part: jnp.sum(part, axis=0), parts)


def _take(data: Any, chosen: Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[chosen], data)


@jax.jit
def _sum(total: Any, part: Any) -> Any:
    return jax.tree.map(jnp.add, total, part)


def _added(total: Any, part: Any) -> Any:
    """The sum of both; of what a checkpoint kept of the first only the leaves are known."""
    if total is None:
        return part
    return _sum(jax.tree.unflatten(jax.tree.structure(part), jax.tree.leaves(total)), part)


@jax.jit
def _values(statistics: tuple[Statistic, ...]) -> tuple[dict[str, Array], ...]:
    """The value of each under the name "", and those of its terms under theirs."""

    def values(statistic: Statistic) -> dict[str, Array]:
        terms = statistic.averages if isinstance(statistic, Terms) else {}
        return {"": statistic.value} | {f"_{name}": terms[name].value for name in terms}

    return tuple(values(statistic) for statistic in statistics)


# What goes into a fit and what comes out.


def _check_numbers(**numbers: int | None) -> None:
    for name, number in numbers.items():
        least = 0 if name == "max_bad_steps" else 1
        if number is not None and (number < least or number != int(number)):
            raise ValueError(
                f"fit: {name} must be a whole number of at least {least}, not {number}"
            )


def _judges(
    objective: Objective, metrics: Mapping[str, Objective] | None
) -> tuple[tuple[str, ...], tuple[Objective, ...]]:
    metrics = metrics or {}
    if "loss" in metrics:
        raise ValueError("fit: a metric cannot be named loss, which is the objective's own entry")
    return ("loss", *metrics), (objective, *metrics.values())


def _entries(
    total: Statistic,
    names: tuple[str, ...],
    judged: Mapping[str, tuple[Statistic, ...]],
    values: Callable[[tuple[Statistic, ...]], tuple[dict[str, Array], ...]],
) -> dict[str, Array]:
    """An epoch's entries of the history, on the device."""
    statistics = {"loss": total}
    for position, name in enumerate(names):
        statistics |= {f"{part}_{name}": found[position] for part, found in judged.items()}
    entries = {
        name + term: value
        for name, found in zip(statistics, values(tuple(statistics.values())), strict=True)
        for term, value in found.items()
    }
    for name, value in entries.items():
        if value.size != 1:
            raise TypeError(f"fit: {name} has the shape {value.shape}; the history holds numbers")
    return entries


def _row(
    total: Statistic, names: tuple[str, ...], judged: Mapping[str, tuple[Statistic, ...]]
) -> Row:
    # One transfer for all of them: each would wait for the device on its own.
    entries = jax.device_get(_entries(total, names, judged, _values))
    return {name: float(value) for name, value in entries.items()}


def _history(run: Run) -> dict[str, np.ndarray]:
    return {name: np.array([row[name] for row in run.rows]) for name in (run.rows or [{}])[0]}


def _check_bad(
    objective: Objective, run: Run, batches: Iterable[Any], max_bad_steps: int | None = None
) -> None:
    """Ends a fit that has skipped too many updates: all of them, if no number is given."""
    now = run.state.step, run.state.skipped
    tried, skipped = (int(count) - before for count, before in zip(now, run.before, strict=True))
    if skipped <= (tried - 1 if max_bad_steps is None else max_bad_steps):
        return
    allowed = "" if max_bad_steps is None else f" (max_bad_steps={max_bad_steps})"
    raise NotFiniteError(
        f"fit: {skipped} of {tried} updates were skipped{allowed}, as they were not finite. "
        f"{_explained(objective, run.state, batches)} Hide bad places by a mask `where`, or look "
        "at the scale of inputs and targets",
        run.state,
        _history(run),
    )


def _explained(objective: Objective, state: State, batches: Iterable[Any]) -> str:
    """What `explain` says of the first batch that is bad."""
    from jloss.explanation import explain

    key = None if state.key is None else jax.random.fold_in(state.key, state.step)
    context = {"model_state": state.model_state, "key": key, "step": state.step}
    for batch in batches:
        if not _is_finite(objective, state.params, batch, context):
            return str(explain(objective, state.params, batch, **context))
    return "Loss and gradient are finite, so that it is the optimizer's update that is not."


@partial(jax.jit, static_argnames=("objective",))
def _is_finite(objective: Objective, params: Any, batch: Any, context: Mapping[str, Any]) -> Array:
    """Whether value and gradient are."""

    def value(params: Any) -> Array:
        return call(objective, params, batch, **context)[0].value

    found = jax.tree.leaves(jax.value_and_grad(value)(params))
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in found]))


def _called(callbacks: Sequence[Callback], run: Run) -> bool:
    """Whether any callback wants to stop; all of them are called."""
    stop = False
    for callback in callbacks:
        try:
            stop |= bool(callback(copied(run.state), dict(run.rows[-1])))
        except Exception as error:
            name = getattr(callback, "__qualname__", type(callback).__name__)
            raise RuntimeError(
                f"fit: the callback {name} failed after epoch {len(run.rows) - 1}: "
                f"{type(error).__name__}: {error}"
            ) from error
    return stop


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
