"""Margin losses against torch, Keras, scikit-learn and optax, and where these are wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import checkify
from peers import assert_same, ours, torchs

import jloss
from jloss._promises import once

RNG = np.random.default_rng(0)
SCORES = np.float32(RNG.normal(scale=2, size=(8, 5)))
SCORES[6], SCORES[7] = 0.0, [1.0, 0.0, 1.0, 0.0, 2.0]  # ties
LABELS = RNG.integers(0, 5, 8)
SIGNS = np.float32(RNG.choice([-1.0, 1.0], (8, 5)))


def test_squared_hinge_is_that_of_keras():
    keras = pytest.importorskip("keras")
    wanted = keras.losses.squared_hinge(SIGNS, SCORES)
    got, _ = ours(jloss.squared_hinge_loss, SCORES, SIGNS)
    np.testing.assert_allclose(got.mean(-1), np.asarray(wanted), rtol=1e-5)


@pytest.mark.parametrize("name", ["hinge", "squared_hinge"])
def test_a_support_vector_machine_minimises_our_hinge(name):
    svm = pytest.importorskip("sklearn.svm")
    x, y, loss = SCORES[:, :2], SIGNS[:, 0], getattr(jloss, f"{name}_loss")

    def risk(w):
        return 0.3 * loss(x @ w, y).sum() + 0.5 * (w @ w)

    machine = svm.LinearSVC(loss=name, C=0.3, fit_intercept=False, max_iter=100_000, tol=1e-8)
    best = np.float32(machine.fit(x, y).coef_[0])
    steps = np.float32(np.random.default_rng(0).normal(size=(3, 50, 2)))
    steps *= np.float32([0.01, 0.1, 1.0])[:, None, None]
    risks = once(jax.vmap(risk))(np.concatenate([[best], (best + steps).reshape(-1, 2)]))
    assert (risks[1:] > risks[0] - 1e-6).all()


def test_soft_margin_is_that_of_torch():
    functional = pytest.importorskip("torch.nn.functional")
    wanted = torchs(lambda s, t: functional.soft_margin_loss(s, t, reduction="none"), SCORES, SIGNS)
    assert_same(ours(jloss.soft_margin_loss, SCORES, SIGNS), wanted)


def test_soft_margin_is_finite_far_on_the_wrong_side_where_torch_is_not():
    torch = pytest.importorskip("torch")
    far = torch.tensor([-200.0])
    assert torch.nn.functional.soft_margin_loss(far, torch.ones(1)).isinf()
    value, gradient = ours(jloss.soft_margin_loss, [-200.0], np.float32([1]))
    assert value == 200 and gradient == -1


def test_soft_margin_keeps_its_digits_far_on_the_right_side():
    value, gradient = ours(jloss.soft_margin_loss, [40.0], np.float32([1]))
    np.testing.assert_allclose(value, np.exp(-40.0), rtol=1e-6)
    np.testing.assert_allclose(gradient, -np.exp(-40.0), rtol=1e-6)


def test_soft_margin_is_the_cross_entropy_of_signs():
    wanted, _ = ours(jloss.sigmoid_binary_cross_entropy, SCORES, (SIGNS + 1) / 2)
    got, _ = ours(jloss.soft_margin_loss, SCORES, SIGNS)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize("name", ["perceptron_loss", "hinge_loss"])
def test_losses_of_signs_are_those_of_optax(name):
    got, wanted = (once(getattr(m, name))(SCORES, SIGNS) for m in (jloss, optax.losses))
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize("name", ["multiclass_perceptron_loss", "multiclass_hinge_loss"])
def test_losses_of_classes_are_those_of_optax(name):
    got, wanted = (once(getattr(m, name))(SCORES, LABELS) for m in (jloss, optax.losses))
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


def test_a_label_that_is_no_class_gives_nan_where_optax_gives_a_number():
    scores, labels = SCORES[:3], np.array([-1, 5, -100])
    assert np.isfinite(once(optax.losses.multiclass_perceptron_loss)(scores, labels)).all()
    assert np.isnan(once(jloss.multiclass_perceptron_loss)(scores, labels)).all()


def test_the_perceptron_has_no_gradient_where_the_class_ties_with_its_rival():
    _, gradient = ours(jloss.multiclass_perceptron_loss, np.zeros((1, 5)), np.array([2]))
    assert (gradient == 0).all()


def test_categorical_hinge_is_that_of_keras_and_not_that_of_crammer_and_singer():
    keras = pytest.importorskip("keras")
    one_hot = np.eye(5, dtype=np.float32)[LABELS]
    scores = SCORES - 3  # negative scores are where the two differ
    wanted = keras.losses.categorical_hinge(one_hot, scores)
    got, _ = ours(jloss.categorical_hinge_loss, scores, one_hot)
    np.testing.assert_allclose(got, np.asarray(wanted), rtol=1e-5)
    assert np.abs(got - ours(jloss.multiclass_hinge_loss, scores, LABELS)[0]).max() > 1


def test_categorical_hinge_has_the_gradient_of_its_formula():
    def formula(scores, labels):
        others = ((1 - labels) * scores).max(-1).values
        return (1 + others - (labels * scores).sum(-1)).clamp(min=0)

    one_hot = np.eye(5, dtype=np.float32)[LABELS[:6]]
    assert_same(
        ours(jloss.categorical_hinge_loss, SCORES[:6], one_hot),
        torchs(formula, SCORES[:6], one_hot),
    )


def multi_margin(p):
    return lambda scores, labels, margin=1.0: jloss.multi_margin_loss(
        scores, labels, p=p, margin=margin
    )


MULTI_MARGIN = {p: multi_margin(p) for p in (1, 2)}


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("margin", [0.5, 1.0])
def test_multi_margin_is_that_of_torch(p, margin):
    functional = pytest.importorskip("torch.nn.functional")
    scores = SCORES[:6]  # without ties, where torch has another subgradient

    def theirs(scores, labels):
        return functional.multi_margin_loss(scores, labels, p=p, margin=margin, reduction="none")

    loss = MULTI_MARGIN[p]
    assert_same(ours(loss, scores, LABELS[:6], margin), torchs(theirs, scores, LABELS[:6]))


def test_class_weights_are_factors_as_in_torch():
    torch = pytest.importorskip("torch")
    weights = np.float32([0.5, 1.0, 2.0, 3.0, 0.25])
    wanted = torch.nn.functional.multi_margin_loss(
        torch.tensor(SCORES), torch.tensor(LABELS), p=2, weight=torch.tensor(weights)
    )
    values, _ = ours(MULTI_MARGIN[2], SCORES, LABELS)
    np.testing.assert_allclose((weights[LABELS] * values).mean(), wanted, rtol=1e-5)


def test_a_power_that_torch_does_not_have_is_refused():
    with pytest.raises(ValueError, match="multi_margin_loss: p must be 1 or 2, not 3"):
        jloss.multi_margin_loss(SCORES, LABELS, p=3)


def test_squared_multi_margin_masks_classes_as_if_deleted():
    where = np.ones(SCORES.shape, bool)
    where[:, 4] = False
    labels = LABELS % 4
    wanted = ours(MULTI_MARGIN[2], SCORES[:, :4], labels)
    hidden = np.where(where, SCORES, np.nan)
    values, gradient = ours(lambda s: jloss.multi_margin_loss(s, labels, p=2, where=where), hidden)
    assert_same((values, gradient[:, :4]), wanted)
    assert (gradient[:, 4] == 0).all()


INDICES = np.array(
    [[3, 0, -1, 1, 2], [-1, 0, 0, 0, 0], [0, 1, 2, 3, 4], [1, -1, -1, -1, -1]], np.int64
)
RIGHT = np.array([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 1, 0, 0, 0]])


def test_multilabel_margin_is_that_of_torch_for_the_same_classes():
    functional = pytest.importorskip("torch.nn.functional")

    def theirs(scores, indices):
        return functional.multilabel_margin_loss(scores, indices, reduction="none")

    assert_same(
        ours(jloss.multilabel_margin_loss, SCORES[:4], RIGHT),
        torchs(theirs, SCORES[:4], INDICES),
    )


def test_the_index_format_of_torch_is_found_out_by_its_terminator():
    values, _ = ours(jloss.multilabel_margin_loss, SCORES[:4], np.tile(INDICES[:1], (4, 1)))
    assert np.isnan(values).all()


def test_multilabel_margin_stores_no_pairs():
    scores = jax.ShapeDtypeStruct((64, 512), jnp.float32)
    gradient = once(jax.grad(lambda s, y: jloss.multilabel_margin_loss(s, y).sum()))
    memory = gradient.lower(scores, scores).compile().memory_analysis()
    if memory is None:
        pytest.skip("the backend does not tell")
    assert memory.temp_size_in_bytes < 64 * 512 * 512  # a quarter of all pairs


def test_losses_of_margins_are_zero_beyond_it():
    one_hot = np.eye(5, dtype=np.float32)[LABELS]
    for loss in (jloss.multi_margin_loss, jloss.multiclass_perceptron_loss):
        assert (ours(loss, 100 * one_hot, LABELS)[0] == 0).all()
    for loss in (jloss.categorical_hinge_loss, jloss.multilabel_margin_loss):
        assert (ours(loss, 100 * one_hot, one_hot)[0] == 0).all()


# Hinges


EDGES = np.float32([0.0, 0.5, -0.5, 17.0, -1e4, 1e-6, 1.0, -1.0])


def others_and_own(scores, labels):
    torch = pytest.importorskip("torch")
    own = torch.nn.functional.one_hot(labels, scores.shape[-1]).bool()
    return scores.masked_fill(own, -np.inf).amax(-1), scores[own]


def test_the_hinge_and_its_gradient_are_the_formula_in_torch():
    for sign in (-1.0, 1.0):
        signs = np.full(8, sign, np.float32)
        assert_same(
            ours(jloss.hinge_loss, EDGES, signs),
            torchs(lambda s, t: (1 - s * t).relu(), EDGES, signs),
            rtol=2e-7,
            atol=0,
        )


def test_the_multiclass_hinge_and_its_gradient_are_the_formula_in_torch():
    def formula(scores, labels):
        others, own = others_and_own(scores, labels)
        return (1 + others - own).relu()

    scores = np.concatenate([SCORES, [[17, 0, 0, 0, 0], [-1e4, 1e4, 1e4, 3, 0]]])
    labels = np.concatenate([LABELS, [0, 0]])
    theirs = torchs(formula, np.float32(scores), labels)
    assert_same(ours(jloss.multiclass_hinge_loss, scores, labels), theirs, rtol=1e-6, atol=1e-6)


def test_the_mean_of_a_hinge_is_that_of_scikit_learn():
    hinge = pytest.importorskip("sklearn.metrics").hinge_loss
    got, _ = ours(jloss.hinge_loss, SCORES, SIGNS)
    np.testing.assert_allclose(got.mean(), hinge(SIGNS.ravel(), SCORES.ravel()), rtol=1e-6)
    got, _ = ours(jloss.multiclass_hinge_loss, SCORES, LABELS)
    np.testing.assert_allclose(got.mean(), hinge(LABELS, SCORES, labels=range(5)), rtol=1e-6)


def test_on_the_margin_the_gradient_of_a_hinge_is_zero():
    assert ours(jloss.hinge_loss, 1.0, 1.0)[1] == 0
    assert not ours(jloss.multiclass_hinge_loss, [[2.0, 1.0, 0.0]], np.int32([0]))[1].any()


def test_rivals_that_tie_share_the_gradient_of_a_hinge():
    _, gradient = ours(jloss.multiclass_hinge_loss, [[0.0, 1.0, 1.0]], np.int32([0]))
    assert gradient.tolist() == [[-1, 0.5, 0.5]]


def test_a_single_class_is_always_right():
    assert jloss.multiclass_hinge_loss(np.float32([[3]]), np.array([0])).tolist() == [0]


CHECKED = {
    loss: once(checkify.checkify(loss, errors=checkify.user_checks))
    for loss in (jloss.hinge_loss, jloss.multiclass_hinge_loss)
}


@pytest.mark.parametrize("label", [-1, 5, -100])
def test_a_label_out_of_range_spoils_its_own_example_and_raises_under_checkify(label):
    labels, loss = np.where(np.arange(8) == 2, label, LABELS), jloss.multiclass_hinge_loss
    values, gradient = ours(loss, SCORES, labels)
    assert np.flatnonzero(np.isnan(values)).tolist() == [2]
    assert np.flatnonzero(np.isnan(gradient).all(-1)).tolist() == [2]
    error, _ = CHECKED[loss](SCORES, labels)
    message = rf"labels must be from 0 to 4; at index \[2\] it is {label}"
    with pytest.raises(checkify.JaxRuntimeError, match=message):
        error.throw()


@pytest.mark.parametrize("sign", [0.0, 0.5, np.nan])
def test_a_target_that_is_no_sign_spoils_its_own_element_and_raises_under_checkify(sign):
    scores, targets = np.zeros(3, np.float32), np.float32([1, sign, -1])
    values, gradient = ours(jloss.hinge_loss, scores, targets)
    assert np.isnan(values).tolist() == np.isnan(gradient).tolist() == [False, True, False]
    with pytest.raises(checkify.JaxRuntimeError, match=r"targets must be -1 or 1; at index \[1\]"):
        CHECKED[jloss.hinge_loss](scores, targets)[0].throw()


def test_a_mask_hides_nan_and_impossible_labels_from_a_hinge():
    scores = np.float32([[1, 2, 0], [np.nan, np.inf, 0]])
    labels, where = np.int32([0, -100]), np.array([True, False])
    values, gradient = ours(lambda s: jloss.multiclass_hinge_loss(s, labels, where=where), scores)
    assert values.tolist() == [2, 0]
    assert gradient.tolist() == [[-1, 1, 0], [0, 0, 0]]


def test_a_hidden_class_is_no_rival():
    scores, where = np.float32([[1, np.nan, 0.5]]), np.array([[True, False, True]])
    assert jloss.multiclass_hinge_loss(scores, np.array([0]), where=where).tolist() == [0.5]
