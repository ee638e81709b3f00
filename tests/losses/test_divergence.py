"""Divergences against their peers, and right where these are wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from peers import assert_agree, by_keras, by_optax, by_scipy, by_torch, values_and_gradients

import jloss

rng = np.random.default_rng(0)
TARGETS = rng.dirichlet(np.ones(4), 10).astype(np.float32)
TARGETS[:3] = [[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]]
LOGITS = rng.normal(0, 3, (10, 4))
LOG_PREDICTIONS = np.float32(LOGITS - np.logaddexp.reduce(LOGITS, -1, keepdims=True))
LOG_PREDICTIONS[2] = np.log(0.25)


@pytest.mark.parametrize(
    "peer",
    [
        by_torch(lambda f, p, t: f.kl_div(p, t, reduction="none").sum(-1)),
        by_optax(lambda o, p, t: o.kl_divergence(p, t)),
        by_scipy(lambda s, p, t: s.xlogy(t, t).sum(-1) - (t * p).sum(-1)),
    ],
)
def test_values_and_gradients_are_those_of_a_peer(peer):
    assert_agree(jloss.kl_divergence, peer, LOG_PREDICTIONS, TARGETS, atol=1e-6)


def test_it_is_that_of_keras_for_probabilities():
    positive = TARGETS[3:]  # it clips a 0
    peer = by_keras(lambda k, p, t: k.kl_divergence(t, p.exp()))
    assert_agree(jloss.kl_divergence, peer, LOG_PREDICTIONS[3:], positive, atol=1e-6)


def test_equal_distributions_have_no_divergence_and_never_a_negative_one():
    probabilities = rng.dirichlet(np.ones(7), 500).astype(np.float32)
    values = jax.jit(jloss.kl_divergence)(np.log(probabilities), probabilities)
    assert (values >= 0).all()
    assert (values <= 1e-6).all()


def test_an_impossible_outcome_costs_infinitely_much_only_if_it_is_possible():
    log_predictions = jnp.array([[0.0, -jnp.inf], [0.0, -jnp.inf]])
    targets = jnp.array([[1.0, 0.0], [0.5, 0.5]])
    assert jax.jit(jloss.kl_divergence)(log_predictions, targets).tolist() == [0, np.inf]


def test_a_negative_target_spoils_its_own_example_value_and_gradient():
    log_predictions = np.log(np.full((2, 2), 0.5, np.float32))
    targets = np.float32([[0.5, 0.5], [1.5, -0.5]])
    values, gradient = values_and_gradients(jloss.kl_divergence)(log_predictions, targets)
    assert np.isnan(values).tolist() == [False, True]
    assert np.isnan(gradient).all(-1).tolist() == [False, True]


def test_the_gradient_for_a_target_of_zero_is_zero():
    gradient = jax.jit(jax.grad(jloss.kl_divergence, argnums=1))(
        jnp.log(jnp.full(2, 0.5)), jnp.array([1.0, 0.0])
    )
    np.testing.assert_allclose(gradient, [1 + np.log(2), 0], rtol=1e-6)
