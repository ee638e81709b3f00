"""Checkpoints: a fit that is cut short and called again is the fit that was not, bit for bit."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from killed_fit import fitted, noisy, start
from least_squares import ADAM, DATA, FEWER, INPUTS, LEAST_SQUARES, SGD, TARGETS, zeros

from jloss.train import fit
from jloss.update import init

OPTIONS = dict(validation=FEWER, epochs=5, batch_size=1, patience=4, key=jax.random.key(3))


class CutError(Exception):
    """What ends a fit from without."""


def same(ours, theirs):
    """All leaves are equal bit for bit, NaN included."""
    keys = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        one, other = (jax.random.key_data(x) if keys(x) else x for x in (one, other))
        np.testing.assert_array_equal(one, other)


def cut_at(epoch):
    """A callback that ends the fit after so many epochs."""
    epochs = []

    def callback(state, row):
        epochs.append(row)
        if len(epochs) > epoch:
            raise CutError

    return callback


@pytest.fixture(scope="module")
def whole():
    return fit(noisy, start(), DATA, **OPTIONS)


@pytest.mark.parametrize("every", [None, 4])
def test_a_fit_that_was_cut_goes_on_bit_for_bit(tmp_path, whole, every):
    """Each epoch has eleven updates, so that every fourth is within one."""
    options = OPTIONS | dict(checkpoint=tmp_path / "fit", checkpoint_every=every)
    # In pieces of four the reported means are added up in another order.
    whole = (
        whole
        if every is None
        else fit(noisy, start(), DATA, **options | dict(checkpoint=tmp_path / "whole"))
    )
    for epoch in (0, 2):
        with pytest.raises(RuntimeError, match=r"the callback cut_at\S*callback failed after"):
            fit(noisy, start(), DATA, callback=cut_at(epoch), **options)
    again = fit(noisy, start(), DATA, **options)
    same(again, whole)
    assert [*again[1]] == [*whole[1]]
    # Called once more, it has nothing to do.
    same(fit(noisy, start(), DATA, callback=cut_at(0), **options), whole)


def test_batches_are_taken_up_where_they_were_left(tmp_path):
    taken = []

    def batches(epoch):
        for place in np.random.default_rng(epoch).permutation(11):
            taken.append((epoch, place))
            yield INPUTS[place : place + 1], TARGETS[place : place + 1]
            if len(taken) == 19:
                raise CutError

    options = dict(epochs=3, checkpoint_every=3)
    with pytest.raises(CutError):
        fit(noisy, start(), batches, checkpoint=tmp_path / "cut", **options)
    again = fit(noisy, start(), batches, checkpoint=tmp_path / "cut", **options)
    assert len(taken) < 60  # the first epoch was not gone through again
    same(again, fit(noisy, start(), batches, checkpoint=tmp_path / "whole", **options))


def test_batches_that_are_fewer_than_before_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("jloss._batches._STACKED", 1)
    rows = [DATA] * 4
    options = dict(epochs=2, checkpoint=tmp_path, checkpoint_every=3)

    def cut(epoch):
        yield from rows
        raise CutError

    with pytest.raises(CutError):
        fit(LEAST_SQUARES, init(zeros(), ADAM), cut, **options)
    with pytest.raises(ValueError, match="train gave no more than 3 batches in epoch 0, of which"):
        fit(LEAST_SQUARES, init(zeros(), ADAM), lambda epoch: rows[:3], **options)


def test_more_epochs_go_on_from_the_last_one(tmp_path):
    options = OPTIONS | dict(patience=None)
    fit(noisy, start(), DATA, **options | dict(epochs=2), checkpoint=tmp_path)
    again = fit(noisy, start(), DATA, **options, checkpoint=tmp_path)
    same(again, fit(noisy, start(), DATA, **options))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    path = tmp_path_factory.mktemp("kept") / "fit"
    fit(LEAST_SQUARES, init(zeros(), ADAM), DATA, epochs=3, batch_size=11, checkpoint=path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"params": {"w": jnp.zeros(4), "b": jnp.zeros(())}},
            r"another model: params\['w'\] is float32\(3,\) there and float32\(4,\) here; give",
        ),
        ({"params": {"w": jnp.zeros(3)}}, r"another model: params\['b'\] is .* and missing here"),
        (
            {"optimizer": SGD},
            r"another optimizer: opt_state\[0\].count is int32\(\) there and miss",
        ),
        (
            {"optimizer": optax.adam(0.2)},
            r"another update rule: with jax .* the optimizer is \w+ th",
        ),
        (
            {"optimizer": optax.adam(optax.linear_schedule(0.1, 0.0, 9))},
            r"another optimizer: opt_state\[1\].count is missing there",
        ),
        ({"batch_size": 4}, "another setting: batch_size is 11 there and 4 here"),
        ({"key": jax.random.key(1)}, r"another setting: key is \[0 0\] there and \[0 1\] here"),
        (
            {"train": FEWER},
            r"another setting: train is \[0\] float32\(11, 3\), .* and \[0\] float3",
        ),
    ],
)
def test_a_folder_of_another_fit_is_refused(kept, change, message):
    given = dict(params=zeros(), optimizer=ADAM, train=DATA, batch_size=11, key=None) | change
    state = init(given.pop("params"), given.pop("optimizer"))
    with pytest.raises(ValueError, match=message):
        fit(LEAST_SQUARES, state, given.pop("train"), epochs=3, checkpoint=kept, **given)


def test_line_searches_are_told_apart_by_what_they_do(tmp_path):
    def fitted(**search):
        optimizer = optax.lbfgs(linesearch=optax.scale_by_zoom_linesearch(**search))
        return fit(LEAST_SQUARES, init(zeros(), optimizer), DATA, epochs=1, checkpoint=tmp_path)

    fitted(max_linesearch_steps=5)
    fitted(max_linesearch_steps=5)
    with pytest.raises(ValueError, match="another update rule"):
        fitted(max_linesearch_steps=6)


def test_a_folder_of_another_version_is_refused(kept, monkeypatch):
    monkeypatch.setattr("jloss.checkpoint._FORMAT", 7)
    with pytest.raises(ValueError, match="written in format 1; this version of jloss reads 7"):
        fit(LEAST_SQUARES, init(zeros(), ADAM), DATA, batch_size=11, checkpoint=kept)


@pytest.mark.parametrize("part", ["tree", "notes/metadata"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_good(kept, tmp_path, part):
    path = tmp_path / "fit"
    shutil.copytree(kept, path)
    damaged = path / "3" / part
    if damaged.is_dir():
        for file in damaged.rglob("*"):
            if file.is_file() and file.name not in ("_METADATA", "commit_success.txt"):
                file.write_bytes(file.read_bytes()[:10])
    else:
        damaged.write_text("{")
    options = dict(epochs=3, batch_size=11, checkpoint=path)
    with pytest.raises(ValueError, match="fit/3 cannot be read; delete it to go on from the one"):
        fit(LEAST_SQUARES, init(zeros(), ADAM), DATA, **options)
    shutil.rmtree(path / "3")
    again = fit(LEAST_SQUARES, init(zeros(), ADAM), DATA, **options)
    same(again, fit(LEAST_SQUARES, init(zeros(), ADAM), DATA, epochs=3, batch_size=11))


def test_an_optimizer_made_anew_goes_on_and_one_of_other_libraries_is_not_compared(
    kept, tmp_path, monkeypatch
):
    path = tmp_path / "fit"
    shutil.copytree(kept, path)
    options = dict(batch_size=11, checkpoint=path)
    for rate, epochs in ((0.1, 4), (0.2, 5)):
        state = init(zeros(), optax.adam(rate))
        assert len(fit(LEAST_SQUARES, state, DATA, epochs=epochs, **options)[1]["loss"]) == epochs
        monkeypatch.setattr(optax, "__version__", "another")


def test_a_file_is_no_folder(tmp_path):
    path = tmp_path / "fit"
    path.write_text("mine")
    with pytest.raises(ValueError, match=r"checkpoint=.*fit is a file; give a folder"):
        fit(LEAST_SQUARES, init(zeros(), ADAM), DATA, epochs=1, checkpoint=path)
    assert path.read_text() == "mine"


def test_a_folder_in_use_by_another_fit_is_refused(tmp_path):
    options = dict(epochs=1, batch_size=11, checkpoint=tmp_path / "fit")

    def again(state, row):
        fit(LEAST_SQUARES, init(zeros(), ADAM), DATA, **options)

    with pytest.raises(RuntimeError, match="fit is in use by another process; give another folder"):
        fit(LEAST_SQUARES, init(zeros(), ADAM), DATA, **options, callback=again)
    fit(LEAST_SQUARES, init(zeros(), ADAM), DATA, **options)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # orbax's own
def test_a_full_disk_is_named_and_leaves_the_last_good_checkpoint(tmp_path):
    """Simulated by a limit to the size of files, which every way of writing meets."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    options = dict(batch_size=11, checkpoint=tmp_path / "fit")

    def filled(state, row):
        if int(state.step) == 3:  # the first checkpoint is written by now, if not the second one
            resource.setrlimit(resource.RLIMIT_FSIZE, (16, limits[1]))

    try:
        with pytest.raises(
            OSError, match=r"a checkpoint could not be written to .*fit; those before"
        ):
            fit(LEAST_SQUARES, init(zeros(), ADAM), DATA, epochs=3, callback=filled, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    steps = []
    again = fit(
        LEAST_SQUARES,
        init(zeros(), ADAM),
        DATA,
        epochs=3,
        callback=lambda state, row: steps.append(int(state.step)),
        **options,
    )
    assert steps in ([2, 3], [3])
    same(again, fit(LEAST_SQUARES, init(zeros(), ADAM), DATA, epochs=3, batch_size=11))


def test_what_is_written_in_the_background_does_not_change_while_training_goes_on(
    tmp_path, monkeypatch
):
    """A manager that writes nothing until the fit is over, the slowest that there can be."""
    manager, saved, seen = pytest.importorskip("orbax.checkpoint").CheckpointManager, {}, {}
    monkeypatch.setattr(manager, "save", lambda self, step, args: saved.update({step: args}))
    fit(
        LEAST_SQUARES,
        init(zeros(), ADAM),
        DATA,
        epochs=3,
        batch_size=11,
        validation=FEWER,
        callback=lambda state, row: seen.update({int(state.step): (state, row)}),
        checkpoint=tmp_path,
    )
    assert list(saved) == list(seen) == [1, 2, 3]
    for step, (state, row) in seen.items():
        tree, notes = saved[step]["tree"].item, saved[step]["notes"].item
        same(tree["state"]["params"], state.params)
        same(tree["state"]["opt_state"], state.opt_state)
        assert len(notes["rows"]) == step and notes["rows"][-1] == row


def test_what_was_being_written_when_the_process_died_is_passed_over(kept, tmp_path):
    path = tmp_path / "fit"
    shutil.copytree(kept, path)
    (path / "9.orbax-checkpoint-tmp").mkdir()
    _, history = fit(
        LEAST_SQUARES, init(zeros(), ADAM), DATA, epochs=4, batch_size=11, checkpoint=path
    )
    assert len(history["loss"]) == 4


def test_checkpoints_without_orbax_name_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    monkeypatch.setitem(sys.modules, "orbax", None)
    with pytest.raises(
        ImportError, match=r'a checkpoint needs orbax: pip install "jloss\[train\]"'
    ):
        fit(LEAST_SQUARES, init(zeros(), SGD), DATA, checkpoint=tmp_path)


# What kill -9 leaves behind.


def killed(folder, after):
    """Starts the fit in another process, and kills it so long after its first epoch, if in time."""
    program = [sys.executable, str(Path(__file__).with_name("killed_fit.py")), str(folder)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    if process.stdout.readline():
        time.sleep(after)
        process.kill()
    process.communicate()
    assert process.returncode in (0, -signal.SIGKILL)
    return process.returncode == -signal.SIGKILL


def test_a_killed_fit_called_again_is_the_fit_that_never_was(tmp_path):
    assert killed(tmp_path / "fit", 0.3)
    same(fitted(tmp_path / "fit"), fitted())


@pytest.mark.long
def test_every_one_of_twenty_kills_leaves_what_goes_on_bit_for_bit(tmp_path):
    whole, in_time = fitted(), 0
    for number, after in enumerate(np.random.default_rng().uniform(0, 0.6, 20)):
        folder = tmp_path / f"fit{number % 4}"  # five kills in a row for each of four fits
        in_time += killed(folder, after)
        shutil.copytree(folder, tmp_path / f"copy{number}")
        same(fitted(tmp_path / f"copy{number}"), whole)
    assert in_time >= 10  # the others had finished before


# A program for eight devices: half a fit on all of them, the rest on a mesh of another shape.
MOVED = """
import sys
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import PartitionSpec as P
import jloss

random = np.random.default_rng(0)
x = random.normal(size=(16, 8)).astype(np.float32)
objective = jloss.objective(lambda params, x: x @ params["w"], jloss.squared_error)
start = jloss.init({"w": jnp.zeros((8, 4))}, optax.adam(0.1))
options = dict(train=(x, x[:, :4]), batch_size=8)
once = jloss.shard(start, jax.make_mesh((8,), ("data",)), {"w": P("data")})
half, _ = jloss.fit(objective, once, epochs=2, checkpoint=sys.argv[1], **options)
again = jloss.shard(start, jax.make_mesh((2, 4), ("data", "model")), {"w": P(None, "model")})
same, history = jloss.fit(objective, again, epochs=2, checkpoint=sys.argv[1], **options)
for before, after in zip(jax.tree.leaves(half), jax.tree.leaves(same), strict=True):
    np.testing.assert_array_equal(before, after)
moved, history = jloss.fit(objective, again, epochs=4, checkpoint=sys.argv[1], **options)
for state in (same, moved):
    assert state.params["w"].sharding == state.opt_state[0].mu["w"].sharding
    assert state.params["w"].sharding == again.params["w"].sharding, state.params["w"].sharding
whole, expected = jloss.fit(objective, once, epochs=4, **options)
np.testing.assert_allclose(moved.params["w"], whole.params["w"], rtol=1e-5, atol=1e-6)
np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)
"""


def test_a_fit_goes_on_upon_another_mesh(tmp_path):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    program = [sys.executable, "-c", MOVED, str(tmp_path / "fit")]
    assert subprocess.run(program, env=os.environ | flags, check=False).returncode == 0
