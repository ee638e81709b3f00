"""Curves on a ring, where the straight way is blocked and a way around is not; their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import comb

from jloss.average import average
from jloss.landscape import connect, interpolate
from jloss.landscape._connect import _point

ENDS = {"w": np.float32([-1, 0])}, {"w": np.float32([1, 0.1])}
PARTS = [np.float32([0.5, 1.5]), np.float32([0.8, 1.2])]


def ring(params, batch, model_state):
    more = 0.0 if model_state is None else model_state
    return average(batch * (jnp.sum(params["w"] ** 2) - 1 - more) ** 2)


def test_the_straight_way_has_the_barrier_of_the_objective_on_it():
    found = interpolate(ring, *ENDS, data=PARTS, resolution=41)
    w = np.linspace(*(np.asarray(end["w"], float) for end in ENDS), 41)
    values = (np.sum(w**2, axis=1) - 1) ** 2
    straight = np.linspace(values[0], values[-1], 41)
    np.testing.assert_allclose(found.along.values, values, rtol=1e-5, atol=1e-6)
    assert found.barrier == pytest.approx(max(values - straight), rel=1e-5)


@pytest.mark.parametrize("curve", ["bezier", "polygon"])
def test_a_trained_curve_goes_around(curve):
    found = connect(ring, *ENDS, data=PARTS, curve=curve, bends=2, optimizer=optax.adam(0.05),
        metrics={"height": lambda params, batch: average(params["w"][1] * batch)})  # fmt: skip
    straight = interpolate(ring, *ENDS, jnp.ones(1))
    assert found.barrier < 0.2 * straight.barrier
    for t, end in zip((0.0, 1.0), ENDS, strict=True):
        np.testing.assert_allclose(found.at(t)["w"], end["w"], atol=1e-6)
    middle = np.asarray(found.at(0.5)["w"])
    np.testing.assert_allclose(found.along.values["height"][25], middle[1], rtol=1e-5)
    np.testing.assert_allclose(
        found.along.values["loss"][25], (middle @ middle - 1) ** 2, rtol=1e-3, atol=1e-6
    )


def test_model_state_reaches_the_training_and_the_values():
    found = connect(ring, *ENDS, jnp.ones(1), optimizer=optax.adam(0.05), model_state=0.5)
    middle = np.asarray(found.at(0.5)["w"])
    value = (middle @ middle - 1.5) ** 2
    np.testing.assert_allclose(found.along.values[25], value, rtol=1e-3, atol=1e-6)


def test_curves_are_bernsteins_and_piecewise_linear():
    corners = np.random.default_rng(0).normal(size=(4, 3))
    points = tuple(corners.astype(np.float32))
    for t in (0.0, 0.2, 0.5, 0.9, 1.0):
        weights = [comb(3, k) * t**k * (1 - t) ** (3 - k) for k in range(4)]
        np.testing.assert_allclose(_point("bezier", points, t), weights @ corners, atol=1e-6)
        expected = [np.interp(3 * t, range(4), column) for column in corners.T]
        np.testing.assert_allclose(_point("polygon", points, t), expected, atol=1e-6)


def test_half_precision_solutions_stay_so():
    ends = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), ENDS)
    assert interpolate(ring, *ends, jnp.ones(1), resolution=3).at(0.3)["w"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"curve": "spline"}, ValueError, "one of bezier, polygon, not 'spline'"),
        ({"bends": 0}, ValueError, "bends must be a whole number of at least 1, not 0"),
        ({"steps": 1.5}, ValueError, "steps must be a whole number"),
        ({"batch": None, "data": iter(PARTS)}, TypeError, "walked again"),
        ({"second": {"w": jnp.ones(3)}}, ValueError, "connect: second must have the structure"),
        ({"second": {"w": jnp.array([jnp.nan, 1])}}, ValueError, "second must be finite, but w"),
    ],
)
def test_a_mistake_is_named(options, error, message):
    given = {"first": ENDS[0], "second": ENDS[1], "batch": 1.0} | options
    with pytest.raises(error, match=message):
        connect(ring, **given)
