"""Sweeps: a function of named coordinates on their whole grid. Knows no loss and no model."""

import contextlib
import inspect
import itertools
import math
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jax.sharding import Mesh

from jloss import _devices, _plan, _store
from jloss._optional import optional
from jloss._plan import Plan
from jloss._program import Program, Task
from jloss.average import Statistic

# The result --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Sweep:
    """The values of a function on a grid, with the coordinates that they belong to.

    Attributes:
      axes: the coordinates by name, in the order of the grid.
      values: what the function returned; every array has the grid's dimensions in front.
      paired: whether the coordinates went together, point by point, so that there is one dimension.
    """

    axes: dict[str, Any]
    values: Any
    paired: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of points along each dimension."""
        return _shape(self.axes, self.paired)

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
        place = int(np.argmin(np.where(finite, values, np.inf)))
        return _coordinates(self.axes, self.paired, place)

    def numbers(self, name: str | None = None) -> Array:
        """The values that are one number per point: all of them, or those of that name.

        Args:
          name: a key or a field of the values, where the function returned several. Of an
            `Average` the value is taken if no field is named.

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
        leaves = jax.tree.leaves(values, is_leaf=_is_average)
        if len(leaves) != 1:
            raise ValueError(f"Sweep: name one of the values: {self._names()}")
        (array,) = leaves
        array = array.value if _is_average(array) else array
        if array.shape != self.shape:
            raise ValueError(
                f"Sweep: one number per point is needed, not arrays of {array.shape} on a "
                f"grid of {self.shape}"
            )
        return array

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

    def to_xarray(self) -> Any:
        """The values as an `xarray.Dataset` (needs xarray).

        Returns:
          A variable for each array of the values, with a dimension for each axis, and coordinates
          for those that are numbers. A single array is called ``value``.

        Raises:
          ImportError: xarray is missing.

        >>> grid = jloss.sweep(lambda x, y: x - y, x=jnp.arange(2.0), y=jnp.arange(3.0))
        >>> grid.to_xarray()["value"].sel(x=1.0, y=2.0).item()
        -1.0
        """
        xarray = optional("xarray", "sweep")
        dimensions = ("point",) if self.paired else tuple(self.axes)
        coordinates = {
            name: (dimensions[:1] if self.paired else name, np.asarray(axis))
            for name, axis in self.axes.items()
            if isinstance(axis, Array) and axis.ndim == 1 and not _is_key(axis)
        }
        variables = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.values):
            name = jax.tree_util.keystr(path, simple=True, separator=".") or "value"
            inner = tuple(f"{name}_{i}" for i in range(leaf.ndim - len(dimensions)))
            variables[name] = (dimensions + inner, np.asarray(leaf))
        return xarray.Dataset(variables, coordinates)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes axes and values into one ``.npz`` file that numpy opens as well.

        Args:
          path: the file; it is replaced as a whole, or not at all.

        >>> import tempfile
        >>> grid = jloss.sweep(lambda x: {"cube": x**3}, x=jnp.arange(3.0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     grid.save(f"{folder}/grid.npz")
        ...     jloss.Sweep.load(f"{folder}/grid.npz").values
        {'cube': Array([0., 1., 8.], dtype=float32)}
        """
        tree = {"axes": list(self.axes.items()), "values": self.values, "paired": self.paired}
        _store.save(Path(path), tree)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Sweep":
        """Reads what `save` wrote, or the folder of a finished sweep.

        Named tuples among the values come back as dictionaries.

        Args:
          path: the file, or the folder given as ``out``.

        Returns:
          The `Sweep`.

        Raises:
          ValueError: it is neither, or blocks of the folder are missing.
        """
        path = Path(path)
        tree = _store.Folder(path).read() if path.is_dir() else _store.load(path)
        return Sweep(dict(tree["axes"]), tree["values"], tree["paired"])

    def _names(self) -> str:
        fields = jax.tree_util.tree_leaves_with_path(self.values)
        return ", ".join(jax.tree_util.keystr(path, simple=True) for path, _ in fields)


# The sweep ---------------------------------------------------------------------------------------


def sweep(
    function: Callable[..., Any],
    /,
    *,
    data: Iterable[Any] | None = None,
    paired: bool = False,
    batch_size: int | None = None,
    memory_limit: int | None = None,
    mesh: Mesh | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = False,
    **axes: Any,
) -> Sweep:
    """Evaluates a function on the grid of all combinations of its coordinates.

    Points are taken together by `jax.vmap`, as many at a time as measuring finds best, on all
    devices of this process. In a `jax.distributed` job each process does its share and all get
    the whole. Values that are `Average` are added up over the batches of ``data``, so that they
    are exact for data that no memory holds.

    Args:
      function: takes the coordinates by name and returns any pytree of arrays; must be traceable.
        With ``data`` it takes a batch first.
      data: batches, each a pytree of arrays. All that the function returns is then an `Average`.
      paired: the coordinates go together point by point, as in `zip`, and are of one length.
      batch_size: points at a time on each device, if not to be chosen here.
      memory_limit: bytes that a device may use for the points it has at a time; if not given,
        16 MiB on a processor, or what one point needs, and half of what is free on an accelerator.
      mesh: the devices over which points are shared out; all local ones if not given.
      out: a folder in which finished blocks are kept, so that a sweep that was interrupted or
        killed goes on from there when it is called again.
      progress: whether to show a bar (needs tqdm).
      axes: the coordinates by name: arrays, with one entry per point along the first axis (of any
        shape: numbers, keys, vectors), or pytrees of such arrays. Dtypes are kept.

    Returns:
      A `Sweep`. Values that are not finite stay as they are.

    Raises:
      ValueError: no axes, an axis without points or without a length, axes of different lengths
        that are paired, batch_size below 1, data without batches, a single point that needs more
        than the memory limit, a folder with another sweep in it or in use by another process.
      TypeError: the coordinates do not fit the function, it returns no arrays, or with data no
        averages, or a mesh is none.
      OSError: a block could not be written; those before it are kept.

    >>> grid = jloss.sweep(lambda x, y: x - y, x=jnp.array([1, 2, 3]), y=jnp.array([0, 1]))
    >>> grid.values
    Array([[1, 0],
           [2, 1],
           [3, 2]], dtype=int32)
    >>> halves = [jnp.array([1.0, 2.0, 3.0]), jnp.array([6.0])]
    >>> far = lambda batch, shift: jloss.average((batch - shift) ** 2)
    >>> jloss.sweep(far, data=halves, shift=jnp.array([0.0, 3.0])).values.value
    Array([12.5,  3.5], dtype=float32)
    """
    axes = {name: _axis(name, axis) for name, axis in axes.items()}
    if not axes:
        raise ValueError("sweep: no coordinates; give at least one, as in delta=jnp.linspace(0, 1)")
    _check_names(function, axes, () if data is None else (None,))
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"sweep: batch_size must be at least 1, not {batch_size}")
    if paired and len(set(map(_length, axes.values()))) > 1:
        lengths = ", ".join(f"{name} {_length(axis)}" for name, axis in axes.items())
        raise ValueError(f"sweep: paired axes must be of one length, not {lengths}")
    points = _Points(function, axes, paired, data is not None)
    batches = _Batches(data, again=out is not None)
    traced, shapes = points.trace(batches.first)
    if any(isinstance(leaf, Tracer) for leaf in (*traced.consts, *points.leaves())):
        values = _transformed(points, batches, batch_size or _plan.MANY)
    else:
        folder = None if out is None else _folder(Path(out), points, batches, traced)
        with folder or contextlib.nullcontext(), _bar(progress, points, batches) as advance:
            task = Task(points.at, points.size, points.columns, shapes, _devices.local(mesh))
            plan, program = _agreed_plan(task, batches.first, folder, batch_size, memory_limit)
            values = _all_blocks(program, plan, batches, folder, advance)
    return Sweep(axes, points.on_grid(values), paired)


# Points and batches ------------------------------------------------------------------------------


class _Points:
    """The points of a grid by their number, and the function at each."""

    def __init__(
        self, function: Callable[..., Any], axes: dict[str, Any], paired: bool, data: bool
    ):
        self.function, self.axes, self.paired, self.data = function, axes, paired, data
        self.shape = _shape(axes, paired)
        self.size = math.prod(self.shape)
        # A tuple: a dict would come out of jit with its keys sorted.
        self.columns = tuple(axes.values())
        # Traced once, however many programs are made of it.
        self.at = jax.jit(self._at, inline=True)

    def _at(self, point: Array, columns: tuple[Any, ...], batch: Any) -> Any:
        place = (point,) * len(columns) if self.paired else jnp.unravel_index(point, self.shape)
        coordinates = map(_pick, columns, place)
        arguments = dict(zip(self.axes, coordinates, strict=True))
        values = self.function(*(batch,) if self.data else (), **arguments)
        return _arrays(self.function, values, self.data)

    def trace(self, batch: Any) -> tuple[Any, Any]:
        """The function at one point as a jaxpr, and the shapes of what it returns."""
        return jax.make_jaxpr(self.at, return_shape=True)(jnp.zeros((), int), self.columns, batch)

    def leaves(self) -> list[Any]:
        return jax.tree.leaves(self.columns)

    def on_grid(self, values: Any) -> Any:
        return jax.tree.map(lambda x: jnp.asarray(x).reshape(*self.shape, *x.shape[1:]), values)


class _Batches:
    """The batches of the data; a single empty one where there are none."""

    def __init__(self, data: Iterable[Any] | None, again: bool):
        self.data: Iterable[Any] = [()] if data is None else data
        self.count = operator.length_hint(self.data) or None
        once = iter(self.data) is self.data
        if once and again:
            raise ValueError(
                "sweep: with out, data must be something that can be walked again, as a list, and "
                "not an iterator"
            )
        walk = iter(self.data)
        try:
            self.first = next(walk)
        except StopIteration:
            raise ValueError("sweep: data has no batches") from None
        if once:
            self.data = itertools.chain([self.first], walk)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.data)


def _agreed_plan(
    task: Task,
    batch: Any,
    folder: "_store.Folder | None",
    batch_size: int | None,
    memory_limit: int | None,
) -> tuple[Plan, Program]:
    """How points are grouped: as the folder has it, or as the first process finds best."""
    plan, program = Plan(0, 0), None
    if jax.process_index() == 0:
        plan = folder.plan(Plan) if folder else None
        if plan is None:
            plan, program = _plan.choose(task, batch, batch_size, memory_limit)
        if folder:  # before the others, who may be done with a block at once, go on
            folder.open(plan, task.shapes, task.size)
    plan = Plan(*map(int, _devices.as_the_first_says(plan)))
    if folder:
        folder.open(plan, task.shapes, task.size)
    return plan, program or Program(task, plan.batch, plan.rounds(len(task.devices)))


# Evaluation --------------------------------------------------------------------------------------


def _in_batches(at: Callable[..., Any], size: int, places: Array, columns: Any, batch: Any) -> Any:
    together = jax.vmap(at, in_axes=(0, None, None))
    values = lax.map(lambda some: together(some, columns, batch), places.reshape(-1, size))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), values)


def _transformed(points: _Points, batches: _Batches, size: int) -> Any:
    """All values within a program that is being traced, where nothing can be measured or kept."""
    size = min(size, points.size)
    places = jnp.minimum(jnp.arange(-(-points.size // size) * size), points.size - 1)
    total, *rest = [
        _in_batches(points.at, size, places, points.columns, batch) for batch in batches
    ]
    for part in rest:
        total = jax.tree.map(jnp.add, total, part)
    return jax.tree.map(lambda leaf: leaf[: points.size], total)


def _all_blocks(
    program: Program,
    plan: Plan,
    batches: _Batches,
    folder: "_store.Folder | None",
    advance: Callable[[int], Any],
) -> Any:
    """The values at all points: the blocks of this process evaluated, the others fetched."""
    task, rounds = program.task, plan.rounds(len(program.task.devices))
    count = -(-task.size // plan.block)
    found = folder.done if folder else set()
    done = _devices.as_the_first_says([block in found for block in range(count)])
    todo = np.flatnonzero(np.logical_not(done)).tolist()
    mine = dict.fromkeys(todo[jax.process_index() :: jax.process_count()])
    values = jax.tree.map(lambda s: np.zeros((task.size, *s.shape), s.dtype), task.shapes)

    def part(block: int) -> slice:
        return slice(block * plan.block, min((block + 1) * plan.block, task.size))

    def turns() -> Iterator[tuple[int, Any]]:
        """The blocks on each batch; with a folder, all batches on a block before the next one."""
        if folder:
            for block in mine:
                for batch in batches:
                    yield block, program.put(batch)
        else:
            for batch in map(program.put, batches):
                for block in mine:
                    yield block, batch

    def add(block: int, started: Any, last: bool) -> None:
        here, found = part(block), program.fetch(started, rounds)
        for leaf, new in zip(*map(jax.tree.leaves, (values, found)), strict=True):
            leaf[here] += new[: here.stop - here.start].astype(leaf.dtype)
        advance(here.stop - here.start)
        if folder and last:
            folder.write(block, _picked(values, here))

    if folder:
        for block in found:
            advance(len(range(*part(block).indices(task.size))) * (batches.count or 1))
    ahead = None
    for block, batch in turns():  # the next one is dispatched before the last one is fetched
        started = block, program.start(block * plan.block, rounds, batch)
        if ahead:
            add(*ahead, last=block != ahead[0])
        ahead = started
    if ahead:
        add(*ahead, last=True)
    if folder:
        _devices.wait_for_all("sweep")
        for block in range(count):
            if block not in mine:
                _copy(folder.read_block(block), values, part(block))
        return values
    return values if jax.process_count() == 1 else _devices.exchanged(values)


def _picked(values: Any, at: slice) -> Any:
    return jax.tree.map(lambda leaf: leaf[at], values)


def _copy(found: Iterable[np.ndarray], values: Any, at: slice) -> None:
    for leaf, new in zip(jax.tree.leaves(values), found, strict=True):
        leaf[at] = new


@contextlib.contextmanager
def _bar(shown: bool, points: _Points, batches: _Batches) -> Iterator[Callable[[int], Any]]:
    """A progress bar over points, to be told of those that are done; or nothing."""
    if not shown:
        yield lambda done: None
        return
    total = points.size * batches.count if batches.count else None
    with optional("tqdm", "sweep").tqdm(total=total, unit="point") as bar:
        yield bar.update


def _folder(path: Path, points: _Points, batches: _Batches, traced: Any) -> _store.Folder:
    """The folder of finished blocks, which knows what must not change before it is resumed."""
    identity = {
        "function": _store.digest([_store.program_text(traced), *traced.consts]),
        "axes": _store.digest([*points.axes, points.columns]),
        "data": _store.digest(batches),
    }
    head = {"axes": list(points.axes.items()), "paired": points.paired}
    return _store.Folder(path, identity, head)


# Axes --------------------------------------------------------------------------------------------


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


def _shape(axes: Mapping[str, Any], paired: bool) -> tuple[int, ...]:
    lengths = tuple(map(_length, axes.values()))
    return lengths[:1] if paired else lengths


def _coordinates(axes: Mapping[str, Any], paired: bool, point: int) -> dict[str, Any]:
    place = (point,) * len(axes) if paired else np.unravel_index(point, _shape(axes, paired))
    return {
        name: _pick(axis, index) for (name, axis), index in zip(axes.items(), place, strict=True)
    }


def _pick(axis: Any, index: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], axis)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _is_average(node: Any) -> bool:
    return isinstance(node, Statistic)


# The function ------------------------------------------------------------------------------------


def _name(function: Callable) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _check_names(function: Callable, axes: Mapping[str, Any], first: tuple[Any, ...]) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # some builtins have none; they complain when they are called
        return
    try:
        signature.bind(*first, **axes)
    except TypeError as error:
        given = ", ".join([*("a batch of data" for _ in first), *axes])
        raise TypeError(
            f"sweep: the coordinates {given} do not fit {_name(function)}{signature}: {error}"
        ) from None


def _arrays(function: Callable, values: Any, data: bool) -> Any:
    leaves = jax.tree.leaves(values)
    wrong = [
        leaf for leaf in leaves if not isinstance(leaf, (Array, np.ndarray, np.number, float, int))
    ]
    if wrong or not leaves:
        kind = type(wrong[0]).__name__ if wrong else type(values).__name__
        raise TypeError(f"sweep: {_name(function)} must return arrays, not {kind}")
    nodes = jax.tree.leaves(values, is_leaf=_is_average)
    if data and not all(map(_is_average, nodes)):
        raise TypeError(
            f"sweep: with data, {_name(function)} must return jloss.average(...), which adds up "
            "over batches, and nothing else"
        )
    return jax.tree.map(jnp.asarray, values)
