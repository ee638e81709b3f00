"""Averages that add up: the one way that anything in jloss is averaged."""

import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


class Statistic:
    """What is exact over parts of the data: it adds up leaf by leaf, and its value is the whole's.

    A subclass is a pytree of arrays, whose shapes do not depend on the data, with a ``value``.
    """

    @property
    def value(self) -> Array:
        """What is reported."""
        raise NotImplementedError

    def __add__(self, other: Self) -> Self:
        return jax.tree.map(operator.add, self, other)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Average(Statistic):
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
        return self.part_of(self)

    def part_of(self, whole: "Average") -> Array:
        """This part's share in the value of the whole that it was added up to.

        The shares of all parts add up to ``whole.value``, and their gradients to its gradient,
        as long as the weights do not depend on what is differentiated.

        >>> small, large = jloss.average(jnp.array([6.0])), jloss.average(jnp.ones(3))
        >>> small.part_of(small + large), large.part_of(small + large)
        (Array(1.5, dtype=float32), Array(0.75, dtype=float32))
        """
        empty = whole.weight == 0
        return jnp.where(empty, 0.0, self.total) / jnp.where(empty, 1.0, whole.weight)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Terms(Statistic):
    """Averages by name, each a term of one sum: what `combine` returns where others return one.

    Parts of the data may count unequally in each term, so each term adds up by itself.

    >>> fit = jloss.average(jnp.array([1.0, 2.0, 3.0]))
    >>> whole = jloss.Terms({"fit": fit, "penalty": jloss.average(jnp.array([0.5]))})
    >>> whole.value, (whole + whole).value
    (Array(2.5, dtype=float32), Array(2.5, dtype=float32))
    """

    averages: Mapping[str, Average]

    @property
    def value(self) -> Array:
        """The sum of the terms' values."""
        return self.part_of(self)

    def part_of(self, whole: "Terms") -> Array:
        """This part's share in the value of the whole, as of an `Average`."""
        # In one order, for a transformation of JAX sorts the names, and sums depend on the order.
        names = sorted(self.averages)
        shares = [self.averages[name].part_of(whole.averages[name]) for name in names]
        return functools.reduce(operator.add, shares)


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
