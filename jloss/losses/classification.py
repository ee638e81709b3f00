r"""Classification losses on logits: cross-entropies and their kin.

Losses of a margin are in ``margin.py``, distances between distributions in ``divergence.py``.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._safe import (
    Axis,
    chain,
    class_indices,
    class_rows,
    floats,
    hyper,
    keep,
    mask,
    nan_unless,
    nan_unless_class,
    product,
    ratio,
    same_shape,
    to_rows,
)
from jloss._softmax import cross_entropy, integer_cross_entropy
from jloss.card import CLASS, LOGIT, NONNEGATIVE, PROBABILITIES, PROBABILITY, UNIT, card

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


@card(
    values="element",
    predictions=LOGIT,
    targets=PROBABILITY,
    exact=lambda m, logit, label: (
        (label and label * m.log1p(m.exp(-logit)))
        + (label != 1 and (1 - label) * m.log1p(m.exp(logit)))
    ),
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
)
def sigmoid_binary_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
    r"""Cross-entropy of independent yes-or-no answers: the negative log-likelihood of the labels.

    .. math:: L(x, y) = y \log(1 + e^{-x}) + (1 - y) \log(1 + e^x)

    Args:
      logits: log-odds of a yes, any shape; infinities are allowed.
      labels: the same shape; 0, 1 or a probability between, NaN otherwise.
      where: boolean mask of what counts, of the same rank.

    Returns:
      One value an element, in float32 or float64. Its gradient is :math:`\sigma(x) - y`, and both
      keep their digits when the model is right.

    Raises:
      ValueError: shapes differ.
      TypeError: logits are not floating, or ``where`` is not boolean.

    Prefer it for labels that exclude nothing (tags); for one class out of several see
    `softmax_cross_entropy_with_integer_labels`.
    Source: Cox (1958).

    >>> jloss.sigmoid_binary_cross_entropy(jnp.array([0.0, 17.0]), jnp.array([1.0, 1.0]))
    Array([6.9314718e-01, 4.1399375e-08], dtype=float32)
    """
    logits, labels, where = _binary("sigmoid_binary_cross_entropy", logits, labels, where)
    return keep(where, _binary_cross_entropy(logits, labels))


@jax.custom_jvp
def _binary_cross_entropy(logits: Array, labels: Array) -> Array:
    # Two terms that are both at least 0: nothing cancels.
    wrong = jnp.where(logits > 0, 1.0 - labels, labels)
    size = jnp.abs(logits)
    return product(wrong, size) + jnp.log1p(jnp.exp(-size))


@partial(_binary_cross_entropy.defjvp, symbolic_zeros=True)
def _binary_cross_entropy_jvp(primals, tangents):
    logits, labels = primals
    # sigmoid(x) - y would lose the digits of a right answer.
    slope = (1.0 - labels) * jax.nn.sigmoid(logits) - labels * jax.nn.sigmoid(-logits)
    return chain(
        _binary_cross_entropy(logits, labels), (slope, tangents[0]), (-logits, tangents[1])
    )


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
    value = product(_modulation(logits, labels, gamma), _binary_cross_entropy(logits, labels))
    return value if alpha is None else product(_balance(labels, alpha), value)


@partial(_focal.defjvp, symbolic_zeros=True)
def _focal_jvp(primals, tangents):
    logits, labels, gamma, alpha = primals
    entropy = _binary_cross_entropy(logits, labels)
    modulation, certainty = _modulation(logits, labels, gamma), _certainty(logits, labels)
    value = product(modulation, entropy)
    slope = modulation * (
        gamma * (1.0 - 2.0 * labels) * product(certainty, entropy)
        + ((1.0 - labels) * jax.nn.sigmoid(logits) - labels * jax.nn.sigmoid(-logits))
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
    return (1.0 - labels) * jax.nn.sigmoid(logits) + labels * jax.nn.sigmoid(-logits)


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
    # A harmonic mean, which is not 0 / 0 where a hard label's wrong answer underflows.
    yes, no = jax.nn.sigmoid(logits), jax.nn.sigmoid(-logits)
    return 1.0 / (ratio(labels, yes) + ratio(1.0 - labels, no))


@partial(_certainty.defjvp, symbolic_zeros=True)
def _certainty_jvp(primals, tangents):
    logits, labels = primals
    value = _certainty(logits, labels)
    slope = value * (-jnp.tanh(0.5 * logits) - (1.0 - 2.0 * labels) * value)
    label_slope = -product(value, _label_slope(logits, labels))
    return chain(value, (slope, tangents[0]), (label_slope, tangents[1]))


# One class out of several ------------------------------------------------------------------------


@card(
    values="example",
    predictions=LOGIT,
    targets=PROBABILITIES,
    exact=lambda m, logits, labels: m.fsum(
        label * m.log(m.fsum(m.exp(other - logit) for other in logits))
        for logit, label in zip(logits, labels, strict=True)
        if label
    ),
    source="Bridle (1990), Probabilistic interpretation of feedforward classification network "
    "outputs, Neurocomputing",
    also=dict(
        optax="losses.softmax_cross_entropy",
        torch="nn.functional.cross_entropy",
        keras="losses.categorical_crossentropy(from_logits=True)",
    ),
    ulp=4,
    minimum=0.0,
    convex=True,
    lipschitz=math.sqrt(2),
    smooth=0.5,
    kinks=False,
    elicits="probability",
    invariant=("shift", "permutation"),
)
def softmax_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
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
    logits, labels = floats(loss, logits=logits, labels=labels)
    same_shape(loss, logits=logits, labels=labels)
    rows, axes, where = class_rows(loss, logits, axis, where, hidden=-jnp.inf)
    labels = keep(where, to_rows(labels, axes))
    labels += nan_unless(loss, labels >= 0, "at least 0", labels=labels)
    return keep(None if where is None else where.any(-1), cross_entropy(rows, labels))


@card(
    values="example",
    predictions=LOGIT,
    targets=CLASS,
    exact=lambda m, logits, label: m.log(m.fsum(m.exp(other - logits[label]) for other in logits)),
    source="Bridle (1990), Probabilistic interpretation of feedforward classification network "
    "outputs, Neurocomputing",
    also=dict(
        optax="losses.softmax_cross_entropy_with_integer_labels",
        torch="nn.functional.cross_entropy",
        keras="losses.sparse_categorical_crossentropy(from_logits=True)",
        sklearn="_loss.HalfMultinomialLoss",
    ),
    ulp=4,
    minimum=0.0,
    convex=True,
    lipschitz=math.sqrt(2),
    smooth=0.5,
    kinks=False,
    elicits="probability",
    invariant=("shift",),
)
def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
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
    labels = class_indices(loss, labels, axes, logits=logits)
    seen = None if where is None else where.any(-1)
    labels = keep(seen, labels)
    spoilt = nan_unless_class(loss, labels, rows)
    return keep(seen, integer_cross_entropy(rows, labels, spoilt))


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
