r"""Losses on embeddings: which examples should lie close to each other, and which apart.

A distance between two given vectors (`cosine_distance`) is in ``regression.py``.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._blocks import Arrays, Side, block_sum
from jloss._safe import (
    Axis,
    axes_of,
    chain,
    cosine_rows,
    floats,
    hyper,
    keep,
    largest,
    mask,
    nan_unless,
    ramp,
    same_shape,
    softplus,
    to_rows,
    unit,
)
from jloss.card import (
    COSINE,
    DEGREE,
    EMBEDDING,
    GROUP,
    NONNEGATIVE,
    POSITIVE,
    REAL,
    SIGN,
    UNIT,
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


def _exact_cosine_embedding(m, prediction, target, labels, margin):
    norms = m.sqrt(m.fdot(prediction, prediction) * m.fdot(target, target))
    cosine = m.fdot(prediction, target) / norms if norms else m.mpf(0)
    return 1 - cosine if labels > 0 else max(m.mpf(0), cosine - margin)


def _labels_by_name(loss: Callable[..., Any]) -> Callable[..., Any]:
    def form(predictions, targets, *, labels=1.0, margin=0.0, where=None):
        if jnp.ndim(labels) == 0:
            labels = jnp.full_like(predictions, labels)[..., 0]
        return loss(predictions, targets, labels, margin=margin, where=where)

    return form


@card(
    values="example",
    predictions=EMBEDDING,
    targets=EMBEDDING,
    hyper=dict(labels=SIGN, margin=COSINE),
    exact=_exact_cosine_embedding,
    form=_labels_by_name,
    source="Salton & McGill (1983), Introduction to modern information retrieval; with labels as "
    "in Hadsell, Chopra & LeCun (2006)",
    also=dict(torch="nn.functional.cosine_embedding_loss"),
    ulp=4,
    scale=1.0,
    minimum=0.0,
    minimizer=lambda targets, labels: targets * labels[:, None],
    maximum=2.0,
    convex=False,
    symmetric=True,
    invariant=("scale", "permutation"),
)
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
    same_shape(loss, predictions=predictions, targets=targets)
    axes = axes_of(loss, axis, predictions.ndim)
    where = mask(loss, where, predictions.shape, axes)
    predictions, targets = (to_rows(keep(where, x), axes) for x in (predictions, targets))
    seen = None if where is None else to_rows(where, axes).any(-1)
    if labels.shape != predictions.shape[:-1]:
        raise ValueError(
            f"{loss}: labels {labels.shape} must have the shape {predictions.shape[:-1]} of the "
            "result, one for each pair of vectors."
        )
    labels = keep(seen, labels, 1)
    margin = hyper(loss, predictions, rows=True, margin=margin)
    spoilt = nan_unless(loss, jnp.abs(labels) == 1, "-1 or 1", labels=labels)
    spoilt += nan_unless(loss, jnp.abs(margin) <= 1, "in [-1, 1]", margin=margin)
    distance = cosine_rows(predictions + spoilt[..., None], targets)
    return keep(seen, jnp.where(labels > 0, distance, ramp((1.0 - distance) - margin)))


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
    floor = _root(eps, degree)
    size = jnp.maximum(largest(jnp.abs(rows), 0.0, keepdims=True), floor)
    scale = jnp.where(size == 0, 1.0, size)
    total = (jnp.abs(rows) / scale) ** degree
    total = total.sum(-1, keepdims=True) + (floor / scale) ** degree
    return (scale * _root(total, degree))[..., 0]


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


# Of all pairs in a batch -------------------------------------------------------------------------


_ANCHORS = 64  # whose similarities to all others are held at a time


def _exact_ntxent(m, embeddings, labels, temperature):
    def cosine(a, b):
        norms = m.sqrt(m.fdot(a, a) * m.fdot(b, b))
        return m.fdot(a, b) / norms if norms else m.mpf(0)

    terms = []
    for i, anchor in enumerate(embeddings):
        similarity = [cosine(anchor, other) / temperature for other in embeddings]
        negatives = m.fsum(
            m.exp(s) for s, k in zip(similarity, labels, strict=True) if k != labels[i]
        )
        for j, positive in enumerate(similarity):
            if j != i and labels[j] == labels[i]:
                terms.append(m.log(m.exp(positive) + negatives) - positive)
    return m.fsum(terms) / len(terms) if terms else m.mpf(0)


@card(
    values="batch",
    predictions=EMBEDDING,
    targets=GROUP,
    hyper=dict(temperature=POSITIVE),
    exact=_exact_ntxent,
    source="Sohn (2016), Improved deep metric learning with multi-class n-pair loss objective, "
    "NeurIPS; Chen et al. (2020), A simple framework for contrastive learning, ICML",
    also=dict(optax="losses.ntxent"),
    ulp=16,
    scale=lambda temperature: 1 / temperature,
    minimum=0.0,
    convex=False,
    kinks=False,
    invariant=("scale",),
)
def ntxent(
    embeddings: ArrayLike,
    labels: ArrayLike,
    temperature: ArrayLike = 0.07,
    *,
    where: ArrayLike | None = None,
) -> Array:
    r"""Normalised temperature-scaled cross-entropy: each example should know its own group.

    .. math::
        L = \frac1{|P|} \sum_{(i, j) \in P} \log\Bigl(1 +
        \sum_{k:\ y_k \ne y_i} e^{(s_{ik} - s_{ij}) / \tau}\Bigr), \qquad
        s_{ij} = \frac{z_i \cdot z_j}{\|z_i\| \|z_j\|}

    over the ordered pairs :math:`P` of two different examples with the same label.

    Args:
      embeddings: (N, D), of any lengths; only directions count.
      labels: (N,) integers; equal ones belong together.
      temperature: :math:`\tau`, positive, NaN otherwise; the smaller, the more the closest
        strangers count.
      where: boolean mask (N,) of the examples that count.

    Returns:
      A scalar in float32 or float64; 0 where no two examples share a label. A zero vector is at
      right angles to all, with a zero gradient.

    Raises:
      ValueError: shapes do not fit.
      TypeError: embeddings are not floating, labels not integers, or ``where`` not boolean.

    It does not decompose: its value over two halves of a batch is not its value over the batch.
    Memory is O(N), for similarities are computed some rows at a time.
    Source: Sohn (2016), Chen et al. (2020).

    >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> jloss.ntxent(embeddings, jnp.array([0, 0, 1, 1]), temperature=1.0)
    Array(0.5978082, dtype=float32)
    """
    embeddings, labels, where = _batch("ntxent", embeddings, labels, where)
    temperature = hyper("ntxent", jnp.zeros((), embeddings.dtype), temperature=temperature)
    temperature += nan_unless("ntxent", temperature > 0, "positive", temperature=temperature)
    directions, _ = unit(embeddings)
    seen = jnp.ones(labels.shape, bool) if where is None else where
    others = labels, jnp.arange(len(labels)), seen
    rows, columns = ((directions / temperature,), others), ((directions,), others)
    total = block_sum(_ntxent_rows, _any_seen, (_ANCHORS, len(labels)), rows, columns)
    return total / jnp.maximum(_pairs_alike(labels, seen).astype(total.dtype), 1.0)


def _ntxent_rows(rows: Side, columns: Side) -> Array:
    """The sum for some anchors over all their pairs."""
    (anchors,), (others,) = rows[0], columns[0]
    similarity = jnp.matmul(anchors, others.T, precision="highest")
    alike, unlike = _alike_and_unlike(rows[1], columns[1])
    strangers = _log_sum_exp(similarity, unlike)
    return jnp.where(alike, softplus(strangers - similarity), 0.0).sum()


def _any_seen(rows: Side, columns: Side) -> Array:
    return rows[1][2].any()


def _pairs_alike(labels: Array, seen: Array) -> Array:
    """How many ordered pairs of two different examples share a label."""
    place = jnp.searchsorted(jnp.sort(labels), labels)
    counts = jnp.zeros(labels.shape, jnp.int32).at[place].add(seen)
    return jnp.where(seen, counts[place] - 1, 0).sum()


def _batch(
    loss: str, embeddings: ArrayLike, labels: ArrayLike, where: ArrayLike | None
) -> tuple[Array, Array, Array | None]:
    """Embeddings (N, D), 0 where hidden, their labels (N,), and the mask (N,)."""
    (embeddings,) = floats(loss, embeddings=embeddings)
    labels = jnp.asarray(labels)
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"{loss}: embeddings {embeddings.shape} and labels {labels.shape} must have the shapes "
            "(N, D) and (N,)."
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{loss}: labels must be integers, not {labels.dtype}.")
    where = mask(loss, where, labels.shape)
    return keep(None if where is None else where[:, None], embeddings), labels, where


def _similarities(
    embeddings: Array, labels: Array, where: Array | None
) -> tuple[Array, Array, Array]:
    """The cosines of all pairs, which of these have equal labels, and which different ones."""
    directions, _ = unit(embeddings)
    seen = jnp.ones(labels.shape, bool) if where is None else where
    examples = labels, jnp.arange(len(labels)), seen
    # Accelerators multiply float32 matrices in fewer digits unless they are told not to.
    similarity = jnp.matmul(directions, directions.T, precision="highest")
    return similarity, *_alike_and_unlike(examples, examples)


def _alike_and_unlike(rows: Arrays, columns: Arrays) -> tuple[Array, Array]:
    """Which pairs of two different examples have equal labels, and which different ones."""
    (labels, places, seen), (other_labels, other_places, others_seen) = rows, columns
    pairs = seen[:, None] & others_seen & (places[:, None] != other_places)
    same = labels[:, None] == other_labels
    return pairs & same, pairs & ~same


def _log_sum_exp(array: Array, where: Array) -> Array:
    """Over the last axis, which is kept; minus infinity, with gradient 0, where none counts."""
    top = jax.lax.stop_gradient(array.max(-1, keepdims=True, where=where, initial=-jnp.inf))
    some = where.any(-1, keepdims=True)
    shifted = jnp.where(where, array - jnp.where(some, top, 0.0), -jnp.inf)
    total = jnp.exp(shifted).sum(-1, keepdims=True)
    return jnp.where(some, top + jnp.log(jnp.where(some, total, 1.0)), -jnp.inf)


def _exact_circle(m, embeddings, labels, gamma, margin):
    norms = [m.sqrt(m.fdot(row, row)) for row in embeddings]

    def cosine(i, j):
        both = norms[i] * norms[j]
        return m.fdot(embeddings[i], embeddings[j]) / both if both else m.mpf(0)

    total = m.mpf(0)
    for i, label in enumerate(labels):
        alike, unlike = m.mpf(0), m.mpf(0)
        for j, other in enumerate(labels):
            s = cosine(i, j)
            if other != label:
                unlike += m.exp(gamma * max(0, s + margin) * (s - margin))
            elif j != i:
                alike += m.exp(-gamma * max(0, 1 + margin - s) * (s - 1 + margin))
        total += m.log1p(alike * unlike)
    return total


def _summed(loss: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(loss)
    def form(*arguments, **options):
        return loss(*arguments, **options).sum()

    return form


@card(
    values="batch",
    predictions=EMBEDDING,
    targets=GROUP,
    # At a margin of 1 the gradient jumps where vectors are opposite, but for a rounding.
    hyper=dict(gamma=POSITIVE, margin=replace(COSINE, draw=UNIT.draw, edges=(0.0, 0.1, 0.5))),
    exact=_exact_circle,
    form=_summed,
    source="Sun et al. (2020), Circle loss: a unified perspective of pair similarity optimization, "
    "CVPR",
    also=dict(keras="losses.circle"),
    ulp=16,
    scale=lambda gamma: 1 + gamma,
    minimum=0.0,
    convex=False,
    invariant=("scale",),
)
def circle_loss(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    gamma: ArrayLike = 80.0,
    margin: ArrayLike = 0.4,
    where: ArrayLike | None = None,
) -> Array:
    r"""Pulls a group together and others apart, each pair by how far it is from where it should be.

    .. math::
        L_i = \log\Bigl(1 + \sum_{j:\ y_j = y_i} e^{-\gamma [1 + m - s_{ij}]_+ (s_{ij} - 1 + m)}
        \sum_{k:\ y_k \ne y_i} e^{\gamma [s_{ik} + m]_+ (s_{ik} - m)}\Bigr), \qquad
        s_{ij} = \frac{z_i \cdot z_j}{\|z_i\| \|z_j\|}

    Args:
      embeddings: (N, D), of any lengths; only directions count.
      labels: (N,) integers; equal ones belong together.
      gamma: :math:`\gamma`, the scale of similarities; positive, NaN otherwise.
      margin: :math:`m`: the cosine should be above :math:`1 - m` within a group and below :math:`m`
        between groups; from -1 to 1, NaN otherwise.
      where: boolean mask (N,) of the examples that count.

    Returns:
      One value for each example, (N,), in float32 or float64; 0 for one that has no other of its
      group, or none of another group. A zero vector is at right angles to all, with a zero
      gradient.

    Raises:
      ValueError: shapes do not fit.
      TypeError: embeddings are not floating, labels not integers, or ``where`` not boolean.

    The weights in brackets are differentiated, as in Keras, whose embeddings must be normalised
    already; pytorch-metric-learning takes them for constants. A value depends on the whole batch:
    it does not decompose. Source: Sun et al. (2020).

    >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> jloss.circle_loss(embeddings, jnp.array([0, 0, 1]), gamma=1.0)
    Array([0.58288175, 0.8348448 , 0.        ], dtype=float32)
    """
    loss = "circle_loss"
    embeddings, labels, where = _batch(loss, embeddings, labels, where)
    scalar = jnp.zeros((), embeddings.dtype)
    gamma, margin = hyper(loss, scalar, gamma=gamma), hyper(loss, scalar, margin=margin)
    gamma += nan_unless(loss, gamma > 0, "positive", gamma=gamma)
    gamma += nan_unless(loss, jnp.abs(margin) <= 1, "in [-1, 1]", margin=margin)
    similarity, alike, unlike = _similarities(embeddings, labels, where)
    pull = -gamma * ramp((1.0 - similarity) + margin) * (similarity - (1.0 - margin))
    push = gamma * ramp(similarity + margin) * (similarity - margin)
    both = _log_sum_exp(pull, alike) + _log_sum_exp(push, unlike)
    return softplus(both[:, 0])
