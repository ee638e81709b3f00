"""Averages that add up: the one way that anything in jloss is averaged."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Average:
    """A weighted mean kept as ``total`` and ``weight``, so that two of them add up exactly.

    The mean over microbatches, validation batches, devices or hosts is the ``value`` of the sum
    of their averages, however unequal the parts are.

    >>> halves = jloss.average(jnp.array([1.0, 2.0, 3.0])) + jloss.average(jnp.array([6.0]))
    >>> halves.value
    Array(3., dtype=float32)
    """

    total: Array
    weight: Array

    @property
    def value(self) -> Array:
        """``total / weight``; 0, with zero gradients, where nothing counted."""
        empty = self.weight == 0
        return jnp.where(empty, 0.0, self.total) / jnp.where(empty, 1.0, self.weight)

    def __add__(self, other: "Average") -> "Average":
        return Average(self.total + other.total, self.weight + other.weight)


def average(
    values: ArrayLike, *, where: ArrayLike | None = None, weights: ArrayLike | None = None
) -> Average:
    r"""The weighted total of ``values`` and the weight it stands for.

    .. math:: \text{total} = \sum_{i: m_i} w_i v_i, \qquad \text{weight} = \sum_{i: m_i} w_i

    Args:
      values: what a loss or a metric returned, any shape; booleans and integers count as numbers.
      where: boolean mask of what counts; what it hides may be NaN. A scalar, or the rank of
        ``values`` with every size equal to theirs or 1.
      weights: how much each value counts, shaped like ``where``. Class weights are
        ``class_weights[labels]``. Unlike a mask, a weight of 0 does not hide a NaN.

    Returns:
      An `Average`. Half precision and integers are added up in float32, float64 in float64.

    Raises:
      ValueError: ``where`` or ``weights`` does not fit ``values``.
      TypeError: ``where`` is not boolean.

    >>> jloss.average(jnp.array([1.0, jnp.nan]), where=jnp.array([True, False])).value
    Array(1., dtype=float32)
    """
    values = jnp.asarray(values)
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    weights = jnp.ones((), values.dtype) if weights is None else jnp.asarray(weights)
    weights = _fitted("weights", weights.astype(values.dtype), values.shape)
    if where is not None:
        where = jnp.asarray(where)
        if where.dtype != bool:
            raise TypeError(f"average: where must be boolean, not {where.dtype}")
        where = _fitted("where", where, values.shape)
        values, weights = jnp.where(where, values, 0), jnp.where(where, weights, 0)
    return Average(jnp.sum(weights * values), jnp.sum(weights))


def mean(
    values: ArrayLike, *, where: ArrayLike | None = None, weights: ArrayLike | None = None
) -> Array:
    """``average(values, where=where, weights=weights).value``: one number to differentiate.

    >>> jloss.mean(jnp.array([1.0, 3.0]), weights=jnp.array([3.0, 1.0]))
    Array(1.5, dtype=float32)
    """
    return average(values, where=where, weights=weights).value


def _fitted(name: str, array: Array, shape: tuple[int, ...]) -> Array:
    """``array`` spread over ``shape``; a missing axis is an error, for numpy would guess which."""
    fits = array.ndim in (0, len(shape)) and all(
        size in (1, full) for size, full in zip(array.shape, shape, strict=False)
    )
    if not fits:
        cure = (
            f" Did you mean {name}[{'..., None' if len(shape) == array.ndim + 1 else '...'}]?"
            if array.shape == shape[: array.ndim]
            else ""
        )
        raise ValueError(
            f"average: {name} {array.shape} must be a scalar or have the rank of values {shape}, "
            f"each size equal or 1.{cure}"
        )
    return jnp.broadcast_to(array, shape)
