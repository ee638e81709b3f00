r"""Divergences between two distributions, row by row.

Cross-entropies on logits are in ``classification.py``.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._compiled import compiled
from jloss._safe import (
    Axis,
    axes_of,
    chain,
    floats,
    keep,
    mask,
    nan_unless,
    nan_with,
    product,
    same_shape,
    to_rows,
)
from jloss.card import COUNT, LOG_PROBABILITIES, LOG_RATE, LOG_TARGETS, PROBABILITIES, card


@card(
    values="example",
    predictions=LOG_PROBABILITIES,
    targets=PROBABILITIES,
    exact=lambda m, log_predictions, targets: m.fsum(
        target * (m.log(target) - log_prediction)
        for log_prediction, target in zip(log_predictions, targets, strict=True)
        if target
    ),
    source="Kullback & Leibler (1951), On information and sufficiency, Ann. Math. Stat. 22(1)",
    also=dict(
        optax="losses.kl_divergence",
        torch="nn.functional.kl_div",
        keras="losses.kl_divergence",
    ),
    ulp=4,
    scale="input",
    minimum=0.0,
    minimizer=lambda targets: jnp.log(targets),
    convex=True,
    lipschitz=1.0,
    smooth=0.0,
    kinks=False,
    elicits="probability",
    invariant=("permutation",),
)
@compiled
def kl_divergence(
    log_predictions: ArrayLike,
    targets: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Kullback-Leibler divergence: what it costs to hold ``predictions`` for ``targets``.

    .. math:: L(\log p, t) = \sum_c t_c (\log t_c - \log p_c), \qquad 0 \log 0 = 0

    Args:
      log_predictions: log-probabilities along ``axis``, as from `jax.nn.log_softmax`; minus
        infinity for what is held to be impossible.
      targets: probabilities, the same shape; at least 0, NaN for the example otherwise.
      axis: the axis, or axes, of a distribution.
      where: boolean mask of what counts: of the shape of the result, or of the rank of the
        predictions, which leaves outcomes out.

    Returns:
      The shape of ``targets`` without ``axis``, in float32 or float64; infinite where something
      possible is held to be impossible. The sum for two equal distributions, which rounding makes
      slightly negative, is 0. The gradient for ``log_predictions`` is ``-targets``; that for a
      target of exactly 0, which is infinite, is taken to be 0.

    Raises:
      ValueError: shapes differ, or ``axis`` names no axis.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    Prefer `softmax_cross_entropy` on logits; it has the same gradient, as the difference, the
    entropy of the targets, does not depend on the predictions.
    Source: Kullback & Leibler (1951).

    >>> jloss.kl_divergence(jnp.log(jnp.array([[0.5, 0.5]])), jnp.array([[1.0, 0.0]]))
    Array([0.6931472], dtype=float32)
    """
    loss = "kl_divergence"
    log_predictions, targets, seen = _rows(loss, log_predictions, axis, where, targets=targets)
    spoilt = nan_unless(loss, targets >= 0, "at least 0", targets=targets)
    return keep(seen, _divergence(log_predictions, targets, spoilt))


@jax.custom_jvp
def _divergence(log_predictions: Array, targets: Array, spoilt: Array) -> Array:
    """``spoilt`` is 0, or NaN at a target that is none."""
    # Both are selected at the end, for XLA's CPU compiler stores what is selected for a sum.
    entropy = jnp.where(targets == 0, 0.0, targets * jnp.log(targets) + spoilt)
    certain = (targets == 0) & jnp.isinf(log_predictions)
    surprise = jnp.where(certain, 0.0, targets * log_predictions)
    return _lift((entropy - surprise).sum(-1), jnp.abs(entropy) + jnp.abs(surprise) + targets)


@partial(_divergence.defjvp, symbolic_zeros=True)
def _divergence_jvp(primals, tangents):
    log_predictions, targets, _ = primals
    value = _divergence(*primals)
    # A target of 0 has the slope 0 instead of minus infinity.
    target_slope = jnp.where(targets == 0, 0.0, _log(targets)[1] - log_predictions + 1.0)
    spoilt = nan_with(value)
    return chain(
        value, (spoilt - targets, tangents[0]), (spoilt + target_slope, tangents[1]), axis=-1
    )


def _rows(
    loss: str,
    log_predictions: ArrayLike,
    axis: Axis,
    where: ArrayLike | None,
    hidden: float = 0.0,
    **targets: ArrayLike,
) -> tuple[Array, Array, Array | None]:
    """Both arguments with a distribution a row, nothing where masked; and the mask of rows."""
    ((name, given),) = targets.items()
    log_predictions, array = floats(loss, log_predictions=log_predictions, **{name: given})
    same_shape(loss, log_predictions=log_predictions, **{name: array})
    axes = axes_of(loss, axis, array.ndim)
    where = mask(loss, where, array.shape, axes)
    seen = None if where is None else to_rows(where, axes).any(-1)
    log_predictions = to_rows(keep(where, log_predictions, -jnp.inf), axes)
    return log_predictions, to_rows(keep(where, array, hidden), axes), seen


def _log(targets: Array) -> tuple[Array, Array]:
    """Targets, without the infinite slope of those that are 0, and logarithms, 0 for these."""
    targets = jnp.where(targets > 0, targets, jax.lax.stop_gradient(targets))
    return targets, jnp.log(jnp.where(targets > 0, targets, 1.0))


def _lift(values: Array, sizes: Array) -> Array:
    """0 where a sum of terms of such ``sizes`` is negative by no more than their roundings."""
    noise = 4 * jnp.finfo(values.dtype).eps * sizes.sum(-1)
    lift = jnp.where((values < 0) & (values > -noise), -values, 0.0)
    return values + jax.lax.stop_gradient(lift)


@card(
    values="example",
    predictions=LOG_PROBABILITIES,
    targets=LOG_TARGETS,
    exact=lambda m, log_predictions, log_targets: m.fsum(
        m.exp(log_target) * (log_target - log_prediction)
        for log_prediction, log_target in zip(log_predictions, log_targets, strict=True)
    ),
    source="Kullback & Leibler (1951), On information and sufficiency, Ann. Math. Stat. 22(1)",
    also=dict(
        optax="losses.kl_divergence_with_log_targets",
        torch="nn.functional.kl_div(log_target=True)",
    ),
    ulp=4,
    scale="input",
    minimum=0.0,
    minimizer=lambda targets: targets,
    convex=True,
    lipschitz=1.0,
    smooth=0.0,
    kinks=False,
    invariant=("permutation",),
)
@compiled
def kl_divergence_with_log_targets(
    log_predictions: ArrayLike,
    log_targets: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Kullback-Leibler divergence for targets that come as logarithms.

    .. math:: L(\log p, \log t) = \sum_c t_c (\log t_c - \log p_c), \qquad 0 \log 0 = 0

    Args:
      log_predictions: log-probabilities along ``axis``, as from `jax.nn.log_softmax`; minus
        infinity for what is held to be impossible.
      log_targets: log-probabilities, the same shape; minus infinity for what is impossible.
      axis: the axis, or axes, of a distribution.
      where: boolean mask of what counts: of the shape of the result, or of the rank of the
        predictions, which leaves outcomes out.

    Returns:
      The shape of ``log_targets`` without ``axis``, in float32 or float64; infinite where something
      possible is held to be impossible. What is impossible adds 0, with a gradient of 0, whatever
      the prediction. The sum for two equal distributions, which rounding makes slightly negative,
      is 0.

    Raises:
      ValueError: shapes differ, or ``axis`` names no axis.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    Prefer it to `kl_divergence` where a model gives the targets, as in distillation: no target
    underflows on the way, and close distributions keep more digits.
    Source: Kullback & Leibler (1951).

    >>> one_hot = jnp.array([[0.0, -jnp.inf]])
    >>> jloss.kl_divergence_with_log_targets(jnp.log(jnp.array([[0.5, 0.5]])), one_hot)
    Array([0.6931472], dtype=float32)
    """
    loss = "kl_divergence_with_log_targets"
    log_predictions, log_targets, seen = _rows(
        loss, log_predictions, axis, where, hidden=-jnp.inf, log_targets=log_targets
    )
    possible = log_targets != -jnp.inf
    # Made safe before the exponential, whose slope for minus infinity is 0, but times it is NaN.
    log_targets = jnp.where(possible, log_targets, 0.0)
    targets = jnp.where(possible, jnp.exp(log_targets), 0.0)
    gap = log_targets - jnp.where(possible, log_predictions, 0.0)
    terms = targets * gap
    return keep(seen, _lift(terms.sum(-1), jnp.abs(terms) + targets))


def _exact_generalized_kl(m, log_predictions, targets):
    pairs = zip(log_predictions, targets, strict=True)
    return m.fsum(
        m.exp(log_prediction) + (target and target * (m.log(target) - log_prediction - 1))
        for log_prediction, target in pairs
    )


@card(
    values="example",
    predictions=LOG_RATE,
    targets=COUNT,
    exact=_exact_generalized_kl,
    source="Csiszár (1975), I-divergence geometry of probability distributions and minimization "
    "problems, Ann. Probab. 3(1)",
    also=dict(optax="losses.generalized_kl_divergence"),
    ulp=4,
    scale="input",
    minimum=0.0,
    minimizer=lambda targets: jnp.log(targets),
    convex=True,
    kinks=False,
    invariant=("permutation",),
)
@compiled
def generalized_kl_divergence(
    log_predictions: ArrayLike,
    targets: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Kullback-Leibler divergence of amounts that need not sum to 1; 0 only where all are equal.

    .. math:: L(\log p, t) = \sum_c \bigl(t_c (\log t_c - \log p_c) - t_c + p_c\bigr)

    Args:
      log_predictions: logarithms of amounts along ``axis``; minus infinity for 0.
      targets: amounts, the same shape; at least 0, NaN for the example otherwise.
      axis: the axis, or axes, to sum over.
      where: boolean mask of what counts: of the shape of the result, or of the rank of the
        predictions, which leaves amounts out.

    Returns:
      The shape of ``targets`` without ``axis``, in float32 or float64: never negative, and infinite
      where 0 is predicted and something is there. The gradient for ``log_predictions`` is
      :math:`p - t`; that for a target of exactly 0, which is infinite, is taken to be 0.

    Raises:
      ValueError: shapes differ, or ``axis`` names no axis.
      TypeError: predictions are not floating, or ``where`` is not boolean.

    Prefer it to `kl_divergence` for counts, rates and spectra: it is that plus the difference of
    the sums, and half the Poisson deviance. `convex_kl_divergence` is an old name for it.
    Source: Csiszár (1975).

    >>> jloss.generalized_kl_divergence(jnp.array([[0.0, 0.0]]), jnp.array([[0.0, 1.0]]))
    Array([1.], dtype=float32)
    """
    loss = "generalized_kl_divergence"
    log_predictions, targets, seen = _rows(loss, log_predictions, axis, where, targets=targets)
    spoilt = nan_unless(loss, targets >= 0, "at least 0", targets=targets)
    log_predictions += spoilt.sum(-1, keepdims=True)
    return keep(seen, _excess(log_predictions, targets).sum(-1))


@jax.custom_jvp
def _excess(log_predictions: Array, targets: Array) -> Array:
    """``t (log t - log p) - t + p``, at least 0, without its cancellation where p is near t."""
    targets, log_targets = _log(targets)
    predictions = jnp.exp(log_predictions)
    gap = _gap(log_predictions, targets)
    far = predictions + product(targets, log_targets - log_predictions - 1.0)
    near = targets * _exp_beyond_line(jnp.where(jnp.abs(gap) < 1, gap, 0.0))
    return jnp.where((targets > 0) & (jnp.abs(gap) < 1), near, far)


@partial(_excess.defjvp, symbolic_zeros=True)
def _excess_jvp(primals, tangents):
    log_predictions, targets = primals
    slope = _difference(log_predictions, targets)
    # A target of 0 has the slope 0 instead of minus infinity.
    target_slope = jnp.where(targets == 0, 0.0, -_gap(log_predictions, targets))
    return chain(_excess(*primals), (slope, tangents[0]), (target_slope, tangents[1]))


def _gap(log_predictions: Array, targets: Array) -> Array:
    """``log p - log t``, from ``p - t`` where they are near: the logarithms have been rounded."""
    targets, log_targets = _log(targets)
    gap = log_predictions - log_targets
    near = (jnp.abs(gap) < 1) & (targets > 0)
    whole = jnp.where(near, targets, 1.0)
    part = _difference(jnp.where(near, log_predictions, 0.0), whole)
    return jnp.where(near, jnp.log1p(part / whole), gap)


def _difference(log_predictions: Array, targets: Array) -> Array:
    """``p - t``, where both are near 1 as the difference of what is beyond 1."""
    near = jnp.abs(log_predictions) < 0.5
    beyond = jnp.expm1(jnp.where(near, log_predictions, 0.0)) + (1.0 - targets)
    return jnp.where(near, beyond, jnp.exp(log_predictions) - targets)


def _exp_beyond_line(array: Array) -> Array:
    """``exp(x) - 1 - x`` for -1 < x < 1 by its series, of which each term is far below the last."""
    terms = jnp.zeros_like(array)
    for n in range(12 if array.dtype == jnp.float32 else 20, 2, -1):
        terms = (1 / n) * array * (1.0 + terms)
    return 0.5 * array * array * (1.0 + terms)


# As optax has it.
convex_kl_divergence = generalized_kl_divergence
