r"""Losses on embeddings: which examples should lie close to each other, and which apart.

A distance between two given vectors (`cosine_distance`) is in ``cosine.py``, losses on all
pairs of a batch are in ``contrastive.py``.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._compiled import compiled
from jloss._safe import (
    Axis,
    axes_of,
    chain,
    floats,
    hyper,
    keep,
    largest,
    mask,
    nan_unless,
    ramp,
    same_shape,
    to_rows,
)
from jloss.card import (
    DEGREE,
    EMBEDDING,
    NONNEGATIVE,
    POSITIVE,
    REAL,
    SIGN,
    card,
)

# Of pairs that belong together or not ------------------------------------------------------------


def _exact_hinge_embedding(m, distance, sign, margin):
    return distance if sign > 0 else max(m.mpf(0), margin - distance)


@card(
    values="element",
    predictions=REAL,
    targets=SIGN,
    hyper=dict(margin=NONNEGATIVE),
    exact=_exact_hinge_embedding,
    source="Hadsell, Chopra & LeCun (2006), Dimensionality reduction by learning an invariant "
    "mapping, CVPR",
    also=dict(torch="nn.functional.hinge_embedding_loss"),
    ulp=1,
    convex=True,
    lipschitz=1.0,
)
@compiled
def hinge_embedding_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    margin: ArrayLike = 1.0,
    where: ArrayLike | None = None,
) -> Array:
    r"""The distance of two that belong together, and what others lack of a margin.

    .. math:: L(d, t) = d \text{ if } t = 1, \quad \max(0, m - d) \text{ if } t = -1

    Args:
      predictions: distances of any shape.
      targets: the same shape; 1 for a pair that belongs together, -1 for others, NaN otherwise.
      margin: :math:`m`, the distance beyond which others do not count, in the units of the
        distances; at least 0, NaN otherwise. It broadcasts to the predictions.
      where: boolean mask of what counts, of the same rank.

    Returns:
      One value an element, in float32 or float64. At a distance of exactly the margin the gradient
      is 0.

    Raises:
      ValueError: shapes differ, or ``margin`` does not broadcast.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    Source: Hadsell, Chopra & LeCun (2006).

    >>> distances = jnp.array([0.5, 0.25, 2.0])
    >>> jloss.hinge_embedding_loss(distances, jnp.array([1, -1, -1]))
    Array([0.5 , 0.75, 0.  ], dtype=float32)
    """
    loss = "hinge_embedding_loss"
    predictions, targets = floats(loss, predictions=predictions, targets=targets)
    same_shape(loss, predictions=predictions, targets=targets)
    where = mask(loss, where, predictions.shape)
    predictions, targets = keep(where, predictions), keep(where, targets, 1)
    margin = hyper(loss, predictions, margin=margin)
    spoilt = nan_unless(loss, jnp.abs(targets) == 1, "-1 or 1", targets=targets)
    spoilt += nan_unless(loss, margin >= 0, "at least 0", margin=margin)
    predictions *= 1.0 + spoilt  # the slope may be constant
    return keep(where, jnp.where(targets > 0, predictions, ramp(margin - predictions)))


# Of triplets -------------------------------------------------------------------------------------

# Beside components of 1e30 the exact difference of two distances has no digit in common with ours.
_VECTOR = replace(EMBEDDING, edges=(0.0, 1.0, 1e-30))


def _exact_triplet(m, anchor, positive, negatives, norm_degree, margin, eps):
    def norm(other):
        powers = (abs(a - b) ** norm_degree for a, b in zip(anchor, other, strict=True))
        return (m.fsum(powers) + eps) ** (1 / norm_degree)

    return max(m.mpf(0), norm(positive) - norm(negatives) + margin)


def _negatives_by_name(loss: Callable[..., Any]) -> Callable[..., Any]:
    def form(
        anchors, positives, *, negatives=0.0, norm_degree=2.0, margin=1.0, eps=1e-6, where=None
    ):
        if jnp.ndim(negatives) == 0:
            negatives = jnp.full_like(anchors, negatives)
        return loss(
            anchors,
            positives,
            negatives,
            norm_degree=norm_degree,
            margin=margin,
            eps=eps,
            where=where,
        )

    return form


@card(
    values="example",
    predictions=_VECTOR,
    targets=_VECTOR,
    hyper=dict(
        negatives=replace(_VECTOR, whole=True),
        norm_degree=DEGREE,
        margin=NONNEGATIVE,
        eps=POSITIVE,
    ),
    exact=_exact_triplet,
    form=_negatives_by_name,
    source="Weinberger & Saul (2009), Distance metric learning for large margin nearest neighbor "
    "classification, JMLR 10; Balntas et al. (2016), Learning local feature descriptors with "
    "triplets and shallow convolutional neural networks, BMVC",
    also=dict(optax="losses.triplet_margin_loss", torch="nn.functional.triplet_margin_loss"),
    ulp=8,
    scale=lambda norm_degree, eps: 4 + eps ** (1 / norm_degree),
    minimum=0.0,
    convex=False,
    lipschitz=2.0,
    invariant=("permutation",),
    given=dict(norm_degree=2.0),
)
@compiled
def triplet_margin_loss(
    anchors: ArrayLike,
    positives: ArrayLike,
    negatives: ArrayLike,
    axis: Axis = -1,
    norm_degree: ArrayLike = 2,
    margin: ArrayLike = 1.0,
    eps: ArrayLike = 1e-6,
    *,
    swap: bool = False,
    where: ArrayLike | None = None,
) -> Array:
    r"""Zero once the anchor is nearer to its positive than to its negative by a margin.

    .. math::
        L(a, p, n) = \max\bigl(0,\ d(a, p) - d(a, n) + m\bigr), \qquad
        d(x, y) = \Bigl(\epsilon + \sum_i |x_i - y_i|^q\Bigr)^{1/q}

    Args:
      anchors: vectors along ``axis``.
      positives: vectors that belong with the anchors, the same shape.
      negatives: vectors that do not, the same shape.
      axis: the axis, or axes, of a vector.
      norm_degree: :math:`q`, at least 1, NaN otherwise. Like the next two it broadcasts to the
        result.
      margin: :math:`m`, in the units of the distances; at least 0, NaN otherwise.
      eps: :math:`\epsilon`, which keeps the gradient continuous where vectors are equal; at least
        0, NaN otherwise. At 0 the gradient of a distance of 0 is 0.
      swap: take the nearer of anchor and positive to the negative instead of the anchor (Balntas).
      where: boolean mask of what counts: of the shape of the result, or of the rank of the anchors,
        which leaves components out.

    Returns:
      The shape of ``anchors`` without ``axis``, in float32 or float64. At a lead of exactly the
      margin the gradient is 0.

    Raises:
      ValueError: shapes do not fit, or ``axis`` names no axis.
      TypeError: anchors are not floating, or ``where`` is not boolean.

    Powers are of absolute values, so that a degree of 1 or 3 is right, where optax is not. Torch
    adds its ``eps`` to each component of a difference, and not to the sum.
    Source: Weinberger & Saul (2009), Balntas et al. (2016).

    >>> anchors, positives = jnp.array([[0.0, 0.0]]), jnp.array([[1.0, -2.0]])
    >>> negatives = jnp.array([[-2.0, 2.0]])
    >>> jloss.triplet_margin_loss(anchors, positives, negatives, norm_degree=1, margin=1.5)
    Array([0.5], dtype=float32)
    """
    loss = "triplet_margin_loss"
    anchors, positives, negatives, seen = _triplets(
        loss, anchors, positives, negatives, axis, where
    )
    degree = hyper(loss, anchors, rows=True, norm_degree=norm_degree)
    eps = hyper(loss, anchors, rows=True, eps=eps)
    anchors += nan_unless(loss, degree >= 1, "at least 1", norm_degree=degree)[..., None]
    anchors += nan_unless(loss, eps >= 0, "at least 0", eps=eps)[..., None]
    shape = (*anchors.shape[:-1], 1)
    degree, eps = (jnp.broadcast_to(x[..., None], shape) for x in (degree, eps))

    def distance(x: Array, y: Array) -> Array:
        return _norm(x - y, degree, eps)

    return keep(seen, _lead(loss, anchors, positives, negatives, distance, margin, swap))


def _triplets(
    loss: str,
    anchors: ArrayLike,
    positives: ArrayLike,
    negatives: ArrayLike,
    axis: Axis,
    where: ArrayLike | None,
) -> tuple[Array, Array, Array, Array | None]:
    """The three with a vector a row, and the mask of rows.

    Rows that are hidden differ from each other, for any distance has a gradient there.
    """
    anchors, positives, negatives = floats(
        loss, anchors=anchors, positives=positives, negatives=negatives
    )
    same_shape(loss, anchors=anchors, positives=positives)
    same_shape(loss, anchors=anchors, negatives=negatives)
    axes = axes_of(loss, axis, anchors.ndim)
    where = mask(loss, where, anchors.shape, axes)
    vectors = [to_rows(keep(where, x), axes) for x in (anchors, positives, negatives)]
    if where is None:
        return vectors[0], vectors[1], vectors[2], None
    seen = to_rows(where, axes).any(-1)
    vectors = [keep(seen[..., None], x, fill) for fill, x in enumerate(vectors, 1)]
    return vectors[0], vectors[1], vectors[2], seen


def _lead(
    loss: str,
    anchors: Array,
    positives: Array,
    negatives: Array,
    distance: Callable[[Array, Array], Array],
    margin: ArrayLike,
    swap: bool,
) -> Array:
    """By how much the positive is not nearer than the negative by a margin."""
    margin = hyper(loss, anchors, rows=True, margin=margin)
    anchors += nan_unless(loss, margin >= 0, "at least 0", margin=margin)[..., None]
    near, far = distance(anchors, positives), distance(anchors, negatives)
    if swap:
        far = jnp.minimum(far, distance(positives, negatives))
    return ramp((near - far) + margin)


@jax.custom_jvp
def _norm(rows: Array, degree: Array, eps: Array) -> Array:
    """``(eps + sum(abs(rows) ** degree)) ** (1 / degree)``, of rows of any magnitude."""
    degrees = degree[..., 0]
    floor = _root(eps[..., 0], degrees)
    size = jnp.maximum(largest(jnp.abs(rows), 0.0), floor)
    scale = jnp.where(size == 0, 1.0, size)
    total = (jnp.abs(rows) / scale[..., None]) ** degree
    return scale * _root(total.sum(-1) + (floor / scale) ** degrees, degrees)


@partial(_norm.defjvp, symbolic_zeros=True)
def _norm_jvp(primals, tangents):
    rows, degree, eps = primals
    norm = _norm(rows, degree, eps)
    size = jnp.where(norm == 0, 1.0, norm)[..., None]
    share = jnp.where(rows == 0, 1.0, jnp.abs(rows)) / size
    # The power of a share that is 0 has no second derivative; for a degree of 2 there is one.
    slope = jnp.where(degree == 2, rows / size, jnp.sign(rows) * share ** (degree - 1.0))
    nothing = norm[..., None] == 0
    eps_slope = jnp.where(nothing, 0.0, size ** (1.0 - degree) / degree)
    some = jnp.where(share > 0, share, 1.0)  # it may underflow
    parts = jnp.where(rows == 0, 0.0, some**degree * jnp.log(some)).sum(-1, keepdims=True)
    parts -= (_root(eps, degree) / size) ** degree * jnp.log(size)
    degree_slope = jnp.where(nothing, 0.0, size / degree * parts)
    return chain(
        norm, (slope, tangents[0]), (degree_slope, tangents[1]), (eps_slope, tangents[2]), axis=-1
    )


def _root(array: Array, degree: Array) -> Array:
    """``array ** (1 / degree)``, 0 with a zero gradient for 0."""
    return jnp.where(array > 0, jnp.where(array > 0, array, 1.0) ** (1.0 / degree), 0.0)


def _euclidean(x: Array, y: Array) -> Array:
    one = jnp.ones((*x.shape[:-1], 1), x.dtype)
    return _norm(x - y, 2.0 * one, 0.0 * one)


def _exact_euclidean_triplet(m, anchor, positive, negatives, margin):
    return _exact_triplet(m, anchor, positive, negatives, m.mpf(2), margin, m.mpf(0))


def _negatives_and_margin_by_name(loss: Callable[..., Any]) -> Callable[..., Any]:
    def form(anchors, positives, *, negatives=0.0, margin=1.0, where=None):
        if jnp.ndim(negatives) == 0:
            negatives = jnp.full_like(anchors, negatives)
        return loss(anchors, positives, negatives, margin=margin, where=where)

    return form


@card(
    values="example",
    predictions=_VECTOR,
    targets=_VECTOR,
    hyper=dict(negatives=replace(_VECTOR, whole=True), margin=NONNEGATIVE),
    exact=_exact_euclidean_triplet,
    form=_negatives_and_margin_by_name,
    source="Balntas et al. (2016), Learning local feature descriptors with triplets and shallow "
    "convolutional neural networks, BMVC",
    also=dict(torch="nn.functional.triplet_margin_with_distance_loss"),
    ulp=4,
    scale=4.0,
    minimum=0.0,
    convex=False,
    lipschitz=2.0,
    invariant=("permutation",),
)
@compiled
def triplet_margin_with_distance_loss(
    anchors: ArrayLike,
    positives: ArrayLike,
    negatives: ArrayLike,
    *,
    distance_function: Callable[[Array, Array], Array] | None = None,
    margin: ArrayLike = 1.0,
    swap: bool = False,
    where: ArrayLike | None = None,
) -> Array:
    r"""The triplet loss for any distance.

    .. math:: L(a, p, n) = \max\bigl(0,\ d(a, p) - d(a, n) + m\bigr)

    Args:
      anchors: vectors along the last axis.
      positives: vectors that belong with the anchors, the same shape.
      negatives: vectors that do not, the same shape.
      distance_function: :math:`d`, from two arrays of vectors to an array of distances without the
        last axis; None for the Euclidean distance, whose gradient at 0 is 0.
      margin: :math:`m`, in the units of the distances; at least 0, NaN otherwise. It broadcasts to
        the result.
      swap: take the nearer of anchor and positive to the negative instead of the anchor.
      where: boolean mask of what counts: of the shape of the result, or of the rank of the anchors,
        which makes hidden components 0 in all three vectors.

    Returns:
      The shape of ``anchors`` without the last axis, in float32 or float64. At a lead of exactly
      the margin the gradient is 0.

    Raises:
      ValueError: shapes do not fit, or the distances have another shape than the result.
      TypeError: anchors are not floating, or ``where`` is not boolean.

    Prefer `triplet_margin_loss` for the distance of a norm. Source: Balntas et al. (2016).

    >>> anchors, positives = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 2.0]])
    >>> jloss.triplet_margin_with_distance_loss(
    ...     anchors, positives, jnp.array([[3.0, 0.0]]), distance_function=jloss.cosine_distance
    ... )
    Array([2.], dtype=float32)
    """
    loss = "triplet_margin_with_distance_loss"
    anchors, positives, negatives, seen = _triplets(loss, anchors, positives, negatives, -1, where)

    def distance(x: Array, y: Array) -> Array:
        distances = (distance_function or _euclidean)(x, y)
        if distances.shape != x.shape[:-1]:
            raise ValueError(
                f"{loss}: distance_function gave {distances.shape} for vectors {x.shape}; it must "
                f"give one distance for each, {x.shape[:-1]}."
            )
        return distances

    return keep(seen, _lead(loss, anchors, positives, negatives, distance, margin, swap))
