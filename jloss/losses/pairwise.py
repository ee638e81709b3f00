r"""Pair-wise ranking losses: the more relevant of any two items of a list should score higher.

Where a loss is a sum over pairs of powers of differences it is computed from sorted scores, in
O(n log n) time and O(n) memory for n items; else block by block, in O(n) memory as well. Other
reductions than a mean or a sum, and lambda weights, need all pairs at once, in O(n^2) memory. So
are short lists taken, for that is faster.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._compiled import compiled
from jloss._safe import (
    floats,
    hyper,
    keep,
    mask,
    nan_unless,
    ramp,
    same_shape,
    sigmoid,
    softplus,
)
from jloss._sorting import levels_of, pair_sum, pairs_of
from jloss.card import NONNEGATIVE, REAL, SIGN, UNIT, card
from jloss.losses._lists import LABEL, Reduce, _beside, _differences, _lists
from jloss.losses._pairs import (
    LambdaWeight,
    _block_sums,
    _given,
    _number,
    _reduced,
    _reduced_pairs,
    _sorted_sums,
)

# What the cards share ----------------------------------------------------------------------------


def _of_each_row(values: Array, where: Array) -> Array:
    """A reduction for the cards' forms."""
    return values.sum(-1, where=where)


def _on_each_list(loss):
    """The card's form: the sum over the pairs of each list."""

    def form(scores, labels, *, where=None):
        return loss(scores, labels, where=where, reduce_fn=_of_each_row)

    return form


def _exact_pairs(pair):
    """The sum over pairs, of a function of mpmath, the score's lead, and that of the label."""

    def exact(m, scores, labels):
        return m.fsum(
            pair(m, s - t, y - z)
            for s, y in zip(scores, labels, strict=True)
            for t, z in zip(scores, labels, strict=True)
            if y > z
        )

    return exact


_RANKING: dict[str, Any] = dict(values="list", predictions=REAL, targets=LABEL, form=_on_each_list)

# Of powers of differences ------------------------------------------------------------------------


@card(
    **_RANKING,
    exact=_exact_pairs(lambda m, lead, _: max(0, 1 - lead)),
    source="Herbrich, Graepel & Obermayer (1999), Support vector learning for ordinal regression, "
    "ICANN; Joachims (2002), Optimizing search engines using clickthrough data, KDD",
    also=dict(rax="pairwise_hinge_loss"),
    ulp=4,
    minimum=0.0,
    convex=True,
    invariant=("permutation",),
)
@compiled
def pairwise_hinge_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    segments: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    lambdaweight_fn: LambdaWeight = None,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    r"""What the score of the more relevant of two items lacks of a lead of 1.

    .. math:: L(s, y) = \sum_{i, j:\ y_i > y_j} w_i \max(0,\ 1 - (s_i - s_j))

    Args:
      scores: one an item, the items of a list along the last axis.
      labels: the same shape; how relevant each item is, any real number.
      where: boolean mask of the items that count, or of whole lists.
      segments: integers of the shape of ``scores``; items of a row with the same one are a list.
      weights: a factor for each pair, that of its first item; it broadcasts to the labels.
      lambdaweight_fn: further factors for the pairs, as `dcg_lambdaweight` gives them, which takes
        O(n^2) memory.
      reduce_fn: how the pairs' values are reduced, called as ``reduce_fn(values, where=...)``. The
        mean of no pair is 0. None returns all pairs. Others than `jnp.mean` and `jnp.sum` take
        O(n^2) memory.

    Returns:
      A scalar, or with ``reduce_fn=None`` the shape (..., n * n), in float32 or float64.
      Time is O(n log n) for a list of n items and memory O(n). A pair that is 1 apart has gradient
      0.

    Raises:
      ValueError: shapes differ, or ``weights`` do not broadcast.
      TypeError: scores are not floating, segments not integers, or ``where`` is not boolean.

    Prefer `pairwise_logistic_loss` where a larger lead should go on to count.
    Source: Herbrich, Graepel & Obermayer (1999), Joachims (2002).

    >>> jloss.pairwise_hinge_loss(jnp.array([2.0, 0.5, 1.5]), jnp.array([1.0, 0.0, 0.0]))
    Array(0.25, dtype=float32)
    """
    given = _given("pairwise_hinge_loss", scores, labels, where, segments, weights)
    return _reduced(
        given,
        _sorted_sums(given, 1, 1.0),
        lambda behind, lost: ramp((1.0 + behind) + lost),
        lambdaweight_fn,
        reduce_fn,
    )


@card(
    **_RANKING,
    exact=_exact_pairs(lambda m, lead, _: max(0, 1 - lead) ** 2),
    source="Chapelle & Keerthi (2010), Efficient algorithms for ranking with SVMs, Information "
    "Retrieval 13",
    ulp=4,
    minimum=0.0,
    convex=True,
    kinks=False,
    invariant=("permutation",),
)
@compiled
def pairwise_squared_hinge_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    segments: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    lambdaweight_fn: LambdaWeight = None,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    r"""The square of what the score of a more relevant item lacks of a lead of 1.

    .. math:: L(s, y) = \sum_{i, j:\ y_i > y_j} w_i \max(0,\ 1 - (s_i - s_j))^2

    Args:
      scores: one an item, the items of a list along the last axis.
      labels: the same shape; how relevant each item is, any real number.
      where: boolean mask of the items that count, or of whole lists.
      segments: integers of the shape of ``scores``; items of a row with the same one are a list.
      weights: a factor for each pair, that of its first item; it broadcasts to the labels.
      lambdaweight_fn: further factors for the pairs, as `dcg_lambdaweight` gives them, which takes
        O(n^2) memory.
      reduce_fn: how the pairs' values are reduced, called as ``reduce_fn(values, where=...)``. The
        mean of no pair is 0. None returns all pairs. Others than `jnp.mean` and `jnp.sum` take
        O(n^2) memory.

    Returns:
      A scalar, or with ``reduce_fn=None`` the shape (..., n * n), in float32 or float64.
      Time is O(n log n) for a list of n items and memory O(n).

    Raises:
      ValueError: shapes differ, or ``weights`` do not broadcast.
      TypeError: scores are not floating, segments not integers, or ``where`` is not boolean.

    Prefer it to `pairwise_hinge_loss` where a gradient without jumps helps: it bounds the share of
    pairs in the wrong order as well, and so one minus the area under the ROC curve.
    Source: Chapelle & Keerthi (2010).

    >>> jloss.pairwise_squared_hinge_loss(jnp.array([2.0, 0.5, 1.5]), jnp.array([1.0, 0.0, 0.0]))
    Array(0.125, dtype=float32)
    """
    given = _given("pairwise_squared_hinge_loss", scores, labels, where, segments, weights)
    return _reduced(
        given,
        _sorted_sums(given, 2, 1.0),
        lambda behind, lost: ramp((1.0 + behind) + lost) ** 2,
        lambdaweight_fn,
        reduce_fn,
    )


def _qr_form(loss):
    """The card's form, as `_on_each_list`."""

    def form(scores, labels, *, tau=0.5, where=None):
        return loss(scores, labels, tau=tau, where=where, reduce_fn=_of_each_row)

    return form


@card(
    **_RANKING | dict(form=_qr_form),
    hyper=dict(tau=UNIT),
    exact=lambda m, scores, labels, tau: _exact_pairs(
        lambda m, lead, gap: tau * max(0, gap - lead) + (1 - tau) * max(0, lead - gap)
    )(m, scores, labels),
    source="Koenker & Bassett (1978), Regression quantiles, Econometrica 46(1), for differences of "
    "two scores",
    also=dict(rax="pairwise_qr_loss"),
    ulp=4,
    scale="input",
    minimum=0.0,
    minimizer=lambda targets: targets,
    convex=True,
    invariant=("permutation",),
)
@compiled
def pairwise_qr_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    segments: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    tau: ArrayLike = 0.5,
    squared: bool = False,
    lambdaweight_fn: LambdaWeight = None,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    r"""Quantile regression of differences: a lead in score as large as that in relevance.

    .. math::
        L(s, y) = \sum_{i, j:\ y_i > y_j} w_i \bigl(\tau \max(0, r_i - r_j) +
        (1 - \tau) \max(0, r_j - r_i)\bigr), \qquad r_i = y_i - s_i

    Args:
      scores: one an item, the items of a list along the last axis.
      labels: the same shape; how relevant each item is, any real number.
      where: boolean mask of the items that count, or of whole lists.
      segments: integers of the shape of ``scores``; items of a row with the same one are a list.
      weights: a factor for each pair, that of its first item; it broadcasts to the labels.
      lambdaweight_fn: further factors for the pairs, as `dcg_lambdaweight` gives them, which takes
        O(n^2) memory.
      reduce_fn: how the pairs' values are reduced, called as ``reduce_fn(values, where=...)``. The
        mean of no pair is 0. None returns all pairs. Others than `jnp.mean` and `jnp.sum` take
        O(n^2) memory.
      tau: the level: the share of pairs whose lead in score is to stay below that in relevance.
        From 0 to 1, NaN otherwise; it broadcasts to one value a row.
      squared: whether both maxima are squared, which makes it `pairwise_mse_loss` but for pairs
        with one label, and a factor.

    Returns:
      A scalar, or with ``reduce_fn=None`` the shape (..., n * n), in float32 or float64.
      Time is O(n log n) for a list of n items and memory O(n).

    Raises:
      ValueError: shapes differ, or ``weights`` do not broadcast.
      TypeError: scores are not floating, segments not integers, or ``where`` is not boolean.

    Source: Koenker & Bassett (1978).

    >>> jloss.pairwise_qr_loss(jnp.array([2.0, 0.5, 1.5]), jnp.array([1.0, 0.0, 0.0]), tau=0.75)
    Array(0.25, dtype=float32)
    """
    loss = "pairwise_qr_loss"
    given = _given(loss, scores, labels, where, segments, weights)
    tau = hyper(loss, given.scores, rows=True, tau=tau)
    tau += nan_unless(loss, (tau >= 0) & (tau <= 1), "in [0, 1]", tau=tau)
    tau = jnp.broadcast_to(tau, given.scores.shape[:-1])[..., None]
    residual = keep(given.where, given.labels - given.scores)
    degree = 1 + squared

    def sums() -> tuple[Array, Array]:
        home, flat = given.home, residual.ravel()
        levels = levels_of(given.labels.ravel(), home)
        pairs = pairs_of(0.0, flat, home, levels)
        below, above = (x.ravel() for x in (given.weights * tau, given.weights * (1.0 - tau)))
        total = pair_sum(degree, 0.0, -flat, below, pairs.reversed())
        return total + pair_sum(degree, 0.0, flat, above, pairs), _number(levels, given)

    def pair(difference: Array, lost: Array) -> Array:
        above, below = (
            ramp(x + y) ** degree for x, y in ((difference, lost), (-difference, -lost))
        )
        return tau[..., None] * below + (1.0 - tau[..., None]) * above

    return _reduced(given, sums, pair, lambdaweight_fn, reduce_fn, residual=True)


@card(
    **_RANKING,
    exact=lambda m, scores, labels: m.fsum(
        ((y - z) - (s - t)) ** 2
        for s, y in zip(scores, labels, strict=True)
        for t, z in zip(scores, labels, strict=True)
    ),
    source="Kuo, Cheng & Wang (2009), Learning to rank from Bayesian decision inference, CIKM",
    also=dict(rax="pairwise_mse_loss"),
    ulp=4,
    scale=lambda inputs: 1 + inputs**2,
    minimum=0.0,
    minimizer=lambda targets: targets,
    convex=True,
    kinks=False,
    symmetric=True,
    invariant=("translation", "permutation"),
)
@compiled
def pairwise_mse_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    segments: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    lambdaweight_fn: LambdaWeight = None,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    r"""Squared error of the differences of scores as those of labels: a shift of a list is free.

    .. math:: L(s, y) = \sum_{i, j} w_i \bigl((y_i - y_j) - (s_i - s_j)\bigr)^2

    Args:
      scores: one an item, the items of a list along the last axis.
      labels: the same shape; how relevant each item is, any real number.
      where: boolean mask of the items that count, or of whole lists.
      segments: integers of the shape of ``scores``; items of a row with the same one are a list.
      weights: a factor for each pair, that of its first item; it broadcasts to the labels.
      lambdaweight_fn: further factors for the pairs, as `dcg_lambdaweight` gives them, which takes
        O(n^2) memory.
      reduce_fn: how the pairs' values are reduced, called as ``reduce_fn(values, where=...)``. The
        mean of no pair is 0. None returns all pairs. Others than `jnp.mean` and `jnp.sum` take
        O(n^2) memory.

    Returns:
      A scalar, or with ``reduce_fn=None`` the shape (..., n * n), in float32 or float64.
      All pairs count, those of an item with itself among them. Time and memory are O(n) for a list
      of n items.

    Raises:
      ValueError: shapes differ, or ``weights`` do not broadcast.
      TypeError: scores are not floating, segments not integers, or ``where`` is not boolean.

    Prefer `pairwise_hinge_loss` where only the order counts.
    Source: Kuo, Cheng & Wang (2009).

    >>> jloss.pairwise_mse_loss(jnp.array([2.0, 0.5]), jnp.array([1.0, 0.0]))
    Array(0.125, dtype=float32)
    """
    given = _given("pairwise_mse_loss", scores, labels, where, segments, weights)
    residual = keep(given.where, given.labels - given.scores)

    def sums() -> tuple[Array, Array]:
        lists = _lists(given.where, given.segments)
        size = lists.total(jnp.ones_like(residual))
        # The formula holds for any centre; near the mean no digit is lost.
        centre = lists.total(residual) / jnp.maximum(size, 1.0)
        away = keep(given.where, residual - jax.lax.stop_gradient(centre))
        others = lists.total(away**2) - 2.0 * away * lists.total(away)
        values = keep(given.where, given.weights * (size * away**2 + others))
        return ramp(values.sum()), keep(given.where, size).sum()

    return _reduced(
        given,
        sums,
        lambda difference, lost: (difference + lost) ** 2,
        lambdaweight_fn,
        reduce_fn,
        residual=True,
        ordered=False,
    )


# Of other functions of differences ---------------------------------------------------------------


@card(
    **_RANKING,
    exact=_exact_pairs(lambda m, lead, _: m.log1p(m.exp(-lead))),
    source="Burges et al. (2005), Learning to rank using gradient descent, ICML",
    also=dict(rax="pairwise_logistic_loss"),
    ulp=4,
    minimum=0.0,
    convex=True,
    kinks=False,
    invariant=("shift", "permutation"),
)
@compiled
def pairwise_logistic_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    segments: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    lambdaweight_fn: LambdaWeight = None,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    r"""RankNet: the cross-entropy of which of two items is the more relevant one.

    .. math:: L(s, y) = \sum_{i, j:\ y_i > y_j} w_i \log(1 + e^{-(s_i - s_j)})

    Args:
      scores: one an item, the items of a list along the last axis.
      labels: the same shape; how relevant each item is, any real number.
      where: boolean mask of the items that count, or of whole lists.
      segments: integers of the shape of ``scores``; items of a row with the same one are a list.
      weights: a factor for each pair, that of its first item; it broadcasts to the labels.
      lambdaweight_fn: further factors for the pairs, as `dcg_lambdaweight` gives them, which takes
        O(n^2) memory.
      reduce_fn: how the pairs' values are reduced, called as ``reduce_fn(values, where=...)``. The
        mean of no pair is 0. None returns all pairs. Others than `jnp.mean` and `jnp.sum` take
        O(n^2) memory.

    Returns:
      A scalar, or with ``reduce_fn=None`` the shape (..., n * n), in float32 or float64.
      Time is O(n^2) for a list of n items and memory O(n).

    Raises:
      ValueError: shapes differ, or ``weights`` do not broadcast.
      TypeError: scores are not floating, segments not integers, or ``where`` is not boolean.

    With `dcg_lambdaweight` it is LambdaRank, with `dcg2_lambdaweight` LambdaLoss. Prefer
    `pairwise_squared_hinge_loss` for very long lists.
    Source: Burges et al. (2005).

    >>> jloss.pairwise_logistic_loss(jnp.array([2.0, 0.5, 1.5]), jnp.array([1.0, 0.0, 0.0]))
    Array(0.33774513, dtype=float32)
    """
    given = _given("pairwise_logistic_loss", scores, labels, where, segments, weights)
    return _reduced(given, _block_sums(given, _logistic), _logistic, lambdaweight_fn, reduce_fn)


def _logistic(behind: Array, lost: Array) -> Array:
    return softplus(behind) + sigmoid(behind) * lost


@card(
    **_RANKING,
    exact=_exact_pairs(lambda m, lead, _: 1 / (1 + m.exp(lead))),
    source="Qin, Liu & Li (2010), A general approximation framework for direct optimization of "
    "information retrieval measures, Information Retrieval 13",
    also=dict(rax="pairwise_soft_zero_one_loss"),
    ulp=4,
    minimum=0.0,
    convex=False,
    kinks=False,
    invariant=("shift", "permutation"),
)
@compiled
def pairwise_soft_zero_one_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    segments: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    lambdaweight_fn: LambdaWeight = None,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    r"""How many pairs are in the wrong order, by a smooth step instead of a jump.

    .. math:: L(s, y) = \sum_{i, j:\ y_i > y_j} w_i \frac{1}{1 + e^{s_i - s_j}}

    Args:
      scores: one an item, the items of a list along the last axis.
      labels: the same shape; how relevant each item is, any real number.
      where: boolean mask of the items that count, or of whole lists.
      segments: integers of the shape of ``scores``; items of a row with the same one are a list.
      weights: a factor for each pair, that of its first item; it broadcasts to the labels.
      lambdaweight_fn: further factors for the pairs, as `dcg_lambdaweight` gives them, which takes
        O(n^2) memory.
      reduce_fn: how the pairs' values are reduced, called as ``reduce_fn(values, where=...)``. The
        mean of no pair is 0. None returns all pairs. Others than `jnp.mean` and `jnp.sum` take
        O(n^2) memory.

    Returns:
      A scalar, or with ``reduce_fn=None`` the shape (..., n * n), in float32 or float64.
      Time is O(n^2) for a list of n items and memory O(n).

    Raises:
      ValueError: shapes differ, or ``weights`` do not broadcast.
      TypeError: scores are not floating, segments not integers, or ``where`` is not boolean.

    Prefer `pairwise_logistic_loss` to begin with: here a pair that is far in the wrong order has
    hardly a gradient.
    Source: Qin, Liu & Li (2010).

    >>> jloss.pairwise_soft_zero_one_loss(jnp.array([2.0, 0.5, 1.5]), jnp.array([1.0, 0.0, 0.0]))
    Array(0.2799831, dtype=float32)
    """
    given = _given("pairwise_soft_zero_one_loss", scores, labels, where, segments, weights)
    return _reduced(given, _block_sums(given, _soft_step), _soft_step, lambdaweight_fn, reduce_fn)


def _soft_step(behind: Array, lost: Array) -> Array:
    step = sigmoid(behind)
    return step + step * sigmoid(-behind) * lost


# Of single pairs ---------------------------------------------------------------------------------


def _with_labels(loss):
    """The card's form, with labels by name."""

    def form(predictions, targets, *, labels=1.0, margin=0.0, where=None):
        if jnp.ndim(labels) == 0:
            labels = jnp.full_like(predictions, labels)
        return loss(predictions, targets, labels, margin=margin, where=where)

    return form


@card(
    values="element",
    predictions=REAL,
    targets=REAL,
    hyper=dict(labels=SIGN, margin=NONNEGATIVE),
    exact=lambda m, first, second, labels, margin: max(0, margin - labels * (first - second)),
    form=_with_labels,
    source="Herbrich, Graepel & Obermayer (1999), Support vector learning for ordinal regression, "
    "ICANN",
    also=dict(torch="nn.functional.margin_ranking_loss"),
    ulp=1,
    minimum=0.0,
    convex=True,
    lipschitz=1.0,
    invariant=("translation",),
)
@compiled
def margin_ranking_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    labels: ArrayLike,
    *,
    margin: ArrayLike = 0.0,
    where: ArrayLike | None = None,
) -> Array:
    r"""What the score that should be the higher of two lacks of a lead by a margin.

    .. math:: L(p, t, y) = \max(0,\ m - y (p - t))

    Args:
      predictions: scores of any shape.
      targets: the scores to compare them with, the same shape; they have a gradient as well.
      labels: 1 where the first should be the higher one, -1 where the second should, NaN otherwise;
        the same shape.
      margin: :math:`m`, at least 0, NaN otherwise; it broadcasts to the predictions.
      where: boolean mask of what counts, of the same rank.

    Returns:
      One value a pair, in float32 or float64. At a lead of exactly the margin the gradient is 0.

    Raises:
      ValueError: shapes differ, or ``margin`` does not broadcast.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    Prefer `pairwise_hinge_loss` for all pairs of a list.
    Source: Herbrich, Graepel & Obermayer (1999).

    >>> first, second = jnp.array([1.0, 2.0]), jnp.array([0.0, 0.5])
    >>> jloss.margin_ranking_loss(first, second, jnp.array([1, -1]), margin=0.5)
    Array([0., 2.], dtype=float32)
    """
    loss = "margin_ranking_loss"
    predictions, targets, labels = floats(
        loss, predictions=predictions, targets=targets, labels=labels
    )
    same_shape(loss, predictions=predictions, targets=targets)
    same_shape(loss, predictions=predictions, labels=labels)
    where = mask(loss, where, predictions.shape)
    predictions, targets, labels = (
        keep(where, predictions),
        keep(where, targets),
        keep(where, labels, 1),
    )
    margin = hyper(loss, predictions, margin=margin)
    labels += nan_unless(loss, jnp.abs(labels) == 1, "-1 or 1", labels=labels)
    labels += nan_unless(loss, margin >= 0, "at least 0", margin=margin)
    return keep(where, ramp(margin - labels * (predictions - targets)))


# Of any function --------------------------------------------------------------------------------


def _of_logistic(loss):
    """The card's form: the logistic loss of each lead, which rounds it, as `_on_each_list`."""

    def logistic(lead, gap):
        return softplus(-lead), gap > 0

    def form(scores, labels, *, where=None):
        return loss(scores, labels, pair_loss_fn=logistic, where=where, reduce_fn=_of_each_row)

    return form


@card(
    **_RANKING | dict(form=_of_logistic),
    exact=_exact_pairs(lambda m, lead, _: m.log1p(m.exp(-lead))),
    source="Burges et al. (2005), Learning to rank using gradient descent, ICML",
    ulp=4,
    scale=lambda inputs: 1 + inputs,
    kinks=False,
    invariant=("permutation",),
)
@compiled
def pairwise_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    pair_loss_fn: Callable[[Array, Array], tuple[Array, Array]],
    where: ArrayLike | None = None,
    segments: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    lambdaweight_fn: LambdaWeight = None,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    r"""Any function of the lead of one item over another, on the pairs of a list.

    .. math:: L(s, y) = \sum_{i, j} w_i\, f(s_i - s_j,\ y_i - y_j)

    Args:
      scores: one an item, the items of a list along the last axis.
      labels: the same shape; how relevant each item is, any real number.
      pair_loss_fn: called once, with the leads in score and in label of all pairs, (..., n, n);
        returns the values of pairs, and which pairs count. The lead in score of a pair that is not
        of one list is 0.
      where: boolean mask of the items that count, or of whole lists.
      segments: integers of the shape of ``scores``; items of a row with the same one are a list.
      weights: a factor for each pair, that of its first item; it broadcasts to the labels.
      lambdaweight_fn: further factors for the pairs, as `dcg_lambdaweight` gives them.
      reduce_fn: how the pairs' values are reduced, called as ``reduce_fn(values, where=...)``. The
        mean of no pair is 0. None returns all pairs.

    Returns:
      A scalar, or with ``reduce_fn=None`` the shape (..., n * n), in float32 or float64.
      Time and memory are O(n^2), for nothing is known of the function: what has a name, as
      `pairwise_logistic_loss`, takes less.

    Raises:
      ValueError: shapes differ, ``weights`` do not broadcast, or ``pair_loss_fn`` does not return
        an array of all pairs twice.
      TypeError: scores are not floating, segments not integers, or ``where`` is not boolean.

    Source: Burges et al. (2005), Learning to rank using gradient descent, ICML.

    >>> def exponential(lead, gap):
    ...     return jnp.exp(-lead), gap > 0
    >>> loss = jax.jit(jloss.pairwise_loss, static_argnames="pair_loss_fn")
    >>> scores, labels = jnp.array([2.0, 0.5, 1.5]), jnp.array([1.0, 0.0, 0.0])
    >>> loss(scores, labels, pair_loss_fn=exponential)
    Array(0.41483042, dtype=float32)
    """
    given = _given("pairwise_loss", scores, labels, where, segments, weights)
    beside = _beside(given.scores, given.where, given.segments)
    behind, _ = _differences(given.scores, beside)
    gaps = given.labels[..., :, None] - given.labels[..., None, :]
    losses, valid = pair_loss_fn(-behind, gaps)
    if not jnp.shape(losses) == jnp.shape(valid) == gaps.shape:
        raise ValueError(
            f"pairwise_loss: pair_loss_fn returned the shapes {jnp.shape(losses)} and "
            f"{jnp.shape(valid)}; wanted values and which of them count, both {gaps.shape}."
        )
    return _reduced_pairs(given, losses, beside & valid, lambdaweight_fn, reduce_fn)
