r"""Losses of a yes-or-no answer on its log-odds, or of several: cross-entropy and its kin.

One class out of several is in ``classification.py``, sparsemax in ``sparsemax.py``.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._compiled import compiled
from jloss._safe import (
    Axis,
    apart,
    chain,
    class_rows,
    floats,
    hyper,
    keep,
    log_one_plus,
    mask,
    nan_unless,
    product,
    ratio,
    same_shape,
    softplus,
    to_rows,
)
from jloss.card import (
    LOGIT,
    NONNEGATIVE,
    PROBABILITY,
    UNIT,
    card,
)


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
@compiled
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
    tail = log_one_plus(jnp.exp(-size))
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
    return jnp.where(up, no - yes * odds, no * odds - yes) * likely


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
@compiled
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
    Array([1.7328680e-01, 1.0928331e-04], dtype=float32)
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
    logits, labels, gamma, alpha = apart(primals)
    entropy = _binary_cross_entropy(logits, labels)
    modulation, certainty = _modulation(logits, labels, gamma), _certainty(logits, labels)
    value = jnp.where(entropy == 0, 0.0, modulation * entropy)
    slope = modulation * (
        gamma * (1.0 - 2.0 * labels) * jnp.where(certainty == 0, 0.0, certainty * entropy)
        + _binary_slope(logits, labels, 1.0 - labels)
    )
    label_slope = _label_slope(gamma * value, logits, labels) - product(modulation, logits)
    gamma_slope = product(value, _log_wrong(logits, labels))
    if alpha is None:
        slopes = slope, label_slope, gamma_slope
        return chain(_focal(*primals), *zip(slopes, tangents, strict=False))
    weight = _balance(labels, alpha)
    slopes = (
        weight * slope,
        product(weight, label_slope) + product(2.0 * alpha - 1.0, value),
        product(weight, gamma_slope),
        product(2.0 * labels - 1.0, value),
    )
    return chain(_focal(*primals), *zip(slopes, tangents, strict=True))


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


def _label_slope(factor: Array, logits: Array, labels: Array) -> Array:
    """A factor times the derivative of log(wrong) for the label: -tanh(logits / 2) over wrong."""
    # Divided first: both may be subnormal, which accelerators keep, and so no inverse is finite.
    return -jnp.tanh(0.5 * logits) * ratio(factor, _wrong(logits, labels))


@jax.custom_jvp
def _modulation(logits: Array, labels: Array, gamma: Array) -> Array:
    return jnp.power(_wrong(logits, labels), gamma)


@partial(_modulation.defjvp, symbolic_zeros=True)
def _modulation_jvp(primals, tangents):
    logits, labels, gamma = primals
    value = _modulation(logits, labels, gamma)
    slope = gamma * (1.0 - 2.0 * labels) * _certainty(logits, labels) * value
    label_slope = _label_slope(gamma * value, logits, labels)
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
    label_slope = -_label_slope(value, logits, labels)
    return chain(value, (slope, tangents[0]), (label_slope, tangents[1]))


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
@compiled
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
