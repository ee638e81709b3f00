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
import numpy as np
from jax import Array

from jloss import _epoch
from jloss import checkpoint as checkpoints
from jloss._batches import Arrays, Batches, said, source, spec, stacked
from jloss._optional import optional
from jloss._traced_fit import traced_fit, tracing
from jloss.average import Statistic
from jloss.checkpoint import Folder, Row, Run
from jloss.objective import Objective, call
from jloss.update import (
    State,
    all_finite,
    copied,
    finite_now,
    is_convolutional,
    step,
    steps,
    tried_and_bad,
)

Callback = Callable[[State, Row], bool | None]

# Beyond so many parameters an update takes longer than its dispatch, and stacking saves nothing.
_SMALL_MODEL = 100_000


class NotFiniteError(FloatingPointError):
    """Too many updates of a fit were not finite, or its params. It carries what was reached.

    Attributes:
      state: after the last update that was made; what was skipped did not touch its params.
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
    terms_on: Any = None,
    epochs: int = 100,
    batch_size: int = 32,
    microbatches: int = 1,
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
    update whose loss or gradient is not finite is skipped and counted in ``state.skipped``.

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
        targets)``, or what else the objective wants. Or batches, in their own order: a list of
        pairs or mappings, whatever else can be iterated anew for each epoch (a loader of grain,
        torch or tensorflow), or a function
        ``train(epoch)`` that returns something to be iterated, which makes an endless iterator an
        epoch of 500: ``lambda epoch: itertools.islice(endless, 500)``. To be resumed exactly, they
        must be the same whenever they are asked for.
      validation: the same for data that are judged but never trained on. Where it is given, the
        params and the model state of the epoch with the smallest validation loss come back; the
        rest of the state (optimizer, counts) is that of the last epoch.
      metrics: functions like the objective, by name, to be judged beside it. They may return any
        `Statistic`.
      terms_on: a batch on which the norm and the share of each term's gradient are measured after
        each epoch; it costs a backward pass for each term (see `term_gradients`).
      epochs: passes over ``train`` at most, those of a resumed fit included.
      batch_size: rows per update, and per step of an evaluation. Batches have their own.
      microbatches: the rows of an update are cut into so many equal parts, or the next number that
        divides them, of which only one at a time is in memory; see `step`.
      key: orders the rows; ``jax.random.key(0)`` if not given.
      patience: stop after so many epochs without a smaller validation loss.
      max_bad_steps: end with an error if more updates than this were skipped. Those that only met
        too large a loss scale do not count.
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
      training), where validation is given ``validation_loss`` and ``validation_NAME``, and where
      it or metrics are given and train are arrays ``train_loss`` and ``train_NAME``, with the
      params at the epoch's end as well. Of several terms ``loss_TERM`` and so on are there as
      well, and ``norm_TERM``, ``share_TERM`` where they are asked for.

    Raises:
      ValueError: data without rows or of differing lengths, a batch that the objective refuses
        after others, a number out of its range, a checkpoint that is damaged or of another model,
        optimizer, setting or version, or a folder for them that another process is using.
      TypeError: data that are not numbers, or a state that is none.
      NotFiniteError: no update of the first epoch was finite, or more than ``max_bad_steps``
        were not, or the optimizer made params that are not. It has ``state`` and ``history``.
      RuntimeError: a callback failed; what it raised is the cause.
      OSError: a checkpoint could not be written; those before it are kept.
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
    ...     return jloss.fit(objective, state, (x, 2 * x), epochs=10)[1]["loss"][-1]
    >>> jloss.sweep(rate, rate=jnp.array([0.01, 0.1, 1.0])).argmin()
    {'rate': Array(0.1, dtype=float32)}
    """
    _check_numbers(
        epochs=epochs,
        batch_size=batch_size,
        microbatches=microbatches,
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
    judged = _judged(data, metrics)
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
        epoch = partial(
            _traced_epoch,
            objective,
            judges,
            names,
            batch_size,
            microbatches,
            key,
            data["train"],
            judged,
            terms_on,
        )
        return traced_fit(epoch, state, epochs, patience)
    run = Run(copied(state), tried_and_bad(state))
    setting = {
        "key": jax.random.key_data(key),
        "batch_size": batch_size,
        "microbatches": microbatches,
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
            sizes = batch_size, microbatches
            _train(objective, run, data["train"], sizes, key, folder, max_bad_steps)
            found = {
                name: _evaluation(judges, run, part, batch_size) for name, part in judged.items()
            }
            more = _contributions(objective, run.state, terms_on, _epoch.contributions)
            row = _row(run.total, names, found, more)
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
    microbatches: int,
    key: Array,
    data: Any,
    judged: dict[str, Any],
    terms_on: Any,
    state: State,
) -> tuple[State, dict[str, Array]]:
    """An epoch and its entries of the history, as a part of a larger program."""
    # Not the compiled ones, whose cache would keep what is being traced.
    shuffled, train, evaluate, values, contributions = map(
        inspect.unwrap,
        (_epoch.shuffled, _epoch.train, _epoch.evaluate, _epoch.values, _epoch.contributions),
    )
    order = shuffled(key, state.step, data.rows)
    state, total = train(objective, batch_size, microbatches, state, data.tree, order)
    found = {
        name: evaluate(judges, batch_size, state.params, _epoch.context(state), part.tree)
        for name, part in judged.items()
    }
    more = _contributions(objective, state, terms_on, contributions)
    return state, _entries(total, names, found, values) | more


def _contributions(
    objective: Objective, state: State, terms_on: Any, contributions: Callable[..., Any]
) -> dict[str, Array]:
    if terms_on is None:
        return {}
    return contributions(objective, state.params, _epoch.context(state), terms_on)


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
    sizes: tuple[int, int],
    key: Array,
    folder: Folder | None,
    max_bad_steps: int | None,
) -> None:
    """The updates of an epoch that are left to do."""
    every = folder.every if folder else None
    if isinstance(data, Arrays):
        together = 1 if is_convolutional(run.state) else every
        pieces = _pieces_of_arrays(objective, data, sizes, key, run, together)
    else:
        pieces = _pieces_of_batches(objective, data, sizes[1], run, every)
    batches: Iterable[Any] = ()
    for updates, piece, batches in pieces:
        # Not right after the piece before, which may turn out to be the last one.
        if folder and every and run.updates % every == 0 and folder.due(run):
            _check_params(run)
            folder.save(run)
        before = run.total
        run.state, total = piece(run.state)
        run.updates, run.total = run.updates + updates, _epoch.added(run.total, total)
        jax.block_until_ready(before)  # lest the batches of many pieces wait on the device
        if max_bad_steps is not None:
            _check_bad(objective, run, batches, max_bad_steps)
    if not run.rows:
        _check_bad(objective, run, batches)
    _check_params(run)


# Updates of a piece, the function that makes them, and batches among which a bad one may be.
Piece = tuple[int, Callable[[State], tuple[State, Any]], Iterable[Any]]


def _pieces_of_arrays(
    objective: Objective,
    data: Arrays,
    sizes: tuple[int, int],
    key: Array,
    run: Run,
    every: int | None,
) -> Iterator[Piece]:
    """A whole epoch at once, or ``every`` so many updates."""
    batch_size, start = sizes[0], run.updates
    order = _epoch.shuffled(key, run.state.step - start, data.rows)
    updates = -(-data.rows // batch_size)
    while start < updates:
        stop = min(updates, (start // every + 1) * every) if every else updates
        rows = None if every is None else min(data.rows, stop * batch_size) - start * batch_size
        piece = partial(
            _epoch.train, objective, *sizes, data=data.tree, order=order, start=start, rows=rows
        )
        yield stop - start, piece, data.slices(batch_size)
        start = stop


def _pieces_of_batches(
    objective: Objective, data: Batches, microbatches: int, run: Run, every: int | None
) -> Iterator[Piece]:
    """Single batches, or for a small model stacks of them."""
    epoch, first = len(run.rows), {}

    def piece(state: State, *, group: list[Any], place: int) -> tuple[State, Statistic]:
        try:
            sizes = _rows(first), microbatches
            parts = 1 if microbatches == 1 else _epoch.cut(_rows(spec(group[0])), *sizes)
            if len(group) == 1:
                return step(objective, microbatches=parts)(state, group[0])
            state, found = steps(objective, microbatches=parts)(state, stacked(group))
            return state, _epoch.summed(found)
        except (TypeError, ValueError) as error:
            if spec(group[0]) == first:
                raise
            raise ValueError(
                f"fit: the objective refuses batch {place} of epoch {epoch}, which has "
                f"{said(spec(group[0]))}, while the batches before had {said(first)}: {error}"
            ) from error

    place = run.updates
    stack = _is_small(run.state) and not is_convolutional(run.state)
    for group in data.groups(epoch, start=place, stop_at=every, stack=stack):
        first = first or spec(group[0])
        yield len(group), partial(piece, group=group, place=place), group
        place += len(group)


def _rows(batch: dict[str, tuple[tuple[int, ...], str]]) -> int:
    """How many a batch of these shapes has."""
    return next(iter(batch.values()))[0][0]


def _is_small(state: State) -> bool:
    return sum(leaf.size for leaf in jax.tree.leaves(state.params)) <= _SMALL_MODEL


def _evaluation(
    judges: tuple[Objective, ...], run: Run, data: Arrays | Batches, batch_size: int
) -> tuple[Statistic, ...]:
    """What objective and metrics say of a whole data set, whatever its size."""
    model = run.state.params, _epoch.context(run.state)
    if isinstance(data, Arrays):
        return _epoch.evaluate(judges, batch_size, *model, data.tree)
    total: Any = None
    for group in data.groups(len(run.rows), stack=_is_small(run.state)):
        found = _epoch.judge(judges, *model, stacked(group))
        jax.block_until_ready(total)
        total = _epoch.added(total, found)
    return total


# What goes into a fit and what comes out.


def _check_numbers(**numbers: int | None) -> None:
    for name, number in numbers.items():
        least = 0 if name == "max_bad_steps" else 1
        if number is not None and (number < least or number != int(number)):
            raise ValueError(
                f"fit: {name} must be a whole number of at least {least}, not {number}"
            )


def _judged(
    data: Mapping[str, Arrays | Batches], metrics: Mapping[str, Objective] | None
) -> dict[str, Any]:
    """The data that are gone through once more after an epoch, with the params at its end."""
    # Without anything to compare it to, the loss while training says it all, and costs nothing.
    if not metrics and "validation" not in data:
        return {}
    # Batches may be costly to come by.
    return {
        name: part for name, part in data.items() if name != "train" or isinstance(part, Arrays)
    }


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
    total: Statistic,
    names: tuple[str, ...],
    judged: Mapping[str, tuple[Statistic, ...]],
    more: dict[str, Array],
) -> Row:
    # One transfer for all of them: each would wait for the device on its own.
    entries = jax.device_get(_entries(total, names, judged, _epoch.values) | more)
    return {name: float(value) for name, value in entries.items()}


def _history(run: Run) -> dict[str, np.ndarray]:
    return {name: np.array([row[name] for row in run.rows]) for name in (run.rows or [{}])[0]}


def _check_bad(
    objective: Objective, run: Run, batches: Iterable[Any], max_bad_steps: int | None = None
) -> None:
    """Ends a fit that has skipped too many updates: all of them, if no number is given."""
    now = tried_and_bad(run.state)
    tried, skipped = (count - before for count, before in zip(now, run.before, strict=True))
    if skipped <= (tried - 1 if max_bad_steps is None else max_bad_steps):
        return
    allowed = "" if max_bad_steps is None else f" (max_bad_steps={max_bad_steps})"
    raise NotFiniteError(
        f"fit: {skipped} of {tried} updates were skipped{allowed}, as their loss or gradient was "
        "not finite. "
        f"{_explained(objective, run.state, batches)} Hide bad places by a mask `where`, or look "
        "at the scale of inputs and targets",
        run.state,
        _history(run),
    )


def _check_params(run: Run) -> None:
    """Ends a fit, before it is judged or written, if its optimizer overflowed."""
    if not finite_now(run.state.params):
        raise NotFiniteError(
            "fit: the optimizer made params that are not finite of a loss and a gradient that "
            "were: look at its learning rate",
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
    return "With the params that were reached, these batches are finite."


@partial(jax.jit, static_argnames=("objective",))
def _is_finite(objective: Objective, params: Any, batch: Any, context: Mapping[str, Any]) -> Array:
    """Whether value and gradient are."""

    def value(params: Any) -> Array:
        return call(objective, params, batch, **context)[0].value

    return all_finite(jax.value_and_grad(value)(params))


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
