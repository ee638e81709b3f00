r"""Segmentation losses: of the overlap of a predicted region with the true one, class by class.

Cross-entropies of single pixels are in ``classification.py``.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial, wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jloss._compiled import compiled
from jloss._safe import Axis, axes_of, floats, hyper, keep, mask, nan_unless, same_shape
from jloss._softmax import probabilities
from jloss.card import LOGIT, NONNEGATIVE, ONE_HOT, POSITIVE, PROBABILITY, card

_REGIONS = replace(ONE_HOT, outside=(-1.0, 1.5, math.nan))  # labels may lie between, but not here
_CERTAIN_OR_NOT = replace(
    PROBABILITY,
    draw=lambda rng, shape: np.where(
        rng.random((*shape[:-1], 1)) < 0.5, rng.integers(0, 2, shape), rng.random(shape)
    ),
)
_BINARY_REGIONS = replace(PROBABILITY, draw=lambda rng, shape: rng.integers(0, 2, shape) * 1.0)


class _Overlap(NamedTuple):
    """How much of a region is found, sums over its pixels."""

    hit: Array
    extra: Array  # predicted and not there
    missed: Array


def _overlap(
    inputs: tuple[Array, Array, Array], where: Array | None, axes: tuple[int, ...]
) -> _Overlap:
    likely, unlikely, targets = inputs
    # 1 - sum(p t) / ... would lose the digits of a good prediction; these terms are all positive.
    likely, targets = keep(where, likely), keep(where, targets)
    parts = likely * targets, likely * (1.0 - targets), unlikely * targets
    return _Overlap(*(part.sum(axes) for part in parts))


def _inputs(
    loss: str,
    predictions: Array,
    targets: Array,
    where: Array | None,
    are_logits: bool,
    names: tuple[str, str] = ("predictions", "targets"),
) -> tuple[Array, Array, Array]:
    """Probabilities, one minus these, and targets, 0 where hidden."""
    targets = keep(where, targets)
    predictions = keep(where, predictions, -jnp.inf if are_logits else 0.0)
    inside = (targets >= 0) & (targets <= 1)
    spoilt = nan_unless(loss, inside, "in [0, 1]", **{names[1]: targets})
    if not are_logits:
        inside = (predictions >= 0) & (predictions <= 1)
        spoilt += nan_unless(loss, inside, "in [0, 1]", **{names[0]: predictions})
        likely, unlikely = predictions, 1.0 - predictions
    elif predictions.shape[-1] == 1:
        likely, unlikely = jax.nn.sigmoid(predictions), jax.nn.sigmoid(-predictions)
    else:
        likely, unlikely = probabilities(predictions)
    return likely + spoilt, unlikely + spoilt, targets


@jax.custom_jvp
def _share(part: Array, rest: Array) -> Array:
    """``part / (part + rest)``, 0 where part is 0."""
    return jnp.where(part == 0, 0.0, part / _whole(part, rest))


@_share.defjvp
def _share_jvp(primals, tangents):
    # Autodiff squares the whole, which may underflow.
    (part, rest), (part_change, rest_change) = primals, tangents
    whole = _whole(part, rest)
    change = rest / whole * (part_change / whole) - part / whole * (rest_change / whole)
    return _share(part, rest), change


def _whole(part: Array, rest: Array) -> Array:
    whole = part + rest
    return jnp.where(whole == 0, 1.0, whole)


def _tversky(
    loss: str, overlap: _Overlap, smooth: ArrayLike, alpha: ArrayLike, beta: ArrayLike
) -> Array:
    given = {"smooth": smooth, "alpha": alpha, "beta": beta}
    checked = []
    for name, value in given.items():
        number = hyper(loss, overlap.hit, rows=False, **{name: value})
        checked.append(number + nan_unless(loss, number >= 0, "at least 0", **{name: number}))
    smooth, alpha, beta = checked
    return _share(alpha * overlap.extra + beta * overlap.missed, overlap.hit + smooth)


def _mean(values: Array, seen: Array | None, axis: Axis = None) -> Array:
    """Over what counts, 0 where nothing does."""
    count = jnp.ones_like(values) if seen is None else seen.astype(values.dtype)
    return keep(seen, values).sum(axis) / jnp.maximum(count.sum(axis), 1.0)


def _image_axes(ndim: int) -> tuple[int, ...]:
    """All but the first, of examples, and the last, of classes."""
    return tuple(range(1, ndim - 1))


def _exact_overlaps(m, logits, labels):
    """What is hit, extra and missed, for each class of an image: a list of rows of logits."""
    overlaps = [[m.mpf(0)] * 3 for _ in labels[0]]
    for row, targets in zip(logits, labels, strict=True):
        row = [*row, m.mpf(0)] if len(row) == 1 else row
        top = max(row)
        weights = [m.exp(logit - top) for logit in row]
        for k, target in enumerate(targets):
            p = weights[k] / m.fsum(weights)
            parts = p * target, p * (1 - target), (1 - p) * target
            overlaps[k] = [a + b for a, b in zip(overlaps[k], parts, strict=True)]
    return overlaps


def _exact_share(overlap, smooth, alpha, beta):
    hit, extra, missed = overlap
    wrong = alpha * extra + beta * missed
    return wrong / (wrong + hit + smooth) if wrong else wrong


def _exact_dice(m, logits, labels, smooth, alpha, beta):
    overlaps = _exact_overlaps(m, logits, labels)
    return m.fsum(_exact_share(o, smooth, alpha, beta) for o in overlaps) / len(overlaps)


def _certain(targets):
    return np.where(targets > 0, np.inf, -np.inf)


def _one_image(loss: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(loss)
    def form(first, second, *, where=None, **options):
        if where is not None:
            where = jnp.asarray(where)[None]
            where = where[..., None] if where.ndim == 2 else where
        first, second = jnp.asarray(first)[None], jnp.asarray(second)[None]
        return loss(first, second, where=where, **options).sum()

    return form


@card(
    values="batch",
    predictions=LOGIT,
    targets=_REGIONS,
    hyper=dict(smooth=POSITIVE, alpha=NONNEGATIVE, beta=NONNEGATIVE),
    exact=_exact_dice,
    form=_one_image,
    source="Milletari, Navab & Ahmadi (2016), V-Net: fully convolutional neural networks for "
    "volumetric medical image segmentation, 3DV",
    also=dict(optax="losses.dice_loss", keras="losses.dice"),
    ulp=32,  # a logit's slope is its class's less their mean, which cancels up to 22-fold here
    scale=1.0,
    minimum=0.0,
    minimizer=_certain,
    maximum=1.0,
    convex=False,
    given=dict(smooth=1e-3, alpha=0.5, beta=0.5),
)
@compiled
def dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    class_weights: ArrayLike | None = None,
    smooth: ArrayLike = 1.0,
    alpha: ArrayLike = 0.5,
    beta: ArrayLike = 0.5,
    apply_softmax: bool = True,
    reduction: str = "mean",
    ignore_background: bool = False,
    axis: Axis = None,
    where: ArrayLike | None = None,
) -> Array:
    r"""What a predicted region lacks of overlapping the true one, averaged over the classes.

    .. math::
        L = \frac1C \sum_c
        \frac{\alpha F_c + \beta M_c}{H_c + \alpha F_c + \beta M_c + s}, \qquad
        H_c = \sum_i p_{ic} t_{ic},\quad F_c = \sum_i p_{ic} (1 - t_{ic}),\quad
        M_c = \sum_i (1 - p_{ic})\, t_{ic}

    Args:
      predictions: logits (N, ..., C), the classes last; a single class is there or not, by the
        sigmoid.
      targets: the same shape; one-hot, or probabilities: each in [0, 1], NaN for the example
        otherwise.
      class_weights: (C,) factors of the classes' values; they do not change what the mean divides
        by.
      smooth: :math:`s`, a number of pixels that are taken as hit; at least 0, NaN otherwise. With
        0, a class that is neither there nor predicted has the loss 0.
      alpha: the weight of pixels that are predicted and not there; at least 0, NaN otherwise.
      beta: the weight of pixels that are missed, likewise. Both at 0.5 give the Dice coefficient,
        others the Tversky index.
      apply_softmax: False for predictions that are probabilities already: each in [0, 1], NaN for
        the example otherwise; they need not sum to 1.
      reduction: of the classes: "mean", "sum", or "none".
      ignore_background: leave the first class out, if there are more.
      axis: the axes to sum over; None for all but the first and the last.
      where: boolean mask of what counts: of the shape of the result, or of the rank of the
        predictions, where (N, ..., 1) leaves pixels out.

    Returns:
      The shape of ``predictions`` without ``axis`` and, but for the reduction "none", without the
      classes, in float32 or float64: without weights from 0 to 1. No digit is lost where the
      prediction is right.

    Raises:
      ValueError: shapes do not fit, ``axis`` names no axes or the classes', or ``reduction`` is
        unknown.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    Prefer it to a cross-entropy where a region is small beside the image: pixels outside of both
    regions do not count. Source: Milletari, Navab & Ahmadi (2016).

    >>> logits = jnp.array([[[jnp.inf], [jnp.inf], [-jnp.inf], [-jnp.inf]]])
    >>> targets = jnp.array([[[1.0], [0.0], [1.0], [0.0]]])
    >>> jloss.dice_loss(logits, targets, smooth=0.0)
    Array([0.5], dtype=float32)
    """
    loss = "dice_loss"
    predictions, targets = floats(loss, predictions=predictions, targets=targets)
    prices = dict(smooth=smooth, alpha=alpha, beta=beta)
    reduces = reduction != "none"
    values, seen = _dice(loss, predictions, targets, where, axis, reduces, apply_softmax, prices)
    if class_weights is not None:
        weights = jnp.asarray(class_weights)
        if weights.shape != values.shape[-1:]:
            raise ValueError(
                f"{loss}: class_weights {weights.shape} must have the shape {values.shape[-1:]}, "
                "one for each class."
            )
        values *= weights.astype(values.dtype)
    values, seen = _foreground(values, seen, ignore_background)
    if reduction == "none":
        return keep(seen, values)
    if reduction == "sum":
        return keep(seen, values).sum(-1)
    if reduction == "mean":
        return _mean(values, seen, -1)
    raise ValueError(f'{loss}: reduction must be "mean", "sum" or "none", not {reduction!r}.')


def _dice(
    loss: str,
    predictions: Array,
    targets: Array,
    where: ArrayLike | None,
    axis: Axis,
    classes_are_reduced: bool,
    apply_softmax: bool,
    prices: dict[str, ArrayLike],
) -> tuple[Array, Array | None]:
    """One value for each example and class, and which of them count."""
    same_shape(loss, predictions=predictions, targets=targets)
    last = predictions.ndim - 1
    axes = _image_axes(last + 1) if axis is None else axes_of(loss, axis, last + 1)
    if last in axes:
        raise ValueError(f"{loss}: axis {axis} must not name the last axis, that of the classes.")
    where = mask(loss, where, predictions.shape, (*axes, last) if classes_are_reduced else axes)
    inputs = _inputs(loss, predictions, targets, where, apply_softmax)
    values = _tversky(loss, _overlap(inputs, where, axes), **prices)
    return values, None if where is None else where.any(axes)


def _foreground(
    values: Array, seen: Array | None, ignore_background: bool
) -> tuple[Array, Array | None]:
    first = int(ignore_background and values.shape[-1] > 1)
    return values[..., first:], None if seen is None else seen[..., first:]


def _exact_binary_dice(m, logits, labels, smooth):
    pixels = [[logit] for row in logits for logit in row]
    regions = [[label] for row in labels for label in row]
    return _exact_dice(m, pixels, regions, smooth, m.mpf(0.5), m.mpf(0.5))


@card(
    values="batch",
    predictions=LOGIT,
    targets=_BINARY_REGIONS,
    hyper=dict(smooth=POSITIVE),
    exact=_exact_binary_dice,
    form=_one_image,
    source="Milletari, Navab & Ahmadi (2016), V-Net: fully convolutional neural networks for "
    "volumetric medical image segmentation, 3DV",
    also=dict(optax="losses.binary_dice_loss"),
    ulp=2,
    scale=1.0,
    minimum=0.0,
    minimizer=_certain,
    maximum=1.0,
    convex=False,
    given=dict(smooth=1e-3),
)
@compiled
def binary_dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    smooth: ArrayLike = 1.0,
    apply_sigmoid: bool = True,
    where: ArrayLike | None = None,
) -> Array:
    r"""What one predicted region lacks of overlapping the true one.

    .. math::
        L = 1 - \frac{2 \sum_i p_i t_i + 2 s}{\sum_i p_i + \sum_i t_i + 2 s}

    Args:
      predictions: logits (N, ...) or (N, ..., 1).
      targets: the same shape; 0, 1 or a probability between, NaN for the example otherwise.
      smooth: :math:`s`, a number of pixels that are taken as hit; at least 0, NaN otherwise.
      apply_sigmoid: False for predictions that are probabilities already, in [0, 1], NaN for the
        example otherwise.
      where: boolean mask of what counts, of the shape of the result or of the rank of the
        predictions.

    Returns:
      The shape (N,), in float32 or float64: from 0 to 1.

    Raises:
      ValueError: shapes differ.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    Optax refuses probabilities here, as a single class does not sum to 1. Logits of the rank 1 are
    an example each, as in optax. Source: Milletari, Navab & Ahmadi (2016).

    >>> probabilities = jnp.array([[1.0, 1.0, 0.0, 0.0]])
    >>> targets = jnp.array([[1.0, 0.0, 1.0, 0.0]])
    >>> jloss.binary_dice_loss(probabilities, targets, smooth=0.0, apply_sigmoid=False)
    Array([0.5], dtype=float32)
    """
    loss = "binary_dice_loss"
    predictions, targets = floats(loss, predictions=predictions, targets=targets)
    same_shape(loss, predictions=predictions, targets=targets)
    where = mask(loss, where, predictions.shape, tuple(range(1, predictions.ndim)))
    if predictions.shape[-1:] != (1,):
        predictions, targets = predictions[..., None], targets[..., None]
        where = None if where is None else where[..., None]
    prices = dict(smooth=smooth, alpha=0.5, beta=0.5)
    values, seen = _dice(loss, predictions, targets, where, None, True, apply_sigmoid, prices)
    return _mean(values, seen, -1)


def _exact_multiclass_generalized_dice(m, logits, labels, smooth):
    overlaps = _exact_overlaps(m, logits, labels)
    sizes = [m.fsum(row[k] for row in labels) for k in range(len(overlaps))]
    weights = [1 / (size**2 + m.mpf("1e-7")) for size in sizes]
    half = m.mpf(0.5)
    pairs = zip(weights, overlaps, strict=True)
    return m.fsum(w * _exact_share(o, smooth, half, half) for w, o in pairs) / m.fsum(weights)


@card(
    values="batch",
    predictions=LOGIT,
    targets=_REGIONS,
    hyper=dict(smooth=POSITIVE),
    exact=_exact_multiclass_generalized_dice,
    form=_one_image,
    source="optax (2025), multiclass_generalized_dice_loss, after Sudre et al. (2017)",
    also=dict(optax="losses.multiclass_generalized_dice_loss"),
    ulp=8,
    scale=1.0,
    minimum=0.0,
    minimizer=_certain,
    maximum=1.0,
    convex=False,
    given=dict(smooth=1e-3),
)
@compiled
def multiclass_generalized_dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    smooth: ArrayLike = 1.0,
    apply_softmax: bool = True,
    ignore_background: bool = False,
    where: ArrayLike | None = None,
) -> Array:
    r"""The Dice loss averaged over classes that count the more, the rarer they are in the batch.

    .. math::
        L = \frac1{N C} \sum_{n, c} w_c \, \mathrm{dice}_{nc}, \qquad
        w_c \propto \frac1{(\sum_{n, i} t_{nic})^2 + 10^{-7}}, \quad \sum_c w_c = C

    Args:
      predictions: logits (N, ..., C), the classes last.
      targets: the same shape; one-hot, or probabilities: each in [0, 1], NaN otherwise.
      smooth: a number of pixels that are taken as hit; at least 0, NaN otherwise.
      apply_softmax: False for predictions that are probabilities already, each in [0, 1].
      ignore_background: leave the first class out, if there are more, after the weights have been
        made.
      where: boolean mask of what counts: (N,), or of the rank of the predictions, where
        (N, ..., 1) leaves pixels out.

    Returns:
      A scalar in float32 or float64.

    Raises:
      ValueError: shapes do not fit.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    Prefer `generalized_dice_loss`, the loss of the paper: this one, which is optax's, gives a class
    that does not occur in the batch all the weight, and does not decompose.
    Source: optax (2025), after Sudre et al. (2017).

    >>> logits = jnp.zeros((1, 4, 2))
    >>> targets = jax.nn.one_hot(jnp.array([[0, 0, 0, 1]]), 2)
    >>> jloss.multiclass_generalized_dice_loss(logits, targets, smooth=0.0)
    Array(0.64, dtype=float32)
    """
    loss = "multiclass_generalized_dice_loss"
    predictions, targets = floats(loss, predictions=predictions, targets=targets)
    prices = dict(smooth=smooth, alpha=0.5, beta=0.5)
    values, seen = _dice(loss, predictions, targets, where, None, True, apply_softmax, prices)
    where = mask(loss, where, targets.shape, tuple(range(1, targets.ndim)))
    size = keep(where, targets).sum(tuple(range(targets.ndim - 1)))
    occurs = jnp.ones(size.shape, bool) if seen is None else seen.any(tuple(range(seen.ndim - 1)))
    share = jnp.where(occurs, 1.0 / (size * size + 1e-7), 0.0)
    share *= occurs.sum() / jnp.maximum(share.sum(), jnp.finfo(share.dtype).tiny)
    return _mean(*_foreground(values * share, seen, ignore_background))


def _exact_generalized_dice(m, logits, labels):
    overlaps = _exact_overlaps(m, logits, labels)
    sizes = [m.fsum(row[k] for row in labels) for k in range(len(overlaps))]
    largest = max((1 / size**2 for size in sizes if size > 0), default=m.mpf(1))
    weights = [1 / size**2 if size > 0 else largest for size in sizes]
    parts = [m.fsum(w * o[i] for w, o in zip(weights, overlaps, strict=True)) for i in range(3)]
    return _exact_share(parts, 0, m.mpf(0.5), m.mpf(0.5))


@card(
    values="batch",
    predictions=LOGIT,
    targets=_REGIONS,
    exact=_exact_generalized_dice,
    form=_one_image,
    source="Sudre et al. (2017), Generalised Dice overlap as a deep learning loss function for "
    "highly unbalanced segmentations, DLMIA",
    ulp=4,
    scale=1.0,
    minimum=0.0,
    minimizer=_certain,
    maximum=1.0,
    convex=False,
)
@compiled
def generalized_dice_loss(
    logits: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
    r"""The overlap of all classes together, each weighted by the inverse square of its size.

    .. math::
        L = 1 - \frac{2 \sum_c w_c \sum_i p_{ic} t_{ic}}{\sum_c w_c \sum_i (p_{ic} + t_{ic})},
        \qquad w_c = \Bigl(\sum_i t_{ic}\Bigr)^{-2}

    Args:
      logits: (N, ..., C), the classes last; a single class is there or not, by the sigmoid.
      labels: the same shape; one-hot, or probabilities: each in [0, 1], NaN for the example
        otherwise.
      where: boolean mask of what counts: (N,), or of the rank of the logits, where (N, ..., 1)
        leaves pixels out.

    Returns:
      One value for each example, (N,), in float32 or float64: from 0 to 1. A class that does not
      occur in an example has the largest weight of those that do, as in MONAI. No digit is lost
      where the prediction is right.

    Raises:
      ValueError: shapes do not fit.
      TypeError: logits are not floating, or ``where`` is not boolean.

    Prefer it to `dice_loss` where classes differ much in size: a small one still counts, and none
    counts twice for being absent. For optax's loss of a like name see
    `multiclass_generalized_dice_loss`. Source: Sudre et al. (2017).

    >>> logits = jnp.zeros((1, 4, 2))
    >>> labels = jax.nn.one_hot(jnp.array([[0, 0, 0, 1]]), 2)
    >>> jloss.generalized_dice_loss(logits, labels)
    Array([0.625], dtype=float32)
    """
    loss = "generalized_dice_loss"
    logits, labels = floats(loss, logits=logits, labels=labels)
    same_shape(loss, logits=logits, labels=labels)
    where = mask(loss, where, logits.shape, tuple(range(1, logits.ndim)))
    axes = _image_axes(logits.ndim)
    inputs = _inputs(loss, logits, labels, where, True, ("logits", "labels"))
    overlap = _overlap(inputs, where, axes)
    size = inputs[2].sum(axes)
    there = size > 0
    least = jnp.where(there, size, jnp.inf).min(-1, keepdims=True, initial=jnp.inf)
    least = jnp.where(jnp.isinf(least), 1.0, least)
    # Relative to the largest weight, so that nothing over- or underflows.
    weight = jnp.where(there, (least / jnp.where(there, size, 1.0)) ** 2, 1.0)
    hit, extra, missed = ((weight * part).sum(-1) for part in overlap)
    return _share(0.5 * (extra + missed), hit)


def _exact_tversky(m, predictions, targets, alpha, beta, smooth):
    pairs = list(zip(predictions, targets, strict=True))
    hit = m.fsum(p * t for p, t in pairs)
    extra = m.fsum(p * (1 - t) for p, t in pairs)
    missed = m.fsum((1 - p) * t for p, t in pairs)
    return _exact_share((hit, extra, missed), smooth, alpha, beta)


@card(
    values="example",
    predictions=_CERTAIN_OR_NOT,
    targets=_CERTAIN_OR_NOT,
    hyper=dict(alpha=NONNEGATIVE, beta=NONNEGATIVE, smooth=NONNEGATIVE),
    exact=_exact_tversky,
    form=lambda loss: partial(loss, axis=-1),
    source="Salehi, Erdogmus & Gholipour (2017), Tversky loss function for image segmentation "
    "using 3D fully convolutional deep networks, MLMI",
    also=dict(keras="losses.tversky"),
    ulp=4,
    scale=1.0,
    minimum=0.0,
    maximum=1.0,
    convex=False,
    symmetric=True,
    invariant=("permutation",),
    given=dict(alpha=0.5, beta=0.5, smooth=0.0),
)
@compiled
def tversky_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    alpha: ArrayLike = 0.5,
    beta: ArrayLike = 0.5,
    smooth: ArrayLike = 0.0,
    axis: Axis = None,
    where: ArrayLike | None = None,
) -> Array:
    r"""What a region lacks of overlapping another, with a price for each kind of error.

    .. math::
        L = 1 - \frac{H + s}{H + \alpha F + \beta M + s}, \qquad
        H = \sum_i p_i t_i,\quad F = \sum_i p_i (1 - t_i),\quad M = \sum_i (1 - p_i)\, t_i

    Args:
      predictions: probabilities in [0, 1], NaN for the example otherwise.
      targets: the same shape; 0, 1 or a probability between, NaN for the example otherwise.
      alpha: the weight of what is predicted and not there; at least 0, NaN otherwise. Like the
        next two it broadcasts to the result.
      beta: the weight of what is missed, likewise.
      smooth: :math:`s`, an amount that is taken as hit, likewise.
      axis: the axes to sum over; None for all.
      where: boolean mask of what counts: of the shape of the result, or of the rank of the
        predictions.

    Returns:
      The shape of ``predictions`` without ``axis``, in float32 or float64: from 0 to 1, and 0 where
      nothing is there and nothing is predicted.

    Raises:
      ValueError: shapes do not fit, or ``axis`` names no axis.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    Prefer a large ``beta`` where it is worse to miss a lesion than to see one too many; for logits
    see `dice_loss`, which has both weights too. Keras has the two interchanged: its ``alpha``
    weights what is missed. Source: Salehi, Erdogmus & Gholipour (2017).

    >>> predictions = jnp.array([1.0, 1.0, 1.0, 0.0])
    >>> targets = jnp.array([1.0, 0.0, 0.0, 1.0])
    >>> jloss.tversky_loss(predictions, targets, alpha=0.25, beta=0.5)
    Array(0.5, dtype=float32)
    """
    loss = "tversky_loss"
    predictions, targets = floats(loss, predictions=predictions, targets=targets)
    same_shape(loss, predictions=predictions, targets=targets)
    axes = axes_of(loss, axis, predictions.ndim)
    where = mask(loss, where, predictions.shape, axes)
    inputs = _inputs(loss, predictions, targets, where, False)
    values = _tversky(loss, _overlap(inputs, where, axes), smooth, alpha, beta)
    return keep(None if where is None else where.any(axes), values)
