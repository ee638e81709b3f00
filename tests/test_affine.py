"""Hoisting changes no value, and does at each point only what each point needs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jloss
from jloss._affine import hoist, operations

ROWS = 12
POINTS = [(0.0, 0.0), (0.7, -0.4), (-1.3, 2.1)]


def weights(*shapes):
    """Some parameters of these shapes, and two directions."""
    random = np.random.default_rng(0)
    return [
        [random.normal(size=shape) / np.sqrt(np.prod(shape[:-1])) for shape in shapes]
        for _ in range(3)
    ]


def mlp(params, inputs):
    first, bias, second = params
    return jax.nn.relu(inputs @ first + bias) @ second


def cnn(params, images):
    kernel, bias, head = params
    numbers = ("NHWC", "HWIO", "NHWC")
    x = lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=numbers)
    x = lax.reduce_window(jax.nn.gelu(x + bias), 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return x.reshape(len(images), -1) @ head


def batch_norm(params, inputs):
    first, scale, second = params
    x = inputs @ first
    x = (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5) * scale
    return jnp.tanh(x) @ second


def tied(params, tokens):
    (embedding,) = params
    return jnp.tanh(embedding[tokens].sum(1)) @ embedding.T


def transformer(params, tokens):
    embedding, queries, values, up, down = params
    x = embedding[tokens]
    scores = jnp.einsum("btd,de,bse->bts", x, queries, x) / np.sqrt(x.shape[-1])
    x = x + jax.nn.softmax(scores) @ (x @ values)
    x = x + jax.nn.gelu(x @ up) @ down
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x.mean(1) @ embedding.T


def recurrent(params, inputs):
    first, again, head = params
    driven = jnp.swapaxes(inputs @ first, 0, 1)

    def step(state, x):
        return jnp.tanh(state @ again + x), None

    return lax.scan(step, jnp.zeros(driven.shape[1:]), driven)[0] @ head


RANDOM = np.random.default_rng(1)
TOKENS = RANDOM.integers(0, 7, (ROWS, 5))
MODELS = {
    "mlp": (mlp, [(90, 8), (8,), (8, 7)], RANDOM.normal(size=(ROWS, 90))),
    "cnn": (cnn, [(3, 3, 2, 4), (4,), (36, 7)], RANDOM.normal(size=(ROWS, 6, 6, 2))),
    "batch norm": (batch_norm, [(90, 8), (8,), (8, 7)], RANDOM.normal(size=(ROWS, 90))),
    "weight tying": (tied, [(7, 6)], TOKENS),
    "transformer block": (transformer, [(7, 6), (6, 6), (6, 6), (6, 12), (12, 6)], TOKENS),
    "scan": (recurrent, [(3, 8), (8, 8), (8, 7)], RANDOM.normal(size=(ROWS, 4, 3))),
}
LABELS = RANDOM.integers(0, 7, ROWS)


def given(name, dtype):
    """An objective, params, directions and a batch."""
    model, shapes, inputs = MODELS[name]
    arrays = *weights(*shapes), (inputs, LABELS)
    params, *directions, batch = jax.tree.map(
        lambda x: x.astype(dtype) if x.dtype == np.float64 else x, arrays
    )
    objective = jloss.objective(model, jloss.softmax_cross_entropy_with_integer_labels)
    return objective, params, directions, batch


@functools.cache
def plain(name, dtype):
    """The values of an objective at some points."""
    objective, params, directions, batch = given(name, dtype)

    def value(a, b):
        moved = [p + a * d + b * e for p, d, e in zip(params, *directions, strict=True)]
        return objective(moved, batch).value

    with jax.enable_x64(dtype == np.float64):
        return np.asarray(jax.jit(jax.vmap(value))(*np.asarray(POINTS, dtype).T))


@functools.cache
def hoisted(name, dtype, transform=lambda f: f):
    """The same from what is left at each point; with how it was split, and what is common."""
    objective, params, directions, batch = given(name, dtype)
    objective = transform(objective)
    with jax.enable_x64(dtype == np.float64):
        split = hoist(lambda params, batch: objective(params, batch).value, params, batch)
        common = jax.jit(split.prepare)(params, directions, batch)
        values = jax.jit(jax.vmap(lambda a, b: split.evaluate(common, (a, b))))
        return np.asarray(values(*np.asarray(POINTS, dtype).T)), split, common


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [pytest.param(np.float32, 1e-6, marks=pytest.mark.long), (np.float64, 1e-12)],
    ids=["float32", "float64"],
)
def test_hoisting_is_exact_but_for_rounding(name, dtype, tolerance):
    values, *_ = hoisted(name, dtype)
    assert values.dtype == dtype
    np.testing.assert_allclose(values, plain(name, dtype), rtol=tolerance)


@pytest.mark.parametrize("name", ["mlp", "transformer block"])
def test_under_jit_and_checkpoint_all_is_hoisted_alike(name):
    values, _, common = hoisted(name, np.float64, lambda f: jax.jit(jax.checkpoint(f)))
    np.testing.assert_allclose(values, plain(name, np.float64), rtol=1e-12)
    assert jax.tree.map(jnp.shape, common) == jax.tree.map(jnp.shape, hoisted(name, np.float64)[2])


def flops(function, *arguments):
    if jax.default_backend() != "cpu":
        pytest.skip("XLA counts operations for a processor")
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


@pytest.mark.parametrize(("name", "saved"), [("mlp", 0.8), ("cnn", 0.55), ("batch norm", 0.8)])
def test_a_first_layer_is_done_once_and_not_at_each_point(name, saved):
    model, shapes, inputs = MODELS[name]
    _, split, common = hoisted(name, np.float64)
    with jax.enable_x64(True):
        whole = flops(lambda p: model(p, inputs).sum(), [np.zeros(shape) for shape in shapes])
        loss = flops(
            lambda x: jloss.softmax_cross_entropy_with_integer_labels(x, LABELS).sum(),
            np.zeros((ROWS, 7)),
        )
        assert flops(split.evaluate, common, (0.1, 0.2)) < (1 - saved) * whole + loss


@pytest.mark.parametrize("name", ["mlp", "cnn", "batch norm"])
def test_operations_are_counted_much_as_xla_does(name):
    model, shapes, inputs = MODELS[name]
    params = [np.zeros(shape, np.float32) for shape in shapes]

    def total(params):
        return model(params, np.float32(inputs)).sum()

    # XLA leaves out what a convolution multiplies with its padding.
    assert operations(total, params) == pytest.approx(flops(total, params), rel=0.2)


def test_operations_of_a_loop_count_as_often_as_it_runs_and_of_branches_the_longest():
    matrix = np.ones((8, 8), np.float32)

    def loop(x):
        return jax.lax.scan(lambda x, _: (matrix @ x, None), x, length=10)[0]

    def branches(x):
        return jax.lax.cond(x[0] > 0, lambda x: matrix @ (matrix @ x), lambda x: x, x)

    assert operations(loop, matrix[0]) == pytest.approx(10 * 2 * 64, rel=0.1)
    assert operations(branches, matrix[0]) == pytest.approx(2 * 2 * 64, rel=0.1)


def test_what_no_direction_moves_is_done_once():
    """A plane through a head alone: neither the body nor the head's product is left."""
    _, shapes, inputs = MODELS["mlp"]
    params, inputs = jax.tree.map(np.float32, (weights(*shapes)[0], inputs))
    split = hoist(lambda p, x: jnp.tanh(mlp(p, x)), params, inputs, moving=[False, False, True])
    direction = [np.zeros_like(params[0]), np.zeros_like(params[1]), params[2]]
    common = split.prepare(params, [direction], inputs)
    assert jax.tree.map(jnp.shape, common) == [[(ROWS, 7), (ROWS, 7)]]
    moved = [*params[:2], 1.5 * params[2]]
    # Values are of order 1.
    np.testing.assert_allclose(
        split.evaluate(common, [0.5]), jnp.tanh(mlp(moved, inputs)), rtol=0, atol=1e-6
    )


def test_a_bias_is_not_blown_up_to_the_batch_before_it_is_read():
    *_, common = hoisted("transformer block", np.float64)
    assert max(np.size(x) for x in jax.tree.leaves(common)) <= ROWS * 5 * 12


def values_of(function, params, directions, *arguments):
    split = hoist(function, params, *arguments)
    common = split.prepare(params, directions, *arguments)
    moved = jax.tree.map(lambda p, d: p + 0.5 * d, params, directions[0])
    return split.evaluate(common, [0.5]), function(moved, *arguments), common


X = jnp.asarray(np.arange(6, dtype=np.float32).reshape(2, 3))
D = jnp.array([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
LINEAR = {
    "a literal is added once": lambda p: p + 3.0,
    "a literal minus": lambda p: 3.0 - p,
    "scaled": lambda p: -p * 4.0 / 2.0,
    "concatenated with constants": lambda p: jnp.concatenate([p, jnp.ones((1, 3))]),
    "padded with a constant": lambda p: jnp.pad(p, 1, constant_values=5.0),
    "chosen by a constant": lambda p: jnp.where(jnp.arange(3) > 0, p, 7.0),
    "cumulated": lambda p: jnp.cumsum(p, 1),
    "gathered, out of bounds as well": lambda p: p.at[jnp.array([0, 5])].get(
        mode="fill", fill_value=2.0
    ),
    "put into a constant": lambda p: lax.dynamic_update_slice(jnp.ones((4, 4)), p, (1, 1)),
    "added into a constant": lambda p: jnp.ones((4, 3)).at[jnp.array([2, 2])].add(p),
    "added to": lambda p: p.at[jnp.array([0, 1, 0])].add(2.0),
    "transformed": lambda p: jnp.fft.irfft(jnp.conj(jnp.fft.rfft(p)) * 1j, 3),
    "reversed, sliced, summed": lambda p: p[::-1, 1:].sum(0),
    "split": lambda p: jnp.split(p, [1], axis=1)[1],
    "widened": lambda p: p.astype(jnp.bfloat16).astype(jnp.float32),
    "narrowed": lambda p: p.astype(jnp.bfloat16),
    "squared": lambda p: p * p,
    "a divisor": lambda p: 1.0 / (p + 10.0),
    "a predicate": lambda p: jnp.where(p > 1.0, p, 0.0),
    "an index": lambda p: X[p[0].astype(int) % 2],
    "integers": lambda p: p.astype(int) + 1,
    "nothing of it": lambda p: jnp.arange(3.0) + 1.0,
    "itself": lambda p: p,
    "a constant beside": lambda p: (p.sum(), 2.0, jnp.tanh(p)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_an_operation_has_its_own_value(name):
    got, wanted, _ = values_of(LINEAR[name], X, [D])
    for ours, theirs in zip(*map(jax.tree.leaves, (got, wanted)), strict=True):
        assert ours.dtype == jnp.asarray(theirs).dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_what_is_evaluated_can_be_differentiated_along_the_directions():
    split = hoist(lambda p, x: jnp.tanh(x @ p).sum(), X.T, X)
    common = split.prepare(X.T, [D.T], X)
    got = jax.jit(jax.hessian(lambda a: split.evaluate(common, [a])))(0.1)
    wanted = jax.jit(jax.hessian(lambda a: jnp.tanh(X @ (X.T + a * D.T)).sum()))(0.1)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


@pytest.mark.parametrize("name", ["added into a constant", "added to", "transformed"])
def test_what_is_linear_is_not_done_at_each_point(name):
    split = hoist(lambda p: jax.tree.map(jnp.tanh, LINEAR[name](p)), X)
    text = str(jax.make_jaxpr(split.evaluate)(split.prepare(X, [D]), [0.5]))
    assert not any(word in text for word in ("scatter", "fft", "gather"))


# Models of other libraries, as they are


def flax_model():
    nn = pytest.importorskip("flax.linen")
    model = nn.Sequential([nn.Dense(8), nn.BatchNorm(use_running_average=False), nn.Dense(3)])
    state = jax.jit(model.init)(jax.random.key(1), np.ones((2, 5)))

    def apply(params, inputs):
        variables = {**state, "params": params}
        return model.apply(variables, inputs, mutable=["batch_stats"])[0]

    return apply, state["params"]


def equinox_model():
    eqx = pytest.importorskip("equinox")
    model = eqx.filter_jit(eqx.nn.MLP)(5, 3, 8, 1, key=jax.random.key(1))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    return lambda params, inputs: jax.vmap(eqx.combine(params, static))(inputs), params


@pytest.mark.parametrize("make", [flax_model, equinox_model])
def test_objectives_of_other_libraries_are_hoisted_as_they_are(make):
    apply, params = make()
    objective = jloss.objective(apply, jloss.softmax_cross_entropy_with_integer_labels)
    random = np.random.default_rng(2)
    batch = random.normal(size=(ROWS, 5)).astype(np.float32), np.arange(ROWS) % 3
    direction = jax.tree.map(lambda p: random.normal(size=p.shape).astype(np.float32), params)
    split = hoist(lambda p, batch: objective(p, batch).value, params, batch)
    common = jax.jit(split.prepare)(params, [direction], batch)
    moved = jax.tree.map(lambda p, d: np.asarray(p) + np.float32(0.3) * d, params, direction)
    np.testing.assert_allclose(
        jax.jit(split.evaluate)(common, [0.3]), jax.jit(objective)(moved, batch).value, rtol=1e-6
    )
    # The first layer is not among what is left.
    text = str(jax.make_jaxpr(split.evaluate)(common, [0.3]))
    whole = str(jax.make_jaxpr(objective)(params, batch))
    assert text.count("dot_general") == whole.count("dot_general") - 1


def test_directions_that_do_not_fit_are_refused():
    split = hoist(lambda p: p.sum(), X)
    with pytest.raises((TypeError, ValueError)):
        split.evaluate(split.prepare(X, [D]), [0.1, 0.2])
