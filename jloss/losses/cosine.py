r"""Losses of the angle between two vectors: only directions count."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._compiled import compiled
from jloss._safe import (
    Axis,
    Unit,
    axes_of,
    chain,
    floats,
    hyper,
    keep,
    mask,
    nan_unless,
    ramp,
    same_shape,
    to_rows,
    unit,
)
from jloss.card import COSINE, EMBEDDING, NONNEGATIVE, SIGN, card

_ANGLE: dict[str, Any] = dict(
    values="example",
    predictions=EMBEDDING,
    targets=EMBEDDING,
    ulp=4,
    scale=1.0,
    convex=False,
    symmetric=True,
    invariant=("scale", "permutation"),
)
_WITH_EPSILON: dict[str, Any] = dict(
    hyper=dict(epsilon=NONNEGATIVE),
    source="Salton & McGill (1983), Introduction to modern information retrieval",
    kinks=False,
    given=dict(epsilon=0.0),
)


def _exact_cosine(m, prediction, target, epsilon):
    def norm(row):
        return m.sqrt(max(m.fsum(x * x for x in row), epsilon))

    norms = norm(prediction) * norm(target)
    return 1 - m.fdot(prediction, target) / norms if norms else m.mpf(1)


@card(
    **_ANGLE,
    **_WITH_EPSILON,
    exact=_exact_cosine,
    also=dict(
        optax="losses.cosine_distance",
        sklearn="metrics.pairwise.paired_cosine_distances",
    ),
    minimum=0.0,
    minimizer=lambda targets: targets,
    maximum=2.0,
)
@compiled
def cosine_distance(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: ArrayLike = 0.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""One minus the cosine of the angle: only the direction counts.

    .. math:: L(p, t) = 1 - \frac{p \cdot t}{\|p\| \, \|t\|}

    Args:
      predictions: vectors along ``axis``.
      targets: the same shape.
      epsilon: the least *squared* norm that a vector is divided by, as optax has it; at least 0.
        With the default, a zero vector has distance 1 to anything, with a zero gradient.
      axis: the axis, or axes, of a vector.
      where: boolean mask of what counts: of the shape of the result, or of the rank of the
        predictions, which leaves components out.

    Returns:
      The shape of ``predictions`` without ``axis``: values from 0 to 2, never outside. No digit is
      lost for nearly parallel vectors, and no magnitude overflows.

    Raises:
      ValueError: shapes differ, or ``axis`` names no axis.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    Source: Salton & McGill (1983).

    >>> predictions = jnp.array([[1.0, 0.0], [3.0, 4.0]])
    >>> jloss.cosine_distance(predictions, jnp.array([[0.0, 2.0], [6.0, 8.0]])).round(6)
    Array([1., 0.], dtype=float32)
    """
    values, seen = _cosine("cosine_distance", predictions, targets, epsilon, axis, where)
    return keep(seen, values)


def _cosine(
    loss: str,
    predictions: ArrayLike,
    targets: ArrayLike,
    epsilon: ArrayLike,
    axis: Axis,
    where: ArrayLike | None,
) -> tuple[Array, Array | None]:
    """One minus the cosine of each two vectors, and which of them count."""
    predictions, targets = floats(loss, predictions=predictions, targets=targets)
    predictions, targets, seen = _rows(loss, predictions, targets, axis, where)
    if isinstance(epsilon, float) and epsilon == 0:
        return _one_minus_cosine(predictions, targets), seen  # a program of half the length
    epsilon = hyper(loss, predictions, rows=True, epsilon=epsilon)
    predictions += nan_unless(loss, epsilon >= 0, "at least 0", epsilon=epsilon)[..., None]
    return _one_minus_cosine(predictions, targets, epsilon), seen


def _rows(
    loss: str, predictions: Array, targets: Array, axis: Axis, where: ArrayLike | None
) -> tuple[Array, Array, Array | None]:
    """Both vectors by rows, and which rows count."""
    same_shape(loss, predictions=predictions, targets=targets)
    axes = axes_of(loss, axis, predictions.ndim)
    where = mask(loss, where, predictions.shape, axes)
    predictions, targets = (to_rows(keep(where, x), axes) for x in (predictions, targets))
    return predictions, targets, None if where is None else to_rows(where, axes).any(-1)


@jax.custom_jvp
def _one_minus_cosine(predictions: Array, targets: Array, epsilon: Array | None = None) -> Array:
    """1 for a zero vector; ``epsilon`` is the least squared norm that a vector is divided by."""
    half, side, _ = _half_chord(unit(predictions, epsilon), unit(targets, epsilon))
    return _distance(half, side)


@partial(_one_minus_cosine.defjvp, symbolic_zeros=True)
def _one_minus_cosine_jvp(primals, tangents):
    # Autodiff takes twice as long to compile.
    epsilon = primals[2]
    one, other = unit(primals[0], epsilon), unit(primals[1], epsilon)
    half, side, chord = _half_chord(one, other)
    value = _distance(half, side)

    def slope(rows: Unit, others: Unit, chord: Array) -> Array:
        turned = side[..., None] * (chord - half[..., None] * rows.direction)
        if epsilon is not None:  # else a short row is zero, and its divisor infinite
            turned = jnp.where(rows.short[..., None], -others.direction, turned)
        return turned / rows.divisor[..., None] / rows.scale[..., None]

    slopes = slope(one, other, chord), slope(other, one, -side[..., None] * chord)
    _, change = chain(value, *zip(slopes, tangents[:2], strict=True), axis=-1)
    if epsilon is not None:
        shorts = one.short.astype(value.dtype) + other.short
        of_epsilon = (1.0 - value) * shorts / jnp.where(epsilon > 0, 2.0 * epsilon, jnp.inf)
        change += chain(value, (of_epsilon, tangents[2]))[1]
    return value, change


def _half_chord(one: Unit, other: Unit) -> tuple[Array, Array, Array]:
    """Half the squared chord to the nearer end of ``other``, which end that is, and the chord.

    For unit vectors 1 - cos is half the squared chord, which cancels nothing; beyond a right angle
    it is 2 minus half the squared chord to the opposite vector.
    """
    acute = (one.direction * other.direction).sum(-1) >= 0
    side = jnp.where(acute, 1.0, -1.0).astype(one.direction.dtype)
    chord = one.direction - side[..., None] * other.direction
    squared = (chord * chord).sum(-1)
    half = 0.5 * (squared + one.lacking + other.lacking)
    # A zero vector lacks all, and is at right angles to whatever the other's norm is rounded to.
    return jnp.where((one.lacking == 1) | (other.lacking == 1), 1.0, half), side, chord


def _distance(half: Array, side: Array) -> Array:
    return jnp.where(side > 0, half, 2.0 - half)


def _exact_similarity(m, prediction, target, epsilon):
    return 1 - _exact_cosine(m, prediction, target, epsilon)


@card(
    **_ANGLE,
    **_WITH_EPSILON,
    exact=_exact_similarity,
    also=dict(
        optax="losses.cosine_similarity",
        torch="nn.functional.cosine_similarity",
        keras="losses.cosine_similarity",
    ),
    minimum=-1.0,
    minimizer=lambda targets: -targets,
    maximum=1.0,
)
@compiled
def cosine_similarity(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: ArrayLike = 0.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""The cosine of the angle: 1 for one direction, -1 for the opposite. The larger, the better.

    .. math:: S(p, t) = \frac{p \cdot t}{\|p\| \, \|t\|}

    Args:
      predictions: vectors along ``axis``.
      targets: the same shape.
      epsilon: the least *squared* norm that a vector is divided by, as optax has it; at least 0.
        With the default, a zero vector has similarity 0 to anything, with a zero gradient.
      axis: the axis, or axes, of a vector.
      where: boolean mask of what counts: of the shape of the result, or of the rank of the
        predictions, which leaves components out.

    Returns:
      The shape of ``predictions`` without ``axis``: values from -1 to 1, never outside; 0 where
      hidden. No magnitude overflows.

    Raises:
      ValueError: shapes differ, or ``axis`` names no axis.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    It is no loss by itself: minimise `cosine_distance`, which keeps the digits of nearly parallel
    vectors. keras gives the negative under this name; torch takes axis 1.
    Source: Salton & McGill (1983).

    >>> predictions = jnp.array([[1.0, 0.0], [3.0, 4.0]])
    >>> jloss.cosine_similarity(predictions, jnp.array([[0.0, 2.0], [6.0, 8.0]]))
    Array([0., 1.], dtype=float32)
    """
    values, seen = _cosine("cosine_similarity", predictions, targets, epsilon, axis, where)
    return keep(seen, 1.0 - values)


def _exact_cosine_embedding(m, prediction, target, labels, margin):
    distance = _exact_cosine(m, prediction, target, 0)
    return distance if labels > 0 else max(m.mpf(0), 1 - distance - margin)


def _labels_by_name(loss: Callable[..., Any]) -> Callable[..., Any]:
    def form(predictions, targets, *, labels=1.0, margin=0.0, where=None):
        if jnp.ndim(labels) == 0:
            labels = jnp.full_like(predictions, labels)[..., 0]
        return loss(predictions, targets, labels, margin=margin, where=where)

    return form


@card(
    **_ANGLE,
    hyper=dict(labels=SIGN, margin=COSINE),
    exact=_exact_cosine_embedding,
    form=_labels_by_name,
    source="Salton & McGill (1983), Introduction to modern information retrieval; with labels as "
    "in Hadsell, Chopra & LeCun (2006)",
    also=dict(torch="nn.functional.cosine_embedding_loss"),
    minimum=0.0,
    minimizer=lambda targets, labels: targets * labels[:, None],
    maximum=2.0,
)
@compiled
def cosine_embedding_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    labels: ArrayLike,
    *,
    margin: ArrayLike = 0.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""The angle between two that belong together, and what of it others lack.

    .. math::
        L(p, t, y) = 1 - \cos(p, t) \text{ if } y = 1, \quad
        \max(0, \cos(p, t) - m) \text{ if } y = -1

    Args:
      predictions: vectors along ``axis``.
      targets: the same shape.
      labels: 1 for a pair that belongs together, -1 for others, NaN otherwise; the shape of the
        result.
      margin: :math:`m`, the cosine below which others do not count; from -1 to 1, NaN otherwise. It
        broadcasts to the result.
      axis: the axis, or axes, of a vector.
      where: boolean mask of what counts: of the shape of the result, or of the rank of the
        predictions, which leaves components out.

    Returns:
      The shape of ``predictions`` without ``axis``: values from 0 to 2, in float32 or float64. A
      zero vector is at right angles to all, with a zero gradient. Labels have no gradient.

    Raises:
      ValueError: shapes do not fit, or ``axis`` names no axis.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    Source: Salton & McGill (1983).

    >>> predictions = jnp.array([[1.0, 0.0], [3.0, 4.0]])
    >>> targets = jnp.array([[0.0, 2.0], [6.0, 8.0]])
    >>> jloss.cosine_embedding_loss(predictions, targets, jnp.array([1, -1]), margin=0.25)
    Array([1.  , 0.75], dtype=float32)
    """
    loss = "cosine_embedding_loss"
    predictions, targets, labels = floats(
        loss, predictions=predictions, targets=targets, labels=labels
    )
    predictions, targets, seen = _rows(loss, predictions, targets, axis, where)
    if labels.shape != predictions.shape[:-1]:
        raise ValueError(
            f"{loss}: labels {labels.shape} must have the shape {predictions.shape[:-1]} of the "
            "result, one for each pair of vectors."
        )
    labels = keep(seen, labels, 1)
    margin = hyper(loss, predictions, rows=True, margin=margin)
    spoilt = nan_unless(loss, jnp.abs(labels) == 1, "-1 or 1", labels=labels)
    spoilt += nan_unless(loss, jnp.abs(margin) <= 1, "in [-1, 1]", margin=margin)
    distance = _one_minus_cosine(predictions + spoilt[..., None], targets)
    return keep(seen, jnp.where(labels > 0, distance, ramp((1.0 - distance) - margin)))
