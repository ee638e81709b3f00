"""The command: what it prints and writes, and one line for whatever is wrong with its input."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

import jloss
from jloss import cli
from jloss import compare as experiment
from jloss.card import CARDS

pandas = pytest.importorskip("pandas")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


def frame(rows=60, **columns):
    made = {
        "a": np.linspace(0, 1, rows),
        "b": np.arange(rows) % 7,
        "y": np.arange(rows) % 3,
    } | columns
    return pandas.DataFrame(made)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A real run on a user's file, by the real command in a process of its own."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    group = np.arange(51) % 3
    features = group[:, None] * [1.0, -1.0] + rng.normal(size=(51, 2))
    names = np.array(["ash", "beech", "oak"])[group]
    table = pandas.DataFrame({"height": features[:, 0], "girth": features[:, 1], "tree": names})
    table.to_csv(folder / "trees.csv", index=False)
    command = (
        "compare trees.csv --target tree --epochs 3 --losses squared_error,softmax_cross_entropy"
    )
    command += " --out trees.html"
    return folder, subprocess.run(
        [sys.executable, "-m", "jloss", *command.split()],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_run_ends_well_and_writes_one_report(ran):
    folder, process = ran
    assert process.returncode == 0, process.stderr
    assert sorted(file.name for file in folder.iterdir()) == ["trees.csv", "trees.html"]
    assert (folder / "trees.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_run_prints_rule_table_note_and_verdict(ran):
    said = ran[1].stdout
    assert "trees.csv: 51 rows, 2 features; classification: 'tree' holds text (3 classes)" in said
    lines = said.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("loss "))
    assert re.split(r"\s{2,}", lines[start].strip())[:3] == ["loss", "train", "val."]
    rows = [line.split() for line in lines[start + 3 : start + 5]]
    assert [row[0] for row in rows] == ["squared_error", "softmax_cross_entropy"]
    assert all(1 <= int(row[5]) <= 3 for row in rows)
    assert "cannot be compared" in said and "\nTake " in said and "trees.html" in said


def test_a_run_shows_progress_on_stderr(ran):
    assert "squared_error" in ran[1].stderr
    assert "Traceback" not in ran[1].stderr and "Warning" not in ran[1].stderr


def test_without_tqdm_progress_is_a_line_for_each_loss(monkeypatch, capsys):
    hide(monkeypatch, "tqdm")
    with cli._progress(4) as progress:
        for loss in ("huber_loss", "log_cosh"):
            for epoch in (1, 2):
                progress(loss, epoch)
    assert capsys.readouterr().err == "fitting under huber_loss\nfitting under log_cosh\n"


# Bad input: a line that says what to do, exit code 2, nothing run and nothing written.


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("training began")

    monkeypatch.setattr(experiment, "fit", refuse)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of files that are wrong in one way each."""
    folder = tmp_path_factory.mktemp("files")
    tables = {
        "good": frame(),
        "text": frame(a=["1"] * 20 + ["tall"] + ["2"] * 39),
        "dates": frame(a=[f"2020-01-{1 + day % 28:02}" for day in range(60)]),
        "nan": frame(a=np.where(np.arange(60) % 20 == 4, np.nan, 1.0)),
        "nan_target": frame(y=[None, *range(59)]),
        "one_class": frame(y=["same"] * 60),
        "constant": frame(y=np.full(60, 2.5)),
        "rare": frame(y=["a"] * 57 + ["b"] * 3),
        "stray": frame(y=["1.5"] * 30 + ["2,5"] + ["3.5"] * 29),
        "few": frame(rows=12),
        "huge": frame(a=[1e300] * 60),
        "infinite": frame(a=[1.0] * 59 + [np.inf]),
        "alone": frame()[["y"]],
        "header": frame().head(0),
        "values": frame(y=np.linspace(0, 1, 60) ** 2),
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    (folder / "empty.csv").write_text("")
    (folder / "ragged.csv").write_text("a,y\n1,2\n1,2,3,4\n")
    (folder / "binary.csv").write_bytes(bytes(range(128, 256)) * 9)
    (folder / "quote.csv").write_text('a,y\n"1,2\n3,4\n')
    (folder / "false.parquet").write_text("not parquet at all")
    (folder / "notes.txt").write_text("hello")
    (folder / "folder.csv").mkdir()
    return folder


@pytest.fixture
def folder(files, monkeypatch, no_training):
    """That folder as the working directory. No test may leave anything in it."""
    monkeypatch.chdir(files)
    return files


BAD = [
    ("digit", "Did you mean 'digits'"),
    ("california_housing", "is a download"),
    ("nosuch.csv --target y", "no file 'nosuch.csv'"),
    ("folder.csv --target y", "is no file"),
    ("notes.txt --target y", "not a .csv or .parquet"),
    ("digits --target y", "leave it out"),
    ("good.csv", "--target COLUMN, one of 'a', 'b', 'y'"),
    ("good.csv --target z", "no column 'z'. Its columns: 'a', 'b', 'y'"),
    ("good.csv --target Y", "Did you mean 'y'"),
    ("text.csv --target y", "column 'a' is not numeric: 'tall' in row 21"),
    ("dates.csv --target y", "column 'a' is not numeric: '2020-01-01' in row 1"),
    ("nan.csv --target y", "in 'a' (3), the first in row 5"),
    ("nan_target.csv --target y", "in 'y' (1), the first in row 1"),
    ("one_class.csv --target y", "one class only, 'same'"),
    ("constant.csv --target y", "one class only, '2.5'"),
    ("rare.csv --target y", "class 'b' has 3 of 60 rows"),
    ("stray.csv --target y", "holds numbers, but '2,5' in row 31"),
    ("few.csv --target y", "12 rows; at least 50"),
    ("header.csv --target y", "0 rows; at least 50"),
    ("huge.csv --target y", "column 'a' holds 1e+300 in row 1"),
    ("infinite.csv --target y", "column 'a' holds inf in row 60"),
    ("alone.csv --target y", "no column but 'y'"),
    ("empty.csv --target y", "empty.csv is empty"),
    ("ragged.csv --target y", "cannot read ragged.csv"),
    ("binary.csv --target y", "cannot read binary.csv"),
    ("quote.csv --target y", "cannot read quote.csv"),
    ("false.parquet --target y", "cannot read false.parquet"),
    ("digits --losses softmax_cross_entropy,hinge", "no loss 'hinge'. Did you mean"),
    ("diabetes --losses hinge_loss,huber_loss", "hinge_loss is not for regression"),
    ("digits --losses squared_error", "at least two"),
    ("digits --losses ,", "no loss ''"),
    ("diabetes --outliers 1.5", "'1.5' is not a number from 0 to 1"),
    ("diabetes --outliers -0.1", "not a number from 0 to 1"),
    ("diabetes --outliers nan", "not a number from 0 to 1"),
    ("diabetes --outliers some", "'some' is not a number from 0 to 1"),
    ("digits --outliers 0.1", "this is a classification"),
    ("good.csv --target y --outliers 0.1", "this is a classification"),
    ("digits --epochs 0", "'0' is not a whole number of at least 2"),
    ("digits --epochs 2.5", "'2.5' is not a whole number"),
    ("digits --seed -1", "'-1' is not a whole number from 0"),
    ("digits --seed 99999999999", "is not a whole number from 0"),
    ("digits --out nowhere/report.html", "cannot write --out nowhere/report.html"),
    ("digits --out good.csv", "must end in .html"),
    ("digits --out good.csv/report.html", "cannot write"),
    ("digits --colour", "unrecognized arguments: --colour"),
    ("", "the following arguments are required: NAME_OR_PATH"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD)
def test_bad_input_gets_one_line_and_leaves_nothing(folder, capsys, arguments, said):
    before = sorted(folder.iterdir())
    assert cli.main(["compare", *arguments.split()]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("jloss: ") and complaint.count("\n") == 1
    assert said in complaint
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "said"), [([], "COMMAND"), (["fit"], "invalid choice: 'fit'")]
)
def test_a_command_that_is_none_gets_one_line(capsys, arguments, said):
    assert cli.main(arguments) == 2
    complaint = capsys.readouterr().err
    assert said in complaint and complaint.count("\n") == 1


def test_an_out_that_is_a_folder_is_refused(tmp_path, no_training, capsys):
    (tmp_path / "report.html").mkdir()
    assert cli.main(["compare", "digits", "--out", str(tmp_path / "report.html")]) == 2
    assert "report.html is a folder" in capsys.readouterr().err


def hide(monkeypatch, *libraries):
    """Makes libraries look as if they were not installed."""
    for name in [n for n in sys.modules if n.partition(".")[0] in libraries]:
        monkeypatch.delitem(sys.modules, name)

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in libraries:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])


@pytest.mark.parametrize(
    ("library", "arguments", "extra"),
    [
        ("sklearn", "digits", "jloss[data]"),
        ("pandas", "good.csv --target y", "jloss[data]"),
        ("matplotlib", "good.csv --target y", "jloss[plot]"),
    ],
)
def test_a_missing_library_is_one_line_that_names_the_extra(
    folder, capsys, monkeypatch, library, arguments, extra
):
    hide(monkeypatch, library)
    assert cli.main(["compare", *arguments.split()]) == 2
    complaint = capsys.readouterr().err
    assert library in complaint and extra in complaint and complaint.count("\n") == 1


def test_an_interruption_is_one_line(folder, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "compare", interrupt)
    before = sorted(folder.iterdir())
    assert cli.main(["compare", "good.csv", "--target", "y"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "jloss: interrupted; nothing was written"
    assert sorted(folder.iterdir()) == before


# The small commands


def test_losses_lists_every_card_within_a_hundred_columns(capsys):
    assert cli.main(["losses"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    listed = [line.split()[0] for line in lines if re.match(r"  \w", line)]
    assert sorted(listed) == sorted(CARDS)
    (huber,) = [line for line in lines if line.startswith("  huber_loss")]
    assert huber.split()[1] == "element" and "convex, Lipschitz, smooth" in huber


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_version_and_help_end_well(capsys, option):
    with pytest.raises(SystemExit) as ended:
        cli.main([option])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said == f"jloss {jloss.__version__}\n" if option == "--version" else "compare" in said


def test_the_version_needs_no_optional_library():
    code = (
        "import sys, jloss.cli\n"
        "try: jloss.cli.main(['--version'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'optax', 'sklearn', 'pandas', 'matplotlib', 'tqdm'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_leaves_early_is_no_error():
    code = "import sys; from jloss.cli import main; sys.exit(main(['losses']))"
    reading, writing = os.pipe()
    os.close(reading)  # so that the first line already meets a closed pipe
    said = subprocess.run(
        [sys.executable, "-u", "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert (said.returncode, said.stderr) == (0, "")


def test_losses_like_a_peers_says_what_it_is_called_here_and_what_differs(capsys):
    assert cli.main(["losses", "--like", "torch.nn.CrossEntropyLoss"]) == 0
    said = capsys.readouterr().out
    assert (
        "torch.nn.CrossEntropyLoss is jloss.softmax_cross_entropy(logits, labels, axis=-1" in said
    )
    assert "  axis       classes on axis 1 there, on the last here: axis=1\n" in said
    assert "reduce_fn=mean)" not in said and "<" not in said


def test_losses_like_nothing_gets_one_line(capsys):
    assert cli.main(["losses", "--like", "torch.nn.HuberLos"]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("jloss: --like: ") and complaint.count("\n") == 1
    assert "near: torch.nn.HuberLoss" in complaint
