"""Losses of probabilities and distributions against torch, keras, scikit-learn and scipy."""

import jax
import numpy as np
import pytest
from peers import assert_same, ours, torchs

import jloss
from jloss._promises import once

rng = np.random.default_rng(0)
PROBABILITY = rng.random((6, 5)).astype(np.float32)
PROBABILITIES = rng.dirichlet(np.ones(5), 6).astype(np.float32)
LOG_PROBABILITIES = np.log(PROBABILITIES)
BINARY = rng.integers(0, 2, (6, 5)).astype(np.float32)
SOFT = rng.dirichlet(np.ones(5), 6).astype(np.float32)
LABELS = rng.integers(0, 5, 6).astype(np.int32)
MEANS = rng.normal(size=(6, 5)).astype(np.float32)
VARIANCES = rng.lognormal(size=(6, 5)).astype(np.float32)
COUNTS = rng.poisson(3.0, (6, 5)).astype(np.float32)


def functional():
    return pytest.importorskip("torch").nn.functional


def keras_losses():
    return pytest.importorskip("keras").losses


# Classes


@pytest.mark.parametrize("labels", [BINARY, PROBABILITY[::-1].copy()], ids=["certain", "soft"])
def test_binary_cross_entropy_and_its_gradient_are_those_of_torch(labels):
    theirs = torchs(
        lambda p, y: functional().binary_cross_entropy(p, y, reduction="none"), PROBABILITY, labels
    )
    assert_same(ours(jloss.binary_cross_entropy, PROBABILITY, labels), theirs, rtol=1e-5)


def test_nll_loss_and_its_gradient_are_those_of_torch():
    theirs = torchs(
        lambda x, y: functional().nll_loss(x, y, reduction="none"), LOG_PROBABILITIES, LABELS
    )
    assert_same(ours(jloss.nll_loss, LOG_PROBABILITIES, LABELS), theirs)


def test_the_ignore_index_of_torch_is_a_mask():
    labels = LABELS.copy()
    labels[2] = -100
    theirs = functional().nll_loss
    torch = pytest.importorskip("torch")
    wanted = theirs(torch.tensor(LOG_PROBABILITIES), torch.tensor(labels).long())
    where = labels != -100
    values = jloss.nll_loss(LOG_PROBABILITIES, labels, where=where)
    np.testing.assert_allclose(jloss.mean(values, where=where), wanted, rtol=1e-6)


def test_values_are_those_of_keras():
    losses = keras_losses()
    for got, wanted in [
        (
            jloss.binary_cross_entropy(PROBABILITY, BINARY).mean(-1),
            losses.binary_crossentropy(BINARY, PROBABILITY),
        ),
        (
            jloss.categorical_cross_entropy(PROBABILITIES, SOFT),
            losses.categorical_crossentropy(SOFT, PROBABILITIES),
        ),
        (
            jloss.generalized_cross_entropy(PROBABILITIES, LABELS, q=0.5),
            losses.CategoricalGeneralizedCrossEntropy(0.5, reduction=None)(LABELS, PROBABILITIES),
        ),
    ]:
        np.testing.assert_allclose(got, np.asarray(wanted), rtol=2e-5)


def test_log_loss_is_that_of_sklearn():
    metrics = pytest.importorskip("sklearn.metrics")
    onehot = np.eye(5, dtype=np.float32)[LABELS]
    got = np.mean(jloss.categorical_cross_entropy(PROBABILITIES, onehot))
    wanted = metrics.log_loss(LABELS, PROBABILITIES.astype(float), labels=range(5))
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_certainty_that_is_right_costs_nothing_and_that_is_wrong_everything():
    values = jloss.binary_cross_entropy(np.float32([1, 0, 1, 0]), np.float32([1, 0, 0, 1]))
    np.testing.assert_array_equal(values, [0, 0, np.inf, np.inf])


def of_power(probabilities, labels, q):
    return jloss.generalized_cross_entropy(probabilities, labels, q=q)


@pytest.mark.parametrize("q", [0.0, 0.3, 1.0])
def test_the_gradient_of_generalized_cross_entropy_at_0_is_no_nan(q):
    _, gradient = ours(of_power, [0.0, 0.25, 0.75], np.int32(0), q)
    tiny = np.finfo(np.float32).tiny
    np.testing.assert_allclose(gradient, [-(tiny ** np.float64(q - 1)), 0, 0], rtol=1e-4)


def test_generalized_cross_entropy_without_q_is_the_cross_entropy_and_differentiable_for_q():
    def loss(q):
        return jloss.generalized_cross_entropy(PROBABILITIES, LABELS, q=q).sum()

    value, slope = once(jax.value_and_grad(loss))(0.0)
    own = LOG_PROBABILITIES[np.arange(6), LABELS].astype(float)
    np.testing.assert_allclose(
        value, ours(jloss.nll_loss, LOG_PROBABILITIES, LABELS)[0].sum(), 1e-6
    )
    np.testing.assert_allclose(slope, (-0.5 * own**2).sum(), rtol=1e-5)


# Distributions


def test_gaussian_nll_and_all_its_gradients_are_those_of_torch():
    def theirs(mean, target, variance):
        return functional().gaussian_nll_loss(mean, target, variance, full=True, reduction="none")

    def loss(mean, target, variance):
        return jloss.gaussian_nll(mean, target, variance=variance)

    assert_same(
        ours(loss, MEANS, MEANS[::-1], VARIANCES),
        torchs(theirs, MEANS, MEANS[::-1].copy(), VARIANCES),
    )
    assert_same(
        ours(lambda v: loss(MEANS, MEANS[::-1], v), VARIANCES),
        torchs(
            lambda v, p, t: theirs(p, t, v), VARIANCES, MEANS, MEANS[::-1].copy()
        ),
    )  # fmt: skip


def test_the_constant_of_a_gaussian_is_all_that_torch_leaves_out_unless_told():
    torch = pytest.importorskip("torch")
    wanted = functional().gaussian_nll_loss(
        *(torch.tensor(x.copy()) for x in (MEANS, MEANS[::-1], VARIANCES)), reduction="none"
    )
    got = jloss.gaussian_nll(MEANS, MEANS[::-1], variance=VARIANCES)
    np.testing.assert_allclose(got - wanted.numpy(), 0.5 * np.log(2 * np.pi), atol=1e-5)


def test_gaussian_nll_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    wanted = -stats.norm.logpdf(MEANS[::-1].astype(float), MEANS, np.sqrt(VARIANCES.astype(float)))
    got = jloss.gaussian_nll(MEANS, MEANS[::-1], variance=VARIANCES)
    np.testing.assert_allclose(got, wanted, rtol=2e-6, atol=1e-6)


def test_poisson_nll_is_that_of_scipy_where_torch_approximates():
    stats = pytest.importorskip("scipy.stats")
    rates = VARIANCES.astype(float)
    wanted = -stats.poisson.logpmf(COUNTS, rates)
    np.testing.assert_allclose(
        jloss.poisson_nll(np.log(VARIANCES), COUNTS), wanted, rtol=2e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        jloss.poisson_nll_with_rates(VARIANCES, COUNTS), wanted, rtol=2e-5, atol=1e-6
    )


@pytest.mark.parametrize("log_input", [True, False])
def test_the_gradient_of_poisson_nll_is_that_of_torch(log_input):
    predictions = np.log(VARIANCES) if log_input else VARIANCES
    loss = jloss.poisson_nll if log_input else jloss.poisson_nll_with_rates
    theirs = torchs(
        lambda x, k: functional().poisson_nll_loss(
            x, k, log_input=log_input, eps=0.0, reduction="none"
        ),
        predictions,
        COUNTS,
    )
    np.testing.assert_allclose(ours(loss, predictions, COUNTS)[1], theirs[1], rtol=1e-5, atol=1e-6)


def test_the_constant_is_all_that_keras_leaves_out():
    gammaln = pytest.importorskip("scipy.special").gammaln
    wanted = np.asarray(keras_losses().poisson(COUNTS, VARIANCES)) + gammaln(COUNTS + 1).mean(-1)
    got = jloss.poisson_nll_with_rates(VARIANCES, COUNTS).mean(-1)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
