"""Runs every benchmark and writes what it printed to ``bench/RESULTS.md``, under the machine's
ceilings; on an accelerator to a file named for it, such as ``bench/RESULTS_gpu.md``. The limits are
those of a processor of two cores.

Command: ``python -m bench``, or ``python -m bench ceilings sweep`` for some of them, of which then
only the parts are written anew. It exits with the number of limits that were missed.
"""

import ast
import platform
import subprocess
import sys
import time
from pathlib import Path

import jax

from bench import measure  # noqa: F401, for what it sets

FOLDER = Path(__file__).parent
PLATFORM = jax.default_backend()
RESULTS = FOLDER / ("RESULTS.md" if PLATFORM == "cpu" else f"RESULTS_{PLATFORM}.md")
NAMES = sorted(
    (path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__main__", "measure")),
    key=lambda name: (name != "ceilings", name),
)


def run(name: str) -> tuple[str, int]:
    """What a benchmark prints, shown while it runs, and its exit code; in a process of its own."""
    command = [sys.executable, "-u", "-m", f"bench.{name}"]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    return "".join(lines), process.returncode


def section(name: str, text: str) -> str:
    said = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text()))
    when = f"Measured on {time.strftime('%Y-%m-%d')}, {processor()}."
    return f"{said}\n\n{when}\n\n```text\n{text.rstrip()}\n```\n"


def processor() -> str:
    """Parts are measured anew one by one, and not always on the same machine."""
    if PLATFORM != "cpu":
        return jax.devices()[0].device_kind
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def sections() -> dict[str, str]:
    """What was written before, by the names of the benchmarks."""
    if not RESULTS.exists():
        return {}
    parts = RESULTS.read_text().split("\n## ")[1:]
    return {name: text.lstrip() for name, _, text in (part.partition("\n") for part in parts)}


def main(names: list[str]) -> int:
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    missed = 0
    for name in names or NAMES:
        print(f"\n{name}", flush=True)
        text, code = run(name)
        missed += code
        # Each time, for a whole run takes long.
        found = sections() | {name: section(name, text)}
        parts = [f"## {name}\n\n{found[name]}" for name in NAMES if name in found]
        RESULTS.write_text("\n".join(["# Results\n\nWritten by `python -m bench`.\n", *parts]))
    print(f"\n{missed} limits missed")
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
