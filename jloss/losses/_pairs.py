"""Sums over the pairs of a list, for pair-wise losses: from sorted scores where the loss is a power
of differences, else block by block; all pairs at once where a list is short, or has to be taken so.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._blocks import Side, block_sum
from jloss._safe import nan_unless, two_difference
from jloss._sorting import Levels, levels_of, pair_sum, pairs_of
from jloss.losses._lists import Reduce, _beside, _differences, _factors, _items, _lists, _reduce

LambdaWeight = Callable[..., Array] | None
_Pair = Callable[[Array, Array], Array]  # of a difference and what rounding lost of it
# Pairs of a block, and how many are taken at once where there are no more, for that is faster. A
# processor's caches hold some hundred thousand, where an accelerator's cores are hardly busy.
_BLOCK, _LARGE_BLOCK = (128, 256), (2048, 4096)
_FEW, _LARGE_FEW = 2**16, 2**24


class _Given(NamedTuple):
    """The arguments of a pair-wise loss, checked."""

    scores: Array
    labels: Array
    where: Array | None
    segments: Array | None
    weights: Array
    spoilt: Array  # 0 for each row, or NaN

    @property
    def home(self) -> Array | None:
        """A number of each item's list among those of all rows, None where there is but one."""
        size, shape = self.scores.shape[-1], self.scores.shape
        keys = _lists(self.where, self.segments).keys(shape)
        if not keys and self.scores.size == size:
            return None
        first = jnp.arange(self.scores.size, dtype=jnp.int32).reshape(shape)[..., :1]
        home = first + keys[0] if keys else jnp.broadcast_to(first, shape)
        shown = keys[0] < size if keys else True
        return jnp.where(shown, home, self.scores.size).ravel()


def _given(
    loss: str,
    scores: ArrayLike,
    labels: ArrayLike,
    where: ArrayLike | None,
    segments: ArrayLike | None,
    weights: ArrayLike | None,
) -> _Given:
    scores, labels, where, segments = _items(loss, labels, where, segments, scores=scores)
    spoilt = nan_unless(loss, ~jnp.isnan(labels), "a number", labels=labels)
    spoilt += jnp.where(jnp.isnan(scores), jnp.nan, 0.0)
    weights = _factors(loss, scores, weights, where)
    return _Given(scores, labels, where, segments, weights, spoilt.sum(-1))


def _reduced(
    given: _Given,
    sums: Callable[[], tuple[Array, Array]],
    pair: _Pair,
    lambdaweight_fn: LambdaWeight,
    reduce_fn: Reduce,
    *,
    residual: bool = False,
    ordered: bool = True,
) -> Array:
    """The loss by a sum over pairs and their number, or from all pairs where it has to be.

    ``pair`` has how far the second score is ahead of the first, or with ``residual`` how far what
    the scores lack of the labels is. Only pairs count of which the first has the larger label, but
    for those not ``ordered``.
    """
    limit = _FEW if jax.default_backend() == "cpu" else _LARGE_FEW
    few = given.scores.size * given.scores.shape[-1] <= limit
    if not few and lambdaweight_fn is None and reduce_fn in (jnp.mean, jnp.sum):
        total, count = sums()
        total *= 1.0 + given.spoilt.sum()
        return total if reduce_fn is jnp.sum else total / jnp.maximum(count, 1.0)
    scores, labels, where, segments, *_ = given
    counted = _beside(scores, where, segments)
    if ordered:
        counted &= labels[..., :, None] > labels[..., None, :]
    values, rest = two_difference(labels, scores) if residual else (scores, jnp.zeros_like(scores))
    difference, lost = _differences(values, counted)
    rest = jax.lax.stop_gradient(rest)
    losses = pair(difference, lost + (rest[..., None, :] - rest[..., :, None]))
    return _reduced_pairs(given, losses, counted, lambdaweight_fn, reduce_fn)


def _reduced_pairs(
    given: _Given, losses: Array, counted: Array, lambdaweight_fn: LambdaWeight, reduce_fn: Reduce
) -> Array:
    """The loss by the values of all pairs, (..., n, n), and which of them count."""
    scores, labels, where, segments, weights, spoilt = given
    losses *= weights[..., :, None] * (1.0 + spoilt)[..., None, None]
    if lambdaweight_fn is not None:
        factors = lambdaweight_fn(scores, labels, where=where, segments=segments, weights=weights)
        losses *= factors.reshape(losses.shape)
    *rows, size = scores.shape
    flat = *rows, size * size
    return _reduce(losses.reshape(flat), counted.reshape(flat), reduce_fn)


def _sorted_sums(given: _Given, degree: int, margin: float) -> Callable[[], tuple[Array, Array]]:
    def sums() -> tuple[Array, Array]:
        home, scores = given.home, given.scores.ravel()
        levels = levels_of(given.labels.ravel(), home)
        pairs = pairs_of(margin, scores, home, levels)
        total = pair_sum(degree, margin, scores, given.weights.ravel(), pairs)
        return total, _number(levels, given)

    return sums


def _number(levels: Levels, given: _Given) -> Array:
    """Of pairs with different labels, each of which is one for two items."""
    return levels.others.astype(given.scores.dtype).sum() / 2.0


def _block_sums(given: _Given, pair: _Pair) -> Callable[[], tuple[Array, Array]]:
    def needed(row: Side, column: Side) -> Array:
        return _valid(row, column).any()

    def block(row: Side, column: Side) -> Array:
        (scores, weights), (others,) = row[0], column[0]
        behind, lost = two_difference(others, scores[:, None])
        losses = pair(behind, jax.lax.stop_gradient(lost))
        return (weights * jnp.where(_valid(row, column), losses, 0.0).sum(-1)).sum()

    def sums() -> tuple[Array, Array]:
        home = given.home
        levels = levels_of(given.labels.ravel(), home)
        home = jnp.zeros_like(levels.items) if home is None else home
        # In order of labels, so that many blocks have no pair at all.
        scores, labels, weights, home = (
            x.ravel()[levels.items] for x in (given.scores, given.labels, given.weights, home)
        )
        others = jax.lax.stop_gradient(labels), home + 1  # padding has a list of its own, 0
        columns = (scores,), others
        sizes = _BLOCK if jax.default_backend() == "cpu" else _LARGE_BLOCK
        total = block_sum(block, needed, sizes, ((scores, weights), others), columns)
        return total, _number(levels, given)

    return sums


def _valid(row: Side, column: Side) -> Array:
    (labels, home), (other_labels, other_home) = row[1], column[1]
    return (home[:, None] == other_home) & (labels[:, None] > other_labels)
