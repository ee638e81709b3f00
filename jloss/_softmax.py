"""Softmax with no digit lost where the model is right: the core under every loss that normalises
scores over classes or items. Rows are along the last axis.

What there is once a row has no axis of length 1: XLA's CPU compiler takes 50 ns a row to go along
such an axis.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._safe import chain, finite_two_difference, is_class, nan_with


@jax.custom_jvp
def cross_entropy(logits: Array, labels: Array, spoilt: ArrayLike = 0.0) -> Array:
    """``spoilt`` is 0, or NaN at a label that is none and spoils its row."""
    softmax = softmax_of(logits)
    # Selected at the end, for XLA's CPU compiler stores the factors of a product that is summed.
    behind = jnp.where(labels == 0, 0.0, labels * softmax.behind + spoilt).sum(-1)
    return behind + labels.sum(-1) * softmax.normaliser


@partial(cross_entropy.defjvp, symbolic_zeros=True)
def cross_entropy_jvp(primals, tangents):
    logits, labels, _ = primals
    softmax = softmax_of(logits)
    value = cross_entropy(*primals)
    return chain(
        value,
        (softmax.slope(labels) + nan_with(value), tangents[0]),
        (softmax.surprise, tangents[1]),
        axis=-1,
    )


@jax.custom_jvp
def integer_cross_entropy(logits: Array, labels: Array, spoilt: Array) -> Array:
    """``spoilt`` is 0, or NaN for a row whose label is none."""
    softmax, _, behind = _label_softmax(logits, labels, spoilt)
    return behind + softmax.normaliser


@partial(integer_cross_entropy.defjvp, symbolic_zeros=True)
def integer_cross_entropy_jvp(primals, tangents):
    logits, labels, spoilt = primals
    softmax, rest, _ = _label_softmax(logits, labels, spoilt)
    # A reciprocal a row, for a division an entry is slower than the exponential.
    slope = rest * softmax.weight - (1.0 - rest) * softmax.others[..., None]
    slope *= (1.0 / softmax.total)[..., None]
    return chain(integer_cross_entropy(logits, labels, spoilt), (slope, tangents[0]), axis=-1)


@jax.custom_jvp
def log_sum_exp(logits: Array) -> Array:
    return logits.max(-1, initial=-jnp.inf) + softmax_of(logits).normaliser


@log_sum_exp.defjvp
def log_sum_exp_jvp(primals, tangents):
    (logits,) = primals
    return log_sum_exp(logits), (softmax_of(logits).probability * tangents[0]).sum(-1)


class Softmax(NamedTuple):
    """Softmax as a ratio in which some classes stand apart, so that no digit of 1 - p is lost.

    These are the label, or the leaders: all that are tied for the largest logit.
    """

    behind: Array  # the largest logit of the row minus each, at least 0
    weight: Array  # exp(-behind)
    apart: Array  # the sum of the weights of those apart, one a row
    others: Array  # and of all others

    @property
    def total(self) -> Array:
        return self.others + self.apart

    @property
    def normaliser(self) -> Array:
        """``log(total)``: where one class leads, that is log(1 + others)."""
        return jnp.log1p(self.others + (self.apart - 1.0))

    @property
    def surprise(self) -> Array:
        """``-log(probability)``."""
        return self.behind + self.normaliser[..., None]

    @property
    def probability(self) -> Array:
        return self.weight / self.total[..., None]

    @property
    def missing(self) -> Array:
        """``1 - probability``."""
        return self._against / self.total[..., None]

    @property
    def _against(self) -> Array:
        return self.others[..., None] + (self.apart[..., None] - self.weight)

    def slope(self, labels: Array) -> Array:
        """``sum(labels) * probability - labels``: no digit is lost where a label is certain."""
        other_labels = labels.sum(-1, keepdims=True) - labels
        return (other_labels * self.weight - labels * self._against) / self.total[..., None]


def softmax_of(logits: Array) -> Softmax:
    """With the leaders apart."""
    top = _top(logits)
    behind, weight = _weigh(top, logits)
    # The leaders' with a minus: XLA's CPU compiler would store a selection for each of the sums, as
    # it does any term that two loops share, so each tells by other means which sign it is about.
    signed = jnp.where(logits == top, -weight, weight)
    apart = 0.5 * _sum(jnp.sign(signed) * signed - signed)
    others = 0.5 * _sum(jnp.abs(signed) + signed)
    return Softmax(behind, jnp.where(signed < 0, -signed, signed), apart, others)


def _label_softmax(logits: Array, labels: Array, spoilt: Array) -> tuple[Softmax, Array, Array]:
    """With the label apart; 0 at the label and else 1; how far behind the label is."""
    top = _top(logits)
    behind, weight = _weigh(top, logits)
    label = is_class(logits, labels)
    # Gathered before the exponential, for a gather from the weights would have them stored.
    chosen = jnp.take_along_axis(logits, labels[..., None], -1)[..., 0] + spoilt
    label_behind, apart = _weigh(top[..., 0], chosen)
    # By selection: multiplied by a mask that `vmap` leaves unbatched while it batches the logits,
    # XLA's CPU compiler (jaxlib 0.10.2) adds up wrong rows from some fifty points on.
    softmax = Softmax(behind, weight, apart, _sum(jnp.where(label, 0.0, weight)))
    return softmax, (~label).astype(weight.dtype), label_behind


# Without barriers XLA's CPU compiler computes the sums of a row twice, from stored weights.


def _top(logits: Array) -> Array:
    top = jax.lax.stop_gradient(logits.max(-1, keepdims=True, initial=-jnp.inf))
    return jax.lax.optimization_barrier(top)


def _sum(weight: Array) -> Array:
    return jax.lax.optimization_barrier(weight.sum(-1))


def _weigh(top: Array, logits: Array) -> tuple[Array, Array]:
    """``top - logits`` and ``exp(logits - top)``, the latter with the digits that rounding lost."""
    # A row led by an infinite logit is the limit in which the others are infinitely behind. For the
    # weights far ones stand for infinite ones, since a selection here is slow.
    far = jnp.finfo(logits.dtype).max / 2
    clipped = jnp.clip(top, -far, far), jnp.clip(logits, -far, far)
    near, lost = finite_two_difference(*clipped)
    infinite = (logits != top) & jnp.isinf(top - logits)
    rounded = jnp.exp(-near)
    weight = rounded - rounded * jax.lax.stop_gradient(lost)
    return jnp.where(infinite, jnp.inf, near), weight


def _leader(logits: Array) -> Array:
    """The first class with the largest logit; XLA's argmax is several times slower on CPU."""
    places = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    leads = logits == logits.max(-1, keepdims=True, initial=-jnp.inf)
    return jnp.where(leads, places, logits.shape[-1]).min(-1, initial=logits.shape[-1])


@jax.custom_jvp
def probabilities(logits: Array) -> tuple[Array, Array]:
    """Softmax, and one minus it with no digit lost where a class is certain."""
    softmax = softmax_of(logits)
    return softmax.probability, softmax.missing


@probabilities.defjvp
def _probabilities_jvp(primals, tangents):
    (logits,), (change,) = primals, tangents
    likely, unlikely = probabilities(logits)
    leads = is_class(logits, _leader(logits))
    # From the leader on, whose own change then is a sum of small terms and no difference.
    ahead = jnp.where(leads, change, 0.0).sum(-1, keepdims=True)
    change = jnp.where(leads, 0.0, change - ahead)
    change = likely * (change - (likely * change).sum(-1, keepdims=True))
    return (likely, unlikely), (change, -change)
