"""Lambda weights: how much each pair of a pair-wise ranking loss counts for a metric."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._compiled import compiled
from jloss._safe import keep, mask
from jloss.card import REAL, card
from jloss.losses._lists import (
    LABEL,
    _beside,
    _best_discounts,
    _differences,
    _discount,
    _factors,
    _gain,
    _items,
    _lists,
    _ranks,
)


def _weighed_pairs(lambdaweight_fn):
    """The card's form: how far the scores of pairs are in the wrong order, weighed and added up."""

    def loss(scores, labels, *, where=None):
        weights = lambdaweight_fn(scores, labels, where=where)
        beside = _beside(
            jnp.asarray(scores), mask("", where, scores.shape, (scores.ndim - 1,)), None
        )
        ordered = beside & (labels[..., :, None] > labels[..., None, :])
        gap, _ = _differences(jnp.asarray(scores, weights.dtype), ordered)
        return jnp.where(gap <= 0, 0.0, weights * gap).sum((-2, -1))

    return loss


def _exact_weighed_pairs(weight):
    def exact(m, scores, labels):
        items = range(len(scores))
        order = sorted(items, key=lambda i: -scores[i])
        ranks = [1 + order.index(i) for i in items]
        return m.fsum(
            weight(m, (labels[i], labels[j]), sorted((ranks[i], ranks[j])))
            * (scores[j] - scores[i])
            for i in items
            for j in items
            if labels[i] > labels[j] and scores[j] > scores[i]
        ) * (1 if weight is _exact_labeldiff else len(scores))

    return exact


def _exact_labeldiff(m, labels, ranks):
    return labels[0] - labels[1]


def _exact_dcg(m, labels, ranks):
    near, far = (1 / m.log(1 + rank, 2) for rank in ranks)
    return (2 ** labels[0] - 2 ** labels[1]) * (near - far)


def _exact_dcg2(m, labels, ranks):
    gap = ranks[1] - ranks[0]
    return _exact_dcg(m, labels, (gap, gap + 1))


_PAIRS: dict[str, Any] = dict(
    values="list", predictions=REAL, targets=LABEL, minimum=0.0, form=_weighed_pairs
)


@card(
    **_PAIRS,
    exact=_exact_weighed_pairs(_exact_labeldiff),
    source="Burges (2010), From RankNet to LambdaRank to LambdaMART: an overview, Microsoft "
    "Research MSR-TR-2010-82",
    also=dict(rax="labeldiff_lambdaweight"),
    ulp=2,
    convex=True,
    invariant=("shift", "permutation"),
)
@compiled
def labeldiff_lambdaweight(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    segments: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Array:
    r"""Weighs a pair by how much more relevant one of its items is.

    .. math:: \lambda_{ij} = |y_i - y_j|

    Args:
      scores: one an item, the items of a list along the last axis; only their shape counts.
      labels: the same shape; how relevant each item is, any real number.
      where: boolean mask of the items that count, or of whole lists.
      segments: integers of the shape of ``scores``; items of a row with the same one are a list.
      weights: taken, and ignored, so that all lambda weights can be called alike.

    Returns:
      (..., n, n) for n items, in float32 or float64; 0 for items that are not in one list.

    Raises:
      ValueError: shapes differ.
      TypeError: scores are not floating, segments not integers, or ``where`` is not boolean.

    Source: Burges (2010).

    >>> jloss.labeldiff_lambdaweight(jnp.array([1.2, 0.4]), jnp.array([3.0, 1.0]))
    Array([[0., 2.],
           [2., 0.]], dtype=float32)
    """
    loss = "labeldiff_lambdaweight"
    scores, labels, where, segments = _items(loss, labels, where, segments, scores=scores)
    return jnp.abs(_differences(labels, _beside(labels, where, segments))[0])


@card(
    **_PAIRS,
    exact=_exact_weighed_pairs(_exact_dcg),
    source="Burges, Ragno & Le (2006), Learning to rank with nonsmooth cost functions, NeurIPS",
    also=dict(rax="dcg_lambdaweight"),
    ulp=4,
)
@compiled
def dcg_lambdaweight(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    segments: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    topn: int | None = None,
    normalize: bool = False,
    gain_fn: Callable[[Array], Array] = _gain,
    discount_fn: Callable[[Array], Array] = _discount,
) -> Array:
    r"""LambdaRank: weighs a pair by how much its exchange would change the gain of the list.

    .. math:: \lambda_{ij} = n \, |g(y_i) - g(y_j)| \, |d(r_i) - d(r_j)|, \qquad
        g(y) = 2^y - 1, \quad d(r) = \frac1{\log_2(1 + r)}

    Args:
      scores: one an item, the items of a list along the last axis; they are ranked, and have no
        gradient. Of items that tie the earlier one is first.
      labels: the same shape; how relevant each item is, any real number.
      where: boolean mask of the items that count, or of whole lists.
      segments: integers of the shape of ``scores``; items of a row with the same one are a list.
      weights: a factor for each gain; it broadcasts to the labels.
      topn: ranks beyond it have no discount; None is none.
      normalize: whether gains are divided by the sum of discounted gains in the best order.
      gain_fn: what a label is worth, in place of :math:`2^y - 1`.
      discount_fn: what a rank makes of it, in place of :math:`1 / \log_2(1 + r)`.

    Returns:
      (..., n, n) for n items, in float32 or float64; 0 for items that are not in one list. The
      factor n counts the items of the list, where rax counts the row, padding and other segments
      included.

    Raises:
      ValueError: shapes differ, or ``weights`` do not broadcast.
      TypeError: scores are not floating, segments not integers, or ``where`` is not boolean.

    Source: Burges, Ragno & Le (2006).

    >>> jloss.dcg_lambdaweight(jnp.array([1.2, 0.4]), jnp.array([1.0, 2.0]))[0, 1]
    Array(1.4762809, dtype=float32)
    """

    def drop(ranks: Array) -> Array:
        near, far = _near_and_far(ranks)
        result = jnp.abs(_drop(discount_fn, near, far - near))
        if topn is None:
            return result
        beyond = jnp.where(near <= topn, jnp.abs(discount_fn(near)), 0.0)
        return jnp.where(far <= topn, result, beyond)

    name = "dcg_lambdaweight"
    lists, gaps, ranks = _gain_gaps(
        name, scores, labels, where, segments, weights, topn, normalize, gain_fn, discount_fn
    )
    return lists * gaps * drop(ranks)


@card(
    **_PAIRS,
    exact=_exact_weighed_pairs(_exact_dcg2),
    source="Wang et al. (2018), The LambdaLoss framework for ranking metric optimization, CIKM",
    also=dict(rax="dcg2_lambdaweight"),
    ulp=4,
)
@compiled
def dcg2_lambdaweight(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    segments: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    topn: int | None = None,
    normalize: bool = False,
    gain_fn: Callable[[Array], Array] = _gain,
    discount_fn: Callable[[Array], Array] = _discount,
    light_discount: bool = False,
) -> Array:
    r"""LambdaLoss: weighs a pair by what one rank more would cost at its distance in rank.

    .. math:: \lambda_{ij} = n \, |g(y_i) - g(y_j)| \, |d(|r_i - r_j|) - d(|r_i - r_j| + 1)|

    Args:
      scores: one an item, the items of a list along the last axis; they are ranked, and have no
        gradient. Of items that tie the earlier one is first.
      labels: the same shape; how relevant each item is, any real number.
      where: boolean mask of the items that count, or of whole lists.
      segments: integers of the shape of ``scores``; items of a row with the same one are a list.
      weights: a factor for each gain; it broadcasts to the labels.
      topn: a pair with an item of a rank r beyond it weighs 1 / (1 - d(r)) times as much.
      normalize: whether gains are divided by the sum of discounted gains in the best order.
      gain_fn: what a label is worth, in place of :math:`2^y - 1`.
      discount_fn: what a rank makes of it, in place of :math:`1 / \log_2(1 + r)`.
      light_discount: whether :math:`d(|r_i - r_j|)` alone takes the place of the difference.

    Returns:
      (..., n, n) for n items, in float32 or float64; 0 for items that are not in one list. The
      factor n counts the items of the list, where rax counts the row, padding and other segments
      included.

    Raises:
      ValueError: shapes differ, or ``weights`` do not broadcast.
      TypeError: scores are not floating, segments not integers, or ``where`` is not boolean.

    Prefer it to `dcg_lambdaweight` for a bound on the metric: the loss that it weighs bounds NDCG.
    Source: Wang et al. (2018).

    >>> jloss.dcg2_lambdaweight(jnp.array([1.2, 0.4]), jnp.array([1.0, 2.0]))[0, 1]
    Array(1.4762809, dtype=float32)
    """

    def drop(ranks: Array) -> Array:
        near, far = _near_and_far(ranks)
        gap = jnp.maximum(far - near, 1.0)  # an item has no gain over itself
        result = jnp.abs(discount_fn(gap) if light_discount else _drop(discount_fn, gap, 1.0))
        if topn is None:
            return result
        return jnp.where(far > topn, result / (1.0 - discount_fn(jnp.maximum(far, 2.0))), result)

    name = "dcg2_lambdaweight"
    lists, gaps, ranks = _gain_gaps(
        name, scores, labels, where, segments, weights, topn, normalize, gain_fn, discount_fn
    )
    return lists * gaps * drop(ranks)


def _gain_gaps(
    loss: str,
    scores: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None,
    segments: ArrayLike | None,
    weights: ArrayLike | None,
    topn: int | None,
    normalize: bool,
    gain_fn: Callable[[Array], Array],
    discount_fn: Callable[[Array], Array],
) -> tuple[Array, Array, Array]:
    """How many items a list has, how the gains of each of its pairs differ, and their ranks."""
    scores, labels, where, segments = _items(loss, labels, where, segments, scores=scores)
    lists, beside = _lists(where, segments), _beside(scores, where, segments)
    gains = keep(where, gain_fn(labels)) * _factors(loss, labels, weights, where)
    if normalize:
        ideal = lists.total(gains * _best_discounts(gains, beside, topn, discount_fn))
        gains /= jnp.where(ideal == 0, 1.0, ideal)
    size = lists.total(jnp.ones_like(labels))
    return size[..., :, None], jnp.abs(_differences(gains, beside)[0]), _ranks(scores, beside)


def _near_and_far(ranks: Array) -> tuple[Array, Array]:
    """The smaller and the larger rank of each pair."""
    first, second = ranks[..., :, None], ranks[..., None, :]
    return jnp.minimum(first, second), jnp.maximum(first, second)


def _drop(discount_fn: Callable[[Array], Array], ranks: Array, by: ArrayLike) -> Array:
    """What the discount loses from a rank to one further on, without cancellation for our own."""
    if discount_fn is not _discount:
        return discount_fn(ranks) - discount_fn(ranks + by)
    return jnp.log1p(by / (1.0 + ranks)) * _discount(ranks) / jnp.log1p(ranks + by)
