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


FUNCTIONS = {
    "predict": predict,
    "objective": value,
    "gradient": lambda params, batch: jax.grad(value)(params, batch)["w"],
}


def argument(what, rows):
    """What the function is given beside the params, so many rows of it."""
    return INPUTS[:rows] if what == "predict" else (INPUTS[:rows], LABELS[:rows])


LOADED = """
import sys, pathlib, numpy as np
from jax import export
folder, results = pathlib.Path(sys.argv[1]), {}
data = dict(np.load(folder / "data.npz"))
params, inputs, labels = {"w": data["w"], "b": data["b"]}, data["inputs"], data["labels"]
for what in ("predict", "objective", "gradient"):
    function = export.deserialize(bytearray((folder / what).read_bytes()))
    for rows in (7, 2):
        batch = inputs[:rows] if what == "predict" else (inputs[:rows], labels[:rows])
        results[f"{what} {rows}"] = np.asarray(function.call(params, batch))
np.savez(folder / "results.npz", **results)
assert "jloss" not in sys.modules
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What one process makes of all that is exported."""
    folder = tmp_path_factory.mktemp("exported")
    count, wide = export.symbolic_shape("rows, 3")
    inputs = jax.ShapeDtypeStruct((count, wide), jnp.float32)
    batch = (inputs, jax.ShapeDtypeStruct((count,), LABELS.dtype))
    for what, function in FUNCTIONS.items():
        given = inputs if what == "predict" else batch
        exported = export.export(jax.jit(function))(PARAMS, given)
        (folder / what).write_bytes(exported.serialize())
    np.savez(folder / "data.npz", **PARAMS, inputs=INPUTS, labels=LABELS)
    subprocess.run([sys.executable, "-c", LOADED, folder], check=True)
    return np.load(folder / "results.npz")


@pytest.mark.parametrize("rows", [7, 2])
@pytest.mark.parametrize("what", FUNCTIONS)
def test_what_is_exported_is_equal_in_a_fresh_process(results, what, rows):
    expected = jax.jit(FUNCTIONS[what])(PARAMS, argument(what, rows))
    np.testing.assert_allclose(results[f"{what} {rows}"], expected, rtol=1e-6)
