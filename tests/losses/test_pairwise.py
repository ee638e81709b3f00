"""Pair-wise ranking losses against rax, torch and all pairs, and what they take in memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from peers import assert_same, in_caches, ours, torchs

import jloss
from jloss._promises import once
from jloss.losses import _pairs

RNG = np.random.default_rng(0)
SHAPE = (3, 9)
SCORES = 2 * RNG.normal(size=SHAPE)
GRADES = RNG.integers(0, 4, SHAPE).astype(float)
OPTIONS = dict(
    where=RNG.random(SHAPE) > 0.2, segments=RNG.integers(0, 2, SHAPE), weights=RNG.random(SHAPE)
)
OF_RAX = (
    "pairwise_hinge_loss",
    "pairwise_logistic_loss",
    "pairwise_mse_loss",
    "pairwise_qr_loss",
    "pairwise_soft_zero_one_loss",
)


def both(loss):
    """Values and the gradients of their sum for scores and labels, in float64."""

    def total(scores, labels):
        values = loss(scores, labels)
        return values.sum(), values

    with jax.enable_x64(True):
        run = once(jax.value_and_grad(total, (0, 1), has_aux=True))
        return jax.tree.leaves(run(jnp.asarray(SCORES), jnp.asarray(GRADES)))


def assert_equal(got, wanted):
    for mine, theirs in zip(got, wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    "name",
    [
        "pairwise_hinge_loss",
        "pairwise_logistic_loss",
        "pairwise_mse_loss",
        pytest.param("pairwise_qr_loss", marks=pytest.mark.long),  # two sums like the hinge's
    ],
)
def test_a_long_list_and_its_gradients_are_those_of_rax(name, monkeypatch):
    rax = pytest.importorskip("rax")
    monkeypatch.setattr(_pairs, "_FEW", 0)
    monkeypatch.setattr(_pairs, "_LARGE_FEW", 0)

    def some(loss, scores, labels):
        options = {key: jnp.asarray(x) for key, x in OPTIONS.items()}
        return jnp.stack([loss(scores, labels), loss(scores, labels, **options, reduce_fn=jnp.sum)])

    assert_equal(*(both(partial(some, getattr(module, name))) for module in (jloss, rax)))


@pytest.mark.parametrize("name", OF_RAX)
def test_values_and_gradients_are_those_of_rax(name):
    rax = pytest.importorskip("rax")

    def several(loss, scores, labels):
        options = {key: jnp.asarray(x) for key, x in OPTIONS.items()}
        every = loss(scores, labels, reduce_fn=None)
        some = [loss(scores, labels), loss(scores, labels, **options, reduce_fn=jnp.sum)]
        return jnp.concatenate([every.ravel(), jnp.stack(some)])

    assert_equal(*(both(partial(several, getattr(module, name))) for module in (jloss, rax)))


def test_any_function_of_two_leads_is_taken_as_by_rax():
    losses = pytest.importorskip("rax._src.losses")
    rax = pytest.importorskip("rax")

    def exponential(lead, gap):
        return jnp.exp(-lead) * gap, gap > 0

    def several(loss, lambdaweight, scores, labels):
        loss = partial(loss, scores, labels, pair_loss_fn=exponential)
        options = {key: jnp.asarray(x) for key, x in OPTIONS.items()}
        some = [loss(), loss(**options), loss(**options, lambdaweight_fn=lambdaweight)]
        return jnp.concatenate([loss(reduce_fn=None).ravel(), jnp.stack(some)])

    mine = partial(several, jloss.pairwise_loss, jloss.labeldiff_lambdaweight)
    theirs = partial(several, losses.pairwise_loss, rax.labeldiff_lambdaweight)
    assert_equal(both(mine), both(theirs))


def test_a_function_of_pairs_must_give_a_value_for_each():
    loss = partial(jloss.pairwise_loss, pair_loss_fn=lambda a, b: (a[..., 0], b > 0))
    with pytest.raises(ValueError, match=r"pairwise_loss: pair_loss_fn returned the shapes \(3, 9"):
        jax.eval_shape(loss, SCORES, GRADES)


def test_squared_hinge_is_that_of_all_pairs():
    def theirs(scores, labels):
        lacking = jax.nn.relu(1 - (scores[..., :, None] - scores[..., None, :])) ** 2
        ordered = labels[..., :, None] > labels[..., None, :]
        return jnp.where(ordered, lacking, 0.0).sum((-2, -1)) / ordered.sum()

    loss = jloss.pairwise_squared_hinge_loss
    assert_equal(both(lambda *x: loss(*x)[None]), both(lambda *x: theirs(*x).sum(keepdims=True)))


def test_lambda_weights_are_factors_of_pairs():
    rax = pytest.importorskip("rax")
    assert_equal(
        *(
            both(
                lambda *x, rax_or_us=module: rax_or_us.pairwise_logistic_loss(
                    *x, lambdaweight_fn=rax_or_us.dcg_lambdaweight
                )
            )
            for module in (jloss, rax)
        )
    )


def test_squared_quantile_regression_halves_the_squares_of_pairs_with_different_labels():
    labels = np.arange(5.0, dtype=np.float32)
    scores = np.float32(RNG.normal(size=5))
    half, whole = once(
        lambda: (
            jloss.pairwise_qr_loss(scores, labels, squared=True, reduce_fn=jnp.sum),
            jloss.pairwise_mse_loss(scores, labels, reduce_fn=jnp.sum),
        )
    )()
    np.testing.assert_allclose(4 * half, whole, rtol=1e-6)


def test_a_list_in_many_blocks_is_the_sum_of_its_pairs():
    scores = RNG.normal(size=1500).astype(np.float32)
    labels = RNG.integers(0, 2, 1500).astype(np.float32)
    exact = scores.astype(np.float64)
    value, gradient = ours(lambda x: jloss.pairwise_logistic_loss(x, labels), scores)
    chance = 1 / (1 + np.exp(exact[:, None] - exact))
    ordered = labels[:, None] > labels
    np.testing.assert_allclose(value, -np.log1p(-chance)[ordered].mean(), rtol=2e-6)
    wanted = (chance * ordered).sum(0) - (chance * ordered).sum(1)
    np.testing.assert_allclose(gradient, wanted / ordered.sum(), rtol=2e-5, atol=1e-9)


def test_without_a_pair_the_mean_and_its_gradient_are_zero():
    def values(x):
        losses = jloss.pairwise_hinge_loss, jloss.pairwise_logistic_loss
        return jnp.stack([loss(x, np.ones(4, np.float32)) for loss in losses])

    values, gradient = ours(values, np.arange(4.0))
    assert not values.any() and not gradient.any()


@in_caches
@pytest.mark.parametrize(
    ("name", "mebibytes"), [("pairwise_hinge_loss", 1.0), ("pairwise_logistic_loss", 3.0)]
)
def test_ten_thousand_items_take_no_more_memory_than_a_few_copies(name, mebibytes):
    items = jax.ShapeDtypeStruct((10_240,), jnp.float32)
    program = once(jax.value_and_grad(getattr(jloss, name))).lower(items, items).compile()
    analysis = program.memory_analysis()
    assert analysis and analysis.temp_size_in_bytes <= mebibytes * 2**20


def test_margin_ranking_is_torchs():
    functional = pytest.importorskip("torch.nn.functional")
    first, second = RNG.normal(size=(2, 40)).astype(np.float32)
    labels = RNG.choice([-1, 1], 40).astype(np.float32)
    theirs = torchs(
        lambda x, y, z: functional.margin_ranking_loss(x, y, z, margin=0.5, reduction="none"),
        first,
        second,
        labels,
    )
    assert_same(ours(partial(jloss.margin_ranking_loss, margin=0.5), first, second, labels), theirs)
