"""A state and one update of it, against hand-written loops of optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from least_squares import (
    ADAM,
    DATA,
    INPUTS,
    LEAST_SQUARES,
    SGD,
    TARGETS,
    linear,
    square,
    zeros,
)

from jloss.average import Average, average
from jloss.objective import Aux
from jloss.update import State, init, step


def test_step_does_what_a_hand_written_optax_loop_does():
    optimizer = ADAM
    params, state = zeros(), init(zeros(), optimizer)
    opt_state, update = optimizer.init(params), step(LEAST_SQUARES)
    for start in (0, 4, 8):
        batch = (INPUTS[start : start + 4], TARGETS[start : start + 4])
        loss, grads = jax.value_and_grad(
            lambda p, b=batch: jnp.mean(square(linear(p, b[0]), b[1]))
        )(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        state, before = update(state, batch)
        np.testing.assert_allclose(before.value, loss, rtol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert (int(state.step), int(state.skipped)) == (3, 0)


@pytest.mark.parametrize(
    "batch", [(INPUTS * np.nan, TARGETS), (INPUTS, np.full(11, 3e38, np.float32))]
)
def test_an_update_that_is_not_finite_is_skipped_and_counted(batch):
    update = step(LEAST_SQUARES)
    state, _ = update(init(zeros(), ADAM), DATA)
    old = jax.tree.map(np.array, state)
    state, bad = update(state, batch)
    assert not np.isfinite(bad.value)
    assert (int(state.step), int(state.skipped)) == (2, 1)
    for ours, theirs in zip(jax.tree.leaves(old), jax.tree.leaves(state), strict=True):
        if np.ndim(ours) == 0 and ours.dtype == np.int32:
            continue  # the counts, looked at above
        np.testing.assert_array_equal(ours, theirs)
    state, good = update(state, DATA)
    assert np.isfinite(good.value) and int(state.skipped) == 1
    assert not np.array_equal(state.params["w"], old.params["w"])


def test_a_finite_loss_with_an_infinite_gradient_is_skipped():
    root = lambda params, batch: average(jnp.sqrt(params) * batch)  # noqa: E731
    # An optimizer that goes by the sign alone would make a finite update of it.
    state, before = step(root)(init(jnp.array(0.0), optax.sign_sgd(0.1)), jnp.ones(2))
    assert float(before.value) == 0.0
    assert (int(state.skipped), float(state.params)) == (1, 0.0)


def test_an_update_that_overflows_the_parameters_is_skipped():
    slope = lambda params, batch: average(params * batch)  # noqa: E731
    state, before = step(slope)(init(jnp.array(3e38), optax.sgd(-1e38)), jnp.ones(1))
    assert np.isfinite(before.value)
    assert (int(state.skipped), float(state.params)) == (1, np.float32(3e38))


def test_init_copies_so_that_donation_spares_what_the_caller_holds():
    params = zeros()
    state = init(params, optax.lbfgs())  # which keeps the params themselves in its state
    held = state.params["w"]
    step(LEAST_SQUARES)(state, DATA)
    np.testing.assert_array_equal(params["w"], np.zeros(3))
    assert held.is_deleted()  # the promise "donated": its memory went into the new state


def test_line_searches_get_the_value_they_need():
    state = init(zeros(), optax.lbfgs())
    update = step(LEAST_SQUARES)
    for _ in range(20):
        state, _ = update(state, DATA)
    design = np.c_[INPUTS, np.ones(11)]
    solution = np.linalg.lstsq(design, TARGETS, rcond=None)[0]
    np.testing.assert_allclose(np.r_[state.params["w"], state.params["b"]], solution, atol=1e-4)


def test_sharpness_aware_steps_follow_the_gradient_at_the_worst_point_nearby():
    nearby = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    sharpness_aware = optax.contrib.sam(optax.sgd(0.1), nearby, opaque_mode=True)
    state, _ = step(LEAST_SQUARES)(init(zeros(), sharpness_aware), DATA)
    design, at = np.c_[INPUTS, np.ones(11)].astype(np.float64), np.zeros(4)
    gradient = lambda at: 2 * design.T @ (design @ at - TARGETS) / 11  # noqa: E731
    worst = at + 0.05 * gradient(at) / np.linalg.norm(gradient(at))
    found = np.r_[state.params["w"], state.params["b"]]
    np.testing.assert_allclose(found, at - 0.1 * gradient(worst), rtol=1e-5)


def test_polyak_steps_are_as_long_as_the_loss_says():
    state, _ = step(LEAST_SQUARES)(init(zeros(), optax.polyak_sgd(max_learning_rate=9)), DATA)
    gradient = -2 * np.c_[INPUTS, np.ones(11)].T.astype(np.float64) @ TARGETS / 11
    found = np.r_[state.params["w"], state.params["b"]]
    wanted = -np.mean(TARGETS.astype(np.float64) ** 2) / np.sum(gradient**2) * gradient
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_python_numbers_and_weak_types_compile_one_update():
    traced = []

    def slope(params, batch):
        traced.append(1)
        return average(params * batch)

    update, state = step(slope), init(1.0, ADAM)
    for _ in range(3):
        state, _ = update(state, jnp.ones(2))
    assert len(traced) == 1
    assert state.params.dtype == jnp.float32 and not state.params.weak_type


def test_states_of_many_models_are_made_by_vmap():
    optimizer = ADAM
    states = jax.vmap(lambda w: init({"w": w, "b": 0.0}, optimizer))(jnp.ones((4, 3)))
    assert isinstance(states, State) and states.step.shape == (4,)


@pytest.mark.parametrize(
    ("params", "optimizer", "error", "message"),
    [
        ({"n": jnp.arange(3)}, optax.sgd(1.0), TypeError, r"params\['n'\] is int32; a gradient"),
        ({"f": jax.nn.relu}, optax.sgd(1.0), TypeError, r"params\['f'\] is <class"),
        ({}, optax.sgd(1.0), ValueError, "params hold no arrays"),
        (zeros(), optax.sgd, TypeError, r"as in optax.adam\(1e-3\), not <function sgd"),
    ],
)
def test_init_refuses(params, optimizer, error, message):
    with pytest.raises(error, match=message):
        init(params, optimizer)


def test_an_objective_must_return_an_average():
    with pytest.raises(TypeError, match=r"must return an Average, not .*jloss.average\(values\)"):
        step(lambda p, batch: jnp.mean(p * batch))(init(1.0, SGD), jnp.ones(2))


def test_an_average_made_by_hand_is_as_good():
    by_hand = lambda p, batch: Average(jnp.sum(p * batch), jnp.sum(batch))  # noqa: E731
    state, before = step(by_hand)(init(2.0, optax.sgd(0.5)), jnp.array([1.0, 3.0]))
    assert (float(before.value), float(state.params)) == (2.0, 1.5)


# What the objective is given beside params and batch, and returns beside its average.


def noisy(params, batch, model_state, key, step):
    noise = jax.random.normal(key)
    seen = {"noise": noise, "calls": model_state["calls"] + 1, "at": step}
    return average(params * batch + noise), Aux(model_state=seen)


UPDATE_NOISY = step(noisy)


def noisy_state():
    seen = {"noise": 0.0, "calls": 0, "at": -1}
    return init(1.0, SGD, model_state=seen, key=jax.random.key(3))


def test_each_update_draws_its_own_key_and_keeps_the_model_state():
    state = noisy_state()
    for number in range(3):
        state, _ = UPDATE_NOISY(state, jnp.ones(2))
        drawn = jax.random.normal(jax.random.fold_in(jax.random.key(3), number))
        assert jax.tree.map(float, state.model_state) == {
            "noise": float(drawn),
            "calls": number + 1,
            "at": number,
        }
    assert jax.tree.map(jnp.shape, state.model_state) == {"noise": (), "calls": (), "at": ()}


def test_a_skipped_update_keeps_the_old_model_state():
    state, _ = UPDATE_NOISY(noisy_state(), jnp.ones(2))
    old = jax.tree.map(float, state.model_state)
    state, _ = UPDATE_NOISY(state, jnp.full(2, jnp.nan))
    assert jax.tree.map(float, state.model_state) == old
    assert (int(state.step), int(state.skipped)) == (2, 1)


def test_without_a_key_an_objective_is_given_none():
    def keyless(params, batch, key):
        assert key is None
        return average(params * batch)

    step(keyless)(init(1.0, SGD), jnp.ones(2))


def test_a_model_state_that_is_not_returned_is_kept():
    scaled = lambda p, batch, model_state: average(p * batch * model_state)  # noqa: E731
    state, _ = step(scaled)(init(1.0, SGD, model_state=2), jnp.ones(2))
    assert int(state.model_state) == 2


def test_a_model_state_that_init_was_not_given_is_an_error():
    grown = lambda p, batch: (average(p * batch), Aux(model_state={"mean": p}))  # noqa: E731
    with pytest.raises(TypeError, match=r"shapes \{'mean': \(\)\}, but was given None; .*init\("):
        step(grown)(init(1.0, SGD), jnp.ones(2))
