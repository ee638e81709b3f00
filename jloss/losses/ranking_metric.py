"""Ranking metrics made losses: normalised gain and any other, by smooth ranks and by bounds."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._compiled import compiled
from jloss._safe import hyper, keep, nan_unless, ratio, sigmoid
from jloss.card import POSITIVE, REAL, RELEVANCE, card
from jloss.losses._lists import (
    LABEL,
    Reduce,
    _beside,
    _best_discounts,
    _differences,
    _discount,
    _factors,
    _gain,
    _items,
    _Lists,
    _lists,
    _nan_unless_relevance,
    _ranks,
)
from jloss.losses.ranking import _against_all

_Step = Callable[[Array, Array], Array]  # of a number and what rounding lost of it


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
@compiled
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


# Smooth ranks ------------------------------------------------------------------------------------


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


def _smooth_step(loss: str, scores: Array, temperature: ArrayLike) -> _Step:
    """The sigmoid of what is to be ranked over a temperature, of which a row may have its own."""
    temperature = hyper(loss, scores, rows=True, temperature=temperature)
    temperature += nan_unless(loss, temperature > 0, "positive", temperature=temperature)
    temperature = jnp.broadcast_to(temperature, scores.shape[:-1])
    return lambda x, lost: sigmoid(
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
    targets=LABEL,
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
@compiled
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
    >>> loss = jax.jit(jloss.approx_t12n(reciprocal_rank))
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
    targets=LABEL,
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
@compiled
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
@compiled
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

    >>> loss = jax.jit(jloss.gumbel_t12n(jloss.ranking_softmax_loss))
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
@compiled
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
    >>> loss = jax.jit(jloss.segment_t12n(worst_error))
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
