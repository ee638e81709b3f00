r"""Losses of predicted probabilities and distributions: how unlikely they hold what was then seen.

First probabilities of classes, for models that give no logits: these keep digits that probabilities
near 1 have lost, so prefer ``classification.py`` where there is a choice. Then distributions of
numbers, with the whole negative log-likelihood, constants included, so that they can be compared.
Quantiles are in ``regression.py``.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._compiled import compiled
from jloss._safe import (
    Axis,
    chain,
    class_indices,
    class_rows,
    floats,
    hyper,
    keep,
    log_rest,
    mask,
    nan_unless,
    nan_unless_class,
    product,
    ratio,
    same_shape,
    to_rows,
)
from jloss.card import (
    CLASS,
    COUNT,
    LOG_PROBABILITIES,
    LOG_RATE,
    POSITIVE,
    PROBABILITIES,
    PROBABILITY,
    RATE,
    REAL,
    UNIT,
    card,
)


def _nan_unless_probabilities(loss: str, **predictions: Array) -> Array:
    ((name, array),) = predictions.items()
    return nan_unless(loss, (array >= 0) & (array <= 1), "in [0, 1]", **{name: array})


def _some(probability: Array) -> Array:
    """The smallest normal number instead of 0, so that slopes are large there and not infinite.

    Infinite ones would be NaN times a tangent or a weight of 0.
    """
    return jnp.maximum(probability, jnp.finfo(probability.dtype).tiny)


def _some_rest(probability: Array) -> Array:
    """``1 - probability``, and the smallest one that there is instead of 0."""
    return jnp.maximum(1.0 - probability, jnp.finfo(probability.dtype).epsneg)


# Binary ------------------------------------------------------------------------------------------


@card(
    values="element",
    predictions=PROBABILITY,
    targets=PROBABILITY,
    exact=lambda m, prediction, label: (
        (label and -label * m.log(prediction))
        + (label != 1 and -(1 - label) * m.log1p(-prediction))
    ),
    source="Good (1952), Rational decisions, J. R. Stat. Soc. B 14(1)",
    also=dict(
        torch="nn.functional.binary_cross_entropy",
        keras="losses.binary_crossentropy",
        sklearn="metrics.log_loss",
    ),
    ulp=4,
    minimum=0.0,
    convex=True,
    kinks=False,
    elicits="probability",
)
@compiled
def binary_cross_entropy(
    predictions: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
    r"""Cross-entropy of independent yes-or-no answers, from the probabilities of a yes.

    .. math:: L(p, y) = -y \log p - (1 - y) \log(1 - p), \qquad 0 \log 0 = 0

    Args:
      predictions: probabilities of a yes, any shape; in [0, 1], NaN otherwise.
      labels: the same shape; 0, 1 or a probability between, NaN otherwise.
      where: boolean mask of what counts, of the same rank.

    Returns:
      One value an element, in float32 or float64; infinite where what happened was held to be
      impossible. The gradient is :math:`(p - y) / p (1 - p)`, and there very large.

    Raises:
      ValueError: shapes differ.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    Prefer `sigmoid_binary_cross_entropy` on logits: in float32 a probability cannot come nearer to
    1 than 6e-8. keras keeps predictions 1e-7 away from 0 and 1, torch keeps logarithms above -100;
    nothing is clamped here.
    Source: Good (1952).

    >>> jloss.binary_cross_entropy(jnp.array([0.5, 1.0, 0.25]), jnp.array([1.0, 1.0, 0.0]))
    Array([0.6931472, 0.       , 0.2876821], dtype=float32)
    """
    loss = "binary_cross_entropy"
    predictions, labels = floats(loss, predictions=predictions, labels=labels)
    same_shape(loss, predictions=predictions, labels=labels)
    where = mask(loss, where, predictions.shape)
    predictions, labels = keep(where, predictions, 0.5), keep(where, labels)
    predictions += _nan_unless_probabilities(loss, predictions=predictions)
    predictions += _nan_unless_probabilities(loss, labels=labels)
    return keep(where, _binary_cross_entropy(predictions, labels))


@jax.custom_jvp
def _binary_cross_entropy(predictions: Array, labels: Array) -> Array:
    surprise = product(labels, jnp.log(predictions))
    return jnp.abs(surprise + product(1.0 - labels, log_rest(predictions)))


@partial(_binary_cross_entropy.defjvp, symbolic_zeros=True)
def _binary_cross_entropy_jvp(primals, tangents):
    predictions, labels = primals
    # The two fractions of an uncertain label cancel; of a certain one each serves alone.
    certain = (labels == 0) | (labels == 1)
    inner = jnp.where(certain, 0.5, predictions)
    slope = jnp.where(
        certain,
        ratio(1.0 - labels, _some_rest(predictions)) - ratio(labels, _some(predictions)),
        (inner - labels) / inner / (1.0 - inner),
    )
    label_slope = log_rest(predictions) - jnp.log(predictions)
    return chain(
        _binary_cross_entropy(predictions, labels), (slope, tangents[0]), (label_slope, tangents[1])
    )


# One class out of several ------------------------------------------------------------------------


@card(
    values="example",
    predictions=PROBABILITIES,
    targets=PROBABILITIES,
    exact=lambda m, predictions, labels: m.fsum(
        -label * m.log(prediction)
        for prediction, label in zip(predictions, labels, strict=True)
        if label
    ),
    source="Good (1952), Rational decisions, J. R. Stat. Soc. B 14(1)",
    also=dict(keras="losses.categorical_crossentropy", sklearn="metrics.log_loss"),
    ulp=4,
    minimum=0.0,
    convex=True,
    kinks=False,
    invariant=("permutation",),
)
@compiled
def categorical_cross_entropy(
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Cross-entropy of one class out of several, from the probabilities of the classes.

    .. math:: L(p, y) = -\sum_c y_c \log p_c, \qquad 0 \log 0 = 0

    Args:
      predictions: probabilities of the classes along ``axis``; in [0, 1], NaN for the example
        otherwise. That they sum to 1 is taken on trust.
      labels: the same shape; at least 0, NaN for the example otherwise.
      axis: the axis, or axes, of the classes.
      where: boolean mask of what counts: of the shape of the result, or of the rank of the
        predictions, which leaves classes out.

    Returns:
      The shape of ``predictions`` without ``axis``, in float32 or float64; infinite where what
      happened was held to be impossible. The gradient is :math:`-y_c / p_c`, and 0 where
      :math:`y_c` is 0.

    Raises:
      ValueError: shapes differ, or ``axis`` names no axis.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    Prefer `softmax_cross_entropy` on logits. keras divides predictions by their sum first, which
    changes nothing for probabilities but takes the mean off the gradient, and clamps them at 1e-7.
    Source: Good (1952).

    >>> predictions = jnp.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    >>> jloss.categorical_cross_entropy(predictions, jnp.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
    Array([1.3862944, 0.       ], dtype=float32)
    """
    loss = "categorical_cross_entropy"
    predictions, labels = floats(loss, predictions=predictions, labels=labels)
    same_shape(loss, predictions=predictions, labels=labels)
    predictions, axes, where = class_rows(loss, predictions, axis, where, hidden=1.0)
    labels = keep(where, to_rows(labels, axes))
    spoilt = _nan_unless_probabilities(loss, predictions=predictions)
    spoilt += nan_unless(loss, labels >= 0, "at least 0", labels=labels)
    values = _cross_entropy(predictions + spoilt.sum(-1, keepdims=True), labels)
    return keep(None if where is None else where.any(-1), values)


@jax.custom_jvp
def _cross_entropy(predictions: Array, labels: Array) -> Array:
    return product(labels, jnp.abs(jnp.log(predictions))).sum(-1)


@partial(_cross_entropy.defjvp, symbolic_zeros=True)
def _cross_entropy_jvp(primals, tangents):
    predictions, labels = primals
    some = _some(predictions)
    slope, label_slope = -ratio(labels, some), -jnp.log(some)
    value = _cross_entropy(predictions, labels)
    return chain(value, (slope, tangents[0]), (label_slope, tangents[1]), axis=-1)


def _labelled_rows(
    loss: str, labels: ArrayLike, axis: Axis, where: ArrayLike | None, hidden: float, **given: Array
) -> tuple[Array, Array, Array | None]:
    """The predictions by rows, NaN where the label is no class; labels; which examples count."""
    ((name, predictions),) = given.items()
    rows, axes, where = class_rows(loss, predictions, axis, where, hidden)
    labels = class_indices(loss, labels, axes, **{name: predictions})
    seen = None if where is None else where.any(-1)
    labels = keep(seen, labels)
    # A factor spoils the gradient of a linear loss as well.
    return rows * (1.0 + nan_unless_class(loss, labels, rows))[..., None], labels, seen


def _at(rows: Array, labels: Array) -> Array:
    return jnp.take_along_axis(rows, labels[..., None], -1)[..., 0]


@card(
    values="example",
    predictions=LOG_PROBABILITIES,
    targets=CLASS,
    exact=lambda m, log_predictions, label: -log_predictions[label],
    source="Good (1952), Rational decisions, J. R. Stat. Soc. B 14(1)",
    also=dict(torch="nn.functional.nll_loss"),
    ulp=1,
    minimum=0.0,
    convex=True,
    lipschitz=1.0,
    smooth=0.0,
    kinks=False,
)
@compiled
def nll_loss(
    log_predictions: ArrayLike,
    labels: ArrayLike,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Negative log-likelihood of the class, from the log-probabilities of all classes.

    .. math:: L(\log p, c) = -\log p_c

    Args:
      log_predictions: log-probabilities along ``axis``, as from `jax.nn.log_softmax`. That they are
        normalised is taken on trust: logits give a number that means nothing.
      labels: integer classes from 0 to C - 1, NaN for the example otherwise; the shape of
        ``log_predictions`` without ``axis``.
      axis: the axis of the classes, the last by default (torch's is 1); of several axes, a label
        counts in their order.
      where: boolean mask of what counts: of the shape of ``labels``, or of the rank of the
        predictions, which leaves classes out. It is the ``ignore_index`` of torch:
        ``where=labels != -100``.

    Returns:
      The shape of ``labels``, in float32 or float64; NaN where any log-probability is.

    Raises:
      ValueError: shapes do not fit, or ``axis`` names no axis.
      TypeError: predictions are not floating, labels not integers, or ``where`` not boolean.

    Prefer `softmax_cross_entropy_with_integer_labels` on logits, which keeps the digits that
    log-probabilities near 0 have lost.
    Source: Good (1952).

    >>> log_predictions = jax.nn.log_softmax(jnp.array([[2.0, 0.0], [0.0, 0.0]]))
    >>> jloss.nll_loss(log_predictions, jnp.array([0, 1]))
    Array([0.12692805, 0.6931472 ], dtype=float32)
    """
    loss = "nll_loss"
    (log_predictions,) = floats(loss, log_predictions=log_predictions)
    rows, labels, seen = _labelled_rows(
        loss, labels, axis, where, -jnp.inf, log_predictions=log_predictions
    )
    spoilt = jnp.where(jnp.isnan(rows).any(-1), jnp.nan, 0.0)
    return keep(seen, (0.0 - _at(rows, labels)) + spoilt)


def _exact_generalized(m, predictions, label, q):
    right = predictions[label]
    return (1 - right**q) / q if q else -m.log(right)


@card(
    values="example",
    predictions=PROBABILITIES,
    targets=CLASS,
    hyper=dict(q=UNIT),
    exact=_exact_generalized,
    source="Zhang & Sabuncu (2018), Generalized cross entropy loss for training deep neural "
    "networks with noisy labels, NeurIPS",
    also=dict(keras="losses.categorical_generalized_cross_entropy"),
    ulp=16,
    minimum=0.0,
    convex=True,
    kinks=False,
)
@compiled
def generalized_cross_entropy(
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    q: ArrayLike = 0.7,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Between cross-entropy (q = 0) and one minus the probability (q = 1): noisy labels hurt less.

    .. math:: L(p, c) = \frac{1 - p_c^q}{q}, \qquad L(p, c) = -\log p_c \text{ for } q = 0

    Args:
      predictions: probabilities of the classes along ``axis``; in [0, 1], NaN for the example
        otherwise.
      labels: integer classes from 0 to C - 1, NaN for the example otherwise; the shape of
        ``predictions`` without ``axis``.
      q: in [0, 1], NaN otherwise; the larger, the less an example counts that the model holds to be
        unlikely. It broadcasts to the labels.
      axis: the axis of the classes; of several axes, a label counts in their order.
      where: boolean mask of what counts: of the shape of ``labels``, or of the rank of the
        predictions, which leaves classes out.

    Returns:
      The shape of ``labels``, in float32 or float64: from 0 to 1 / q. The gradient is
      :math:`-p_c^{q - 1}` at the class and 0 elsewhere, at a probability of 0 as well, where that
      of the smallest normal number stands for an infinite one. The limit q = 0 is exact, and so is
      its derivative for q.

    Raises:
      ValueError: shapes do not fit, ``q`` does not broadcast, or ``axis`` names no axis.
      TypeError: predictions are not floating, labels not integers, or ``where`` not boolean.

    Prefer it to `softmax_cross_entropy_with_integer_labels` where some labels are wrong; with q
    near 1 training from scratch is slow.
    Source: Zhang & Sabuncu (2018).

    >>> predictions = jnp.array([[0.5, 0.5], [0.99, 0.01]])
    >>> jloss.generalized_cross_entropy(predictions, jnp.array([0, 1]), q=0.7)
    Array([0.5491826, 1.371699 ], dtype=float32)
    """
    loss = "generalized_cross_entropy"
    (predictions,) = floats(loss, predictions=predictions)
    rows, labels, seen = _labelled_rows(loss, labels, axis, where, 0.0, predictions=predictions)
    rows += _nan_unless_probabilities(loss, predictions=rows).sum(-1, keepdims=True)
    q = hyper(loss, rows, rows=True, q=q)
    spoilt = nan_unless(loss, (q >= 0) & (q <= 1), "in [0, 1]", q=q)
    rows *= 1.0 + jnp.broadcast_to(spoilt, labels.shape)[..., None]
    return keep(seen, _generalized(_at(rows, labels), q + spoilt))


@jax.custom_jvp
def _generalized(right: Array, q: Array) -> Array:
    log = jnp.log(right)
    none = q == 0
    fall = jnp.expm1(product(q, log))
    return jnp.abs(jnp.where(none, log, fall / jnp.where(none, 1.0, q)))


@partial(_generalized.defjvp, symbolic_zeros=True)
def _generalized_jvp(primals, tangents):
    right, q = primals
    tiny = jnp.finfo(right.dtype).tiny
    some = ~(right <= tiny)  # NaN goes on
    steepest = jnp.power(jnp.asarray(tiny, right.dtype), q - 1.0)
    slope = -jnp.where(some, jnp.power(jnp.where(some, right, 1.0), q - 1.0), steepest)
    q_slope = -_generalized_q_slope(right, q)
    return chain(_generalized(right, q), (slope, tangents[0]), (q_slope, tangents[1]))


def _generalized_q_slope(right: Array, q: Array) -> Array:
    """``(1 - e^z + z e^z) / q²`` for ``z = q log(right)``: near 0 by its series over ``z²``."""
    log = jnp.log(right)
    power = product(q, log)
    near = power > -1.0
    small, factor = jnp.where(near, power, 0.0), jnp.where(near, log, 0.0)
    series = jnp.zeros_like(small)
    for coefficient in _SERIES:
        series = series * small + coefficient
    large = jnp.where(near, -1.0, power)
    divisor = jnp.where(near, 1.0, q)
    return jnp.where(
        near,
        factor * factor * series,
        (product(jnp.exp(large), large) - jnp.expm1(large)) / divisor / divisor,
    )


def _series(terms: int) -> tuple[float, ...]:
    """The coefficients 1 / (k! (k + 2)), the highest first."""
    factorials = [1.0]
    for k in range(1, terms):
        factorials.append(factorials[-1] * k)
    return tuple(1.0 / (factorial * (k + 2)) for k, factorial in enumerate(factorials))[::-1]


_SERIES = _series(18)


# Normal ------------------------------------------------------------------------------------------


@card(
    values="element",
    predictions=REAL,
    targets=REAL,
    hyper=dict(variance=POSITIVE),
    exact=lambda m, prediction, target, variance: (
        (m.log(2 * m.pi * variance) + (prediction - target) ** 2 / variance) / 2
    ),
    source="Nix & Weigend (1994), Estimating the mean and variance of the target probability "
    "distribution, ICNN",
    also=dict(torch="nn.functional.gaussian_nll_loss(full=True)"),
    ulp=4,
    scale=1.0,
    convex=True,
    smooth=lambda variance: 1 / variance,
    kinks=False,
    symmetric=True,
    elicits="mean",
    invariant=("translation",),
)
@compiled
def gaussian_nll(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    variance: ArrayLike = 1.0,
    where: ArrayLike | None = None,
) -> Array:
    r"""Negative log-likelihood of a normal distribution: a squared error that knows its own size.

    .. math:: L(p, t) = \frac12 \log(2 \pi v) + \frac{(p - t)^2}{2 v}

    Args:
      predictions: the predicted means, any shape.
      targets: the same shape.
      variance: the predicted variance :math:`v`, in squared units of the targets; positive, NaN
        otherwise. It broadcasts to the predictions: a number, one a column, or one an element.
      where: boolean mask of what counts, of the same rank.

    Returns:
      One value an element, in nats, float32 or float64; negative where the density is above 1. The
      gradients are :math:`(p - t) / v` for the mean and :math:`(1 - (p - t)^2 / v) / 2v` for the
      variance.

    Raises:
      ValueError: shapes differ, or ``variance`` does not broadcast.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    Prefer it to `squared_error` where the noise differs between examples. Nothing holds the
    variance away from 0, where the value has no bound: let the model give its logarithm, or add a
    floor to a softplus. torch leaves the constant out unless ``full=True``, and raises variances to
    1e-6.
    Source: Nix & Weigend (1994).

    >>> jloss.gaussian_nll(jnp.zeros(2), jnp.ones(2), variance=jnp.array([1.0, 4.0]))
    Array([1.4189385, 1.7370857], dtype=float32)
    """
    loss = "gaussian_nll"
    predictions, targets = floats(loss, predictions=predictions, targets=targets)
    same_shape(loss, predictions=predictions, targets=targets)
    where = mask(loss, where, predictions.shape)
    residual = keep(where, predictions) - keep(where, targets)
    variance = hyper(loss, residual, variance=variance)
    if where is not None:
        variance = keep(where, jnp.broadcast_to(variance, residual.shape), 1)
    variance += nan_unless(loss, variance > 0, "positive", variance=variance)
    # Divided before it is squared, so that no residual overflows whose value does not.
    unlikely = math.log(2 * math.pi) + jnp.log(variance) + residual / variance * residual
    return keep(where, 0.5 * unlikely)


# Poisson -----------------------------------------------------------------------------------------


@card(
    values="element",
    predictions=LOG_RATE,
    targets=COUNT,
    exact=lambda m, log_rate, count: (
        m.exp(log_rate) - (count and count * log_rate) + m.loggamma(count + 1)
    ),
    source="Cameron & Trivedi (1998), Regression analysis of count data",
    also=dict(torch="nn.functional.poisson_nll_loss(full=True)"),
    ulp=32,
    minimum=0.0,
    convex=True,
    kinks=False,
)
@compiled
def poisson_nll(
    log_predictions: ArrayLike, targets: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
    r"""Negative log-likelihood of a count, from the logarithm of its expected value.

    .. math:: L(x, k) = e^x - k x + \log k!

    Args:
      log_predictions: logarithms of the expected counts, any shape; minus infinity for none.
      targets: the counts, the same shape; at least 0, NaN otherwise. They need not be whole.
      where: boolean mask of what counts, of the same rank.

    Returns:
      One value an element, at least 0, in float32 or float64. The gradient is :math:`e^x - k`.

    Raises:
      ValueError: shapes differ.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    Prefer it to `squared_error` for counts, whose spread grows with their mean; see
    `poisson_nll_with_rates` for a model that gives the expected count itself. torch leaves
    :math:`\log k!` out, and with ``full=True`` takes Stirling's approximation of it; here it is
    exact, and its large terms cancel before they are rounded.
    Source: Cameron & Trivedi (1998).

    >>> jnp.round(jloss.poisson_nll(jnp.log(jnp.array([2.0, 2.0])), jnp.array([0, 3])), 4)
    Array([2.    , 1.7123], dtype=float32)
    """
    loss = "poisson_nll"
    log_rates, counts = floats(loss, log_predictions=log_predictions, targets=targets)
    same_shape(loss, log_predictions=log_rates, targets=counts)
    where = mask(loss, where, log_rates.shape)
    log_rates, counts = keep(where, log_rates), keep(where, counts)
    counts += nan_unless(loss, counts >= 0, "at least 0", targets=counts)
    return keep(where, _poisson(log_rates, counts))


@jax.custom_jvp
def _poisson(log_rates: Array, counts: Array) -> Array:
    return _surprise(jnp.exp(log_rates), log_rates, counts)


@partial(_poisson.defjvp, symbolic_zeros=True)
def _poisson_jvp(primals, tangents):
    log_rates, counts = primals
    # Of exp(x) - k and expm1(x) - (k - 1) each holds the digits where the other loses them.
    few = counts < 0.5
    slope = jnp.where(few, jnp.exp(log_rates) - counts, jnp.expm1(log_rates) + (1.0 - counts))
    count_slope = jax.lax.digamma(counts + 1.0) - log_rates
    return chain(_poisson(log_rates, counts), (slope, tangents[0]), (count_slope, tangents[1]))


def _exact_poisson(m, rate, count):
    return rate - (count and count * m.log(rate)) + m.loggamma(count + 1)


@card(
    values="element",
    predictions=RATE,
    targets=COUNT,
    exact=_exact_poisson,
    source="Cameron & Trivedi (1998), Regression analysis of count data",
    also=dict(
        torch="nn.functional.poisson_nll_loss(log_input=False, full=True)",
        keras="losses.poisson",
    ),
    ulp=32,
    minimum=0.0,
    convex=True,
    kinks=False,
    elicits="mean",
)
@compiled
def poisson_nll_with_rates(
    predictions: ArrayLike, targets: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
    r"""Negative log-likelihood of a count, from its expected value.

    .. math:: L(\lambda, k) = \lambda - k \log \lambda + \log k!

    Args:
      predictions: the expected counts, any shape; at least 0, NaN otherwise.
      targets: the counts, the same shape; at least 0, NaN otherwise. They need not be whole.
      where: boolean mask of what counts, of the same rank.

    Returns:
      One value an element, at least 0, in float32 or float64; infinite where what was seen was
      expected never. The gradient is :math:`1 - k / \lambda`.

    Raises:
      ValueError: shapes differ.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    Prefer `poisson_nll`, which needs no constraint on the model's output and has a bounded slope
    where little is expected. torch and keras leave :math:`\log k!` out, and add an epsilon to the
    rate.
    Source: Cameron & Trivedi (1998).

    >>> jnp.round(jloss.poisson_nll_with_rates(jnp.array([2.0, 0.0]), jnp.array([3, 0])), 4)
    Array([1.7123, 0.    ], dtype=float32)
    """
    loss = "poisson_nll_with_rates"
    rates, counts = floats(loss, predictions=predictions, targets=targets)
    same_shape(loss, predictions=rates, targets=counts)
    where = mask(loss, where, rates.shape)
    rates, counts = keep(where, rates, 1), keep(where, counts)
    rates += nan_unless(loss, rates >= 0, "at least 0", predictions=rates)
    counts += nan_unless(loss, counts >= 0, "at least 0", targets=counts)
    return keep(where, _poisson_of_rates(rates, counts))


@jax.custom_jvp
def _poisson_of_rates(rates: Array, counts: Array) -> Array:
    return _surprise(rates, jnp.log(rates), counts)


@partial(_poisson_of_rates.defjvp, symbolic_zeros=True)
def _poisson_of_rates_jvp(primals, tangents):
    rates, counts = primals
    none = counts == 0
    slope = jnp.where(none, 1.0, (rates - counts) / jnp.where(none, 1.0, rates))
    count_slope = jax.lax.digamma(counts + 1.0) - jnp.log(rates)
    return chain(_poisson_of_rates(rates, counts), (slope, tangents[0]), (count_slope, tangents[1]))


_MANY = 16.0  # from here on Stirling's series has all digits of float64


def _surprise(rates: Array, log_rates: Array, counts: Array) -> Array:
    """``rates - counts log_rates + log(counts!)``."""
    # XLA has 5e-7 for the logarithm of 0!.
    log_factorial = jnp.where(counts == 0, 0.0, jax.lax.lgamma(counts + 1.0))
    # Beside an infinite rate nothing else counts, not even what overflows as well.
    gained = jnp.where(jnp.isinf(rates), 0.0, product(counts, log_rates))
    few = (rates - gained) + log_factorial
    # Of many counts the terms are far larger than their sum. Loader (2000), Fast and accurate
    # computation of binomial probabilities: what the rate misses, then what no rate could know.
    many = jnp.maximum(counts, _MANY)
    excess = (rates - many) / many
    log_ratio = jnp.where(
        jnp.abs(excess) < 0.5,
        jnp.log1p(excess),
        jnp.where(jnp.abs(log_rates) < 80.0, jnp.log(rates / many), log_rates - jnp.log(many)),
    )
    inverse = 1.0 / many
    square = inverse * inverse
    stirling = inverse * (
        1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188)))
    )
    missed = many * (excess - log_ratio)
    known = 0.5 * jnp.log(2 * math.pi * many) + stirling
    return jnp.where(counts >= _MANY, missed + known, few)
