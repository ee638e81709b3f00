"""Runs every benchmark and writes what it printed to ``bench/RESULTS.md``, under the machine's
ceilings.

Command: ``python -m bench``, or ``python -m bench ceilings sweep`` for some of them, which then
only prints. It exits with the number of limits that were missed.
"""

import ast
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent
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
    return f"## {name}\n\n{said}\n\n```text\n{text.rstrip()}\n```\n"


def main(names: list[str]) -> int:
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    sections, missed = [], 0
    for name in names or NAMES:
        print(f"\n{name}", flush=True)
        text, code = run(name)
        missed += code
        sections.append(section(name, text))
        if not names:  # each time, for a whole run takes long
            head = f"# Results\n\nWritten by `python -m bench` on {time.strftime('%Y-%m-%d')}.\n"
            (FOLDER / "RESULTS.md").write_text("\n".join([head, *sections]))
    print(f"\n{missed} limits missed")
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
