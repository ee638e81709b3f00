"""Gradients of single examples against float64 numpy; the noise scale of a known law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from least_squares import DATA, INPUTS, LEAST_SQUARES, TARGETS

from jloss.average import Terms, average
from jloss.statistics import gradient_statistics

statistics = jax.jit(gradient_statistics, static_argnums=0, static_argnames="at_once")
PARAMS = {"w": np.array([1.0, 2.0, 3.0], np.float32), "b": np.float32(0.5)}


def gradients():
    """One a row, in float64: derivatives of the squared residual by w and b."""
    residual = INPUTS.astype(np.float64) @ [1.0, 2.0, 3.0] + 0.5 - TARGETS
    return 2 * residual[:, None] * np.c_[INPUTS, np.ones(len(INPUTS))]


def statistics_of(gradients):
    """Norms, variance and squared norm by their definitions."""
    mean, number = np.mean(gradients, axis=0), len(gradients)
    variance = np.sum(np.var(gradients, axis=0, ddof=1))
    return np.linalg.norm(gradients, axis=1), variance, np.sum(mean**2) - variance / number


@pytest.mark.parametrize("at_once", [4, 32])
def test_they_are_those_of_a_loop_over_examples(at_once):
    found = statistics(LEAST_SQUARES, PARAMS, DATA, at_once=at_once)
    norms, variance, squared_norm = statistics_of(gradients())
    np.testing.assert_allclose(found.norms, norms, rtol=1e-5)
    np.testing.assert_allclose(found.norm, np.linalg.norm(gradients().mean(0)), rtol=1e-5)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-5)
    np.testing.assert_allclose(found.squared_norm, squared_norm, rtol=1e-5)
    np.testing.assert_allclose(found.noise_scale, variance / squared_norm, rtol=1e-5)


def test_masked_examples_do_not_count_and_weights_do():
    where, weights = np.arange(11) % 3 > 0, np.arange(1.0, 12.0, dtype=np.float32)
    batch = {"inputs": INPUTS, "targets": TARGETS, "where": where, "weights": weights}
    found = statistics(LEAST_SQUARES, PARAMS, batch)
    share = weights / np.mean(weights[where])
    norms, variance, squared_norm = statistics_of((share[:, None] * gradients())[where])
    np.testing.assert_allclose(found.norms[where], norms, rtol=1e-5)
    np.testing.assert_array_equal(found.norms[~where], 0)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-5)
    np.testing.assert_allclose(found.squared_norm, squared_norm, rtol=1e-5)


def test_terms_add_up():
    def doubled(params, batch):
        each = LEAST_SQUARES(params, batch)
        return Terms({"one": each, "other": each})

    one, two = (statistics(f, PARAMS, DATA) for f in (LEAST_SQUARES, doubled))
    np.testing.assert_allclose(two.norms, 2 * one.norms, rtol=1e-5)
    np.testing.assert_allclose(two.noise_scale, one.noise_scale, rtol=1e-5)


def test_the_noise_scale_of_a_known_law_is_found_and_unbiased():
    """Gradients of mean 2 and variance 9 in each of 5 dimensions: B = 45 / 20."""
    draws = 2 + 3 * np.random.default_rng(0).normal(size=(400, 50, 5)).astype(np.float32)
    slope = lambda params, batch: average(batch @ params)  # noqa: E731
    found = jax.jit(jax.vmap(lambda batch: gradient_statistics(slope, jnp.ones(5), batch)))(draws)
    # Standard errors of the means are 0.13 and 0.10.
    np.testing.assert_allclose(np.mean(found.variance), 45, atol=0.5)
    np.testing.assert_allclose(np.mean(found.squared_norm), 20, atol=0.4)


def test_noise_that_hides_the_gradient_has_an_infinite_scale():
    slope = lambda params, batch: average(params * batch)  # noqa: E731
    found = gradient_statistics(slope, jnp.array(1.0), jnp.array([-1.0, 1.0, 0.1]))
    assert float(found.squared_norm) < 0 and np.isinf(found.noise_scale)
