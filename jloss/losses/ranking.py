r"""Ranking losses: of scores for the items of a list, against how relevant each item is.

Lists lie along the last axis, padded where their lengths differ; with ``segments`` several lists
share a row. Point-wise losses look at one item and list-wise ones at a list; those of pairs are in
``pairwise.py``, and metrics made losses in ``ranking_metric.py``.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._compiled import compiled
from jloss._safe import hyper, keep, nan_unless, product, ratio
from jloss._softmax import _weigh, cross_entropy
from jloss.card import LOGIT, REAL, RELEVANCE, Domain, card
from jloss.losses._lists import (
    LABEL,
    Reduce,
    _at,
    _differ_from_previous,
    _factors,
    _gain,
    _items,
    _Lists,
    _lists,
    _nan_unless_relevance,
    _places,
    _reduce,
)
from jloss.losses.binary import sigmoid_binary_cross_entropy
from jloss.losses.regression import squared_error

_FACTOR = Domain(
    "any number; claims are for those of at least 0",
    lambda rng, shape: rng.lognormal(size=shape),
    (0.0, 1.0, 2.0),
)

# Point-wise --------------------------------------------------------------------------------------


@card(
    values="element",
    predictions=LOGIT,
    targets=RELEVANCE,
    exact=lambda m, score, label: (
        (label and min(label, 1) * m.log1p(m.exp(-score)))
        + (label < 1 and (1 - label) * m.log1p(m.exp(score)))
    ),
    source="Cox (1958), The regression analysis of binary sequences, J. R. Stat. Soc. B 20(2)",
    also=dict(rax="pointwise_sigmoid_loss"),
    ulp=4,
    minimum=0.0,
    convex=True,
    lipschitz=1.0,
    smooth=0.25,
    kinks=False,
)
@compiled
def pointwise_sigmoid_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    segments: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    r"""Cross-entropy of each item's score as the log-odds that it is relevant.

    .. math:: L(s, y) = \bar y \log(1 + e^{-s}) + (1 - \bar y) \log(1 + e^s), \quad
        \bar y = \min(y, 1)

    Args:
      scores: one an item, the items of a list along the last axis; infinities are allowed.
      labels: the same shape; how relevant each item is, at least 0, NaN otherwise. All grades from
        1 on count as relevant.
      where: boolean mask of the items that count, or of whole lists.
      segments: taken, and ignored, so that all ranking losses can be called alike.
      weights: a factor for each item; it broadcasts to the labels.
      reduce_fn: how the items' values are reduced, called as ``reduce_fn(values, where=...)``. The
        mean of no item is 0. None returns one value an item.

    Returns:
      A scalar, or with ``reduce_fn=None`` the shape of ``scores``, in float32 or float64. Value and
      gradient keep their digits when the score is right; rax's value is 0 from 17 on.

    Raises:
      ValueError: shapes differ, or ``weights`` do not broadcast.
      TypeError: scores are not floating, segments not integers, or ``where`` is not boolean.

    Prefer it where scores are to be probabilities; where only the order counts,
    `ranking_softmax_loss` need not spend anything on their level.
    Source: Cox (1958).

    >>> jloss.pointwise_sigmoid_loss(jnp.array([2.0, -1.0, 0.0]), jnp.array([1.0, 0.0, 3.0]))
    Array(0.37777898, dtype=float32)
    """
    loss = "pointwise_sigmoid_loss"
    scores, labels, where, _ = _items(loss, labels, where, segments, rank=0, scores=scores)
    scores += nan_unless(loss, labels >= 0, "at least 0", labels=labels)
    relevant = jnp.where(labels >= 0, jnp.minimum(labels, 1.0), 0.0)
    values = sigmoid_binary_cross_entropy(scores, relevant)
    return _reduce(values * _factors(loss, scores, weights, where), where, reduce_fn)


@card(
    values="element",
    predictions=REAL,
    targets=REAL,
    exact=lambda m, score, label: (score - label) ** 2,
    source="Cossock & Zhang (2006), Subset ranking using regression, COLT",
    also=dict(rax="pointwise_mse_loss"),
    ulp=1,
    minimum=0.0,
    minimizer=lambda targets: targets,
    convex=True,
    smooth=2.0,
    kinks=False,
    symmetric=True,
    elicits="mean",
    invariant=("translation", "permutation"),
)
@compiled
def pointwise_mse_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    segments: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    r"""Squared error of each item's score as its relevance: ranking by regression.

    .. math:: L(s, y) = (s - y)^2

    Args:
      scores: one an item, the items of a list along the last axis.
      labels: the same shape; how relevant each item is, any real number.
      where: boolean mask of the items that count, or of whole lists.
      segments: taken, and ignored, so that all ranking losses can be called alike.
      weights: a factor for each item; it broadcasts to the labels.
      reduce_fn: how the items' values are reduced, called as ``reduce_fn(values, where=...)``. The
        mean of no item is 0. None returns one value an item.

    Returns:
      A scalar, or with ``reduce_fn=None`` the shape of ``scores``, in float32 or float64.

    Raises:
      ValueError: shapes differ, or ``weights`` do not broadcast.
      TypeError: scores are not floating, segments not integers, or ``where`` is not boolean.

    Source: Cossock & Zhang (2006).

    >>> jloss.pointwise_mse_loss(jnp.array([2.0, 0.5]), jnp.array([1.0, 0.0]))
    Array(0.625, dtype=float32)
    """
    loss = "pointwise_mse_loss"
    scores, labels, where, _ = _items(loss, labels, where, segments, rank=0, scores=scores)
    values = squared_error(scores, labels) * _factors(loss, scores, weights, where)
    return _reduce(values, where, reduce_fn)


# List-wise ---------------------------------------------------------------------------------------


class _Choice(NamedTuple):
    """An item chosen from itself and its rivals, with probability proportional to exp(score).

    All derivatives follow from that of the loss, so that none goes through a maximum or a sum of
    exponentials, and each keeps its digits.
    """

    loss: Array  # minus the logarithm of
    chance: Array  # the probability of the item, and
    rest: Array  # that of its rivals

    def tangent(self, d_loss: Array) -> "_Choice":
        return _Choice(d_loss, -self.chance * d_loss, self.chance * d_loss)


@jax.custom_jvp
def _against_all(scores: Array, lists: _Lists) -> _Choice:
    """Each item among all of its list."""
    top = lists.largest(scores)
    behind, weight = _weigh(top, scores)
    leads = scores == top
    rivals = lists.total(leads.astype(scores.dtype)) - 1.0  # of a leader, as strong as it
    weaker = lists.total(jnp.where(leads, 0.0, weight))
    total = weaker + rivals + 1.0
    rest = jnp.where(leads, weaker + rivals, total - weight)
    choice = behind + jnp.log1p(weaker + rivals), weight / total, rest / total
    return _Choice(*(keep(lists.shown, x) for x in choice))


@_against_all.defjvp
def _against_all_jvp(primals, tangents):
    lists, (d_scores, _) = primals[1], tangents
    choice = _against_all(*primals)
    pull = choice.chance * d_scores
    # By the others' total, not all of them: for a certain label nothing has to cancel.
    return choice, choice.tangent(lists.total(pull) - pull - choice.rest * d_scores)


class _Queue(NamedTuple):
    """Items in order, list by list; each has rivals only further behind in its list."""

    shown: Array
    ends: Array  # the last item of a list
    rival: Array | None  # the place of its first rival, the row's length for none; None: the next


@jax.custom_jvp
def _against_later(scores: Array, queue: _Queue) -> _Choice:
    """Each item among itself and its rivals, all items of its list from ``queue.rival`` on."""
    scores = keep(queue.shown, scores, -jnp.inf)
    _, top, weight = jax.lax.associative_scan(
        _merge,
        (queue.ends, scores, queue.shown.astype(scores.dtype)),
        reverse=True,
        axis=scores.ndim - 1,
    )
    rival = _rival(queue)
    strongest, rivals = _at(top, rival, -jnp.inf), _at(weight, rival)
    leader = jnp.maximum(scores, strongest)
    behind, own = _weigh(leader, scores)
    own *= queue.shown
    rivals *= _weigh(leader, strongest)[1]
    beside = jnp.where(scores >= strongest, rivals, own + (rivals - 1.0))  # the leader
    total = own + rivals
    choice = behind + jnp.log1p(beside), ratio(own, total), ratio(rivals, total)
    return _Choice(*choice)


@_against_later.defjvp
def _against_later_jvp(primals, tangents):
    (scores, queue), (d_scores, _) = primals, tangents
    choice = _against_later(scores, queue)
    following = (
        choice if queue.rival is None else _against_later(scores, queue._replace(rival=None))
    )
    # The mean tangent of what is left of a list, each item weighed by its chance.
    _, mean = jax.lax.associative_scan(
        lambda later, here: (here[0] * later[0], here[1] + here[0] * later[1]),
        (following.rest, following.chance * d_scores),
        reverse=True,
        axis=scores.ndim - 1,
    )
    return choice, choice.tangent(choice.rest * (_at(mean, _rival(queue)) - d_scores))


def _merge(later: tuple[Array, ...], here: tuple[Array, ...]) -> tuple[Array, ...]:
    """The sum of exp(score) from here on, as its largest score and a factor, within a list."""
    (later_ends, later_top, later_weight), (ends, here_top, here_weight) = later, here
    top = jnp.maximum(later_top, here_top)
    weight = here_weight * _weigh(top, here_top)[1] + later_weight * _weigh(top, later_top)[1]
    return (
        later_ends | ends,
        jnp.where(ends, here_top, top),
        jnp.where(ends, here_weight, weight),
    )


def _rival(queue: _Queue) -> Array:
    if queue.rival is not None:
        return queue.rival
    places = _places(queue.ends.shape)
    return jnp.where(queue.ends, places.shape[-1], places + 1)


def _in_order(
    scores: Array, labels: Array, lists: _Lists, key: Array | None, *, ties: bool
) -> tuple[Array, Array, _Lists]:
    """Each item's loss against those of smaller labels, in order of labels; that order; its lists.

    Items with one label are no rivals with ``ties``, else the earlier one goes first.
    """
    shape, places = scores.shape, _places(scores.shape)
    keys = [*lists.keys(shape), -jax.lax.stop_gradient(labels)]
    if key is not None:
        keys.append(jax.random.uniform(key, shape))
    *by, order = jax.lax.sort((*keys, places), num_keys=len(keys))
    home = by[0] if lists.keys(shape) else jnp.zeros_like(order)
    begins = _differ_from_previous(home)
    ends = jnp.concatenate([begins[..., 1:], jnp.ones_like(begins[..., :1])], -1)
    rival = None
    if ties:
        begins |= _differ_from_previous(by[-1])
        coming = jnp.where(begins, places, shape[-1])
        coming = jnp.concatenate([coming[..., 1:], jnp.full_like(coming[..., :1], shape[-1])], -1)
        rival = jax.lax.cummin(coming, axis=scores.ndim - 1, reverse=True)
        rival = jnp.where(_at(home, rival, -1) == home, rival, shape[-1])
    queue = _Queue(home < shape[-1], ends, rival)
    in_order = _Lists(
        None if lists.shown is None else queue.shown, None if lists.home is None else home
    )
    return _against_later(_at(scores, order), queue).loss, order, in_order


@card(
    values="list",
    predictions=LOGIT,
    targets=RELEVANCE,
    exact=lambda m, logits, labels: m.fsum(
        label * m.log(m.fsum(m.exp(other - logit) for other in logits))
        for logit, label in zip(logits, labels, strict=True)
        if label
    ),
    source="Cao et al. (2007), Learning to rank: from pairwise approach to listwise approach, ICML",
    also=dict(optax="losses.ranking_softmax_loss", rax="softmax_loss"),
    ulp=4,
    minimum=0.0,
    convex=True,
    kinks=False,
    invariant=("shift", "permutation"),
)
@compiled
def ranking_softmax_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduce_fn: Reduce = jnp.mean,
    segments: ArrayLike | None = None,
) -> Array:
    r"""ListNet: the cross-entropy that makes relevant items outscore the rest of their list.

    .. math:: L(x, y) = -\sum_i w_i y_i \log \frac{e^{x_i}}{\sum_k e^{x_k}}

    Args:
      logits: one score an item, the items of a list along the last axis.
      labels: the same shape; how relevant each item is, at least 0, NaN for the list otherwise.
      where: boolean mask of the items that count (lists are padded), or of whole lists.
      weights: a factor for each label; it broadcasts to the labels.
      reduce_fn: how the lists' values are reduced, called as ``reduce_fn(values, where=...)`` with
        the lists that have an item. The mean of no list is 0. None returns one value a list.
      segments: integers of the shape of ``logits``; items of a row with the same one are a list.

    Returns:
      A scalar, or with ``reduce_fn=None`` the shape of ``logits`` without the last axis, in float32
      or float64. With ``segments`` the last axis stays: a list's value is where it has its first
      item, and 0 is elsewhere.

    Raises:
      ValueError: shapes differ, or ``weights`` do not broadcast.
      TypeError: logits are not floating, segments not integers, or ``where`` is not boolean.

    Source: Cao et al. (2007).

    >>> jloss.ranking_softmax_loss(jnp.array([[2.0, 0.0, 1.0]]), jnp.array([[1.0, 0.0, 0.0]]))
    Array(0.40760595, dtype=float32)
    """
    loss = "ranking_softmax_loss"
    logits, labels, where, segments = _items(loss, labels, where, segments, logits=logits)
    lists = _lists(where, segments)
    logits += _nan_unless_relevance(loss, labels, lists)
    labels *= _factors(loss, labels, weights, where)
    if segments is not None:
        return lists.reduce(
            lists.sums(product(labels, _against_all(logits, lists).loss)), reduce_fn
        )
    if where is not None:
        logits = jnp.where(where | ~where.any(-1, keepdims=True), logits, -jnp.inf)
    values = cross_entropy(logits, labels)
    return _reduce(values, None if where is None else where.any(-1), reduce_fn)


def _exact_poly1(m, scores, labels, epsilon):
    chances = [m.exp(s) / m.fsum(m.exp(other) for other in scores) for s in scores]
    total = m.fsum(labels)
    shares = [y / total if total else m.mpf(1) / len(labels) for y in labels]
    pairs = list(zip(labels, chances, strict=True))
    right = m.fsum(y * p for y, p in zip(shares, chances, strict=True))
    return m.fsum(-y * m.log(p) for y, p in pairs if y) + epsilon * (1 - right)


@card(
    values="list",
    predictions=LOGIT,
    targets=RELEVANCE,
    hyper=dict(epsilon=_FACTOR),
    exact=_exact_poly1,
    source="Leng et al. (2022), PolyLoss: a polynomial expansion perspective of classification "
    "loss functions, ICLR",
    also=dict(rax="poly1_softmax_loss"),
    ulp=4,
    minimum=0.0,
    convex=False,
    kinks=False,
    invariant=("shift", "permutation"),
)
@compiled
def poly1_softmax_ranking_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    segments: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    r"""`ranking_softmax_loss` plus what the relevant items' probability lacks of 1.

    .. math:: L(s, y) = -\sum_i y_i \log p_i + \epsilon \Bigl(1 - \sum_i \bar y_i p_i\Bigr), \quad
        p_i = \frac{e^{s_i}}{\sum_k e^{s_k}}, \quad \bar y_i = \frac{y_i}{\sum_k y_k}

    Args:
      scores: one an item, the items of a list along the last axis; infinities are allowed.
      labels: the same shape; how relevant each item is, at least 0, NaN for the list otherwise. In
        a list without a relevant item all count alike in :math:`\bar y`.
      epsilon: the weight of the first term of the cross-entropy's expansion in :math:`1 - p`.
        It broadcasts to one value a list (to the scores with ``segments``).
      where: boolean mask of the items that count, or of whole lists.
      segments: integers of the shape of ``scores``; items of a row with the same one are a list.
      weights: a factor for each label; it broadcasts to the labels.
      reduce_fn: how the lists' values are reduced, called as ``reduce_fn(values, where=...)`` with
        the lists that have an item. The mean of no list is 0. None returns one value a list.

    Returns:
      A scalar, or with ``reduce_fn=None`` the shape of ``scores`` without the last axis, in float32
      or float64. With ``segments`` the last axis stays: a list's value is where it has its first
      item, and 0 is elsewhere.

    Raises:
      ValueError: shapes differ, or ``weights`` or ``epsilon`` do not broadcast.
      TypeError: scores are not floating, segments not integers, or ``where`` is not boolean.

    Source: Leng et al. (2022).

    >>> scores, labels = jnp.array([[2.0, 0.0, 1.0]]), jnp.array([[1.0, 0.0, 0.0]])
    >>> jloss.poly1_softmax_ranking_loss(scores, labels)
    Array(0.742365, dtype=float32)
    """
    loss = "poly1_softmax_ranking_loss"
    scores, labels, where, segments = _items(loss, labels, where, segments, scores=scores)
    lists = _lists(where, segments)
    scores += _nan_unless_relevance(loss, labels, lists)
    labels *= _factors(loss, labels, weights, where)
    epsilon = hyper(loss, scores, rows=segments is None, epsilon=epsilon)
    if segments is None:
        epsilon = epsilon[..., None]
    choice, total = _against_all(scores, lists), lists.total(labels)
    share = jnp.where(
        total == 0,
        1.0 / jnp.maximum(lists.total(jnp.ones_like(labels)), 1.0),
        labels / jnp.where(total == 0, 1.0, total),
    )
    values = product(labels, choice.loss) + epsilon * share * choice.rest
    return lists.reduce(lists.sums(values), reduce_fn)


@card(
    values="list",
    predictions=LOGIT,
    targets=RELEVANCE,
    exact=lambda m, scores, labels: m.fsum(
        (2**label - 1) * m.log1p(m.fsum(m.exp(s - score) for s, y in items if y < label))
        for items in [list(zip(scores, labels, strict=True))]
        for score, label in items
        if label
    ),
    source="Zhu & Klabjan (2020), Listwise learning to rank by exploring unique ratings, WSDM",
    also=dict(rax="unique_softmax_loss"),
    ulp=4,
    minimum=0.0,
    convex=True,
    kinks=False,
    invariant=("shift", "permutation"),
)
@compiled
def unique_softmax_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    segments: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    gain_fn: Callable[[Array], Array] | None = _gain,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    r"""Each item against the less relevant ones alone: items that are as relevant do not compete.

    .. math:: L(s, y) = \sum_i w_i (2^{y_i} - 1)
        \log\Bigl(1 + \sum_{k:\ y_k < y_i} e^{s_k - s_i}\Bigr)

    Args:
      scores: one an item, the items of a list along the last axis; infinities are allowed.
      labels: the same shape; how relevant each item is, at least 0, NaN for the list otherwise.
      where: boolean mask of the items that count, or of whole lists.
      segments: integers of the shape of ``scores``; items of a row with the same one are a list.
      weights: a factor for each item; it broadcasts to the labels.
      gain_fn: what a label is worth, in place of :math:`2^y - 1`; None makes it 1.
      reduce_fn: how the lists' values are reduced, called as ``reduce_fn(values, where=...)`` with
        the lists that have an item. The mean of no list is 0. None returns one value a list.

    Returns:
      A scalar, or with ``reduce_fn=None`` the shape of ``scores`` without the last axis, in float32
      or float64. With ``segments`` the last axis stays: a list's value is where it has its first
      item, and 0 is elsewhere. Time is O(n log n) and memory O(n) for a list of n items.

    Raises:
      ValueError: shapes differ, or ``weights`` do not broadcast.
      TypeError: scores are not floating, segments not integers, or ``where`` is not boolean.

    Source: Zhu & Klabjan (2020).

    >>> scores, labels = jnp.array([[2.0, 0.0, 1.0]]), jnp.array([[1.0, 0.0, 2.0]])
    >>> jloss.unique_softmax_loss(scores, labels)
    Array(4.3497458, dtype=float32)
    """
    loss = "unique_softmax_loss"
    scores, labels, where, segments = _items(loss, labels, where, segments, scores=scores)
    lists = _lists(where, segments)
    scores += _nan_unless_relevance(loss, labels, lists)
    worth = _factors(loss, labels, weights, where)
    if gain_fn is not None:
        worth *= keep(where, gain_fn(labels))
    values, order, lists = _in_order(scores, labels, lists, None, ties=True)
    return lists.reduce(lists.sums(product(_at(worth, order), values)), reduce_fn)


def _exact_listmle(m, scores, labels):
    order = sorted(range(len(labels)), key=lambda i: -labels[i])
    ordered = [scores[i] for i in order]
    return m.fsum(
        m.log1p(m.fsum(m.exp(later - score) for later in ordered[i + 1 :]))
        for i, score in enumerate(ordered)
    )


@card(
    values="list",
    predictions=LOGIT,
    targets=LABEL,
    exact=_exact_listmle,
    source="Xia et al. (2008), Listwise approach to learning to rank: theory and algorithm, ICML",
    also=dict(rax="listmle_loss"),
    ulp=8,
    minimum=0.0,
    convex=True,
    kinks=False,
    invariant=("shift",),
)
@compiled
def listmle_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    key: Array | None = None,
    where: ArrayLike | None = None,
    segments: ArrayLike | None = None,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    r"""Minus the log-likelihood of the labels' order where items are drawn best first.

    .. math:: L(s, y) = \sum_i \log \sum_{k \ge i} e^{s_{\pi(k)} - s_{\pi(i)}}, \qquad
        y_{\pi(1)} \ge y_{\pi(2)} \ge \dots

    It is the Plackett-Luce model: each next item is drawn from what is left of the list, with
    probability proportional to :math:`e^s`.

    Args:
      scores: one an item, the items of a list along the last axis; infinities are allowed.
      labels: the same shape; any real numbers, of which only the order counts.
      key: breaks ties between labels at random. None leaves tied items in the order they have, so
        that the value depends on it.
      where: boolean mask of the items that count, or of whole lists.
      segments: integers of the shape of ``scores``; items of a row with the same one are a list.
      reduce_fn: how the lists' values are reduced, called as ``reduce_fn(values, where=...)`` with
        the lists that have an item. The mean of no list is 0. None returns one value a list.

    Returns:
      A scalar, or with ``reduce_fn=None`` the shape of ``scores`` without the last axis, in float32
      or float64. With ``segments`` the last axis stays: a list's value is where it has its first
      item, and 0 is elsewhere. Time is O(n log n) and memory O(n) for a list of n items.

    Raises:
      ValueError: shapes differ.
      TypeError: scores are not floating, segments not integers, or ``where`` is not boolean.

    Prefer `unique_softmax_loss` where labels tie often: it takes no order for granted that they do
    not tell.
    Source: Xia et al. (2008).

    >>> jloss.listmle_loss(jnp.array([[2.0, 0.0, 1.0]]), jnp.array([[2.0, 0.0, 1.0]]))
    Array(0.72086763, dtype=float32)
    """
    loss = "listmle_loss"
    scores, labels, where, segments = _items(loss, labels, where, segments, scores=scores)
    lists = _lists(where, segments)
    scores += lists.total(nan_unless(loss, ~jnp.isnan(labels), "a number", labels=labels))
    values, _, lists = _in_order(scores, labels, lists, key, ties=False)
    return lists.reduce(lists.sums(values), reduce_fn)
