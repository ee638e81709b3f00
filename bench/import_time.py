"""What ``import jloss`` costs over ``import jax``: at most 30 ms. Peer: ``import optax``.

Command: ``python bench/import_time.py``. Each import is timed in a fresh interpreter, after
``import jax``; the medians of interleaved runs are printed.
"""

import statistics
import subprocess
import sys

RUNS, LIMIT_MS = 15, 30.0
TIMED = "import time, jax; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
OPTIONAL = {"chex", "matplotlib", "optax", "orbax", "pandas", "plotly", "sklearn", "tqdm"}


def milliseconds(module: str) -> float:
    """One import of ``module`` in a fresh interpreter that has imported jax."""
    run = [sys.executable, "-c", TIMED.format(module)]
    return 1e3 * float(subprocess.run(run, capture_output=True, check=True, text=True).stdout)


def loaded_early() -> set[str]:
    """The libraries that ``import jloss`` loads although it should not."""
    run = [sys.executable, "-c", "import sys, jloss; print(*sys.modules)"]
    names = subprocess.run(run, capture_output=True, check=True, text=True).stdout.split()
    return OPTIONAL & {name.split(".")[0] for name in names}


def main() -> int:
    times = {"jloss": [], "optax": []}
    for _ in range(RUNS):
        for module, samples in times.items():
            samples.append(milliseconds(module))
    cost, peer = (statistics.median(samples) for samples in times.values())
    early = loaded_early()
    print(f"import jloss  {cost:6.1f} ms over import jax (limit {LIMIT_MS:.0f} ms)")
    print(f"import optax  {peer:6.1f} ms over import jax, {peer / cost:.1f} times as much")
    print("loaded before first use:", ", ".join(sorted(early)) or "no optional library, no optax")
    return int(cost > LIMIT_MS or bool(early))


if __name__ == "__main__":
    sys.exit(main())
