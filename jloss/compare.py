"""The experiment behind ``jloss compare``: one small model, the same data, several losses.

Split, standardise, fit, judge. Nothing here prints, draws, or reads a file.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from jloss import landscape
from jloss._tables import InputError, Table, close_to
from jloss.card import CARDS
from jloss.history import best_epoch, gap
from jloss.losses import binary, classification, margin, regression
from jloss.objective import Objective, objective
from jloss.train import fit
from jloss.update import State, init

HIDDEN = 64
LEARNING_RATE = 1e-3
BATCH_SIZE = 32
EPOCHS = 100
OUTLIER_SIZE = 10.0  # in standard deviations of the training targets
SURFACE_ROWS = 500
SURFACE_RESOLUTION = 31

Loss = Callable[..., Array]
Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Reading:
    """How a loss and the model's output meet a task.

    Attributes:
      width: size of the model's output, by number of classes; 1 is an output without that axis.
      encode: what the loss takes, from targets and number of classes.
      decide: what an output means, as a class index or a value, given the number of classes.
      as_number: classes are read as places on a line, which they are not.
    """

    width: Callable[[int], int]
    encode: Callable[[Array, int], Array]
    decide: Callable[[Array, int], Array]
    as_number: bool = False


def _sign(output: Array, classes: int) -> Array:
    return (output > 0).astype(jnp.int32)


def _nearest(output: Array, classes: int) -> Array:
    return jnp.clip(jnp.round(output), 0, classes - 1).astype(jnp.int32)


def _largest(output: Array, classes: int) -> Array:
    return jnp.argmax(output, axis=-1).astype(jnp.int32)


VALUE = Reading(lambda _: 1, lambda y, _: y, lambda output, _: output)
LOGIT = Reading(lambda _: 1, lambda y, _: y.astype(jnp.float32), _sign)
MARGIN = Reading(lambda _: 1, lambda y, _: 2.0 * y - 1.0, _sign)
LOGITS = Reading(lambda classes: classes, lambda y, _: y, _largest)
ONE_HOT = Reading(lambda classes: classes, lambda y, n: jax.nn.one_hot(y, n), _largest)
NUMBER = Reading(lambda _: 1, lambda y, _: y.astype(jnp.float32), _nearest, as_number=True)

# What fits which task: the first of each are compared unless the user names others.
LOSSES: Mapping[str, Mapping[Loss, Reading]] = {
    "regression": {
        regression.squared_error: VALUE,
        regression.absolute_error: VALUE,
        regression.huber_loss: VALUE,
        regression.log_cosh: VALUE,
        regression.l2_loss: VALUE,
        regression.quantile_loss: VALUE,
    },
    "binary": {
        binary.sigmoid_binary_cross_entropy: LOGIT,
        binary.sigmoid_focal_loss: LOGIT,
        margin.hinge_loss: MARGIN,
        regression.squared_error: NUMBER,
    },
    "multiclass": {
        classification.softmax_cross_entropy_with_integer_labels: LOGITS,
        margin.multiclass_hinge_loss: LOGITS,
        regression.squared_error: NUMBER,
        classification.softmax_cross_entropy: ONE_HOT,
    },
}
_COMPARED = {"regression": 4, "binary": 4, "multiclass": 3}


class Rows(NamedTuple):
    """Inputs of the model and what it should answer."""

    inputs: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True)
class Prepared:
    """The three parts, standardised by the statistics of the training part alone.

    Attributes:
      train: what is fitted; ``validation`` chooses the epoch, ``test`` is looked at once.
      validation: see above.
      test: see above; its targets are never contaminated.
      scale: one unit of the targets in the target's own units (1 for classes).
      outliers: how many targets of train and validation were moved.
      outlier_size: how far, in standardised units; 0 if none were.
    """

    train: Rows
    validation: Rows
    test: Rows
    scale: float = 1.0
    outliers: int = 0
    outlier_size: float = 0.0


@dataclass(frozen=True)
class Result:
    """What one loss led to.

    Attributes:
      loss: its name.
      reading: how it met the task.
      params: those of the epoch with the lowest validation loss.
      history: of `jloss.fit`: the loss and the metric of every epoch, train and validation.
      plane: the loss of the training data around the solution, with the path of training on it.
      in_plane: the share of the path's squared distances from the solution that lie in the plane.
      scores: one per test row: 1 or 0 for right or wrong, or the absolute error in own units.
      seconds: of fitting, compilation included.
    """

    loss: str
    reading: Reading
    params: Any
    history: dict[str, np.ndarray]
    plane: landscape.Plane
    in_plane: float
    scores: np.ndarray
    seconds: float

    @property
    def best(self) -> int:
        """The epoch with the lowest validation loss, whose params were kept, from 0."""
        return best_epoch(self.history)

    def gap(self, epoch: int) -> float:
        """Validation minus training loss at an epoch: how much was learnt by heart."""
        return float(gap(self.history)[epoch])


@dataclass(frozen=True)
class Comparison:
    """All that was measured, and what is needed to repeat it.

    Attributes:
      table: the data.
      parts: the data as the model saw them.
      results: one per loss.
      metric: ``"accuracy"`` or ``"mean absolute error"``.
      baseline: the test metric of an answer that ignores the inputs: the commonest class of the
        training targets, or their median.
      outliers: the share of train and validation targets that were moved.
      epochs: of every fit.
      seed: of split, outliers, initial params and order of the rows.
    """

    table: Table
    parts: Prepared
    results: tuple[Result, ...]
    metric: str
    baseline: float
    outliers: float
    epochs: int
    seed: int


def compare(
    table: Table,
    losses: Iterable[str] | None = None,
    *,
    outliers: float = 0.0,
    epochs: int = EPOCHS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Fits the same small model to the same data under several losses.

    Args:
      table: from `jloss._tables.load`.
      losses: their names; those suited to the task and one that may mislead if not given.
      outliers: the share of train and validation targets to move by 10 standard deviations.
      epochs: passes over the training data.
      seed: of everything random.
      progress: ``progress(loss, epoch)``, called after every epoch.

    Returns:
      A `Comparison`.

    Raises:
      InputError: a loss that is unknown or does not fit the task, outliers that make no sense.
    """
    chosen = choose(table.task, losses)
    parts = prepare(table, outliers=outliers, seed=seed)
    one = partial(_fitted, table, parts, epochs=epochs, seed=seed, progress=progress)
    results = tuple(one(loss, LOSSES[table.task][loss]) for loss in chosen)
    metric = "accuracy" if table.classes else "mean absolute error"
    answer = baseline(table, parts)
    return Comparison(table, parts, results, metric, answer, outliers, epochs, seed)


def choose(task: str, names: Iterable[str] | None) -> list[Loss]:
    """The losses of those names, all fit for the task; the task's own where none are named.

    Raises:
      InputError: a name is unknown, the loss does not fit the task, or fewer than two are named.
    """
    fitting = {loss.__name__: loss for loss in LOSSES[task]}
    if names is None:
        return list(fitting.values())[: _COMPARED[task]]
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in CARDS:
            raise InputError(
                f"no loss {name!r}.{close_to(name, [*fitting, *CARDS])} "
                f"For {_TASKS[task]}: {', '.join(fitting)}"
            )
        if name not in fitting:
            raise InputError(f"{name} is not for {_TASKS[task]}; choose from {', '.join(fitting)}")
    if len(names) < 2:
        raise InputError(f"name at least two losses to compare, of {', '.join(fitting)}")
    return [fitting[name] for name in names]


_TASKS = {
    "regression": "regression",
    "binary": "classification into two classes",
    "multiclass": "classification into several classes",
}


def split(table: Table, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of 60 % of the rows to train on, 20 % to validate and 20 % to test, in random order.

    For classification each class is split so (to within a row).
    """
    rng = np.random.default_rng(seed)
    rows = np.arange(len(table.targets))
    groups = (
        [rows[table.targets == index] for index in range(len(table.classes))]
        if table.classes
        else [rows]
    )
    parts: tuple[list, list, list] = ([], [], [])
    for group in groups:
        group = rng.permutation(group)
        cuts = round(0.6 * len(group)), round(0.8 * len(group))
        for part, piece in zip(parts, np.split(group, cuts), strict=True):
            part.append(piece)
    train, validation, test = (rng.permutation(np.concatenate(part)) for part in parts)
    return train, validation, test


def prepare(table: Table, *, outliers: float = 0.0, seed: int = 0) -> Prepared:
    """Splits, contaminates and standardises.

    Outliers are what a slipped decimal point does: a share of the targets of train and validation
    is raised by ten standard deviations of the clean training targets. The test targets stay
    clean: what is asked is whether the truth was learnt in spite of the outliers.

    Features are standardised by mean and standard deviation of the training rows, the targets of
    a regression by median and median absolute deviation, which the outliers hardly move, so that
    the losses meet them on the same scale with outliers and without.

    Raises:
      InputError: outliers are not a share from 0 to 1, or the task is a classification.
    """
    check_outliers(table, outliers)
    indices = split(table, seed)
    center, scale = _moments(table.features[indices[0]])
    inputs = [((table.features[part] - center) / scale).astype(np.float32) for part in indices]
    targets = [table.targets[part] for part in indices]
    if table.classes:
        train, validation, test = map(Rows, inputs, targets)
        return Prepared(train, validation, test)
    size = OUTLIER_SIZE * float(targets[0].std()) if outliers else 0.0
    rng = np.random.default_rng([seed, 1])  # a stream of its own: the split stays the same
    moved = [_contaminated(y, outliers, size, rng) for y in targets[:2]]
    middle, unit = _robust_moments(moved[0])
    values = [((y - middle) / unit).astype(np.float32) for y in [*moved, targets[2]]]
    count = sum(int(np.sum(a != b)) for a, b in zip(moved, targets[:2], strict=True))
    train, validation, test = map(Rows, inputs, values)
    return Prepared(train, validation, test, unit, count, size / unit)


def check_outliers(table: Table, outliers: float) -> None:
    """Refuses outliers that make no sense.

    Raises:
      InputError: they are not a share from 0 to 1, or the task is a classification.
    """
    if not 0 <= outliers <= 1:
        raise InputError(f"--outliers is a share of the rows, from 0 to 1, not {outliers:g}")
    if outliers and table.classes:
        raise InputError(
            "--outliers moves numeric targets, and this is a classification: leave it out"
        )


def _contaminated(
    targets: np.ndarray, share: float, size: float, rng: np.random.Generator
) -> np.ndarray:
    """A copy with that share of the targets raised: at least one if the share is not 0."""
    count = max(round(share * len(targets)), int(share > 0))
    moved = targets.copy()
    moved[rng.choice(len(targets), count, replace=False)] += size
    return moved


def _moments(train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each column; a constant one becomes 0, without a rounded mean."""
    constant = np.ptp(train, axis=0) == 0
    center = np.where(constant, train[0], train.mean(axis=0))
    return center, np.where(constant, 1.0, train.std(axis=0))


def _robust_moments(targets: np.ndarray) -> tuple[float, float]:
    """Median and scaled median deviation; the standard deviation where most targets are equal."""
    middle = float(np.median(targets))
    unit = 1.4826 * float(np.median(np.abs(targets - middle)))
    return middle, unit or float(targets.std()) or 1.0


def baseline(table: Table, parts: Prepared) -> float:
    """The test metric of always answering the commonest class, or the median, of train."""
    if table.classes:
        commonest = np.bincount(parts.train.targets).argmax()
        return float(np.mean(parts.test.targets == commonest))
    median = np.median(parts.train.targets)
    return float(np.mean(np.abs(parts.test.targets - median)) * parts.scale)


# The model: one hidden layer, plain arrays.


def initial_params(key: Array, inputs: int, outputs: int) -> dict[str, Array]:
    """Small random weights, scaled by the number of inputs of each layer; zero biases."""
    hidden_key, out_key = jax.random.split(key)
    return {
        "hidden": jax.random.normal(hidden_key, (inputs, HIDDEN)) / np.sqrt(inputs),
        "hidden_bias": jnp.zeros(HIDDEN),
        "out": jax.random.normal(out_key, (HIDDEN, outputs)) / np.sqrt(HIDDEN),
        "out_bias": jnp.zeros(outputs),
    }


def apply(params: Mapping[str, Array], inputs: Array) -> Array:
    """The model's output: ``(rows, outputs)``, or ``(rows,)`` where it is a single number."""
    hidden = jnp.tanh(inputs @ params["hidden"] + params["hidden_bias"])
    output = hidden @ params["out"] + params["out_bias"]
    return output[..., 0] if output.shape[-1] == 1 else output


def _fitted(
    table: Table,
    parts: Prepared,
    loss: Loss,
    reading: Reading,
    *,
    epochs: int,
    seed: int,
    progress: Progress | None,
) -> Result:
    """One loss, from the first guess to the test rows."""
    classes = len(table.classes)
    init_key, order_key = jax.random.split(jax.random.key(seed))
    params = initial_params(init_key, len(table.columns), reading.width(classes))
    learnt, score = _learnt(loss, reading, classes), _score(reading, classes)
    path = [params]

    def record(state: State, row: Mapping[str, float]) -> None:
        path.append(state.params)
        if progress is not None:
            progress(loss.__name__, len(path) - 1)

    start = time.perf_counter()
    state, history = fit(
        learnt,
        init(params, _optimizer()),
        parts.train,
        validation=parts.validation,
        metrics={"metric": _judged(reading, classes)},
        epochs=epochs,
        batch_size=BATCH_SIZE,
        key=order_key,
        callback=record,
    )
    seconds = time.perf_counter() - start
    history |= {name: parts.scale * history[name] for name in history if "metric" in name}
    judged = jax.jit(lambda params, rows: score(apply(params, rows.inputs), rows.targets))
    scores = parts.scale * np.asarray(judged(state.params, parts.test))
    plane, in_plane = _plane(learnt, state.params, parts.train, path)
    return Result(loss.__name__, reading, state.params, history, plane, in_plane, scores, seconds)


# Cached, because `fit` compiles anew for every objective and optimizer that is another object.


@cache
def _optimizer() -> Any:
    import optax

    return optax.adam(LEARNING_RATE)


@cache
def _learnt(loss: Loss, reading: Reading, classes: int) -> Objective:
    """The loss on the targets of the table, whatever it wants them to look like."""

    def encoded(output: Array, targets: Array) -> Array:
        return loss(output, reading.encode(targets, classes))

    return objective(apply, encoded)


@cache
def _judged(reading: Reading, classes: int) -> Objective:
    return objective(apply, _score(reading, classes))


def _score(reading: Reading, classes: int) -> Loss:
    """What is wanted in the end: 1 for a right class, or the absolute error, standardised."""

    def score(output: Array, targets: Array) -> Array:
        decided = reading.decide(output, classes)
        if classes:
            return (decided == targets).astype(jnp.float32)
        return jnp.abs(decided - targets)

    return score


def _plane(
    learnt: Objective, params: Any, train: Rows, path: list[Any]
) -> tuple[landscape.Plane, float]:
    """The training loss in the plane that shows most of the path, and how much of it that is."""
    rows = tuple(jnp.asarray(array[:SURFACE_ROWS]) for array in train)
    plane = landscape.plane(learnt, params, rows, path=path, resolution=SURFACE_RESOLUTION)
    center = ravel_pytree(params)[0]
    away = np.stack([np.asarray(ravel_pytree(point)[0] - center) for point in path])
    return plane, float(np.sum(np.square(np.asarray(plane.path))) / np.sum(np.square(away)))
