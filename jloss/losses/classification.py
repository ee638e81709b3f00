r"""Classification losses on logits: cross-entropies and their kin.

Losses of a margin are in ``margin.py``, distances between distributions in ``divergence.py``.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jloss._safe import (
    Axis,
    axes_of,
    chain,
    class_indices,
    class_rows,
    floats,
    hyper,
    is_class,
    keep,
    log_rest,
    mask,
    nan_unless,
    nan_unless_class,
    product,
    ratio,
    same_shape,
    softplus,
    to_rows,
    two_difference,
)
from jloss._softmax import (
    cross_entropy,
    integer_cross_entropy,
    log_sum_exp,
    probabilities,
    softmax_of,
)
from jloss.card import (
    BINARY,
    CLASS,
    COEFFICIENT,
    LOGIT,
    NONNEGATIVE,
    POSITIVE,
    PROBABILITIES,
    PROBABILITY,
    REAL,
    UNIT,
    card,
)

# Binary ------------------------------------------------------------------------------------------


def _binary(
    loss: str, logits: ArrayLike, labels: ArrayLike, where: ArrayLike | None
) -> tuple[Array, Array, Array | None]:
    """Logits, labels in [0, 1] and the mask, ready for the mathematics."""
    logits, labels = floats(loss, logits=logits, labels=labels)
    same_shape(loss, logits=logits, labels=labels)
    where = mask(loss, where, logits.shape)
    logits, labels = keep(where, logits), keep(where, labels)
    inside = (labels >= 0) & (labels <= 1)
    return logits + nan_unless(loss, inside, "in [0, 1]", labels=labels), labels, where


def _exact_binary(m, logit, label, pos_weight=None):
    weight = 1 if pos_weight is None else pos_weight
    return (weight * label and weight * label * m.log1p(m.exp(-logit))) + (
        label != 1 and (1 - label) * m.log1p(m.exp(logit))
    )


@card(
    values="element",
    predictions=LOGIT,
    targets=PROBABILITY,
    hyper=dict(pos_weight=NONNEGATIVE),
    exact=_exact_binary,
    source="Cox (1958), The regression analysis of binary sequences, J. R. Stat. Soc. B 20(2)",
    also=dict(
        optax="losses.sigmoid_binary_cross_entropy",
        torch="nn.functional.binary_cross_entropy_with_logits",
        keras="losses.binary_crossentropy(from_logits=True)",
        sklearn="_loss.HalfBinomialLoss",
    ),
    ulp=4,
    minimum=0.0,
    convex=True,
    lipschitz=1.0,
    smooth=0.25,
    kinks=False,
    elicits="probability",
    given=dict(pos_weight=1.0),
)
def sigmoid_binary_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    pos_weight: ArrayLike | None = None,
    where: ArrayLike | None = None,
) -> Array:
    r"""Cross-entropy of independent yes-or-no answers: the negative log-likelihood of the labels.

    .. math:: L(x, y) = w \, y \log(1 + e^{-x}) + (1 - y) \log(1 + e^x)

    Args:
      logits: log-odds of a yes, any shape; infinities are allowed.
      labels: the same shape; 0, 1 or a probability between, NaN otherwise.
      pos_weight: :math:`w`, how many times a yes counts, as in torch; at least 0, NaN otherwise.
        It broadcasts to the logits; None means 1.
      where: boolean mask of what counts, of the same rank.

    Returns:
      One value an element, in float32 or float64. Without a weight its gradient is
      :math:`\sigma(x) - y`, and both keep their digits when the model is right.

    Raises:
      ValueError: shapes differ, or ``pos_weight`` does not broadcast.
      TypeError: logits are not floating, or ``where`` is not boolean.

    Prefer it for labels that exclude nothing (tags); for one class out of several see
    `softmax_cross_entropy_with_integer_labels`.
    Source: Cox (1958).

    >>> jloss.sigmoid_binary_cross_entropy(jnp.array([0.0, 17.0]), jnp.array([1.0, 1.0]))
    Array([6.9314718e-01, 4.1399375e-08], dtype=float32)
    """
    loss = "sigmoid_binary_cross_entropy"
    logits, labels, where = _binary(loss, logits, labels, where)
    if pos_weight is not None:
        pos_weight = hyper(loss, logits, pos_weight=pos_weight)
        logits += nan_unless(loss, pos_weight >= 0, "at least 0", pos_weight=pos_weight)
    return keep(where, _binary_cross_entropy(logits, labels, pos_weight))


@jax.custom_jvp
def _binary_cross_entropy(logits: Array, labels: Array, pos_weight: Array | None = None) -> Array:
    # Two terms that are both at least 0: nothing cancels. A selection at the end, for XLA's CPU
    # compiler stores the factors of a product that is summed.
    yes, no = _sides(labels, pos_weight)
    wrong, size = jnp.where(logits > 0, no, yes), jnp.abs(logits)
    tail = jnp.log1p(jnp.exp(-size))
    if pos_weight is not None:
        tail *= yes + no
    return jnp.where(wrong == 0, tail, wrong * size + tail)


@partial(_binary_cross_entropy.defjvp, symbolic_zeros=True)
def _binary_cross_entropy_jvp(primals, tangents):
    logits, labels, pos_weight = primals
    value = _binary_cross_entropy(logits, labels, pos_weight)
    slope = _binary_slope(logits, *_sides(labels, pos_weight))
    if pos_weight is None:
        return chain(value, (slope, tangents[0]), (-logits, tangents[1]))
    if_yes = softplus(-logits)
    label_slope = product(pos_weight - 1.0, if_yes) - logits
    slopes = slope, label_slope, product(labels, if_yes)
    return chain(value, *zip(slopes, tangents, strict=True))


def _sides(labels: Array, pos_weight: Array | None) -> tuple[Array, Array]:
    """The weights of yes and of no."""
    return labels if pos_weight is None else pos_weight * labels, 1.0 - labels


def _binary_slope(logits: Array, yes: Array, no: Array) -> Array:
    # sigmoid(x) - y would lose the digits of a right answer.
    up, odds, likely = _odds(logits)
    return jnp.where(up, (no - yes * odds) * likely, (no * odds - yes) * likely)


def _odds(logits: Array) -> tuple[Array, Array, Array]:
    """Whether yes is likelier, the odds of the other answer, and the likelier one's probability."""
    up = logits > 0
    odds = jnp.exp(jnp.where(up, -logits, logits))
    return up, odds, 1.0 / (1.0 + odds)


def _exact_focal(m, logit, label, gamma, alpha=None):
    yes, no = 1 / (1 + m.exp(-logit)), 1 / (1 + m.exp(logit))
    cross_entropy = (label and -label * m.log(yes)) + (label != 1 and -(1 - label) * m.log(no))
    weight = 1 if alpha is None else alpha * label + (1 - alpha) * (1 - label)
    return weight * ((1 - label) * yes + label * no) ** gamma * cross_entropy


@card(
    values="element",
    predictions=LOGIT,
    targets=PROBABILITY,
    hyper=dict(alpha=UNIT, gamma=NONNEGATIVE),
    exact=_exact_focal,
    source="Lin et al. (2017), Focal loss for dense object detection, ICCV",
    also=dict(
        optax="losses.sigmoid_focal_loss",
        keras="losses.binary_focal_crossentropy(from_logits=True)",
    ),
    ulp=16,
    minimum=0.0,
    convex=False,
    kinks=False,
)
def sigmoid_focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: ArrayLike | None = None,
    gamma: ArrayLike = 2.0,
    where: ArrayLike | None = None,
) -> Array:
    r"""Binary cross-entropy that turns away from what is already right, for rare positives.

    .. math::
        L(x, y) = \alpha_y (1 - p_y)^\gamma \, \mathrm{BCE}(x, y), \qquad
        1 - p_y = (1 - y) \sigma(x) + y \sigma(-x), \quad \alpha_y = \alpha y + (1 - \alpha)(1 - y)

    Args:
      logits: log-odds of a yes, any shape; infinities are allowed.
      labels: the same shape; 0, 1 or a probability between, NaN otherwise.
      alpha: the weight of the positives in [0, 1], 1 - alpha that of the negatives; None weighs all
        by 1. It broadcasts to the logits.
      gamma: how strongly what is right is turned away from; at least 0, and 0 gives the
        cross-entropy. It broadcasts to the logits.
      where: boolean mask of what counts, of the same rank.

    Returns:
      One value an element, in float32 or float64.

    Raises:
      ValueError: shapes differ, or a hyper-parameter does not broadcast.
      TypeError: logits are not floating, or ``where`` is not boolean.

    It is not a proper score: do not read probabilities off the logits without calibration.
    Source: Lin et al. (2017).

    >>> jloss.sigmoid_focal_loss(jnp.array([0.0, 3.0]), jnp.array([1.0, 1.0]))
    Array([1.73286796e-01, 1.09283326e-04], dtype=float32)
    """
    loss = "sigmoid_focal_loss"
    logits, labels, where = _binary(loss, logits, labels, where)
    gamma = hyper(loss, logits, gamma=gamma)
    gamma += nan_unless(loss, gamma >= 0, "at least 0", gamma=gamma)
    if alpha is not None:
        alpha = hyper(loss, logits, alpha=alpha)
        alpha += nan_unless(loss, (alpha >= 0) & (alpha <= 1), "in [0, 1]", alpha=alpha)
    return keep(where, _focal(logits, labels, gamma, alpha))


@jax.custom_jvp
def _focal(logits: Array, labels: Array, gamma: Array, alpha: Array | None) -> Array:
    entropy = _binary_cross_entropy(logits, labels)
    value = jnp.where(entropy == 0, 0.0, _modulation(logits, labels, gamma) * entropy)
    return value if alpha is None else product(_balance(labels, alpha), value)


@partial(_focal.defjvp, symbolic_zeros=True)
def _focal_jvp(primals, tangents):
    logits, labels, gamma, alpha = primals
    entropy = _binary_cross_entropy(logits, labels)
    modulation, certainty = _modulation(logits, labels, gamma), _certainty(logits, labels)
    value = jnp.where(entropy == 0, 0.0, modulation * entropy)
    slope = modulation * (
        gamma * (1.0 - 2.0 * labels) * jnp.where(certainty == 0, 0.0, certainty * entropy)
        + _binary_slope(logits, labels, 1.0 - labels)
    )
    label_slope = gamma * product(value, _label_slope(logits, labels)) - product(modulation, logits)
    gamma_slope = product(value, _log_wrong(logits, labels))
    if alpha is None:
        slopes = slope, label_slope, gamma_slope
        return chain(value, *zip(slopes, tangents, strict=False))
    weight = _balance(labels, alpha)
    slopes = (
        weight * slope,
        product(weight, label_slope) + product(2.0 * alpha - 1.0, value),
        product(weight, gamma_slope),
        product(2.0 * labels - 1.0, value),
    )
    return chain(product(weight, value), *zip(slopes, tangents, strict=True))


def _balance(labels: Array, alpha: Array) -> Array:
    return alpha * labels + (1.0 - alpha) * (1.0 - labels)


def _wrong(logits: Array, labels: Array) -> Array:
    """The probability given to what is not the label."""
    return _against(logits, labels) * _odds(logits)[2]


def _against(logits: Array, labels: Array) -> Array:
    """`_wrong` over the likelier answer's probability."""
    up, odds, _ = _odds(logits)
    return jnp.where(up, (1.0 - labels) + labels * odds, (1.0 - labels) * odds + labels)


def _log_wrong(logits: Array, labels: Array) -> Array:
    # Of wrong and 1 - wrong the smaller one holds the digits.
    wrong, right = _wrong(logits, labels), _wrong(-logits, labels)
    return jnp.where(wrong < 0.5, jnp.log(wrong), jnp.log1p(-right))


def _label_slope(logits: Array, labels: Array) -> Array:
    """The derivative of log(wrong) for the label: no - yes = -tanh(logits / 2), over wrong."""
    return -ratio(jnp.tanh(0.5 * logits), _wrong(logits, labels))


@jax.custom_jvp
def _modulation(logits: Array, labels: Array, gamma: Array) -> Array:
    return jnp.power(_wrong(logits, labels), gamma)


@partial(_modulation.defjvp, symbolic_zeros=True)
def _modulation_jvp(primals, tangents):
    logits, labels, gamma = primals
    value = _modulation(logits, labels, gamma)
    slope = gamma * (1.0 - 2.0 * labels) * _certainty(logits, labels) * value
    label_slope = gamma * product(value, _label_slope(logits, labels))
    slopes = slope, label_slope, product(value, _log_wrong(logits, labels))
    return chain(value, *zip(slopes, tangents, strict=True))


@jax.custom_jvp
def _certainty(logits: Array, labels: Array) -> Array:
    """``yes no / wrong``: times 1 - 2 labels, the derivative of log(wrong) for the logits."""
    _, odds, likely = _odds(logits)
    against = _against(logits, labels)
    # All that is wrong is the odds of the other answer, also where they underflow.
    certain = against == odds
    return likely * jnp.where(certain, 1.0, odds / jnp.where(certain, 1.0, against))


@partial(_certainty.defjvp, symbolic_zeros=True)
def _certainty_jvp(primals, tangents):
    logits, labels = primals
    value = _certainty(logits, labels)
    slope = value * (-jnp.tanh(0.5 * logits) - (1.0 - 2.0 * labels) * value)
    label_slope = -product(value, _label_slope(logits, labels))
    return chain(value, (slope, tangents[0]), (label_slope, tangents[1]))


# One class out of several ------------------------------------------------------------------------


def _soft_capped(loss: str, rows: Array, where: Array | None, softcap: ArrayLike | None) -> Array:
    """Rows with the logits that count drawn towards 0."""
    if softcap is None:
        return rows
    cap = hyper(loss, rows, rows=True, softcap=softcap)
    cap += nan_unless(loss, cap > 0, "positive", softcap=cap)
    return keep(where, _capped(keep(where, rows), cap[..., None]), rows)


@jax.custom_jvp
def _capped(rows: Array, cap: Array) -> Array:
    return jnp.where(jnp.isinf(cap), rows, cap * jnp.tanh(rows / cap))


@partial(_capped.defjvp, symbolic_zeros=True)
def _capped_jvp(primals, tangents):
    rows, cap = primals
    scaled = rows / cap
    # 1 - tanh² would lose the digits of a capped logit.
    odds = jnp.exp(-2.0 * jnp.where(scaled > 0, scaled, -scaled))
    fall = 4.0 * odds / ((1.0 + odds) * (1.0 + odds))
    return chain(
        _capped(rows, cap),
        (jnp.where(jnp.isinf(cap), 1.0, fall), tangents[0]),
        (jnp.where(jnp.isinf(cap), 0.0, jnp.tanh(scaled) - product(scaled, fall)), tangents[1]),
    )


def _regularised(
    loss: str,
    values: Array,
    rows: Array,
    where: Array | None,
    label_smoothing: ArrayLike | None,
    z_loss: ArrayLike | None,
) -> Array:
    """Cross-entropies with the labels smoothed and the normaliser held back."""
    if label_smoothing is not None:
        share = hyper(loss, rows, rows=True, label_smoothing=label_smoothing)
        inside = (share >= 0) & (share <= 1)
        share += nan_unless(loss, inside, "in [0, 1]", label_smoothing=share)
        uniform = cross_entropy(rows, _even(rows, where, (-1,)))
        values = product(1.0 - share, values) + product(share, uniform)
    if z_loss is not None:
        factor = hyper(loss, rows, rows=True, z_loss=z_loss)
        factor += nan_unless(loss, factor >= 0, "at least 0", z_loss=factor)
        size = log_sum_exp(rows)
        values += product(product(factor, size), size)
    return values


def _even(like: Array, where: Array | None, axes: tuple[int, ...]) -> Array:
    """The same probability for each class that counts."""
    seen = jnp.ones_like(like) if where is None else where.astype(like.dtype)
    return seen / jnp.maximum(seen.sum(axes, keepdims=True), 1.0)


def _exact_dense(m, logits, labels):
    return m.fsum(
        label * m.log(m.fsum(m.exp(other - logit) for other in logits))
        for logit, label in zip(logits, labels, strict=True)
        if label
    )


def _exact_options(m, logits, cross_entropy, label_smoothing=None, z_loss=None, softcap=None):
    """The formula of a cross-entropy of capped logits, with what is added to it."""
    if softcap is not None and m.isfinite(softcap):
        logits = [softcap * m.tanh(logit / softcap) for logit in logits]
    top = max(logits)
    total = top + m.log(m.fsum(m.exp(logit - top) for logit in logits))
    value = cross_entropy(logits)
    if label_smoothing:
        even = m.fsum(total - logit for logit in logits) / len(logits)
        value = (1 - label_smoothing) * value + label_smoothing * even
    return value + z_loss * total**2 if z_loss else value


_NO_OPTIONS = dict(label_smoothing=0.0, z_loss=0.0, softcap=math.inf)


def _options_scale(inputs, label_smoothing, z_loss, softcap):
    """Without options nothing cancels; with them differences of (capped) logits do."""
    if label_smoothing is None and z_loss is None and softcap is None:
        return 0.0
    # A row of nothing but infinite logits is as large as the cap.
    capped = 0 if softcap is None else np.where(inputs > 0, np.minimum(softcap, inputs), softcap)
    return (1 + inputs) * (1 + (z_loss or 0)) * (1 + capped)


@card(
    values="example",
    predictions=LOGIT,
    targets=PROBABILITIES,
    hyper=dict(label_smoothing=UNIT, z_loss=NONNEGATIVE, softcap=POSITIVE),
    exact=lambda m, logits, labels, **options: _exact_options(
        m, logits, lambda capped: _exact_dense(m, capped, labels), **options
    ),
    source="Bridle (1990), Probabilistic interpretation of feedforward classification network "
    "outputs, Neurocomputing",
    also=dict(
        optax="losses.softmax_cross_entropy",
        torch="nn.functional.cross_entropy",
        keras="losses.categorical_crossentropy(from_logits=True)",
    ),
    ulp=4,
    scale=_options_scale,
    minimum=0.0,
    convex=True,
    lipschitz=math.sqrt(2),
    smooth=0.5,
    kinks=False,
    elicits="probability",
    invariant=("shift", "permutation"),
    given=_NO_OPTIONS,
)
def softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    label_smoothing: ArrayLike | None = None,
    z_loss: ArrayLike | None = None,
    softcap: ArrayLike | None = None,
) -> Array:
    r"""Cross-entropy of one class out of several, with a probability for each class as the label.

    .. math:: L(x, y) = -\sum_c y_c \log \frac{e^{x_c}}{\sum_k e^{x_k}}

    Args:
      logits: unnormalised log-probabilities, the classes along ``axis``; minus infinity rules a
        class out.
      labels: the same shape; at least 0, NaN for the example otherwise. They need not sum to 1.
      axis: the axis, or axes, of the classes.
      where: boolean mask of what counts: of the shape of the result, or of the rank of the logits,
        which leaves classes out.
      label_smoothing: :math:`s`, the share of a label that is spread evenly over all classes (that
        count), as in torch and keras: :math:`(1 - s) y_c + s / C`; in [0, 1], NaN otherwise.
      z_loss: the factor of the squared log-sum-exp that is added, which keeps logits from drifting;
        at least 0, NaN otherwise.
      softcap: :math:`\tau` in :math:`\tau \tanh(x / \tau)`, which takes the place of every logit,
        also of an infinite one; positive, NaN otherwise. These three broadcast to the result.
        None leaves one out and costs nothing; with one, rounding errors are those of the largest
        logit.

    Returns:
      The shape of ``logits`` without ``axis``, in float32 or float64. Its gradient is the softmax
      minus the labels (if they sum to 1), and both keep their digits when the model is right.

    Raises:
      ValueError: shapes differ, or ``axis`` names no axis.
      TypeError: logits are not floating, or ``where`` is not boolean.

    Prefer `softmax_cross_entropy_with_integer_labels` where every example has one class.
    Source: Bridle (1990).

    >>> jloss.softmax_cross_entropy(jnp.array([[17.0, 0.0]]), jnp.array([[1.0, 0.0]]))
    Array([4.1399375e-08], dtype=float32)
    """
    loss = "softmax_cross_entropy"
    rows, labels, where = _dense(loss, logits, labels, axis, where)
    rows = _soft_capped(loss, rows, where, softcap)
    values = cross_entropy(rows, labels)
    values = _regularised(loss, values, rows, where, label_smoothing, z_loss)
    return keep(None if where is None else where.any(-1), values)


def _dense(
    loss: str,
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis,
    where: ArrayLike | None,
) -> tuple[Array, Array, Array | None]:
    """Logits, labels of the same shape and the mask by rows, ready for the mathematics."""
    logits, labels = floats(loss, logits=logits, labels=labels)
    same_shape(loss, logits=logits, labels=labels)
    rows, axes, where = class_rows(loss, logits, axis, where, hidden=-jnp.inf)
    labels = keep(where, to_rows(labels, axes))
    return rows, labels + nan_unless(loss, labels >= 0, "at least 0", labels=labels), where


@card(
    values="example",
    predictions=LOGIT,
    targets=CLASS,
    hyper=dict(label_smoothing=UNIT, z_loss=NONNEGATIVE, softcap=POSITIVE),
    exact=lambda m, logits, label, **options: _exact_options(
        m,
        logits,
        lambda capped: m.log(m.fsum(m.exp(other - capped[label]) for other in capped)),
        **options,
    ),
    source="Bridle (1990), Probabilistic interpretation of feedforward classification network "
    "outputs, Neurocomputing",
    also=dict(
        optax="losses.softmax_cross_entropy_with_integer_labels",
        torch="nn.functional.cross_entropy",
        keras="losses.sparse_categorical_crossentropy(from_logits=True)",
        sklearn="_loss.HalfMultinomialLoss",
    ),
    ulp=4,
    scale=_options_scale,
    minimum=0.0,
    convex=True,
    lipschitz=math.sqrt(2),
    smooth=0.5,
    kinks=False,
    elicits="probability",
    invariant=("shift",),
    given=_NO_OPTIONS,
)
def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
    *,
    label_smoothing: ArrayLike | None = None,
    z_loss: ArrayLike | None = None,
    softcap: ArrayLike | None = None,
) -> Array:
    r"""Cross-entropy of one class out of several: the negative log-likelihood of the class.

    .. math:: L(x, c) = -\log \frac{e^{x_c}}{\sum_k e^{x_k}}

    Args:
      logits: unnormalised log-probabilities, the classes along ``axis``; minus infinity rules a
        class out.
      labels: integer classes from 0 to C - 1, NaN for the example otherwise; the shape of
        ``logits`` without ``axis``.
      axis: the axis of the classes; of several axes, a label counts in their order.
      where: boolean mask of what counts: of the shape of ``labels``, or of the rank of the logits,
        which leaves classes out.
      label_smoothing: :math:`s`, the share of a label that is spread evenly over all classes (that
        count), as in torch and keras: :math:`(1 - s) y_c + s / C`; in [0, 1], NaN otherwise.
      z_loss: the factor of the squared log-sum-exp that is added, which keeps logits from drifting;
        at least 0, NaN otherwise.
      softcap: :math:`\tau` in :math:`\tau \tanh(x / \tau)`, which takes the place of every logit,
        also of an infinite one; positive, NaN otherwise. These three broadcast to the result.
        None leaves one out and costs nothing; with one, rounding errors are those of the largest
        logit.

    Returns:
      The shape of ``labels``, in float32 or float64. Its gradient is the softmax minus 1 at the
      class, and both keep their digits when the model is right.

    Raises:
      ValueError: shapes do not fit, or ``axis`` names no axis.
      TypeError: logits are not floating, labels not integers, or ``where`` not boolean.

    Its best logits give the probabilities of the classes (a proper score).
    Source: Bridle (1990).

    >>> logits = jnp.array([[17.0, 0.0], [0.0, 0.0]])
    >>> jloss.softmax_cross_entropy_with_integer_labels(logits, jnp.array([0, 1]))
    Array([4.1399375e-08, 6.9314718e-01], dtype=float32)
    """
    loss = "softmax_cross_entropy_with_integer_labels"
    (logits,) = floats(loss, logits=logits)
    rows, axes, where = class_rows(loss, logits, axis, where, hidden=-jnp.inf)
    rows = _soft_capped(loss, rows, where, softcap)
    labels = class_indices(loss, labels, axes, logits=logits)
    seen = None if where is None else where.any(-1)
    labels = keep(seen, labels)
    spoilt = nan_unless_class(loss, labels, rows)
    values = integer_cross_entropy(rows, labels, spoilt)
    return keep(seen, _regularised(loss, values, rows, where, label_smoothing, z_loss))


@card(
    values="example",
    predictions=LOGIT,
    targets=PROBABILITIES,
    exact=_exact_dense,
    source="Bridle (1990), Probabilistic interpretation of feedforward classification network "
    "outputs, Neurocomputing",
    also=dict(optax="losses.safe_softmax_cross_entropy"),
    ulp=4,
    minimum=0.0,
    convex=True,
    lipschitz=math.sqrt(2),
    smooth=0.5,
    kinks=False,
    elicits="probability",
    invariant=("shift", "permutation"),
)
def safe_softmax_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
    r"""Cross-entropy in which a class of probability 0 may have a logit of minus infinity.

    .. math:: L(x, y) = -\sum_{c:\ y_c > 0} y_c \log \frac{e^{x_c}}{\sum_k e^{x_k}}

    Args:
      logits: unnormalised log-probabilities, the classes along the last axis; minus infinity rules
        a class out.
      labels: the same shape; at least 0, NaN for the example otherwise.
      where: boolean mask of what counts: of the shape of the result, or of the rank of the logits,
        which leaves classes out.

    Returns:
      The shape of ``logits`` without the last axis, in float32 or float64; infinite where a class
      that is ruled out has a positive probability.

    Raises:
      ValueError: shapes differ.
      TypeError: logits are not floating, or ``where`` is not boolean.

    It is here for optax's name: `softmax_cross_entropy` is as safe, and has more options. In
    forward mode optax gives NaN at minus infinity.
    Source: Bridle (1990).

    >>> jloss.safe_softmax_cross_entropy(jnp.array([0.0, -jnp.inf]), jnp.array([1.0, 0.0]))
    Array(0., dtype=float32)
    """
    rows, labels, where = _dense("safe_softmax_cross_entropy", logits, labels, -1, where)
    return keep(None if where is None else where.any(-1), cross_entropy(rows, labels))


def _with_smooth_labels(smooth: Callable[..., Array]) -> Callable[..., Array]:
    """Cross-entropy with an ``alpha`` an example."""

    def form(logits, labels, *, alpha=0.1, where=None):
        smoothed = smooth(labels, jnp.expand_dims(alpha, -1), where=where)
        rows, labels, where = _dense("smooth_labels", logits, smoothed, -1, where)
        return keep(None if where is None else where.any(-1), cross_entropy(rows, labels))

    return form


@card(
    values="example",
    predictions=LOGIT,
    targets=PROBABILITIES,
    hyper=dict(alpha=UNIT),
    exact=lambda m, logits, labels, alpha: _exact_options(
        m, logits, lambda capped: _exact_dense(m, capped, labels), label_smoothing=alpha
    ),
    source="Szegedy et al. (2016), Rethinking the inception architecture for computer vision, CVPR",
    also=dict(optax="losses.smooth_labels"),
    ulp=4,
    scale=lambda inputs: 1 + inputs,
    convex=True,
    kinks=False,
    invariant=("shift", "permutation"),
    form=_with_smooth_labels,
)
def smooth_labels(
    labels: ArrayLike, alpha: ArrayLike, *, axis: Axis = -1, where: ArrayLike | None = None
) -> Array:
    r"""Labels that are less sure: a share of each is spread evenly over all classes.

    .. math:: y'_c = (1 - \alpha) y_c + \frac{\alpha}{C}

    Args:
      labels: probabilities along ``axis``, as one-hot ones; at least 0, NaN otherwise.
      alpha: the share, in [0, 1], NaN otherwise. It broadcasts to the labels.
      axis: the axis, or axes, of the classes.
      where: boolean mask of what counts: of the shape of the labels without ``axis``, or of their
        rank, which leaves classes out; these get 0.

    Returns:
      The shape of ``labels``, in float32 or float64.

    Raises:
      ValueError: shapes do not fit, or ``axis`` names no axis.
      TypeError: labels are not floating, or ``where`` is not boolean.

    The card speaks of `softmax_cross_entropy` with labels so smoothed, which that loss can do by
    itself, and for integer labels as well. It calibrates, and costs what large logits could tell.
    Source: Szegedy et al. (2016).

    >>> jloss.smooth_labels(jnp.array([0.0, 1.0, 0.0, 0.0]), 0.2)
    Array([0.05, 0.85, 0.05, 0.05], dtype=float32)
    """
    loss = "smooth_labels"
    (labels,) = floats(loss, labels=labels)
    axes = axes_of(loss, axis, labels.ndim)
    where = mask(loss, where, labels.shape, axes)
    labels = keep(where, labels)
    labels += nan_unless(loss, labels >= 0, "at least 0", labels=labels)
    alpha = hyper(loss, labels, alpha=alpha)
    alpha += nan_unless(loss, (alpha >= 0) & (alpha <= 1), "in [0, 1]", alpha=alpha)
    return (1.0 - alpha) * labels + alpha * _even(labels, where, axes)


def _exact_classes(m, logits, labels, term):
    """The sum of ``label * term(p, 1 - p)`` over the classes."""
    weights = [m.exp(logit - max(logits)) for logit in logits]
    total = m.fsum(weights)
    terms = []
    for place, label in enumerate(labels):
        others = m.fsum(w for other, w in enumerate(weights) if other != place)
        if label:
            terms.append(label * term(weights[place] / total, others / total))
    return m.fsum(terms)


@card(
    values="example",
    predictions=LOGIT,
    targets=PROBABILITIES,
    hyper=dict(epsilon=COEFFICIENT),
    exact=lambda m, logits, labels, epsilon: _exact_classes(
        m, logits, labels, lambda p, missing: -m.log(p) + epsilon * missing
    ),
    source="Leng et al. (2022), PolyLoss: a polynomial expansion perspective of classification "
    "loss functions, ICLR",
    also=dict(optax="losses.poly_loss_cross_entropy"),
    ulp=8,
    minimum=0.0,
    convex=False,
    kinks=False,
    invariant=("shift", "permutation"),
)
def poly_loss_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: ArrayLike = 2.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Cross-entropy with more or less weight on its linear part (Poly-1).

    .. math:: L(x, y) = \sum_c y_c \bigl(-\log p_c + \epsilon (1 - p_c)\bigr), \qquad
        p = \operatorname{softmax}(x)

    Args:
      logits: unnormalised log-probabilities, the classes along ``axis``; minus infinity rules a
        class out.
      labels: the same shape; at least 0, NaN for the example otherwise.
      epsilon: what is added to the coefficient of :math:`1 - p` in the expansion of the
        cross-entropy, which is 1; below -1 the loss may be negative. It broadcasts to the result.
      axis: the axis, or axes, of the classes.
      where: boolean mask of what counts: of the shape of the result, or of the rank of the logits,
        which leaves classes out.

    Returns:
      The shape of ``logits`` without ``axis``, in float32 or float64. Value and gradient keep their
      digits when the model is right, also where the linear part is taken away.

    Raises:
      ValueError: shapes differ, ``epsilon`` does not broadcast, or ``axis`` names no axis.
      TypeError: logits are not floating, or ``where`` is not boolean.

    The paper takes 2 for classes of images and -1 for objects in them; tune it. It is no proper
    score.
    Source: Leng et al. (2022).

    >>> jloss.poly_loss_cross_entropy(jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 0.0]]))
    Array([1.6931472], dtype=float32)
    """
    loss = "poly_loss_cross_entropy"
    rows, labels, where = _dense(loss, logits, labels, axis, where)
    epsilon = hyper(loss, rows, rows=True, epsilon=epsilon)[..., None]
    return keep(None if where is None else where.any(-1), _poly(rows, labels, epsilon))


@jax.custom_jvp
def _poly(rows: Array, labels: Array, epsilon: Array) -> Array:
    softmax = softmax_of(rows)
    missing = softmax.missing
    # Two terms of one sign where epsilon is at least -1.
    terms = (1.0 + epsilon) * missing + _beyond_first(missing, softmax.surprise)
    return product(labels, terms).sum(-1)


@partial(_poly.defjvp, symbolic_zeros=True)
def _poly_jvp(primals, tangents):
    rows, labels, epsilon = primals
    softmax = softmax_of(rows)
    missing = softmax.missing
    # The loss's slope is that of a cross-entropy with these labels.
    equivalent = labels * ((1.0 + epsilon) * softmax.probability + missing)
    slopes = (
        softmax.slope(equivalent),
        softmax.surprise + epsilon * missing,
        (labels * missing).sum(-1, keepdims=True),
    )
    return chain(_poly(rows, labels, epsilon), *zip(slopes, tangents, strict=True), axis=-1)


def _beyond_first(missing: Array, surprise: Array) -> Array:
    """``-log(1 - m) - m``, all but the first term of the expansion, at least 0."""
    # Twice the inverse hyperbolic tangent of m / (2 - m): nothing cancels in its series.
    t = missing / (2.0 - missing)
    square = t * t
    terms = 7 if missing.dtype == jnp.float32 else 17
    series = jnp.zeros_like(t)
    for power in reversed(range(terms)):
        series = series * square + 2.0 / (2 * power + 3)
    return jnp.where(missing < 0.5, missing * t + t * square * series, surprise - missing)


@card(
    values="example",
    predictions=LOGIT,
    targets=PROBABILITIES,
    hyper=dict(gamma=NONNEGATIVE),
    exact=lambda m, logits, labels, gamma: _exact_classes(
        m, logits, labels, lambda p, missing: missing**gamma * -m.log(p)
    ),
    source="Lin et al. (2017), Focal loss for dense object detection, ICCV",
    also=dict(keras="losses.categorical_focal_crossentropy(alpha=1, from_logits=True)"),
    ulp=16,
    minimum=0.0,
    convex=False,
    kinks=False,
    invariant=("shift", "permutation"),
)
def softmax_focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    gamma: ArrayLike = 2.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Cross-entropy that turns away from examples that are already right.

    .. math:: L(x, y) = -\sum_c y_c (1 - p_c)^\gamma \log p_c, \qquad p = \operatorname{softmax}(x)

    Args:
      logits: unnormalised log-probabilities, the classes along ``axis``; minus infinity rules a
        class out.
      labels: the same shape, as `jax.nn.one_hot` makes it of integers; at least 0, NaN for the
        example otherwise. They need not sum to 1: times weights of the classes, these are weighed.
      gamma: how strongly what is right is turned away from; at least 0, NaN otherwise, and 0 gives
        the cross-entropy. It broadcasts to the result.
      axis: the axis, or axes, of the classes.
      where: boolean mask of what counts: of the shape of the result, or of the rank of the logits,
        which leaves classes out.

    Returns:
      The shape of ``logits`` without ``axis``, in float32 or float64.

    Raises:
      ValueError: shapes differ, ``gamma`` does not broadcast, or ``axis`` names no axis.
      TypeError: logits are not floating, or ``where`` is not boolean.

    For labels that exclude nothing see `sigmoid_focal_loss`. It is no proper score: do not read
    probabilities off the logits without calibration. keras multiplies by an ``alpha`` of 0.25.
    Source: Lin et al. (2017).

    >>> jloss.softmax_focal_loss(jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 0.0]]))
    Array([0.1732868], dtype=float32)
    """
    loss = "softmax_focal_loss"
    rows, labels, where = _dense(loss, logits, labels, axis, where)
    gamma = hyper(loss, rows, rows=True, gamma=gamma)
    gamma += nan_unless(loss, gamma >= 0, "at least 0", gamma=gamma)
    values = _softmax_focal(rows, labels, gamma[..., None])
    return keep(None if where is None else where.any(-1), values)


@jax.custom_jvp
def _softmax_focal(rows: Array, labels: Array, gamma: Array) -> Array:
    likely, missing = probabilities(rows)
    weights = labels * _power(missing, likely, gamma)
    return product(weights, softmax_of(rows).surprise).sum(-1)


@partial(_softmax_focal.defjvp, symbolic_zeros=True)
def _softmax_focal_jvp(primals, tangents):
    rows, labels, gamma = primals
    softmax = softmax_of(rows)
    likely, missing = probabilities(rows)
    surprise = softmax.surprise
    modulation = _power(missing, likely, gamma)
    # The loss's slope is that of a cross-entropy with these labels.
    steepness = _power(missing, likely, gamma - 1.0) * product(likely, surprise)
    values = product(modulation, surprise)
    slopes = (
        softmax.slope(labels * (modulation + gamma * steepness)),
        values,
        product(product(labels, values), _log_missing(missing, likely)).sum(-1, keepdims=True),
    )
    value = _softmax_focal(rows, labels, gamma)
    return chain(value, *zip(slopes, tangents, strict=True), axis=-1)


@jax.custom_jvp
def _power(missing: Array, likely: Array, exponent: Array) -> Array:
    """``missing ** exponent``; 0 for a probability that underflows, but 1 for an exponent of 0."""
    nought = missing == 0
    power = jnp.power(jnp.where(nought, 1.0, missing), exponent)
    return jnp.where(nought & (exponent != 0), jnp.zeros_like(power) * exponent, power)


@partial(_power.defjvp, symbolic_zeros=True)
def _power_jvp(primals, tangents):
    missing, likely, exponent = primals
    value = _power(missing, likely, exponent)
    slope = exponent * _power(missing, likely, exponent - 1.0)
    log_slope = product(value, _log_missing(missing, likely))
    return chain(value, (slope, tangents[0]), (log_slope, tangents[2]))


def _log_missing(missing: Array, likely: Array) -> Array:
    # Of both the smaller one holds the digits.
    return jnp.where(likely < 0.5, log_rest(likely), jnp.log(missing))


# Sparse probabilities ----------------------------------------------------------------------------


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
    return 0.5 * (wrong * wrong).sum(-1) + jnp.maximum(beyond, 0.0) + spoilt[..., 0]


@partial(_sparsemax_loss.defjvp, symbolic_zeros=True)
def _sparsemax_loss_jvp(primals, tangents):
    rows, labels, spoilt = primals
    likely, missing = _sparsemax(rows)
    slope = jnp.where(is_class(rows, labels), -missing, likely) + spoilt
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


# Several classes out of many ---------------------------------------------------------------------


@card(
    values="example",
    predictions=LOGIT,
    targets=PROBABILITY,
    exact=lambda m, logits, labels: (
        m.fsum(
            (label and label * m.log1p(m.exp(-logit)))
            + (label != 1 and (1 - label) * m.log1p(m.exp(logit)))
            for logit, label in zip(logits, labels, strict=True)
        )
        / len(logits)
    ),
    source="Zhang & Zhou (2006), Multilabel neural networks with applications to functional "
    "genomics and text categorization, IEEE TKDE 18(10); Cox (1958)",
    also=dict(torch="nn.functional.multilabel_soft_margin_loss"),
    ulp=4,
    minimum=0.0,
    convex=True,
    kinks=False,
    invariant=("permutation",),
)
def multilabel_soft_margin_loss(
    logits: ArrayLike, labels: ArrayLike, *, axis: Axis = -1, where: ArrayLike | None = None
) -> Array:
    r"""Cross-entropy of several classes out of many: the mean of a yes-or-no answer for each.

    .. math:: L(x, y) = \frac1C \sum_c y_c \log(1 + e^{-x_c}) + (1 - y_c) \log(1 + e^{x_c})

    Args:
      logits: log-odds of a yes for each class along ``axis``; infinities are allowed.
      labels: the same shape; 0, 1 or a probability between, NaN for the example otherwise.
      axis: the axis, or axes, of the classes.
      where: boolean mask of what counts: of the shape of the result, or of the rank of the logits,
        which leaves classes out of the mean.

    Returns:
      The shape of ``logits`` without ``axis``, in float32 or float64.

    Raises:
      ValueError: shapes differ, or ``axis`` names no axis.
      TypeError: logits are not floating, or ``where`` is not boolean.

    It is the mean over ``axis`` of `sigmoid_binary_cross_entropy`: prefer that where the weight of
    an example should grow with its number of classes that count, or where classes have weights.
    Source: Zhang & Zhou (2006), Cox (1958).

    >>> jloss.multilabel_soft_margin_loss(jnp.array([[0.0, 17.0]]), jnp.array([[1.0, 1.0]]))
    Array([0.34657362], dtype=float32)
    """
    loss = "multilabel_soft_margin_loss"
    logits, labels = floats(loss, logits=logits, labels=labels)
    same_shape(loss, logits=logits, labels=labels)
    logits, axes, where = class_rows(loss, logits, axis, where, hidden=0.0)
    labels = keep(where, to_rows(labels, axes))
    spoilt = nan_unless(loss, (labels >= 0) & (labels <= 1), "in [0, 1]", labels=labels)
    values = keep(where, _binary_cross_entropy(logits + spoilt.sum(-1, keepdims=True), labels))
    count = logits.shape[-1] if where is None else where.sum(-1)
    return values.sum(-1) / jnp.maximum(count, 1)
