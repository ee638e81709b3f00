"""Numbers of any magnitude, for sums over all paths through a lattice (CTC, CRF, transducers).

A path's probability is a product over hundreds of frames: too small for floating point, and its
logarithm, some thousands, has lost the digits that tell one path from another. A *scaled* number
keeps them: beside the mantissa it has an exponent of its own, so that nothing underflows, and to
multiply and to add takes no exponential. Which paths there are is the business of each loss.

An array of scaled numbers is a complex array with the mantissas for its real and the exponents for
its imaginary parts: what XLA computes together has to be one array, and every step of a recursion
costs by the number of arrays it writes. Indexing, padding with `ZERO` and `jnp.where` work as ever.
"""

from functools import reduce

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

# The exponent of 0. Exponents are whole numbers in floating point: exact up to 2**24 in float32 and
# rounded beyond that, as any logarithm is, where integers would wrap around.
_NOTHING = -(2.0**120)
ZERO = complex(0.0, _NOTHING)
_LOG2_E = 1.4426950408889634
# log(2) in two parts: a whole number below 2**14 times the first is exact.
_LOG_2 = {
    "float32": (0.693359375, -2.12194440e-4),
    "float64": (6.93147180369123816490e-01, 1.90821492927058770002e-10),
}


def indicator(flags: Array, dtype: jnp.dtype) -> Array:
    """1 where a flag is set, else 0."""
    return lax.complex(flags.astype(dtype), jnp.where(flags, 0.0, _NOTHING).astype(dtype))


def add(*terms: Array) -> Array:
    """The sum. Mantissas must lie from 2**-20 to 2**40 or so, as after `normalised`."""
    pairs = [_parts(term) for term in terms]
    exponent = reduce(_larger, (e for _, e in pairs))
    mantissa = reduce(jnp.add, (m * _power_of_2(e - exponent) for m, e in pairs))
    return lax.complex(mantissa, exponent)


def multiply(a: Array, b: Array) -> Array:
    """The product. Mantissas are multiplied as they are."""
    (m, e), (n, f) = _parts(a), _parts(b)
    return lax.complex(m * n, _larger(e + f, _NOTHING))


def normalised(number: Array) -> Array:
    """The same number with a mantissa from 1 to 2, or 0: needed once in some twenty steps."""
    mantissa, exponent = _parts(number)
    shift = _whole_log2(mantissa)
    return lax.complex(mantissa * _power_of_2(-shift), _larger(exponent + shift, _NOTHING))


def balanced(numbers: Array, others: Array) -> Array:
    """The numbers over one power of 2, which brings the largest ``numbers * others`` near 1."""
    mantissa, exponent = _parts(numbers)
    largest = (exponent + _parts(others)[1]).max(0)
    return lax.complex(mantissa, _larger(exponent - largest, _NOTHING))


def value(number: Array) -> Array:
    """The number in floating point, where it may underflow to 0; nothing beyond 2**64 or so."""
    mantissa, exponent = _parts(number)
    return mantissa * _power_of_2(jnp.where(exponent < 64.0, exponent, 64.0))


def exp(logarithm: Array, rest: ArrayLike = 0.0) -> Array:
    """``exp(logarithm + rest)`` for a small rest, with all its digits at any magnitude."""
    possible = ~(logarithm <= _NOTHING)  # NaN goes on
    logarithm = jnp.where(possible, logarithm, 0.0)
    fixed = lax.stop_gradient(logarithm)
    whole = jnp.round(fixed * _LOG2_E)
    high, low = _LOG_2[logarithm.dtype.name]
    # So far out the logarithm has no digits behind the point; all that is left is its derivative.
    part = jnp.where(jnp.abs(whole) < 2.0**20, fixed - whole * high - whole * low + rest, 0.0)
    mantissa = jnp.exp(part + (logarithm - fixed))
    return lax.complex(jnp.where(possible, mantissa, 0.0), jnp.where(possible, whole, _NOTHING))


def log(number: Array) -> Array:
    """The logarithm, minus infinity for 0. A number near 1 loses nothing to its exponent."""
    mantissa, exponent = _parts(number)
    positive = jnp.where(mantissa == 0, 1.0, mantissa)
    shift = _whole_log2(positive * 2.0**0.5)
    high, low = _LOG_2[mantissa.dtype.name]
    exponent += shift
    logarithm = jnp.log(positive * _power_of_2(-shift)) + exponent * low + exponent * high
    return jnp.where(mantissa == 0, -jnp.inf, logarithm)


def _parts(number: Array) -> tuple[Array, Array]:
    """Mantissa and exponent; the latter is constant to any derivative."""
    return jnp.real(number), lax.stop_gradient(jnp.imag(number))


def _larger(a, b):
    """The larger of two; several times faster than `jnp.maximum`, which must respect NaN."""
    return jnp.where(a > b, a, b)


def _whole_log2(mantissa: Array) -> Array:
    """``floor(log2(mantissa))``, read off the bits."""
    bits, digits, bias = _format(mantissa.dtype)
    exponent = lax.bitcast_convert_type(mantissa, bits) >> digits
    return (exponent - bias).astype(mantissa.dtype)


def _power_of_2(exponent: Array) -> Array:
    """``2**exponent`` for a whole number, written as bits; 0 where it is too small."""
    bits, digits, bias = _format(exponent.dtype)
    # Added to 2**digits, a whole number stands in the lowest bits; a conversion is far slower.
    biased = _larger(exponent, -bias) + (2.0**digits + bias)
    return lax.bitcast_convert_type(
        lax.bitcast_convert_type(biased, bits) << digits, exponent.dtype
    )


def _format(dtype) -> tuple[jnp.dtype, int, int]:
    """The integer of the same width, the digits of the mantissa and the bias of the exponent."""
    info = jnp.finfo(dtype)
    return jnp.dtype(f"int{info.bits}"), info.nmant, info.maxexp - 1
