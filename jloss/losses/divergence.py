r"""Divergences between two distributions, row by row.

Cross-entropies on logits are in ``classification.py``.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._safe import Axis, axes_of, floats, keep, mask, nan_unless, product, same_shape, to_rows
from jloss.card import LOG_PROBABILITIES, PROBABILITIES, card


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
    log_predictions, targets = floats(loss, log_predictions=log_predictions, targets=targets)
    same_shape(loss, log_predictions=log_predictions, targets=targets)
    axes = axes_of(loss, axis, targets.ndim)
    where = mask(loss, where, targets.shape, axes)
    log_predictions, targets = (
        to_rows(keep(where, array), axes) for array in (log_predictions, targets)
    )
    # Times, for the gradient of the whole row is to be NaN, and it does not depend on predictions.
    spoilt = nan_unless(loss, targets >= 0, "at least 0", targets=targets)
    log_predictions *= 1.0 + spoilt.sum(-1, keepdims=True)
    targets = jnp.where(targets > 0, targets, jax.lax.stop_gradient(targets))
    log_targets = jnp.log(jnp.where(targets > 0, targets, 1.0))
    surprise, entropy = product(targets, log_predictions), targets * log_targets
    values = (entropy - surprise).sum(-1)
    noise = (
        4 * jnp.finfo(values.dtype).eps * (jnp.abs(entropy) + jnp.abs(surprise) + targets).sum(-1)
    )
    lift = jnp.where((values < 0) & (values > -noise), -values, 0.0)
    values += jax.lax.stop_gradient(lift)
    return keep(None if where is None else to_rows(where, axes).any(-1), values)
