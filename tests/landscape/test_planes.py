"""Planes against direct evaluation, directions against definitions, PCA against scikit-learn."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import PCA

import jloss
from jloss.average import Average, average
from jloss.landscape import (
    barrier,
    line,
    path_directions,
    plane,
    plane_curvature,
    random_directions,
    volume,
)
from jloss.objective import Aux, objective

KEY = jax.random.key(0)
PARAMS = {
    "dense": np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32),
    "conv": np.random.default_rng(1).normal(size=(2, 2, 3, 5)).astype(np.float32),
    "bias": np.ones(3, np.float32),
    "scale": np.ones((), np.float32),
}


def arrays(tree):
    """In numpy, which compiles nothing."""
    return jax.tree.map(np.asarray, tree)


def dot(one, two):
    return sum(float(np.vdot(x, y)) for x, y in zip(*map(jax.tree.leaves, (one, two)), strict=True))


# Directions.


def test_random_directions_are_orthogonal_and_depend_on_the_key_alone():
    one, two = random_directions(KEY, PARAMS)
    assert abs(dot(one, two)) < 1e-5 * dot(one, one)
    again, _ = random_directions(KEY, PARAMS)
    other, _ = random_directions(jax.random.key(1), PARAMS)
    np.testing.assert_array_equal(one["dense"], again["dense"])
    assert abs(dot(one, other)) < 0.9 * dot(one, one)


def test_a_filter_of_zeros_keeps_still():
    found = random_directions(KEY, {"w": PARAMS["dense"] * [1, 0, 1]})
    one, two = (np.asarray(direction["w"]) for direction in found)
    assert not one[:, 1].any() and not two[:, 1].any() and one[:, 0].any()


def test_filters_of_one_entry_get_a_direction_too():
    params = {"w": jnp.array([[1.0, -2.0, 3.0]])}
    for direction in random_directions(KEY, params):
        np.testing.assert_allclose(np.abs(direction["w"]), np.abs(params["w"]), rtol=1e-6)


def test_a_linear_model_without_matrices_moves_as_a_whole():
    params = {"w": jnp.array([3.0, 4.0]), "b": jnp.array(2.0)}
    for direction in random_directions(KEY, params):
        np.testing.assert_allclose(np.linalg.norm(direction["w"]), 5.0, rtol=1e-6)
        np.testing.assert_allclose(np.abs(direction["b"]), 2.0)


def test_random_directions_keep_dtypes():
    one, _ = random_directions(KEY, {"w": PARAMS["dense"].astype(jnp.bfloat16)})
    assert one["w"].dtype == jnp.bfloat16


def walk(points=7):
    random = np.random.default_rng(2)
    return [
        {
            "w": (random.normal(size=(2, 3)) * [3, 2, 1]).astype(np.float32),
            "b": np.zeros(2, np.float32),
        }
        for _ in range(points)
    ]


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(float)


def test_path_directions_are_the_principal_components_about_the_last_point():
    path = walk()
    # A set that is symmetric about its last point has the mean there, so that PCA looks from it.
    points = np.stack([flat(p) for p in path])
    mirrored = np.concatenate([points, 2 * points[-1] - points])
    components = PCA(2).fit(mirrored).components_
    one, two = path_directions(path)
    for ours, theirs in zip((flat(one), flat(two)), components, strict=True):
        np.testing.assert_allclose(abs(ours @ theirs), 1.0, rtol=1e-6)
        assert (points[0] - points[-1]) @ ours > 0
    np.testing.assert_allclose([dot(one, one), dot(two, two)], 1.0, rtol=1e-6)
    assert abs(dot(one, two)) < 1e-6


def test_a_stacked_path_is_a_list_of_points():
    path = walk()
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *path)
    for ours, theirs in zip(path_directions(stacked), path_directions(path), strict=True):
        np.testing.assert_array_equal(flat(ours), flat(theirs))


POINT, ASIDE = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([2.0, 2.0])}
BEYOND = {"w": jnp.array([4.0, 2.0])}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ([POINT], "spans no plane: 1 different points;"),
        ([POINT, ASIDE, POINT, ASIDE], "spans no plane: 2 different points on a line"),
        ([POINT, BEYOND, ASIDE], "spans no plane: 3 different points on a line"),
        ([], "not an empty list"),
        ([POINT, {"w": jnp.ones(3)}], r"one structure and shape, not .*\(2,\).* and .*\(3,\)"),
        ([POINT, ASIDE, {"w": jnp.array([jnp.nan, 1.0])}], "NaN or infinity"),
        ({"w": jnp.ones((3, 2)), "b": jnp.ones(4)}, "differ in length"),
        (jnp.ones(()), "a list of params, or arrays of them stacked"),
    ],
)
def test_a_path_that_shows_no_plane_is_refused(path, message):
    with pytest.raises(ValueError, match=message):
        path_directions(path)


def test_a_line_that_only_rounding_bends_spans_no_plane():
    random = np.random.default_rng(0)
    start, slope = random.normal(size=(2, 50))
    path = np.stack([start + t * slope for t in (0.0, 0.013, 0.02, 0.05)]).astype(np.float32)
    with pytest.raises(ValueError, match="4 different points on a line"):
        path_directions({"w": path})


# Planes.


def skewed(params, batch):
    return average(batch * (params["x"] ** 2 + 3 * params["y"][0] + params["x"] * params["y"][1]))


CENTRE = {"x": jnp.array(1.0), "y": jnp.array([2.0, 3.0])}
AXES = ({"x": 1.0, "y": np.zeros(2)}, {"x": 0.0, "y": np.array([1.0, -1.0])})


def test_a_plane_is_the_objective_at_its_points():
    found = plane(
        skewed, CENTRE, jnp.ones(2), directions=AXES, span=((-1, 2), (-3, 1)), resolution=4
    )
    np.testing.assert_allclose(found.a, [-1, 0, 1, 2])
    np.testing.assert_allclose(found.b, np.linspace(-3, 1, 4), rtol=1e-6)
    expected = [
        [(1 + a) ** 2 + 3 * (2 + b) + (1 + a) * (3 - b) for b in np.linspace(-3, 1, 4)]
        for a in (-1, 0, 1, 2)
    ]
    np.testing.assert_allclose(found.values, expected, rtol=1e-5, atol=1e-5)


def test_a_plane_of_a_network_is_its_loss_and_its_centre_exactly_the_params():
    found = plane(NETWORK, PARAMS, WHOLE, key=KEY, resolution=5, span=0.7)
    one, two = random_directions(KEY, PARAMS)
    assert float(found.a[2]) == float(found.b[2]) == 0.0
    values = np.asarray(found.values)
    np.testing.assert_allclose(values[2, 2], value_at(PARAMS), rtol=3e-7)
    moved = jax.tree.map(
        lambda p, u, v: p - np.float32(0.35) * u + np.float32(0.7) * v,
        *map(arrays, (PARAMS, one, two)),
    )
    np.testing.assert_allclose(values[1, 4], value_at(moved), rtol=1e-5)
    np.testing.assert_allclose(found.a, [-0.7, -0.35, 0, 0.35, 0.7], rtol=1e-6)


def test_a_path_in_a_skewed_plane_is_projected_by_least_squares():
    one, two = np.array([1.0, 0.0, 0.0]), np.array([1.0, 1.0, 0.0])
    centre = np.array([1.0, 1.0, 1.0])
    # Off the plane by something orthogonal to it, which a projection forgets.
    path = [centre + 2 * one - 3 * two + [0, 0, 5], centre - one, centre]
    bowl = lambda p, batch: average(jnp.sum(p**2) * batch)  # noqa: E731
    found = plane(bowl, centre, jnp.ones(1), directions=(one, two), path=path, resolution=2)
    np.testing.assert_allclose(found.path, [[2, -3], [-1, 0], [0, 0]], atol=1e-12)
    np.testing.assert_allclose(found.off_plane, [5, 0, 0], atol=1e-12)


def test_a_path_gives_its_own_directions_and_a_span_that_covers_it():
    path = walk()
    bowl = lambda p, batch: average(jnp.sum(p["w"] ** 2) * batch)  # noqa: E731
    found = plane(bowl, path[-1], jnp.ones(1), path=path, resolution=3)
    for ours, theirs in zip(found.directions, path_directions(path), strict=True):
        np.testing.assert_array_equal(flat(ours), flat(theirs))
    differences = np.stack([flat(p) - flat(path[-1]) for p in path])
    expected = differences @ np.stack([flat(d) for d in found.directions]).T
    np.testing.assert_allclose(found.path, expected, atol=1e-5)
    for coordinates, track in zip((found.a, found.b), found.path.T, strict=True):
        margin = 0.2 * np.ptp(track)
        np.testing.assert_allclose(coordinates[0], track.min() - margin, rtol=1e-5)
        np.testing.assert_allclose(coordinates[-1], track.max() + margin, rtol=1e-5)


def test_a_path_asks_for_random_directions_by_a_key_and_keeps_its_broken_points():
    path = [*walk(), jax.tree.map(lambda leaf: leaf * jnp.nan, walk(1)[0])]
    bowl = lambda p, batch: average(jnp.sum(p["w"] ** 2) * batch)  # noqa: E731
    found = plane(bowl, path[0], jnp.ones(1), path=path, key=KEY, resolution=2)
    np.testing.assert_array_equal(
        flat(found.directions[0]), flat(random_directions(KEY, path[0])[0])
    )
    assert np.isfinite(found.path[:-1]).all() and np.isnan(found.path[-1]).all()


def test_a_path_flat_in_one_direction_still_gets_room_across():
    path = [CENTRE | {"x": jnp.array(1.0 + t)} for t in (1.0, 0.5, 0.0)]
    found = plane(skewed, CENTRE, jnp.ones(1), directions=AXES, path=path, resolution=2)
    np.testing.assert_allclose([found.a, found.b], [[-0.2, 1.2], [-0.14, 0.14]], rtol=1e-5)


def test_half_precision_parameters_stay_so_on_the_plane():
    seen = []

    def spy(params, batch):
        seen.append(params.dtype)
        return average(params * batch)

    plane(spy, jnp.ones((2, 2), jnp.bfloat16), jnp.ones((2, 2)), resolution=2)
    assert set(seen) == {jnp.dtype(jnp.bfloat16)}


def test_a_line_through_several_terms_and_what_is_returned_beside_them():
    def terms(params, batch):
        found = jloss.Terms({"fit": average(batch * params), "size": average(params**2)})
        return found, jloss.Aux({"seen": batch})

    data = [jnp.ones(3), jnp.array([5.0])]
    found = line(
        terms, jnp.array(1.0), data=data, direction=jnp.array(1.0), span=(-1, 1), resolution=3
    )
    np.testing.assert_allclose(found.values, [0.0, 2.0 + 1.0, 4.0 + 4.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolution": 1}, "at least 2, not 1"),
        ({"resolution": 2.5}, "at least 2, not 2.5"),
        ({"span": 0.0}, "span must be a positive number"),
        ({"span": ((1, 0), (0, 1))}, r"a0 < a1 and b0 < b1, not \(\(1, 0\)"),
        ({"span": (1, 2)}, "span must be a positive number"),
        ({"span": float("nan")}, "span must be a positive number"),
        ({"directions": AXES, "key": KEY}, "key or directions, not both"),
        ({"directions": AXES, "to": (CENTRE, CENTRE)}, "directions or to, not both"),
        ({"to": (CENTRE, CENTRE)}, "three solutions are on a line"),
        ({"to": (CENTRE, {"x": 1.0})}, "solution_directions: third must have the structure"),
        ({"metrics": {"loss": skewed}}, "a metric cannot be named loss"),
        ({"directions": AXES[:1]}, "two directions are needed, not 1"),
        ({"directions": (AXES[0], AXES[0])}, "parallel, zero or not finite"),
        ({"directions": (AXES[0], jax.tree.map(jnp.zeros_like, AXES[1]))}, "parallel, zero"),
        ({"directions": (AXES[0], {"x": 1.0})}, "must have the structure and shapes of params"),
        ({"directions": AXES, "path": [jnp.ones(2)] * 3}, "has 2 parameters, and params have 3"),
    ],
)
def test_plane_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        plane(skewed, CENTRE, jnp.ones(1), **arguments)


def test_params_of_zero_have_no_random_plane():
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    with pytest.raises(ValueError, match="random ones have the size of the params"):
        plane(lambda p, batch: average(p["dense"]), zeros, None, key=KEY)


NETWORK = objective(lambda p, x: jnp.tanh(x @ p["dense"] + p["bias"]), lambda p, t: (p - t) ** 2)
ROWS = np.random.default_rng(3).normal(size=(11, 7)).astype(np.float32)
WHOLE = (ROWS[:, :4], ROWS[:, 4:])
PARTS = [(ROWS[part, :4], ROWS[part, 4:]) for part in (slice(0, 4), slice(4, 8), slice(8, 11))]
value_at = jax.jit(lambda params: NETWORK(params, WHOLE).value)


@pytest.fixture(scope="module")
def whole():
    return plane(NETWORK, PARAMS, WHOLE, key=KEY, resolution=3)


@pytest.mark.parametrize(
    "data", [PARTS, tuple(PARTS), "iterator"], ids=["list", "tuple", "iterator"]
)
def test_a_plane_over_unequal_batches_is_that_of_them_all(whole, data):
    if data == "iterator":
        with pytest.warns(UserWarning, match=r"steepest direction is not known.*walked again"):
            found = plane(NETWORK, PARAMS, data=iter(PARTS), key=KEY, resolution=3)
        assert found.curvature is None
    else:
        found = plane(NETWORK, PARAMS, data=data, key=KEY, resolution=3)
        assert found.curvature.largest == pytest.approx(whole.curvature.largest, rel=1e-4)
    np.testing.assert_allclose(found.values, whole.values, rtol=1e-6)


def test_a_random_plane_has_its_curvature_beside_the_largest_and_others_where_asked(whole):
    expected = plane_curvature(NETWORK, PARAMS, WHOLE, directions=whole.directions)
    np.testing.assert_array_equal(whole.curvature.plane, expected.plane)
    again = partial(plane, NETWORK, PARAMS, WHOLE, directions=whole.directions, resolution=2)
    assert again().curvature is None
    assert again(curvature=True).curvature.largest == expected.largest
    assert plane(NETWORK, PARAMS, WHOLE, curvature=False, resolution=2).curvature is None


def test_a_plane_through_the_last_layer_alone_is_the_plain_one():
    head = jax.tree.map(np.zeros_like, PARAMS)
    directions = [head | {"bias": row} for row in np.eye(3, dtype=np.float32)[:2]]
    found = plane(NETWORK, PARAMS, WHOLE, directions=directions, resolution=3)
    moved = PARAMS | {"bias": PARAMS["bias"] + np.array([-1, 1, 0], np.float32)}
    np.testing.assert_allclose(found.values[0, 2], value_at(moved), rtol=1e-6)


def test_a_line_between_two_solutions_starts_and_ends_in_them():
    other = jax.tree.map(lambda leaf: -0.5 * leaf, PARAMS)
    found = line(NETWORK, PARAMS, WHOLE, to=other, resolution=5)
    assert found.shape == (5,)
    ends, values = [value_at(p) for p in (PARAMS, other)], np.asarray(found.values)
    np.testing.assert_allclose(values[[0, -1]], ends, rtol=1e-6)
    straight = np.linspace(*map(float, ends), 5)
    np.testing.assert_allclose(barrier(found), max(values - straight), rtol=1e-5)
    assert found.plot().get_xlabel() == "a"


def test_a_line_goes_a_random_way_if_none_is_named():
    found = line(NETWORK, PARAMS, data=PARTS, key=KEY, resolution=3)
    way, _ = random_directions(KEY, PARAMS)
    back = jax.tree.map(lambda p, d: p - d, PARAMS, arrays(way))
    np.testing.assert_allclose(found.values[0], value_at(back), rtol=1e-6)


def test_a_volume_is_the_objective_at_its_points():
    found = volume(skewed, {"x": 1.0, "y": jnp.array([2.0, 3.0])}, jnp.ones(2), resolution=3,
        directions=(*AXES, {"x": 0.0, "y": np.array([0.0, 1.0])}), span=2.0)  # fmt: skip
    assert found.shape == (3, 3, 3)
    np.testing.assert_allclose(found.values[0, 2, 1], (-1) ** 2 + 3 * 4 + -1 * 1.0, rtol=1e-6)
    np.testing.assert_allclose(found.values[2, 1, 0], 3**2 + 3 * 2 + 3 * 1.0, rtol=1e-6)


BROKEN = CENTRE | {"x": jnp.array(jnp.nan)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: line(skewed, CENTRE, jnp.ones(1), direction=AXES[0], to=CENTRE), "not both"),
        (lambda: line(skewed, CENTRE, jnp.ones(1), direction={"x": 1.0}), "a direction must have"),
        (lambda: line(skewed, CENTRE, jnp.ones(1), to={"x": 1.0}), "line: to must have"),
        (lambda: line(skewed, CENTRE, jnp.ones(1), to=CENTRE), "the direction is zero"),
        (lambda: line(skewed, CENTRE, 1.0, to=BROKEN), "line: to must be finite, but x holds NaN"),
        (lambda: line(skewed, BROKEN, 1.0), "line: params must be finite, but x holds NaN"),
        (lambda: plane(skewed, BROKEN, 1.0), "plane: params must be finite, but x holds NaN"),
        (lambda: volume(skewed, BROKEN, 1.0, directions=AXES), "params must be finite, but x"),
        (lambda: line(skewed, CENTRE, jnp.ones(1), direction=AXES[0], span=(1, 0)), "a0 < a1"),
        (lambda: line(skewed, CENTRE, jnp.ones(1), resolution=1), "at least 2, not 1"),
        (lambda: line(skewed, CENTRE), "a batch, or data with batches, and not both"),
        (lambda: line(skewed, CENTRE, 1, data=[1]), "a batch, or data with batches, and not both"),
        (lambda: line(skewed, CENTRE, data=[], direction=AXES[0]), "data has no batches"),
        (lambda: volume(skewed, CENTRE, 1.0, directions=AXES), "three directions are needed"),
        (lambda: volume(skewed, CENTRE, 1.0, directions=(*AXES, AXES[0])), "span no volume"),
    ],
)
def test_a_mistake_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_objective_that_returns_no_average_is_refused():
    with pytest.raises(TypeError, match="must return an Average"):
        plane(lambda p, batch: p["x"] * batch, CENTRE, jnp.ones(2), directions=AXES)


@pytest.mark.parametrize("params", [{"x": jnp.ones(2, int)}, {}])
def test_params_that_cannot_move_are_refused(params):
    with pytest.raises(TypeError, match=r"line: params must be floating arrays, not (int32|none)"):
        line(skewed, params, jnp.ones(1))


def test_an_objective_of_an_array_is_refused():
    with pytest.raises(TypeError, match=r"plane: the objective must return .* shape \(2,\)"):
        plane(lambda p, batch: Average(p["y"], jnp.ones(2)), CENTRE, 1.0, directions=AXES)


# Several metrics, model state, solutions.


def normalised(params, batch, model_state):
    """A layer with running statistics, which evaluation takes as they are."""
    seen = (batch - model_state["mean"]) @ params["dense"] + params["bias"]
    changed = {"mean": model_state["mean"] + batch.mean(0)}
    return average(seen**2), Aux(model_state=changed)


def test_metrics_are_measured_in_the_pass_of_the_loss_and_model_state_stays():
    calls = []

    def small(params, batch, model_state):
        calls.append(batch)
        return average(jnp.abs((batch - model_state["mean"]) @ params["dense"]) < 1.0)

    state = {"mean": jnp.arange(4.0)}
    found = plane(
        normalised,
        PARAMS,
        data=[ROWS[:4, :4], ROWS[4:, :4]],
        key=KEY,
        resolution=3,
        metrics={"small": small},
        model_state=state,
    )
    moved = jax.tree.map(lambda p, u, v: p - u + v, PARAMS, *map(arrays, found.directions))
    expected, _ = normalised(moved, ROWS[:, :4], state)
    np.testing.assert_allclose(found.values[0, 2], expected.value, rtol=1e-5)
    expected = small(moved, ROWS[:, :4], state).value
    np.testing.assert_allclose(found.numbers("small")[0, 2], expected, rtol=1e-6)
    np.testing.assert_array_equal(state["mean"], jnp.arange(4.0))
    with pytest.raises(ValueError, match="no values named 'large'; there are loss, small"):
        found.numbers("large")


def test_a_line_of_several_metrics_is_a_sweep_of_them_by_name():
    other = jax.tree.map(lambda leaf: -0.5 * leaf, PARAMS)
    twice = lambda params, batch: average(2.0 * NETWORK(params, batch).value)  # noqa: E731
    found = line(NETWORK, PARAMS, WHOLE, to=other, resolution=5, metrics={"twice": twice})
    assert set(found.values) == {"loss", "twice"}
    np.testing.assert_allclose(barrier(found, "twice"), 2 * barrier(found, "loss"), rtol=1e-5)


def test_a_plane_through_three_solutions_has_them_at_their_distances():
    two, three = ({"x": 1.0 + x, "y": jnp.array([2.0 + y, 3.0])} for x, y in ((3, 4), (0, 5)))
    found = plane(skewed, CENTRE, jnp.ones(1), to=(two, three), resolution=2)
    # 3 and 4 make 5; the third lies 4 along that way and 3 across.
    np.testing.assert_allclose(found.solutions, [[5, 0], [4, 3]], atol=1e-6)
    assert float(found.a[0]) < 0 < 5 < float(found.a[-1])
    assert float(found.b[0]) < 0 < 3 < float(found.b[-1])
