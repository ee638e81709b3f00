"""Losses on embeddings against torch, Keras and optax, and where these are wrong."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from peers import assert_same, ours, torchs

import jloss
from jloss._promises import once

RNG = np.random.default_rng(0)
ANCHORS, POSITIVES, NEGATIVES = np.float32(RNG.normal(size=(3, 8, 4)))
SIGNS = np.float32(RNG.choice([-1.0, 1.0], 8))


@pytest.mark.parametrize("margin", [0.5, 1.0])
def test_hinge_embedding_is_that_of_torch(margin):
    functional = pytest.importorskip("torch.nn.functional")
    signs = np.float32(RNG.choice([-1.0, 1.0], (8, 4)))

    def theirs(distances, signs):
        return functional.hinge_embedding_loss(distances, signs, margin=margin, reduction="none")

    loss = partial(jloss.hinge_embedding_loss, margin=margin)
    assert_same(ours(loss, ANCHORS, signs), torchs(theirs, ANCHORS, signs))


@pytest.mark.parametrize("degree", [2, 4])
@pytest.mark.parametrize("axis", [-1, 0])
def test_triplets_of_even_degree_are_those_of_optax(degree, axis):
    got, wanted = (
        ours(
            lambda a, f=library.triplet_margin_loss: f(a, POSITIVES, NEGATIVES, axis, degree, 0.7),
            ANCHORS,
        )
        for library in (jloss, optax.losses)
    )
    assert_same(got, wanted)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("degree", [1, 1.5, 2, 3, 5])
def test_triplets_of_any_degree_are_those_of_torch(degree, swap):
    functional = pytest.importorskip("torch.nn.functional")

    def theirs(*vectors):
        return functional.triplet_margin_loss(
            *vectors, p=degree, swap=swap, eps=0.0, reduction="none"
        )

    vectors = ANCHORS, POSITIVES, NEGATIVES
    loss = partial(jloss.triplet_margin_loss, norm_degree=degree, eps=0.0, swap=swap)
    assert_same(ours(loss, *vectors), torchs(theirs, *vectors))


@pytest.mark.parametrize(
    ("degree", "difference", "optaxs", "wanted"),
    [(1, [1.0, -2.0, 3.0], 2.0, 6.0), (3, [1.0, -3.0, 2.0], np.nan, 36 ** (1 / 3))],
)
def test_triplets_of_odd_degree_are_right_where_optax_is_not(degree, difference, optaxs, wanted):
    anchors, positives = np.float32([difference]), np.zeros((1, 3), np.float32)
    how = dict(norm_degree=degree, margin=0.0, eps=0.0)
    got, theirs = (
        once(partial(library.triplet_margin_loss, **how))(anchors, positives, anchors)
        for library in (jloss, optax.losses)
    )
    np.testing.assert_allclose(theirs, [optaxs], rtol=1e-6)
    np.testing.assert_allclose(got, [wanted], rtol=1e-6)


def with_numbers(a, p, n, degree, margin, eps):
    return jloss.triplet_margin_loss(a, p, n, norm_degree=degree, margin=margin, eps=eps)


@pytest.mark.parametrize("degree", [1.0, 1.5, 2.0, 3.0])
def test_the_gradient_between_equal_vectors_is_zero(degree):
    _, gradient = ours(with_numbers, ANCHORS, ANCHORS, ANCHORS, degree, 1.0, 0.0)
    assert (gradient == 0).all()


@pytest.mark.parametrize("degree", [1.0, 2.0, 3.0])
def test_vectors_of_any_magnitude_are_safe(degree):
    vectors = ANCHORS, POSITIVES, NEGATIVES
    large = [np.float32(1e30) * x for x in vectors]
    values, gradient = ours(with_numbers, *large, degree, 1.0, 1e-6)
    assert np.isfinite(values).all() and np.isfinite(gradient).all()
    small = ours(with_numbers, *vectors, degree, 0.0, 0.0)
    assert_same((values / 1e30, gradient), small)


def test_the_degree_of_a_norm_can_be_learned():
    def total(degree):
        return jloss.triplet_margin_loss(ANCHORS, POSITIVES, NEGATIVES, norm_degree=degree).sum()

    step = 1e-2
    run = once(jax.value_and_grad(total))
    (above, _), (below, _), (_, slope) = run(2.5 + step), run(2.5 - step), run(2.5)
    np.testing.assert_allclose(slope, (above - below) / (2 * step), rtol=1e-2)


@pytest.mark.parametrize("swap", [False, True])
def test_triplets_with_the_default_distance_are_those_of_torch(swap):
    functional = pytest.importorskip("torch.nn.functional")

    def theirs(*vectors):
        return functional.triplet_margin_with_distance_loss(*vectors, swap=swap, reduction="none")

    vectors = ANCHORS, POSITIVES, NEGATIVES
    loss = partial(jloss.triplet_margin_with_distance_loss, swap=swap)
    assert_same(ours(loss, *vectors), torchs(theirs, *vectors))


def test_triplets_with_a_distance_of_ones_own_are_those_of_torch():
    functional = pytest.importorskip("torch.nn.functional")

    def theirs(*vectors):
        return functional.triplet_margin_with_distance_loss(
            *vectors,
            distance_function=lambda x, y: 1 - functional.cosine_similarity(x, y),
            margin=0.2,
            reduction="none",
        )

    vectors = ANCHORS, POSITIVES, NEGATIVES
    loss = partial(
        jloss.triplet_margin_with_distance_loss,
        distance_function=jloss.cosine_distance,
        margin=0.2,
    )
    assert_same(ours(loss, *vectors), torchs(theirs, *vectors))


def test_a_distance_that_is_not_one_number_a_pair_is_refused():
    with pytest.raises(ValueError, match=r"distance_function gave \(8, 4\) for vectors \(8, 4\)"):
        jloss.triplet_margin_with_distance_loss(
            ANCHORS, POSITIVES, NEGATIVES, distance_function=lambda x, y: np.abs(x - y)
        )


@pytest.mark.parametrize(
    "loss",
    [
        jloss.triplet_margin_loss,
        # Its gradient between equal vectors is NaN, which must not come out of a mask.
        partial(
            jloss.triplet_margin_with_distance_loss,
            distance_function=lambda x, y: jnp.sqrt(((x - y) ** 2).sum(-1)),
        ),
    ],
    ids=["norm", "distance"],
)
def test_a_mask_hides_all_three_vectors_of_a_triplet(loss):
    where = np.arange(8) % 2 == 0
    vectors = [np.where(where[:, None], x, np.nan) for x in (ANCHORS, POSITIVES, NEGATIVES)]

    def both(*vectors, where=None):
        def total(*vectors):
            values = loss(*vectors, where=where)
            return values.sum(), values

        return jax.grad(total, (0, 1, 2), has_aux=True)(*vectors)

    gradients, values = once(partial(both, where=where))(*vectors)
    wanted, shown = once(both)(*(x[where] for x in vectors))
    np.testing.assert_allclose(values[where], shown, rtol=1e-6)
    assert (values[~where] == 0).all()
    for gradient, kept in zip(gradients, wanted, strict=True):
        assert (gradient[~where] == 0).all()
        np.testing.assert_allclose(gradient[where], kept, rtol=1e-6, atol=1e-7)
