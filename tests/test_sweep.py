"""Sweeps against loops in numpy, on grids whose axes differ in length, order and kind."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jloss
from jloss import _plan
from jloss.average import average
from jloss.sweep import sweep

# Names out of alphabetical order, lengths all different, and a function without symmetry.
Z, A, M = np.linspace(-1, 2, 5), np.array([0.5, 3.0]), np.array([4, 1, 7])


def asymmetric(z, a, m):
    return z**3 - 2 * a + m * a


LOOP = np.array([[[asymmetric(z, a, m) for m in M] for a in A] for z in Z])


@pytest.mark.parametrize("batch_size", [None, 1, 4, 7, 30, 1000])
def test_a_grid_is_what_nested_loops_make_of_it(batch_size):
    grid = sweep(asymmetric, batch_size=batch_size, z=Z, a=A, m=M)
    assert list(grid.axes) == ["z", "a", "m"] and grid.shape == (5, 2, 3)
    np.testing.assert_allclose(grid.values, LOOP, rtol=1e-6)


def test_a_grid_larger_than_one_chunk_is_complete():
    grid = sweep(lambda x, y: 1000 * x + y, x=jnp.arange(37), y=jnp.arange(61))
    np.testing.assert_array_equal(grid.values, 1000 * np.arange(37)[:, None] + np.arange(61))


def test_all_points_are_compiled_once():
    seen = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: seen.append(event))
    axes = {"x": jnp.arange(5.0), "y": jnp.arange(3.0)}
    sweep(lambda x, y: x * y, batch_size=4, **axes)
    for options in ({"batch_size": 4}, {}):  # what is measured to plan a sweep does the sweep
        seen.clear()
        sweep(lambda x, y: x * jnp.sin(y), **options, **axes)
        assert sum("backend_compile" in event for event in seen) == 1


def spied_sizes(**options):
    """How many points are taken together, as `jax.vmap` sees it."""
    sizes = []

    @jax.custom_batching.custom_vmap
    def spied(x):
        return x

    @spied.def_vmap
    def _(size, batched, x):
        sizes.append(size)
        return x, batched[0]

    sweep(lambda x: spied(x), x=jnp.arange(3000.0), **options)
    return sizes


def test_many_points_taken_together_are_what_each_is_alone():
    """XLA's processor backend, left to itself, adds up wrong rows of what is shared by points."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(600, 10)).astype(np.float32)
    labels = jax.nn.one_hot(random.integers(0, 10, 600), 10)

    def loss(x):
        smooth = jloss.smooth_labels(labels, 0.1)
        return jloss.softmax_cross_entropy(logits * x, smooth)

    x = jnp.linspace(0.0, 3.0, 64)
    together = jloss.sweep(loss, x=x, batch_size=64).values
    alone = jloss.sweep(loss, x=x, batch_size=1).values
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_no_more_points_than_asked_for_are_taken_together():
    assert spied_sizes(batch_size=3) == [3]


def test_several_points_together_are_tried_where_all_take_longer_than_compiling(monkeypatch):
    monkeypatch.setattr(_plan, "WORTH", float("inf"))
    assert spied_sizes() == []
    monkeypatch.setattr(_plan, "WORTH", 0)
    most = _plan.HOST_MANY if jax.default_backend() == "cpu" else _plan.MANY
    assert spied_sizes() == [min(most, 3000 // 8)]


def test_points_taken_together_keep_within_the_memory_limit(monkeypatch):
    monkeypatch.setattr(_plan, "WORTH", 0)

    def needy(x):
        return jnp.sort(x * jnp.arange(1024.0) % 7)[5]

    one = jax.jit(jax.vmap(needy)).lower(jnp.ones(1)).compile().memory_analysis()
    limit = 20 * (one.temp_size_in_bytes + one.output_size_in_bytes)
    sizes = []

    @jax.custom_batching.custom_vmap
    def spied(x):
        return x

    @spied.def_vmap
    def _(size, batched, x):
        sizes.append(size)
        return x, batched[0]

    sweep(lambda x: needy(spied(x)), memory_limit=limit, x=jnp.arange(1000.0))
    assert 1 < max(sizes) <= 40
    with pytest.raises(
        ValueError, match=r"a single point needs .* bytes, more than memory_limit=9"
    ):
        sweep(needy, memory_limit=9, x=jnp.arange(10.0))


def test_a_pytree_of_any_shapes_comes_back_on_the_grid():
    class Both(NamedTuple):
        value: jax.Array
        slope: jax.Array

    def both(a, m):
        return {"first": Both(a * m, jnp.stack([m * 1.0, a])), "flag": a > 1}

    values = sweep(both, batch_size=4, a=A, m=M).values
    np.testing.assert_allclose(values["first"].value, np.outer(A, M), rtol=1e-6)
    expected = [[[m, a] for m in M] for a in A]
    np.testing.assert_allclose(values["first"].slope, expected, rtol=1e-6)
    np.testing.assert_array_equal(values["flag"], [[False] * 3, [True] * 3])


def test_averages_stay_averages():
    x = jnp.array([1.0, 2.0, 6.0])
    grid = sweep(lambda shift: average(x - shift), shift=jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(grid.values.value, [3.0, 2.0])
    assert float(grid.argmin("value")["shift"]) == 1.0


def test_terms_add_up_over_batches_each_by_itself():
    def terms(batch, shift):
        return jloss.Terms({"all": average(batch - shift), "first": average(batch[:1] * shift)})

    batches = [jnp.array([1.0, 2.0, 6.0]), jnp.array([3.0])]
    grid = sweep(terms, data=batches, shift=jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(grid.numbers(), [3.0, 2.0 + 2.0])


def test_axes_keep_their_dtypes_inside_the_function():
    seen = {}

    def spy(**coordinates):
        seen.update({name: (c.shape, c.dtype) for name, c in coordinates.items()})
        return 0.0

    keys = jax.random.split(jax.random.key(0), 2)
    axes = {
        "count": np.arange(3, dtype=np.int32),
        "flag": np.array([True, False]),
        "half": jnp.ones(2, jnp.bfloat16),
        "vector": np.ones((2, 4), np.float32),
        "key": keys,
    }
    grid = sweep(spy, **axes)
    assert grid.shape == (3, 2, 2, 2, 2)
    assert seen == {
        "count": ((), jnp.int32),
        "flag": ((), jnp.bool_),
        "half": ((), jnp.bfloat16),
        "vector": ((4,), jnp.float32),
        "key": ((), keys.dtype),
    }


def test_keys_and_pytrees_are_axes_too():
    keys = jax.random.split(jax.random.key(0), 3)
    models = {"w": np.float32([[1, 2], [3, 4]]), "b": np.float32([10, 20])}

    def noisy(model, key):
        return model["w"] @ jax.random.normal(key, (2,)) + model["b"]

    noise = np.array([jax.random.normal(key, (2,)) for key in keys])
    expected = models["w"] @ noise.T + models["b"][:, None]
    grid = sweep(noisy, batch_size=4, model=models, key=keys)
    np.testing.assert_allclose(grid.values, expected, rtol=1e-5)


def test_a_sweep_of_gradients_can_be_differentiated():
    def total(scale):
        return jnp.sum(sweep(lambda x: scale * x**2, x=jnp.array([1.0, 2.0])).values)

    assert float(jax.jit(jax.grad(total))(3.0)) == 5.0


def test_coordinates_may_have_the_names_of_arguments():
    grid = sweep(lambda function, axes: function + axes, function=jnp.ones(2), axes=jnp.ones(1))
    np.testing.assert_array_equal(grid.values, [[2.0], [2.0]])


# argmin.


def test_the_smallest_value_is_found_where_a_loop_finds_it():
    best = sweep(asymmetric, z=Z, a=A, m=M).argmin()
    expected = min(((z, a, m) for z in Z for a in A for m in M), key=lambda p: asymmetric(*p))
    assert list(best) == ["z", "a", "m"]
    np.testing.assert_allclose([float(c) for c in best.values()], expected, rtol=1e-6)


def test_the_smallest_value_is_finite():
    values = jnp.array([jnp.nan, -jnp.inf, 3.0, 2.0, jnp.inf])
    grid = sweep(lambda i: values[i], i=jnp.arange(5))
    assert int(grid.argmin()["i"]) == 3
    assert np.array_equal(grid.values, values, equal_nan=True)


def test_the_smallest_of_one_of_several_values_is_found_by_name():
    models = {"w": jnp.array([[1.0, 2.0], [3.0, 4.0]])}
    grid = sweep(lambda p: {"low": p["w"].sum(), "high": -p["w"].sum()}, p=models)
    np.testing.assert_array_equal(grid.argmin("low")["p"]["w"], [1.0, 2.0])
    np.testing.assert_array_equal(grid.argmin("high")["p"]["w"], [3.0, 4.0])


@pytest.mark.parametrize(
    ("function", "name", "message"),
    [
        (lambda x: x * jnp.nan, None, "none of the 3 values is finite"),
        (lambda x: {"loss": x, "score": x}, None, "name one of the values: loss, score"),
        (lambda x: {"loss": x, "score": x}, "error", "no values named 'error'; .* loss, score"),
        (lambda x: x, "loss", "no values named 'loss'"),
        (
            lambda x: jnp.stack([x, x]),
            None,
            r"one number per point .* \(3, 2\) on a grid of \(3,\)",
        ),
    ],
)
def test_argmin_refuses(function, name, message):
    with pytest.raises(ValueError, match=message):
        sweep(function, x=jnp.arange(3.0)).argmin(name)


# Errors.


def named(x, y):
    return x + y


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "no coordinates"),
        ({"x": jnp.ones(2), "y": jnp.ones(0)}, ValueError, "y has no points"),
        ({"x": {}, "y": jnp.ones(2)}, ValueError, "x has no points"),
        ({"x": 3.0, "y": jnp.ones(2)}, ValueError, r"not 3.0; did you mean jnp.array\(\[3.0\]\)"),
        ({"x": [1, 2], "y": jnp.ones(2)}, ValueError, r"did you mean jnp.array\(\[1, 2\]\)"),
        (
            {"x": (jnp.ones(2), jnp.ones(3)), "y": jnp.ones(2)},
            ValueError,
            r"the arrays of x differ in length: \[2, 3\]",
        ),
        ({"x": jnp.ones(2)}, TypeError, r"x do not fit named\(x, y\): missing .* 'y'"),
        (
            {"x": jnp.ones(2), "y": jnp.ones(2), "delta": jnp.ones(2)},
            TypeError,
            r"x, y, delta do not fit named\(x, y\): .* unexpected keyword argument 'delta'",
        ),
        ({"x": jnp.ones(2), "y": jnp.ones(2), "batch_size": 0}, ValueError, "at least 1, not 0"),
    ],
)
def test_sweep_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        sweep(named, **arguments)


@pytest.mark.parametrize(
    ("result", "kind"), [("high", "str"), (None, "NoneType"), ({"loss": object()}, "object")]
)
def test_a_function_that_returns_no_arrays_is_named(result, kind):
    def careless(x):
        return result

    with pytest.raises(TypeError, match=f"careless must return arrays, not {kind}"):
        sweep(careless, x=jnp.ones(2))
