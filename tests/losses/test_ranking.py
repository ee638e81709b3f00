"""Ranking losses against rax, torch and optax, and right where these are wrong."""

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
SCORES = np.float32(RNG.normal(0, 4, (8, 5)))
SCORES[:3] = [[17, 0, 0, 0, 0], [2, 2, 2, 2, 2], [30, -30, 0, 1, 1]]
GRADES = np.float32(RNG.integers(0, 4, (8, 5)))
GRADES[:3] = [[1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [3, 2, 1, 0, 0]]
WEIGHTS = np.float32(RNG.random((8, 5)))
WHERE = np.arange(40).reshape(8, 5) % 3 > 0
PER_LIST = partial(jloss.ranking_softmax_loss, reduce_fn=None)


def test_softmax_of_whole_lists_is_torchs_cross_entropy():
    functional = pytest.importorskip("torch.nn.functional")
    theirs = torchs(lambda x, y: functional.cross_entropy(x, y, reduction="none"), SCORES, GRADES)
    assert_same(ours(PER_LIST, SCORES, GRADES), theirs, rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize(
    "how",
    [
        {"reduce_fn": None, "weights": WEIGHTS},
        {"where": WHERE, "weights": WEIGHTS},
        {"where": WHERE, "reduce_fn": jnp.sum},
    ],
    ids=["weights", "mean", "sum"],
)
def test_softmax_and_its_gradient_are_those_of_rax_and_optax(how):
    rax, grades = pytest.importorskip("rax"), jnp.asarray(GRADES)  # rax writes into numpy's
    got = ours(partial(jloss.ranking_softmax_loss, **how), SCORES, grades)
    for theirs in (rax.softmax_loss, optax.losses.ranking_softmax_loss):
        assert_same(got, ours(partial(theirs, **how), SCORES, grades))


def of_lists(module, scores, options):
    """Every other loss of lists that rax has, with and without a mask and weights."""
    draw = np.random.default_rng(1)
    clicks, ranks = draw.integers(0, 2, (4, 6)), np.argsort(draw.random((4, 6)))
    grades = draw.integers(0, 4, (4, 6))
    clicks, ranks, grades = (jnp.asarray(x, scores.dtype) for x in (clicks, ranks, grades))
    if module is jloss:
        poly1, ndcg = jloss.poly1_softmax_ranking_loss, jloss.approx_ndcg_loss
    else:
        # Its approx_t12n does not run with JAX 0.10.
        smooth = partial(module.ndcg_metric, rank_fn=module.utils.approx_ranks)
        poly1, ndcg = module.poly1_softmax_loss, lambda *x: -smooth(*x)
    values = [module.listmle_loss(scores, ranks)]
    values += [ndcg(scores, grades), module.unique_softmax_loss(scores, grades)]
    for some in ({}, options):
        values += [
            module.pointwise_sigmoid_loss(scores, clicks, **some),
            module.pointwise_mse_loss(scores, grades, **some),
            poly1(scores, grades, epsilon=0.5, **some),
        ]
    for lambdaweight in (module.labeldiff_lambdaweight, module.dcg2_lambdaweight):
        loss = module.pairwise_logistic_loss(scores, grades, lambdaweight_fn=lambdaweight)
        values.append(loss)
    return jnp.stack(values)


def test_losses_of_lists_and_their_gradients_are_those_of_rax():
    rax, draw = pytest.importorskip("rax"), np.random.default_rng(2)
    scores = draw.normal(size=(4, 6))
    options = dict(where=jnp.asarray(draw.random((4, 6)) > 0.2), weights=draw.random((4, 6)))

    def both(module, scores):
        values = partial(of_lists, module, options=options)
        return once(lambda x: (values(x), jax.jacrev(values)(x)))(scores)

    with jax.enable_x64(True):
        for got, wanted in zip(both(jloss, scores), both(rax, scores), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-11)


def test_a_right_order_keeps_the_digits_of_its_small_loss():
    value, gradient = ours(PER_LIST, [17.0, 0.0], np.float32([1, 0]))
    np.testing.assert_allclose(value, np.log1p(np.exp(-17.0)), rtol=3e-7)
    np.testing.assert_allclose(gradient[0], -1 / (1 + np.exp(17.0)), rtol=3e-7)


def test_the_mean_is_over_the_lists_that_have_an_item():
    where = np.array([[True, True], [False, False]])
    scores, grades = np.float32([[0, 0], [np.nan, 0]]), np.float32([[1, 0], [-1, 1]])
    value, gradient = ours(partial(jloss.ranking_softmax_loss, where=where), scores, grades)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.5, 0.5], [0, 0]], rtol=1e-6)
    none = once(partial(jloss.ranking_softmax_loss, where=np.zeros((2, 2), bool)))
    assert none(scores, grades) == 0


def test_a_negative_grade_spoils_its_own_list():
    values, gradient = ours(PER_LIST, np.zeros((2, 2)), np.float32([[1, 0], [-1, 1]]))
    assert np.isnan(values).tolist() == np.isnan(gradient).all(-1).tolist() == [False, True]


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"ranking_softmax_loss: weights \(3,\) must broadcast"):
        PER_LIST(jnp.zeros((2, 2)), jnp.zeros((2, 2)), weights=jnp.ones(3))
