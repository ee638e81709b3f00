"""``jax.export`` alone saves what is trained here, for any batch size: the README shows how."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import jloss

RANDOM = np.random.default_rng(0)
PARAMS = {"w": RANDOM.normal(size=(3, 4)).astype(np.float32), "b": np.zeros(4, np.float32)}
INPUTS = RANDOM.normal(size=(7, 3)).astype(np.float32)
LABELS = RANDOM.integers(0, 4, size=7)


def predict(params, inputs):
    return jax.nn.softmax(inputs @ params["w"] + params["b"])


OBJECTIVE = jloss.objective(
    lambda params, inputs: inputs @ params["w"] + params["b"],
    jloss.softmax_cross_entropy_with_integer_labels,
)


def value(params, batch):
    return OBJECTIVE(params, batch).value


LOADED = """
import sys, numpy as np
from jax import export
function = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
data = dict(np.load(sys.argv[2]))
params, rows = {"w": data["w"], "b": data["b"]}, slice(0, int(sys.argv[4]))
batch = tuple(data[name][rows] for name in ("inputs", "labels") if name in data)
np.save(sys.argv[3], np.asarray(function.call(params, batch if len(batch) > 1 else batch[0])))
assert "jloss" not in sys.modules
"""


@pytest.mark.parametrize("rows", [7, 2])
@pytest.mark.parametrize("what", ["predict", "objective", "gradient"])
def test_what_is_exported_is_equal_in_a_fresh_process(what, rows, tmp_path):
    count, wide = export.symbolic_shape("rows, 3")
    inputs = jax.ShapeDtypeStruct((count, wide), jnp.float32)
    batch = (inputs, jax.ShapeDtypeStruct((count,), LABELS.dtype))
    data = {**PARAMS, "inputs": INPUTS} | ({} if what == "predict" else {"labels": LABELS})
    function, argument = {
        "predict": (predict, inputs),
        "objective": (value, batch),
        "gradient": (lambda p, b: jax.grad(value)(p, b)["w"], batch),
    }[what]
    exported = export.export(jax.jit(function))(PARAMS, argument)
    (tmp_path / "function").write_bytes(exported.serialize())
    np.savez(tmp_path / "data.npz", **data)
    files = [tmp_path / name for name in ("function", "data.npz", "result.npy")]
    subprocess.run([sys.executable, "-c", LOADED, *files, str(rows)], check=True)
    batch = INPUTS[:rows] if what == "predict" else (INPUTS[:rows], LABELS[:rows])
    expected = jax.jit(function)(PARAMS, batch)
    np.testing.assert_allclose(np.load(files[-1]), expected, rtol=1e-6)
