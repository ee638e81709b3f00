r"""Regression losses: of a residual ``predictions - targets``, or of a ratio.

Losses of a predicted distribution are in ``probabilistic.py``, of two vectors in ``cosine.py``.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._compiled import compiled
from jloss._safe import (
    apart,
    chain,
    floats,
    hyper,
    keep,
    mask,
    nan_unless,
    same_shape,
)
from jloss.card import (
    ABOVE_MINUS_ONE,
    NONNEGATIVE,
    NONZERO,
    POSITIVE,
    REAL,
    UNIT,
    card,
)


def _residuals(
    loss: str, predictions: ArrayLike, targets: ArrayLike | None, where: ArrayLike | None
) -> tuple[Array, Array | None]:
    """Predictions minus targets (0 if None), 0 where hidden; and the mask."""
    if targets is None:
        (predictions,) = floats(loss, predictions=predictions)
        where = mask(loss, where, predictions.shape)
        return keep(where, predictions), where
    predictions, targets = floats(loss, predictions=predictions, targets=targets)
    same_shape(loss, predictions=predictions, targets=targets)
    where = mask(loss, where, predictions.shape)
    return keep(where, predictions) - keep(where, targets), where


@card(
    values="element",
    predictions=REAL,
    targets=REAL,
    exact=lambda m, prediction, target: (prediction - target) ** 2,
    source="Legendre (1805), Nouvelles méthodes pour la détermination des orbites des comètes",
    also=dict(
        optax="losses.squared_error",
        torch="nn.functional.mse_loss",
        keras="losses.mean_squared_error",
        sklearn="metrics.mean_squared_error",
    ),
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
def squared_error(
    predictions: ArrayLike, targets: ArrayLike | None = None, *, where: ArrayLike | None = None
) -> Array:
    r"""Squared error: the best constant answer is the mean, so one outlier can pull it anywhere.

    .. math:: L(p, t) = (p - t)^2

    Args:
      predictions: real numbers of any shape.
      targets: the same shape; None means 0.
      where: boolean mask of what counts, of the same rank.

    Returns:
      One value an element, in float32 or float64. Its gradient is :math:`2 (p - t)`.

    Raises:
      ValueError: shapes differ.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    Prefer `huber_loss` where targets have outliers and `softmax_cross_entropy` for classes.
    Source: Legendre (1805).

    >>> jloss.squared_error(jnp.array([1.0, 5.0]), jnp.array([1.5, 2.0]))
    Array([0.25, 9.  ], dtype=float32)
    """
    residual, where = _residuals("squared_error", predictions, targets, where)
    return keep(where, residual * residual)


@card(
    values="element",
    predictions=REAL,
    targets=REAL,
    exact=lambda m, prediction, target: (prediction - target) ** 2 / 2,
    source="Bishop (2006), Pattern recognition and machine learning, section 1.1",
    also=dict(optax="losses.l2_loss", sklearn="_loss.HalfSquaredError"),
    ulp=1,
    minimum=0.0,
    minimizer=lambda targets: targets,
    convex=True,
    smooth=1.0,
    kinks=False,
    symmetric=True,
    elicits="mean",
    invariant=("translation", "permutation"),
)
@compiled
def l2_loss(
    predictions: ArrayLike, targets: ArrayLike | None = None, *, where: ArrayLike | None = None
) -> Array:
    r"""Half the squared error, whose gradient is the residual itself.

    .. math:: L(p, t) = \tfrac12 (p - t)^2

    Args:
      predictions: real numbers of any shape.
      targets: the same shape; None means 0.
      where: boolean mask of what counts, of the same rank.

    Returns:
      One value an element, in float32 or float64.

    Raises:
      ValueError: shapes differ.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    Source: Bishop (2006).

    >>> jloss.l2_loss(jnp.array([1.0, 5.0]), jnp.array([1.5, 2.0]))
    Array([0.125, 4.5  ], dtype=float32)
    """
    residual, where = _residuals("l2_loss", predictions, targets, where)
    return keep(where, 0.5 * residual * residual)


@card(
    values="element",
    predictions=REAL,
    targets=REAL,
    exact=lambda m, prediction, target: abs(prediction - target),
    source="Laplace (1774), Mémoire sur la probabilité des causes par les évènements",
    also=dict(
        torch="nn.functional.l1_loss",
        keras="losses.mean_absolute_error",
        sklearn="metrics.mean_absolute_error",
    ),
    ulp=1,
    minimum=0.0,
    minimizer=lambda targets: targets,
    convex=True,
    lipschitz=1.0,
    kinks=lambda targets: targets,
    symmetric=True,
    elicits="median",
    invariant=("translation", "permutation"),
)
@compiled
def absolute_error(
    predictions: ArrayLike, targets: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
    r"""Absolute error: the best constant answer is the median, which outliers hardly move.

    .. math:: L(p, t) = |p - t|

    Args:
      predictions: real numbers of any shape.
      targets: the same shape.
      where: boolean mask of what counts, of the same rank.

    Returns:
      One value an element, in float32 or float64. The gradient is the sign of the residual; at the
      kink, where any number from -1 to 1 is a subgradient, it is 0.

    Raises:
      ValueError: shapes differ.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    The gradient keeps its size up to the minimum, so constant steps end by jumping around it:
    prefer `huber_loss` or `log_cosh` for the last digits.
    Source: Laplace (1774).

    >>> jloss.absolute_error(jnp.array([1.0, 5.0]), jnp.array([1.5, 2.0]))
    Array([0.5, 3. ], dtype=float32)
    """
    residual, where = _residuals("absolute_error", predictions, targets, where)
    # The slope of jnp.abs at 0 is 1; that of this product is the sign, which is 0 there.
    return keep(where, jnp.sign(residual) * residual)


def _exact_huber(m, prediction, target, delta):
    size = abs(prediction - target)
    return size**2 / 2 if size <= delta else delta * (size - delta / 2)


@card(
    values="element",
    predictions=REAL,
    targets=REAL,
    hyper=dict(delta=NONNEGATIVE),
    exact=_exact_huber,
    source="Huber (1964), Robust estimation of a location parameter, Ann. Math. Stat. 35(1)",
    also=dict(
        optax="losses.huber_loss",
        torch="nn.functional.huber_loss",
        keras="losses.huber",
        sklearn="_loss.HuberLoss",
    ),
    ulp=1,
    minimum=0.0,
    minimizer=lambda targets: targets,
    convex=True,
    lipschitz=lambda delta: delta,
    smooth=1.0,
    kinks=False,
    symmetric=True,
    invariant=("translation", "permutation"),
)
@compiled
def huber_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    delta: ArrayLike = 1.0,
    where: ArrayLike | None = None,
) -> Array:
    r"""Squared near zero, absolute beyond ``delta``: least squares that outliers cannot pull far.

    .. math::
        L(p, t) = \tfrac12 r^2 \text{ if } |r| \le \delta, \quad
        \delta (|r| - \tfrac12 \delta) \text{ otherwise}, \qquad r = p - t

    Args:
      predictions: real numbers of any shape.
      targets: the same shape; None means 0.
      delta: the residual at which the parabola becomes a line, in the units of the targets; at
        least 0, NaN otherwise. It broadcasts to the predictions.
      where: boolean mask of what counts, of the same rank.

    Returns:
      One value an element, in float32 or float64. Its gradient is the residual clipped to
      ``delta``, exactly.

    Raises:
      ValueError: shapes differ, or ``delta`` does not broadcast.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    Prefer it to `squared_error` where targets have outliers. Take ``delta`` near the size of an
    ordinary residual: 1.35 standard deviations lose 5% of efficiency on Gaussian noise.
    Source: Huber (1964).

    >>> jloss.huber_loss(jnp.array([1.0, 5.0]), jnp.array([1.5, 2.0]), delta=1.0)
    Array([0.125, 2.5  ], dtype=float32)
    """
    residual, where = _residuals("huber_loss", predictions, targets, where)
    delta = hyper("huber_loss", residual, delta=delta)
    delta += nan_unless("huber_loss", delta >= 0, "at least 0", delta=delta)
    return keep(where, _huber(residual, delta))


@jax.custom_jvp
def _huber(residual: Array, delta: Array) -> Array:
    # A minimum for a selection, which XLA's CPU compiler does not add up before it is stored.
    size = jnp.abs(residual)
    near = jnp.minimum(size, delta)
    return near * (size - 0.5 * near)


@partial(_huber.defjvp, symbolic_zeros=True)
def _huber_jvp(primals, tangents):
    # Autodiff through a minimum computes (size - delta) + delta, which loses a small residual.
    residual, delta = primals
    # As an array that value and slope share, the deltas of all elements would be stored.
    limit = apart(delta)
    slope = jnp.clip(residual, -limit, limit)
    beyond = jnp.maximum(jnp.abs(residual) - limit, 0.0)
    return chain(_huber(residual, delta), (slope, tangents[0]), (beyond, tangents[1]))


def _exact_smooth_l1(m, prediction, target, beta):
    size = abs(prediction - target)
    return size**2 / (2 * beta) if size < beta else size - beta / 2


@card(
    values="element",
    predictions=REAL,
    targets=REAL,
    hyper=dict(beta=POSITIVE),
    exact=_exact_smooth_l1,
    source="Girshick (2015), Fast R-CNN, ICCV",
    also=dict(torch="nn.functional.smooth_l1_loss"),
    ulp=2,
    minimum=0.0,
    minimizer=lambda targets: targets,
    convex=True,
    lipschitz=1.0,
    smooth=lambda beta: 1 / beta,
    kinks=False,
    symmetric=True,
    invariant=("translation", "permutation"),
)
@compiled
def smooth_l1_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    beta: ArrayLike = 1.0,
    where: ArrayLike | None = None,
) -> Array:
    r"""Absolute error with its tip rounded off: Huber's loss over ``beta``, of slope 1 far away.

    .. math::
        L(p, t) = \frac{r^2}{2 \beta} \text{ if } |r| < \beta, \quad
        |r| - \tfrac12 \beta \text{ otherwise}, \qquad r = p - t

    Args:
      predictions: real numbers of any shape.
      targets: the same shape.
      beta: the residual at which the parabola becomes a line, in the units of the targets; at
        least 0, NaN otherwise. With 0 it is `absolute_error`. It broadcasts to the predictions.
      where: boolean mask of what counts, of the same rank.

    Returns:
      One value an element, in float32 or float64. The gradient is the residual over ``beta``,
      clipped to 1.

    Raises:
      ValueError: shapes differ, or ``beta`` does not broadcast.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    As ``beta`` shrinks it tends to `absolute_error`, and as ``delta`` grows `huber_loss` tends to
    `l2_loss`: prefer whichever limit you mean.
    Source: Girshick (2015).

    >>> jloss.smooth_l1_loss(jnp.array([1.0, 5.0]), jnp.array([1.5, 2.0]), beta=1.0)
    Array([0.125, 2.5  ], dtype=float32)
    """
    residual, where = _residuals("smooth_l1_loss", predictions, targets, where)
    beta = hyper("smooth_l1_loss", residual, beta=beta)
    beta += nan_unless("smooth_l1_loss", beta >= 0, "at least 0", beta=beta)
    return keep(where, _smooth_l1(residual, beta))


@jax.custom_jvp
def _smooth_l1(residual: Array, beta: Array) -> Array:
    size = jnp.abs(residual)
    return jnp.where(size < beta, 0.5 * size * _share(size, beta), size - 0.5 * beta)


@partial(_smooth_l1.defjvp, symbolic_zeros=True)
def _smooth_l1_jvp(primals, tangents):
    residual, beta = primals
    slope = jnp.where(beta == 0, jnp.sign(residual), jnp.clip(_share(residual, beta), -1.0, 1.0))
    return chain(
        _smooth_l1(residual, beta), (slope, tangents[0]), (-0.5 * slope * slope, tangents[1])
    )


def _share(residual: Array, beta: Array) -> Array:
    return residual / jnp.where(beta == 0, 1.0, beta)


@card(
    values="element",
    predictions=REAL,
    targets=REAL,
    exact=lambda m, prediction, target: m.log(m.cosh(prediction - target)),
    source="Green (1990), Bayesian reconstructions from emission tomography data, IEEE TMI 9(1)",
    also=dict(optax="losses.log_cosh", keras="losses.log_cosh"),
    ulp=8,
    minimum=0.0,
    minimizer=lambda targets: targets,
    convex=True,
    lipschitz=1.0,
    smooth=1.0,
    kinks=False,
    symmetric=True,
    invariant=("translation", "permutation"),
)
@compiled
def log_cosh(
    predictions: ArrayLike, targets: ArrayLike | None = None, *, where: ArrayLike | None = None
) -> Array:
    r"""A smooth absolute error: half the squared error near zero, :math:`|r| - \log 2` far away.

    .. math:: L(p, t) = \log \cosh (p - t)

    Args:
      predictions: real numbers of any shape.
      targets: the same shape; None means 0.
      where: boolean mask of what counts, of the same rank.

    Returns:
      One value an element, in float32 or float64. Its gradient is :math:`\tanh (p - t)`.

    Raises:
      ValueError: shapes differ.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    Prefer it to `huber_loss` where second derivatives should be continuous; it has no ``delta``, so
    scale the targets to the size of ordinary residuals.
    Source: Green (1990).

    >>> jloss.log_cosh(jnp.array([0.5, -20.0]), jnp.array([0.0, 0.0])).round(4)
    Array([ 0.1201, 19.3069], dtype=float32)
    """
    residual, where = _residuals("log_cosh", predictions, targets, where)
    return keep(where, _log_cosh(residual))


@jax.custom_jvp
def _log_cosh(residual: Array) -> Array:
    # cosh(r) - 1 = (exp(|r|) - 1) (1 - exp(-|r|)) / 2: no digit of a small residual is lost, as it
    # is in |r| + log1p(exp(-2 |r|)) - log 2. Beyond 19 the rest is a line in float64. Minima for
    # selections, which XLA's CPU compiler would store.
    size = jnp.abs(residual)
    near = jnp.minimum(size, 19.0)
    return jnp.log1p(-0.5 * jnp.expm1(near) * jnp.expm1(-near)) + (size - near)


@partial(_log_cosh.defjvp, symbolic_zeros=True)
def _log_cosh_jvp(primals, tangents):
    (residual,) = primals
    return chain(_log_cosh(residual), (jnp.tanh(residual), tangents[0]))


@card(
    values="element",
    predictions=REAL,
    targets=REAL,
    hyper=dict(quantile=UNIT),
    exact=lambda m, prediction, target, quantile: max(
        quantile * (target - prediction), (quantile - 1) * (target - prediction)
    ),
    source="Koenker & Bassett (1978), Regression quantiles, Econometrica 46(1)",
    also=dict(sklearn="metrics.mean_pinball_loss"),
    ulp=2,
    minimum=0.0,
    minimizer=lambda targets, quantile: targets,
    convex=True,
    lipschitz=lambda quantile: max(quantile, 1 - quantile),
    kinks=lambda targets, quantile: targets,
    elicits="quantile",
    invariant=("translation", "permutation"),
)
@compiled
def quantile_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    quantile: ArrayLike = 0.5,
    where: ArrayLike | None = None,
) -> Array:
    r"""The pinball loss: the best constant answer is the given quantile of the targets.

    .. math:: L(p, t) = \max\bigl(q (t - p),\ (q - 1)(t - p)\bigr)

    Args:
      predictions: real numbers of any shape.
      targets: the same shape.
      quantile: :math:`q` in [0, 1], NaN otherwise. It broadcasts to the predictions, so a last axis
        of predictions may hold several quantiles.
      where: boolean mask of what counts, of the same rank.

    Returns:
      One value an element, in float32 or float64. The gradient is :math:`1 - q` above the target
      and :math:`-q` below it; at the kink, where anything between is a subgradient, it is 0.

    Raises:
      ValueError: shapes differ, or ``quantile`` does not broadcast.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    Prefer it where over- and underestimating cost differently, or two of it for an interval.
    Source: Koenker & Bassett (1978).

    >>> jloss.quantile_loss(jnp.array([1.0, 5.0]), jnp.array([2.0, 4.0]), quantile=0.75)
    Array([0.75, 0.25], dtype=float32)
    """
    residual, where = _residuals("quantile_loss", predictions, targets, where)
    quantile = hyper("quantile_loss", residual, quantile=quantile)
    inside = (quantile >= 0) & (quantile <= 1)
    quantile += nan_unless("quantile_loss", inside, "in [0, 1]", quantile=quantile)
    # Autodiff sees a slope that is constant on either side and 0 at the kink.
    slope = jnp.where(residual > 0, 1.0 - quantile, jnp.where(residual < 0, -quantile, 0.0))
    return keep(where, slope * residual)


@card(
    values="element",
    predictions=REAL,
    targets=NONZERO,
    exact=lambda m, prediction, target: 100 * abs((prediction - target) / target),
    source="Makridakis (1993), Accuracy measures: theoretical and practical concerns, "
    "Int. J. Forecast. 9(4)",
    also=dict(
        keras="losses.mean_absolute_percentage_error",
        sklearn="metrics.mean_absolute_percentage_error",
    ),
    ulp=2,
    minimum=0.0,
    minimizer=lambda targets: targets,
    convex=True,
    kinks=lambda targets: targets,
    symmetric=False,
    invariant=("permutation",),
)
@compiled
def mean_absolute_percentage_error(
    predictions: ArrayLike, targets: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
    r"""Absolute error in percent of the target: an error of ten counts more where little is due.

    .. math:: L(p, t) = 100 \, \frac{|p - t|}{|t|}

    Args:
      predictions: real numbers of any shape.
      targets: the same shape; not 0, NaN otherwise.
      where: boolean mask of what counts, of the same rank; ``where=targets != 0`` leaves out what
        has no percentage.

    Returns:
      One value an element, in percent, in float32 or float64. The gradient is
      :math:`\pm 100 / |t|`; at the kink, where anything between is a subgradient, it is 0.

    Raises:
      ValueError: shapes differ.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    It favours predictions that are too low, which cost at most 100 percent: prefer
    `squared_log_error` where that matters. keras has percent as well, scikit-learn has fractions;
    both divide by 1e-7 or less where the target is 0, which drowns the rest of a mean.
    Source: Makridakis (1993).

    >>> jloss.mean_absolute_percentage_error(jnp.array([9.0, 2.0]), jnp.array([10.0, 1.0]))
    Array([ 10., 100.], dtype=float32)
    """
    loss = "mean_absolute_percentage_error"
    predictions, targets = floats(loss, predictions=predictions, targets=targets)
    same_shape(loss, predictions=predictions, targets=targets)
    where = mask(loss, where, predictions.shape)
    predictions, targets = keep(where, predictions), keep(where, targets, 1)
    targets += nan_unless(loss, targets != 0, "other than 0", targets=targets)
    return keep(where, 100.0 * _relative_size(predictions, targets))


@jax.custom_jvp
def _relative_size(predictions: Array, targets: Array) -> Array:
    return jnp.abs(predictions - targets) / jnp.abs(targets)


@partial(_relative_size.defjvp, symbolic_zeros=True)
def _relative_size_jvp(primals, tangents):
    # It is |p / t - 1|: autodiff of the difference would cancel in the slope for the target.
    predictions, targets = primals
    slope = jnp.sign(predictions - targets) / jnp.abs(targets)
    target_slope = -slope * (predictions / targets)
    value = _relative_size(predictions, targets)
    return chain(value, (slope, tangents[0]), (target_slope, tangents[1]))


@card(
    values="element",
    predictions=ABOVE_MINUS_ONE,
    targets=ABOVE_MINUS_ONE,
    exact=lambda m, prediction, target: (m.log1p(prediction) - m.log1p(target)) ** 2,
    source="Tofallis (2015), A better measure of relative prediction accuracy for model selection "
    "and model estimation, J. Oper. Res. Soc. 66(8)",
    also=dict(
        keras="losses.mean_squared_logarithmic_error", sklearn="metrics.mean_squared_log_error"
    ),
    ulp=4,
    minimum=0.0,
    minimizer=lambda targets: targets,
    convex=False,
    kinks=False,
    symmetric=True,
    invariant=("permutation",),
)
@compiled
def squared_log_error(
    predictions: ArrayLike, targets: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
    r"""Squared difference of logarithms: a factor of two is as bad upwards as downwards.

    .. math:: L(p, t) = \left(\log \frac{1 + p}{1 + t}\right)^2

    Args:
      predictions: numbers above -1, any shape; NaN otherwise.
      targets: the same shape; above -1, NaN otherwise.
      where: boolean mask of what counts, of the same rank.

    Returns:
      One value an element, in float32 or float64; no digit is lost for nearly equal arguments.

    Raises:
      ValueError: shapes differ.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    Prefer it to `squared_error` for sizes that spread over decades, as prices and counts do. It is
    not convex: for predictions far too high the slope fades. keras raises negative numbers to 1e-7,
    scikit-learn refuses them at -1 and below.
    Source: Tofallis (2015).

    >>> jloss.squared_log_error(jnp.array([9.0, 0.0]), jnp.array([0.0, 0.0]))
    Array([5.3018985, 0.       ], dtype=float32)
    """
    loss = "squared_log_error"
    predictions, targets = floats(loss, predictions=predictions, targets=targets)
    same_shape(loss, predictions=predictions, targets=targets)
    where = mask(loss, where, predictions.shape)
    predictions, targets = keep(where, predictions), keep(where, targets)
    predictions += nan_unless(loss, predictions > -1, "above -1", predictions=predictions)
    targets += nan_unless(loss, targets > -1, "above -1", targets=targets)
    residual = _log_ratio(predictions, targets)
    return keep(where, residual * residual)


@jax.custom_jvp
def _log_ratio(predictions: Array, targets: Array) -> Array:
    # Of nearly equal numbers the logarithms' difference cancels, that of the numbers is exact.
    excess = (predictions - targets) / (1.0 + targets)
    near = jnp.abs(excess) < 0.5
    far = jnp.log((1.0 + predictions) / (1.0 + targets))
    # Where the quotient overflows or vanishes its logarithm is large: there nothing cancels either.
    far = jnp.where(jnp.isfinite(far), far, jnp.log(1.0 + predictions) - jnp.log(1.0 + targets))
    return jnp.where(near, jnp.log1p(jnp.where(near, excess, 0.0)), far)


@partial(_log_ratio.defjvp, symbolic_zeros=True)
def _log_ratio_jvp(primals, tangents):
    predictions, targets = primals
    slopes = 1.0 / (1.0 + predictions), -1.0 / (1.0 + targets)
    return chain(_log_ratio(predictions, targets), *zip(slopes, tangents, strict=True))
