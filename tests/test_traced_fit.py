"""Fits within sweeps and transformations: each member is what a single fit is."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jloss

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(24, 3)).astype(np.float32)
TARGETS = (INPUTS @ [1.0, -2.0, 0.5] + RANDOM.normal(size=24)).astype(np.float32)
TRAIN, VALIDATION = (INPUTS[:12], TARGETS[:12]), (INPUTS[12:], TARGETS[12:])


def bent(params, inputs):
    return jnp.tanh(inputs @ params["slope"]) * params["size"]


def drawn(seed):
    return {"slope": jax.random.normal(jax.random.key(seed), (3,)), "size": jnp.ones(())}


def parts(rate, delta):
    return optax.sgd(rate), jloss.objective(bent, jloss.huber_loss, delta=delta)


# Single fits of the same numbers share their programs.
shared = cache(parts)


def fitted(rate, delta=0.5, seed=0, *, make=parts, train=TRAIN, **setting):
    optimizer, objective = make(rate, delta)
    setting = {"validation": VALIDATION, "epochs": 12, "batch_size": 4} | setting
    state = jloss.init(drawn(seed), optimizer)
    return jloss.fit(objective, state, train, key=jax.random.key(seed), **setting)


def same(together, place, alone):
    """A member of many fits against a fit of its own, whose history ends at its stop."""
    (params, step, history), (state, rows) = together, alone
    assert history.keys() == rows.keys()
    for name, row in rows.items():
        np.testing.assert_allclose(history[name][place][: len(row)], row, rtol=1e-5, err_msg=name)
        assert np.isnan(history[name][place][len(row) :]).all()
    assert int(step[place]) == int(state.step)
    for ours, theirs in zip(*map(jax.tree.leaves, (params, state.params)), strict=True):
        np.testing.assert_allclose(ours[place], theirs, rtol=1e-5)


def member(rate, delta=0.5, seed=0):
    state, history = fitted(rate, delta, seed, patience=2)
    return state.params, state.step, history


def test_each_fit_of_a_sweep_is_the_single_fit_with_its_own_early_stop():
    rates, seeds = (0.1, 0.6), (0, 1, 2)
    axes = {"rate": jnp.array(rates * 3), "delta": jnp.array([0.5, 2.0] * 3)}
    axes["seed"] = jnp.repeat(jnp.array(seeds), 2)
    found = jloss.sweep(member, **axes, paired=True, batch_size=6).values
    stops = set()
    for place in range(6):
        rate, delta = rates[place % 2], (0.5, 2.0)[place % 2]
        alone = fitted(rate, delta, seeds[place // 2], make=shared, patience=2)
        same(found, place, alone)
        stops.add(len(alone[1]["loss"]))
    assert len(stops) > 1 and min(stops) < 12


def test_a_learning_rate_may_be_traced_and_a_member_that_is_not_finite_spoils_no_other():
    # Nothing else is traced here: only the optimizer knows of it.
    params, step, history = found = jax.vmap(member)(jnp.array([0.1, jnp.nan]))
    same(found, 0, fitted(0.1, make=shared, patience=2))
    assert np.isnan(params["slope"][1]).all() and np.isnan(history["loss"][1]).all()
    assert int(step[1]) < int(step[0])


def test_folds_of_the_data_are_trained_at_once():
    # Seven rows in batches of four: the last one is smaller.
    folds = jax.tree.map(lambda leaf: np.stack([leaf[:7], leaf[5:]]), TRAIN)

    def loss(train):
        return fitted(0.1, make=shared, train=train, validation=None, epochs=3)[1]["loss"]

    many = jax.vmap(loss)(folds)
    for place in range(2):
        alone = loss(jax.tree.map(lambda leaf: leaf[place], folds))  # noqa: B023
        np.testing.assert_allclose(many[place], alone, rtol=1e-5)


def test_what_a_fit_reaches_is_differentiated_in_its_learning_rate():
    @jax.jit
    @jax.value_and_grad
    def reached(rate):
        return fitted(rate, validation=None, epochs=2)[1]["loss"][-1]

    step = 1e-2
    between = (float(reached(0.1 + step)[0]) - float(reached(0.1 - step)[0])) / (2 * step)
    np.testing.assert_allclose(reached(0.1)[1], between, rtol=0.02)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"callback": print}, "there can be no callback: all epochs are one program"),
        ({"max_bad_steps": 0}, "there can be no max_bad_steps"),
        ({"progress": True}, "there can be no progress"),
        ({"validation": lambda epoch: [VALIDATION]}, "validation must be arrays, not batches"),
    ],
)
def test_what_acts_between_epochs_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        jax.vmap(lambda rate: fitted(rate, **setting)[1])(jnp.ones(2))
