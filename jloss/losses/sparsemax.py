r"""Losses whose probabilities may be exactly 0: sparsemax, and Fenchel-Young losses at large."""

import math
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
    chain,
    class_indices,
    class_rows,
    floats,
    is_class,
    keep,
    mask,
    nan_unless,
    nan_unless_class,
    product,
    same_shape,
    two_difference,
)
from jloss.card import (
    BINARY,
    CLASS,
    LOGIT,
    PROBABILITIES,
    REAL,
    card,
)


def _exact_sparsemax(m, logit, label):
    against = -logit if label else logit
    return max(0, against if against >= 1 else m.mpf(max(against + 1, 0)) ** 2 / 4)


@card(
    values="element",
    predictions=LOGIT,
    targets=BINARY,
    exact=_exact_sparsemax,
    source="Blondel, Martins & Niculae (2020), Learning with Fenchel-Young losses, JMLR 21",
    also=dict(optax="losses.sparsemax_loss"),
    ulp=2,
    minimum=0.0,
    minimizer=lambda targets: 2.0 * targets - 1.0,
    convex=True,
    lipschitz=1.0,
    smooth=0.5,
    kinks=False,
)
@compiled
def sparsemax_loss(
    logits: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
    r"""A binary loss that is exactly 0 once the right answer leads by enough.

    .. math::
        L(x, y) = 0 \text{ if } z \le -1, \quad \tfrac14 (z + 1)^2 \text{ if } -1 < z < 1, \quad
        z \text{ otherwise}, \qquad z = (1 - 2 y) x

    Args:
      logits: scores of a yes, any shape; infinities are allowed.
      labels: the same shape; 0 or 1, NaN otherwise.
      where: boolean mask of what counts, of the same rank.

    Returns:
      One value an element, in float32 or float64. Its gradient is the sparse sigmoid, ``x`` + 1
      over 2 clipped to [0, 1], minus the label.

    Raises:
      ValueError: shapes differ.
      TypeError: logits are not floating, or ``where`` is not boolean.

    Prefer `sigmoid_binary_cross_entropy` where probabilities of 0 and 1 are too sure. Its best
    constant score is twice the share of the yes, minus 1.
    Source: Blondel, Martins & Niculae (2020).

    >>> jloss.sparsemax_loss(jnp.array([2.0, 0.0, -3.0]), jnp.array([1, 1, 1]))
    Array([0.  , 0.25, 3.  ], dtype=float32)
    """
    loss = "sparsemax_loss"
    logits, labels = floats(loss, logits=logits, labels=labels)
    same_shape(loss, logits=logits, labels=labels)
    where = mask(loss, where, logits.shape)
    logits, labels = keep(where, logits), keep(where, labels)
    inside = (labels == 0) | (labels == 1)
    logits += nan_unless(loss, inside, "0 or 1", labels=labels)
    return keep(where, _sparse_plus(jnp.where(labels == 1, -logits, logits)))


def _sparse_plus(score: Array) -> Array:
    # Clipped first, for an infinite score would have a NaN in the branch that is not taken.
    near = 1.0 + jnp.clip(score, -1.0, 1.0)
    return jnp.where(score >= 1, score, 0.25 * near * near)


def _exact_multiclass_sparsemax(m, scores, label):
    ordered, total, threshold = sorted(scores, reverse=True), m.mpf(0), m.mpf(0)
    for count, score in enumerate(ordered, 1):
        total += score
        if score > (total - 1) / count:
            threshold = (total - 1) / count
    likely = [max(score - threshold, m.mpf(0)) for score in scores]
    lead = m.fsum(p * (score - scores[label]) for p, score in zip(likely, scores, strict=True))
    return lead + (1 - m.fdot(likely, likely)) / 2


@card(
    values="example",
    predictions=REAL,
    targets=CLASS,
    exact=_exact_multiclass_sparsemax,
    source="Martins & Astudillo (2016), From softmax to sparsemax: a sparse model of attention and "
    "multi-label classification, ICML",
    also=dict(optax="losses.multiclass_sparsemax_loss"),
    ulp=4,
    scale="unit",
    minimum=0.0,
    convex=True,
    lipschitz=math.sqrt(2),
    smooth=1.0,
    kinks=False,
    invariant=("shift",),
)
@compiled
def multiclass_sparsemax_loss(
    scores: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
    r"""A loss of one class out of several that is exactly 0 once the class leads by 1.

    .. math::
        L(s, c) = \max_{p \in \Delta} \bigl(p \cdot s - \tfrac12 \|p\|^2\bigr) + \tfrac12 - s_c

    Args:
      scores: one a class along the last axis.
      labels: integer classes from 0 to C - 1, NaN for the example otherwise; the shape of
        ``scores`` without the last axis.
      where: boolean mask of what counts: of the shape of ``labels``, or of the rank of the scores,
        which leaves classes out.

    Returns:
      The shape of ``labels``, in float32 or float64. Its gradient is the sparsemax, the point of
      the simplex that is nearest to the scores, minus 1 at the class.

    Raises:
      ValueError: shapes do not fit.
      TypeError: scores are not floating, labels not integers, or ``where`` not boolean.

    Prefer it to `softmax_cross_entropy_with_integer_labels` where most classes should get no
    probability at all.
    Source: Martins & Astudillo (2016).

    >>> scores = jnp.array([[1.5, 0.2, 0.0], [0.0, 0.5, 0.0]])
    >>> jloss.multiclass_sparsemax_loss(scores, jnp.array([0, 0]))
    Array([0.       , 0.5833334], dtype=float32)
    """
    loss = "multiclass_sparsemax_loss"
    (scores,) = floats(loss, scores=scores)
    rows, axes, where = class_rows(loss, scores, -1, where, hidden=-jnp.inf)
    labels = class_indices(loss, labels, axes, scores=scores)
    seen = None if where is None else where.any(-1)
    labels = keep(seen, labels)
    spoilt = nan_unless_class(loss, labels, rows)
    return keep(seen, _sparsemax_loss(rows, labels, spoilt))


@jax.custom_jvp
def _sparsemax_loss(rows: Array, labels: Array, spoilt: Array) -> Array:
    likely, missing = _sparsemax(rows)
    own = is_class(rows, labels)
    # Squares, and how far a class without probability is from having any: nothing cancels.
    wrong = jnp.where(own, missing, likely)
    heights = _heights(rows)
    beyond = jnp.where(own, _level(heights) - heights, -jnp.inf).max(-1, initial=-jnp.inf)
    return 0.5 * (wrong * wrong).sum(-1) + jnp.maximum(beyond, 0.0) + spoilt


@partial(_sparsemax_loss.defjvp, symbolic_zeros=True)
def _sparsemax_loss_jvp(primals, tangents):
    rows, labels, spoilt = primals
    likely, missing = _sparsemax(rows)
    slope = jnp.where(is_class(rows, labels), -missing, likely) + spoilt[..., None]
    return chain(_sparsemax_loss(rows, labels, spoilt), (slope, tangents[0]), axis=-1)


@jax.custom_jvp
def _sparsemax(rows: Array) -> tuple[Array, Array]:
    """The projection on the simplex, and 1 minus it without loss where one class leads."""
    heights = _heights(rows)
    level = _level(heights)
    likely = jnp.maximum(heights - level, 0.0)
    return likely, jnp.where(heights == 1, level, 1.0 - likely)


@_sparsemax.defjvp
def _sparsemax_jvp(primals, tangents):
    (rows,), (change,) = primals, tangents
    likely, missing = _sparsemax(rows)
    support = likely > 0
    mean = jnp.where(support, change, 0.0).sum(-1, keepdims=True) / support.sum(-1, keepdims=True)
    change = jnp.where(support, change - mean, 0.0)
    return (likely, missing), (change, -change)


def _heights(rows: Array) -> Array:
    """Scores such that the largest is 1, with the digits of those near 0."""
    behind, lost = two_difference(rows, rows.max(-1, keepdims=True, initial=-jnp.inf))
    return (1.0 + behind) + lost


def _level(heights: Array) -> Array:
    """What is taken off the heights so that the rest is a distribution, (..., 1)."""
    # Over the leader alone it is 0; without that 1, nothing cancels.
    followers = jnp.sort(heights, descending=True)[..., 1:]
    counts = jnp.arange(2, heights.shape[-1] + 1, dtype=heights.dtype)
    levels = jnp.cumsum(followers, -1) / counts
    return levels.max(-1, keepdims=True, initial=0.0)


def _exact_log_sum_exp_less_dot(m, scores, targets):
    top = max(scores)
    total = top + m.log(m.fsum(m.exp(score - top) for score in scores))
    return total - m.fdot(scores, targets)


@card(
    values="example",
    predictions=REAL,
    targets=replace(PROBABILITIES, outside=()),
    exact=_exact_log_sum_exp_less_dot,
    source="Blondel, Martins & Niculae (2020), Learning with Fenchel-Young losses, JMLR 21",
    also=dict(optax="losses.make_fenchel_young_loss"),
    ulp=8,
    scale="input",
    convex=True,
    lipschitz=math.sqrt(2),
    smooth=0.5,
    kinks=False,
    invariant=("shift", "permutation"),
    form=lambda make: make(jax.nn.logsumexp),
)
@compiled
def make_fenchel_young_loss(max_fun: Callable[..., ArrayLike]) -> Callable[..., Array]:
    r"""The loss whose gradient is the prediction of a regularised argmax, minus the targets.

    .. math:: L(s, t) = \max_p \bigl(p \cdot s - \Omega(p)\bigr) - t \cdot s

    Args:
      max_fun: the maximum as a function of a vector of scores: log-sum-exp makes the cross-entropy.
        Its gradient is the prediction. Further arguments of the loss are passed on to it.

    Returns:
      ``loss(scores, targets, *arguments, where=None, **options)``: scores and targets of one
      shape, vectors along the last axis; the values have that shape without it, in float32 or
      float64. ``where`` is a boolean mask of the shape of the values, or of the rank of the scores,
      whose hidden entries are minus infinity for ``max_fun``.

    Raises:
      ValueError: shapes differ (by the loss, as all errors).
      TypeError: scores are not floating, or ``where`` is not boolean.

    The loss is 0 at best up to :math:`\Omega(t)`, which has no gradient and is left out. The card
    speaks of log-sum-exp; `softmax_cross_entropy` keeps more digits.
    Source: Blondel, Martins & Niculae (2020).

    >>> loss = jloss.make_fenchel_young_loss(jax.nn.logsumexp)
    >>> loss(jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 0.0]]))
    Array([0.6931472], dtype=float32)
    """
    loss = "make_fenchel_young_loss"

    def fenchel_young_loss(
        scores: ArrayLike,
        targets: ArrayLike,
        *arguments: Any,
        where: ArrayLike | None = None,
        **options: Any,
    ) -> Array:
        scores, targets = floats(loss, scores=scores, targets=targets)
        same_shape(loss, scores=scores, targets=targets)
        rows, _, where = class_rows(loss, scores, -1, where, hidden=-jnp.inf)
        targets = keep(where, targets)
        best = jnp.vectorize(lambda row: max_fun(row, *arguments, **options), signature="(n)->()")
        values = best(rows) - product(targets, rows).sum(-1)
        return keep(None if where is None else where.any(-1), values)

    return fenchel_young_loss
