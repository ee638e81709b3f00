"""What must hold of an array: nothing in a plain program, an error under
`jax.experimental.checkify`.

`checkify.debug_check` does the same, but as an effect, and JAX takes ten times as long to dispatch
a small program that has effects, and cannot export it. This is a primitive without any.
"""

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.interpreters import batching, mlir

if TYPE_CHECKING:  # jax.extend takes as long to import as all of jloss
    from jax.extend.core import Primitive


def holds(inside: Array, array: Array, message: str) -> Array:
    """``inside`` as it is; under checkify an error where it is not true everywhere.

    ``message`` has ``{index}`` and ``{found}`` for the first place and the entry of ``array``
    there, which has one for each of ``inside``.
    """
    # No derivative passes, so that the primitive needs no rule for any.
    return _primitive().bind(inside, jax.lax.stop_gradient(array), message=message)


@functools.cache
def _primitive() -> "Primitive":
    # The register of rules is not public.
    from jax._src import checkify
    from jax.extend.core import Primitive

    primitive = Primitive("holds")
    primitive.def_impl(_unchanged)
    primitive.def_abstract_eval(_unchanged)
    mlir.register_lowering(primitive, lambda _, inside, array, *, message: [inside])
    batching.primitive_batchers[primitive] = _batched
    checkify.error_checks[primitive] = _checked
    return primitive


def _unchanged(inside: Any, array: Any, *, message: str) -> Any:
    return inside


def _batched(arrays: Any, axes: Any, *, message: str) -> tuple[Array, int]:
    size = next(
        array.shape[axis] for array, axis in zip(arrays, axes, strict=True) if axis is not None
    )
    both = map(batching.bdim_at_front, arrays, axes, (size, size))
    return _primitive().bind(*both, message=message), 0


def _checked(*given: Any, message: str) -> tuple[Any, Array]:
    """The rule of checkify: what its own check does, for which it has a rule."""
    from jax._src import checkify

    # Newer versions of JAX have a context before these.
    *context, error, enabled, inside, array = given

    def check(inside: Array, array: Array) -> None:
        first = jnp.argmin(inside)
        checkify.debug_check(
            jnp.all(inside),
            message,
            index=jnp.stack(jnp.unravel_index(first, inside.shape)) if inside.ndim else first,
            found=jnp.take(array, first) if array.ndim else array,
        )

    program = jax.make_jaxpr(check)(inside, array)
    error, _ = checkify.checkify_jaxpr(*context, program, enabled, error, inside, array)
    return error, inside
