"""Sweeps: a function of named coordinates on their whole grid. Knows no loss and no model."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

# As many points as fill the arithmetic units for most functions; memory grows with it.
_POINTS_AT_ONCE = 1024


@dataclass(frozen=True)
class Sweep:
    """The values of a function on a grid, with the coordinates that they belong to.

    Attributes:
      axes: the coordinates by name, in the order of the grid.
      values: what the function returned; every array has the grid's dimensions in front.
    """

    axes: dict[str, Any]
    values: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of points along each axis."""
        return tuple(map(_length, self.axes.values()))

    def argmin(self, name: str | None = None) -> dict[str, Any]:
        """The coordinates of the smallest finite value; the first of several.

        Args:
          name: which of the values, where the function returned several: a key or a field.

        Returns:
          A coordinate for every axis.

        Raises:
          ValueError: no value is finite, or they are not one number per point, or no name is
            given for one of several.

        >>> x, y = jnp.arange(4.0), jnp.arange(3.0)
        >>> grid = jloss.sweep(lambda x, y: (x - 2.0) ** 2 + y, x=x, y=y)
        >>> grid.argmin()
        {'x': Array(2., dtype=float32), 'y': Array(0., dtype=float32)}
        """
        values = np.asarray(self.numbers(name))
        finite = np.isfinite(values)
        if not finite.any():
            raise ValueError(f"Sweep.argmin: none of the {values.size} values is finite")
        place = np.unravel_index(np.argmin(np.where(finite, values, np.inf)), self.shape)
        return {
            axis: _pick(self.axes[axis], index)
            for axis, index in zip(self.axes, place, strict=True)
        }

    def numbers(self, name: str | None = None) -> Array:
        """The values that are one number per point: all of them, or those of that name.

        Args:
          name: a key or a field of the values, where the function returned several.

        Returns:
          An array of the grid's shape.

        Raises:
          ValueError: there is no such name, or none is given for one of several, or they are more
            than one number per point.
        """
        values = self.values
        if name is not None:
            try:
                values = values[name] if isinstance(values, Mapping) else getattr(values, name)
            except (KeyError, AttributeError):
                raise ValueError(
                    f"Sweep: no values named {name!r}; there are {self._names()}"
                ) from None
        leaves = jax.tree.leaves(values)
        if len(leaves) != 1:
            raise ValueError(f"Sweep: name one of the values: {self._names()}")
        if leaves[0].shape != self.shape:
            raise ValueError(
                f"Sweep: one number per point is needed, not arrays of {leaves[0].shape} on a "
                f"grid of {self.shape}"
            )
        return leaves[0]

    def plot(self, name: str | None = None, ax: Any = None) -> Any:
        """Draws the values: a line over one axis, contours over two (needs matplotlib).

        Args:
          name: which of the values, where the function returned several.
          ax: the matplotlib Axes to draw into; a new one if not given.

        Returns:
          The Axes.

        Raises:
          ValueError: more than two axes, or values that are not one number per point.
          ImportError: matplotlib is missing.
        """
        from jloss import plot

        return (plot.line if len(self.axes) == 1 else plot.contour)(self, name=name, ax=ax)

    def _names(self) -> str:
        fields = jax.tree_util.tree_leaves_with_path(self.values)
        return ", ".join(jax.tree_util.keystr(path, simple=True) for path, _ in fields)


def sweep(function: Callable[..., Any], /, *, batch_size: int | None = None, **axes: Any) -> Sweep:
    """Evaluates a function on the grid of all combinations of its coordinates.

    Points are taken together by `jax.vmap`, ``batch_size`` at a time, in one compiled program.

    Args:
      function: takes the coordinates by name and returns any pytree of arrays; must be traceable.
      batch_size: points at a time; what a point needs in memory is needed so many times. At most
        1024 if not given.
      axes: the coordinates by name: arrays, with one entry per point along the first axis (of any
        shape: numbers, keys, vectors), or pytrees of such arrays. Dtypes are kept.

    Returns:
      A `Sweep`. Values that are not finite stay as they are.

    Raises:
      ValueError: no axes, an axis without points or without a length, batch_size below 1.
      TypeError: the coordinates do not fit the function, or it returns no arrays.

    >>> grid = jloss.sweep(lambda x, y: x - y, x=jnp.array([1, 2, 3]), y=jnp.array([0, 1]))
    >>> grid.values
    Array([[1, 0],
           [2, 1],
           [3, 2]], dtype=int32)
    """
    axes = {name: _axis(name, axis) for name, axis in axes.items()}
    if not axes:
        raise ValueError("sweep: no coordinates; give at least one, as in delta=jnp.linspace(0, 1)")
    _check_names(function, axes)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"sweep: batch_size must be at least 1, not {batch_size}")
    shape = tuple(map(_length, axes.values()))
    batch_size = min(batch_size or _POINTS_AT_ONCE, math.prod(shape))

    def at(place: tuple[Array, ...], columns: tuple[Any, ...]) -> Any:
        coordinates = map(_pick, columns, place)
        return _arrays(function, function(**dict(zip(axes, coordinates, strict=True))))

    # Axes go in as a tuple: a dict would come out of jit with its keys sorted.
    evaluate = jax.jit(partial(_evaluate, at, shape, batch_size))
    return Sweep(axes, evaluate(tuple(axes.values())))


def _evaluate(
    at: Callable, shape: tuple[int, ...], batch_size: int, columns: tuple[Any, ...]
) -> Any:
    """The function on the grid, chunk by chunk."""
    # The last chunk is filled up with the last point, so that one program serves them all.
    points = math.prod(shape)
    chunks = -(-points // batch_size)
    order = jnp.minimum(jnp.arange(chunks * batch_size), points - 1)
    values = lax.map(
        jax.vmap(lambda point: at(jnp.unravel_index(point, shape), columns)),
        order.reshape(chunks, batch_size),
    )

    def unfold(leaf: Array) -> Array:
        rest = leaf.shape[2:]
        return leaf.reshape(-1, *rest)[:points].reshape(*shape, *rest)

    return jax.tree.map(unfold, values)


def _axis(name: str, axis: Any) -> Any:
    lengths = set()
    for leaf in jax.tree.leaves(axis):
        if np.ndim(leaf) == 0:
            raise ValueError(
                f"sweep: {name} needs an array with a leading axis, not {axis!r}; "
                f"did you mean jnp.array({axis if isinstance(axis, (list, tuple)) else [axis]!r})?"
            )
        lengths.add(len(leaf))
    if len(lengths) > 1:
        raise ValueError(f"sweep: the arrays of {name} differ in length: {sorted(lengths)}")
    if not lengths or 0 in lengths:
        raise ValueError(f"sweep: {name} has no points")
    return jax.tree.map(jnp.asarray, axis)


def _length(axis: Any) -> int:
    return len(jax.tree.leaves(axis)[0])


def _pick(axis: Any, index: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], axis)


def _name(function: Callable) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _check_names(function: Callable, axes: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # some builtins have none; they complain when they are called
        return
    try:
        signature.bind(**axes)
    except TypeError as error:
        raise TypeError(
            f"sweep: the coordinates {', '.join(axes)} do not fit {_name(function)}{signature}: "
            f"{error}"
        ) from None


def _arrays(function: Callable, values: Any) -> Any:
    leaves = jax.tree.leaves(values)
    wrong = [
        leaf for leaf in leaves if not isinstance(leaf, (Array, np.ndarray, np.number, float, int))
    ]
    if wrong or not leaves:
        kind = type(wrong[0]).__name__ if wrong else type(values).__name__
        raise TypeError(f"sweep: {_name(function)} must return arrays, not {kind}")
    return jax.tree.map(jnp.asarray, values)
