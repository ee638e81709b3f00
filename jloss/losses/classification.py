r"""Losses of one class out of several on its logits: cross-entropies and their kin.

Yes-or-no answers are in ``binary.py``, sparse probabilities in ``sparsemax.py``, losses of a margin
in ``margin.py`` and distances between distributions in ``divergence.py``.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jloss._compiled import compiled
from jloss._safe import (
    Axis,
    axes_of,
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
    same_shape,
    to_rows,
)
from jloss._softmax import (
    cross_entropy,
    integer_cross_entropy,
    log_sum_exp,
    probabilities,
    softmax_of,
)
from jloss.card import (
    CLASS,
    COEFFICIENT,
    LOGIT,
    NONNEGATIVE,
    POSITIVE,
    PROBABILITIES,
    UNIT,
    card,
)


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
@compiled
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
    rows, labels, spoilt, where = _dense(loss, logits, labels, axis, where)
    rows = _soft_capped(loss, rows, where, softcap)
    values = cross_entropy(rows, labels, spoilt)
    values = _regularised(loss, values, rows, where, label_smoothing, z_loss)
    return keep(None if where is None else where.any(-1), values)


def _dense(
    loss: str,
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis,
    where: ArrayLike | None,
) -> tuple[Array, Array, Array, Array | None]:
    """Logits and labels of the same shape by rows, NaN for labels that are none, and the mask."""
    logits, labels = floats(loss, logits=logits, labels=labels)
    same_shape(loss, logits=logits, labels=labels)
    rows, axes, where = class_rows(loss, logits, axis, where, hidden=-jnp.inf)
    # Computed within a sum of products, labels that `vmap` leaves unbatched while it batches the
    # logits have XLA's CPU compiler (jaxlib 0.10.2) add up wrong rows from some fifty points on.
    shown: Array = jax.lax.optimization_barrier(keep(where, to_rows(labels, axes)))
    return rows, shown, nan_unless(loss, shown >= 0, "at least 0", labels=shown), where


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
@compiled
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
@compiled
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
    rows, labels, spoilt, where = _dense("safe_softmax_cross_entropy", logits, labels, -1, where)
    return keep(None if where is None else where.any(-1), cross_entropy(rows, labels, spoilt))


def _with_smooth_labels(smooth: Callable[..., Array]) -> Callable[..., Array]:
    """Cross-entropy with an ``alpha`` an example."""

    def form(logits, labels, *, alpha=0.1, where=None):
        smoothed = smooth(labels, jnp.expand_dims(alpha, -1), where=where)
        rows, labels, spoilt, where = _dense("smooth_labels", logits, smoothed, -1, where)
        return keep(None if where is None else where.any(-1), cross_entropy(rows, labels, spoilt))

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
@compiled
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
@compiled
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
    rows, labels, spoilt, where = _dense(loss, logits, labels, axis, where)
    labels += spoilt
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
@compiled
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
    rows, labels, spoilt, where = _dense(loss, logits, labels, axis, where)
    labels += spoilt
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
