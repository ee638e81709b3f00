"""Margin losses against their peers, and right where these are wrong."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify
from peers import assert_agree, by_keras, by_numpy, by_optax, by_torch, values_and_gradients

import jloss

rng = np.random.default_rng(0)
SCORES = np.concatenate([[0.0, 0.5, -0.5, 17.0, -1e4, 1e-6], rng.normal(0, 2, 14)])
SCORES = SCORES.astype(np.float32)
SIGNS = rng.choice(np.float32([-1, 1]), 20)
ROWS = np.float32(rng.normal(0, 2, (12, 4)))
ROWS[:3] = [[17, 0, 0, 0], [0, 0, 0, 0], [-1e4, 1e4, 1e4, 3]]
CLASSES = np.concatenate([[0, 1, 0], rng.integers(0, 4, 9)]).astype(np.int32)


def others_of_torch(scores, classes):
    own = scores.new_zeros(scores.shape).scatter_(1, classes[:, None], 1).bool()
    return scores.masked_fill(own, -np.inf), scores.gather(1, classes[:, None])[:, 0]


def multiclass_hinge_in_torch(f, scores, classes):
    others, own = others_of_torch(scores, classes)
    return f.relu(1 + others.amax(-1) - own)


def hinge_row_by_row(metrics, scores, classes):
    rows = zip(scores, classes, strict=True)
    return np.array([metrics.hinge_loss([c], [row], labels=range(4)) for row, c in rows])


@pytest.mark.parametrize(
    ("loss", "peer", "inputs"),
    [
        (
            jloss.hinge_loss,
            by_keras(lambda k, p, t: k.hinge(t[:, None], p[:, None])),
            (SCORES, SIGNS),
        ),
        (jloss.hinge_loss, by_torch(lambda f, p, t: f.relu(1 - p * t)), (SCORES, SIGNS)),
        (jloss.hinge_loss, by_optax(lambda o, p, t: o.hinge_loss(p, t)), (SCORES, SIGNS)),
        (jloss.multiclass_hinge_loss, by_torch(multiclass_hinge_in_torch), (ROWS, CLASSES)),
        (
            jloss.multiclass_hinge_loss,
            by_optax(lambda o, p, t: o.multiclass_hinge_loss(p, t)),
            (ROWS[2:], CLASSES[2:]),
        ),
        (
            jloss.multiclass_hinge_loss,
            by_numpy(hinge_row_by_row, "sklearn.metrics"),
            (ROWS[3:], CLASSES[3:]),
        ),
    ],
)
def test_values_and_gradients_are_those_of_a_peer(loss, peer, inputs):
    assert_agree(loss, peer, *inputs)


def test_beyond_the_margin_and_on_it_the_gradient_is_zero():
    assert jax.grad(jloss.hinge_loss)(1.0, 1.0) == 0
    on_it = jnp.array([2.0, 1.0, 0.0])
    assert not jax.grad(jloss.multiclass_hinge_loss)(on_it, jnp.array(0)).any()


def test_rivals_that_tie_share_the_gradient():
    gradient = jax.grad(jloss.multiclass_hinge_loss)(jnp.array([0.0, 1.0, 1.0]), jnp.array(0))
    assert gradient.tolist() == [-1, 0.5, 0.5]


def test_a_single_class_is_always_right():
    assert jloss.multiclass_hinge_loss(jnp.array([[3.0]]), jnp.array([0])).tolist() == [0]


@pytest.mark.parametrize("label", [-1, 3, -100])
def test_a_label_out_of_range_spoils_its_own_example_and_raises_under_checkify(label):
    scores, labels = jnp.array([[1.0, 2.0, 0.5]] * 3), jnp.array([0, 2, label])
    loss = jloss.multiclass_hinge_loss
    values, gradient = values_and_gradients(loss)(scores, labels)
    assert np.isnan(values).tolist() == [False, False, True]
    assert np.isnan(gradient).all(-1).tolist() == [False, False, True]
    error, _ = jax.jit(checkify.checkify(loss, errors=checkify.user_checks))(scores, labels)
    message = rf"labels must be from 0 to 2; at index \[2\] it is {label}"
    with pytest.raises(checkify.JaxRuntimeError, match=message):
        error.throw()


@pytest.mark.parametrize("sign", [0.0, 0.5, np.nan])
def test_a_target_that_is_no_sign_spoils_its_own_element_and_raises_under_checkify(sign):
    targets = jnp.array([1.0, sign, -1.0])
    values = jloss.hinge_loss(jnp.zeros(3), targets)
    assert np.isnan(values).tolist() == [False, True, False]
    checked = jax.jit(checkify.checkify(jloss.hinge_loss, errors=checkify.user_checks))
    with pytest.raises(checkify.JaxRuntimeError, match=r"targets must be -1 or 1; at index \[1\]"):
        checked(jnp.zeros(3), targets)[0].throw()


def test_a_mask_hides_nan_and_impossible_labels_from_value_and_gradient():
    scores = jnp.array([[1.0, 2.0, 0.0], [jnp.nan, jnp.inf, 0.0]])
    labels, where = jnp.array([0, -100]), jnp.array([True, False])
    run = values_and_gradients(partial(jloss.multiclass_hinge_loss, where=where))
    values, gradient = run(scores, labels)
    assert values.tolist() == [2, 0]
    assert gradient.tolist() == [[-1, 1, 0], [0, 0, 0]]


def test_a_hidden_class_is_no_rival():
    scores, where = jnp.array([[1.0, jnp.nan, 0.5]]), jnp.array([[True, False, True]])
    assert jloss.multiclass_hinge_loss(scores, jnp.array([0]), where=where).tolist() == [0.5]
