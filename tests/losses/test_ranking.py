"""Ranking losses against their peers, and right where these are wrong."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from peers import assert_agree, by_optax, by_rax, by_torch

import jloss

rng = np.random.default_rng(0)
SCORES = np.float32(rng.normal(0, 4, (8, 5)))
SCORES[:3] = [[17, 0, 0, 0, 0], [2, 2, 2, 2, 2], [80, -80, 0, 1, 1]]
GRADES = np.float32(rng.integers(0, 4, (8, 5)))
GRADES[:3] = [[1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [3, 2, 1, 0, 0]]
WEIGHTS = np.float32(rng.random((8, 5)))
WHERE = np.arange(40).reshape(8, 5) % 3 > 0
PER_LIST = partial(jloss.ranking_softmax_loss, reduce_fn=None)


@pytest.mark.parametrize(
    ("loss", "peer"),
    [
        (PER_LIST, by_rax(lambda r, x, y: r.softmax_loss(x, y, reduce_fn=None))),
        (PER_LIST, by_torch(lambda f, x, y: f.cross_entropy(x, y, reduction="none"))),
        (
            jloss.ranking_softmax_loss,
            by_optax(lambda o, x, y: o.ranking_softmax_loss(x, y)),
        ),
        (
            partial(PER_LIST, weights=WEIGHTS),
            by_rax(lambda r, x, y: r.softmax_loss(x, y, weights=WEIGHTS, reduce_fn=None)),
        ),
        (
            partial(PER_LIST, where=WHERE),
            by_rax(lambda r, x, y: r.softmax_loss(x, y, where=WHERE, reduce_fn=None)),
        ),
        (
            partial(jloss.ranking_softmax_loss, where=WHERE),
            by_rax(lambda r, x, y: r.softmax_loss(x, y, where=WHERE)),
        ),
        (
            partial(jloss.ranking_softmax_loss, where=WHERE, reduce_fn=jnp.sum),
            by_optax(lambda o, x, y: o.ranking_softmax_loss(x, y, where=WHERE, reduce_fn=jnp.sum)),
        ),
    ],
)
def test_values_and_gradients_are_those_of_a_peer(loss, peer):
    assert_agree(loss, peer, SCORES, GRADES)


def test_a_right_order_keeps_the_digits_of_its_small_loss():
    value, gradient = jax.jit(jax.value_and_grad(PER_LIST))(
        jnp.array([17.0, 0.0]), jnp.array([1.0, 0.0])
    )
    np.testing.assert_allclose(value, np.log1p(np.exp(-17.0)), rtol=3e-7)
    np.testing.assert_allclose(gradient[0], -1 / (1 + np.exp(17.0)), rtol=3e-7)


def test_the_mean_is_over_the_lists_that_have_an_item():
    where = jnp.array([[True, True], [False, False]])
    logits, grades = jnp.array([[0.0, 0.0], [jnp.nan, 0.0]]), jnp.array([[1.0, 0.0], [-1.0, 1.0]])
    value, gradient = jax.jit(jax.value_and_grad(jloss.ranking_softmax_loss))(
        logits, grades, where=where
    )
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.5, 0.5], [0, 0]], rtol=1e-6)
    assert jloss.ranking_softmax_loss(logits, grades, where=where[1:].repeat(2, 0)) == 0


def test_a_negative_grade_spoils_its_own_list():
    values = PER_LIST(jnp.zeros((2, 2)), jnp.array([[1.0, 0.0], [-1.0, 1.0]]))
    assert np.isnan(values).tolist() == [False, True]


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"ranking_softmax_loss: weights \(3,\) must broadcast"):
        PER_LIST(jnp.zeros((2, 2)), jnp.zeros((2, 2)), weights=jnp.ones(3))
