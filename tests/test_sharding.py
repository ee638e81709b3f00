"""One history on one device, on eight, and on two processes; states keep their place."""

import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

import jloss
from jloss.sharding import SMALL, shard, shard_rows

PROGRAM = """
import sys
import jax
if len(sys.argv) > 3:
    jax.distributed.initialize(sys.argv[3], 2, int(sys.argv[4]))
import jax.numpy as jnp, numpy as np, optax
from jax.sharding import PartitionSpec as P
import jloss, jloss.sharding
jloss.sharding.SMALL = 32

COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: "backend_compile" in event and COMPILED.append(event)
)

def apply(params, inputs):
    return jnp.tanh(inputs @ params["a"]) @ params["b"] + params["c"]

objective = jloss.objective(apply, jloss.squared_error)
random = np.random.default_rng(0)
draw = lambda *shape: random.normal(size=shape).astype(np.float32)
inputs, targets = draw(36, 8), draw(36, 4)
params = {"a": draw(8, 16), "b": draw(16, 4), "c": np.zeros(4, np.float32)}
optimizer = optax.adam(0.01)

def start():
    return jloss.init(params, optimizer, ema=0.9, key=jax.random.key(1))

def fitted(state):
    # 36 rows in batches of 16, so that the last one of each epoch cannot be split.
    data = dict(validation=(inputs, -targets), epochs=2, batch_size=16)
    _, history = jloss.fit(objective, state, (inputs, targets), **data)
    return np.stack([history[name] for name in sorted(history)])

def stepped(state):
    batch = (inputs[:32], targets[:32])
    if jax.process_count() > 1:  # each has read its own half
        half = slice(16 * jax.process_index(), 16 * (jax.process_index() + 1))
        batch = jloss.shard_rows(jax.tree.map(lambda leaf: leaf[half], batch), state.mesh)
    update, values = jloss.step(objective, microbatches=2), []
    for number in range(3):
        before = jax.tree.map(lambda leaf: leaf.sharding, state)
        started = len(COMPILED)
        state, average = update(state, batch)
        assert (len(COMPILED) == started) == (number > 0)
        values.append(average.value)
        if state.mesh is not None:
            assert jax.tree.map(lambda leaf: leaf.sharding, state) == before
    return np.array(values)

count = jax.device_count()
assert count == int(sys.argv[2])
state = jloss.shard(start())
split = jax.tree.map(lambda leaf: leaf.sharding.spec, state)
wanted = {"a": P(None, "data"), "b": P("data"), "c": P()}
assert split.params == split.opt_state[0].mu == split.ema.params == wanted
part = state.params["a"].addressable_shards[0].data
assert part.shape == (8, 16 // count), part.shape
found = {"fitted": fitted(state), "stepped": stepped(state)}
if count == 8:
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    specs = {"a": P(None, "model"), "b": P("model"), "c": P()}
    found["tensor"] = fitted(jloss.shard(start(), mesh, specs))
    # And all that stays on the first device.
    found |= {"fitted alone": fitted(start()), "stepped alone": stepped(start())}
np.savez(sys.argv[1], **found)
"""


def run(result, devices, *process):
    here = devices // (2 if process else 1)
    flags = f"--xla_force_host_platform_device_count={here}"
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(result), str(devices), *map(str, process)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """What a process of eight devices finds, on all of them and on one."""
    result = tmp_path_factory.mktemp("eight") / "result.npz"
    assert run(result, 8).wait(200) == 0
    return np.load(result)


@pytest.mark.parametrize(
    ("split", "alone"), [("fitted",) * 2, ("stepped",) * 2, ("tensor", "fitted")]
)
def test_eight_devices_give_the_history_of_one_and_the_state_keeps_its_place(eight, split, alone):
    """Fully sharded, and with rows and layers split along an axis of the mesh each."""
    np.testing.assert_allclose(eight[split], eight[f"{alone} alone"], rtol=2e-6)


def test_two_processes_give_the_history_of_one(tmp_path, eight):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    both = [run(tmp_path / f"{i}.npz", 2, address, i) for i in range(2)]
    assert [process.wait(200) for process in both] == [0, 0]
    for i in range(2):
        found = np.load(tmp_path / f"{i}.npz")
        for name in ("fitted", "stepped"):
            np.testing.assert_allclose(found[name], eight[f"{name} alone"], rtol=2e-6)


ADAM = optax.adam(0.1)
ALONE = Mesh(np.array(jax.devices()[:1]), ("data",))


def test_what_belongs_to_a_parameter_is_split_as_it_is():
    params = {"large": jnp.zeros((SMALL // 8, 8)), "wide": jnp.zeros((2, SMALL)), "b": jnp.zeros(8)}
    specs = {"large": PartitionSpec("data"), "wide": PartitionSpec(None, "data")}
    for optimizer in (ADAM, optax.lbfgs(memory_size=2)):
        state = shard(jloss.init(params, optimizer), ALONE)
        found = {
            jax.tree_util.keystr(path): (leaf.shape, leaf.sharding.spec)
            for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        }
        for path, (shape, spec) in found.items():
            name = next((name for name in params if path.endswith(f"['{name}']")), None)
            more = len(shape) - params[name].ndim if name else 0  # L-BFGS remembers several
            wanted = (None,) * more + tuple(specs.get(name, ()))
            assert tuple(spec) == (wanted if any(wanted) else ()), path


def test_a_key_is_placed_with_its_state():
    state = shard(jloss.init(1.0, ADAM, key=jax.random.key(3)), ALONE)
    assert jax.random.key_data(state.key).tolist() == [0, 3]
    assert state.mesh is not None and state.key.sharding.mesh == state.mesh


@pytest.mark.parametrize(("leaf", "message"), [(np.float32(1), "no rows"), (np.ones(3), "3 rows")])
def test_rows_that_devices_cannot_share_are_refused(leaf, message):
    four = jax.sharding.AbstractMesh((4,), ("data",))
    with pytest.raises(ValueError, match=rf"batch\['x'\] has {message}, which the 4 devices"):
        shard_rows({"x": leaf}, four)
