"""Losses on all pairs of a batch against optax, Keras and their definitions, in many blocks too."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from peers import assert_same, in_caches, ours, torchs

import jloss
from jloss._promises import once
from jloss.losses import contrastive

RNG = np.random.default_rng(0)
ANCHORS = np.float32(RNG.normal(size=(8, 4)))
GROUPS = np.array([0, 0, 1, 1, 2, 0, 1, 3])


def circle(embeddings, groups, gamma, margin):
    return jloss.circle_loss(embeddings, groups, gamma=gamma, margin=margin)


@pytest.mark.parametrize(("gamma", "margin"), [(80.0, 0.4), (4.0, 0.25)])
def test_circle_is_that_of_keras_for_normalised_embeddings(gamma, margin):
    keras = pytest.importorskip("keras")
    embeddings = np.float32(ANCHORS / np.linalg.norm(ANCHORS, axis=-1, keepdims=True))
    wanted = keras.losses.circle(GROUPS, embeddings, gamma=gamma, margin=margin)
    got, _ = ours(circle, embeddings, GROUPS, gamma, margin)
    np.testing.assert_allclose(got, np.asarray(wanted), rtol=1e-4, atol=1e-5)


def test_circle_has_the_gradient_of_its_formula():
    torch = pytest.importorskip("torch")
    same = torch.tensor(GROUPS[:, None] == GROUPS[None, :])
    alike, unlike = same & ~torch.eye(8, dtype=torch.bool), ~same

    def formula(embeddings):
        directions = torch.nn.functional.normalize(embeddings)
        s = directions @ directions.T
        pull = -4 * (1.25 - s).clamp(min=0) * (s - 0.75)
        push = 4 * (s + 0.25).clamp(min=0) * (s - 0.25)
        pulls = (pull.exp() * alike).sum(-1)
        return torch.log1p(pulls * (push.exp() * unlike).sum(-1))

    assert_same(ours(circle, ANCHORS, GROUPS, 4.0, 0.25), torchs(formula, ANCHORS))


def test_circle_is_zero_for_an_example_without_a_group_or_without_strangers():
    values, gradient = ours(jloss.circle_loss, ANCHORS, GROUPS)
    assert values[4] == 0 and values[7] == 0 and np.isfinite(gradient).all()
    values, gradient = ours(jloss.circle_loss, ANCHORS, np.zeros(8, int))
    assert (values == 0).all() and (gradient == 0).all()


def ntxent_pair_by_pair(embeddings, labels, temperature):
    """The definition, term by term, on tensors."""
    directions = embeddings / (embeddings**2).sum(-1, keepdim=True).sqrt()
    weights = (directions @ directions.T / temperature).exp()
    terms = []
    for i, group in enumerate(labels):
        strangers = sum(weights[i, k] for k, other in enumerate(labels) if other != group)
        for j, other in enumerate(labels):
            if i != j and other == group:
                terms.append((1 + strangers / weights[i, j]).log())
    return sum(terms) / len(terms)


@pytest.mark.parametrize("temperature", [0.07, 1.0, 20.0])
@pytest.mark.parametrize("labels", [GROUPS, np.array([0, 0, 0, 1, 2, 3, 4, 5])])
def test_ntxent_is_the_mean_over_its_pairs(labels, temperature):
    theirs = torchs(lambda e: ntxent_pair_by_pair(e, labels, temperature), ANCHORS)
    assert_same(ours(jloss.ntxent, ANCHORS, labels, temperature), theirs, rtol=1e-5)


def test_ntxent_and_its_gradient_are_those_of_optax():
    got, wanted = (ours(library.ntxent, ANCHORS, GROUPS, 0.5) for library in (jloss, optax.losses))
    assert_same(got, wanted)


def test_a_small_temperature_does_not_overflow():
    value, gradient = ours(jloss.ntxent, ANCHORS, GROUPS, 1e-3)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_a_zero_vector_is_at_right_angles_to_all_with_a_zero_gradient():
    embeddings = np.float32([[0, 0], [1, 0], [0, 1]])
    value, gradient = ours(jloss.ntxent, embeddings, np.int32([0, 0, 1]), 1.0)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    assert not gradient[0].any()


def test_without_a_pair_ntxent_is_zero():
    value, gradient = ours(jloss.ntxent, ANCHORS, np.arange(8), 0.07)
    assert value == 0 and not gradient.any()


def test_a_masked_example_of_ntxent_is_as_if_it_were_not_there():
    where = np.arange(8) != 2
    dirty = np.where(where[:, None], ANCHORS, np.nan)
    value, gradient = ours(lambda e: jloss.ntxent(e, GROUPS, 0.5, where=where), dirty)
    wanted = ours(jloss.ntxent, ANCHORS[where], GROUPS[where], 0.5)
    assert_same((value, gradient[where]), wanted)
    assert not gradient[2].any()


@pytest.mark.long
def test_ntxent_in_many_blocks_has_the_derivatives_of_its_definition(monkeypatch):
    monkeypatch.setattr(contrastive, "_AT_ONCE", 0)  # so that a block has 16 rows
    monkeypatch.setattr(contrastive, "_LARGE_AT_ONCE", 0)
    embeddings, change = RNG.normal(size=(2, 40, 3))
    labels, where = RNG.integers(0, 9, 40), RNG.random(40) > 0.1

    def formula(embeddings):
        directions = embeddings / jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
        weights = jnp.exp(directions @ directions.T / 0.5)
        same, pairs = labels[:, None] == labels, (where[:, None] & where) & ~np.eye(40, dtype=bool)
        strangers = jnp.where(pairs & ~same, weights, 0.0).sum(-1, keepdims=True)
        return jnp.log1p(strangers / weights).mean(where=pairs & same)

    @partial(jax.jit, static_argnums=0)
    def derivatives(loss, x):
        gradient = jax.grad(loss)
        reverse = jax.grad(lambda x: jnp.vdot(gradient(x), change))
        return loss(x), *jax.jvp(gradient, (x,), (change,)), reverse(x)

    with jax.enable_x64(True):
        got = derivatives(lambda x: jloss.ntxent(x, labels, 0.5, where=where), embeddings)
        for mine, theirs in zip(got, derivatives(formula, embeddings), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-11, atol=1e-13)


@in_caches
def test_ntxent_of_eight_thousand_examples_takes_no_more_than_twenty_mebibytes():
    arguments = jax.ShapeDtypeStruct((8192, 128), "float32"), jax.ShapeDtypeStruct((8192,), "int32")
    program = once(jax.value_and_grad(jloss.ntxent)).lower(*arguments).compile()
    analysis = program.memory_analysis()
    assert analysis and analysis.temp_size_in_bytes <= 20 * 2**20
