"""Balancing of terms: against brute force, a quadratic program, and what the sources promise."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

import jloss
from jloss import balance
from jloss.objective import Term
from jloss.update import advance

RANDOM = np.random.default_rng(0)


def terms_of(gradients, values=None):
    """Terms with these gradients, each a tree of a matrix and a vector."""
    values = np.ones(len(gradients)) if values is None else values
    return {
        f"term {k}": Term(
            np.float32(value),
            {"w": np.float32(g[:4]).reshape(2, 2), "b": np.float32(g[4:])},
            np.float32(np.linalg.norm(g)),
            np.float32(0),
        )
        for k, (g, value) in enumerate(zip(gradients, values, strict=True))
    }


PCGRAD, MGDA = balance.pcgrad(jax.random.key(0)), balance.mgda()


@functools.cache
def compiled(balancer):
    return jax.jit(lambda state, terms: balancer.update(None, state, terms=terms))


def flat(tree):
    return np.concatenate([np.ravel(tree["w"]), tree["b"]])


def gradient_of(balancer, terms):
    return flat(compiled(balancer)(balancer.init(None), terms)[0])


def conflicting(count):
    """Gradients in 7 dimensions of which many point against each other."""
    return RANDOM.normal(size=(count, 7)) * 10 ** RANDOM.uniform(-1, 1, (count, 1))


# PCGrad.


def surgery(gradients, orders):
    parts = []
    for own, order in enumerate(orders):
        part = gradients[own].copy()
        for other in order:
            along = part @ gradients[other]
            if along < 0:
                part -= along / (gradients[other] @ gradients[other]) * gradients[other]
        parts.append(part)
    return sum(parts)


def test_pcgrad_is_the_surgery_of_its_source_in_orders_that_change():
    gradients = conflicting(3)
    others = [list(itertools.permutations(set(range(3)) - {own})) for own in range(3)]
    possible = [surgery(gradients, orders) for orders in itertools.product(*others)]
    terms, state, met = terms_of(gradients), PCGRAD.init(None), set()
    for _ in range(20):
        found, state = compiled(PCGRAD)(state, terms)
        distances = [np.abs(flat(found) - one).max() for one in possible]
        assert min(distances) < 1e-5 * np.abs(gradients).max()
        met.add(int(np.argmin(distances)))
    assert len(met) > 1


def test_pcgrad_of_two_terms_leaves_no_conflict():
    one, two = np.array([1.0, 2, 0, 0, 1, 0, 0]), np.array([-2.0, 1, 1, 0, -1, 0, 3])
    assert one @ two < 0
    found = gradient_of(PCGRAD, terms_of([one, two]))
    assert found @ one > 0 and found @ two > 0
    np.testing.assert_allclose(
        found, surgery(np.stack([one, two]), [[1], [0]]), rtol=1e-5, atol=1e-6
    )


def test_pcgrad_leaves_gradients_that_agree_and_those_that_are_zero():
    gradients = np.abs(conflicting(3))
    gradients[1] = 0
    found = gradient_of(PCGRAD, terms_of(gradients))
    np.testing.assert_allclose(found, gradients.sum(0), rtol=1e-6)


# MGDA.


@pytest.mark.parametrize("count", [2, 3, 5])
def test_mgda_is_the_shortest_average_of_a_quadratic_program(count):
    gradients = conflicting(count) + (count > 2) * 0.3
    products = gradients @ gradients.T
    exact = minimize(
        lambda a: a @ products @ a,
        np.full(count, 1 / count),
        jac=lambda a: 2 * products @ a,
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    found = gradient_of(MGDA, terms_of(gradients))
    np.testing.assert_allclose(found, exact.x @ gradients, atol=2e-4 * np.abs(gradients).max())
    # No term gets worse: each has at least the squared length of the average along it.
    assert (gradients @ found >= (found @ found) * (1 - 1e-4)).all()


def test_mgda_of_two_terms_is_the_closed_form():
    one, two = 3.0 * np.eye(7)[0], np.array([-1.0, 2, 0, 0, 0, 0, 0])
    share = ((two - one) @ two) / ((one - two) @ (one - two))
    found = gradient_of(MGDA, terms_of([one, two]))
    np.testing.assert_allclose(found, share * one + (1 - share) * two, rtol=1e-5, atol=1e-6)
    long = gradient_of(MGDA, terms_of([one, 9 * one]))
    np.testing.assert_allclose(long, one, rtol=1e-6)


def test_mgda_is_zero_where_no_direction_improves_all_terms():
    found = gradient_of(MGDA, terms_of(np.outer([1.0, -3.0], np.eye(7)[0])))
    np.testing.assert_allclose(found, 0.0, atol=1e-6)
    assert not gradient_of(MGDA, terms_of(np.zeros((2, 7)))).any()


# Weights that are learned.


def test_the_variances_of_uncertainty_weighting_end_at_the_values_of_the_terms():
    terms = terms_of(conflicting(2), values=[0.01, 30.0])
    balancer = balance.uncertainty_weighting(list(terms), optax.adam(0.1))

    def learn(state, _):
        return balancer.update(None, state, terms=terms)[1], None

    state, _ = jax.lax.scan(learn, balancer.init(None), length=1000)
    variances = {name: float(jnp.exp(s)) for name, s in state.log_variances.items()}
    assert variances == pytest.approx({"term 0": 0.01, "term 1": 30.0}, rel=1e-3)


def test_uncertainty_weighting_descends_its_own_objective():
    gradients, values = conflicting(2), np.array([0.5, 3.0])
    terms = terms_of(gradients, values)
    balancer = balance.uncertainty_weighting(list(terms), optax.sgd(1.0))
    state = balancer.init(None)._replace(
        log_variances={"term 0": jnp.float32(0.3), "term 1": jnp.float32(-1.0)}
    )
    found, new = compiled(balancer)(state, terms)
    s = np.array([0.3, -1.0])
    expected = (0.5 * np.exp(-s)) @ gradients
    np.testing.assert_allclose(np.ravel(found["w"]), expected[:4], rtol=1e-5)
    slopes = 0.5 - 0.5 * np.exp(-s) * values
    np.testing.assert_allclose(list(new.log_variances.values()), s - slopes, rtol=1e-5)


def two_bowls(slow, fast):
    """Terms that start at values of very different size, each with a parameter of its own."""
    return jloss.combine(
        slow=lambda p, batch: jloss.average(slow * p["slow"] ** 2),
        fast=lambda p, batch: jloss.average(fast * p["fast"] ** 2),
    )


def test_gradnorm_makes_terms_train_at_the_same_rate():
    objective = two_bowls(1.0, 10.0)
    params = {"slow": jnp.array(1.0), "fast": jnp.array(1.0)}

    def rates(balancer):
        def train(state, _):
            return advance(objective, state, None)[0], None

        state = jloss.init(params, optax.chain(balancer, optax.sgd(1e-4)))
        state, _ = jax.lax.scan(train, state, length=1200)
        start, end = (objective(p, None)[1].terms for p in (params, state.params))
        return state, *(float(jnp.log(start[n].value / end[n].value)) for n in ("slow", "fast"))

    _, slow, fast = rates(optax.identity())
    assert fast == pytest.approx(10 * slow, rel=0.01)
    state, slow, fast = rates(balance.gradnorm(["slow", "fast"], optax.sgd(5e-4)))
    assert fast == pytest.approx(slow, rel=0.15)
    weights = state.opt_state[0].weights
    assert sum(map(float, weights.values())) == pytest.approx(2.0, rel=1e-6)


def test_gradnorm_without_pull_makes_the_chosen_gradients_equally_long():
    gradients = np.eye(7)[[0, 5]] * [[1.0], [10.0]] + np.eye(7)[[1, 6]]
    terms = terms_of(gradients)
    balancer = balance.gradnorm(
        list(terms), optax.sgd(1e-3), alpha=0.0, shared=lambda tree: (tree["w"] + 0.1, tree["b"])
    )
    chosen = [np.sqrt(1.1**2 + 1.1**2 + 2 * 0.1**2), np.sqrt(4 * 0.1**2 + 101)]

    def learn(state, _):
        return balancer.update(None, state, terms=terms)[1], None

    state, _ = jax.lax.scan(learn, balancer.init(None), length=400)
    one, two = (float(w) for w in state.weights.values())
    assert one * chosen[0] == pytest.approx(two * chosen[1], rel=0.05)


# In training.


@pytest.mark.parametrize(
    "balancer",
    [
        balance.uncertainty_weighting(["slow", "fast"], optax.adam(1e-2)),
        balance.gradnorm(["slow", "fast"], optax.adam(1e-2)),
        PCGRAD,
        MGDA,
    ],
    ids=["uncertainty", "gradnorm", "pcgrad", "mgda"],
)
def test_a_balance_stands_in_a_chain_of_optax(balancer):
    objective = two_bowls(1.0, 3.0)
    params = {"slow": jnp.array(1.0), "fast": jnp.array(-1.0)}
    optimizer = optax.chain(balancer, optax.clip_by_global_norm(1.0), optax.sgd(0.1))
    state = jloss.init(params, optimizer)
    before = objective(params, None)[0].value
    update = jloss.step(objective)
    for _ in range(3):
        state, average = update(state, None)
    assert average.value < before and int(state.skipped) == 0


def test_what_is_missing_for_a_balance_is_named():
    balancer = balance.mgda()
    with pytest.raises(TypeError, match=r"mgda: the terms are missing; jloss\.step"):
        balancer.update(None, balancer.init(None))
    balancer = balance.gradnorm(["fit", "pose"], optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"balance fit, pose, but the terms .* are term 0, term 1"):
        balancer.update(None, balancer.init(None), terms=terms_of(np.ones((2, 5))))
