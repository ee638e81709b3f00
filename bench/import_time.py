"""What ``import jloss`` costs over ``import jax``: at most 30 ms. Peer: ``import optax``.

Command: ``python bench/import_time.py``. Each import is timed in a fresh interpreter, after
``import jax``; the medians of interleaved runs are printed.
"""

import os
import statistics
import subprocess
import sys

RUNS, LIMIT_MS = 15, 30.0
TIMED = "import time, jax; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
OPTIONAL = {"chex", "matplotlib", "optax", "orbax", "pandas", "plotly", "sklearn", "tqdm"}
# An installed package comes with its bytecode, whatever this shell is set to.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def printed(program: str) -> str:
    """What a program prints in a fresh interpreter."""
    run = [sys.executable, "-c", program]
    return subprocess.run(run, capture_output=True, check=True, text=True, env=ENVIRONMENT).stdout


def main() -> int:
    times = {"jloss": [], "optax": []}
    for _ in range(RUNS + 1):
        for module, samples in times.items():
            samples.append(1e3 * float(printed(TIMED.format(module))))
    # The first run of each may have written the bytecode.
    cost, peer = (statistics.median(samples[1:]) for samples in times.values())
    loaded = {
        name.split(".")[0] for name in printed("import sys, jloss; print(*sys.modules)").split()
    }
    early = ", ".join(sorted(OPTIONAL & loaded))
    print(f"import jloss  {cost:6.1f} ms over import jax (limit {LIMIT_MS:.0f} ms)")
    print(f"import optax  {peer:6.1f} ms over import jax, {peer / cost:.1f} times as much")
    print(f"loaded before first use: {early or 'no optional library, no optax'}")
    return int(cost > LIMIT_MS or bool(early))


if __name__ == "__main__":
    sys.exit(main())
