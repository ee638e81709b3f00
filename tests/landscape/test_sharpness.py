"""Sharpness and smoothness on quadratics, whose answers eigenvalues give, in float64 by numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from jloss.average import average
from jloss.landscape import (
    adaptive_sharpness,
    average_sharpness,
    gradient_norm,
    path_smoothness,
    plane,
    plane_curvature,
    plane_hessian,
    sharpness,
)

RANDOM = np.random.default_rng(0)
ROOT = RANDOM.normal(size=(6, 6))
BASIS = np.linalg.qr(ROOT)[0]
HESSIAN = BASIS @ np.diag([9.0, 5.0, 2.0, 1.0, -0.5, -2.0]) @ BASIS.T
CENTRE = RANDOM.normal(size=6)
PARAMS = {"w": jnp.asarray(CENTRE[:4].reshape(2, 2), jnp.float32), "b": jnp.asarray(CENTRE[4:])}
# Two batches of unequal weight, whose weighted mean is 1.
BATCHES = [jnp.array([0.5, 2.5, 0.9]), jnp.array([0.1])]


def quadratic(params, batch):
    """Half the quadratic form about the centre."""
    away = jnp.concatenate([params["w"].ravel() - CENTRE[:4], params["b"] - CENTRE[4:]])
    return average(batch * (away @ jnp.asarray(HESSIAN, jnp.float32) @ away) / 2)


def test_the_worst_case_at_a_minimum_is_the_largest_eigenvalues():
    found = sharpness(quadratic, PARAMS, data=BATCHES, radius=0.3)
    assert found.rise == pytest.approx(0.5 * 0.3**2 * 9.0, rel=1e-5)
    assert found.first_order == pytest.approx(0.0, abs=1e-6)
    away = np.concatenate([np.ravel(found.away["w"]), found.away["b"]])
    assert np.linalg.norm(away) == pytest.approx(0.3, rel=1e-5)
    assert abs(away @ BASIS[:, 0]) == pytest.approx(0.3, rel=1e-3)


def test_the_worst_case_on_a_slope_is_that_of_a_brute_search():
    shifted = {"w": PARAMS["w"] + 0.2, "b": PARAMS["b"]}
    found = sharpness(quadratic, shifted, data=BATCHES, radius=0.5, steps=100)
    slope = HESSIAN[:, :4] @ np.full(4, 0.2)
    # The trust-region optimality (H - mu I) d = -g with |d| = rho, solved by bisection for mu.
    values, vectors = np.linalg.eigh(HESSIAN)
    low, high = values[-1] + 1e-9, values[-1] + np.linalg.norm(slope) / 0.5 + 1
    for _ in range(200):
        mu = (low + high) / 2
        step = vectors @ ((vectors.T @ slope) / (mu - values))
        low, high = (mu, high) if np.linalg.norm(step) > 0.5 else (low, mu)
    expected = slope @ step + step @ HESSIAN @ step / 2
    assert found.rise == pytest.approx(expected, rel=1e-4)
    assert 0 < found.first_order < found.rise


def test_the_average_case_is_the_trace_and_exact_by_as_many_samples_as_params():
    shifted = {"w": PARAMS["w"] + 0.2, "b": PARAMS["b"]}
    found = average_sharpness(quadratic, shifted, data=BATCHES, radius=0.3, samples=6)
    expected = 0.5 * 0.3**2 * np.trace(HESSIAN) / 6
    assert found.rise == pytest.approx(expected, rel=1e-4)
    fewer = average_sharpness(quadratic, shifted, jnp.ones(1), radius=0.3, samples=3)
    assert abs(fewer.rise - expected) < fewer.half_width


def test_adaptive_sharpness_is_the_worst_case_of_relative_steps():
    found = adaptive_sharpness(quadratic, PARAMS, data=BATCHES, radius=0.3)
    scale = np.diag(abs(CENTRE))
    largest = np.linalg.eigvalsh(scale @ HESSIAN @ scale)[-1]
    assert found.rise == pytest.approx(0.5 * 0.3**2 * largest, rel=1e-4)
    relative = np.concatenate([np.ravel(found.away["w"]), found.away["b"]]) / CENTRE
    assert np.linalg.norm(relative) == pytest.approx(0.3, rel=1e-4)


def tree(vector):
    return {"w": jnp.asarray(vector[:4].reshape(2, 2), jnp.float32), "b": jnp.asarray(vector[4:])}


def test_a_planes_curvature_is_that_of_its_projection_against_the_largest():
    rows = RANDOM.normal(size=(2, 6))
    one, two = map(tree, rows)
    found = plane_curvature(quadratic, PARAMS, data=BATCHES, directions=(one, two))
    basis = np.linalg.qr(rows.T)[0]
    np.testing.assert_allclose(
        found.plane, np.linalg.eigvalsh(basis.T @ HESSIAN @ basis), rtol=1e-4
    )
    assert found.largest == pytest.approx(9.0, rel=1e-4)
    assert found.share == pytest.approx(found.plane[1] / 9.0, rel=1e-4)


def test_slope_and_curvature_are_metrics_of_a_plane():
    rows = RANDOM.normal(size=(2, 6))
    directions = tuple(map(tree, rows))
    found = plane(
        quadratic,
        PARAMS,
        data=BATCHES,
        directions=directions,
        resolution=2,
        metrics={
            "slope": gradient_norm(quadratic),
            "curvature": plane_hessian(quadratic, directions),
        },
        curvature=True,
    )
    expected = np.linalg.norm(HESSIAN @ (-rows[0] + rows[1]))
    np.testing.assert_allclose(found.numbers("slope")[0, 1], expected, rtol=1e-4)
    expected = np.broadcast_to(rows @ HESSIAN @ rows.T, (2, 2, 2, 2))
    np.testing.assert_allclose(found.metrics["curvature"], expected, rtol=1e-3, atol=1e-4)
    assert found.curvature.largest == pytest.approx(9.0, rel=1e-4)
    with pytest.raises(ValueError, match=r"curvature is \(2, 2, 2, 2\) on a grid of \(2, 2\)"):
        found.numbers("curvature")


def test_a_path_along_an_eigenvector_has_its_eigenvalue_as_smoothness():
    path = [tree(CENTRE + t * BASIS[:, 1]) for t in (1.0, 0.5, 0.5, 0.4)]
    found = path_smoothness(quadratic, path, data=BATCHES)
    np.testing.assert_allclose(found.lipschitz, [5.0, np.nan, 5.0], rtol=1e-4)
    np.testing.assert_allclose(found.relative, [0.5, 0.0, 0.2], rtol=1e-4, atol=1e-5)
    assert found.largest == pytest.approx(5.0, rel=1e-4)


def test_a_multiple_of_a_loss_has_the_same_relative_smoothness():
    path = [tree(CENTRE + step) for step in RANDOM.normal(size=(3, 6))]
    one = path_smoothness(quadratic, path, jnp.ones(1))
    ten = path_smoothness(quadratic, path, 10.0 * jnp.ones(1))
    np.testing.assert_allclose(ten.lipschitz, 10 * one.lipschitz, rtol=1e-5)
    np.testing.assert_allclose(ten.relative, one.relative, rtol=1e-5)
    assert one.largest <= 9.0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sharpness(quadratic, PARAMS, 1.0, radius=0.0), ValueError, "radius must be"),
        (
            lambda: sharpness(quadratic, PARAMS | {"b": jnp.array([0, jnp.nan])}, 1.0),
            ValueError,
            "sharpness: params must be finite, but b holds NaN",
        ),
        (lambda: average_sharpness(quadratic, PARAMS, 1.0, samples=1), ValueError, "at least 2"),
        (lambda: sharpness(quadratic, PARAMS), ValueError, "a batch, or data with batches"),
        (lambda: sharpness(quadratic, PARAMS, data=iter(BATCHES)), TypeError, "walked again"),
        (lambda: path_smoothness(quadratic, [PARAMS], 1.0), ValueError, "at least two points"),
        (lambda: sharpness(lambda p, b: p["b"], PARAMS, 1.0), TypeError, "return an Average"),
        (
            lambda: plane_curvature(quadratic, PARAMS, 1.0, directions=(PARAMS, PARAMS)),
            ValueError,
            "plane_curvature: the directions are parallel",
        ),
    ],
)
def test_a_mistake_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
