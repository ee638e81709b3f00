"""Models of flax and equinox as objectives: batch statistics, dropout, gradients of their params.

Each model is a dense layer, batch normalisation and dropout of half the units, written out in
numpy: what training and evaluation must give is known.
"""

import jax
import numpy as np
import pytest

import jloss
from jloss.objective import call

X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32)
MOMENTUM, EPSILON = 0.9, 1e-5


def linen_model():
    nn = pytest.importorskip("flax.linen")

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, training):
            x = nn.Dense(2)(x)
            x = nn.BatchNorm(not training, momentum=MOMENTUM, epsilon=EPSILON)(x)
            return nn.Dropout(0.5, deterministic=not training)(x)

    model = Model()
    variables = dict(jax.jit(model.init, static_argnums=2)(jax.random.key(0), X, False))

    def apply(params, inputs, *, model_state, key):
        rngs = {} if key is None else {"dropout": key}
        training = key is not None
        variables = {"params": params, **model_state}
        return model.apply(variables, inputs, training, rngs=rngs, mutable=["batch_stats"])

    def read(params, state):
        dense, norm = params["Dense_0"], state["batch_stats"]["BatchNorm_0"]
        return dense["kernel"], dense["bias"], norm["mean"], norm["var"]

    return apply, variables.pop("params"), variables, read


def nnx_model():
    nnx = pytest.importorskip("flax.nnx")

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(3, 2, rngs=rngs)
            self.norm = nnx.BatchNorm(2, momentum=MOMENTUM, epsilon=EPSILON, rngs=rngs)
            self.dropout = nnx.Dropout(0.5)

        def __call__(self, x, key):
            training = key is not None
            x = self.norm(self.dense(x), use_running_average=not training)
            return self.dropout(x, deterministic=not training, rngs=key)

    graph, params, state = nnx.split(Model(nnx.Rngs(0)), nnx.Param, ...)

    def apply(params, inputs, *, model_state, key):
        # A copy, for nnx would change the statistics of the caller where nothing is compiled.
        model = nnx.merge(graph, params, model_state, copy=True)
        predictions = model(inputs, key)
        return predictions, nnx.state(model, nnx.Not(nnx.Param))

    def read(params, state):
        dense, norm = params["dense"], state["norm"]
        return dense["kernel"][...], dense["bias"][...], norm["mean"][...], norm["var"][...]

    return apply, params, state, read


def equinox_model():
    eqx = pytest.importorskip("equinox")

    class Model(eqx.Module):
        dense: eqx.nn.Linear
        norm: eqx.nn.BatchNorm
        dropout: eqx.nn.Dropout

        def __init__(self, key):
            self.dense = eqx.nn.Linear(3, 2, key=key)
            self.norm = eqx.nn.BatchNorm(
                2, "batch", momentum=MOMENTUM, eps=EPSILON, mode="batch", channelwise_affine=False
            )
            self.dropout = eqx.nn.Dropout(0.5)

        def __call__(self, x, state, key):
            x, state = self.norm(self.dense(x), state, inference=key is None)
            return self.dropout(x, key=key, inference=key is None), state

    model, state = eqx.nn.make_with_state(Model)(jax.random.key(0))
    params, rest = eqx.partition(model, eqx.is_inexact_array)

    def apply(params, inputs, *, model_state, key):
        keys = None if key is None else jax.random.split(key, len(inputs))
        mapped = jax.vmap(
            eqx.combine(params, rest),
            in_axes=(0, None, None if key is None else 0),
            out_axes=(0, None),
            axis_name="batch",
        )
        return mapped(inputs, model_state, keys)

    def read(params, state):
        mean, var = state.get(model.norm.batch_state_index)
        return params.dense.weight.T, params.dense.bias, mean, var

    return apply, params, state, read


@pytest.fixture(scope="module", params=[linen_model, nnx_model, equinox_model])
def model(request):
    return request.param()


def squared(predictions, targets):
    return (predictions - targets) ** 2


def normalised(hidden, mean, var):
    return (hidden - mean) / np.sqrt(var + EPSILON)


def test_without_a_key_running_statistics_are_used_and_kept(model):
    apply, params, state, read = model
    weight, bias, mean, var = map(np.asarray, read(params, state))
    objective = jloss.objective(apply, squared)

    @jax.jit
    def judged(params, state):
        average, aux = call(objective, params, (X, Y), model_state=state)
        return average, aux.model_state

    average, kept = judged(params, state)
    expected = np.mean((normalised(X @ weight + bias, mean, var) - Y) ** 2)
    assert float(average.value) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(read(params, kept)[2], mean)


def test_with_a_key_the_statistics_move_and_half_the_units_are_dropped(model):
    apply, params, state, read = model
    weight, bias, before, _ = map(np.asarray, read(params, state))
    hidden = X @ weight + bias
    seen = []

    def spied(predictions, targets):
        seen.append(predictions)
        return squared(predictions, targets)

    objective = jloss.objective(apply, spied)

    @jax.jit
    def run(params, state, key):
        aux = call(objective, params, (X, Y), model_state=state, key=key)[1]
        return aux.model_state, seen.pop()

    (after, one), (_, again), (_, other) = (
        run(params, state, jax.random.key(number)) for number in (0, 0, 1)
    )
    moved = MOMENTUM * before + (1 - MOMENTUM) * hidden.mean(0)
    np.testing.assert_allclose(read(params, after)[2], moved, rtol=1e-5, atol=1e-7)
    full = 2 * normalised(hidden, hidden.mean(0), hidden.var(0))  # what is kept counts double
    kept = np.asarray(one) != 0
    np.testing.assert_allclose(one, np.where(kept, full, 0), rtol=1e-3, atol=1e-4)
    assert 0 < kept.sum() < kept.size
    np.testing.assert_array_equal(one, again)
    assert (np.asarray(one) != np.asarray(other)).any()


def test_the_gradient_reaches_the_params_under_jit(model):
    apply, params, state, read = model
    objective = jloss.objective(apply, squared)

    @jax.jit
    def gradient(params, state):
        return jax.grad(lambda p: call(objective, p, (X, Y), model_state=state)[0].value)(params)

    weight, bias, mean, var = map(np.asarray, read(params, state))
    residual = normalised(X @ weight + bias, mean, var) - Y
    expected = X.T @ (residual / np.sqrt(var + EPSILON)) * 2 / Y.size
    np.testing.assert_allclose(
        read(gradient(params, state), state)[0], expected, rtol=1e-4, atol=1e-6
    )
