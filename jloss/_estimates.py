"""Estimates and their errors by source: what probes, data and rounding leave open."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jloss._operator import Operator, nudged


class Errors(NamedTuple):
    """Half-widths around a value, by source; NaN where a source could not be measured.

    Attributes:
      krylov: what stopping the Lanczos recurrence leaves open: a bound.
      probes: what random probes leave open: a 95% t-interval.
      data: what another sample of the data would change: a 95% t-interval by the jackknife over
        batches, or over 32 groups of them; unknown for a single batch.
      rounding: what one rounding error in each param and vector entry changes: an estimate.
    """

    krylov: Any
    probes: Any
    data: Any
    rounding: Any

    @property
    def total(self) -> Any:
        """The sum of what is known: sources may all err in one direction."""
        return jax.tree.map(lambda *sources: np.nansum(np.stack(sources), axis=0), *self)


class Estimate(NamedTuple):
    """A value with its errors.

    Attributes:
      value: a number, an array, or a pytree like the params.
      errors: half-widths by source, each like the value.
      products: how many products with one vector it took.
      converged: whether the probes' interval met ``rtol``; otherwise the budget ended first.
    """

    value: Any
    errors: Errors
    products: int
    converged: bool


def rounding(
    operator: Operator,
    key: Array,
    vectors: Array,
    images: Array,
    sample: Callable[[Array, Array], Array],
    count: int = 4,
) -> Array:
    """What one rounding error in each param and entry does to samples of the first vectors.

    Inputs that are moved so also make all later roundings fall anew, so that the difference
    shows those of the whole computation. (Parker, 1997: Monte Carlo arithmetic.)
    """
    vectors, images = vectors[:count], images[:count]
    other, moved = move(operator, key, vectors)
    return jnp.abs(sample(moved, other.products(moved)) - sample(vectors, images))


def move(operator: Operator, key: Array, vectors: Array) -> tuple[Operator, Array]:
    """The operator and the vectors, moved by one rounding error in each entry."""
    params_key, vector_key = jax.random.split(key)
    return operator.moved(params_key), nudged(vector_key, vectors)


@jax.jit
def forms(vectors: Array, images: Array) -> Array:
    return jnp.sum(vectors * images, axis=1)


def sphere(key: Array, count: int, operator: Operator) -> Array:
    """Vectors uniform on the sphere whose radius is the root of the size."""
    return _sphere(key, (count, operator.size), operator.center.dtype)


@partial(jax.jit, static_argnums=(1, 2))
def _sphere(key: Array, shape: tuple[int, int], dtype: Any) -> Array:
    vectors = jax.random.normal(key, shape, dtype)
    return vectors * (math.sqrt(shape[1]) / jnp.linalg.norm(vectors, axis=1, keepdims=True))


def interval(spread: Any, count: int, looks: int = 1) -> Any:
    """The half-width of the 95% t-interval of a mean, from the standard deviation of samples.

    Stopping at the first of several looks that seems narrow favours those that are so by chance;
    with all of them given, each has its share of the 5% (Bonferroni).
    """
    from scipy.special import stdtrit

    return stdtrit(count - 1, 1 - 0.025 / looks) * spread / math.sqrt(count)


def jackknife(totals: np.ndarray, weights: Array) -> np.ndarray:
    """The half-width of a ratio of sums, from its values without each part; NaN for one part."""
    parts = float64(weights)
    others = parts.sum() - parts
    if len(parts) < 2 or not (others > 0).all():
        return np.full(totals.shape[1:], np.nan)
    others = others.reshape(-1, *[1] * (totals.ndim - 1))
    return spread_left_out((totals.sum(0) - totals) / others)


def spread_left_out(values: np.ndarray) -> np.ndarray:
    """The 95% half-width by the delete-one jackknife. Source: Tukey (1958), Ann. Math. Stat. 29."""
    count = len(values)
    return (count - 1) * interval(values.std(0, ddof=1), count)


def float64(array: Any) -> np.ndarray:
    return np.asarray(array, np.float64)


def keys(key: Array | None) -> tuple[Array, Array]:
    """A key for the probes, and one for what measures rounding."""
    one, other = jax.random.split(jax.random.key(0) if key is None else key)
    return one, other


def check(name: str, **arguments: Any) -> None:
    """Numbers must be positive; of a pair, a whole number of at least the second."""
    for argument, value in arguments.items():
        if isinstance(value, tuple):
            number, least = value
            if isinstance(number, bool) or number != int(number) or number < least:
                raise ValueError(
                    f"{name}: {argument} must be a whole number of at least {least}, not {number}"
                )
        elif not value > 0:
            raise ValueError(f"{name}: {argument} must be positive, not {value}")
