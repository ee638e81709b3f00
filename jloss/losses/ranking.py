r"""Ranking losses: of scores for the items of a list, against how relevant each item is.

Lists lie along the last axis, padded where their lengths differ; with ``segments`` several lists
share a row. Point-wise losses look at one item, list-wise ones at a list, transformations make
losses of metrics or of losses, and lambda weights weigh the pairs of a pair-wise loss.
"""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._safe import (
    floats,
    hyper,
    keep,
    mask,
    nan_unless,
    product,
    ratio,
    same_shape,
    two_difference,
)
from jloss._softmax import _weigh, cross_entropy
from jloss.card import LOGIT, POSITIVE, REAL, RELEVANCE, Domain, card
from jloss.losses.classification import sigmoid_binary_cross_entropy
from jloss.losses.regression import squared_error

Reduce = Callable[..., Array] | None
_Step = Callable[[Array, Array], Array]  # of a number and what rounding lost of it

_LABEL = Domain(
    "any real number",
    lambda rng, shape: rng.integers(-2, 4, shape).astype(float),
    (0.0, 1.0, -1.0),
    soft=True,
)
_FACTOR = Domain(
    "any number; claims are for those of at least 0",
    lambda rng, shape: rng.lognormal(size=shape),
    (0.0, 1.0, 2.0),
)


# Items and their lists ---------------------------------------------------------------------------


class _Lists(NamedTuple):
    """Which items of a row make one list: all that are shown, or those of one segment."""

    shown: Array | None
    home: Array | None  # the place of the first item of an item's list, the row's length if hidden

    def total(self, values: Array) -> Array:
        """At each item the sum over its list."""
        values = keep(self.shown, values)
        if self.home is None:
            return jnp.broadcast_to(values.sum(-1, keepdims=True), values.shape)
        return _at(_add_home(values, self.home), self.home)

    def largest(self, values: Array) -> Array:
        """At each item the maximum over its list."""
        values = keep(self.shown, values, -jnp.inf)
        if self.home is None:
            top = values.max(-1, keepdims=True, initial=-jnp.inf)
            return jnp.broadcast_to(top, values.shape)
        return _at(_max_home(values, self.home), self.home)

    def sums(self, values: Array) -> Array:
        """The sum of each list; with segments it is where the list begins, and 0 elsewhere."""
        values = keep(self.shown, values)
        return values.sum(-1) if self.home is None else _add_home(values, self.home)

    def reduce(self, sums: Array, reduce_fn: Reduce) -> Array:
        """The values of the lists that have an item, reduced."""
        if self.home is not None:
            return _reduce(sums, self.begins, reduce_fn)
        return _reduce(sums, None if self.shown is None else self.shown.any(-1), reduce_fn)

    @property
    def begins(self) -> Array:
        """Where a list has its first item."""
        assert self.home is not None
        return _add_home(jnp.ones(self.home.shape), self.home) > 0

    def keys(self, shape: tuple[int, ...]) -> list[Array]:
        """What sorts items by their lists, hidden ones last."""
        if self.home is not None:
            return [self.home]
        return [] if self.shown is None else [jnp.where(self.shown, 0, shape[-1])]


def _lists(where: Array | None, segments: Array | None) -> _Lists:
    if segments is None:
        return _Lists(where, None)
    shown = jnp.ones(segments.shape, bool) if where is None else where
    places = _places(segments.shape)
    hidden, names, order = jax.lax.sort((~shown, segments, places), num_keys=2)
    begins = _differ_from_previous(hidden) | _differ_from_previous(names)
    first = jax.lax.cummax(jnp.where(begins, places, 0), axis=segments.ndim - 1)
    home = jnp.where(hidden, segments.shape[-1], _at(order, first))
    return _Lists(shown, jax.lax.sort((order, home), num_keys=1)[1])


def _places(shape: tuple[int, ...]) -> Array:
    return jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)


def _differ_from_previous(values: Array) -> Array:
    """True at the first."""
    differ = values[..., 1:] != values[..., :-1]
    return jnp.concatenate([jnp.ones_like(values[..., :1], bool), differ], -1)


def _at(values: Array, places: Array, fill: float = 0) -> Array:
    """The values at other places of their row; ``fill`` at a place that is not there."""
    return jnp.take_along_axis(values, places, -1, mode="fill", fill_value=fill)


@partial(jnp.vectorize, signature="(n),(n)->(n)")
def _add_home(values: Array, home: Array) -> Array:
    return jnp.zeros_like(values).at[home].add(values, mode="drop")


@partial(jnp.vectorize, signature="(n),(n)->(n)")
def _max_home(values: Array, home: Array) -> Array:
    return jnp.full_like(values, -jnp.inf).at[home].max(values, mode="drop")


def _reduce(values: Array, counted: Array | None, reduce_fn: Reduce) -> Array:
    """``reduce_fn`` over the values that count; their mean is 0 where none does."""
    values = keep(counted, values)
    if reduce_fn is jnp.mean:
        count = values.size if counted is None else counted.sum()
        return values.sum() / jnp.maximum(count, 1)
    return values if reduce_fn is None else reduce_fn(values, where=counted)


def _items(
    loss: str,
    labels: ArrayLike,
    where: ArrayLike | None,
    segments: ArrayLike | None,
    *,
    rank: int = 1,
    **scores: ArrayLike,
) -> tuple[Array, Array, Array | None, Array | None]:
    """Scores and labels, 0 where hidden, the mask of the items, and the names of their lists."""
    ((name, given),) = scores.items()
    given, labels = floats(loss, **{name: given}, labels=labels)
    same_shape(loss, **{name: given}, labels=labels)
    if given.ndim < rank:
        raise ValueError(f"{loss}: {name} () must have the items of a list along the last axis.")
    where = mask(loss, where, given.shape, (given.ndim - 1,) if given.ndim else ())
    if segments is not None:
        segments = jnp.asarray(segments)
        if not jnp.issubdtype(segments.dtype, jnp.integer):
            raise TypeError(f"{loss}: segments must be integers, not {segments.dtype}.")
        same_shape(loss, **{name: given}, segments=segments)
    return keep(where, given), keep(where, labels), where, segments


def _factors(loss: str, like: Array, weights: ArrayLike | None, where: Array | None) -> Array:
    """A weight for each item, 1 where none is given."""
    if weights is None:
        return jnp.ones_like(like)
    return keep(where, jnp.broadcast_to(hyper(loss, like, weights=weights), like.shape))


def _nan_unless_relevance(loss: str, labels: Array, lists: _Lists) -> Array:
    """0, or NaN for each item of a list with a label below 0."""
    return lists.total(nan_unless(loss, labels >= 0, "at least 0", labels=labels))


def _gain(labels: Array) -> Array:
    """2**label - 1."""
    return jnp.expm1(labels * math.log(2))


def _discount(ranks: Array) -> Array:
    """1 / log2(1 + rank)."""
    return math.log(2) / jnp.log1p(ranks)


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
    targets=_LABEL,
    exact=_exact_listmle,
    source="Xia et al. (2008), Listwise approach to learning to rank: theory and algorithm, ICML",
    also=dict(rax="listmle_loss"),
    ulp=8,
    minimum=0.0,
    convex=True,
    kinks=False,
    invariant=("shift",),
)
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


def _exact_approx_ndcg(m, scores, labels, temperature):
    def discount(rank):
        return 1 / m.log(1 + rank, 2)

    gains = [2**label - 1 for label in labels]
    ideal = m.fsum(
        gain * discount(place + 1) for place, gain in enumerate(sorted(gains, reverse=True))
    )
    ranks = [
        m.mpf(0.5) + m.fsum(1 / (1 + m.exp((own - other) / temperature)) for other in scores)
        for own in scores
    ]
    found = m.fsum(g * discount(rank) for g, rank in zip(gains, ranks, strict=True))
    return -found / ideal if ideal else m.mpf(0)


@card(
    values="list",
    predictions=REAL,
    targets=RELEVANCE,
    hyper=dict(temperature=POSITIVE),
    exact=_exact_approx_ndcg,
    source="Qin, Liu & Li (2010), A general approximation framework for direct optimization of "
    "information retrieval measures, Information Retrieval 13",
    also=dict(rax="approx_t12n(ndcg_metric)"),
    ulp=8,
    scale=lambda temperature: 1 + 1 / temperature,
    minimum=-1.0,
    maximum=0.0,
    convex=False,
    kinks=False,
    invariant=("shift", "permutation"),
)
def approx_ndcg_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    segments: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    topn: int | None = None,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    r"""Minus the normalised discounted cumulative gain, with ranks that are smooth in the scores.

    .. math:: L(s, y) = -\frac1{Z(y)} \sum_i \frac{2^{y_i} - 1}{\log_2(1 + r_i)}, \qquad
        r_i = 1 + \sum_{k \ne i} \sigma\Bigl(\frac{s_k - s_i}{T}\Bigr)

    where :math:`Z` is the sum for the best order, with ranks 1, 2, 3…

    Args:
      scores: one an item, the items of a list along the last axis. An item of minus infinity is
        not retrieved: it gains nothing.
      labels: the same shape; how relevant each item is, at least 0, NaN for the list otherwise.
      temperature: positive, NaN otherwise; the smaller, the nearer to NDCG itself, and the fewer
        pairs have a gradient. A scalar.
      where: boolean mask of the items that count, or of whole lists.
      segments: integers of the shape of ``scores``; items of a row with the same one are a list.
      weights: a factor for each gain; it broadcasts to the labels.
      topn: only so many items count, up to a smooth cut; None is all.
      reduce_fn: how the lists' values are reduced, called as ``reduce_fn(values, where=...)`` with
        the lists that have an item. The mean of no list is 0. None returns one value a list.

    Returns:
      A scalar from -1 to 0, which is also the value of a list without a relevant item, or with
      ``reduce_fn=None`` the shape of ``scores`` without the last axis, in float32 or float64. With
      ``segments`` the last axis stays: a list's value is where it has its first item, and 0 is
      elsewhere. Memory is O(n^2) for n items.

    Raises:
      ValueError: shapes differ, ``weights`` do not broadcast, or ``temperature`` is no scalar.
      TypeError: scores are not floating, segments not integers, or ``where`` is not boolean.

    Source: Qin, Liu & Li (2010).

    >>> scores, labels = jnp.array([[0.0, 1.0, 3.0, 2.0]]), jnp.array([[0.0, 0.0, 1.0, 2.0]])
    >>> jloss.approx_ndcg_loss(scores, labels)
    Array(-0.71789175, dtype=float32)
    """
    loss = "approx_ndcg_loss"
    scores, labels, where, segments = _items(loss, labels, where, segments, scores=scores)
    weights = _factors(loss, labels, weights, where)
    step = _smooth_step(loss, scores, temperature)
    lists, beside = _lists(where, segments), _beside(scores, where, segments)
    labels += _nan_unless_relevance(loss, labels, lists)
    ranks = _soft_ranks(scores, where, segments=segments, step=step)
    found = _discount(ranks) * _soft_cutoff(-ranks, topn, segments, step=step)
    found = jnp.where(scores == -jnp.inf, 0.0, found)
    gains = _gain(labels) * weights
    best = _best_discounts(gains, beside, topn)
    return lists.reduce(-_normalised(gains, found, best, lists), reduce_fn)


@jax.custom_jvp
def _normalised(gains: Array, found: Array, best: Array, lists: _Lists) -> Array:
    """The gains' discounted sum over the best they could have, for each list."""
    relative, share, _ = _shares(gains, found, best, lists)
    return lists.sums(share * relative)


@_normalised.defjvp
def _normalised_jvp(primals, tangents):
    *_, best, lists = primals
    d_gains, d_found, *_ = tangents
    relative, share, ideal = _shares(*primals)
    own = jnp.where(best == 0, 1.0, best)
    mean = jnp.where(best == 0, 0.0, lists.total(share * relative))
    # Two quotients would leave a gradient for the gain of a list's only relevant item.
    slope = ratio(own * (relative - mean), ideal)
    return _normalised(*primals), lists.sums(slope * d_gains + share * d_found / own)


def _shares(gains: Array, found: Array, best: Array, lists: _Lists) -> tuple[Array, Array, Array]:
    """Discounts relative to an item's best, its share of the ideal sum, and that sum."""
    own = jnp.where(best == 0, 1.0, best)
    ideal = lists.total(gains * best)
    ideal = jnp.where(ideal == 0, 1.0, ideal)
    return found / own, gains * own / ideal, ideal


# Ranks and their pairs ---------------------------------------------------------------------------


def _beside(like: Array, where: Array | None, segments: Array | None) -> Array:
    """(..., n, n): the pairs of items that are in one list, each with itself among them."""
    shown = jnp.ones(like.shape, bool) if where is None else where
    pairs = shown[..., :, None] & shown[..., None, :]
    return pairs if segments is None else pairs & (segments[..., :, None] == segments[..., None, :])


def _differences(values: Array, pairs: Array) -> tuple[Array, Array]:
    """Of the second of a pair from the first, and what rounding lost of it.

    It is 0 for a pair that does not count, and for equal infinities.
    """
    first, second = values[..., :, None], values[..., None, :]
    counts = pairs & ~(jnp.isinf(first) & (first == second))
    difference, lost = two_difference(jnp.where(counts, second, 0.0), jnp.where(counts, first, 0.0))
    return difference, jax.lax.stop_gradient(lost)


def _ranks(scores: Array, beside: Array) -> Array:
    """1 for the largest of a list; of equal ones the earlier is first."""
    ahead = scores[..., None, :] > scores[..., :, None]
    earlier = jnp.tril(jnp.ones(beside.shape[-2:], bool), -1)
    ahead |= (scores[..., None, :] == scores[..., :, None]) & earlier
    ranks = 1.0 + (ahead & beside).sum(-1).astype(scores.dtype)
    return jnp.where(jnp.isnan(scores), jnp.nan, ranks)


def _soft_ranks(
    scores: Array,
    where: Array | None = None,
    key: Array | None = None,
    segments: Array | None = None,
    *,
    step: _Step,
) -> Array:
    """1 and a step for each other item of the list; infinite for a hidden one, which is last."""
    beside = _beside(scores, where, segments)
    others = beside & ~jnp.eye(scores.shape[-1], dtype=bool)
    passed = jnp.where(others, step(*_differences(scores, others)), 0.0)
    return keep(where, 1.0 + passed.sum(-1), jnp.inf)


def _soft_cutoff(
    a: Array,
    n: int | None = None,
    segments: Array | None = None,
    *,
    step: _Step,
) -> Array:
    """A step at the middle between the n-th largest of a list and the next; 1 for a short list."""
    if n is None:
        return jnp.ones_like(a)
    shown = a != -jnp.inf  # the rank of a hidden item is infinite
    lists, beside = _lists(shown, segments), _beside(a, shown, segments)
    ranks = _ranks(a, beside)
    edge = jax.lax.stop_gradient(
        lists.total(jnp.where((ranks == n) | (ranks == n + 1), a, 0.0)) / 2.0
    )
    longer = lists.total(jnp.ones_like(a)) > n
    cut = jnp.where(longer, step(jnp.where(shown & longer, a - edge, 0.0), jnp.zeros_like(a)), 1.0)
    return jnp.where(shown & (n > 0), cut, 0.0)


def _best_discounts(
    gains: Array,
    beside: Array,
    topn: int | None,
    discount_fn: Callable[[Array], Array] = _discount,
) -> Array:
    """Each item's discount in the best order of its list."""
    ranks = _ranks(gains, beside)
    discounts = discount_fn(ranks)
    return discounts if topn is None else jnp.where(ranks <= topn, discounts, 0.0)


@jax.custom_jvp
def _sigmoid(x: Array) -> Array:
    return jax.nn.sigmoid(x)


@_sigmoid.defjvp
def _sigmoid_jvp(primals, tangents):
    # Autodiff's p (1 - p) has no digit left where p is nearly 1.
    (x,), (d_x,) = primals, tangents
    return _sigmoid(x), _sigmoid(x) * _sigmoid(-x) * d_x


def _smooth_step(loss: str, scores: Array, temperature: ArrayLike) -> _Step:
    """The sigmoid of what is to be ranked over a temperature, of which a row may have its own."""
    temperature = hyper(loss, scores, rows=True, temperature=temperature)
    temperature += nan_unless(loss, temperature > 0, "positive", temperature=temperature)
    temperature = jnp.broadcast_to(temperature, scores.shape[:-1])
    return lambda x, lost: _sigmoid(
        x / jnp.expand_dims(temperature, range(temperature.ndim, x.ndim))
    )


# Transformations ---------------------------------------------------------------------------------


def _accepts(function: Callable[..., Any], name: str) -> bool:
    parameters = inspect.signature(function).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _resembling(
    new: Callable[..., Array], old: Callable[..., Array], prefix: str, *added: str
) -> Callable[..., Array]:
    """``new`` with the name and signature of ``old``, and keyword arguments added to these."""
    signature = inspect.signature(old)
    parameters = [p for p in signature.parameters.values() if p.name not in added]
    split = len(parameters) - any(p.kind is p.VAR_KEYWORD for p in parameters)
    extra = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in added]
    new.__name__ = f"{prefix}_{getattr(old, '__name__', 'function')}"
    new.__doc__ = old.__doc__
    parameters = [*parameters[:split], *extra, *parameters[split:]]
    new.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return new


def _arguments(
    loss: str, scores: ArrayLike, labels: ArrayLike, options: dict[str, Any]
) -> tuple[Array, Array, dict[str, Any]]:
    """Checked, with hidden scores and labels made 0 and the mask at its full shape."""
    given = {"where": None, "segments": None, "weights": None, **options}
    where, segments, weights = given["where"], given["segments"], given["weights"]
    scores, labels, where, segments = _items(loss, labels, where, segments, scores=scores)
    if weights is not None:
        weights = _factors(loss, labels, weights, where)
    checked = {"where": where, "segments": segments, "weights": weights}
    return scores, labels, {name: checked.get(name, x) for name, x in options.items()}


def _repeated(
    repeat: Callable[[Array], Array], like: Array, options: dict[str, Any]
) -> dict[str, Any]:
    """The optional arrays that have a number for each item, repeated; a key is none."""
    return {
        name: repeat(jnp.asarray(x))
        if x is not None and name != "key" and jnp.shape(x) == like.shape
        else x
        for name, x in options.items()
    }


def _soft_metric(
    metric_fn: Callable[..., Array],
    name: str,
    prefix: str,
    steps: Callable[[Array], tuple[_Step, _Step]],
) -> Callable[..., Array]:
    def loss(scores: ArrayLike, labels: ArrayLike, **options: Any) -> Array:
        scores, labels, options = _arguments(name, scores, labels, options)
        rank_step, cutoff_step = steps(scores)
        soft = {
            "rank_fn": partial(_soft_ranks, step=rank_step),
            "cutoff_fn": partial(_soft_cutoff, step=cutoff_step),
        }
        taken = {key: function for key, function in soft.items() if _accepts(metric_fn, key)}
        return -metric_fn(scores, labels, **{**taken, **options})

    return _resembling(loss, metric_fn, prefix)


def _score_of_ranks(transform):
    """The card's form: minus the sum of labels over smooth ranks."""

    def metric(scores, labels, *, where=None, rank_fn):
        gains = keep(where, labels / rank_fn(scores, where=where))
        return gains.sum(-1)

    def loss(scores, labels, *, where=None):
        return transform(metric)(scores, labels, where=where)

    def at_temperature(scores, labels, *, temperature=1.0, where=None):
        return transform(metric, temperature)(scores, labels, where=where)

    return at_temperature if _accepts(transform, "temperature") else loss


def _exact_score_of_ranks(m, scores, labels, step):
    total = m.mpf(0)
    for i, label in enumerate(labels):
        others = [other - scores[i] for j, other in enumerate(scores) if j != i]
        total -= label / (1 + m.fsum(map(step, others)))
    return total


@card(
    values="list",
    predictions=REAL,
    targets=_LABEL,
    hyper=dict(temperature=POSITIVE),
    exact=lambda m, scores, labels, temperature: _exact_score_of_ranks(
        m, scores, labels, lambda gap: 1 / (1 + m.exp(-gap / temperature))
    ),
    source="Qin, Liu & Li (2010), A general approximation framework for direct optimization of "
    "information retrieval measures, Information Retrieval 13",
    also=dict(rax="approx_t12n"),
    ulp=4,
    # A gradient is as steep between huge scores as between small ones, if they are near ties.
    scale=lambda temperature, inputs: 4 + 4 * (1 + inputs) / temperature,
    convex=False,
    kinks=False,
    invariant=("shift", "permutation"),
    form=_score_of_ranks,
)
def approx_t12n(
    metric_fn: Callable[..., Array], temperature: ArrayLike = 1.0
) -> Callable[..., Array]:
    r"""A ranking metric made a loss: minus its value at ranks that are smooth in the scores.

    .. math:: r_i = 1 + \sum_{k \ne i} \sigma\Bigl(\frac{s_k - s_i}{T}\Bigr)

    Args:
      metric_fn: ``metric_fn(scores, labels, *, rank_fn, cutoff_fn, ...)`` of which at least one of
        the last two is there, as rax's metrics have them: ``rank_fn(scores, where=..., key=...,
        segments=...)`` gives each item its rank from 1 on, ``cutoff_fn(a, n=..., segments=...)``
        says which are among the n largest.
      temperature: positive, NaN otherwise; the smaller, the nearer to the metric, and the fewer
        pairs have a gradient.

    Returns:
      The loss, with the arguments of the metric. A hidden item's smooth rank is infinite; in rax it
      is 1, so that padding takes the places above a cutoff.

    Prefer `approx_ndcg_loss` for the commonest metric.
    Source: Qin, Liu & Li (2010).

    >>> def reciprocal_rank(scores, labels, *, where=None, rank_fn):
    ...     return (labels / rank_fn(scores, where=where)).max(-1)
    >>> loss = jloss.approx_t12n(reciprocal_rank)
    >>> loss(jnp.array([0.0, 1.0, 3.0, 2.0]), jnp.array([0.0, 0.0, 0.0, 1.0]))
    Array(-0.4718755, dtype=float32)
    """

    def steps(scores: Array) -> tuple[_Step, _Step]:
        step = _smooth_step("approx_t12n", scores, temperature)
        return step, step

    return _soft_metric(metric_fn, "approx_t12n", "approx", steps)


@card(
    values="list",
    predictions=REAL,
    targets=_LABEL,
    exact=lambda m, scores, labels: _exact_score_of_ranks(
        m, scores, labels, lambda gap: max(0, gap + 1)
    ),
    source="Wang et al. (2018), The LambdaLoss framework for ranking metric optimization, CIKM",
    also=dict(rax="bound_t12n"),
    ulp=2,
    scale=4.0,
    convex=False,
    invariant=("shift", "permutation"),
    form=_score_of_ranks,
)
def bound_t12n(metric_fn: Callable[..., Array]) -> Callable[..., Array]:
    r"""A ranking metric made a loss that is never below minus the metric: ranks by hinges.

    .. math:: r_i = 1 + \sum_{k \ne i} \max(0, 1 + s_k - s_i)

    Args:
      metric_fn: a metric that falls with ranks, as for `approx_t12n`.

    Returns:
      The loss, with the arguments of the metric. Where a hinge has its kink, its gradient is 0.

    Source: Wang et al. (2018).

    >>> def reciprocal_rank(scores, labels, *, where=None, rank_fn):
    ...     return (labels / rank_fn(scores, where=where)).max(-1)
    >>> loss = jloss.bound_t12n(reciprocal_rank)
    >>> loss(jnp.array([0.0, 1.0, 3.0, 2.0]), jnp.array([0.0, 1.0, 0.0, 1.0]))
    Array(-0.33333334, dtype=float32)
    """

    def steps(scores: Array) -> tuple[_Step, _Step]:
        return (
            lambda x, lost: jax.nn.relu((1.0 + x) + lost),
            lambda x, lost: 1.0 - jax.nn.relu((1.0 - x) - lost),
        )

    return _soft_metric(metric_fn, "bound_t12n", "bounded", steps)


def _squares(scores, labels, *, where=None):
    return keep(where, (scores - labels) ** 2).sum(-1)


def _exact_squares(m, scores, labels):
    return m.fsum((score - label) ** 2 for score, label in zip(scores, labels, strict=True))


def _without_noise(transform):
    """The card's form, with noise of scale 0."""

    def loss(scores, labels, *, where=None):
        noisy = transform(_squares, samples=2, beta=0.0)
        return noisy(scores, labels, key=jax.random.key(0), where=where).mean(0)

    return loss


@card(
    values="list",
    predictions=REAL,
    targets=REAL,
    exact=_exact_squares,
    source="Bruch et al. (2020), A stochastic treatment of learning to rank scoring functions, "
    "WSDM",
    also=dict(rax="gumbel_t12n"),
    ulp=4,
    minimum=0.0,
    minimizer=lambda targets: targets,
    convex=True,
    smooth=2.0,
    kinks=False,
    invariant=("translation", "permutation"),
    form=_without_noise,
)
def gumbel_t12n(
    loss_or_metric_fn: Callable[..., Array],
    *,
    samples: int = 8,
    beta: ArrayLike = 1.0,
    smoothing_factor: ArrayLike | None = None,
) -> Callable[..., Array]:
    r"""A loss or metric of scores with Gumbel noise: the order becomes a draw from Plackett-Luce.

    .. math:: L'(s, y) = L(s + \beta g, y), \qquad g_i = -\log(-\log u_i)

    Args:
      loss_or_metric_fn: ``loss(scores, labels, *, ...)`` on the last axis.
      samples: how many draws; they are a new first axis of scores, labels and all array options,
        over which the loss reduces, or which its values have.
      beta: the scale of the noise.
      smoothing_factor: if given, scores become the logarithm of their softmax over the list plus
        this, after the noise.

    Returns:
      A function with the arguments of the given one and ``key``, which draws the noise (and is
      split where the given one wants a key as well).

    Source: Bruch et al. (2020).

    >>> loss = jloss.gumbel_t12n(jloss.ranking_softmax_loss)
    >>> scores, labels = jnp.array([0.0, 1.0, 3.0, 2.0]), jnp.array([0.0, 0.0, 1.0, 2.0])
    >>> loss(scores, labels, key=jax.random.key(42)) > jloss.ranking_softmax_loss(scores, labels)
    Array(True, dtype=bool)
    """

    def loss(scores: ArrayLike, labels: ArrayLike, *, key: Array, **options: Any) -> Array:
        scores, labels, options = _arguments("gumbel_t12n", scores, labels, options)

        def repeat(array: Array) -> Array:
            return jnp.broadcast_to(array, (samples, *array.shape))

        options = _repeated(repeat, scores, options)
        scores, labels = repeat(scores), repeat(labels)
        if _accepts(loss_or_metric_fn, "key"):
            key, options["key"] = jax.random.split(key)
        scores += beta * jax.random.gumbel(key, scores.shape, scores.dtype)
        if smoothing_factor is not None:
            lists = _lists(options.get("where"), options.get("segments"))
            chance = _against_all(scores, lists).chance
            scores = keep(lists.shown, jnp.log(chance + smoothing_factor))
        return loss_or_metric_fn(scores, labels, **options)

    return _resembling(loss, loss_or_metric_fn, "gumbel", "key")


def _in_one_segment(transform):
    """The card's form, with all items of a row in one segment."""

    def loss(scores, labels, *, where=None):
        segments = jnp.zeros(jnp.shape(scores), jnp.int32)
        return transform(_squares)(scores, labels, segments=segments, where=where).sum(-1)

    return loss


@card(
    values="list",
    predictions=REAL,
    targets=REAL,
    exact=_exact_squares,
    source="Jagerman et al. (2022), Rax: composable learning-to-rank using JAX, KDD",
    also=dict(rax="segment_t12n"),
    ulp=4,
    minimum=0.0,
    minimizer=lambda targets: targets,
    convex=True,
    smooth=2.0,
    kinks=False,
    invariant=("translation", "permutation"),
    form=_in_one_segment,
)
def segment_t12n(loss_or_metric_fn: Callable[..., Array]) -> Callable[..., Array]:
    r"""A loss or metric of whole rows made one of several lists in a row, named by ``segments``.

    Args:
      loss_or_metric_fn: ``loss(scores, labels, *, where, ...)`` on the last axis. One that takes
        ``segments`` already, as all ranking losses here do, is returned as it is.

    Returns:
      A function with the arguments of the given one and ``segments``, integers of the shape of the
      scores: items of a row with the same one are a list. It sees each list as a row of its own,
      the others masked, so that time and memory are n times those of a row of n items; a row that
      is masked as a whole stands for each item that is not the first of its list. ``segments=None``
      changes nothing.

    Source: Jagerman et al. (2022).

    >>> def worst_error(scores, labels, *, where):
    ...     return jnp.abs(scores - labels).max(-1, where=where, initial=0.0)
    >>> loss = jloss.segment_t12n(worst_error)
    >>> segments = jnp.array([0, 0, 1])
    >>> loss(jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 0.0, 1.0]), segments=segments)
    Array([2., 0., 2.], dtype=float32)
    """
    if _accepts(loss_or_metric_fn, "segments"):
        return loss_or_metric_fn

    def loss(
        scores: ArrayLike, labels: ArrayLike, *, segments: ArrayLike | None = None, **options: Any
    ) -> Array:
        if segments is None:
            return loss_or_metric_fn(scores, labels, **options)
        options = {**options, "segments": segments}
        scores, labels, options = _arguments("segment_t12n", scores, labels, options)
        where, names = options.get("where"), options.pop("segments")
        lists, beside = _lists(where, names), _beside(scores, where, names)

        def repeat(array: Array) -> Array:
            return jnp.broadcast_to(array[..., None, :], beside.shape)

        options = _repeated(repeat, scores, options)
        options["where"] = beside & lists.begins[..., :, None]
        return loss_or_metric_fn(repeat(scores), repeat(labels), **options)

    return _resembling(loss, loss_or_metric_fn, "segment", "segments")


# Lambda weights ----------------------------------------------------------------------------------


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
    values="list", predictions=REAL, targets=_LABEL, minimum=0.0, form=_weighed_pairs
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
