"""Random directions against their definitions by Li et al., filter by filter in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jloss import curvature
from jloss.average import average
from jloss.landscape import hessian_directions, random_directions, solution_directions

KEY = jax.random.key(0)
_normal = np.random.default_rng(0).normal
PARAMS = {
    "body": {
        "conv": _normal(size=(2, 2, 3, 5)).astype(np.float32),
        "bias": _normal(size=5).astype(np.float32),
    },
    "head": {"dense": _normal(size=(6, 4)).astype(np.float32), "scale": np.float32(-2.0)},
}
PARAMS["body"]["conv"][..., 1] = 0.0


def norms(leaf, axes=None):
    return np.sqrt(np.sum(np.square(np.asarray(leaf, np.float64)), axis=axes))


def inner(one, two):
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    return sum(np.vdot(np.asarray(x, float), np.asarray(y, float)) for x, y in leaves)


@pytest.mark.parametrize("orthogonal", [True, False])
@pytest.mark.parametrize("biases", [True, False])
def test_every_filter_has_the_norm_of_the_params_filter(orthogonal, biases):
    found = random_directions(KEY, PARAMS, biases=biases, orthogonal=orthogonal)
    for direction in found:
        for block, name in (("body", "conv"), ("head", "dense")):
            leaf, wanted = direction[block][name], PARAMS[block][name]
            axes = tuple(range(leaf.ndim - 1))
            np.testing.assert_allclose(norms(leaf, axes), norms(wanted, axes), rtol=1e-6)
        for block, name in (("body", "bias"), ("head", "scale")):
            wanted = norms(PARAMS[block][name]) if biases else 0.0
            np.testing.assert_allclose(norms(direction[block][name]), wanted, rtol=1e-6)


def test_every_layer_has_the_norm_of_the_params_layer():
    for direction in random_directions(KEY, PARAMS, normalize="layer", biases=True):
        for ours, wanted in zip(jax.tree.leaves(direction), jax.tree.leaves(PARAMS), strict=True):
            np.testing.assert_allclose(norms(ours), norms(wanted), rtol=1e-6)


def test_directions_by_weight_are_normal_draws_times_the_params():
    params = {"w": 10 * _normal(size=(200, 50)).astype(np.float32)}
    params["w"][0] = 0.0
    one, two = random_directions(KEY, params, normalize="weight", orthogonal=False)
    for direction in (np.asarray(one["w"]), np.asarray(two["w"])):
        assert not direction[0].any()
        draws = (direction[1:] / params["w"][1:]).ravel()
        # Four standard errors of mean and variance of 9950 normal draws.
        assert abs(draws.mean()) < 4 / np.sqrt(draws.size)
        assert abs(draws.var() - 1) < 4 * np.sqrt(2 / draws.size)


def test_directions_without_normalisation_do_not_see_the_params():
    other = jax.tree.map(lambda leaf: 7.0 * leaf + 1.0, PARAMS)
    ours, theirs = (random_directions(KEY, p, normalize=None)[0] for p in (PARAMS, other))
    np.testing.assert_array_equal(ours["head"]["dense"], theirs["head"]["dense"])


@pytest.mark.parametrize("normalize", ["filter", "layer", "weight", None])
def test_directions_are_orthogonal_as_asked(normalize):
    one, two = random_directions(KEY, PARAMS, normalize=normalize)
    assert abs(inner(one, two)) < 1e-6 * inner(one, one)
    one, two = random_directions(KEY, PARAMS, normalize=normalize, orthogonal=False)
    assert abs(inner(one, two)) > 1e-3 * inner(one, one)


def test_a_part_moves_and_all_else_keeps_still():
    one, _ = random_directions(KEY, PARAMS, part=lambda params: params["head"])
    whole, _ = random_directions(KEY, PARAMS)
    np.testing.assert_array_equal(one["head"]["dense"], whole["head"]["dense"])
    assert not one["body"]["conv"].any() and not one["head"]["scale"].any()
    bias, _ = random_directions(KEY, PARAMS, part=lambda params: params["body"]["bias"])
    np.testing.assert_allclose(
        norms(bias["body"]["bias"]), norms(PARAMS["body"]["bias"]), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalize": "filters"}, "'filter', 'layer', 'weight' or None, not 'filters'"),
        ({"part": lambda params: {}}, "part must pick some of the params"),
        ({"part": lambda params: "head"}, "part must pick some of the params"),
    ],
)
def test_a_mistake_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        random_directions(KEY, PARAMS, **options)


def test_a_leaf_with_nan_is_named():
    broken = PARAMS | {"head": PARAMS["head"] | {"scale": jnp.array(jnp.nan)}}
    with pytest.raises(ValueError, match="params must be finite, but head/scale holds NaN"):
        random_directions(KEY, broken)


def test_solution_directions_are_orthonormal_and_reach_all_three():
    points = np.random.default_rng(5).normal(size=(3, 9))
    one, two = solution_directions(*({"w": jnp.asarray(p, jnp.float32)} for p in points))
    basis = np.stack([one["w"], two["w"]]).astype(float)
    np.testing.assert_allclose(basis @ basis.T, np.eye(2), atol=1e-6)
    for away in points[1:] - points[0]:
        np.testing.assert_allclose(basis.T @ (basis @ away), away, atol=1e-6)


def test_hessian_directions_are_the_top_eigenvectors_within_the_part():
    root = np.random.default_rng(6).normal(size=(5, 5))
    matrix = jnp.asarray(root @ root.T, jnp.float32)
    params = {"still": jnp.ones(2), "free": jnp.zeros(5)}

    def quadratic(params, batch):
        return average(batch * (params["free"] @ matrix @ params["free"] + params["still"].sum()))

    operator = curvature.hessian(quadratic, params, [jnp.ones(1)])
    found = hessian_directions(operator.part(lambda params: params["free"]))
    vectors = np.linalg.eigh(np.asarray(matrix, float))[1][:, ::-1]
    for direction, wanted in zip(found, vectors.T[:2], strict=True):
        assert not direction["still"].any()
        np.testing.assert_allclose(abs(direction["free"] @ wanted), 1.0, rtol=1e-5)
        assert direction["free"][np.argmax(np.abs(direction["free"]))] > 0
