"""Regression losses against torch, keras, scikit-learn, scipy and mpmath."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from peers import assert_same, ours, torchs

import jloss

rng = np.random.default_rng(0)
P = (3 * rng.normal(size=(6, 5))).astype(np.float32)
T = (3 * rng.normal(size=(6, 5))).astype(np.float32)


def functional():
    return pytest.importorskip("torch").nn.functional


TORCH = {
    "mse_loss": (jloss.squared_error, {}),
    "l1_loss": (jloss.absolute_error, {}),
    "huber_loss": (lambda p, t: jloss.huber_loss(p, t, delta=1.5), {"delta": 1.5}),
}


@pytest.mark.parametrize("name", TORCH)
def test_values_and_gradients_are_those_of_torch(name):
    loss, hyper = TORCH[name]
    peer = getattr(functional(), name)
    theirs = torchs(lambda p, t: peer(p, t, reduction="none", **hyper), P, T)
    assert_same(ours(loss, P, T), theirs)


def test_half_a_squared_error_is_half_of_torchs():
    theirs = torchs(lambda p, t: 0.5 * functional().mse_loss(p, t, reduction="none"), P, T)
    assert_same(ours(jloss.l2_loss, P, T), theirs)


def test_cosine_distance_is_one_minus_torchs_similarity():
    theirs = torchs(lambda p, t: 1 - functional().cosine_similarity(p, t, dim=-1), P, T)
    assert_same(ours(jloss.cosine_distance, P, T), theirs)


def test_cosine_distance_is_that_of_scipy():
    cosine = pytest.importorskip("scipy.spatial.distance").cosine
    wanted = [cosine(p, t) for p, t in zip(P.astype(float), T.astype(float), strict=True)]
    np.testing.assert_allclose(jloss.cosine_distance(P, T), wanted, rtol=2e-6)


def test_huber_loss_is_that_of_scipy():
    huber = pytest.importorskip("scipy.special").huber
    np.testing.assert_allclose(
        jloss.huber_loss(P, T, delta=0.7), huber(0.7, (P - T).astype(float)), rtol=1e-6
    )


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_quantile_loss_is_the_pinball_loss_of_sklearn(quantile):
    pinball = pytest.importorskip("sklearn.metrics").mean_pinball_loss
    got = jloss.mean(jloss.quantile_loss(P, T, quantile=quantile))
    np.testing.assert_allclose(got, pinball(T.ravel(), P.ravel(), alpha=quantile), rtol=1e-6)


def test_means_are_those_of_keras():
    losses = pytest.importorskip("keras").losses
    pairs = {
        losses.mean_squared_error: jloss.squared_error,
        losses.mean_absolute_error: jloss.absolute_error,
        losses.huber: jloss.huber_loss,
        losses.log_cosh: jloss.log_cosh,
    }
    for theirs, loss in pairs.items():
        wanted = np.asarray(theirs(T, P))
        np.testing.assert_allclose(loss(P, T).mean(-1), wanted, rtol=2e-6)


# Digits that peers lose


def test_the_gradient_of_huber_keeps_a_small_residual_beside_a_large_delta():
    gradient = jax.grad(lambda p: jloss.huber_loss(p, jnp.float32(0.0), delta=100.0))
    assert gradient(jnp.float32(1e-6)) == np.float32(1e-6)


def test_log_cosh_keeps_its_digits_near_0():
    value, gradient = jax.value_and_grad(jloss.log_cosh)(jnp.float32(1e-4), jnp.float32(0.0))
    exact = mpmath.mpf(float(np.float32(1e-4)))
    np.testing.assert_allclose(value, float(mpmath.log(mpmath.cosh(exact))), rtol=5e-7)
    np.testing.assert_allclose(gradient, float(mpmath.tanh(exact)), rtol=5e-7)


def test_the_cosine_of_a_zero_vector_is_finite_with_a_zero_gradient():
    zero, other = jnp.zeros(3), jnp.array([1.0, 2.0, 3.0])
    value, gradients = jax.value_and_grad(jloss.cosine_distance, (0, 1))(zero, other)
    assert value == 1.0
    assert not np.any(gradients)


def test_a_mask_hides_what_is_not_finite_from_value_and_gradient():
    predictions = jnp.array([1.0, jnp.nan, jnp.inf, 4.0])
    targets, where = jnp.array([0.0, 1.0, jnp.nan, 4.5]), jnp.array([True, False, False, True])
    for loss in (jloss.squared_error, jloss.huber_loss, jloss.log_cosh, jloss.quantile_loss):
        gradient = jax.grad(
            lambda p, loss=loss: jloss.mean(loss(p, targets, where=where), where=where)
        )(predictions)
        assert np.isfinite(gradient).all()
        assert not gradient[1:3].any() and gradient[0] > 0
