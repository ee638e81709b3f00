"""Sums block by block: what is added up, what is left out, and derivatives of any order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jloss._blocks import block_sum

RNG = np.random.default_rng(0)
ROWS, COLUMNS = RNG.normal(size=(7, 3)), RNG.normal(size=(10, 3))
KINDS, OTHERS = np.arange(7) % 3 + 1, np.arange(10) % 3 + 1  # padding has 0


def block(rows, columns):
    alike = rows[1][0][:, None] == columns[1][0]
    return jnp.where(alike, jnp.tanh(rows[0][0] @ columns[0][0].T), 0.0).sum()


def always(rows, columns):
    return jnp.array(True)


def total(rows, columns, sizes, needed=always):
    return block_sum(block, needed, sizes, ((rows,), (KINDS,)), ((columns,), (OTHERS,)))


def at_once(rows, columns):
    return block(((rows,), (jnp.asarray(KINDS),)), ((columns,), (jnp.asarray(OTHERS),)))


def second_order(function):
    gradient = jax.grad(function, (0, 1))
    return lambda *arguments: (
        function(*arguments),
        gradient(*arguments),
        jax.jacfwd(gradient, (0, 1))(*arguments),
        jax.grad(lambda *x: sum(jnp.sin(g).sum() for g in gradient(*x)), (0, 1))(*arguments),
    )


@functools.cache
def exact():
    return jax.jit(second_order(at_once))(ROWS, COLUMNS)


@pytest.mark.parametrize("sizes", [(4, 3), (1, 100)])
def test_blocks_of_any_size_give_the_sum_and_its_derivatives(sizes):
    with jax.enable_x64(True):
        got = jax.jit(second_order(lambda a, b: total(a, b, sizes)))(ROWS, COLUMNS)
        wanted = exact()
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_blocks_that_are_not_needed_are_left_out():
    def positive(rows, columns):
        return rows[0][0].sum() > 0

    rows, columns = np.where(np.arange(7) < 4, -1.0, 1.0)[:, None] * np.ones((7, 3)), COLUMNS
    function = jax.value_and_grad(lambda a, b: total(a, b, (4, 3), positive))
    value, gradient = jax.jit(function)(rows, columns)
    np.testing.assert_allclose(value, jax.jit(at_once)(np.maximum(rows, 0.0), columns), rtol=1e-5)
    assert not gradient[:4].any() and gradient[4:].all()
