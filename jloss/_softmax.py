"""Softmax cross-entropy with no digit lost where the model is right: the core under every loss that
normalises scores over classes or items. Rows are along the last axis.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._safe import chain, is_class, product, two_difference


@jax.custom_jvp
def cross_entropy(logits: Array, labels: Array) -> Array:
    softmax = _softmax(logits, _leader(logits))
    return product(labels, softmax.behind).sum(-1) + labels.sum(-1) * softmax.normaliser


@partial(cross_entropy.defjvp, symbolic_zeros=True)
def cross_entropy_jvp(primals, tangents):
    logits, labels = primals
    leader = _leader(logits)
    softmax = _softmax(logits, leader)
    # sum(labels) * probability - labels, without its cancellation where a label is certain.
    wrong = jnp.where(is_class(logits, leader), softmax.others, softmax.total - softmax.weight)
    other_labels = labels.sum(-1, keepdims=True) - labels
    slope = (other_labels * softmax.weight - labels * wrong) / softmax.total
    label_slope = softmax.behind + softmax.normaliser[..., None]
    return chain(
        cross_entropy(logits, labels), (slope, tangents[0]), (label_slope, tangents[1]), axis=-1
    )


@jax.custom_jvp
def integer_cross_entropy(logits: Array, labels: Array, spoilt: Array) -> Array:
    """``spoilt``, (..., 1), is 0, or NaN for a row whose label is none."""
    softmax = _softmax(logits, labels, spoilt)
    return softmax.pivot_behind[..., 0] + softmax.normaliser


@partial(integer_cross_entropy.defjvp, symbolic_zeros=True)
def integer_cross_entropy_jvp(primals, tangents):
    logits, labels, spoilt = primals
    softmax = _softmax(logits, labels, spoilt)
    slope = jnp.where(is_class(logits, labels), -softmax.others, softmax.weight) / softmax.total
    return chain(integer_cross_entropy(logits, labels, spoilt), (slope, tangents[0]), axis=-1)


class _Softmax(NamedTuple):
    """Softmax as a ratio in which a pivot class stands apart, so that no digit of 1 - p is lost."""

    behind: Array  # the largest logit of the row minus each, at least 0
    weight: Array  # exp(-behind)
    pivot_behind: Array  # the same for the pivot alone, (..., 1)
    pivot: Array
    others: Array  # the sum of all other weights, (..., 1)

    @property
    def total(self) -> Array:
        return self.others + self.pivot

    @property
    def normaliser(self) -> Array:
        """``log(total)``, (...): where the pivot leads, that is log(1 + others)."""
        return jnp.log1p(self.others + (self.pivot - 1.0))[..., 0]


def _softmax(logits: Array, pivot: Array, spoilt: ArrayLike = 0.0) -> _Softmax:
    top = jax.lax.stop_gradient(logits.max(-1, keepdims=True, initial=-jnp.inf))
    behind, weight = _weigh(top, logits)
    others = jnp.where(is_class(logits, pivot), 0.0, weight).sum(-1, keepdims=True)
    # Gathered before the exponential, for a gather from the weights would have them stored.
    chosen = jnp.take_along_axis(logits, pivot[..., None], -1) + spoilt
    return _Softmax(behind, weight, *_weigh(top, chosen), others)


def _weigh(top: Array, logits: Array) -> tuple[Array, Array]:
    """``top - logits`` and ``exp(logits - top)``, the latter with the digits that rounding lost."""
    # A row led by an infinite logit is the limit in which the others are infinitely behind.
    infinite = jnp.isinf(top)
    logits = jnp.where(infinite, jnp.where(logits == top, 0.0, -jnp.inf), logits)
    behind, lost = two_difference(jnp.where(infinite, 0.0, top), logits)
    return behind, jnp.exp(-behind) * (1.0 - jax.lax.stop_gradient(lost))


def _leader(logits: Array) -> Array:
    """The first class with the largest logit; XLA's argmax is several times slower on CPU."""
    places = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    leads = logits == logits.max(-1, keepdims=True, initial=-jnp.inf)
    return jnp.where(leads, places, logits.shape[-1]).min(-1, initial=logits.shape[-1])


@jax.custom_jvp
def probabilities(logits: Array) -> tuple[Array, Array]:
    """Softmax, and one minus it with no digit lost where a class is certain."""
    leader = _leader(logits)
    softmax = _softmax(logits, leader)
    wrong = jnp.where(is_class(logits, leader), softmax.others, softmax.total - softmax.weight)
    return softmax.weight / softmax.total, wrong / softmax.total


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
