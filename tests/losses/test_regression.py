"""Regression losses against torch, keras, scikit-learn, scipy and mpmath."""

from functools import partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from peers import assert_same, ours, torchs

import jloss
from jloss._promises import once

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


def test_huber_loss_is_that_of_scipy():
    huber = pytest.importorskip("scipy.special").huber
    np.testing.assert_allclose(
        jloss.huber_loss(P, T, delta=0.7), huber(0.7, (P - T).astype(float)), rtol=1e-6
    )


def quantile_loss(p, t, quantile):
    return jloss.quantile_loss(p, t, quantile=quantile)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_quantile_loss_is_the_pinball_loss_of_sklearn(quantile):
    pinball = pytest.importorskip("sklearn.metrics").mean_pinball_loss
    got, _ = ours(quantile_loss, P, T, quantile)
    np.testing.assert_allclose(got.mean(), pinball(T.ravel(), P.ravel(), alpha=quantile), rtol=1e-6)


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
        np.testing.assert_allclose(ours(loss, P, T)[0].mean(-1), wanted, rtol=2e-6)


# Digits that peers lose


def test_the_gradient_of_huber_keeps_a_small_residual_beside_a_large_delta():
    _, gradient = ours(partial(jloss.huber_loss, delta=100.0), 1e-6, np.float32(0))
    assert gradient == np.float32(1e-6)


def test_log_cosh_keeps_its_digits_near_0():
    value, gradient = ours(jloss.log_cosh, 1e-4, np.float32(0))
    exact = mpmath.mpf(float(np.float32(1e-4)))
    np.testing.assert_allclose(value, float(mpmath.log(mpmath.cosh(exact))), rtol=5e-7)
    np.testing.assert_allclose(gradient, float(mpmath.tanh(exact)), rtol=5e-7)


def test_a_mask_hides_what_is_not_finite_from_value_and_gradient():
    predictions = np.float32([1, np.nan, np.inf, 4])
    targets, where = np.float32([0, 1, np.nan, 4.5]), np.array([True, False, False, True])
    for loss in (jloss.squared_error, jloss.huber_loss, jloss.log_cosh, jloss.quantile_loss):

        def total(p, loss=loss):
            return jloss.mean(loss(p, targets, where=where), where=where)

        value, gradient = once(jax.value_and_grad(total))(predictions)
        assert np.isfinite(value) and np.isfinite(gradient).all()
        assert not gradient[1:3].any() and gradient[0] > 0


# Smooth L1, percentages and logarithms


def smooth_l1_loss(p, t, beta):
    return jloss.smooth_l1_loss(p, t, beta=beta)


@pytest.mark.parametrize("beta", [0.3, 1.0, 5.0])
def test_smooth_l1_loss_and_its_gradient_are_those_of_torch(beta):
    peer = functional().smooth_l1_loss
    theirs = torchs(lambda p, t: peer(p, t, beta=beta, reduction="none"), P, T)
    assert_same(ours(smooth_l1_loss, P, T, beta), theirs)


def test_smooth_l1_loss_without_beta_is_the_absolute_error_with_a_derivative_for_beta():
    residual = np.float32([0, 1e-30, 1e-3, -2])

    def loss(residual, beta):
        return smooth_l1_loss(residual, np.zeros(4, np.float32), beta).sum()

    at_zero = once(jax.value_and_grad(loss, argnums=(0, 1)))(residual, 0.0)
    np.testing.assert_allclose(at_zero[0], np.abs(residual).sum(), rtol=1e-7)
    np.testing.assert_array_equal(at_zero[1][0], np.sign(residual))
    assert at_zero[1][1] == -1.5  # minus a half for each residual beyond


def test_the_percentage_error_is_that_of_keras_and_a_hundred_times_that_of_sklearn():
    got = jloss.mean_absolute_percentage_error(P, T)
    keras = pytest.importorskip("keras").losses.mean_absolute_percentage_error
    np.testing.assert_allclose(got.mean(-1), np.asarray(keras(T, P)), rtol=2e-6)
    sklearn = pytest.importorskip("sklearn.metrics").mean_absolute_percentage_error
    np.testing.assert_allclose(jloss.mean(got), 100 * sklearn(T.ravel(), P.ravel()), rtol=2e-6)


def test_a_target_of_zero_has_no_percentage_where_keras_drowns_the_mean():
    predictions, targets = np.float32([1, 2]), np.float32([0, 4])
    keras = pytest.importorskip("keras").losses.mean_absolute_percentage_error
    assert np.asarray(keras(targets, predictions)) > 1e8
    values = jloss.mean_absolute_percentage_error(predictions, targets)
    np.testing.assert_array_equal(values, [np.nan, 50.0])
    where = targets != 0
    values = jloss.mean_absolute_percentage_error(predictions, targets, where=where)
    assert jloss.mean(values, where=where) == 50


def test_squared_log_error_is_that_of_keras_and_sklearn():
    predictions, targets = np.abs(P), np.abs(T)
    got = jloss.squared_log_error(predictions, targets)
    keras = pytest.importorskip("keras").losses.mean_squared_logarithmic_error
    np.testing.assert_allclose(got.mean(-1), np.asarray(keras(targets, predictions)), rtol=1e-5)
    sklearn = pytest.importorskip("sklearn.metrics").mean_squared_log_error
    np.testing.assert_allclose(jloss.mean(got), sklearn(targets, predictions), rtol=1e-6)


def test_squared_log_error_keeps_the_digits_that_keras_loses_for_equal_sizes():
    prediction, target = np.float32(1e6), np.float32(1e6 + 1)
    exact = (mpmath.log1p(float(prediction)) - mpmath.log1p(float(target))) ** 2
    keras = pytest.importorskip("keras").losses.mean_squared_logarithmic_error
    theirs = np.asarray(keras(np.array([target]), np.array([prediction])))
    got = jloss.squared_log_error(np.array([prediction]), np.array([target]))
    assert abs(float(got[0]) / exact - 1) < 1e-6
    assert abs(theirs / float(exact) - 1) > 0.01


# Edges


EDGES = np.float32([0.0, 1.0, -1.0, 1e-6, -1e-4, 0.5, 17.0, -89.0, 1e4, -1e15])
AT_EDGES = np.repeat(EDGES, 3), np.float32(np.tile([0.0, 1.0, -3.0], len(EDGES)))


@pytest.mark.parametrize(
    ("loss", "name", "hyper"),
    [
        (jloss.squared_error, "mse_loss", {}),
        (jloss.absolute_error, "l1_loss", {}),
        (jloss.huber_loss, "huber_loss", {"delta": 0.3}),
        (jloss.huber_loss, "huber_loss", {"delta": 100.0}),
    ],
)
def test_values_and_gradients_at_edges_are_those_of_torch(loss, name, hyper):
    peer = getattr(functional(), name)
    theirs = torchs(lambda p, t: peer(p, t, reduction="none", **hyper), *AT_EDGES)
    assert_same(ours(partial(loss, **hyper), *AT_EDGES), theirs, rtol=4e-7, atol=0)


def test_log_cosh_at_edges_is_that_of_optax_in_float64():
    optax = pytest.importorskip("optax").losses
    with jax.enable_x64(True):
        both = once(jax.vmap(jax.value_and_grad(optax.log_cosh)))
        theirs = both(*(x.astype(float) for x in AT_EDGES))
    assert_same(ours(jloss.log_cosh, *AT_EDGES), theirs, rtol=1e-6, atol=1e-15)


def test_log_cosh_is_finite_far_away():
    value, gradient = ours(jloss.log_cosh, 1e30, np.float32(0))
    assert (value, gradient) == (np.float32(1e30), 1)


@pytest.mark.parametrize("quantile", [0.0, 0.1, 0.5, 1.0])
def test_the_gradient_of_the_quantile_loss_is_its_level_or_what_it_lacks_of_one(quantile):
    values, gradient = ours(quantile_loss, P, T, quantile)
    slope = np.where(P > T, 1 - quantile, -quantile)
    np.testing.assert_allclose(values, slope * (P.astype(float) - T), rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, rtol=1e-6)


def test_a_kink_has_the_gradient_zero():
    assert ours(jloss.absolute_error, 2.0, 2.0)[1] == 0
    assert ours(quantile_loss, 2.0, 2.0, 0.9)[1] == 0


def test_predictions_alone_are_held_against_zero():
    residuals = jnp.array([0.3, -4.0])
    for loss in (jloss.squared_error, jloss.l2_loss, jloss.huber_loss, jloss.log_cosh):
        np.testing.assert_array_equal(loss(residuals), loss(residuals, jnp.zeros(2)))
