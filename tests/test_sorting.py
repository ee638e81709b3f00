"""Sums over pairs from sorted scores against all pairs one by one, with all their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jloss._promises import once
from jloss._sorting import levels_of, order, pair_sum, pairs_of

RNG = np.random.default_rng(0)
SIZE = 24
SCORES = np.round(8 * RNG.normal(size=SIZE)) / 4  # with ties, and leads of exactly 1
WEIGHTS = RNG.normal(size=SIZE)
HOME = RNG.integers(0, 3, SIZE).astype(np.int32)
GRADES = RNG.integers(0, 5, SIZE).astype(float)


def by_pairs(degree, margin, scores, weights, labels, home):
    over = scores[None, :] - scores[:, None] + margin
    counts = (labels[None, :] < labels[:, None]) & (home[:, None] == home) & (over > 0)
    return (weights[:, None] * jnp.where(counts, jnp.where(counts, over, 1.0) ** degree, 0.0)).sum()


def derivatives(function):
    """The value, and derivatives of first and second order, the latter in three ways."""
    both = (0, 1)
    gradient = jax.grad(function, both)

    def product(scores, weights):
        parts = gradient(scores, weights)
        return sum(
            jnp.vdot(jnp.cos(x), part) for x, part in zip((scores, weights), parts, strict=True)
        )

    return lambda *arguments: (
        function(*arguments),
        gradient(*arguments),
        jax.jacfwd(gradient, both)(*arguments),
        jax.grad(product, both)(*arguments),
    )


@pytest.mark.parametrize(
    ("degree", "margin"),
    [
        (2, 1.0),
        pytest.param(1, 1.0, marks=pytest.mark.long),
        pytest.param(2, 0.0, marks=pytest.mark.long),
    ],
)
def test_sums_and_derivatives_are_those_of_all_pairs(degree, margin):
    with jax.enable_x64(True):
        scores, weights, labels, home = map(jnp.asarray, (SCORES, WEIGHTS, GRADES, HOME))

        def ours(scores, weights):
            pairs = pairs_of(margin, scores, home, levels_of(labels, home))
            return pair_sum(degree, margin, scores, weights, pairs)

        def theirs(scores, weights):
            return by_pairs(degree, margin, scores, weights, labels, home)

        got, wanted = (once(derivatives(f))(scores, weights) for f in (ours, theirs))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


@jax.jit
def value_and_gradient(scores, labels):
    def total(scores):
        levels = levels_of(labels, None)
        pairs = pairs_of(1.0, scores, None, levels)
        return pair_sum(1, 1.0, scores, jnp.ones_like(scores), pairs), levels.others.sum()

    return jax.value_and_grad(total, has_aux=True)(scores)


@pytest.mark.parametrize("kinds", [1, 2, 5, 2000])
def test_float32_keeps_its_digits_for_few_labels_and_for_many(kinds):
    scores = (RNG.normal(size=2000) + 3000).astype(np.float32)
    labels = (RNG.permutation(2000) if kinds == 2000 else RNG.integers(0, kinds, 2000)).astype(
        np.float32
    )
    (value, others), gradient = value_and_gradient(scores, labels)
    exact = scores.astype(np.float64)
    over = exact[None] - exact[:, None] + 1
    counts = (labels[None] < labels[:, None]) & (over > 0)
    np.testing.assert_allclose(value, over[counts].sum(), rtol=1e-6)
    np.testing.assert_array_equal(gradient, counts.sum(0) - counts.sum(1))  # whole numbers
    assert others == (labels[None] != labels[:, None]).sum()


@jax.jit
def orders(values, home):
    return order(values), order(values, home)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_order_is_stable_by_lists_and_puts_nan_last(dtype):
    values = RNG.integers(-2, 3, 300).astype(dtype)
    values[::7], values[::11], values[5], values[6] = -0.0, np.nan, np.inf, -np.inf
    home = RNG.integers(0, 301, 300).astype(np.int32)
    with jax.enable_x64(dtype == np.float64):
        plain, by_lists = map(np.asarray, orders(values, home))
    assert (plain == np.argsort(values, kind="stable")).all()
    assert (by_lists == np.lexsort((np.arange(300), values, home))).all()
