"""Segmentation losses against optax, Keras and their formulas, and where these are wrong."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from peers import assert_same, ours, torchs

import jloss
from jloss._promises import once

RNG = np.random.default_rng(0)
LOGITS = np.float32(RNG.normal(scale=2, size=(2, 4, 5, 3)))
LABELS = np.eye(3, dtype=np.float32)[RNG.integers(0, 3, (2, 4, 5))]
SOFT = np.float32(RNG.dirichlet(np.ones(3), (2, 4, 5)))
BINARY = np.float32(RNG.integers(0, 2, (2, 4, 5)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"smooth": 1e-3, "alpha": 0.3, "beta": 0.7},
        {"reduction": "sum", "class_weights": np.float32([0.5, 1.0, 3.0])},
        {"reduction": "none", "ignore_background": True},
        {"ignore_background": True},
        {"axis": (0, 1, 2)},
        {"axis": 1},
    ],
    ids=str,
)
def test_dice_with_all_its_options_is_that_of_optax(options):
    mine, theirs = (partial(library.dice_loss, **options) for library in (jloss, optax.losses))
    for labels in (LABELS, SOFT):
        assert_same(ours(mine, LOGITS, labels), ours(theirs, LOGITS, labels))


def test_dice_of_a_single_class_and_of_two_axes_is_that_of_optax():
    for logits, labels in ((LOGITS[..., :1], LABELS[..., :1]), (LOGITS[0, 0], LABELS[0, 0])):
        got, wanted = (ours(library.dice_loss, logits, labels) for library in (jloss, optax.losses))
        assert_same(got, wanted)


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 4, 1), (5,)])
def test_binary_dice_is_that_of_optax(shape):
    logits, labels = RNG.normal(size=shape), np.float32(RNG.integers(0, 2, shape))
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
            LABELS,
        )
        for library in (jloss, optax.losses)
    )
    assert_same(got, wanted)


def test_probabilities_are_taken_as_they_are():
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    for loss in (jloss.dice_loss, jloss.multiclass_generalized_dice_loss):
        taken = once(partial(loss, apply_softmax=False))
        values, _ = ours(loss, LOGITS, LABELS)
        np.testing.assert_allclose(taken(probabilities, LABELS), values, rtol=1e-5)
        assert np.isnan(taken(1.5 * LABELS, LABELS)).all()


def test_binary_probabilities_are_taken_where_optax_refuses_them():
    probabilities = 1 / (1 + np.exp(-LOGITS[..., 0]))
    with pytest.raises(ValueError, match="sum to 1"):
        optax.losses.binary_dice_loss(probabilities, BINARY, apply_sigmoid=False)
    got, _ = ours(partial(jloss.binary_dice_loss, apply_sigmoid=False), probabilities, BINARY)
    wanted, _ = ours(jloss.binary_dice_loss, LOGITS[..., 0], BINARY)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_dice_keeps_the_digits_of_a_right_prediction_where_optax_does_not():
    sure = 40 * LABELS
    wanted = np.float64(2 * np.exp(-40.0))  # of each pixel, nearly
    assert (ours(partial(optax.losses.dice_loss, smooth=0.0), sure, LABELS)[0] <= 0).all()
    value, gradient = ours(partial(jloss.dice_loss, smooth=0.0), sure, LABELS)
    assert (value > 0.5 * wanted).all() and (value < 2 * wanted).all()
    assert (gradient[LABELS > 0] < 0).all()


def test_an_empty_region_that_is_predicted_empty_costs_nothing_where_optax_gives_nan():
    nowhere, labels = np.full((1, 4, 1), -np.inf), np.zeros((1, 4, 1), np.float32)
    theirs, _ = ours(partial(optax.losses.dice_loss, smooth=0.0), nowhere, labels)
    assert np.isnan(theirs).all()
    value, gradient = ours(partial(jloss.dice_loss, smooth=0.0), nowhere, labels)
    assert value == 0 and (gradient == 0).all()


def test_an_empty_region_that_is_predicted_empty_costs_nothing_where_keras_takes_all():
    keras = pytest.importorskip("keras")
    nothing = np.zeros((4,), np.float32)
    assert float(keras.losses.tversky(nothing, nothing)) == 1
    assert jloss.tversky_loss(nothing, nothing) == 0


@cache
def masked(loss):
    return lambda x, y, where: loss(x, y, where=where)


def dirty(where):
    return np.where(where, LOGITS, np.nan)


def test_a_mask_of_pixels_is_as_good_as_deleting_them():
    where = np.ones((2, 4, 5, 1), bool)
    where[:, :, 3:] = False
    for loss in (
        jloss.dice_loss,
        jloss.generalized_dice_loss,
        jloss.multiclass_generalized_dice_loss,
    ):
        values, gradient = ours(masked(loss), dirty(where), LABELS, where)
        assert_same((values, gradient[:, :, :3]), ours(loss, LOGITS[:, :, :3], LABELS[:, :, :3]))
        assert (gradient[:, :, 3:] == 0).all()


def test_a_mask_of_classes_is_as_good_as_deleting_them():
    where = np.ones(LOGITS.shape, bool)
    where[..., 2] = False
    values, gradient = ours(masked(jloss.dice_loss), dirty(where), LABELS, where)
    wanted = ours(jloss.dice_loss, LOGITS[..., :2], LABELS[..., :2])
    assert_same((values, gradient[..., :2]), wanted, rtol=1e-5)
    assert not gradient[..., 2].any()


def test_a_mask_of_images_hides_them():
    where = np.array([True, False])
    hidden = dirty(where[:, None, None, None])
    for loss in (jloss.dice_loss, jloss.generalized_dice_loss):
        values, _ = ours(masked(loss), hidden, LABELS, where)
        wanted, _ = ours(loss, LOGITS, LABELS)
        np.testing.assert_allclose(values, [wanted[0], 0], rtol=1e-6)
    per_class = partial(jloss.dice_loss, reduction="none", where=np.stack([where] * 3, -1))
    values = once(per_class)(hidden, LABELS)
    assert (values[1] == 0).all() and (values[0] > 0).all()
    loss = jloss.multiclass_generalized_dice_loss
    got, wanted = once(lambda: (loss(hidden, LABELS, where=where), loss(LOGITS[:1], LABELS[:1])))()
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


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
    logits, labels = np.zeros((1, 6, 3), np.float32), np.float32(np.eye(3)[[[0, 0, 0, 0, 1, 1]]])
    # Weights 1/16, 1/4 and, for the absent one, 1/4 again.
    hit = 4 / 3 / 16 + 2 / 3 / 4
    both = (2 + 4) / 16 + (2 + 2) / 4 + 2 / 4
    got = once(jloss.generalized_dice_loss)(logits, labels)
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
        return jloss.dice_loss(LOGITS, LABELS, alpha=alpha).sum()

    gradient = once(jax.grad(total))(np.float32([0.2, 0.5, 0.9]))
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
