"""Classification losses against torch, keras, scikit-learn, optax and mpmath."""

import inspect

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
from jax.experimental import checkify
from peers import assert_same, ours, torchs

import jloss

rng = np.random.default_rng(0)
LOGITS = (4 * rng.normal(size=(6, 5))).astype(np.float32)
LABELS = rng.integers(0, 5, 6).astype(np.int32)
SOFT = rng.dirichlet(np.ones(5), 6).astype(np.float32)
BINARY = rng.integers(0, 2, (6, 5)).astype(np.float32)
cross_entropy = jloss.softmax_cross_entropy_with_integer_labels


def functional():
    return pytest.importorskip("torch").nn.functional


def test_cross_entropies_and_their_gradients_are_those_of_torch():
    def torch_cross_entropy(logits, labels):
        return functional().cross_entropy(logits, labels, reduction="none")

    assert_same(ours(cross_entropy, LOGITS, LABELS), torchs(torch_cross_entropy, LOGITS, LABELS))
    theirs = torchs(torch_cross_entropy, LOGITS, SOFT)
    assert_same(ours(jloss.softmax_cross_entropy, LOGITS, SOFT), theirs)


def test_classes_on_axis_1_are_as_in_torch():
    images = np.moveaxis(LOGITS.reshape(2, 3, 5), -1, 1)
    labels = LABELS.reshape(2, 3)
    theirs = torchs(lambda x, y: functional().cross_entropy(x, y, reduction="none"), images, labels)
    assert_same(ours(lambda x, y: cross_entropy(x, y, axis=1), images, labels), theirs)


@pytest.mark.parametrize("labels", [BINARY, SOFT], ids=["certain", "soft"])
def test_binary_cross_entropy_and_its_gradient_are_those_of_torch(labels):
    theirs = torchs(
        lambda x, y: functional().binary_cross_entropy_with_logits(x, y, reduction="none"),
        LOGITS,
        labels,
    )
    assert_same(ours(jloss.sigmoid_binary_cross_entropy, LOGITS, labels), theirs)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_and_its_gradient_are_the_formula_in_torch(gamma):
    def formula(x, y):
        entropy = functional().binary_cross_entropy_with_logits(x, y, reduction="none")
        probability = x.sigmoid()
        right = probability * y + (1 - probability) * (1 - y)
        return (0.25 * y + 0.75 * (1 - y)) * (1 - right) ** gamma * entropy

    def focal(x, y):
        return jloss.sigmoid_focal_loss(x, y, alpha=0.25, gamma=gamma)

    assert_same(ours(focal, LOGITS, BINARY), torchs(formula, LOGITS, BINARY), rtol=1e-5)


def test_means_are_those_of_keras():
    losses = pytest.importorskip("keras").losses
    got = jloss.sigmoid_binary_cross_entropy(LOGITS, BINARY).mean(-1)
    wanted = losses.binary_crossentropy(BINARY, LOGITS, from_logits=True)
    np.testing.assert_allclose(got, np.asarray(wanted), rtol=1e-5)
    wanted = losses.sparse_categorical_crossentropy(LABELS, LOGITS, from_logits=True)
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS), np.asarray(wanted), rtol=1e-5)
    focal = jloss.sigmoid_focal_loss(LOGITS, BINARY).mean(-1)
    wanted = losses.binary_focal_crossentropy(BINARY, LOGITS, from_logits=True)
    np.testing.assert_allclose(focal, np.asarray(wanted), rtol=1e-4)


def test_the_mean_is_the_log_loss_of_sklearn():
    metrics = pytest.importorskip("sklearn.metrics")
    probabilities = np.asarray(jax.nn.softmax(LOGITS.astype(float)))
    wanted = metrics.log_loss(LABELS, probabilities, labels=range(5))
    np.testing.assert_allclose(jloss.mean(cross_entropy(LOGITS, LABELS)), wanted, rtol=1e-6)


# A program that used optax.losses


@pytest.mark.parametrize("name", [n for n in jloss.CARDS if hasattr(optax.losses, n)])
def test_optax_can_be_replaced(name):
    """The same arguments, by place and by name, and the same values on ordinary input."""
    card, theirs = jloss.CARDS[name], getattr(optax.losses, name)
    if card.form:
        pytest.skip("its arguments are not predictions and targets")
    draw = np.random.default_rng(1)
    unit = {"element": (), "example": (4,), "list": (4,), "batch": (3,)}[card.values]
    predictions = card.predictions.draw(draw, (6, *unit)).astype(np.float32)
    targets = card.targets.draw(draw, (6, *unit))
    targets = targets.astype(np.float32 if targets.dtype.kind == "f" else np.int32)
    got, wanted = (np.asarray(f(predictions, targets)) for f in (card.loss, theirs))
    numbers = ~np.isnan(wanted)  # where a log-target is minus infinity optax has none
    assert numbers.any()
    np.testing.assert_allclose(got[numbers], wanted[numbers], rtol=2e-5, atol=2e-6)
    first, second = list(inspect.signature(theirs).parameters)[:2]
    by_name = card.loss(**{first: predictions, second: targets})
    np.testing.assert_array_equal(by_name, card.loss(predictions, targets))


# Digits that peers lose


def test_a_cross_entropy_keeps_its_digits_when_the_model_is_right():
    logits = jnp.array([17.0, 0.0])
    value, gradient = jax.value_and_grad(cross_entropy)(logits, jnp.array(0))
    exact = mpmath.log1p(mpmath.exp(-17))
    np.testing.assert_allclose(value, float(exact), rtol=4e-7)
    np.testing.assert_allclose(
        gradient[0], float(-mpmath.exp(-17) / (1 + mpmath.exp(-17))), rtol=4e-7
    )
    assert jax.nn.log_softmax(logits)[0] == 0
    dense = jax.grad(jloss.softmax_cross_entropy)(logits, jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(dense, gradient, rtol=4e-7)


# Labels that are none


@pytest.mark.parametrize("label", [-1, 5, -100])
def test_a_label_out_of_range_spoils_its_example_alone(label):
    labels = jnp.asarray(LABELS).at[2].set(label)
    values, gradient = ours(cross_entropy, LOGITS, labels)
    assert np.isnan(values[2]) and np.isnan(gradient[2]).all()
    others = np.arange(6) != 2
    assert np.isfinite(values[others]).all() and np.isfinite(gradient[others]).all()


def test_under_checkify_a_label_out_of_range_is_named():
    labels = jnp.asarray(LABELS).at[2].set(7)
    error, _ = checkify.checkify(jax.jit(cross_entropy))(LOGITS, labels)
    message = error.get()
    assert "softmax_cross_entropy_with_integer_labels: labels must be from 0 to 4" in message
    assert "index [2]" in message and "7" in message


def test_a_mask_hides_a_label_that_is_none():
    labels, where = jnp.asarray(LABELS).at[2].set(-100), np.arange(6) != 2
    values, gradient = ours(lambda x, y: cross_entropy(x, y, where=where), LOGITS, labels)
    assert values[2] == 0 and not gradient[2].any()
    np.testing.assert_array_equal(values[where], cross_entropy(LOGITS, LABELS)[where])


# Edges


EDGES = np.float32([0.0, 1e-30, -1e-6, 0.5, 17.0, -17.0, 30.0, -30.0, 1e4, -1e4])
AT_EDGES = np.repeat(EDGES, 3), np.float32(np.tile([0.0, 1.0, 0.25], len(EDGES)))
ROWS = np.float32([[17, 0, 0], [30, -30, 0], [1e4, -1e4, 0], [2, 2, 2], [-1e4, 1e4, 1e4]])


def test_binary_cross_entropy_at_edges_is_that_of_torch():
    theirs = torchs(
        lambda x, y: functional().binary_cross_entropy_with_logits(x, y, reduction="none"),
        *AT_EDGES,
    )
    # The smallest values are below what float64 resolves beside 1, so torch has lost them.
    assert_same(ours(jloss.sigmoid_binary_cross_entropy, *AT_EDGES), theirs, rtol=1e-6, atol=4e-15)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_cross_entropy_at_edges_is_that_of_torch(label):
    labels = np.full(5, label)
    theirs = torchs(lambda x, y: functional().cross_entropy(x, y, reduction="none"), ROWS, labels)
    assert_same(ours(cross_entropy, ROWS, labels), theirs, rtol=1e-6, atol=1e-15)
    one_hot = np.float32(np.eye(3)[labels])
    assert_same(ours(jloss.softmax_cross_entropy, ROWS, one_hot), theirs, rtol=1e-6, atol=1e-15)


def test_a_right_binary_answer_keeps_the_digits_of_its_small_loss():
    logits, labels = np.float32([17, -17]), np.float32([1, 0])
    values, gradient = ours(jloss.sigmoid_binary_cross_entropy, logits, labels)
    np.testing.assert_allclose(values, np.log1p(np.exp(-17.0)), rtol=3e-7)
    np.testing.assert_allclose(gradient, [-1, 1] / (1 + np.exp(17.0)), rtol=3e-7)


def test_an_infinite_logit_is_a_certain_answer():
    logits, labels = np.float32([np.inf, np.inf]), np.float32([1, 0])
    binary = jax.jit(jloss.sigmoid_binary_cross_entropy)(logits, labels)
    assert binary.tolist() == [0, np.inf]
    logits = np.float32([[np.inf, 0, 0], [-np.inf, 0, 0], [-np.inf, 0, 0]])
    values = jax.jit(cross_entropy)(logits, np.int32([0, 0, 1]))
    np.testing.assert_allclose(values, [0, np.inf, np.log(2)], rtol=3e-7)


def test_a_focal_loss_without_focus_is_the_cross_entropy():
    focal = ours(lambda x, y: jloss.sigmoid_focal_loss(x, y, gamma=0.0), *AT_EDGES)
    assert_same(focal, ours(jloss.sigmoid_binary_cross_entropy, *AT_EDGES), rtol=1e-6, atol=0)


@pytest.mark.parametrize("label", [-0.1, 1.1, np.nan])
def test_a_probability_out_of_range_spoils_its_own_element(label):
    labels = np.float32([0, label, 1])
    for loss in (jloss.sigmoid_binary_cross_entropy, jloss.sigmoid_focal_loss):
        values, gradient = ours(loss, np.zeros(3), labels)
        assert np.isnan(values).tolist() == np.isnan(gradient).tolist() == [False, True, False]


def test_labels_of_several_axes_of_classes_count_in_their_order():
    logits, labels = np.resize(LOGITS, (2, 3, 4)), np.int32([0, 11])
    by_axes = ours(lambda x, y: cross_entropy(x, y, axis=(1, 2)), logits, labels)
    values, gradient = ours(cross_entropy, logits.reshape(2, 12), labels)
    assert_same(by_axes, (values, gradient.reshape(2, 3, 4)), rtol=1e-6, atol=0)


def test_a_mask_of_classes_leaves_them_out():
    logits, where = np.float32([[1, np.nan, 3]]), np.array([[True, False, True]])
    values, gradient = ours(lambda x, y: cross_entropy(x, y, where=where), logits, np.int32([0]))
    np.testing.assert_allclose(values, [np.log1p(np.exp(2.0))], rtol=1e-6)
    assert gradient[0, 1] == 0
