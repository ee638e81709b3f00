"""Sparse probabilities and the losses of maximum functions, by brute force and against optax."""

import itertools

import jax
import numpy as np
import optax
import pytest
from peers import assert_same, ours

import jloss
from jloss._promises import once

rng = np.random.default_rng(0)
LOGITS = (4 * rng.normal(size=(6, 5))).astype(np.float32)
LABELS = rng.integers(0, 5, 6).astype(np.int32)
SOFT = rng.dirichlet(np.ones(5), 6).astype(np.float32)


def project(scores):
    """The nearest point of the simplex, by trying every support, in float64."""
    best, nearest = np.inf, None
    for support in itertools.product([False, True], repeat=len(scores)):
        chosen = np.array(support)
        if not chosen.any():
            continue
        point = np.where(chosen, scores - (scores[chosen].sum() - 1) / chosen.sum(), 0.0)
        distance = ((point - scores) ** 2).sum()
        if (point >= 0).all() and distance < best:
            best, nearest = distance, point
    return nearest


def test_the_sparsemax_loss_is_its_definition_by_brute_force():
    scores = (LOGITS / 4).astype(np.float64)
    points = np.stack([project(row) for row in scores])
    own = np.eye(5)[LABELS]
    wanted = ((points - own) * scores).sum(-1) + 0.5 - 0.5 * (points**2).sum(-1)
    got = ours(jloss.multiclass_sparsemax_loss, LOGITS / 4, LABELS)
    assert_same(got, (wanted, points - own))


def test_the_sparsemax_loss_is_0_exactly_from_a_lead_of_1_on():
    scores = np.float32([[1, 0, -3], [1e4, 2, 9e3]])
    values, gradient = ours(jloss.multiclass_sparsemax_loss, scores, np.array([0, 0]))
    assert not values.any() and not gradient.any()


def test_the_sparsemax_loss_keeps_its_digits_when_the_class_all_but_leads():
    scores = np.float32([1, 1e-4])
    value, gradient = ours(jloss.multiclass_sparsemax_loss, scores, np.array(0))
    gap = float(scores[1])
    np.testing.assert_allclose(value, gap**2 / 4, rtol=1e-6)
    np.testing.assert_allclose(gradient, [-gap / 2, gap / 2], rtol=1e-6)


@pytest.mark.parametrize("label", [-1, 5, -100])
def test_the_sparsemax_loss_of_a_label_that_is_none_is_nan(label):
    """In optax -1 is the last class and 5 as well."""
    labels = np.where(np.arange(6) == 2, np.int32(label), LABELS)
    values, gradient = ours(jloss.multiclass_sparsemax_loss, LOGITS, labels)
    assert np.isnan(values[2]) and np.isnan(gradient[2]).all()
    assert np.isfinite(np.delete(values, 2)).all() and np.isfinite(np.delete(gradient, 2, 0)).all()


def test_the_binary_sparsemax_loss_is_that_of_two_classes():
    logits = np.linspace(-2.5, 2.5, 21).astype(np.float32)
    labels = (np.arange(21) % 2).astype(np.int32)
    rows = np.stack([np.zeros_like(logits), logits], -1)
    got, wanted, theirs = once(
        lambda: (
            jloss.sparsemax_loss(logits, labels),
            jloss.multiclass_sparsemax_loss(rows, labels),
            optax.losses.sparsemax_loss(logits, labels),
        )
    )()
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(got, theirs, rtol=1e-6)


def test_a_binary_sparsemax_label_that_is_none_is_nan():
    """In optax whatever is not 0 is a yes."""
    assert np.isnan(jloss.sparsemax_loss(np.float32([1]), np.array([-1]))).all()


def test_a_fenchel_young_loss_of_log_sum_exp_is_the_cross_entropy():
    loss = jloss.make_fenchel_young_loss(jax.nn.logsumexp)
    one_hot = np.eye(5, dtype=np.float32)[LABELS]
    for labels in (one_hot, SOFT):
        assert_same(ours(loss, LOGITS, labels), ours(jloss.softmax_cross_entropy, LOGITS, labels))
    theirs = optax.losses.make_fenchel_young_loss(jax.nn.logsumexp)
    assert_same(ours(loss, LOGITS, SOFT), ours(theirs, LOGITS, SOFT))


def test_a_fenchel_young_loss_passes_arguments_on():
    def max_fun(scores, temperature, power=1):
        return temperature * jax.nn.logsumexp(scores / temperature) ** power

    loss = jloss.make_fenchel_young_loss(max_fun)
    got = once(lambda x, y: loss(x, y, 2.0, power=1))(LOGITS, SOFT)
    wanted, _ = ours(jloss.softmax_cross_entropy, LOGITS / 2, SOFT)
    np.testing.assert_allclose(got, 2 * wanted, rtol=1e-5)


def test_a_fenchel_young_loss_of_a_projection_is_the_sparsemax_loss():
    def half_norm(scores):
        point = optax.projections.projection_simplex(scores)
        return scores @ point - 0.5 * point @ point

    loss = jloss.make_fenchel_young_loss(half_norm)
    one_hot = np.eye(5, dtype=np.float32)[LABELS]
    got = once(loss)(LOGITS, one_hot)
    wanted, _ = ours(jloss.multiclass_sparsemax_loss, LOGITS, LABELS)
    np.testing.assert_allclose(got + 0.5, wanted, rtol=1e-5, atol=2e-6)
