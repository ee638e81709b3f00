"""How everything here is measured: compiled programs, interleaved runs, medians, temporaries."""

import ctypes
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

# Some benchmarks start processes, and would leave them nothing of an accelerator's memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
RUNS = 15


def _keep_freed_memory() -> None:
    """New pages take longer than most losses do, and whom they hit is chance."""
    libc = ctypes.CDLL(None)
    if sys.platform == "linux" and hasattr(libc, "mallopt"):
        # glibc's M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and M_ARENA_MAX.
        for setting, value in ((-3, 2**30), (-1, 2**31 - 1), (-8, 1)):
            libc.mallopt(setting, value)


# Before JAX starts threads, which each would have an arena of their own.
_keep_freed_memory()


class Program(NamedTuple):
    """A compiled program with what it took to compile it and what it stores on the way."""

    run: Callable[..., Any]
    compile_seconds: float
    temporaries: int  # bytes


def compiled(function: Callable[..., Any], arguments: Sequence[Any]) -> Program:
    """``function`` compiled for these arguments."""
    lowered = jax.jit(function).lower(*arguments)
    start = time.perf_counter()
    run = lowered.compile()
    seconds = time.perf_counter() - start
    return Program(run, seconds, run.memory_analysis().temp_size_in_bytes)


def from_nothing(function: Callable[..., Any], arguments: Sequence[Any]) -> float:
    """The seconds to trace and to compile, with nothing known from what was traced before."""
    jax.clear_caches()
    start = time.perf_counter()
    jax.jit(function).lower(*arguments).compile()
    return time.perf_counter() - start


def interleaved(
    runs: Sequence[Callable[[], Any]], times: int = RUNS, pause: float = 0.0
) -> list[float]:
    """The median seconds of each, taken in turns so that a busy moment hits all of them.

    With a pause in seconds, what ran before has given its memory back: of a gigabyte that takes
    70 ms, which the next one would be charged.
    """
    samples = [[] for _ in runs]
    for _ in range(times + 1):
        for run, seconds in zip(runs, samples, strict=True):
            time.sleep(pause)
            start = time.perf_counter()
            jax.block_until_ready(run())
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds[1:]) for seconds in samples]


def head(ours: str, peer: str) -> str:
    """The line above those of `compare`."""
    columns = f"{ours + ' ms':>10} {peer + ' ms':>10} {'ratio':>6} {'limit':>6}"
    return f"{'':45} {columns} {'temporaries MiB':>17} {'compile s':>13}"


def compare(
    name: str,
    ours: Callable[..., Any],
    peer: Callable[..., Any],
    arguments: Sequence[Any],
    *,
    at_least: float,
    times: int = RUNS,
    pause: float = 0.0,
) -> int:
    """Prints a line about ours against the peer; 1 if ours is not ``at_least`` times as fast."""
    programs = [compiled(function, arguments) for function in (ours, peer)]
    mine, theirs = interleaved([lambda p=p: p.run(*arguments) for p in programs], times, pause)
    ratio = theirs / mine
    memory = " / ".join(f"{program.temporaries / 2**20:.1f}" for program in programs)
    compiling = " / ".join(f"{program.compile_seconds:.2f}" for program in programs)
    print(
        f"{name:45} {1e3 * mine:10.2f} {1e3 * theirs:10.2f} {ratio:6.2f} "
        f"{f'{at_least:.2f}' if at_least else '-':>6} "
        f"{memory:>17} {compiling:>13}{'' if ratio >= at_least else '   MISSED'}"
    )
    return int(ratio < at_least)
