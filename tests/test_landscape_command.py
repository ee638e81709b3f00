"""`jloss landscape` on a user's own module and a real orbax checkpoint."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jloss
from jloss import _store, cli

orbax = pytest.importorskip("orbax.checkpoint")
pytest.importorskip("matplotlib")
pytest.importorskip("plotly")

MODULE = """
import jax, jax.numpy as jnp, numpy as np, jloss

def apply(params, inputs):
    return jnp.tanh(inputs @ params["hidden"]) @ params["out"]

objective = jloss.objective(apply, jloss.squared_error)
inputs = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
batch = inputs, inputs[:, :2]
broken = lambda params, batch: params["nothing"]
array = lambda params, batch: jnp.ones(3)
number = 3

def looped(params, batch):
    "It has values and no gradient."
    once = jnp.sum(params["out"] ** 2)
    return jloss.average(jax.lax.while_loop(lambda x: x < 1, lambda x: 2 * x, once))

def batches():
    yield inputs[:9], inputs[:9, :2]
    yield inputs[9:], inputs[9:, :2]

def no_batches():
    return []

def state():
    return {"params": {"hidden": np.zeros((3, 4), "f"), "out": np.zeros((4, 2), "f")}, "step": 0}

def fails():
    raise RuntimeError("on purpose")
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    (folder / "ground.py").write_text(MODULE)
    (folder / "unripe.py").write_text("import nothing_of_that_name")
    draw = np.random.default_rng(1).normal
    params = {"hidden": draw(size=(3, 4)).astype("f"), "out": draw(size=(4, 2)).astype("f")}
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "params", params)
        # As orbax's manager does: a folder for each step, in it one for each item.
        state = {"params": jax.tree.map(jnp.asarray, params), "step": 7}
        checkpointer.save(folder / "steps" / "9" / "default", jax.tree.map(np.zeros_like, state))
        checkpointer.save(folder / "steps" / "10" / "default", state)
    (folder / "empty").mkdir()
    return folder, params


@pytest.fixture
def here(files, monkeypatch):
    monkeypatch.chdir(files[0])
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield files
    for name in ("ground", "unripe"):
        sys.modules.pop(name, None)


def landscape(arguments):
    return cli.main(["landscape", *arguments.split()])


COMMAND = "ground:objective --params params --batch ground:batch --resolution 5 --span 0.5"


def test_a_page_shows_the_plane_that_the_library_computes(here, tmp_path, capsys):
    _, params = here
    out = tmp_path / "page.html"
    assert landscape(f"{COMMAND} --seed 3 --out {out} --resume {tmp_path / 'kept'}") == 0
    said = capsys.readouterr().out
    import ground

    key = jax.random.key(3)
    plane = jloss.landscape.plane(
        ground.objective, params, ground.batch, key=key, span=0.5, resolution=5
    )
    centre = float(plane.values[2, 2])
    assert float(re.search(r"is (\S+) at the params", said)[1]) == pytest.approx(centre, rel=1e-5)
    lowest = re.search(r"lowest of the 25 points is (\S+), at a = (\S+), b = (\S+);", said)
    place = np.unravel_index(np.argmin(plane.values), (5, 5))
    found = [float(number) for number in lowest.groups()]
    np.testing.assert_allclose(
        found, [plane.values.min(), plane.a[place[0]], plane.b[place[1]]], rtol=1e-4
    )
    bends = re.search(
        r"curvature at the params is (\S+) to (\S+) in this plane, and (\S+) in", said
    )
    operator = jloss.curvature.hessian(ground.objective, params, [ground.batch])
    matrix = np.asarray(operator.dense(), np.float64)
    basis = np.linalg.qr(np.stack([operator.ravel(d) for d in plane.directions]).T)[0]
    within = np.linalg.eigvalsh(basis.T @ matrix @ basis)
    largest = np.linalg.eigvalsh(matrix)[-1]
    np.testing.assert_allclose([float(x) for x in bends.groups()], [*within, largest], rtol=1e-2)
    page = out.read_text(encoding="utf-8")
    assert "in the steepest direction of all" in page
    assert "<svg" in page and "Plotly.newPlot" in page and "20 parameters" in page
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)
    assert f"jloss landscape {COMMAND}" in page


def test_without_derivatives_there_is_a_page_and_a_remark(here, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert landscape(f"{COMMAND} --out {out}".replace("objective", "looped")) == 0
    assert "plane: the steepest direction is not known: Reverse-mode" in capsys.readouterr().err
    assert "Steeper directions may be missing" in out.read_text(encoding="utf-8")


def test_it_goes_on_from_what_is_kept(here, tmp_path, capsys, monkeypatch):
    arguments = f"{COMMAND} --out {tmp_path / 'page.html'} --resume {tmp_path / 'kept'}"
    write = _store.Folder.write

    def interrupted(self, block, values):
        write(self, block, values)
        raise KeyboardInterrupt

    monkeypatch.setattr(_store.Folder, "write", interrupted)
    assert landscape(arguments) == 130
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"jloss: interrupted; 1 finished blocks are kept in out=.*kept", complaint)
    assert not (tmp_path / "page.html").exists()

    def never(self, block, values):
        raise AssertionError("a finished block was done again")

    monkeypatch.setattr(_store.Folder, "write", never)
    assert landscape(arguments) == 0
    assert (tmp_path / "page.html").exists()
    capsys.readouterr()
    assert landscape(arguments.replace("0.5", "0.7")) == 2
    assert "holds a sweep of another axes" in capsys.readouterr().err


@pytest.mark.parametrize("like", ["", " --like ground:state"])
def test_a_part_of_the_last_step_and_batches_from_a_function_give_the_same(
    here, tmp_path, capsys, like
):
    command = COMMAND.replace("params params", "params steps --part params" + like)
    command = command.replace("--batch ground:batch", "--data ground:batches")
    assert landscape(f"{command} --out {tmp_path / 'page.html'} --resume {tmp_path / 'kept'}") == 0
    said = capsys.readouterr().out.splitlines()[0]
    import ground

    inputs, targets = ground.batch
    outputs = np.tanh(inputs @ here[1]["hidden"]) @ here[1]["out"]
    found = float(re.search(r"is (\S+) at", said)[1])
    assert found == pytest.approx(np.mean((outputs - targets) ** 2), rel=1e-5)


BAD = [
    ("ground", "'ground' must be module:name"),
    ("grounds:objective", "there is no module 'grounds' here"),
    ("unripe:objective", "importing unripe failed: ModuleNotFoundError"),
    ("ground:objectiv", "ground has no 'objectiv'. Did you mean 'objective'?"),
    ("ground:number", "ground:number is no function, but int"),
    ("ground:broken", "ground:broken fails on the params"),
    ("ground:array", "ground:array fails on the params"),
    ("ground:objective --params nowhere", "there is no folder 'nowhere'"),
    ("ground:objective --params empty", "empty holds no orbax checkpoint"),
    ("ground:objective --params steps --part weights", "has no 'weights'; there is params, step"),
    ("ground:objective --batch ground:fails", "calling ground:fails failed: RuntimeError: on"),
    ("ground:objective --batch ground:number", "ground:objective fails on the params"),
    ("ground:objective --data ground:number", "ground:number is no iterable of batches"),
    ("ground:objective --data ground:no_batches", "ground:no_batches has no batches"),
    ("ground:objective --data ground:batches --batch ground:batch", "not allowed with"),
    ("ground:objective --resolution 4", "'4' is not an odd number of at least 3"),
    ("ground:objective --span 0", "'0' is not a positive number"),
    ("ground:objective --out page.pdf", "must end in .html"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD)
def test_bad_input_gets_one_line_and_leaves_nothing(here, capsys, arguments, said):
    before = sorted(p for p in here[0].iterdir() if p.name != "__pycache__")
    if "--params" not in arguments:
        arguments += " --params params"
    if "--batch" not in arguments and "--data" not in arguments:
        arguments += " --batch ground:batch"
    assert landscape(arguments) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("jloss: ") and complaint.count("\n") == 1
    assert said in complaint
    assert sorted(p for p in here[0].iterdir() if p.name != "__pycache__") == before
