"""Divergences against torch, scipy and optax, and where these are wrong."""

from functools import partial

import jax
import numpy as np
import optax
import pytest
from peers import assert_same, ours, torchs

import jloss
from jloss._promises import once

RNG = np.random.default_rng(0)
LOG_P = np.float32(np.log(RNG.dirichlet(np.ones(5), 6)))
T = np.float32(RNG.dirichlet(np.ones(5), 6))
AMOUNTS = np.float32(RNG.lognormal(size=(6, 5)))
SPARSE = np.where(RNG.random((6, 5)) < 0.4, np.float32(0.0), AMOUNTS)
ONE_HOT = np.float32([[0, -np.inf, -np.inf]])


@pytest.mark.parametrize("log_target", [False, True])
def test_divergences_are_those_of_torch(log_target):
    functional = pytest.importorskip("torch.nn.functional")
    targets = np.log(T) if log_target else T
    loss = jloss.kl_divergence_with_log_targets if log_target else jloss.kl_divergence

    def theirs(log_p, targets):
        return functional.kl_div(log_p, targets, reduction="none", log_target=log_target).sum(-1)

    assert_same(ours(loss, LOG_P, targets), torchs(theirs, LOG_P, targets))


@pytest.mark.parametrize("axis", [-1, 0, (0, 1), None])
@pytest.mark.parametrize(
    "name", ["kl_divergence", "kl_divergence_with_log_targets", "generalized_kl_divergence"]
)
def test_values_gradients_axes_and_masks_are_those_of_optax(name, axis):
    targets = np.log(T) if "log_targets" in name else T
    where = RNG.random(T.shape) < 0.7
    where[:, 0] = where[0] = True
    got, wanted = (
        ours(partial(getattr(library, name), axis=axis, where=where), LOG_P, targets)
        for library in (jloss, optax.losses)
    )
    assert_same(got, wanted)


def test_one_hot_log_targets_are_finite_where_optax_is_not():
    log_p = np.log(np.float32([[0.5, 0.25, 0.25]]))
    assert np.isnan(ours(optax.losses.kl_divergence_with_log_targets, log_p, ONE_HOT)[0]).all()
    value, gradient = ours(jloss.kl_divergence_with_log_targets, log_p, ONE_HOT)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_array_equal(gradient, [[-1.0, 0.0, 0.0]])


def test_one_hot_log_targets_have_finite_gradients_themselves():
    log_p = np.log(np.float32([[0.5, 0.25, 0.25]]))
    _, gradient = ours(lambda t: jloss.kl_divergence_with_log_targets(log_p, t), ONE_HOT)
    np.testing.assert_allclose(gradient, [[1 + np.log(2), 0.0, 0.0]], rtol=1e-6)


def test_what_is_impossible_in_both_costs_nothing_where_optax_gives_nan():
    assert np.isnan(ours(optax.losses.kl_divergence_with_log_targets, ONE_HOT, ONE_HOT)[0]).all()
    value, gradient = ours(jloss.kl_divergence_with_log_targets, ONE_HOT, ONE_HOT)
    assert value == 0
    np.testing.assert_array_equal(gradient, [[-1.0, 0.0, 0.0]])


@pytest.mark.parametrize("name", ["kl_divergence", "generalized_kl_divergence"])
def test_a_log_prediction_of_minus_infinity_is_right_for_a_target_of_0(name):
    log_p, targets = np.float32([[np.log(0.5), -np.inf]]), np.float32([[0.5, 0]])
    assert np.isnan(ours(getattr(optax.losses, name), log_p, targets)[0]).all()
    value, gradient = ours(getattr(jloss, name), log_p, targets)
    np.testing.assert_allclose(value, [0.0], atol=1e-7)
    wanted = [[-0.5, 0.0]] if name == "kl_divergence" else [[0.0, 0.0]]
    np.testing.assert_allclose(gradient, wanted, atol=1e-7)


def test_something_possible_held_to_be_impossible_costs_infinity():
    log_p = np.float32([[-np.inf, 0, -np.inf]])
    assert ours(jloss.kl_divergence_with_log_targets, log_p, ONE_HOT)[0] == np.inf
    assert ours(jloss.generalized_kl_divergence, log_p, np.exp(ONE_HOT))[0] == np.inf


@pytest.mark.parametrize("amounts", [AMOUNTS, SPARSE], ids=["all there", "some absent"])
def test_generalized_divergence_is_the_sum_of_kl_div_of_scipy(amounts):
    special = pytest.importorskip("scipy.special")
    wanted = special.kl_div(amounts, np.exp(3 * LOG_P)).sum(-1)
    value, gradient = ours(jloss.generalized_kl_divergence, 3 * LOG_P, amounts)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    np.testing.assert_allclose(gradient, np.exp(3 * LOG_P) - amounts, atol=1e-5)


def test_generalized_divergence_keeps_its_digits_where_amounts_are_nearly_equal():
    mpmath = pytest.importorskip("mpmath")
    targets = np.full((1, 1), 3.0, np.float32)
    log_p = np.log(targets) + np.float32(1e-4)
    with mpmath.workdps(40):
        gap = mpmath.mpf(float(log_p[0, 0])) - mpmath.log(3)
        wanted = float(3 * (mpmath.exp(gap) - 1 - gap))
    got, theirs = (once(m.generalized_kl_divergence)(log_p, targets) for m in (jloss, optax.losses))
    assert abs(theirs[0] / wanted - 1) > 0.1
    assert abs(got[0] / wanted - 1) < 1e-2  # log 3 itself is rounded: 1e-7 of 1e-4


def test_generalized_divergence_is_half_the_poisson_deviance():
    metrics = pytest.importorskip("sklearn.metrics")
    counts = RNG.poisson(3.0, (6, 5))
    wanted = metrics.mean_poisson_deviance(counts.ravel(), np.exp(LOG_P).ravel()) / 2
    got = once(partial(jloss.generalized_kl_divergence, axis=None))(LOG_P, counts)
    np.testing.assert_allclose(got / counts.size, wanted, rtol=1e-5)


def test_no_divergence_is_negative_where_optax_is():
    p = np.float32(RNG.dirichlet(np.ones(50), 2000))
    log_p = np.log(p)
    nearby = np.log(p * (1 + 1e-4 * RNG.normal(size=p.shape).astype(np.float32)))
    nearby -= np.log(np.exp(nearby).sum(-1, keepdims=True))

    @partial(jax.jit, static_argnums=0)
    def both(library):
        return (
            library.generalized_kl_divergence(log_p, p),
            library.kl_divergence_with_log_targets(nearby, log_p),
        )

    assert all((values < 0).any() for values in both(optax.losses))
    assert all((values >= 0).all() for values in both(jloss))


def test_convex_kl_divergence_is_the_old_name():
    assert jloss.convex_kl_divergence is jloss.generalized_kl_divergence


def test_a_negative_target_spoils_its_own_example_value_and_gradient():
    log_p, targets = np.log(np.full((2, 2), 0.5)), np.float32([[0.5, 0.5], [1.5, -0.5]])
    values, gradient = ours(jloss.kl_divergence, log_p, targets)
    assert np.isnan(values).tolist() == np.isnan(gradient).all(-1).tolist() == [False, True]


def test_the_gradient_for_a_target_of_zero_is_zero():
    log_p = np.log(np.float32([0.5, 0.5]))
    _, gradient = ours(lambda t: jloss.kl_divergence(log_p, t), [1.0, 0.0])
    np.testing.assert_allclose(gradient, [1 + np.log(2), 0], rtol=1e-6)
