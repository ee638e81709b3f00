"""Losses on embeddings against their peers, and right where these are wrong."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from peers import assert_agree, by_numpy, by_optax

import jloss

rng = np.random.default_rng(0)
EMBEDDINGS = np.float32(rng.normal(size=(6, 3)))
GROUPS = np.int32([0, 1, 0, 2, 1, 0])


def ntxent_pair_by_pair(m, embeddings, labels, temperature):
    """The sum of the definition, term by term."""
    directions = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    similarity, terms = directions @ directions.T / temperature, []
    for i in range(len(labels)):
        strangers = sum(
            m.exp(similarity[i, k]) for k in range(len(labels)) if labels[k] != labels[i]
        )
        for j in range(len(labels)):
            if i != j and labels[i] == labels[j]:
                terms.append(m.log1p(strangers / m.exp(similarity[i, j])))
    return sum(terms) / max(len(terms), 1)


@pytest.mark.parametrize("temperature", [0.07, 1.0, 20.0])
@pytest.mark.parametrize("labels", [GROUPS, np.int32([0, 0, 0, 1, 2, 3])], ids=["groups", "loners"])
def test_ntxent_is_the_sum_over_its_pairs(labels, temperature):
    loss = partial(jloss.ntxent, temperature=temperature)
    peer = by_numpy(partial(ntxent_pair_by_pair, temperature=temperature))
    assert_agree(loss, peer, EMBEDDINGS, labels, rtol=2e-5, atol=1e-6 / temperature)


def test_ntxent_is_that_of_optax():
    peer = by_optax(lambda o, x, y: o.ntxent(x, y, temperature=0.5))
    assert_agree(partial(jloss.ntxent, temperature=0.5), peer, EMBEDDINGS, GROUPS, atol=1e-6)


def test_a_small_temperature_does_not_overflow():
    value, gradient = jax.jit(jax.value_and_grad(jloss.ntxent))(EMBEDDINGS, GROUPS, 1e-3)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_a_zero_vector_is_at_right_angles_to_all_with_a_zero_gradient():
    embeddings = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    value, gradient = jax.jit(jax.value_and_grad(jloss.ntxent))(
        embeddings, jnp.array([0, 0, 1]), 1.0
    )
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    assert not gradient[0].any()


def test_without_a_pair_there_is_no_loss():
    value, gradient = jax.jit(jax.value_and_grad(jloss.ntxent))(EMBEDDINGS, jnp.arange(6))
    assert value == 0
    assert not gradient.any()


def test_a_masked_example_is_as_if_it_were_not_there():
    where = jnp.array([True, True, False, True, True, True])
    dirty = EMBEDDINGS.copy()
    dirty[2] = np.nan
    run = jax.jit(jax.value_and_grad(partial(jloss.ntxent, temperature=0.5)))
    value, gradient = run(dirty, GROUPS, where=where)
    wanted, wanted_gradient = run(EMBEDDINGS[where], GROUPS[where])
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    np.testing.assert_allclose(gradient[where], wanted_gradient, rtol=1e-5, atol=1e-6)
    assert not gradient[2].any()
