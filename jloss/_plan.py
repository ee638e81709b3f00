"""How many points a sweep takes at a time: compiled, looked at for memory, and timed."""

import math
from typing import Any, NamedTuple

import jax

from jloss._program import MOST, Program, Task

SECONDS = 0.5  # that a block is to take: what an interrupt or a kill may cost
MANY = 1024  # points at a time that are tried, beside one at a time
HOST_MANY = 64  # the same for a processor, whose loops cost little
HOST_MEMORY = 2**24  # what a processor's caches still help with, in bytes
# A second program is compiled where the points take so many times as long as compiling the first.
WORTH = 4
CLEARLY = 0.9  # of the time of one at a time: what a busy moment may feign is not worth memory


class Plan(NamedTuple):
    """How points are grouped.

    Attributes:
      batch: points that a device takes together.
      block: points that are dispatched together, to all devices.
    """

    batch: int
    block: int

    def rounds(self, devices: int) -> int:
        """How often each device takes points until a block is done."""
        return -(-self.block // (self.batch * devices))


def choose(
    task: Task, data: Any, batch_size: int | None, memory_limit: int | None
) -> tuple[Plan, Program]:
    """Measures which number of points at a time is fastest, among those that fit into memory.

    Args:
      task: what is to be done.
      data: the first batch of data.
      batch_size: points at a time on each device, if not to be chosen here.
      memory_limit: bytes that each device may use, if not what `sweep` says.

    Returns:
      The `Plan`, and the program that follows it.

    Raises:
      ValueError: a single point needs more than the limit.
    """
    platform, share = task.devices[0].platform, task.share
    limit = memory_limit or _free_memory(task.devices[0])
    # Values wait in a quarter of the memory to be fetched.
    each = sum(math.prod(s.shape) * s.dtype.itemsize for s in jax.tree.leaves(task.shapes))
    waiting = max(1, min(MOST, limit // 4 // max(each, 1)))

    def program(batch: int) -> Program:
        return Program(task, batch, max(1, min(-(-share // batch), waiting // batch)))

    def plan(chosen: Program, rounds: int) -> tuple[Plan, Program]:
        rounds = max(1, min(rounds, chosen.rounds))
        return Plan(chosen.batch, chosen.batch * rounds * len(task.devices)), chosen

    if batch_size is not None:
        chosen = program(min(batch_size, share))
        return plan(chosen, MANY // chosen.batch)
    best = few = program(1)
    data = few.put(data)
    needed, kept = few.memory(data)
    if memory_limit is not None and needed + kept > memory_limit:
        raise ValueError(
            f"sweep: a single point needs {needed + kept} bytes, more than "
            f"memory_limit={memory_limit}"
        )
    seconds = few.seconds(data, SECONDS)  # whole fits take longer, and need no warming up
    most = HOST_MANY if platform == "cpu" else MANY
    # A trial is not to take longer than an eighth of the whole.
    count = min(most, share, max(8, share // 8), max(1, (limit - kept) // max(needed, 1)))
    pays = count > 1 and share * seconds > WORTH * few.compile_seconds
    # XLA's processor backend turns a batch of kernels into a grouped convolution, which is slow.
    if pays and not (platform == "cpu" and few.convolves(data)):
        many = program(count)
        while sum(many.memory(data)) > limit and many.batch > 1:
            many = program(many.batch // 2)
        together = many.seconds(data, seconds * many.batch)
        if together / many.batch < CLEARLY * seconds:
            best, seconds = many, together
    return plan(best, int(SECONDS / seconds))


def _free_memory(device: Any) -> int:
    stats = device.memory_stats() or {}
    if device.platform == "cpu" or "bytes_limit" not in stats:
        return HOST_MEMORY
    return (stats["bytes_limit"] - stats.get("bytes_in_use", 0)) // 2
