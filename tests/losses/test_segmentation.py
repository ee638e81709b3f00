"""Segmentation losses against optax, Keras and their formulas, and where these are wrong."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from peers import assert_same, ours, torchs

import jloss

RNG = np.random.default_rng(0)
LOGITS = np.float32(RNG.normal(scale=2, size=(2, 4, 5, 3)))
LABELS = np.eye(3, dtype=np.float32)[RNG.integers(0, 3, (2, 4, 5))]
SOFT = np.float32(RNG.dirichlet(np.ones(3), (2, 4, 5)))
BINARY = np.float32(RNG.integers(0, 2, (2, 4, 5)))


@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["one-hot", "soft"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"smooth": 1e-3, "alpha": 0.3, "beta": 0.7},
        {"reduction": "sum", "class_weights": jnp.array([0.5, 1.0, 3.0])},
        {"reduction": "none", "ignore_background": True},
        {"ignore_background": True},
        {"axis": (0, 1, 2)},
        {"axis": 1},
    ],
    ids=str,
)
def test_dice_with_all_its_options_is_that_of_optax(options, labels):
    got, wanted = (
        ours(partial(library.dice_loss, **options), LOGITS, jnp.asarray(labels))
        for library in (jloss, optax.losses)
    )
    assert_same(got, wanted)


def test_dice_of_a_single_class_and_of_two_axes_is_that_of_optax():
    for logits, labels in ((LOGITS[..., :1], LABELS[..., :1]), (LOGITS[0, 0], LABELS[0, 0])):
        logits, labels = jnp.asarray(logits), jnp.asarray(labels)
        wanted = optax.losses.dice_loss(logits, labels)
        np.testing.assert_allclose(jloss.dice_loss(logits, labels), wanted, rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 4, 1), (5,)])
def test_binary_dice_is_that_of_optax(shape):
    logits = jnp.float32(RNG.normal(size=shape))
    labels = jnp.float32(RNG.integers(0, 2, shape))
    got, wanted = (
        ours(library.binary_dice_loss, logits, labels) for library in (jloss, optax.losses)
    )
    assert_same(got, wanted)


@pytest.mark.parametrize("ignore", [False, True])
def test_multiclass_generalized_dice_is_that_of_optax(ignore):
    got, wanted = (
        ours(
            partial(library.multiclass_generalized_dice_loss, ignore_background=ignore),
            LOGITS,
            jnp.asarray(LABELS),
        )
        for library in (jloss, optax.losses)
    )
    assert_same(got, wanted)


def test_probabilities_are_taken_as_they_are():
    probabilities = jax.nn.softmax(jnp.asarray(LOGITS))
    for loss in (jloss.dice_loss, jloss.multiclass_generalized_dice_loss):
        got = loss(probabilities, LABELS, apply_softmax=False)
        np.testing.assert_allclose(got, loss(jnp.asarray(LOGITS), LABELS), rtol=1e-5)
    assert np.isnan(jloss.dice_loss(1.5 * jnp.asarray(LABELS), LABELS, apply_softmax=False)).all()


def test_binary_probabilities_are_taken_where_optax_refuses_them():
    probabilities = jax.nn.sigmoid(jnp.asarray(LOGITS[..., 0]))
    with pytest.raises(ValueError, match="sum to 1"):
        optax.losses.binary_dice_loss(probabilities, BINARY, apply_sigmoid=False)
    got = jloss.binary_dice_loss(probabilities, BINARY, apply_sigmoid=False)
    np.testing.assert_allclose(
        got, jloss.binary_dice_loss(jnp.asarray(LOGITS[..., 0]), BINARY), rtol=1e-5
    )


def test_dice_keeps_the_digits_of_a_right_prediction_where_optax_does_not():
    sure = jnp.asarray(40.0 * LABELS)
    labels = jnp.asarray(LABELS)
    wanted = np.float64(2 * np.exp(-40.0))  # of each pixel, nearly
    assert (optax.losses.dice_loss(sure, labels, smooth=0.0) <= 0).all()
    value, gradient = ours(partial(jloss.dice_loss, smooth=0.0), sure, labels)
    assert (value > 0.5 * wanted).all() and (value < 2 * wanted).all()
    assert (gradient[LABELS > 0] < 0).all()


def test_an_empty_region_that_is_predicted_empty_costs_nothing_where_optax_gives_nan():
    nowhere, labels = jnp.full((1, 4, 1), -jnp.inf), jnp.zeros((1, 4, 1))
    assert np.isnan(optax.losses.dice_loss(nowhere, labels, smooth=0.0)).all()
    value, gradient = ours(partial(jloss.dice_loss, smooth=0.0), nowhere, labels)
    assert value == 0 and (gradient == 0).all()


def test_an_empty_region_that_is_predicted_empty_costs_nothing_where_keras_takes_all():
    keras = pytest.importorskip("keras")
    nothing = np.zeros((4,), np.float32)
    assert float(keras.losses.tversky(nothing, nothing)) == 1
    assert jloss.tversky_loss(nothing, nothing) == 0


def test_a_mask_of_pixels_is_as_good_as_deleting_them():
    where = np.ones((2, 4, 5, 1), bool)
    where[:, :, 3:] = False
    hidden = np.where(where, LOGITS, np.nan)
    for loss in (
        jloss.dice_loss,
        jloss.generalized_dice_loss,
        jloss.multiclass_generalized_dice_loss,
    ):
        values, gradient = ours(partial(loss, where=where), hidden, LABELS)
        assert_same((values, gradient[:, :, :3]), ours(loss, LOGITS[:, :, :3], LABELS[:, :, :3]))
        assert (gradient[:, :, 3:] == 0).all()


def test_a_mask_of_classes_is_as_good_as_deleting_them():
    where = np.ones(LOGITS.shape, bool)
    where[..., 2] = False
    got = jloss.dice_loss(jnp.where(where, LOGITS, jnp.nan), LABELS, where=where)
    np.testing.assert_allclose(got, jloss.dice_loss(LOGITS[..., :2], LABELS[..., :2]), rtol=1e-5)


def test_a_mask_of_images_hides_them():
    where = np.array([True, False])
    hidden = jnp.where(where[:, None, None, None], LOGITS, jnp.nan)
    for loss in (jloss.dice_loss, jloss.generalized_dice_loss):
        value = loss(hidden, LABELS, where=where)
        np.testing.assert_allclose(value, [loss(LOGITS[:1], LABELS[:1])[0], 0], rtol=1e-6)
    per_class = jloss.dice_loss(hidden, LABELS, reduction="none", where=np.stack([where] * 3, -1))
    assert (per_class[1] == 0).all() and (per_class[0] > 0).all()
    np.testing.assert_allclose(
        jloss.multiclass_generalized_dice_loss(hidden, LABELS, where=where),
        jloss.multiclass_generalized_dice_loss(LOGITS[:1], LABELS[:1]),
        rtol=1e-6,
    )


def test_generalized_dice_is_the_formula_of_the_paper():
    torch = pytest.importorskip("torch")

    def formula(logits, labels):
        p, size = torch.softmax(logits, -1).flatten(1, 2), labels.flatten(1, 2).sum(1)
        t, weight = labels.flatten(1, 2), 1 / size**2
        hit = (weight * (p * t).sum(1)).sum(-1)
        return 1 - 2 * hit / (weight * (p + t).sum(1)).sum(-1)

    assert_same(
        ours(jloss.generalized_dice_loss, LOGITS, LABELS),
        torchs(formula, LOGITS, LABELS),
    )


def test_a_class_that_does_not_occur_weighs_as_much_as_the_rarest():
    logits = jnp.zeros((1, 6, 3))
    labels = jnp.eye(3)[jnp.array([[0, 0, 0, 0, 1, 1]])]
    # Weights 1/16, 1/4 and, for the absent one, 1/4 again.
    hit = 4 / 3 / 16 + 2 / 3 / 4
    both = (2 + 4) / 16 + (2 + 2) / 4 + 2 / 4
    got = jloss.generalized_dice_loss(logits, labels)
    np.testing.assert_allclose(got, [1 - 2 * hit / both], rtol=1e-6)


def test_tversky_has_its_weights_as_in_the_paper_where_keras_has_them_interchanged():
    keras = pytest.importorskip("keras")
    p, t = np.float32(RNG.random((2, 6))), np.float32(RNG.integers(0, 2, (2, 6)))
    theirs = keras.losses.tversky(t, p, alpha=0.3, beta=0.7, axis=1)
    hit, extra, missed = (p * t).sum(1), (p * (1 - t)).sum(1), ((1 - p) * t).sum(1)
    got = jloss.tversky_loss(p, t, alpha=0.3, beta=0.7, axis=1)
    np.testing.assert_allclose(got, 1 - hit / (hit + 0.3 * extra + 0.7 * missed), rtol=1e-5)
    assert np.abs(got - np.asarray(theirs)).max() > 0.01
    swapped = jloss.tversky_loss(p, t, alpha=0.7, beta=0.3, axis=1)
    np.testing.assert_allclose(swapped, np.asarray(theirs), rtol=1e-5)


def test_tversky_with_its_defaults_is_the_dice_loss_of_keras():
    keras = pytest.importorskip("keras")
    p, t = np.float32(RNG.random((2, 6))), np.float32(RNG.integers(0, 2, (2, 6)))
    np.testing.assert_allclose(
        jloss.tversky_loss(p, t), np.asarray(keras.losses.dice(t, p)), rtol=1e-5
    )


def test_weights_of_errors_may_differ_from_class_to_class_and_be_learned():
    def total(alpha):
        return jloss.dice_loss(jnp.asarray(LOGITS), LABELS, alpha=alpha).sum()

    gradient = jax.grad(total)(jnp.array([0.2, 0.5, 0.9]))
    assert gradient.shape == (3,) and (gradient > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axis": -1}, "must not name the last axis"),
        ({"reduction": "median"}, "reduction must be"),
        ({"class_weights": jnp.ones(2)}, r"class_weights \(2,\) must have the shape \(3,\)"),
    ],
)
def test_a_wrong_option_of_dice_is_refused(options, message):
    with pytest.raises(ValueError, match=f"dice_loss: .*{message}"):
        jloss.dice_loss(jnp.asarray(LOGITS), LABELS, **options)
