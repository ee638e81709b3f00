"""Losses of an angle against torch, optax and scipy, and where these are wrong."""

import jax
import numpy as np
import pytest
from peers import assert_same, ours, torchs

import jloss
from jloss._promises import once

rng = np.random.default_rng(0)
P, T = np.float32(3 * rng.normal(size=(2, 6, 5)))
SIGNS = np.float32(rng.choice([-1.0, 1.0], 6))


def test_cosine_distance_is_one_minus_torchs_similarity():
    functional = pytest.importorskip("torch.nn.functional")
    theirs = torchs(lambda p, t: 1 - functional.cosine_similarity(p, t, dim=-1), P, T)
    assert_same(ours(jloss.cosine_distance, P, T), theirs)


def test_cosine_distance_is_that_of_scipy():
    cosine = pytest.importorskip("scipy.spatial.distance").cosine
    wanted = [cosine(p, t) for p, t in zip(P.astype(float), T.astype(float), strict=True)]
    np.testing.assert_allclose(ours(jloss.cosine_distance, P, T)[0], wanted, rtol=2e-6)


def test_the_cosine_of_a_zero_vector_is_finite_with_a_zero_gradient():
    zero, other = np.zeros(3, np.float32), np.float32([1, 2, 3])
    value, gradients = once(jax.value_and_grad(jloss.cosine_distance, (0, 1)))(zero, other)
    assert value == 1.0
    assert not np.any(gradients)


def test_nearly_parallel_vectors_keep_the_digits_of_their_distance():
    angle = np.float32(1e-4)
    distance = once(jloss.cosine_distance)(np.float32([1, 0]), np.float32([1, angle]))
    np.testing.assert_allclose(distance, 1 - np.cos(np.arctan(float(angle))), rtol=1e-6)


def test_the_cosine_of_components_along_two_axes_is_that_of_the_flat_vectors():
    a, b = (x.reshape(3, 2, 5) for x in (P, T))
    rows = (x.swapaxes(0, 1).reshape(2, 15) for x in (a, b))
    got, wanted = once(
        lambda: (jloss.cosine_distance(a, b, axis=(0, 2)), jloss.cosine_distance(*rows))
    )()
    np.testing.assert_allclose(got, wanted, rtol=3e-7)


def test_cosine_similarity_and_its_gradient_are_those_of_torch_and_optax():
    functional = pytest.importorskip("torch.nn.functional")
    theirs = torchs(lambda p, t: functional.cosine_similarity(p, t, dim=-1), P, T)
    assert_same(ours(jloss.cosine_similarity, P, T), theirs)
    optax = pytest.importorskip("optax").losses
    where = rng.random((6, 5)) < 0.8
    hows = {"axis": 0}, {"epsilon": 4.0}, {"where": where}, {"axis": None}
    losses = jloss.cosine_similarity, optax.cosine_similarity
    both = once(lambda: [[loss(P, T, **how) for loss in losses] for how in hows])()
    for got, wanted in both:
        np.testing.assert_allclose(got, wanted, atol=3e-7)


def test_derivatives_for_short_vectors_and_for_epsilon_are_those_of_optax_in_float64():
    optax = pytest.importorskip("optax").losses
    size = np.float32([[1e-3], [0.5], [1.0], [1.0], [3.0], [0.02]])

    def summed(loss):
        def total(p, t, epsilon):
            return loss(p, t, epsilon=epsilon).sum()

        return once(jax.grad(total, (0, 1, 2)))

    got = summed(jloss.cosine_distance)(size * P, T, 20.0)
    with jax.enable_x64(True):
        wanted = summed(optax.cosine_distance)(*(np.float64(x) for x in (size * P, T, 20.0)))
    assert_same(got, wanted, rtol=2e-5, atol=1e-7)


def test_cosine_similarity_of_a_zero_vector_is_zero_with_a_zero_gradient():
    value, gradient = ours(jloss.cosine_similarity, [0.0, 0.0], np.float32([1, 2]))
    assert value == 0
    np.testing.assert_array_equal(gradient, [0, 0])


def cosine_embedding(x, y, signs, margin):
    return jloss.cosine_embedding_loss(x, y, signs, margin=margin)


@pytest.mark.parametrize("margin", [-0.5, 0.0, 0.25])
def test_cosine_embedding_is_that_of_torch(margin):
    functional = pytest.importorskip("torch.nn.functional")

    def theirs(x, y, signs):
        return functional.cosine_embedding_loss(x, y, signs, margin=margin, reduction="none")

    got = ours(cosine_embedding, P, T, SIGNS, margin)
    assert_same(got, torchs(theirs, P, T, SIGNS))


def test_cosine_embedding_keeps_the_digits_of_nearly_parallel_vectors_where_torch_does_not():
    torch = pytest.importorskip("torch")
    x, y = np.float32([[1.0, 0.0]]), np.float32([[1.0, 1e-4]])
    theirs = torch.nn.functional.cosine_embedding_loss(
        torch.tensor(x), torch.tensor(y), torch.ones(1)
    )
    assert abs(theirs / 5e-9 - 1) > 0.5
    np.testing.assert_allclose(jloss.cosine_embedding_loss(x, y, np.ones(1)), 5e-9, rtol=1e-6)


def test_labels_of_cosine_embedding_are_one_for_each_pair():
    with pytest.raises(ValueError, match=r"labels \(6, 1\) must have the shape \(6,\)"):
        jloss.cosine_embedding_loss(P, T, SIGNS[:, None])
