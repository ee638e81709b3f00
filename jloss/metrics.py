"""Metrics: what a loss stands in for.

`accuracy` gives one value per example, to be averaged by `objective`. The others give a
`Statistic`, which adds up over parts of the data where their values do not: `metric` makes one a
function of params and batch. Each is a number for a report, without a gradient.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._safe import floats, keep, mask, same_shape
from jloss.average import Statistic


def accuracy(logits: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None) -> Array:
    """1 where the most probable class is the label, 0 where it is not.

    Labels of the shape of the logits are binary: class 1 is predicted where the logit is above
    0. Otherwise they are class indices, and of several largest logits the first one is taken.
    (One-hot labels would be read as binary ones: pass ``jnp.argmax(labels, -1)``.)

    Args:
      logits: ``(..., classes)``, or the shape of ``labels`` if they are binary.
      labels: ``(...)``, integers; binary labels may be booleans or floats 0.0 and 1.0.
      where: boolean mask of what counts, broadcast to the labels' shape; with the rank of the
        logits it masks classes.

    Returns:
      Float32 values of the shape of ``labels``, to be averaged: 0 where masked out, NaN where a
      logit is NaN or the label is not one of the classes.

    Raises:
      ValueError: the shapes do not fit.
      TypeError: labels that are class indices are not integers.

    >>> logits = jnp.array([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    >>> jloss.accuracy(logits, jnp.array([0, 1]))
    Array([1., 0.], dtype=float32)
    >>> jloss.accuracy(jnp.array([-3.0, 3.0]), jnp.array([0, 0]))
    Array([1., 0.], dtype=float32)
    """
    logits, labels, known = _labelled("accuracy", logits, labels)
    where = None if where is None else jnp.asarray(where)
    if where is not None and where.ndim == logits.ndim > labels.ndim:
        # A hidden class may be NaN.
        logits, where = jnp.where(where, logits, -jnp.inf), jnp.any(where, axis=-1)
        known = _known(logits, labels)
    hit = _predicted(logits, labels) == labels
    values = jnp.where(known, hit.astype(jnp.float32), jnp.nan)
    return values if where is None else jnp.where(where, values, 0.0)


# F1 ----------------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class F1(Statistic):
    """How often each class was predicted rightly, predicted, and true: what `f1` adds up."""

    hits: Array
    predicted: Array
    actual: Array

    @property
    def per_class(self) -> Array:
        """F1 of each class; NaN for one that was neither predicted nor true."""
        return 2 * self.hits / (self.predicted + self.actual)

    @property
    def value(self) -> Array:
        """The mean over the classes that were predicted or true (macro); NaN if none was."""
        absent = self.predicted + self.actual == 0
        return jnp.mean(self.per_class, where=~absent)


def f1(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> F1:
    r"""The harmonic mean of precision and recall: prefer it to accuracy where classes are rare.

    .. math:: F_1 = \frac{2 \cdot \text{hits}}{\text{predicted} + \text{actual}}

    For binary labels it is that of class 1, and NaN where no example is of it or predicted to be.
    For class indices it is the mean over classes.

    Source: van Rijsbergen (1979), Information Retrieval.

    Args:
      logits: ``(..., classes)``, or the shape of ``labels`` if they are binary; see `accuracy`.
      labels: ``(...)``, class indices, or 0 and 1.
      where: boolean mask of what counts, of the rank of the labels.
      weights: how much each example counts, likewise.

    Returns:
      An `F1`, to be added up; its ``value`` is NaN if a label that counts is none of the classes,
      or a logit NaN.

    Raises:
      ValueError: the shapes do not fit.
      TypeError: labels that are class indices are not integers, or a mask is not boolean.

    >>> f1 = jax.jit(jloss.f1)
    >>> half = f1(jnp.array([1.0, 1.0, -1.0]), jnp.array([1, 0, 0]))
    >>> half.value, (half + f1(jnp.array([-1.0]), jnp.array([1]))).value
    (Array(0.6666667, dtype=float32), Array(0.5, dtype=float32))
    """
    logits, labels, known = _labelled("f1", logits, labels)
    counts = _counts("f1", labels.shape, where, weights, known)
    predicted = _predicted(logits, labels)
    classes = jnp.arange(1, 2) if logits.shape == labels.shape else jnp.arange(logits.shape[-1])

    def total(flags: Array) -> Array:
        # Each class by itself, so that a NaN of the weights reaches all of them.
        found = jnp.sum(counts[..., None] * flags, axis=tuple(range(counts.ndim)))
        return found[0] if logits.shape == labels.shape else found

    guessed, true = predicted[..., None] == classes, labels[..., None] == classes
    return F1(total(guessed & true), total(guessed), total(true))


# R² ----------------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class R2(Statistic):
    """Weight, sum and squares of the targets, and squares of the errors: what `r2` adds up."""

    weight: Array
    targets: Array
    squares: Array
    errors: Array

    @property
    def value(self) -> Array:
        """The mean over outputs; NaN if the targets of one do not differ."""
        spread = self.squares - self.targets**2 / self.weight
        return jnp.mean(1.0 - self.errors / jnp.where(spread > 0, spread, jnp.nan))


def r2(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    center: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> R2:
    r"""The share of the targets' variance that is explained: 1 at best, 0 for their mean.

    .. math:: R^2 = 1 - \frac{\sum_i w_i (t_i - p_i)^2}{\sum_i w_i (t_i - \bar t)^2}

    Source: Wright (1921), Correlation and causation, J. Agric. Res. 20.

    Args:
      predictions: ``(examples, ...)``; what follows the first axis are outputs.
      targets: the same shape.
      center: about the mean of the targets. It changes nothing but rounding: where the mean is
        large beside the spread, the variance loses the digits that they have in common.
      where: boolean mask of what counts, of their rank.
      weights: how much each counts, likewise.

    Returns:
      An `R2`, to be added up; its ``value`` is the mean over outputs, NaN for constant targets.

    Raises:
      ValueError: the shapes do not fit.
      TypeError: predictions are not floating, or a mask is not boolean.

    >>> jloss.r2(jnp.array([1.0, 2.0, 2.0]), jnp.array([1.0, 2.0, 3.0])).value
    Array(0.5, dtype=float32)
    """
    predictions, targets = floats("r2", predictions=predictions, targets=targets)
    same_shape("r2", predictions=predictions, targets=targets)
    counts = _counts("r2", targets.shape, where, weights, True)
    flags = mask("r2", where, targets.shape)
    away = keep(flags, targets) - keep(flags, jnp.broadcast_to(center, targets.shape))
    error = keep(flags, targets) - keep(flags, predictions)

    def total(values: ArrayLike) -> Array:
        return jnp.sum(counts * values, axis=0)

    return R2(total(1.0), total(away), total(away**2), total(error**2))


# Calibration -------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CalibrationError(Statistic):
    """Weight, confidence and hits in bins of confidence: what `calibration_error` adds up."""

    weight: Array
    confidence: Array
    hits: Array

    @property
    def value(self) -> Array:
        """The mean distance of the bins' hits from their confidence; NaN where nothing counts."""
        return jnp.sum(jnp.abs(self.hits - self.confidence)) / jnp.sum(self.weight)


def calibration_error(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    bins: int = 15,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> CalibrationError:
    r"""How far stated probabilities are from frequencies (expected calibration error).

    .. math:: \sum_b \frac{n_b}{n} \lvert \text{hits}_b - \text{confidence}_b \rvert

    over bins of equal width, ``(b / bins, (b + 1) / bins]``. The confidence is the probability of
    the predicted class, and a hit its being the label; for binary labels it is the probability of
    class 1, and a hit the label 1. It depends on the number of bins: compare at one number.

    Source: Guo, Pleiss, Sun, Weinberger (2017), On calibration of modern neural networks, ICML.

    Args:
      logits: as for `f1`.
      labels: as for `f1`.
      bins: their number.
      where: as for `f1`.
      weights: as for `f1`.

    Returns:
      A `CalibrationError`, to be added up; its ``value`` is NaN as for `f1`.

    Raises:
      ValueError: the shapes do not fit, or there is no bin.
      TypeError: as for `f1`.

    >>> sure = jnp.array([100.0, 100.0, 100.0, 100.0])
    >>> jloss.calibration_error(sure, jnp.array([1, 1, 1, 0])).value
    Array(0.25, dtype=float32)
    """
    logits, labels, known = _labelled("calibration_error", logits, labels)
    counts = _counts("calibration_error", labels.shape, where, weights, known)
    if logits.shape == labels.shape:
        confidence, hit = jax.nn.sigmoid(logits), labels == 1
    else:
        confidence = jnp.max(jax.nn.softmax(logits, axis=-1), axis=-1)
        hit = _predicted(logits, labels) == labels
    confidence = jnp.where(known, confidence, 0.0)
    found = _binned("calibration_error", bins, confidence)
    return CalibrationError(found(counts), found(counts * confidence), found(counts * hit))


# AUC ---------------------------------------------------------------------------------------------


def auc(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Array:
    r"""The chance that a random example of class 1 scores above one of class 0 (area under ROC).

    .. math:: \frac{\sum_{i \in 1, j \in 0} w_i w_j\, ([s_i > s_j] + \tfrac12 [s_i = s_j])}
        {\sum_{i \in 1, j \in 0} w_i w_j}

    Exact, in O(n log n), on whole arrays: it needs all scores at once. Over batches `binned_auc`
    says how close it is.

    Source: Hanley, McNeil (1982), The meaning and use of the area under a receiver operating
    characteristic (ROC) curve, Radiology 143.

    Args:
      scores: any shape.
      labels: the same shape, 0 and 1.
      where: boolean mask of what counts, of their rank.
      weights: how much each counts, likewise.

    Returns:
      A number; NaN where only one class counts, a score that counts is NaN, or a label neither.

    Raises:
      ValueError: the shapes do not fit.
      TypeError: scores are not floating, or a mask is not boolean.

    >>> jax.jit(jloss.auc)(jnp.array([0.1, 0.4, 0.4, 0.8]), jnp.array([0, 0, 1, 1]))
    Array(0.875, dtype=float32)
    """
    scores, positive, negative = _ranked("auc", scores, labels, where, weights)
    order = jnp.argsort(scores.ravel())
    scores, positive, negative = (x.ravel()[order] for x in (scores, positive, negative))
    below = jnp.pad(jnp.cumsum(negative), (1, 0))
    first, last = (jnp.searchsorted(scores, scores, side=side) for side in ("left", "right"))
    return _above(positive, below[first], below[last], negative)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BinnedAUC(Statistic):
    """Both classes in bins of their scores: what `binned_auc` adds up."""

    positive: Array
    negative: Array

    @property
    def value(self) -> Array:
        """The area if scores within a bin were equal; NaN where only one class counts."""
        below = jnp.pad(jnp.cumsum(self.negative), (1, 0))
        return _above(self.positive, below[:-1], below[1:], self.negative)

    @property
    def error(self) -> Array:
        """The exact area is no further away than this."""
        pairs = jnp.sum(self.positive) * jnp.sum(self.negative)
        return 0.5 * jnp.sum(self.positive * self.negative) / pairs


def binned_auc(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    bins: int = 1000,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> BinnedAUC:
    """The area under ROC from counts in bins of probability, which add up over batches.

    Pairs within a bin count half. That is all that can be wrong, and ``error`` bounds it.

    Args:
      logits: any shape; bins are of equal width in their sigmoid.
      labels: the same shape, 0 and 1.
      bins: their number.
      where: as for `auc`.
      weights: as for `auc`.

    Returns:
      A `BinnedAUC`, to be added up; its ``value`` is NaN as for `auc`.

    Raises:
      ValueError: the shapes do not fit, or there is no bin.
      TypeError: as for `auc`.

    >>> found = jloss.binned_auc(jnp.array([-2.0, 0.1, 0.2, 3.0]), jnp.array([0, 0, 1, 1]), bins=10)
    >>> found.value, found.error
    (Array(0.875, dtype=float32), Array(0.125, dtype=float32))
    """
    logits, positive, negative = _ranked("binned_auc", logits, labels, where, weights)
    found = _binned("binned_auc", bins, jax.nn.sigmoid(logits))
    return BinnedAUC(found(positive), found(negative))


# Shared ------------------------------------------------------------------------------------------


def _labelled(name: str, logits: ArrayLike, labels: ArrayLike) -> tuple[Array, Array, Array]:
    """Logits, labels, and where both are such."""
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if logits.shape == labels.shape:
        return logits, labels, _known(logits, labels)
    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"{name}: labels {labels.shape} must have the shape of the logits {logits.shape} "
            "(binary) or that shape without the class axis (class indices)"
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{name}: labels are class indices, not {labels.dtype}")
    return logits, labels, _known(logits, labels)


def _known(logits: Array, labels: Array) -> Array:
    if logits.shape == labels.shape:
        return ((labels == 0) | (labels == 1)) & ~jnp.isnan(logits)
    inside = (labels >= 0) & (labels < logits.shape[-1])
    return inside & ~jnp.any(jnp.isnan(logits), axis=-1)


def _predicted(logits: Array, labels: Array) -> Array:
    if logits.shape == labels.shape:
        return logits > 0
    return jnp.argmax(logits, axis=-1)


def _ranked(
    name: str,
    scores: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None,
    weights: ArrayLike | None,
) -> tuple[Array, Array, Array]:
    """Scores and the weights of the two classes."""
    labels = jnp.asarray(labels)
    scores, _ = floats(name, scores=scores, labels=labels)
    same_shape(name, scores=scores, labels=labels)
    known = _known(scores, labels)
    counts = _counts(name, labels.shape, where, weights, known)
    return jnp.where(known, scores, 0.0), counts * (labels == 1), counts * (labels == 0)


def _counts(
    name: str,
    shape: tuple[int, ...],
    where: ArrayLike | None,
    weights: ArrayLike | None,
    known: ArrayLike,
) -> Array:
    """How much each example counts: 0 where hidden, NaN where it is not known what it is."""
    weights = jnp.asarray(1.0 if weights is None else weights)
    weights = weights.astype(jnp.promote_types(weights.dtype, jnp.float32))
    if weights.ndim not in (0, len(shape)) or any(
        size not in (1, full) for size, full in zip(weights.shape, shape, strict=False)
    ):
        raise ValueError(
            f"{name}: weights {weights.shape} must be a scalar or have the rank of the examples "
            f"{shape}, each size equal or 1"
        )
    counts = jnp.where(known, jnp.broadcast_to(weights, shape), jnp.nan)
    return keep(mask(name, where, shape), counts)


def _binned(name: str, bins: int, places: Array):
    """Totals in bins of equal width from 0 to 1, the upper edge included, as a function."""
    if bins < 1:
        raise ValueError(f"{name}: bins must be at least 1, not {bins}")
    edges = jnp.linspace(0.0, 1.0, bins + 1, dtype=places.dtype)[1:-1]
    index = jnp.searchsorted(edges, places.ravel())
    return lambda values: jnp.zeros(bins, values.dtype).at[index].add(values.ravel())


def _above(positive: Array, below: Array, to: Array, negative: Array) -> Array:
    """The share of pairs in which class 1 is above, given what of class 0 is below, and up to."""
    pairs = jnp.sum(positive) * jnp.sum(negative)
    return jnp.sum(positive * (0.5 * below + 0.5 * to)) / pairs
