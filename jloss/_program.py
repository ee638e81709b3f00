"""The compiled program of a sweep: some points at a time, round after round, on all devices."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jloss import _devices

MOST = 2**16  # points whose values a device keeps before they are fetched


class Task(NamedTuple):
    """What is to be done, whatever the number of points at a time.

    Attributes:
      at: ``at(point, columns, data)``, the values at the point of that number.
      size: the number of points.
      columns: the coordinates, which all points share.
      shapes: of the values at a point.
      devices: over which the points are shared out; they are taken to be alike.
    """

    at: Callable[..., Any]
    size: int
    columns: Any
    shapes: Any
    devices: list[Any]

    @property
    def share(self) -> int:
        """The points of a device."""
        return -(-self.size // len(self.devices))


class Program:
    """A task with ``batch`` points at a time, compiled once for each shape of data.

    The number of rounds is an argument, so that what is timed to plan a sweep does the sweep.
    """

    def __init__(self, task: Task, batch: int, rounds: int):
        """Room for the values of so many rounds is taken on each device."""
        self.task, self.batch, self.rounds = task, batch, rounds
        mesh = Mesh(np.asarray(task.devices), ("points",))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._shared_out = NamedSharding(mesh, PartitionSpec("points"))
        self._columns = jax.device_put(task.columns, self._everywhere)
        run = self._rounds
        if len(task.devices) > 1:
            run = jax.shard_map(
                run,
                mesh=mesh,
                in_specs=(PartitionSpec("points"), *(PartitionSpec(),) * 3),
                out_specs=PartitionSpec("points"),
                check_vma=False,
            )
        # One point is what the function is by itself, which needs no guard.
        options = _devices.compiler_options(task.devices[0].platform) if batch > 1 else None
        self._run = jax.jit(run, compiler_options=options)
        self._compiled: dict[Any, Any] = {}
        self.compile_seconds = 0.0

    def _rounds(self, starts: Array, rounds: Array, columns: Any, data: Any) -> Any:
        """The values from a point on, by one device, which takes every so many-th batch.

        Neighbours take alike long, as fits of one learning rate do: shared out in turns, no device
        is left with all that are slow.
        """
        task, batch = self.task, self.batch

        def several(number: Array, values: Any) -> Any:
            first = starts[0] + number * batch * len(task.devices)
            # The last points of all stand for those that a last round lacks.
            points = jnp.minimum(first + jnp.arange(batch), task.size - 1)
            if batch == 1:  # as it is: `vmap` would do both branches of a condition
                found = jax.tree.map(lambda x: x[None], task.at(points[0], columns, data))
            else:
                found = jax.vmap(task.at, in_axes=(0, None, None))(points, columns, data)
            return jax.tree.map(
                lambda whole, part: lax.dynamic_update_slice_in_dim(
                    whole, part, number * batch, axis=0
                ),
                values,
                found,
            )

        nothing = jax.tree.map(
            lambda s: jnp.zeros((self.rounds * batch, *s.shape), s.dtype), task.shapes
        )
        return lax.fori_loop(0, rounds, several, nothing)

    def put(self, data: Any) -> Any:
        """The data on all devices."""
        return jax.device_put(data, self._everywhere)

    def compiled(self, data: Any) -> Any:
        """The program for data of these shapes."""
        leaves, structure = jax.tree.flatten(data)
        kind = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if kind not in self._compiled:
            start = time.perf_counter()
            self._compiled[kind] = self._run.lower(*self._arguments(0, 1, data)).compile()
            self.compile_seconds = time.perf_counter() - start
        return self._compiled[kind]

    def start(self, first: int, rounds: int, data: Any) -> Any:
        """Dispatches the points from one on, so many rounds on each device."""
        return self.compiled(data)(*self._arguments(first, rounds, data))

    def fetch(self, started: Any, rounds: int) -> Any:
        """What was dispatched, in the order of the points."""

        def joined(leaf: Array) -> np.ndarray:
            inner = leaf.shape[1:]
            parts = np.asarray(leaf).reshape(len(self.task.devices), -1, self.batch, *inner)
            return parts[:, :rounds].swapaxes(0, 1).reshape(-1, *inner)

        return jax.tree.map(joined, started)

    def memory(self, data: Any) -> tuple[int, int]:
        """The bytes that it takes on a device: for a round, and for the values that wait."""
        analysis = self.compiled(data).memory_analysis()
        return analysis.temp_size_in_bytes, analysis.output_size_in_bytes

    def convolves(self, data: Any) -> bool:
        """Whether it holds a convolution."""
        return "convolution" in self._run.lower(*self._arguments(0, 1, data)).as_text()

    def seconds(self, data: Any, at_most: float) -> float:
        """How long a round takes, the shortest of several; of a single one if that takes longer."""
        once = self._timed(1, data)
        if once > at_most:
            return once
        once = self._timed(1, data)
        rounds = max(1, min(self.rounds, int(0.02 / once)))
        return min(
            once,
            *(self._timed(rounds, data) / rounds for _ in range(2 if rounds > 1 else 0)),
            at_most,
        )

    def _timed(self, rounds: int, data: Any) -> float:
        start = time.perf_counter()
        jax.block_until_ready(self.start(0, rounds, data))
        return time.perf_counter() - start

    def _arguments(self, first: int, rounds: int, data: Any) -> tuple[Any, ...]:
        starts = first + self.batch * np.arange(len(self.task.devices))
        starts = jax.device_put(starts.astype(np.int32), self._shared_out)
        return starts, jax.device_put(np.int32(rounds), self._everywhere), self._columns, data
