"""Regression losses against their peers, and right where these are wrong."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from peers import (
    assert_agree,
    by_keras,
    by_numpy,
    by_optax,
    by_sklearn,
    by_torch,
    values_and_gradients,
)

import jloss

rng = np.random.default_rng(0)
EDGES = np.float32([0.0, 1.0, -1.0, 1e-6, -1e-4, 0.5, 17.0, -89.0, 1e4, -1e15])
PREDICTIONS = np.concatenate([np.repeat(EDGES, 3), rng.normal(0, 3, 20)]).astype(np.float32)
TARGETS = np.concatenate([np.tile([0.0, 1.0, -3.0], len(EDGES)), rng.normal(0, 3, 20)])
TARGETS = TARGETS.astype(np.float32)
VECTORS = rng.normal(size=(2, 6, 4)).astype(np.float32)
VECTORS[0, :3] = VECTORS[1, :3] * np.float32([[2.0], [-0.5], [1e3]])  # parallel and opposite


@pytest.mark.parametrize(
    ("loss", "peer"),
    [
        (jloss.squared_error, by_torch(lambda f, p, t: f.mse_loss(p, t, reduction="none"))),
        (
            jloss.squared_error,
            by_keras(lambda k, p, t: k.mean_squared_error(t[:, None], p[:, None])),
        ),
        (jloss.squared_error, by_optax(lambda o, p, t: o.squared_error(p, t))),
        (jloss.l2_loss, by_sklearn("HalfSquaredError")),
        (jloss.l2_loss, by_optax(lambda o, p, t: o.l2_loss(p, t))),
        (jloss.absolute_error, by_torch(lambda f, p, t: f.l1_loss(p, t, reduction="none"))),
        (
            jloss.absolute_error,
            by_keras(lambda k, p, t: k.mean_absolute_error(t[:, None], p[:, None])),
        ),
        (jloss.huber_loss, by_torch(lambda f, p, t: f.huber_loss(p, t, reduction="none"))),
        (
            partial(jloss.huber_loss, delta=0.3),
            by_torch(lambda f, p, t: f.huber_loss(p, t, reduction="none", delta=0.3)),
        ),
        (
            partial(jloss.huber_loss, delta=100.0),
            by_keras(lambda k, p, t: k.huber(t[:, None], p[:, None], delta=100.0)),
        ),
        (jloss.log_cosh, by_optax(lambda o, p, t: o.log_cosh(p, t))),
    ],
)
def test_values_and_gradients_are_those_of_a_peer(loss, peer):
    assert_agree(loss, peer, PREDICTIONS, TARGETS)


def test_log_cosh_is_that_of_keras_which_has_log_two_in_float32():
    peer = by_keras(lambda k, p, t: k.log_cosh(t[:, None], p[:, None]))
    assert_agree(jloss.log_cosh, peer, PREDICTIONS, TARGETS, atol=2e-9)


@pytest.mark.parametrize("quantile", [0.0, 0.1, 0.5, 1.0])
def test_the_quantile_loss_is_scikit_learns(quantile):
    away = PREDICTIONS != TARGETS  # at the kink its gradient is a jump's end, ours is 0
    peer = by_numpy(
        lambda np_, p, t: np_.where(p < t, quantile * (t - p), (1 - quantile) * (p - t))
    )
    if 0 < quantile < 1:
        peer = by_sklearn("PinballLoss", quantile=quantile)
    small = away & (np.abs(PREDICTIONS) < 1e3)
    loss = partial(jloss.quantile_loss, quantile=quantile)
    assert_agree(loss, peer, PREDICTIONS[small], TARGETS[small])


@pytest.mark.parametrize(
    "peer",
    [
        by_torch(lambda f, p, t: 1 - f.cosine_similarity(p, t, dim=-1)),
        by_keras(lambda k, p, t: 1 + k.cosine_similarity(t, p)),
        by_optax(lambda o, p, t: o.cosine_distance(p, t)),
        by_numpy(lambda s, p, t: s.paired_cosine_distances(p, t), "sklearn.metrics.pairwise"),
    ],
)
def test_the_cosine_distance_is_that_of_a_peer(peer):
    assert_agree(jloss.cosine_distance, peer, *VECTORS, atol=1e-7)


def test_the_cosine_of_components_along_two_axes_is_that_of_the_flat_vectors():
    a, b = VECTORS.reshape(2, 3, 2, 4)
    rows = (x.swapaxes(0, 1).reshape(2, 12) for x in (a, b))
    by_axes = jax.jit(partial(jloss.cosine_distance, axis=(0, 2)))(a, b)
    assert np.array_equal(by_axes, jax.jit(jloss.cosine_distance)(*rows))


# Where peers are wrong ---------------------------------------------------------------------------


def test_the_gradient_of_huber_is_exact_for_a_small_residual_and_a_large_delta():
    gradient = jax.grad(partial(jloss.huber_loss, delta=100.0))
    for residual in np.float32([1e-6, -1e-6, 3e-30]):
        assert gradient(residual, jnp.float32(0)) == residual


def test_log_cosh_is_exact_near_zero():
    mpmath = pytest.importorskip("mpmath")
    for residual in np.float32([1e-4, -3e-3, 1e-9]):
        value, gradient = jax.value_and_grad(jloss.log_cosh)(residual, jnp.float32(0))
        with mpmath.workdps(50):
            exact = mpmath.mpf(float(residual))
            np.testing.assert_allclose(value, float(mpmath.log(mpmath.cosh(exact))), rtol=9e-7)
            np.testing.assert_allclose(gradient, float(mpmath.tanh(exact)), rtol=3e-7)


def test_log_cosh_is_finite_far_away():
    value, gradient = jax.value_and_grad(jloss.log_cosh)(jnp.float32(1e30), jnp.float32(0))
    assert (value, gradient) == (np.float32(1e30), 1)


def test_a_kink_has_the_gradient_zero():
    for loss in (jloss.absolute_error, partial(jloss.quantile_loss, quantile=0.9)):
        assert jax.grad(loss)(2.0, 2.0) == 0


def test_the_cosine_of_a_zero_vector_is_finite_with_a_zero_gradient():
    zero, other = np.zeros(4, np.float32), np.float32([1, 2, 0, 0])
    run = jax.jit(jax.value_and_grad(jloss.cosine_distance, argnums=(0, 1)))
    for pair in ((zero, other), (other, zero), (zero, zero)):
        value, gradients = run(*pair)
        assert value == 1
        for vector, gradient in zip(pair, gradients, strict=True):
            # For the other vector it is 0 but for the rounding of its direction.
            assert not gradient.any() if vector is zero else np.abs(gradient).max() < 1e-7


def test_nearly_parallel_vectors_keep_the_digits_of_their_distance():
    angle = np.float32(1e-4)
    distance = jax.jit(jloss.cosine_distance)(np.float32([1, 0]), np.float32([1, angle]))
    np.testing.assert_allclose(distance, 1 - np.cos(np.arctan(float(angle))), rtol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        jloss.squared_error,
        jloss.l2_loss,
        jloss.absolute_error,
        jloss.huber_loss,
        jloss.log_cosh,
        jloss.quantile_loss,
    ],
)
def test_a_mask_hides_nan_from_value_and_gradient(loss):
    targets, where = np.float32([0, 1, np.nan]), np.array([True, False, False])
    run = values_and_gradients(partial(loss, where=where))
    values, gradient = run(np.float32([1, np.nan, 2]), targets)
    wanted, slope = jax.value_and_grad(loss)(1.0, 0.0)
    assert values.tolist() == [wanted, 0, 0]
    assert gradient.tolist() == [slope, 0, 0]


def test_predictions_alone_are_held_against_zero():
    residuals = jnp.array([0.3, -4.0])
    for loss in (jloss.squared_error, jloss.l2_loss, jloss.huber_loss, jloss.log_cosh):
        assert np.array_equal(loss(residuals), loss(residuals, jnp.zeros(2)))
