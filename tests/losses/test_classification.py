"""Cross-entropies against their peers, and right where these are wrong."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify
from peers import assert_agree, by_keras, by_optax, by_sklearn, by_torch, values_and_gradients

import jloss

rng = np.random.default_rng(0)
EDGES = np.float32([0.0, 1e-30, -1e-6, 0.5, 17.0, -17.0, 80.0, -80.0, 1e4, -1e4])
LOGITS = np.concatenate([np.repeat(EDGES, 3), rng.normal(0, 5, 20)]).astype(np.float32)
LABELS = np.concatenate([np.tile([0.0, 1.0, 0.25], len(EDGES)), rng.random(20)])
LABELS = LABELS.astype(np.float32)
MILD = (LOGITS[-20:], LABELS[-20:])

ROWS = np.float32(rng.normal(0, 5, (12, 5)))
ROWS[:4] = [[17, 0, 0, 0, 0], [80, -80, 0, 1, 1], [1e4, -1e4, 0, 3, 0], [2, 2, 2, 2, 2]]
CLASSES = np.concatenate([[0, 1, 0, 4], rng.integers(0, 5, 8)]).astype(np.int32)
SHARES = rng.dirichlet(np.ones(5), 12).astype(np.float32)
SHARES[:4] = np.eye(5)[CLASSES[:4]]


def focal_in_torch(f, logits, labels, alpha, gamma):
    wrong = (1 - labels) * logits.sigmoid() + labels * (-logits).sigmoid()
    balance = alpha * labels + (1 - alpha) * (1 - labels)
    entropy = f.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return balance * wrong**gamma * entropy


def focal_in_keras(k, logits, labels):
    return k.binary_focal_crossentropy(
        labels[:, None],
        logits[:, None],
        apply_class_balancing=True,
        alpha=0.3,
        gamma=1.5,
        from_logits=True,
    )


@pytest.mark.parametrize(
    ("loss", "peer", "inputs"),
    [
        (
            jloss.sigmoid_binary_cross_entropy,
            by_torch(lambda f, x, y: f.binary_cross_entropy_with_logits(x, y, reduction="none")),
            (LOGITS, LABELS),
        ),
        (
            jloss.sigmoid_binary_cross_entropy,
            by_keras(lambda k, x, y: k.binary_crossentropy(y[:, None], x[:, None], True)),
            (LOGITS, LABELS),
        ),
        (
            jloss.sigmoid_binary_cross_entropy,
            by_optax(lambda o, x, y: o.sigmoid_binary_cross_entropy(x, y)),
            (LOGITS, LABELS),
        ),
        (jloss.sigmoid_binary_cross_entropy, by_sklearn("HalfBinomialLoss"), (LOGITS, LABELS)),
        (
            partial(jloss.sigmoid_focal_loss, alpha=0.25, gamma=2.0),
            by_torch(partial(focal_in_torch, alpha=0.25, gamma=2.0)),
            (LOGITS, LABELS),
        ),
        (
            partial(jloss.sigmoid_focal_loss, alpha=0.3, gamma=1.5),
            by_keras(focal_in_keras),
            MILD,  # beyond a logit of 16 it clips
        ),
        (
            jloss.sigmoid_focal_loss,
            by_optax(lambda o, x, y: o.sigmoid_focal_loss(x, y)),
            MILD,
        ),
        (
            jloss.softmax_cross_entropy,
            by_torch(lambda f, x, y: f.cross_entropy(x, y, reduction="none")),
            (ROWS, SHARES),
        ),
        (
            jloss.softmax_cross_entropy,
            by_keras(lambda k, x, y: k.categorical_crossentropy(y, x, from_logits=True)),
            (ROWS, SHARES),
        ),
        (
            jloss.softmax_cross_entropy,
            by_optax(lambda o, x, y: o.softmax_cross_entropy(x, y)),
            (ROWS, SHARES),
        ),
        (
            jloss.softmax_cross_entropy_with_integer_labels,
            by_torch(lambda f, x, c: f.cross_entropy(x, c, reduction="none")),
            (ROWS, CLASSES),
        ),
        (
            jloss.softmax_cross_entropy_with_integer_labels,
            by_keras(lambda k, x, c: k.sparse_categorical_crossentropy(c, x, from_logits=True)),
            (ROWS, CLASSES),
        ),
        (
            jloss.softmax_cross_entropy_with_integer_labels,
            by_sklearn("HalfMultinomialLoss", n_classes=5),
            (ROWS, CLASSES),
        ),
    ],
)
def test_values_and_gradients_are_those_of_a_peer(loss, peer, inputs):
    assert_agree(loss, peer, *inputs)


def test_classes_may_lie_along_any_axes():
    torch = pytest.importorskip("torch")
    logits, labels = np.float32(rng.normal(0, 3, (2, 5, 3, 4))), rng.integers(0, 5, (2, 3, 4))
    integer = jloss.softmax_cross_entropy_with_integer_labels
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels), reduction="none"
    )
    ours = jax.jit(partial(integer, axis=1))(logits, labels)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5)
    one_hot = np.moveaxis(np.eye(5, dtype=np.float32)[labels], -1, 1)
    soft = jax.jit(partial(jloss.softmax_cross_entropy, axis=1))(logits, one_hot)
    np.testing.assert_allclose(soft, ours, rtol=1e-6)
    places = np.int32([0, 59])
    both = jax.jit(partial(integer, axis=(1, 2, 3)))(logits, places)
    wanted = jax.jit(integer)(logits.reshape(2, 60), places)
    np.testing.assert_allclose(both, wanted, rtol=1e-6)


# Where peers are wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        (jloss.softmax_cross_entropy, jnp.array([1.0, 0.0])),
        (jloss.softmax_cross_entropy_with_integer_labels, jnp.array(0)),
    ],
)
def test_a_right_model_keeps_the_digits_of_its_small_loss(loss, labels):
    logits = jnp.array([17.0, 0.0])
    assert jax.nn.log_softmax(logits)[0] == 0  # what peers answer
    value, gradient = jax.jit(jax.value_and_grad(loss))(logits, labels)
    exact = np.log1p(np.exp(-17.0)), 1 / (1 + np.exp(17.0))
    np.testing.assert_allclose(value, exact[0], rtol=3e-7)
    np.testing.assert_allclose(gradient, [-exact[1], exact[1]], rtol=3e-7)


def test_a_right_binary_answer_keeps_the_digits_of_its_small_loss():
    run = jax.jit(jax.value_and_grad(jloss.sigmoid_binary_cross_entropy))
    for logit, label, sign in ((17.0, 1.0, -1), (-17.0, 0.0, 1)):
        value, gradient = run(logit, label)
        np.testing.assert_allclose(value, np.log1p(np.exp(-17.0)), rtol=3e-7)
        np.testing.assert_allclose(gradient, sign / (1 + np.exp(17.0)), rtol=3e-7)


def test_an_infinite_logit_is_a_certain_answer():
    binary = jax.jit(jloss.sigmoid_binary_cross_entropy)(
        jnp.array([jnp.inf, jnp.inf]), jnp.array([1.0, 0.0])
    )
    assert binary.tolist() == [0, np.inf]
    logits = jnp.array([[jnp.inf, 0.0, 0.0], [-jnp.inf, 0.0, 0.0], [-jnp.inf, 0.0, 0.0]])
    values = jax.jit(jloss.softmax_cross_entropy_with_integer_labels)(logits, jnp.array([0, 0, 1]))
    assert values.tolist() == [0, np.inf, np.float32(np.log(2))]


def test_a_focal_loss_without_focus_is_the_cross_entropy():
    focal = values_and_gradients(partial(jloss.sigmoid_focal_loss, gamma=0.0))
    plain = values_and_gradients(jloss.sigmoid_binary_cross_entropy)
    for ours, wanted in zip(focal(LOGITS, LABELS), plain(LOGITS, LABELS), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-6)


@pytest.mark.parametrize("label", [-1, 3, -100])
def test_a_label_out_of_range_spoils_its_own_example_and_raises_under_checkify(label):
    logits, labels = jnp.array([[1.0, 2.0, 0.5]] * 3), jnp.array([0, label, 2])
    loss = jloss.softmax_cross_entropy_with_integer_labels

    values, gradient = values_and_gradients(loss)(logits, labels)
    assert np.isnan(values).tolist() == [False, True, False]
    assert np.isnan(gradient).tolist() == [[False] * 3, [True] * 3, [False] * 3]
    error, _ = jax.jit(checkify.checkify(loss, errors=checkify.user_checks))(logits, labels)
    message = rf"labels must be from 0 to 2; at index \[1\] it is {label}"
    with pytest.raises(checkify.JaxRuntimeError, match=message):
        error.throw()


@pytest.mark.parametrize("label", [-0.1, 1.1, np.nan])
def test_a_probability_out_of_range_spoils_its_own_element(label):
    labels = jnp.array([0.0, label, 1.0])
    for loss in (jloss.sigmoid_binary_cross_entropy, jloss.sigmoid_focal_loss):
        assert np.isnan(jax.jit(loss)(jnp.zeros(3), labels)).tolist() == [False, True, False]


def test_a_mask_hides_nan_and_impossible_labels_from_value_and_gradient():
    logits = np.float32([[1, 2], [np.nan, np.inf], [0, 3]])
    for loss, labels in (
        (jloss.softmax_cross_entropy_with_integer_labels, np.int32([0, -7, 1])),
        (jloss.softmax_cross_entropy, np.float32([[1, 0], [-1, np.nan], [0, 1]])),
    ):
        masked = partial(loss, where=np.array([True, False, True]))
        values, gradient = values_and_gradients(masked)(logits, labels)
        wanted, wanted_gradient = values_and_gradients(loss)(logits[::2], labels[::2])
        assert values[1] == 0
        assert not gradient[1].any()
        assert np.array_equal(values[::2], wanted)
        assert np.array_equal(gradient[::2], wanted_gradient)


def test_a_mask_of_classes_leaves_them_out():
    logits, where = jnp.array([[1.0, jnp.nan, 3.0]]), jnp.array([[True, False, True]])
    loss = jax.jit(jloss.softmax_cross_entropy_with_integer_labels)
    values = loss(logits, jnp.array([0]), where=where)
    np.testing.assert_allclose(values, [np.log1p(np.exp(2.0))], rtol=1e-6)
