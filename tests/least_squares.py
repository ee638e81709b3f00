"""The small problem that the tests of training share: a linear model of eleven rows."""

import jax.numpy as jnp
import numpy as np
import optax

from jloss.objective import objective

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(11, 3)).astype(np.float32)
TARGETS = (INPUTS @ [1.0, -2.0, 0.5] + 0.3 * RANDOM.normal(size=11)).astype(np.float32)
DATA = (INPUTS, TARGETS)
FEWER = (INPUTS[:7], TARGETS[:7])

# Programs are compiled once per optimizer object.
ADAM, SGD, STILL = optax.adam(0.1), optax.sgd(0.1), optax.sgd(0.0)


def square(predictions, targets, where=None):
    values = (predictions - targets) ** 2
    return values if where is None else jnp.where(where, values, 0.0)


def linear(params, inputs):
    return inputs @ params["w"] + params["b"]


def zeros():
    return {"w": jnp.zeros(3), "b": jnp.zeros(())}


LEAST_SQUARES = objective(linear, square)


def mean_square(params, inputs=INPUTS, targets=TARGETS):
    """The loss in float64 numpy, which knows nothing of jloss."""
    w, b = np.asarray(params["w"], np.float64), float(params["b"])
    return np.mean((inputs @ w + b - targets) ** 2)
