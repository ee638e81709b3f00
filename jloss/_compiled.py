"""One program for a loss that is called on arrays, instead of one for each operation in it.

Called outside of any `jax.jit`, JAX compiles and dispatches operations one by one: a call takes
milliseconds instead of microseconds, a first one seconds.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax import Array
from jax.core import Tracer

Loss = TypeVar("Loss", bound=Callable[..., Any])


def compiled(loss: Loss) -> Loss:
    """The same function, whose calls on arrays are compiled.

    Numbers with a point are traced. Whole numbers, axes, flags and words are static. Where anything
    else is given, or something that is traced already, the function is called as it is.
    """
    code = loss.__code__
    names = code.co_varnames[: code.co_argcount]

    @functools.wraps(loss)
    def call(*positional: Any, **named: Any) -> Any:
        given = dict(zip(names, positional, strict=False))
        simple = len(given) == len(positional) and given.keys().isdisjoint(named)
        given |= named
        static = tuple(name for name, value in given.items() if _is_static(value))
        if simple and all(_is_array(value) for name, value in given.items() if name not in static):
            return _program(loss, static)(**given)
        return loss(*positional, **named)

    return cast(Loss, call)


@functools.cache
def _program(loss: Callable[..., Any], static: tuple[str, ...]) -> Callable[..., Any]:
    return jax.jit(loss, static_argnames=static)


def _is_static(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(isinstance(part, int) for part in value)
    return value is None or isinstance(value, (int, str))


def _is_array(value: Any) -> bool:
    """So is a tuple of arrays, which a loss has for its parameters."""
    if isinstance(value, tuple):
        return all(part is None or _is_array(part) for part in value)
    if isinstance(value, Array):
        return not isinstance(value, Tracer)
    return isinstance(value, float) or (
        isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind not in "OSUMm"
    )
