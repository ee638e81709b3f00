"""Classification losses against torch, keras, scikit-learn, optax and mpmath."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
from jax.experimental import checkify
from peers import assert_same, ours, torchs

import jloss
from jloss._promises import once

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


def test_means_are_those_of_keras():
    losses = pytest.importorskip("keras").losses
    got, sparse, focal = once(
        lambda: (
            jloss.sigmoid_binary_cross_entropy(LOGITS, BINARY).mean(-1),
            cross_entropy(LOGITS, LABELS),
            jloss.sigmoid_focal_loss(LOGITS, BINARY).mean(-1),
        )
    )()
    wanted = losses.binary_crossentropy(BINARY, LOGITS, from_logits=True)
    np.testing.assert_allclose(got, np.asarray(wanted), rtol=1e-5)
    wanted = losses.sparse_categorical_crossentropy(LABELS, LOGITS, from_logits=True)
    np.testing.assert_allclose(sparse, np.asarray(wanted), rtol=1e-5)
    wanted = losses.binary_focal_crossentropy(BINARY, LOGITS, from_logits=True)
    np.testing.assert_allclose(focal, np.asarray(wanted), rtol=1e-4)


def test_the_mean_is_the_log_loss_of_sklearn():
    metrics = pytest.importorskip("sklearn.metrics")
    odds = np.exp(LOGITS.astype(float))
    wanted = metrics.log_loss(LABELS, odds / odds.sum(-1, keepdims=True), labels=range(5))
    got = ours(cross_entropy, LOGITS, LABELS)[0].mean()
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


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
    first, second = list(inspect.signature(theirs).parameters)[:2]

    def all_of_them(p, t):
        return card.loss(p, t), theirs(p, t), card.loss(**{first: p, second: t})

    got, wanted, by_name = (np.asarray(x) for x in once(all_of_them)(predictions, targets))
    finite = np.isfinite(wanted)  # where a log-target is minus infinity optax has NaN
    assert finite.any()
    np.testing.assert_allclose(got[finite], wanted[finite], rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(by_name, got)


# Digits that peers lose


def test_a_cross_entropy_keeps_its_digits_when_the_model_is_right():
    logits, label, one_hot = np.float32([17, 0]), np.int32(0), np.float32([1, 0])

    @once
    def both(logits):
        return (
            *jax.value_and_grad(cross_entropy)(logits, label),
            jax.grad(jloss.softmax_cross_entropy)(logits, one_hot),
            jax.nn.log_softmax(logits)[0],
        )

    value, gradient, dense, theirs = both(logits)
    exact = mpmath.log1p(mpmath.exp(-17))
    np.testing.assert_allclose(value, float(exact), rtol=4e-7)
    np.testing.assert_allclose(
        gradient[0], float(-mpmath.exp(-17) / (1 + mpmath.exp(-17))), rtol=4e-7
    )
    assert theirs == 0
    np.testing.assert_allclose(dense, gradient, rtol=4e-7)


# Labels that are none


@pytest.mark.parametrize("label", [-1, 5, -100])
def test_a_label_out_of_range_spoils_its_example_alone(label):
    labels = np.where(np.arange(6) == 2, np.int32(label), LABELS)
    values, gradient = ours(cross_entropy, LOGITS, labels)
    assert np.isnan(values[2]) and np.isnan(gradient[2]).all()
    others = np.arange(6) != 2
    assert np.isfinite(values[others]).all() and np.isfinite(gradient[others]).all()


def test_under_checkify_a_label_out_of_range_is_named():
    labels = np.where(np.arange(6) == 2, np.int32(7), LABELS)
    error, _ = checkify.checkify(jax.jit(cross_entropy))(LOGITS, labels)
    message = error.get()
    assert "softmax_cross_entropy_with_integer_labels: labels must be from 0 to 4" in message
    assert "index [2]" in message and "7" in message


def test_a_mask_hides_a_label_that_is_none():
    where = np.arange(6) != 2
    labels = np.where(where, LABELS, np.int32(-100))
    values, gradient = ours(lambda x, y: cross_entropy(x, y, where=where), LOGITS, labels)
    assert values[2] == 0 and not gradient[2].any()
    np.testing.assert_array_equal(values[where], ours(cross_entropy, LOGITS, LABELS)[0][where])


def test_points_that_share_smoothed_labels_are_what_each_is_alone():
    """XLA's processor backend, left to itself, adds up wrong rows from some fifty points on."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(600, 10)).astype(np.float32)
    labels = jax.nn.one_hot(random.integers(0, 10, 600), 10)

    def loss(factor):
        return jloss.softmax_cross_entropy(logits * factor, jloss.smooth_labels(labels, 0.1))

    factors = np.linspace(0, 3, 64, dtype=np.float32)
    together, alone = jax.jit(jax.vmap(loss))(factors), jax.jit(loss)
    for place in (1, 63):
        np.testing.assert_allclose(together[place], alone(factors[place]), rtol=1e-5)


# Options of the cross-entropies

OPTIONS = dict(label_smoothing=0.1, z_loss=0.01, softcap=3.0)


def of_integers(x, y, share):
    return cross_entropy(x, y, label_smoothing=share)


def of_shares(x, y, share):
    return jloss.softmax_cross_entropy(x, y, label_smoothing=share)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_label_smoothing_is_that_of_torch(smoothing):
    def smoothed(x, y):
        return functional().cross_entropy(x, y, reduction="none", label_smoothing=smoothing)

    theirs = torchs(smoothed, LOGITS, LABELS)
    assert_same(ours(of_integers, LOGITS, LABELS, smoothing), theirs)
    assert_same(ours(of_shares, LOGITS, np.eye(5, dtype=np.float32)[LABELS], smoothing), theirs)
    assert_same(ours(of_shares, LOGITS, SOFT, smoothing), torchs(smoothed, LOGITS, SOFT))


def test_label_smoothing_is_that_of_keras_and_of_smooth_labels():
    losses = pytest.importorskip("keras").losses
    wanted = losses.categorical_crossentropy(SOFT, LOGITS, from_logits=True, label_smoothing=0.1)
    got = jloss.softmax_cross_entropy(LOGITS, SOFT, label_smoothing=0.1)
    np.testing.assert_allclose(got, np.asarray(wanted), rtol=1e-5)
    smoothed = jloss.softmax_cross_entropy(LOGITS, jloss.smooth_labels(SOFT, 0.1))
    np.testing.assert_allclose(got, smoothed, rtol=1e-6)


def test_all_options_together_are_the_formula_in_torch():
    def formula(x, y):
        capped = OPTIONS["softcap"] * (x / OPTIONS["softcap"]).tanh()
        entropy = functional().cross_entropy(
            capped, y, reduction="none", label_smoothing=OPTIONS["label_smoothing"]
        )
        return entropy + OPTIONS["z_loss"] * capped.logsumexp(-1) ** 2

    theirs, one_hot = torchs(formula, LOGITS, LABELS), np.eye(5, dtype=np.float32)[LABELS]
    assert_same(ours(partial(cross_entropy, **OPTIONS), LOGITS, LABELS), theirs)
    assert_same(ours(partial(jloss.softmax_cross_entropy, **OPTIONS), LOGITS, one_hot), theirs)


def test_an_option_at_its_limit_is_as_if_not_given():
    """Traced; and the digits of a model that is right are kept."""
    logits, label = np.float32([17, 0, -np.inf]), np.int32(0)

    @once
    def without_and_with(options):
        both = jax.value_and_grad(lambda x, **option: cross_entropy(x, label, **option))
        return both(logits), [both(logits, **{name: x}) for name, x in options.items()]

    limits = dict(label_smoothing=0.0, z_loss=0.0, softcap=np.inf)
    without, each = without_and_with(limits)
    for value, gradient in each:
        np.testing.assert_allclose(value, without[0], rtol=2e-7)
        np.testing.assert_allclose(gradient, without[1], rtol=2e-7)


@pytest.mark.parametrize("name", list(OPTIONS))
def test_options_are_traced_and_differentiable(name):
    def total(option, logits):
        return cross_entropy(logits, LABELS, **{name: option}).sum()

    with jax.enable_x64(True):
        exact, at = once(total), OPTIONS[name]
        logits = LOGITS.astype(np.float64)
        difference = (exact(at + 1e-6, logits) - exact(at - 1e-6, logits)) / 2e-6

    @once
    def transformed(option, several):
        slope = jax.grad(total)(option, LOGITS)
        each = jax.vmap(total, (0, None))(several, LOGITS)
        return slope, each, jnp.stack([total(option, LOGITS) for option in several])

    got, each, alone = transformed(at, np.float32([0.25, 0.5]))
    np.testing.assert_allclose(got, difference, rtol=1e-4)
    np.testing.assert_allclose(each, alone, rtol=1e-6)


def test_classes_left_out_have_no_share_of_a_smoothed_label():
    where = np.ones(LOGITS.shape, bool)
    where[:, -1] = False
    dirty = np.where(where, LOGITS, np.nan).astype(np.float32)
    labels = np.minimum(LABELS, 3)
    loss = partial(cross_entropy, **OPTIONS)
    got = ours(partial(loss, where=where), dirty, labels)
    wanted = ours(loss, LOGITS[:, :-1], labels)
    np.testing.assert_allclose(got[0], wanted[0], rtol=1e-6)
    np.testing.assert_allclose(got[1][:, :-1], wanted[1], rtol=1e-5, atol=1e-7)
    assert not got[1][:, -1].any()


def test_an_option_may_differ_between_examples():
    smoothing = np.linspace(0, 0.5, 6).astype(np.float32)
    values, gradient = ours(of_integers, LOGITS, LABELS, smoothing)
    for place in (0, 5):
        alone = ours(of_integers, LOGITS, LABELS, smoothing[place])
        np.testing.assert_allclose(values[place], alone[0][place], rtol=1e-6)
        np.testing.assert_allclose(gradient[place], alone[1][place], rtol=1e-5)


# What is stored between value and gradient


@pytest.mark.parametrize(
    ("name", "arrays"),
    [
        ("softmax_cross_entropy_with_integer_labels", 0),
        ("squared_error", 0),
        ("log_cosh", 0),
        ("huber_loss", 1),
        ("sigmoid_binary_cross_entropy", 1),
        ("sigmoid_focal_loss", 3),
        ("softmax_cross_entropy", 1),
        ("kl_divergence", 1),
    ],
)
def test_value_and_gradient_store_no_more_than_stated(name, arrays):
    """In arrays of the size of the predictions; optax stores up to eight."""
    shape = (512, 1000)
    predictions = jax.ShapeDtypeStruct(shape, jnp.float32)
    targets = jax.ShapeDtypeStruct(shape[:1], jnp.int32) if "integer" in name else predictions
    both = jax.value_and_grad(lambda p, t: getattr(jloss, name)(p, t).mean())
    compiled = once(both).lower(predictions, targets).compile()
    stored = compiled.memory_analysis().temp_size_in_bytes / (4 * shape[0] * shape[1])
    assert stored < arrays + 0.05


# Further losses of optax and keras


def test_a_safe_cross_entropy_is_right_in_forward_mode_at_minus_infinity():
    """optax's rule multiplies the labels' zero change by the infinite logarithm: NaN."""
    logits, labels = np.float32([1, 2, -np.inf]), np.float32([0.25, 0.75, 0])
    change = np.float32([1, 0, 0])

    @once
    def derivatives(logits):
        def along(loss):
            return jax.jvp(lambda x: loss(x, labels), (logits,), (change,))[1]

        safe = jloss.safe_softmax_cross_entropy
        gradient = jax.jacfwd(safe)(logits, labels)
        return along(safe), along(jloss.softmax_cross_entropy), gradient

    *both, gradient = derivatives(logits)
    probability = 1 / (1 + np.exp([1.0, -1.0, np.inf]))
    np.testing.assert_allclose(both, [probability[0] - 0.25] * 2, rtol=1e-6)
    np.testing.assert_allclose(gradient, probability - labels, rtol=1e-6, atol=1e-7)


def test_a_class_that_is_ruled_out_but_was_the_label_costs_infinity():
    logits = jnp.array([0.0, -jnp.inf])
    assert jloss.safe_softmax_cross_entropy(logits, jnp.array([0.5, 0.5])) == jnp.inf


@pytest.mark.parametrize("axis", [-1, 0, (0, 1)])
def test_smooth_labels_are_those_of_optax(axis):
    labels = np.eye(5, dtype=np.float32)[LABELS]
    got = jloss.smooth_labels(labels, 0.3, axis=axis)
    if axis == (0, 1):
        np.testing.assert_allclose(got, 0.7 * labels + 0.3 / labels.size, rtol=1e-6)
    else:
        np.testing.assert_allclose(got, optax.smooth_labels(labels, 0.3, axis=axis), rtol=1e-6)


def test_smooth_labels_with_a_mask_are_those_of_optax_where_they_count():
    labels = np.eye(5, dtype=np.float32)[LABELS]
    where = np.arange(5) < np.maximum(LABELS, 2)[:, None] + 1
    got = np.asarray(jloss.smooth_labels(labels, 0.3, where=where))
    wanted = np.asarray(optax.smooth_labels(labels, 0.3, where=where))
    np.testing.assert_allclose(got[where], wanted[where], rtol=1e-6)
    np.testing.assert_allclose(got.sum(-1), 1, rtol=1e-6)
    assert not got[~where].any()


def poly(x, y, epsilon):
    return jloss.poly_loss_cross_entropy(x, y, epsilon=epsilon)


def optaxs_poly(x, y, epsilon):
    return optax.losses.poly_loss_cross_entropy(x, y, epsilon=epsilon)


@pytest.mark.parametrize("epsilon", [-1.0, 0.0, 2.0])
@pytest.mark.parametrize("labels", [np.eye(5, dtype=np.float32)[LABELS], SOFT], ids=["one", "soft"])
def test_the_poly_loss_is_the_formula_in_torch_and_optax(labels, epsilon):
    def formula(x, y):
        p = x.softmax(-1)
        return (y * (epsilon * (1 - p) - p.log())).sum(-1)

    arguments = LOGITS, labels, epsilon
    assert_same(ours(poly, *arguments), torchs(formula, LOGITS, labels), rtol=1e-5)
    assert_same(ours(poly, *arguments), ours(optaxs_poly, *arguments), rtol=1e-5)


def test_the_poly_loss_without_its_linear_part_keeps_its_digits():
    """With epsilon -1 it is (1 - p)² / 2 + (1 - p)³ / 3 + …, the difference of two equal terms."""
    logits, labels = jnp.array([8.0, 0.0]), jnp.array([1.0, 0.0])
    missing = 1 / (1 + mpmath.exp(8))
    exact = -mpmath.log(1 - missing) - missing
    got = jloss.poly_loss_cross_entropy(logits, labels, epsilon=-1.0)
    np.testing.assert_allclose(got, float(exact), rtol=1e-6)


def focal(x, y, gamma):
    return jloss.softmax_focal_loss(x, y, gamma=gamma)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_the_softmax_focal_loss_is_the_formula_in_torch(gamma):
    def formula(x, y):
        p = x.softmax(-1)
        return (y * -((1 - p) ** gamma) * p.log()).sum(-1)

    assert_same(ours(focal, LOGITS, SOFT, gamma), torchs(formula, LOGITS, SOFT), rtol=1e-5)


def test_the_softmax_focal_loss_is_that_of_keras():
    losses = pytest.importorskip("keras").losses
    wanted = losses.categorical_focal_crossentropy(SOFT, LOGITS, alpha=0.25, from_logits=True)
    got = 0.25 * jloss.softmax_focal_loss(LOGITS, SOFT)
    np.testing.assert_allclose(got, np.asarray(wanted), rtol=1e-4)


def test_the_softmax_focal_loss_of_two_classes_is_the_sigmoid_one():
    logits = np.stack([LOGITS[0], np.zeros(5, np.float32)], -1)
    labels = np.stack([BINARY[0], 1 - BINARY[0]], -1)
    got, wanted = once(
        lambda: (
            jloss.softmax_focal_loss(logits, labels),
            jloss.sigmoid_focal_loss(LOGITS[0], BINARY[0]),
        )
    )()
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


# Edges


ROWS = np.float32([[17, 0, 0], [30, -30, 0], [1e4, -1e4, 0], [2, 2, 2], [-1e4, 1e4, 1e4]])


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_cross_entropy_at_edges_is_that_of_torch(label):
    labels = np.full(5, label)
    theirs = torchs(lambda x, y: functional().cross_entropy(x, y, reduction="none"), ROWS, labels)
    assert_same(ours(cross_entropy, ROWS, labels), theirs, rtol=1e-6, atol=1e-15)
    one_hot = np.float32(np.eye(3)[labels])
    assert_same(ours(jloss.softmax_cross_entropy, ROWS, one_hot), theirs, rtol=1e-6, atol=1e-15)


def test_an_infinite_logit_is_a_certain_answer():
    logits, labels = np.float32([np.inf, np.inf]), np.float32([1, 0])
    binary = once(jloss.sigmoid_binary_cross_entropy)(logits, labels)
    assert binary.tolist() == [0, np.inf]
    logits = np.float32([[np.inf, 0, 0], [-np.inf, 0, 0], [-np.inf, 0, 0]])
    values = once(cross_entropy)(logits, np.int32([0, 0, 1]))
    np.testing.assert_allclose(values, [0, np.inf, np.log(2)], rtol=3e-7)


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
