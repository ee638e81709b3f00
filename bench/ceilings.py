"""What this machine can do at most: no program is faster than its slowest resource allows.

Each is measured alone, compiled by XLA; everything else here shares them.

Command: ``python -m bench.ceilings``.
"""

import os
import platform
import sys

import jax
import jax.numpy as jnp

from bench import measure

SIDE, LENGTH = 2048, 2**26


def main() -> int:
    matrix = jax.random.normal(jax.random.key(0), (SIDE, SIDE))
    vector = jax.random.normal(jax.random.key(1), (LENGTH,))
    product = measure.compiled(lambda a: a @ a, [matrix]).run
    add = measure.compiled(lambda x: x + 1.0, [vector]).run
    exp = measure.compiled(jnp.exp, [vector]).run
    seconds = measure.interleaved(
        [lambda: product(matrix), lambda: add(vector), lambda: exp(vector)]
    )
    print(f"{os.cpu_count()} cores ({platform.machine()}), {jax.devices()[0].device_kind}")
    print(f"Python {platform.python_version()}, jax {jax.__version__}")
    print(f"matrix product   {2 * SIDE**3 / seconds[0] / 1e9:8.0f} GFLOP/s")
    print(f"read and write   {2 * vector.nbytes / seconds[1] / 1e9:8.1f} GB/s")
    print(f"exponentials     {LENGTH / seconds[2] / 1e9:8.2f} G/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
