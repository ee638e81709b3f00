"""Refinement against dense grids and uniform ones; bands against their coverage by simulation."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import RectBivariateSpline

from jloss.average import average
from jloss.landscape import Bands, Plane, bands, line, lines, plane, refine
from jloss.sweep import Sweep, sweep

DENSE = np.linspace(-1, 1, 201)


def ridge(points):
    """Flat but for a steep wall across a, and slow waves along b."""
    a, b = points.T
    return np.tanh(12 * (a - 0.4)) + 0.3 * np.sin(2 * b) + 0.1 * a * b


def dense(function):
    points = np.stack(np.meshgrid(DENSE, DENSE, indexing="ij"), -1)
    return function(points.reshape(-1, 2)).reshape(201, 201)


def test_points_are_spent_where_the_surface_bends():
    found = refine(ridge, ((-1, 1), (-1, 1)), budget=400)
    assert found.evaluated <= 400
    assert len(found.a) > 2 * len(found.b)
    near, far = (np.diff(found.a)[abs(found.a[1:] - at) < 0.3].mean() for at in (0.4, -0.7))
    assert near < 0.6 * far


def test_refinement_beats_a_uniform_grid_of_as_many_points():
    found = refine(ridge, ((-1, 1), (-1, 1)), budget=400)
    truth = dense(ridge)
    error = abs(found(DENSE, DENSE) - truth).max()
    even = np.linspace(-1, 1, 20)
    uniform = ridge(np.stack(np.meshgrid(even, even, indexing="ij"), -1).reshape(-1, 2))
    spline = RectBivariateSpline(even, even, uniform.reshape(20, 20))
    assert error < 0.1 * abs(spline(DENSE, DENSE) - truth).max()


@pytest.mark.parametrize("seed", range(20))
def test_the_share_that_errs_more_is_as_stated(seed):
    waves = np.random.default_rng(seed).normal(size=(6, 3)) * [4, 4, 1]

    def function(points):
        return np.sum(np.sin(points @ waves[:, :2].T + waves[:, 2]), axis=1)

    found = refine(function, ((-1, 1), (-1, 1)), budget=300, seed=seed)
    off = abs(found(DENSE, DENSE) - dense(function))
    assert (off > found.error.largest).mean() < found.error.beyond
    assert found.error.typical <= found.error.largest


def test_a_surface_that_is_not_finite_is_refused_with_its_place():
    with pytest.raises(ValueError, match=r"the value at \(1, .* is not finite"):
        refine(lambda p: np.where(p[:, 0] > 0.9, np.nan, 1.0), ((-1, 1), (-1, 1)), budget=100)
    with pytest.raises(ValueError, match="at least 69 points is needed, not 68"):
        refine(ridge, ((-1, 1), (-1, 1)), budget=68)


def test_a_plane_with_a_budget_is_the_plane_by_fewer_points():
    def waves(params, batch):
        return average(batch * (jnp.sin(3 * params[0]) + params[1] ** 2))

    data = [jnp.array([0.5, 1.5]), jnp.array([1.0])]
    given = {"directions": tuple(jnp.eye(2)), "resolution": 25, "span": ((-1, 1), (0, 2))}
    found = plane(waves, jnp.zeros(2), data=data, budget=150, **given)
    a, b = np.meshgrid(found.a, found.b, indexing="ij")
    off = abs(found.values - (np.sin(3 * a) + b**2)).max()
    assert found.refined.evaluated <= 150 and off < 3 * found.refined.error.largest < 3e-3
    with pytest.raises(ValueError, match="budget goes without metrics"):
        plane(waves, jnp.zeros(2), data=data, budget=150, progress=True, **given)


# Bands.

A = jnp.linspace(0, 1, 21)


def noisy(height, count, seed):
    """Draws of a straight line with a bump in the middle, and correlated noise."""
    random, a = np.random.default_rng(seed), np.asarray(A)
    noise = random.normal(size=(count, 5)) @ np.stack([np.sin(k * np.pi * a) for k in range(1, 6)])
    return 1 + a + height * np.exp(-50 * (a - 0.5) ** 2) + 0.3 * noise


def test_noise_is_no_bump_and_a_bump_is_one():
    found = [[Bands({"a": A}, noisy(height, 16, seed)).bump() for seed in range(300)]
        for height in (0.0, 1.0)]  # fmt: skip
    false, right = (np.mean([bump.real for bump in bumps]) for bumps in found)
    # One side of a 95% interval: 2.5%, give or take what 300 trials leave open.
    assert false < 0.06 and right > 0.9
    assert np.mean([bump.height for bump in found[1]]) == pytest.approx(1.0, abs=0.06)
    # What it replaces: the barrier of the mean is above 0 whatever there is.
    mean = [Bands({"a": A}, noisy(0.0, 12, seed)).mean for seed in range(300)]
    assert np.mean([max(m - np.linspace(m[0], m[-1], 21)) > 0.05 for m in mean]) > 0.8


def test_bands_cover_the_mean():
    hits = [
        abs(found.mean - 1 - np.asarray(A)) <= found.half_width + 1e-9
        for found in (Bands({"a": A}, noisy(0.0, 8, seed)) for seed in range(300))
    ]
    assert 0.92 < np.mean(hits) < 0.98


def test_lines_are_the_line_on_every_batch():
    def bowl(params, batch):
        return average(batch * jnp.sum(params**2))

    data = [jnp.array([1.0, 3.0]), jnp.array([5.0, 7.0]), jnp.array([2.0])]
    found = lines(bowl, jnp.ones(2), data, to=jnp.array([2.0, 0.0]), resolution=5)
    whole = line(bowl, jnp.ones(2), data=data, to=jnp.array([2.0, 0.0]), resolution=5)
    weighted = np.average([draw.values for draw in found], axis=0, weights=[2, 2, 1])
    np.testing.assert_allclose(weighted, whole.values, rtol=1e-6)
    together = bands(found)
    np.testing.assert_allclose(together.mean, np.mean([d.values for d in found], 0), rtol=1e-6)


def test_planes_of_several_batches_have_a_band_too():
    draws = [
        Plane(A[:2], A[:3], height + jnp.zeros((2, 3)), (A, A), metrics={"twice": jnp.ones((2, 3))})
        for height in (1.0, 2.0, 3.0)
    ]
    found = bands(draws)
    np.testing.assert_array_equal(found.mean, np.full((2, 3), 2.0))
    # With 2 degrees of freedom the quantile of Student's t has a closed form.
    quantile = 0.95 * np.sqrt(2 / (1 - 0.95**2))
    np.testing.assert_allclose(found.half_width, quantile / np.sqrt(3), rtol=1e-12)
    assert bands(draws, "twice").half_width.max() == 0
    with pytest.raises(ValueError, match="over the same coordinates"):
        bands([draws[0], Plane(A[:2], A[1:4], jnp.zeros((2, 3)), (A, A))])


def test_bands_of_nothing_to_compare_are_refused():
    one = Sweep({"a": A}, A)
    with pytest.raises(ValueError, match="at least two draws are needed, not 1"):
        bands([one])
    with pytest.raises(ValueError, match="over the same coordinates"):
        bands([one, Sweep({"a": A + 1}, A)])
    with pytest.raises(ValueError, match="at least four draws are needed, not 2"):
        bands([one, one]).bump()
    grid = sweep(lambda a, b: a + b, a=A[:3], b=A[:2])
    with pytest.raises(ValueError, match="of a line are needed, not of 2 axes"):
        bands([grid, grid]).bump()
