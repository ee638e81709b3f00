"""Where a fit's batches come from: arrays on the device, or whatever can be iterated."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# Of a small model's batches so many are stacked for one dispatch, up to this size in all.
_STACKED, _BYTES = 32, 2**22


class Arrays(NamedTuple):
    """A data set as a pytree of arrays on the device, one row an example."""

    tree: Any

    @property
    def rows(self) -> int:
        """How many examples."""
        return len(jax.tree.leaves(self.tree)[0])

    def slices(self, size: int) -> Iterator[Any]:
        """The rows as they come, so many at a time."""
        for start in range(0, self.rows, size):
            yield jax.tree.map(lambda leaf, start=start: leaf[start : start + size], self.tree)

    @property
    def said(self) -> str:
        """Their types and shapes in words."""
        return said(spec(self.tree))


class Batches(NamedTuple):
    """A data set as a function that gives the batches of an epoch, one after the other."""

    name: str
    of_epoch: Callable[[int], Iterable[Any]]
    said: str = "batches"

    def groups(
        self, epoch: int, *, start: int = 0, stop_at: int | None = None, stack: bool = True
    ) -> Iterator[list[Any]]:
        """Batches in lists of one, or of 32 that have the same shapes; from ``start`` on.

        No list goes beyond a multiple of ``stop_at``, counted from the beginning of the epoch, so
        that the lists after it are the same whether one begins there or comes from before.
        """
        place, group = start, []
        for batch in itertools.islice(self.of_epoch(epoch), start, None):
            batch = _checked(f"batch {place} of {self.name}", batch)
            if group and spec(batch) != spec(group[0]):
                yield from ([one] for one in group)
                group = []
            place += 1
            group.append(batch)
            if len(group) == (_STACKED if stack and _is_small(batch) else 1):
                yield group
                group = []
            elif stop_at and place % stop_at == 0:
                yield from ([one] for one in group)
                group = []
        yield from ([one] for one in group)
        if place == 0:
            raise ValueError(
                f"fit: {self.name} gave no batches in epoch {epoch}; at least one with rows is "
                "needed (an iterator can be gone through only once)"
            )
        if place == start:
            raise ValueError(
                f"fit: {self.name} gave no more than {start} batches in epoch {epoch}, of which "
                "there were more when the checkpoint was written; resumed, it must give the same"
            )


def source(name: str, data: Any, *, once: bool = False) -> Arrays | Batches:
    """The data set behind what the user gave.

    Args:
      name: what the user calls it.
      data: a pytree of arrays with a common leading axis, or something to be iterated for each
        epoch, such as a list of batches, or a function of the epoch that gives such.
      once: it is gone through only once.
    """
    # A list of arrays is a pytree of them; of pairs or mappings no data set would be made.
    listed = isinstance(data, list) and not jax.tree_util.all_leaves(data)
    single = listed or (jax.tree_util.all_leaves([data]) and not hasattr(data, "shape"))
    if single and callable(data):
        return Batches(name, cast(Callable[[int], Iterable[Any]], data))
    if single and hasattr(data, "__iter__") and not isinstance(data, (str, bytes)):
        if not once and iter(data) is data:
            raise ValueError(
                f"fit: {name} is an iterator, which can be gone through only once; give something "
                f"that can be iterated again, or a function of the epoch: {name}=lambda epoch: ..."
            )
        return Batches(name, lambda epoch: data)
    return Arrays(_arrays(name, data))


def spec(batch: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of every array by its place."""
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    return {jax.tree_util.keystr(path): (leaf.shape, str(leaf.dtype)) for path, leaf in leaves}


def said(shapes: dict[str, tuple[tuple[int, ...], str]]) -> str:
    """The same in words."""
    return ", ".join(f"{place} {dtype}{shape}" for place, (shape, dtype) in shapes.items())


def stacked(group: list[Any]) -> Any:
    """Batches of the same shapes with a new leading axis."""

    def stack(*leaves: Any) -> Any:
        return (jnp if isinstance(leaves[0], jax.Array) else np).stack(leaves)

    return jax.tree.map(stack, *group)


def _is_small(batch: Any) -> bool:
    """Whether stacking it costs little; what is on a device already stays as it is."""
    leaves = jax.tree.leaves(batch)
    on_host = all(isinstance(leaf, np.ndarray) for leaf in leaves)
    return on_host and sum(leaf.nbytes for leaf in leaves) * _STACKED <= _BYTES


def _numbers(place: str, leaf: Any) -> Array | np.ndarray:
    array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
    if isinstance(array, np.ndarray) and array.dtype.kind in "OSUMm":
        raise TypeError(
            f"fit: {place} holds {array.dtype}, not numbers; encode it first "
            "(classes as integers 0, 1, 2, ...)"
        )
    return array


def _checked(place: str, batch: Any) -> Any:
    """The batch with numpy's arrays or JAX's for whatever arrays it holds."""

    def checked(path: tuple[Any, ...], leaf: Any) -> Array | np.ndarray:
        array = _numbers(place + jax.tree_util.keystr(path), leaf)
        if array.shape[:1] == (0,):
            raise ValueError(f"fit: {place}{jax.tree_util.keystr(path)} has no rows")
        return array

    return jax.tree_util.tree_map_with_path(checked, batch)


def _arrays(name: str, data: Any) -> Any:
    """The arrays of ``data`` on the device, all with the same number of rows, at least one."""
    rows: dict[str, int] = {}

    def checked(path: tuple[Any, ...], leaf: Any) -> Array:
        place = name + jax.tree_util.keystr(path)
        array = _numbers(place, leaf)
        if array.ndim == 0:
            raise ValueError(
                f"fit: {place} is a single number; every array of {name} needs a leading axis of "
                "rows (lists of numbers become arrays by jnp.array)"
            )
        rows[place] = len(array)
        return jax.device_put(array)

    arrays = jax.tree_util.tree_map_with_path(checked, data)
    if len(set(rows.values())) > 1:
        found = ", ".join(f"{place} has {count}" for place, count in rows.items())
        raise ValueError(
            f"fit: the arrays of {name} must have the same number of rows: {found} "
            f"(a list of batches goes in as {name}=lambda epoch: batches)"
        )
    if not rows or 0 in rows.values():
        raise ValueError(f"fit: {name} has no rows; at least one is needed")
    return arrays
