"""Value and gradient of pair-wise ranking losses from sorted scores, against rax's on all pairs:
one list of 10,240 items with two grades, then longer lists and more grades.

Targets: at least 100 x as fast as `rax.pairwise_hinge_loss`, in at most 1 MiB of temporaries (rax:
900); a million items in under a second; twice the items in at most 2.5 x the time. What is not
reached is printed as MISSED.

Command: ``python -m bench.sorting``.
"""

import sys

import jax
import jax.numpy as jnp
import rax

import jloss
from bench import measure

SIZE, LONG = 10_240, 1_000_000
FASTER, MEBIBYTES, SECONDS, GROWTH = 100.0, 1.0, 1.0, 2.5
TIMES = 5


def items(size: int, grades: int) -> tuple[jax.Array, jax.Array]:
    one, two = jax.random.split(jax.random.key(0))
    labels = jax.random.randint(two, (size,), 0, grades).astype(jnp.float32)
    return jax.random.normal(one, (size,)), labels


def seconds(loss, size: int, grades: int) -> float:
    arguments = items(size, grades)
    program = measure.compiled(jax.value_and_grad(loss), arguments)
    return measure.interleaved([lambda: program.run(*arguments)], TIMES)[0]


def report(what: str, found: float, limit: float) -> int:
    print(f"{what:45} {found:10.3g}   <= {limit:<8.3g}{'MISSED' if found > limit else ''}")
    return int(found > limit)


def main() -> int:
    arguments = items(SIZE, 2)
    ours, peer = jloss.pairwise_hinge_loss, rax.pairwise_hinge_loss
    mine, theirs = jax.value_and_grad(ours), jax.value_and_grad(peer)
    print(measure.head("ours", "rax"))
    missed = measure.compare(
        "hinge", mine, theirs, arguments, at_least=FASTER, times=TIMES, pause=0.2
    )
    temporaries = measure.compiled(mine, arguments).temporaries / 2**20
    missed += report("hinge, MiB of temporaries", temporaries, MEBIBYTES)
    for name in ("pairwise_squared_hinge_loss", "pairwise_qr_loss", "pairwise_mse_loss"):
        print(f"{name:45} {1e3 * seconds(getattr(jloss, name), SIZE, 2):10.1f} ms")
    for grades in (5, SIZE):
        print(f"{f'hinge, {grades} grades':45} {1e3 * seconds(ours, SIZE, grades):10.1f} ms")
    half, whole = (seconds(ours, size, 2) for size in (LONG // 2, LONG))
    missed += report(f"hinge, {LONG} items, seconds", whole, SECONDS)
    return missed + report("hinge, growth when items double", whole / half, GROWTH)


if __name__ == "__main__":
    sys.exit(main())
