"""Sweeps in folders: killed and resumed, shared by processes, refused when something changed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jloss
from jloss import _plan, _store
from jloss.sweep import Sweep, sweep

AXES = {"b": jnp.linspace(-1.0, 2.0, 7), "a": jnp.array([0.5, 3.0, -1.0])}


def asymmetric(b, a):
    return {"cube": b**3 - 2 * a, "pair": jnp.stack([a, b])}


def fit(folder):
    square = lambda params, batch: jloss.average((params * batch) ** 2)  # noqa: E731
    state = jloss.init(jnp.array(1.0), optax.sgd(0.1))
    return jloss.fit(square, state, jnp.ones(3), epochs=1, checkpoint=folder)


def counted(function):
    """The function, and how many points it was asked for."""
    points = []

    def spied(**coordinates):
        jax.debug.callback(lambda: points.append(1))
        return function(**coordinates)

    return spied, points


def same(one, other):
    for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_array_equal(a, b)


# One file


def test_a_saved_sweep_comes_back_with_its_coordinates(tmp_path):
    grid = sweep(asymmetric, **AXES)
    grid.save(tmp_path / "grid.npz")
    again = Sweep.load(tmp_path / "grid.npz")
    assert list(again.axes) == ["b", "a"] and again.shape == (7, 3)
    same(again.axes, grid.axes)
    same(again.values, grid.values)
    assert [file.name for file in tmp_path.iterdir()] == ["grid.npz"]


def test_any_pytree_of_any_dtype_is_saved(tmp_path):
    tree = {
        "half": jnp.ones(2, jnp.bfloat16),
        "keys": jax.random.split(jax.random.key(3), 2),
        "average": jloss.average(jnp.ones(3)),
        "terms": jloss.Terms({"b": jloss.average(jnp.ones(3)), "a": jloss.average(jnp.ones(2))}),
        "list": [jnp.arange(3), (None, 2.5, "text", True)],
    }
    _store.save(tmp_path / "tree.npz", tree)
    again = _store.load(tmp_path / "tree.npz")
    assert again["half"].dtype == jnp.bfloat16 and again["keys"].dtype == tree["keys"].dtype
    same(jax.random.key_data(again.pop("keys")), jax.random.key_data(tree.pop("keys")))
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    assert again["list"][1] == (None, 2.5, "text", True)


def test_a_saved_sweep_opens_in_numpy(tmp_path):
    sweep(lambda b: b * 2, b=AXES["b"]).save(tmp_path / "grid.npz")
    with np.load(tmp_path / "grid.npz", allow_pickle=False) as file:
        same(file["array_1"], 2 * AXES["b"])


def test_what_is_no_saved_sweep_is_refused(tmp_path):
    (tmp_path / "text.npz").write_text("text")
    for name in ("text.npz", "missing.npz"):
        with pytest.raises(ValueError, match=f"{name} is no saved sweep"):
            Sweep.load(tmp_path / name)
    with pytest.raises(ValueError, match="holds no sweep"):
        Sweep.load(tmp_path)


# A folder of blocks


def test_a_sweep_with_a_folder_is_the_same_and_is_not_done_again(tmp_path):
    function, points = counted(asymmetric)
    grid = sweep(function, batch_size=1, out=tmp_path / "sweep", **AXES)
    same(grid.values, sweep(asymmetric, batch_size=1, **AXES).values)
    jax.effects_barrier()
    before = len(points)
    again = sweep(function, batch_size=1, out=tmp_path / "sweep", **AXES)
    jax.effects_barrier()
    assert len(points) == before >= 21
    same(again.values, grid.values)
    same(Sweep.load(tmp_path / "sweep").values, grid.values)


@pytest.fixture
def small_blocks(monkeypatch):
    """Four points in a block, so that there are several."""
    monkeypatch.setattr(_plan, "MANY", 4)


def test_only_missing_blocks_are_done(tmp_path, small_blocks):
    grid = sweep(asymmetric, batch_size=2, out=tmp_path, **AXES)
    blocks = sorted(tmp_path.glob("block-*.npz"))
    assert len(blocks) == 6
    for gone in (blocks[1], blocks[4]):
        gone.unlink()
    with pytest.raises(ValueError, match=r"2 of 6 blocks of .* are missing"):
        Sweep.load(tmp_path)
    times = {block: block.stat().st_mtime_ns for block in tmp_path.glob("block-*.npz")}
    same(sweep(asymmetric, batch_size=2, out=tmp_path, **AXES).values, grid.values)
    assert all(block.stat().st_mtime_ns == then for block, then in times.items())


def test_values_that_are_not_finite_are_done_as_well(tmp_path, small_blocks):
    function, points = counted(lambda b, a: jnp.where(a > 0, jnp.log(-b) / 0.0, -1.0))
    sweep(function, batch_size=4, out=tmp_path, **AXES)
    jax.effects_barrier()
    before = len(points)
    assert np.isnan(sweep(function, batch_size=4, out=tmp_path, **AXES).values).any()
    jax.effects_barrier()
    assert len(points) == before


CHANGES = {
    "function": lambda out: sweep(lambda b, a: asymmetric(b, a)["cube"], out=out, **AXES),
    "function that closes over other numbers": lambda out: sweep(
        lambda b, a: asymmetric(b, a + jnp.arange(3.0)[2]), out=out, **AXES
    ),
    "axes": lambda out: sweep(asymmetric, out=out, **{**AXES, "a": AXES["a"] + 1e-7}),
    "axes by name": lambda out: sweep(
        lambda a, c: asymmetric(c, a), out=out, c=AXES["b"], a=AXES["a"]
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_sweep_is_refused_and_leaves_all_as_it_is(tmp_path, what):
    sweep(asymmetric, out=tmp_path, **AXES)
    before = {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    with pytest.raises(ValueError, match=rf"out=.* holds a sweep of another .*{what.split()[0]}"):
        CHANGES[what](tmp_path)
    assert before == {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}


def test_other_data_is_refused(tmp_path):
    def far(batch, shift):
        return jloss.average(batch - shift)

    data, shift = [jnp.arange(3.0), jnp.ones(2)], jnp.arange(4.0)
    grid = sweep(far, data=data, out=tmp_path, shift=shift)
    same(grid.values.value, sweep(far, data=iter(data), shift=shift).values.value)
    with pytest.raises(ValueError, match="of another data"):
        sweep(far, data=[data[0], data[1] * 2], out=tmp_path, shift=shift)
    with pytest.raises(ValueError, match="walked again"):
        sweep(far, data=iter(data), out=tmp_path, shift=shift)


def test_a_folder_with_something_else_is_refused(tmp_path):
    np.savez(tmp_path / "mine.npz", 1)
    with pytest.raises(ValueError, match="holds files that are of no sweep"):
        sweep(asymmetric, out=tmp_path, **AXES)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        sweep(asymmetric, out=tmp_path, **AXES)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        sweep(asymmetric, out=tmp_path, **AXES)


def test_a_damaged_block_is_named(tmp_path):
    sweep(asymmetric, out=tmp_path, **AXES)
    block = tmp_path / "block-00000.npz"
    block.write_bytes(block.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"block-00000.npz is damaged, delete it"):
        sweep(asymmetric, out=tmp_path, **AXES)


def test_a_file_is_no_folder(tmp_path):
    file = tmp_path / "out"
    file.write_text("notes")
    with pytest.raises(ValueError, match=r"sweep: out=.*out is a file; give a folder"):
        sweep(asymmetric, out=file, **AXES)
    assert file.read_text() == "notes"


def test_a_folder_in_use_by_another_process_is_refused_until_that_ends(tmp_path):
    """Both sweeps and fits hold theirs by `lock`."""
    code = "import sys, pathlib; from jloss._store import lock; "
    code += "held = lock('out', pathlib.Path(sys.argv[1])); print('held', flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        for use in (lambda: sweep(asymmetric, out=tmp_path, **AXES), lambda: fit(tmp_path)):
            with pytest.raises(ValueError, match="in use by another process"):
                use()
        other.kill()
    sweep(asymmetric, out=tmp_path, **AXES)


def test_a_full_disk_keeps_the_finished_blocks(tmp_path, small_blocks, monkeypatch):
    savez, left = np.savez, iter(range(3))

    def full(file, **arrays):
        if "structure" not in arrays and next(left, None) is None:
            raise OSError(28, "No space left on device")
        savez(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=r"out=.*No space left.*3 finished blocks are kept") as error:
        sweep(asymmetric, batch_size=2, out=tmp_path, **AXES)
    assert error.value.errno == 28
    monkeypatch.setattr(np, "savez", savez)
    assert len(list(tmp_path.glob("block-*.npz"))) == 3
    assert not [f for f in tmp_path.iterdir() if ".npz." in f.name]
    same(
        sweep(asymmetric, batch_size=2, out=tmp_path, **AXES).values,
        sweep(asymmetric, **AXES).values,
    )


# Interrupted and killed


def test_an_interrupted_sweep_says_what_is_kept(tmp_path, small_blocks, monkeypatch):
    write, left = _store.Folder.write, iter(range(3))

    def interrupted(self, block, values):
        if next(left, None) is None:
            raise KeyboardInterrupt
        write(self, block, values)

    monkeypatch.setattr(_store.Folder, "write", interrupted)
    with pytest.raises(KeyboardInterrupt) as error:
        sweep(asymmetric, batch_size=2, out=tmp_path, **AXES)
    (said,) = error.value.__notes__
    assert said.startswith(f"sweep: 3 finished blocks are kept in out={tmp_path}")
    monkeypatch.undo()
    same(sweep(asymmetric, out=tmp_path, **AXES).values, sweep(asymmetric, **AXES).values)
    assert len(list(tmp_path.glob("block-*.npz"))) == 6


# What a process of its own does, and the test itself for comparison.
SLOW = """
import jax, jax.numpy as jnp, jloss
from jloss import _plan

def slow(x, y):
    state = jnp.stack([jnp.sin(x * y), jnp.cos(x - y)])
    return jax.lax.fori_loop(0, 4000, lambda i, s: jnp.tanh(s[::-1] * 1.1 + x), state).sum()

_plan.MANY, many = 8, _plan.MANY
axes = {"x": jnp.linspace(0, 1, 40), "y": jnp.linspace(0, 3, 40)}
values = jloss.sweep(slow, batch_size=8, out=out, **axes).values
_plan.MANY = many
"""


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.long)])
def test_a_killed_sweep_resumes_bit_for_bit(tmp_path, kills):
    folder, rng = tmp_path / "out", np.random.default_rng()
    for _ in range(kills):
        program = f"out = {str(folder)!r}\n{SLOW}"
        process = subprocess.Popen([sys.executable, "-c", program])
        wanted = len(list(folder.glob("block-*.npz"))) + 60 // kills
        while process.poll() is None and len(list(folder.glob("block-*.npz"))) < wanted:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.01))
        process.send_signal(signal.SIGKILL)
        process.wait()
        for block in folder.glob("block-*.npz"):
            assert zipfile.ZipFile(block).testzip() is None
    done = set(folder.glob("block-*.npz"))
    assert 30 < len(done) < 200
    times = {block: block.stat().st_mtime_ns for block in done}
    resumed, whole = {"out": folder}, {"out": None}
    exec(SLOW, resumed)
    assert all(block.stat().st_mtime_ns == then for block, then in times.items())
    exec(SLOW, whole)
    same(resumed["values"], whole["values"])


# Several devices and processes


SHARED = """
import jax, jax.numpy as jnp, numpy as np, jloss
from jloss import _plan
from jloss._program import Program, Task

def far(batch, x, y):
    return {"far": jloss.average((batch - x) ** 2 * jnp.sin(y))}

_plan.MANY, many = 8, _plan.MANY
data = [jnp.arange(5.0), jnp.ones(3)]
axes = {"x": jnp.linspace(-2, 2, 13), "y": jnp.linspace(0, 3, 9)}
found = {"far": jloss.sweep(far, data=data, **axes).values["far"].value}
axes = {"x": jnp.arange(11.0), "y": jnp.ones(11)}
found["rows"] = jloss.sweep(lambda x, y: x - y, batch_size=3, paired=True, **axes).values
if out:
    found["kept"] = jloss.sweep(lambda x: x**3, out=out, x=jnp.arange(-9.0, 90.0)).values
points, devices = jax.ShapeDtypeStruct((), jnp.int32), jax.local_devices()
program = Program(Task(lambda point, *_: point, 48, (), points, devices), 3, 2)
found["by_device"] = np.asarray(program.start(0, 2, ())).reshape(len(devices), 6)
_plan.MANY = many
"""


def run_shared(result, out=None, job=""):
    program = (
        f"import jax, jloss\n{job}\nout = {out and str(out)!r}\n{SHARED}\n"
        f"np.savez({str(result)!r}, devices=jax.device_count(), **found)"
    )
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen([sys.executable, "-c", program], env=environment)


@pytest.fixture(scope="module")
def alone():
    names = {"out": None}
    exec(SHARED, names)
    return names["found"]


def close(result, alone, devices):
    found = np.load(result)
    assert found["devices"] == devices
    np.testing.assert_allclose(found["far"], alone["far"], rtol=1e-6)
    np.testing.assert_array_equal(found["rows"], alone["rows"])


def test_eight_devices_give_what_one_gives_and_so_many_are_there_on_request(tmp_path, alone):
    asked = "jloss.one_device_per_core(8)"
    assert run_shared(tmp_path / "result.npz", job=asked).wait(120) == 0
    close(tmp_path / "result.npz", alone, 8)
    # In turns: of neighbours, which take alike long, no device has all.
    same(np.load(tmp_path / "result.npz")["by_device"][1], np.array([3, 4, 5, 27, 28, 29]))


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.long)])
def test_processes_share_out_a_sweep_and_all_get_the_whole(tmp_path, alone, count):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    out = tmp_path / "out"
    processes = [
        run_shared(
            tmp_path / f"{i}.npz", out, f"jax.distributed.initialize({address!r}, {count}, {i})"
        )
        for i in range(count)
    ]
    assert [process.wait(180) for process in processes] == [0] * count
    for i in range(count):
        close(tmp_path / f"{i}.npz", alone, count)
        same(np.load(tmp_path / f"{i}.npz")["kept"], np.arange(-9.0, 90.0) ** 3)
    same(Sweep.load(out).values, np.arange(-9.0, 90.0) ** 3)
