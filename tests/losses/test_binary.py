"""Losses of single yes-or-no answers against torch."""

import jax
import numpy as np
import pytest
from peers import assert_same, ours, torchs

import jloss

rng = np.random.default_rng(0)
LOGITS = (4 * rng.normal(size=(6, 5))).astype(np.float32)
SOFT = rng.dirichlet(np.ones(5), 6).astype(np.float32)
BINARY = rng.integers(0, 2, (6, 5)).astype(np.float32)


def functional():
    return pytest.importorskip("torch").nn.functional


@pytest.mark.parametrize("labels", [BINARY, SOFT], ids=["certain", "soft"])
def test_binary_cross_entropy_and_its_gradient_are_those_of_torch(labels):
    theirs = torchs(
        lambda x, y: functional().binary_cross_entropy_with_logits(x, y, reduction="none"),
        LOGITS,
        labels,
    )
    assert_same(ours(jloss.sigmoid_binary_cross_entropy, LOGITS, labels), theirs)


def focal(x, y, alpha, gamma):
    return jloss.sigmoid_focal_loss(x, y, alpha=alpha, gamma=gamma)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_and_its_gradient_are_the_formula_in_torch(gamma):
    def formula(x, y):
        entropy = functional().binary_cross_entropy_with_logits(x, y, reduction="none")
        probability = x.sigmoid()
        right = probability * y + (1 - probability) * (1 - y)
        return (0.25 * y + 0.75 * (1 - y)) * (1 - right) ** gamma * entropy

    got = ours(focal, LOGITS, BINARY, 0.25, gamma)
    assert_same(got, torchs(formula, LOGITS, BINARY), rtol=1e-5)


def weighed(x, y, weight):
    return jloss.sigmoid_binary_cross_entropy(x, y, pos_weight=weight)


@pytest.mark.parametrize("labels", [BINARY, SOFT], ids=["certain", "soft"])
def test_pos_weight_is_that_of_torch(labels):
    weight = np.array([0.0, 0.5, 1.0, 2.0, 30.0], np.float32)

    def theirs(x, y):
        tensor = pytest.importorskip("torch").tensor(weight.astype(float))
        return functional().binary_cross_entropy_with_logits(
            x, y, pos_weight=tensor, reduction="none"
        )

    assert_same(ours(weighed, LOGITS, labels, weight), torchs(theirs, LOGITS, labels))


def test_multilabel_soft_margin_loss_and_its_gradient_are_those_of_torch():
    draw = np.random.default_rng(9)
    logits = draw.normal(size=(6, 5)).astype(np.float32)
    labels = draw.integers(0, 2, (6, 5)).astype(np.float32)
    functional = pytest.importorskip("torch").nn.functional
    theirs = torchs(
        lambda x, y: functional.multilabel_soft_margin_loss(x, y, reduction="none"), logits, labels
    )
    assert_same(ours(jloss.multilabel_soft_margin_loss, logits, labels), theirs)


def test_a_class_left_out_of_the_multilabel_loss_is_left_out_of_its_mean():
    logits, labels = np.float32([[1.0, -2.0, np.nan]]), np.float32([[1.0, 0.0, 5.0]])
    where = np.array([[True, True, False]])
    loss = jax.jit(jloss.multilabel_soft_margin_loss, static_argnames="axis")
    got, wanted = loss(logits, labels, where=where), loss(logits[:, :2], labels[:, :2])
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    got = loss(logits.T, labels.T, axis=0, where=where.T)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


EDGES = np.float32([0.0, 1e-30, -1e-6, 0.5, 17.0, -17.0, 30.0, -30.0, 1e4, -1e4])
AT_EDGES = np.repeat(EDGES, 3), np.float32(np.tile([0.0, 1.0, 0.25], len(EDGES)))


def test_binary_cross_entropy_at_edges_is_that_of_torch():
    theirs = torchs(
        lambda x, y: functional().binary_cross_entropy_with_logits(x, y, reduction="none"),
        *AT_EDGES,
    )
    # The smallest values are below what float64 resolves beside 1, so torch has lost them.
    assert_same(ours(jloss.sigmoid_binary_cross_entropy, *AT_EDGES), theirs, rtol=1e-6, atol=4e-15)


def test_a_right_binary_answer_keeps_the_digits_of_its_small_loss():
    logits, labels = np.float32([17, -17]), np.float32([1, 0])
    values, gradient = ours(jloss.sigmoid_binary_cross_entropy, logits, labels)
    np.testing.assert_allclose(values, np.log1p(np.exp(-17.0)), rtol=3e-7)
    np.testing.assert_allclose(gradient, [-1, 1] / (1 + np.exp(17.0)), rtol=3e-7)


def test_a_focal_loss_without_focus_is_the_cross_entropy():
    focal = ours(lambda x, y: jloss.sigmoid_focal_loss(x, y, gamma=0.0), *AT_EDGES)
    assert_same(focal, ours(jloss.sigmoid_binary_cross_entropy, *AT_EDGES), rtol=1e-6, atol=0)


@pytest.mark.parametrize("label", [-0.1, 1.1, np.nan])
def test_a_probability_out_of_range_spoils_its_own_element(label):
    labels = np.float32([0, label, 1])
    for loss in (jloss.sigmoid_binary_cross_entropy, jloss.sigmoid_focal_loss):
        values, gradient = ours(loss, np.zeros(3), labels)
        assert np.isnan(values).tolist() == np.isnan(gradient).tolist() == [False, True, False]
