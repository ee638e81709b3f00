"""Sums over the pairs of rows and columns block by block, which take memory for one block only.

The gradient of a block is computed while the block is at hand, so that nothing is stored for it, in
closed form to whatever differentiates it: forward mode and Hessians work as ever.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

Arrays = tuple[Array, ...]
# The arrays with gradients, which are floating, and the others.
Side = tuple[Arrays, Arrays]
Block = Callable[[Side, Side], Array]


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def block_sum(
    function: Block, needed: Block, sizes: tuple[int, int], rows: Side, columns: Side
) -> Array:
    """The sum of ``function(rows, columns)`` over all blocks for which ``needed`` is true.

    Rows and columns are tuples of arrays with one entry a row or column along the first axis; they
    are padded with zeros to whole blocks of these sizes. Both functions depend on their arguments
    alone.
    """
    rows, columns, tiles = _tiles(sizes, rows, columns)

    def add(total: Array, tile: tuple[Array, Array]) -> tuple[Array, None]:
        part = _at(rows, tile[0]), _at(columns, tile[1])
        return total + jax.lax.cond(needed(*part), function, _nothing, *part), None

    return jax.lax.scan(add, jnp.zeros((), rows[0][0].dtype), tiles)[0]


@block_sum.defjvp
def _block_sum_jvp(function, needed, sizes, primals, tangents):
    total, slopes = _with_slopes(function, needed, sizes, *primals)
    changes = [side[0] for side in tangents]
    return total, sum(map(jnp.vdot, jax.tree.leaves(slopes), jax.tree.leaves(changes)))


def _with_slopes(
    function: Block, needed: Block, sizes: tuple[int, int], rows: Side, columns: Side
) -> tuple[Array, tuple[Arrays, Arrays]]:
    """The sum and its gradients for rows and columns."""
    counts = len(rows[0][0]), len(columns[0][0])
    rows, columns, tiles = _tiles(sizes, rows, columns)

    def value_and_slopes(row: Side, column: Side) -> tuple[Array, tuple[Arrays, Arrays]]:
        def value(row_floats: Arrays, column_floats: Arrays) -> Array:
            return function((row_floats, row[1]), (column_floats, column[1]))

        return jax.value_and_grad(value, (0, 1))(row[0], column[0])

    def zeros(row: Side, column: Side) -> tuple[Array, tuple[Arrays, Arrays]]:
        return _nothing(row, column), jax.tree.map(jnp.zeros_like, (row[0], column[0]))

    def add(carry: Any, tile: tuple[Array, Array]) -> tuple[Any, None]:
        total, slopes = carry
        part = _at(rows, tile[0]), _at(columns, tile[1])
        value, new = jax.lax.cond(needed(*part), value_and_slopes, zeros, *part)
        slopes = tuple(_add_at(*x) for x in zip(slopes, new, tile, strict=True))
        return (total + value, slopes), None

    start = jnp.zeros((), rows[0][0].dtype), jax.tree.map(jnp.zeros_like, (rows[0], columns[0]))
    # For a derivative of this in turn a block is computed anew.
    add = jax.checkpoint(add, prevent_cse=False)
    total, slopes = jax.lax.scan(add, start, tiles)[0]
    joined = [
        tuple(x.reshape(-1, *x.shape[2:])[:count] for x in side)
        for side, count in zip(slopes, counts, strict=True)
    ]
    return total, (joined[0], joined[1])


def map_rows(function: Callable[[Any], Any], size: int, rows: Any) -> Any:
    """``function`` of so many rows at a time, whose arrays have one entry a row, as its result."""

    # Of slices, for of an array and its blocks XLA would make two.
    def of_block(start: Array) -> Any:
        return function(at(start, size, rows))

    # For a derivative a block is computed anew.
    of_block = jax.checkpoint(of_block, prevent_cse=False)
    count = len(jax.tree.leaves(rows)[0])
    starts = jnp.arange(0, count, size, dtype=jnp.int32)
    found = jax.lax.map(of_block, starts)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)


def at(start: Array, size: int, rows: Any) -> Any:
    """So many rows of each array from a start on."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), rows)


def _nothing(row: Side, column: Side) -> Array:
    return jnp.zeros((), row[0][0].dtype)


def _tiles(
    sizes: tuple[int, int], rows: Side, columns: Side
) -> tuple[Side, Side, tuple[Array, Array]]:
    """Both sides in blocks along a new first axis, and all pairs of blocks."""

    def blocks(size: int, array: Array) -> Array:
        size = max(1, min(size, len(array)))
        count = max(1, -(-len(array) // size))  # of nothing one block, for indices must fit
        padded = jnp.pad(array, [(0, count * size - len(array))] + [(0, 0)] * (array.ndim - 1))
        return padded.reshape(-1, size, *array.shape[1:])

    rows, columns = (
        jax.tree.map(partial(blocks, size), side)
        for size, side in zip(sizes, (rows, columns), strict=True)
    )
    first, second = jnp.indices((len(rows[0][0]), len(columns[0][0])), dtype=jnp.int32)
    return rows, columns, (first.ravel(), second.ravel())


def _at(side: Side, place: Array) -> Side:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, place, keepdims=False), side)


def _add_at(arrays: Arrays, new: Arrays, place: Array) -> Arrays:
    return tuple(x.at[place].add(y) for x, y in zip(arrays, new, strict=True))
