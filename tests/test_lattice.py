"""Scaled numbers against arbitrary precision, at magnitudes that no floating point has."""

import operator

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jloss import _lattice

exp, log, add = map(jax.jit, (_lattice.exp, _lattice.log, _lattice.add))
multiply, roll = map(jax.jit, (_lattice.multiply, jnp.roll))
normalised, balanced, value = map(jax.jit, (_lattice.normalised, _lattice.balanced, _lattice.value))
CONTEXT = mpmath.mp.clone()
CONTEXT.dps = 60
DTYPES = [np.float32, np.float64]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])


@pytest.fixture(autouse=True)
def both_widths():
    with jax.enable_x64(True):
        yield


def logarithms(dtype, seed=0, count=64):
    """From nearly certain to a path of thousands of unlikely frames, and impossible."""
    rng = np.random.default_rng(seed)
    drawn = -(10 ** rng.uniform(-6, 4, count))
    return np.concatenate([drawn, [0.0, -np.inf, 88.7, -87.4, -103.0, -745.2]]).astype(dtype)


def exact(number):
    """A scaled number in arbitrary precision; what is at least as small as the smallest is 0."""
    number = complex(number)
    return CONTEXT.ldexp(CONTEXT.mpf(number.real), int(number.imag)) if number.real else 0


def close(got, wanted, dtype, ulp=4):
    eps = float(np.finfo(dtype).eps)
    return all(abs(a - b) <= ulp * eps * abs(b) for a, b in zip(got, wanted, strict=True))


@every_dtype
def test_an_exponential_has_all_its_digits_at_any_magnitude(dtype):
    x = logarithms(dtype)
    got = [exact(n) for n in np.asarray(exp(jnp.asarray(x)))]
    wanted = [CONTEXT.exp(float(v)) if np.isfinite(v) else CONTEXT.mpf(0) for v in x]
    assert close(got, wanted, dtype)


@every_dtype
def test_the_rest_that_rounding_left_of_a_logarithm_is_counted(dtype):
    rest = 0.25 * np.spacing(dtype(-5000.0))
    got = exact(np.asarray(exp(jnp.asarray(dtype(-5000.0)), jnp.asarray(rest))))
    assert close([got], [CONTEXT.exp(CONTEXT.mpf(-5000) + float(rest))], dtype)


@every_dtype
def test_a_logarithm_undoes_an_exponential(dtype):
    x = logarithms(dtype)
    got = np.asarray(log(exp(jnp.asarray(x))))
    assert got.dtype == dtype
    assert np.allclose(got, x, rtol=4 * np.finfo(dtype).eps, atol=np.finfo(dtype).eps)


@every_dtype
def test_the_logarithm_of_a_number_near_one_loses_nothing_to_its_exponent(dtype):
    near = dtype(1) + np.arange(-9, 10).astype(dtype) * np.finfo(dtype).eps
    halves = jax.lax.complex(jnp.asarray(2 * near), jnp.full(near.shape, -1.0, dtype))
    assert np.allclose(np.asarray(log(halves)), np.log(near), rtol=1e-6, atol=0)


@every_dtype
def test_sums_and_products_are_those_of_the_numbers(dtype):
    a, b, c = (exp(jnp.asarray(logarithms(dtype, seed))) for seed in (1, 2, 3))
    mp_a, mp_b, mp_c = ([exact(n) for n in np.asarray(x)] for x in (a, b, c))
    total, product = np.asarray(add(a, b, c)), np.asarray(multiply(a, b))
    assert close(map(exact, total), map(sum, zip(mp_a, mp_b, mp_c, strict=True)), dtype)
    assert close(map(exact, product), map(operator.mul, mp_a, mp_b), dtype)


@every_dtype
def test_twenty_steps_without_normalisation_lose_no_digits(dtype):
    """As a recursion does: three terms at most, times something up to the square root of 2."""
    rng = np.random.default_rng(4)
    number = exp(jnp.asarray(logarithms(dtype)))
    wanted = [exact(n) for n in np.asarray(number)]
    for step in range(20):
        factor = exp(jnp.asarray(-rng.gamma(1.0, 20.0, number.shape).astype(dtype)))
        others = [roll(number, 1), roll(number, step)]
        number = multiply(add(number, *others), factor)
        rolled = [np.roll(np.array(wanted, object), by) for by in (0, 1, step)]
        factors = [exact(f) for f in np.asarray(factor)]
        wanted = [sum(t) * f for *t, f in zip(*rolled, factors, strict=True)]
    assert close(map(exact, np.asarray(normalised(number))), wanted, dtype, ulp=80)
    mantissa = np.asarray(normalised(number)).real
    assert np.all((mantissa == 0) | ((mantissa >= 1) & (mantissa < 2)))


@every_dtype
def test_balanced_numbers_times_the_others_come_near_one_in_their_own_proportions(dtype):
    numbers = exp(jnp.asarray(logarithms(dtype, 5)))
    others = exp(jnp.asarray(logarithms(dtype, 6)))
    got = np.asarray(value(multiply(balanced(numbers, others), others)))
    products = [
        exact(a) * exact(b) for a, b in zip(*map(np.asarray, (numbers, others)), strict=True)
    ]
    largest = max(products)
    assert 0.25 < got.max() < 4
    wanted = [float(p / largest) for p in products]
    assert np.allclose(got / got.max(), wanted, rtol=1e-6, atol=np.finfo(dtype).tiny)


def test_nan_stays_nan():
    nan = exp(jnp.asarray([np.nan, 0.0]))
    for result in (log(nan), log(add(nan, nan)), value(nan)):
        assert np.isnan(result[0])
        assert np.isfinite(result[1])


def test_derivatives_are_those_of_the_logarithm_of_a_sum():
    x = jnp.asarray([-3000.0, -3001.0, -2999.5])

    def scaled(x):
        return log(add(*exp(x)))

    @jax.jit
    def derivatives(x):
        return [(jax.grad(f)(x), jax.hessian(f)(x)) for f in (scaled, jax.nn.logsumexp)]

    (gradient, hessian), (_, exact) = derivatives(x)
    assert np.allclose(gradient, jax.nn.softmax(x), rtol=1e-12)
    assert np.allclose(hessian, exact, rtol=1e-11)
