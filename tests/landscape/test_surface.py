"""The surface of a loss against its formula and central differences."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

import jloss
from jloss.landscape import surface_of


def test_a_regression_loss_is_drawn_over_predictions_and_targets():
    found = surface_of(jloss.huber_loss, span=((-1, 3), (0, 2)), resolution=5, delta=0.5)
    prediction, target = np.meshgrid(np.linspace(-1, 3, 5), np.linspace(0, 2, 5), indexing="ij")
    residual = prediction - target
    small = np.minimum(abs(residual), 0.5)
    np.testing.assert_allclose(found.values["loss"], small * (abs(residual) - small / 2), rtol=1e-6)
    np.testing.assert_allclose(found.values["gradient"][..., 0], np.clip(residual, -0.5, 0.5))
    assert not found.values["gradient"][..., 1].any()
    assert list(found.axes) == ["prediction", "target"]


@pytest.mark.parametrize(
    ("loss", "label"),
    [
        (jloss.softmax_cross_entropy_with_integer_labels, 1),
        (jloss.softmax_cross_entropy, jnp.array([0.0, 1.0])),
    ],
)
def test_a_classification_loss_is_drawn_over_two_logits(loss, label):
    found = surface_of(loss, label, span=2.0, resolution=4)
    logits = np.stack(np.meshgrid(*[np.linspace(-2, 2, 4)] * 2, indexing="ij"), -1)
    np.testing.assert_allclose(found.values["loss"], -log_softmax(logits, -1)[..., 1], rtol=1e-5)
    expected = softmax(logits, -1) - np.array([0, 1])
    np.testing.assert_allclose(found.values["gradient"], expected, rtol=1e-5, atol=1e-7)


def test_a_mistake_is_named():
    with pytest.raises(ValueError, match="surface_of: span must be"):
        surface_of(jloss.huber_loss, span=-1.0)
    with pytest.raises(ValueError, match="surface_of: resolution must be"):
        surface_of(jloss.huber_loss, resolution=1)
