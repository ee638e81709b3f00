"""How many points a sweep takes at a time: compiled, looked at for memory, and timed."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jloss import _devices

SECONDS = 0.5  # that a block is to take: what an interrupt or a kill may cost
FEW, MANY = 1, 1024  # points at a time that are tried
HOST_MEMORY = 2**26  # what a processor's caches still help with, in bytes


class Plan(NamedTuple):
    """How points are grouped.

    Attributes:
      batch: points that a device takes together.
      block: points that are dispatched together, to all devices.
    """

    batch: int
    block: int


def choose(
    at: Callable[..., Any],
    size: int,
    shared: tuple[Any, ...],
    devices: list[Any],
    batch_size: int | None,
    memory_limit: int | None,
) -> Plan:
    """Measures which number of points at a time is fastest, among those that fit into memory.

    Args:
      at: ``at(number, *shared)``, the values at a point.
      size: the number of points.
      shared: what all points take.
      devices: over which the points are shared out; they are taken to be alike.
      batch_size: points at a time on each, if not to be chosen here.
      memory_limit: bytes that each may use, if not what `sweep` says.

    Returns:
      The `Plan`.

    Raises:
      ValueError: a single point needs more than the limit.
    """
    share = -(-size // len(devices))
    limit = memory_limit or _free_memory(devices[0])
    if batch_size is not None:
        chosen = min(batch_size, share)
        return Plan(chosen, _blocks(chosen, share, None) * len(devices))
    few = _Candidate(at, shared, min(FEW, share))
    if few.memory > limit:
        raise ValueError(
            f"sweep: a single point needs {few.memory} bytes, more than memory_limit={limit}"
        )
    many = min(share, MANY, max(1, limit // max(few.memory, 1)))
    candidates = [few]
    # XLA's processor backend turns a batch of kernels into a grouped convolution, which is slow.
    if many > few.points and not (devices[0].platform == "cpu" and few.convolves):
        other = _Candidate(at, shared, many)
        while other.memory > limit and other.points > 1:
            other = _Candidate(at, shared, other.points // 2)
        candidates.append(other)
    best = min(candidates, key=lambda candidate: candidate.seconds / candidate.points)
    chunks = max(1, int(SECONDS / best.seconds)) if len(candidates) > 1 or share > 1 else 1
    return Plan(best.points, _blocks(best.points, share, chunks) * len(devices))


def _blocks(batch: int, share: int, chunks: int | None) -> int:
    """The points of a block on one device: whole batches, and not many more than there are."""
    most = -(-share // batch)
    return batch * min(most, chunks or max(1, MANY // batch))


def _free_memory(device: Any) -> int:
    stats = device.memory_stats() or {}
    if device.platform == "cpu" or "bytes_limit" not in stats:
        return HOST_MEMORY
    return (stats["bytes_limit"] - stats.get("bytes_in_use", 0)) // 2


class _Candidate:
    """A number of points at a time, compiled: what it needs and how long it takes."""

    def __init__(self, at: Callable[..., Any], shared: tuple[Any, ...], count: int):
        self.points = count
        self._arguments = (jnp.arange(count), *shared)
        together = jax.vmap(at, in_axes=(0, *(None,) * len(shared)))
        options = _devices.compiler_options(jax.default_backend())
        lowered = jax.jit(together, compiler_options=options).lower(*self._arguments)
        self.convolves = "convolution" in lowered.as_text()
        self._run = lowered.compile()
        analysis: Any = self._run.memory_analysis()
        self.memory = analysis.temp_size_in_bytes + analysis.output_size_in_bytes

    @property
    def seconds(self) -> float:
        """The shortest of a few runs."""
        found = []
        while len(found) < 2 or (sum(found) < 0.05 and len(found) < 10):
            start = time.perf_counter()
            jax.block_until_ready(self._run(*self._arguments))
            found.append(time.perf_counter() - start)
            if found[0] > SECONDS:  # as whole fits take: warming up is nothing beside that
                return found[0]
        return min(found[1:])
