"""Mixed precision: what is rounded and what is not; the loss scale grows and backs off."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jloss.average import average
from jloss.losses.regression import squared_error
from jloss.objective import call, objective
from jloss.precision import PERIOD, LossScale, mixed_precision
from jloss.train import NotFiniteError, fit
from jloss.update import init, step

SGD = optax.sgd(1.0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_params_and_inputs_are_rounded_and_all_else_is_not(dtype):
    seen = {}

    def apply(params, inputs, *, model_state, key):
        seen.update(params=params, inputs=inputs["x"], ids=inputs["ids"], state=model_state)
        return params["w"] * inputs["x"], {"mean": params["w"]}

    model = objective(mixed_precision(apply, dtype), squared_error)
    params, inputs = {"w": jnp.array(1.001)}, {"x": jnp.ones(2), "ids": jnp.arange(2)}
    targets = jnp.full(2, 1.001)
    found, aux = call(model, params, (inputs, targets), model_state=jnp.array(1.001))
    assert seen["params"]["w"].dtype == seen["inputs"].dtype == dtype
    assert (seen["ids"].dtype, seen["state"].dtype) == (jnp.int32, jnp.float32)
    # The loss meets the rounded prediction and the target as it is.
    rounded = np.float32(np.asarray(jnp.asarray(1.001, dtype)))
    np.testing.assert_allclose(found.value, (rounded - np.float32(1.001)) ** 2, rtol=1e-5)
    assert found.total.dtype == aux.model_state["mean"].dtype == jnp.float32
    grads = jax.grad(lambda p: call(model, p, (inputs, targets), model_state=0.0)[0].value)(params)
    assert grads["w"].dtype == jnp.float32


def small(params, batch):
    """Its gradient, 1e-7 per row, passes through float16, where 6e-8 is the smallest number."""
    half = jnp.float16(params) * jnp.float16(batch)
    return average(half.astype(jnp.float32) * 1e-3)


UPDATE = step(small)


def scaled(value, made=0):
    state = init(1.0, SGD, loss_scale=value)
    made = jnp.asarray(made, jnp.int32)
    return dataclasses.replace(state, loss_scale=dataclasses.replace(state.loss_scale, made=made))


def test_gradients_that_underflow_in_float16_are_kept_by_the_scale():
    batch = np.full(4, 1e-5, np.float16)
    wanted = float(np.float16(1e-5)) * 1e-3
    # The update is too small to see in the params, so look at what the optimizer was given.
    gradient = {
        scale: UPDATE(init(0.0, SGD, loss_scale=scale), batch)[0].params for scale in (1.0, 2**14)
    }
    assert float(gradient[1.0]) == 0.0
    np.testing.assert_allclose(-gradient[2**14], wanted, rtol=2e-3)


def test_an_overflow_halves_the_scale_and_skips_the_update():
    state = scaled(2.0**40, made=7)
    state, found = UPDATE(state, jnp.ones(4))
    assert np.isfinite(found.value)
    assert (float(state.params), int(state.skipped)) == (1.0, 1)
    assert jax.tree.map(float, state.loss_scale) == LossScale(2.0**39, 0, 1)


def test_the_scale_doubles_after_so_many_updates_without_an_overflow():
    state = scaled(8.0, made=PERIOD - 2)
    for expected in ((8.0, PERIOD - 1), (16.0, 0), (16.0, 1)):
        state, _ = UPDATE(state, jnp.ones(4))
        assert jax.tree.map(float, state.loss_scale) == LossScale(*expected, 0)


def test_a_fit_does_not_count_what_the_scale_was_too_large_for():
    data = np.ones((4, 1), np.float32)
    state, _ = fit(small, scaled(2.0**40), data, epochs=1, batch_size=1, max_bad_steps=0)
    assert (int(state.skipped), int(state.loss_scale.overflows)) == (4, 4)
    with pytest.raises(NotFiniteError, match=r"1 of 1 updates were skipped"):
        fit(small, scaled(2.0**40), data[:1] * np.nan, epochs=1, max_bad_steps=0)


def test_the_scale_does_not_sink_below_1_while_the_data_are_bad():
    state = scaled(1.5)
    for _ in range(3):
        state, _ = UPDATE(state, jnp.full(4, jnp.nan))
    assert float(state.loss_scale.value) == 1.0
