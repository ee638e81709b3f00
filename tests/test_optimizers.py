"""Loss-aware optimizers against scipy, scikit-learn and closed forms, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import least_squares, lsq_linear

import jloss
from jloss import optimizers

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(40, 5)) * [1.0, 3.0, 0.2, 1.0, 1.0]
TARGETS = INPUTS @ [1.0, -2.0, 0.5, 0.0, 3.0] + RANDOM.normal(size=40)
WEIGHTS = RANDOM.uniform(0.1, 2.0, 40)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def line(params, inputs):
    return inputs @ params


def bell(params, inputs):
    return params["height"] * jnp.exp(-(((inputs - params["place"]) / params["width"]) ** 2))


def after(steps, objective, optimizer, params, batch):
    state, update, seen = jloss.init(params, optimizer), jloss.step(objective), []
    for _ in range(steps):
        state, average = update(state, batch)
        seen.append(float(average.value))
    return state, seen


SQUARES = jloss.objective(line, jloss.squared_error)


@pytest.mark.parametrize("make", [optimizers.gauss_newton, optimizers.levenberg_marquardt])
def test_one_undamped_step_solves_weighted_linear_least_squares(make):
    exact = {"tolerance": 1e-14} if make is optimizers.gauss_newton else {}
    optimizer = make(line, jloss.squared_error, damping=0.0, **exact)
    batch = INPUTS, TARGETS, WEIGHTS
    state, _ = after(1, SQUARES, optimizer, jnp.full(5, 7.0), batch)
    root = np.sqrt(WEIGHTS)
    wanted = np.linalg.lstsq(root[:, None] * INPUTS, root * TARGETS, rcond=None)[0]
    np.testing.assert_allclose(state.params, wanted, rtol=1e-10)


@pytest.mark.parametrize("make", [optimizers.gauss_newton, optimizers.levenberg_marquardt])
def test_a_step_is_that_of_the_damped_equations(make):
    damping, start = 0.3, np.full(5, 0.5)
    exact = {"tolerance": 1e-14} if make is optimizers.gauss_newton else {}
    optimizer = make(line, jloss.squared_error, damping=damping, **exact)
    state, _ = after(1, SQUARES, optimizer, jnp.asarray(start), (INPUTS, TARGETS))
    matrix = 2 * INPUTS.T @ INPUTS / 40
    gradient = 2 * INPUTS.T @ (INPUTS @ start - TARGETS) / 40
    shift = np.eye(5) if make is optimizers.gauss_newton else np.diag(np.diag(matrix))
    step = np.linalg.solve(matrix + damping * shift, -gradient)
    np.testing.assert_allclose(state.params, start + step, rtol=1e-10)
    # On a quadratic loss the model is exact, but for the damping: Nielsen's rule of the ratio.
    promised = -step @ (gradient + matrix @ step / 2)
    gained = np.mean((INPUTS @ start - TARGETS) ** 2) - np.mean(
        (INPUTS @ (start + step) - TARGETS) ** 2
    )
    factor = max(1 / 3, 1 - (2 * gained / promised - 1) ** 3)
    np.testing.assert_allclose(state.opt_state.damping, damping * factor, rtol=1e-6)


def test_steps_of_a_logistic_regression_are_those_of_iteratively_reweighted_least_squares():
    labels, rate = (TARGETS > 1).astype(float), 1e-10
    objective = jloss.objective(line, jloss.sigmoid_binary_cross_entropy)
    optimizer = optimizers.gauss_newton(
        line, jloss.sigmoid_binary_cross_entropy, damping=rate, tolerance=1e-14
    )
    state, at = jloss.init(jnp.zeros(5), optimizer), np.zeros(5)
    update = jloss.step(objective)
    for _ in range(4):
        state, _ = update(state, (INPUTS, labels))
        p = 1 / (1 + np.exp(-INPUTS @ at))
        working = INPUTS @ at + (labels - p) / (p * (1 - p))
        root = np.sqrt(p * (1 - p))
        at = np.linalg.lstsq(root[:, None] * INPUTS, root * working, rcond=None)[0]
        np.testing.assert_allclose(state.params, at, rtol=1e-6)


def test_levenberg_marquardt_fits_a_curve_as_scipy_does():
    places = np.linspace(-2.0, 4.0, 30)
    true = {"height": 1e3, "place": 0.7, "width": 1e-1 * 9}
    values = np.asarray(bell(true, places)) + 30 * RANDOM.normal(size=30)
    names, start = ("height", "place", "width"), (500.0, 0.0, 2.0)
    reference = least_squares(
        lambda x: np.asarray(bell(dict(zip(names, x, strict=True)), places)) - values,
        start,
        method="lm",
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
    )
    optimizer = optimizers.levenberg_marquardt(bell, jloss.squared_error)
    params = {name: jnp.array(number) for name, number in zip(names, start, strict=True)}
    objective = jloss.objective(bell, jloss.squared_error)
    state, seen = after(25, objective, optimizer, params, (places, values))
    found = [float(state.params[name]) for name in names]
    np.testing.assert_allclose(found, reference.x, rtol=1e-7)
    assert np.all(np.diff(seen) <= 1e-12 * seen[0])  # no step that raises the loss is taken


def test_a_step_that_raises_the_loss_is_refused_and_damped_until_one_lowers_it():
    # From here the undamped step of the model overshoots by far: |atan| grows.
    bent = lambda params, inputs: jnp.arctan(params * inputs)  # noqa: E731
    batch = jnp.ones(1), jnp.zeros(1)
    optimizer = optimizers.gauss_newton(bent, jloss.squared_error, damping=1e-6)
    objective = jloss.objective(bent, jloss.squared_error)
    state, seen = after(30, objective, optimizer, jnp.array([3.0]), batch)
    assert seen[1] == seen[0] and int(state.skipped) == 0
    assert np.all(np.diff(seen) <= 0) and abs(float(state.params[0])) < 1e-6


def test_a_step_to_where_the_loss_is_not_finite_is_refused():
    pole = lambda params, inputs: jnp.log(params) * inputs  # noqa: E731
    batch = jnp.ones(1), jnp.full(1, -2.0)
    optimizer = optimizers.levenberg_marquardt(pole, jloss.squared_error)
    objective = jloss.objective(pole, jloss.squared_error)
    state, _ = after(30, objective, optimizer, jnp.array([10.0]), batch)
    assert int(state.skipped) == 0
    np.testing.assert_allclose(state.params, np.exp(-2.0), rtol=1e-8)


def test_second_order_steps_hide_what_is_masked_and_serve_half_precision():
    batch = {
        "inputs": INPUTS.astype(jnp.bfloat16),
        "targets": np.where(np.arange(40) == 3, np.nan, TARGETS).astype(jnp.bfloat16),
        "where": np.arange(40) != 3,
    }
    optimizer = optimizers.gauss_newton(line, jloss.squared_error, damping=1e-6)
    state, seen = after(3, SQUARES, optimizer, jnp.zeros(5, jnp.bfloat16), batch)
    assert state.params.dtype == jnp.bfloat16 and int(state.skipped) == 0
    kept = np.arange(40) != 3
    best = np.linalg.lstsq(INPUTS[kept], TARGETS[kept], rcond=None)[0]
    assert seen[-1] < 1.01 * np.mean((INPUTS[kept] @ best - TARGETS[kept]) ** 2)


def test_second_order_optimizers_compose_with_those_of_optax_in_a_fit():
    newton = optimizers.gauss_newton(line, jloss.squared_error, damping=0.0, tolerance=1e-12)
    optimizer = optax.chain(newton, optax.scale(0.5))
    state = jloss.init(jnp.zeros(5), optimizer)
    state, _ = jloss.fit(SQUARES, state, (INPUTS, TARGETS), epochs=3, batch_size=40)
    wanted = np.linalg.lstsq(INPUTS, TARGETS, rcond=None)[0]
    np.testing.assert_allclose(state.params, (1 - 0.5**3) * wanted, rtol=1e-9)


def test_an_update_says_what_it_misses():
    newton = optimizers.gauss_newton(line, jloss.l2_loss)
    state, gradient = newton.init(jnp.ones(5)), jnp.ones(5)
    with pytest.raises(ValueError, match="gauss_newton: update needs the params"):
        newton.update(gradient, state)
    with pytest.raises(TypeError, match="gauss_newton: update needs value=, value_fn= too, which"):
        newton.update(gradient, state, gradient, batch=(INPUTS, TARGETS))
    sparse = optimizers.proximal(optimizers.prox_l1, 0.1)
    with pytest.raises(ValueError, match="proximal: update needs the params"):
        sparse.update(gradient, sparse.init(gradient))


# Proximal operators.


@pytest.mark.parametrize("size", [0.2, 0.7, 3.0])
@pytest.mark.parametrize(
    ("prox", "penalty"),
    [
        (optimizers.prox_l1, lambda u: np.abs(u).sum(-1)),
        (optimizers.prox_group_lasso, lambda u: np.linalg.norm(u, axis=-1)),
        (optimizers.prox_total_variation, lambda u: np.abs(np.diff(u)).sum(-1)),
    ],
)
def test_proximal_operators_are_the_minimum_that_defines_them(prox, penalty, size):
    x = np.array([[1.0, -0.6, 0.3], [0.1, 0.2, 0.0], [-1.5, -1.4, 0.5]])
    found = np.asarray(jax.jit(prox)(x, size))
    # What is minimised is strongly convex: it rises by at least half the squared distance.
    total = lambda u: np.sum((u - x[:, None]) ** 2, -1) / 2 + size * penalty(u)  # noqa: E731
    lengths = 10.0 ** RANDOM.uniform(-6, 1, (2000, 1))
    moves = RANDOM.normal(size=(2000, 3)) * (RANDOM.uniform(size=(2000, 3)) < 0.6) * lengths
    there = total(found[:, None] + moves)
    rise, rounding = there - total(found[:, None]), 1e-15 * there
    assert np.all(rise >= np.sum(moves**2, -1) / 2 - rounding)


def test_total_variation_denoising_is_the_solution_of_its_dual_problem():
    rows = np.cumsum(RANDOM.normal(size=(3, 60)), axis=1)
    prox = jax.jit(optimizers.prox_total_variation)
    for size in (0.05, 1.0, 1e3):
        found = prox(jnp.asarray(rows), size)
        differences = np.diff(np.eye(60), axis=0)
        for row, ours in zip(rows, found, strict=True):
            dual = lsq_linear(differences.T, row, (-size, size), tol=1e-15, method="bvls").x
            np.testing.assert_allclose(ours, row - differences.T @ dual, atol=1e-10)
    np.testing.assert_allclose(found, np.tile(rows.mean(1, keepdims=True), 60), atol=1e-10)
    assert prox(jnp.array([2.0]), 1.0) == 2.0


def test_proximal_operators_keep_groups_of_zeros_and_of_huge_numbers():
    with jax.enable_x64(False):
        x = jnp.array([[0.0, 0.0], [3e30, 4e30]])
        found = optimizers.prox_group_lasso(x, 1e30)
        np.testing.assert_allclose(found, [[0.0, 0.0], [2.4e30, 3.2e30]], rtol=1e-6)


def test_a_lasso_fit_has_the_coefficients_and_the_exact_zeros_of_scikit_learn():
    Lasso = pytest.importorskip("sklearn.linear_model").Lasso  # noqa: N806
    inputs, strength = INPUTS / INPUTS.std(0), 0.9
    reference = Lasso(alpha=strength, tol=1e-14, max_iter=100_000).fit(inputs, TARGETS)
    assert 0 < np.sum(reference.coef_ == 0) < 5

    def sparse(params, step_size):
        return {**params, "w": optimizers.prox_l1(params["w"], strength * step_size)}

    affine = lambda params, inputs: inputs @ params["w"] + params["b"]  # noqa: E731
    objective = jloss.objective(affine, jloss.l2_loss)
    thrift = optimizers.proximal(sparse, optax.constant_schedule(0.5))
    state = jloss.init({"w": jnp.zeros(5), "b": jnp.zeros(())}, optax.chain(optax.sgd(0.5), thrift))
    state, _ = jloss.fit(objective, state, (inputs, TARGETS), epochs=150, batch_size=40)
    np.testing.assert_allclose(state.params["w"], reference.coef_, rtol=1e-8)
    np.testing.assert_array_equal(state.params["w"] == 0, reference.coef_ == 0)


def test_a_projection_of_optax_keeps_the_params_in_their_box():
    box = lambda params, _: optax.projections.projection_box(params, -0.5, 0.5)  # noqa: E731
    optimizer = optax.chain(optax.sgd(0.05), optimizers.proximal(box, 0.05))
    state, _ = after(300, SQUARES, optimizer, jnp.zeros(5), (INPUTS, TARGETS))
    wanted = lsq_linear(INPUTS, TARGETS, (-0.5, 0.5), tol=1e-14).x
    np.testing.assert_allclose(state.params, wanted, atol=1e-8)
