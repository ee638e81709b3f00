"""The command ``jloss``: reads arguments, shows progress, prints. What is measured is elsewhere."""

import argparse
import contextlib
import inspect
import io
import os
import re
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import jax
import numpy as np

from jloss import __version__
from jloss._tables import BUILT_IN, InputError, library, load
from jloss.card import CARDS
from jloss.compare import EPOCHS, Comparison, check_outliers, choose, compare
from jloss.peers import PEERS, differences, like
from jloss.report import claims, summary, table_note, table_rows, verdict, write

BAD_INPUT, INTERRUPTED = 2, 130
WIDTH = 100


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} ({self.prog} --help shows what there is)")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, 2 for bad input, 130 when interrupted.

    Args:
      argv: the arguments; those of the process if not given.

    Returns:
      The exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks ± shows ? instead
            stream.reconfigure(errors="replace")
    try:
        arguments = _parser().parse_args(argv)
        arguments.typed = sys.argv[1:] if argv is None else argv
        arguments.run(arguments)
    except InputError as error:
        return _complain(str(error), BAD_INPUT)
    except BrokenPipeError:  # the reader, as in `jloss losses | head`, has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, where the last flush may go
    except KeyboardInterrupt as error:
        kept = getattr(error, "__notes__", ["nothing was written"])
        return _complain(f"interrupted; {kept[-1].removeprefix('sweep: ')}", INTERRUPTED)
    return 0


def _complain(message: str, code: int) -> int:
    print(f"jloss: {' '.join(message.split())}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="jloss", description="Losses for JAX, compared on your data.")
    parser.add_argument("--version", action="version", version=f"jloss {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True
    )
    _add_compare(commands)
    _add_landscape(commands)
    losses = commands.add_parser(
        "losses",
        help="list the catalogue, or what a loss of another library is called here",
        description=_losses.__doc__,
        epilog="example: jloss losses --like torch.nn.SmoothL1Loss",
    )
    losses.add_argument(
        "--like", metavar="NAME", help=f"a loss of {', '.join(PEERS)}: what it is called here"
    )
    losses.set_defaults(run=_losses)
    return parser


def _add_compare(commands: "argparse._SubParsersAction[_Parser]") -> None:
    compare = commands.add_parser(
        "compare",
        help="fit one small model under several losses and say which one to take",
        description="Fits the same small model to the same data under several losses, prints what "
        "came of each and which one to take, and writes a report that opens in any browser.",
        epilog="example: jloss compare diabetes --outliers 0.1",
    )
    compare.add_argument(
        "data",
        metavar="NAME_OR_PATH",
        help=f"{', '.join(BUILT_IN)}, or a .csv or .parquet file",
    )
    compare.add_argument("--target", metavar="COLUMN", help="the column to predict (files only)")
    compare.add_argument(
        "--outliers",
        metavar="SHARE",
        type=_number(float, "a number from 0 to 1", lambda x: 0 <= x <= 1),
        default=0.0,
        help="raise this share of the train and validation targets by 10 standard deviations "
        "(regression only)",
    )
    compare.add_argument("--losses", metavar="A,B,...", help="the losses to compare")
    compare.add_argument(
        "--epochs",
        metavar="N",
        type=_number(int, "a whole number of at least 2", lambda n: n >= 2),
        default=EPOCHS,
        help="passes over the training data (default: %(default)s)",
    )
    _add_seed_and_out(compare, "report.html")
    compare.set_defaults(run=_compare)


def _add_landscape(commands: "argparse._SubParsersAction[_Parser]") -> None:
    landscape = commands.add_parser(
        "landscape",
        help="draw the ground around your own params: your objective on a plane through them",
        description="Evaluates your objective on a random plane around the params of an orbax "
        "checkpoint, and writes a page with a map of it that opens in any browser.",
        epilog="example: jloss landscape train:objective --params checkpoint --batch train:batch",
    )
    landscape.add_argument(
        "objective",
        metavar="MODULE:OBJECTIVE",
        help="objective(params, batch), which returns jloss.average(...)",
    )
    landscape.add_argument(
        "--params",
        metavar="FOLDER",
        type=Path,
        required=True,
        help="an orbax checkpoint; of several steps, the last",
    )
    landscape.add_argument(
        "--part",
        metavar="NAME",
        help="where in the checkpoint the params are, as in state.params",
    )
    landscape.add_argument(
        "--like",
        metavar="MODULE:NAME",
        help="a pytree like the checkpoint, or a function that makes one, where the params are "
        "more than dictionaries of arrays",
    )
    data = landscape.add_mutually_exclusive_group(required=True)
    data.add_argument(
        "--batch", metavar="MODULE:NAME", help="the batch, or a function that makes it"
    )
    data.add_argument(
        "--data",
        metavar="MODULE:NAME",
        help="batches, or a function that makes them, over all of which is averaged",
    )
    landscape.add_argument(
        "--span",
        metavar="X",
        type=_number(float, "a positive number", lambda x: 0 < x < float("inf")),
        default=1.0,
        help="how far to go to both sides; 1 changes every filter by its own size "
        "(default: %(default)s)",
    )
    landscape.add_argument(
        "--resolution",
        metavar="N",
        type=_number(int, "an odd number of at least 3", lambda n: n >= 3 and n % 2 == 1),
        default=31,
        help="points along each direction; odd, so that the params are one (default: %(default)s)",
    )
    landscape.add_argument(
        "--resume",
        metavar="FOLDER",
        type=Path,
        help="keep what is done there, so that the same command goes on after a kill",
    )
    _add_seed_and_out(landscape, "landscape.html")
    landscape.set_defaults(run=_landscape)


def _add_seed_and_out(parser: _Parser, out: str) -> None:
    parser.add_argument(
        "--seed",
        metavar="N",
        type=_number(int, "a whole number from 0 to 2147483647", lambda n: 0 <= n < 2**31),
        default=0,
        help="of everything random (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        default=Path(out),
        help="where the report goes (default: %(default)s)",
    )


def _number(kind: type, wanted: str, fits: Callable[[float], bool]) -> Callable[[str], float]:
    """A type for argparse whose error says what is wanted."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not fits(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return parse


# jloss losses


def _losses(arguments: argparse.Namespace) -> None:
    """Lists every loss by family: what one value stands for, what is claimed of it, what it is."""
    if arguments.like is not None:
        _like(arguments.like)
        return
    width = max(map(len, CARDS))
    families = sorted({card.family for card in CARDS.values()})
    for family in families:
        print(f"{family} losses".ljust(width + 2) + "  value per  claims")
        for card in (card for card in CARDS.values() if card.family == family):
            head = f"  {card.name:{width}}  {card.values:9}  "
            claimed = textwrap.wrap(claims(card), WIDTH - len(head)) or [""]
            print((head + f"\n{' ' * len(head)}".join(claimed)).rstrip())
            print(textwrap.indent(textwrap.fill(summary(card), WIDTH - 6), " " * 6))
        print()


def _like(name: str) -> None:
    try:
        found = like(name)
    except LookupError as error:
        raise InputError(f"--like: {error.args[0]}") from error
    for one in found:
        given = one.given and f"({one.given})"
        print(f"{one.peer}{given} is jloss.{one.card.name}{_signature(one.card.loss)}")
        said = differences(one)
        width = max(map(len, said))
        for what, difference in said.items():
            print(f"  {what:{width}}  {difference}")


def _signature(loss: Callable[..., object]) -> str:
    """As it is typed: without types, and a function by its name."""
    signature = inspect.signature(loss)
    plain = [
        parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()
    ]
    text = str(signature.replace(parameters=plain, return_annotation=signature.empty))
    return re.sub(r"<function (\w+) at \w+>", r"\1", text)


# jloss compare


def _compare(arguments: argparse.Namespace) -> None:
    """Loads, compares, prints and writes the report."""
    _check_writable(arguments.out)
    table = load(arguments.data, arguments.target)
    names = arguments.losses and [name.strip() for name in arguments.losses.split(",")]
    losses = [loss.__name__ for loss in choose(table.task, names)]
    check_outliers(table, arguments.outliers)
    library("matplotlib.figure", "plot")  # asked for now, not when all is trained
    print(f"{table.name}: {len(table.targets)} rows, {len(table.columns)} features; {table.rule}")
    with _progress(len(losses) * arguments.epochs) as progress:
        comparison = compare(
            table,
            losses,
            outliers=arguments.outliers,
            epochs=arguments.epochs,
            seed=arguments.seed,
            progress=progress,
        )
    print(f"\n{_table(comparison)}\n")
    print(_said(comparison))
    write(comparison, arguments.out)
    print(f"\nCurves, shapes of the losses and their surfaces: {arguments.out}")


def _check_writable(out: Path) -> None:
    """Refuses before anything is trained what could not be written after it."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out {out} must end in .html")
    if out.is_dir():
        raise InputError(f"--out {out} is a folder: name a file in it")
    try:
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise InputError(f"cannot write --out {out}: {error.strerror}") from error


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[str, int], None]]:
    """A function that shows how far the fits are: a bar, or a line per loss without tqdm."""
    if not _has_tqdm():
        yield _announce
        return
    with library("tqdm", "train").tqdm(
        total=total, unit="epoch", file=sys.stderr, leave=False
    ) as bar:

        def show(loss: str, epoch: int) -> None:
            bar.set_description(loss, refresh=False)
            bar.update()

        yield show


def _announce(loss: str, epoch: int) -> None:
    if epoch == 1:
        print(f"fitting under {loss}", file=sys.stderr)


def _table(comparison: Comparison) -> str:
    """The table as text: names to the left, numbers to the right."""
    head, *rows = table_rows(comparison)
    first, second = zip(*((name.partition(" ")[::2]) for name in head), strict=True)
    rows = [list(first), list(second), *rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]).rstrip()
        for name, *cells in rows
    ]
    return "\n".join([*lines[:2], "-" * max(map(len, lines)), *lines[2:]])


def _said(comparison: Comparison) -> str:
    """The notes on the table and the verdict, as paragraphs."""
    said = verdict(comparison)
    lines = [table_note(comparison), "", said.headline, *said.reasons]
    return "\n".join(textwrap.fill(line, WIDTH) for line in lines)


# jloss landscape


def _landscape(arguments: argparse.Namespace) -> None:
    """Loads, sweeps, prints and writes the page."""
    _check_writable(arguments.out)
    library("matplotlib.figure", "plot")  # asked for now, not when all is done
    library("plotly.graph_objects", "plot")
    from jloss import _user, landscape
    from jloss.report import landscape as report

    objective = _user.named("OBJECTIVE", arguments.objective)
    like = arguments.like and _user.made("--like", arguments.like)
    params = _user.params(arguments.params, like, arguments.part)
    if arguments.data:
        batch, data = None, _user.Batches("--data", arguments.data)
        first = next(iter(data), None)
    else:
        batch = first = _user.made("--batch", arguments.batch)
        data = None
    if first is None:
        raise InputError(f"--data: {arguments.data} has no batches")
    _user.try_out(arguments.objective, objective, params, first)
    try:
        with warnings.catch_warnings(record=True) as remarks:
            plane = landscape.plane(
                objective,
                params,
                batch,
                data=data,
                key=jax.random.key(arguments.seed),
                span=arguments.span,
                resolution=arguments.resolution,
                out=arguments.resume,
                progress=_has_tqdm(),
            )
    except (TypeError, ValueError, OSError) as error:
        raise InputError(str(error)) from error
    for remark in remarks:
        print(remark.message, file=sys.stderr)
    survey = report.Survey(
        plane,
        arguments.objective,
        arguments.params,
        f"the batches of {arguments.data}" if data else f"the batch {arguments.batch}",
        sum(np.size(leaf) for leaf in jax.tree.leaves(params)),
        arguments.seed,
        ("jloss", *arguments.typed),
    )
    print("\n".join(survey.said()))
    report.write(survey, arguments.out)
    print(f"\nThe map, and the same to turn: {arguments.out}")


def _has_tqdm() -> bool:
    try:
        library("tqdm", "sweep")
    except InputError:
        return False
    return True
