"""Margin losses against torch, Keras, scikit-learn and optax, and where these are wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from peers import assert_same, ours, torchs

import jloss

RNG = np.random.default_rng(0)
SCORES = np.float32(RNG.normal(scale=2, size=(8, 5)))
SCORES[6], SCORES[7] = 0.0, [1.0, 0.0, 1.0, 0.0, 2.0]  # ties
LABELS = RNG.integers(0, 5, 8)
SIGNS = np.float32(RNG.choice([-1.0, 1.0], (8, 5)))


def test_squared_hinge_is_that_of_keras():
    keras = pytest.importorskip("keras")
    wanted = keras.losses.squared_hinge(SIGNS, SCORES)
    got = jloss.squared_hinge_loss(jnp.asarray(SCORES), SIGNS).mean(-1)
    np.testing.assert_allclose(got, np.asarray(wanted), rtol=1e-5)


@pytest.mark.parametrize("name", ["hinge", "squared_hinge"])
def test_a_support_vector_machine_minimises_our_hinge(name):
    svm = pytest.importorskip("sklearn.svm")
    x, y, loss = SCORES[:, :2], SIGNS[:, 0], getattr(jloss, f"{name}_loss")

    def risk(w):
        return 0.3 * loss(jnp.asarray(x) @ w, y).sum() + 0.5 * (w @ w)

    machine = svm.LinearSVC(loss=name, C=0.3, fit_intercept=False, max_iter=100_000, tol=1e-8)
    best = jnp.asarray(machine.fit(x, y).coef_[0], jnp.float32)
    for size in (0.01, 0.1, 1.0):
        steps = size * jax.random.normal(jax.random.key(0), (50, 2))
        assert (jax.vmap(risk)(best + steps) > risk(best) - 1e-6).all()


def test_soft_margin_is_that_of_torch():
    functional = pytest.importorskip("torch.nn.functional")
    wanted = torchs(lambda s, t: functional.soft_margin_loss(s, t, reduction="none"), SCORES, SIGNS)
    assert_same(ours(jloss.soft_margin_loss, SCORES, SIGNS), wanted)


def test_soft_margin_is_finite_far_on_the_wrong_side_where_torch_is_not():
    torch = pytest.importorskip("torch")
    far = torch.tensor([-200.0])
    assert torch.nn.functional.soft_margin_loss(far, torch.ones(1)).isinf()
    value, gradient = ours(jloss.soft_margin_loss, jnp.array([-200.0]), jnp.ones(1))
    assert value == 200 and gradient == -1


def test_soft_margin_keeps_its_digits_far_on_the_right_side():
    value, gradient = ours(jloss.soft_margin_loss, jnp.array([40.0]), jnp.ones(1))
    np.testing.assert_allclose(value, np.exp(-40.0), rtol=1e-6)
    np.testing.assert_allclose(gradient, -np.exp(-40.0), rtol=1e-6)


def test_soft_margin_is_the_cross_entropy_of_signs():
    logits = jnp.asarray(SCORES)
    wanted = jloss.sigmoid_binary_cross_entropy(logits, (SIGNS + 1) / 2)
    np.testing.assert_allclose(jloss.soft_margin_loss(logits, SIGNS), wanted, rtol=1e-6)


@pytest.mark.parametrize("name", ["perceptron_loss", "hinge_loss"])
def test_losses_of_signs_are_those_of_optax(name):
    scores = jnp.asarray(SCORES)
    wanted = getattr(optax.losses, name)(scores, SIGNS)
    np.testing.assert_allclose(getattr(jloss, name)(scores, SIGNS), wanted, rtol=1e-6)


@pytest.mark.parametrize("name", ["multiclass_perceptron_loss", "multiclass_hinge_loss"])
def test_losses_of_classes_are_those_of_optax(name):
    scores = jnp.asarray(SCORES)
    wanted = getattr(optax.losses, name)(scores, LABELS)
    np.testing.assert_allclose(getattr(jloss, name)(scores, LABELS), wanted, rtol=1e-6, atol=1e-6)


def test_a_label_that_is_no_class_gives_nan_where_optax_gives_a_number():
    scores, labels = jnp.asarray(SCORES[:3]), jnp.array([-1, 5, -100])
    assert np.isfinite(optax.losses.multiclass_perceptron_loss(scores, labels)).all()
    assert np.isnan(jloss.multiclass_perceptron_loss(scores, labels)).all()


def test_the_perceptron_has_no_gradient_where_the_class_ties_with_its_rival():
    _, gradient = ours(jloss.multiclass_perceptron_loss, np.zeros((1, 5)), jnp.array([2]))
    assert (gradient == 0).all()


def test_categorical_hinge_is_that_of_keras_and_not_that_of_crammer_and_singer():
    keras = pytest.importorskip("keras")
    one_hot = np.eye(5)[LABELS]
    scores = SCORES - 3.0  # negative scores are where the two differ
    wanted = keras.losses.categorical_hinge(one_hot, scores)
    got = jloss.categorical_hinge_loss(jnp.asarray(scores), one_hot)
    np.testing.assert_allclose(got, np.asarray(wanted), rtol=1e-5)
    assert np.abs(got - jloss.multiclass_hinge_loss(jnp.asarray(scores), LABELS)).max() > 1


def test_categorical_hinge_has_the_gradient_of_its_formula():
    def formula(scores, labels):
        others = ((1 - labels) * scores).max(-1).values
        return (1 + others - (labels * scores).sum(-1)).clamp(min=0)

    one_hot = np.eye(5, dtype=np.float32)[LABELS[:6]]
    assert_same(
        ours(jloss.categorical_hinge_loss, SCORES[:6], one_hot),
        torchs(formula, SCORES[:6], one_hot),
    )


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("margin", [0.5, 1.0])
def test_multi_margin_is_that_of_torch(p, margin):
    functional = pytest.importorskip("torch.nn.functional")
    scores = SCORES[:6]  # without ties, where torch has another subgradient

    def theirs(scores, labels):
        return functional.multi_margin_loss(scores, labels, p=p, margin=margin, reduction="none")

    def loss(scores, labels):
        return jloss.multi_margin_loss(scores, labels, p=p, margin=margin)

    assert_same(ours(loss, scores, LABELS[:6]), torchs(theirs, scores, LABELS[:6]))


def test_class_weights_are_factors_as_in_torch():
    torch = pytest.importorskip("torch")
    weights = np.float32([0.5, 1.0, 2.0, 3.0, 0.25])
    wanted = torch.nn.functional.multi_margin_loss(
        torch.tensor(SCORES), torch.tensor(LABELS), p=2, weight=torch.tensor(weights)
    )
    values = weights[LABELS] * jloss.multi_margin_loss(jnp.asarray(SCORES), LABELS, p=2)
    np.testing.assert_allclose(values.mean(), wanted, rtol=1e-5)


def test_a_power_that_torch_does_not_have_is_refused():
    with pytest.raises(ValueError, match="multi_margin_loss: p must be 1 or 2, not 3"):
        jloss.multi_margin_loss(jnp.asarray(SCORES), LABELS, p=3)


def test_squared_multi_margin_masks_classes_as_if_deleted():
    where = np.ones(SCORES.shape, bool)
    where[:, 4] = False
    labels = LABELS % 4
    wanted = ours(lambda s: jloss.multi_margin_loss(s, labels, p=2), SCORES[:, :4])
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
    values = jloss.multilabel_margin_loss(jnp.asarray(SCORES[:1]), INDICES[:1])
    assert np.isnan(values).all()


def test_multilabel_margin_stores_no_pairs():
    scores = jax.ShapeDtypeStruct((64, 512), jnp.float32)
    gradient = jax.jit(jax.grad(lambda s, y: jloss.multilabel_margin_loss(s, y).sum()))
    memory = gradient.lower(scores, scores).compile().memory_analysis()
    if memory is None:
        pytest.skip("the backend does not tell")
    assert memory.temp_size_in_bytes < 64 * 512 * 512  # a quarter of all pairs


def test_losses_of_margins_are_zero_beyond_it():
    sure = 100.0 * jnp.eye(5)[LABELS]
    for loss in (jloss.multi_margin_loss, jloss.multiclass_perceptron_loss):
        assert (loss(sure, LABELS) == 0).all()
    for loss in (jloss.categorical_hinge_loss, jloss.multilabel_margin_loss):
        assert (loss(sure, jnp.eye(5)[LABELS]) == 0).all()
