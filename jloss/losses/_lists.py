"""Items and their lists, for all ranking losses: what is shown, sums over lists, ranks and pairs.

Lists lie along the last axis, padded where their lengths differ; with ``segments`` several lists
share a row.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._safe import floats, hyper, keep, mask, nan_unless, same_shape, two_difference
from jloss.card import Domain

Reduce = Callable[..., Array] | None

LABEL = Domain(
    "any real number",
    lambda rng, shape: rng.integers(-2, 4, shape).astype(float),
    (0.0, 1.0, -1.0),
    soft=True,
)

# Items and their lists ---------------------------------------------------------------------------


class _Lists(NamedTuple):
    """Which items of a row make one list: all that are shown, or those of one segment."""

    shown: Array | None
    home: Array | None  # the place of the first item of an item's list, the row's length if hidden

    def total(self, values: Array) -> Array:
        """At each item the sum over its list."""
        values = keep(self.shown, values)
        if self.home is None:
            return jnp.broadcast_to(values.sum(-1, keepdims=True), values.shape)
        return _at(_add_home(values, self.home), self.home)

    def largest(self, values: Array) -> Array:
        """At each item the maximum over its list."""
        values = keep(self.shown, values, -jnp.inf)
        if self.home is None:
            top = values.max(-1, keepdims=True, initial=-jnp.inf)
            return jnp.broadcast_to(top, values.shape)
        return _at(_max_home(values, self.home), self.home)

    def sums(self, values: Array) -> Array:
        """The sum of each list; with segments it is where the list begins, and 0 elsewhere."""
        values = keep(self.shown, values)
        return values.sum(-1) if self.home is None else _add_home(values, self.home)

    def reduce(self, sums: Array, reduce_fn: Reduce) -> Array:
        """The values of the lists that have an item, reduced."""
        if self.home is not None:
            return _reduce(sums, self.begins, reduce_fn)
        return _reduce(sums, None if self.shown is None else self.shown.any(-1), reduce_fn)

    @property
    def begins(self) -> Array:
        """Where a list has its first item."""
        assert self.home is not None
        return _add_home(jnp.ones(self.home.shape), self.home) > 0

    def keys(self, shape: tuple[int, ...]) -> list[Array]:
        """What sorts items by their lists, hidden ones last."""
        if self.home is not None:
            return [self.home]
        return [] if self.shown is None else [jnp.where(self.shown, 0, shape[-1])]


def _lists(where: Array | None, segments: Array | None) -> _Lists:
    if segments is None:
        return _Lists(where, None)
    shown = jnp.ones(segments.shape, bool) if where is None else where
    places = _places(segments.shape)
    hidden, names, order = jax.lax.sort((~shown, segments, places), num_keys=2)
    begins = _differ_from_previous(hidden) | _differ_from_previous(names)
    first = jax.lax.cummax(jnp.where(begins, places, 0), axis=segments.ndim - 1)
    home = jnp.where(hidden, segments.shape[-1], _at(order, first))
    return _Lists(shown, jax.lax.sort((order, home), num_keys=1)[1])


def _places(shape: tuple[int, ...]) -> Array:
    return jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)


def _differ_from_previous(values: Array) -> Array:
    """True at the first."""
    differ = values[..., 1:] != values[..., :-1]
    return jnp.concatenate([jnp.ones_like(values[..., :1], bool), differ], -1)


def _at(values: Array, places: Array, fill: float = 0) -> Array:
    """The values at other places of their row; ``fill`` at a place that is not there."""
    return jnp.take_along_axis(values, places, -1, mode="fill", fill_value=fill)


@partial(jnp.vectorize, signature="(n),(n)->(n)")
def _add_home(values: Array, home: Array) -> Array:
    return jnp.zeros_like(values).at[home].add(values, mode="drop")


@partial(jnp.vectorize, signature="(n),(n)->(n)")
def _max_home(values: Array, home: Array) -> Array:
    return jnp.full_like(values, -jnp.inf).at[home].max(values, mode="drop")


def _reduce(values: Array, counted: Array | None, reduce_fn: Reduce) -> Array:
    """``reduce_fn`` over the values that count; their mean is 0 where none does."""
    values = keep(counted, values)
    if reduce_fn is jnp.mean:
        count = values.size if counted is None else counted.sum()
        return values.sum() / jnp.maximum(count, 1)
    return values if reduce_fn is None else reduce_fn(values, where=counted)


def _items(
    loss: str,
    labels: ArrayLike,
    where: ArrayLike | None,
    segments: ArrayLike | None,
    *,
    rank: int = 1,
    **scores: ArrayLike,
) -> tuple[Array, Array, Array | None, Array | None]:
    """Scores and labels, 0 where hidden, the mask of the items, and the names of their lists."""
    ((name, given),) = scores.items()
    given, labels = floats(loss, **{name: given}, labels=labels)
    same_shape(loss, **{name: given}, labels=labels)
    if given.ndim < rank:
        raise ValueError(f"{loss}: {name} () must have the items of a list along the last axis.")
    where = mask(loss, where, given.shape, (given.ndim - 1,) if given.ndim else ())
    if segments is not None:
        segments = jnp.asarray(segments)
        if not jnp.issubdtype(segments.dtype, jnp.integer):
            raise TypeError(f"{loss}: segments must be integers, not {segments.dtype}.")
        same_shape(loss, **{name: given}, segments=segments)
    return keep(where, given), keep(where, labels), where, segments


def _factors(loss: str, like: Array, weights: ArrayLike | None, where: Array | None) -> Array:
    """A weight for each item, 1 where none is given."""
    if weights is None:
        return jnp.ones_like(like)
    return keep(where, jnp.broadcast_to(hyper(loss, like, weights=weights), like.shape))


def _nan_unless_relevance(loss: str, labels: Array, lists: _Lists) -> Array:
    """0, or NaN for each item of a list with a label below 0."""
    return lists.total(nan_unless(loss, labels >= 0, "at least 0", labels=labels))


def _gain(labels: Array) -> Array:
    """2**label - 1."""
    return jnp.expm1(labels * math.log(2))


def _discount(ranks: Array) -> Array:
    """1 / log2(1 + rank)."""
    return math.log(2) / jnp.log1p(ranks)


# Ranks and their pairs ---------------------------------------------------------------------------


def _beside(like: Array, where: Array | None, segments: Array | None) -> Array:
    """(..., n, n): the pairs of items that are in one list, each with itself among them."""
    shown = jnp.ones(like.shape, bool) if where is None else where
    pairs = shown[..., :, None] & shown[..., None, :]
    return pairs if segments is None else pairs & (segments[..., :, None] == segments[..., None, :])


def _differences(values: Array, pairs: Array) -> tuple[Array, Array]:
    """Of the second of a pair from the first, and what rounding lost of it.

    It is 0 for a pair that does not count, and for equal infinities.
    """
    first, second = values[..., :, None], values[..., None, :]
    counts = pairs & ~(jnp.isinf(first) & (first == second))
    difference, lost = two_difference(jnp.where(counts, second, 0.0), jnp.where(counts, first, 0.0))
    return difference, jax.lax.stop_gradient(lost)


def _ranks(scores: Array, beside: Array) -> Array:
    """1 for the largest of a list; of equal ones the earlier is first."""
    ahead = scores[..., None, :] > scores[..., :, None]
    earlier = jnp.tril(jnp.ones(beside.shape[-2:], bool), -1)
    ahead |= (scores[..., None, :] == scores[..., :, None]) & earlier
    ranks = 1.0 + (ahead & beside).sum(-1).astype(scores.dtype)
    return jnp.where(jnp.isnan(scores), jnp.nan, ranks)


def _best_discounts(
    gains: Array,
    beside: Array,
    topn: int | None,
    discount_fn: Callable[[Array], Array] = _discount,
) -> Array:
    """Each item's discount in the best order of its list."""
    ranks = _ranks(gains, beside)
    discounts = discount_fn(ranks)
    return discounts if topn is None else jnp.where(ranks <= topn, discounts, 0.0)
