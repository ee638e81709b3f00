"""What the gradients of single examples tell: their norms, and how noisy a batch's gradient is."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jloss._gradient import leading
from jloss.average import Terms
from jloss.objective import Objective, call


class GradientStatistics(NamedTuple):
    """What `gradient_statistics` measured.

    Attributes:
      norms: of the gradient of each example, 0 for one that does not count.
      norm: of the gradient of the batch, their mean.
      variance: the trace of the covariance of the examples' gradients, unbiased.
      squared_norm: of the true gradient, unbiased; below 0 where noise hides it.
      noise_scale: ``variance / squared_norm``, the batch size at which noise and gradient are
        alike; infinite where noise hides the gradient.
    """

    norms: Array
    norm: Array
    variance: Array
    squared_norm: Array
    noise_scale: Array


def gradient_statistics(
    objective: Objective, params: Any, batch: Any, *, model_state: Any = None, at_once: int = 32
) -> GradientStatistics:
    r"""Norms of the gradients of single examples, and the gradient noise scale of the batch.

    .. math:: B = \frac{\operatorname{tr}\Sigma}{|G|^2}, \qquad
       \operatorname{tr}\Sigma = \frac{\sum_i |g_i - \bar g|^2}{n - 1}, \qquad
       |G|^2 = |\bar g|^2 - \frac{\operatorname{tr}\Sigma}{n}

    where the :math:`g_i` are the examples' gradients, of those that count, scaled so that their
    mean :math:`\bar g` is the gradient of the batch whatever the weights. Batches much larger than
    B waste examples, much smaller ones waste steps.

    Args:
      objective: an average over examples, of which none depends on another.
      params: the model's parameters.
      batch: a batch of at least two examples that count.
      model_state: for an objective that names it. It gets no key: no dropout, running statistics.
      at_once: how many gradients are in memory together.

    Returns:
      `GradientStatistics`. To be called under ``jit`` when it is called often.

    Raises:
      ValueError: the arrays of the batch have no common leading axis.

    Source: McCandlish, Kaplan, Amodei et al. (2018), An Empirical Model of Large-Batch Training,
    arXiv:1812.06162.

    >>> slope = lambda params, batch: jloss.average(params * batch)
    >>> found = jloss.gradient_statistics(slope, jnp.array(1.0), jnp.array([1.0, 3.0]))
    >>> found.norms, float(found.variance), float(found.squared_norm)
    (Array([1., 3.], dtype=float32), 2.0, 3.0)
    """
    rows = leading("gradient_statistics", batch)

    def averaged(params: Any, batch: Any) -> Any:
        return call(objective, params, batch, model_state=model_state)[0]

    whole = averaged(params, batch)
    mean = jax.grad(lambda params: averaged(params, batch).value)(params)

    def counted(row: Array) -> Array:
        return _counts(averaged(params, _row(batch, row)))

    counts = lax.map(counted, jnp.arange(rows), batch_size=min(rows, at_once))
    number = jnp.sum(counts)

    def lengths(row: Array) -> tuple[Array, Array]:
        share = jax.grad(lambda params: averaged(params, _row(batch, row)).part_of(whole))(params)
        gradient = jax.tree.map(lambda leaf: number * leaf, share)
        away = jax.tree.map(jnp.subtract, gradient, mean)
        return _squared(gradient), _squared(away)

    squares, deviations = lax.map(lengths, jnp.arange(rows), batch_size=min(rows, at_once))
    variance = jnp.sum(jnp.where(counts, deviations, 0)) / (number - 1)
    squared_norm = _squared(mean) - variance / number
    noise_scale = jnp.where(squared_norm > 0, variance / squared_norm, jnp.inf)
    return GradientStatistics(
        jnp.sqrt(squares), jnp.sqrt(_squared(mean)), variance, squared_norm, noise_scale
    )


def _counts(average: Any) -> Array:
    """Whether anything of an example counts."""
    averages = average.averages.values() if isinstance(average, Terms) else [average]
    return jnp.any(jnp.stack([average.weight != 0 for average in averages]))


def _row(batch: Any, row: Array) -> Any:
    return jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(jnp.asarray(leaf), row, 1), batch)


def _squared(tree: Any) -> Array:
    return sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)), jnp.zeros(()))
