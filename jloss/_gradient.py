"""The gradient of an objective on a batch, taken whole or in parts that add up exactly."""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jloss.objective import Objective, call


class Found(NamedTuple):
    """What one pass over a batch finds beside the gradient."""

    average: Any
    model_state: Any


class Gradient(NamedTuple):
    """The value of an objective on a batch, and its gradient, as functions of the params.

    Attributes:
      value: ``value(params) -> Array``.
      value_and_grad: ``value_and_grad(params) -> ((value, Found), gradient)``.
    """

    value: Callable[[Any], Array]
    value_and_grad: Callable[[Any], tuple[tuple[Array, Found], Any]]


def gradient(
    objective: Objective,
    batch: Any,
    *,
    microbatches: int = 1,
    scale: Array | float = 1.0,
    model_state: Any = None,
    key: Array | None = None,
    step: Array | None = None,
) -> Gradient:
    """The objective on this batch; ``scale`` multiplies the loss on the way only."""

    def averaged(params: Any, part: Any, key: Array | None, model_state: Any) -> tuple[Any, Any]:
        try:
            average, aux = call(
                objective, params, part, model_state=model_state, key=key, step=step
            )
        except (TypeError, ValueError) as error:
            shapes = jax.tree.map(jnp.shape, part)
            error.add_note(f"jloss: the objective was given a batch of the shapes {shapes}")
            raise
        return average, _like(model_state, aux.model_state)

    def differentiated(
        params: Any, part: Any, key: Array | None, model_state: Any, whole: Any = None
    ) -> tuple[Found, Any]:
        def share(params: Any) -> tuple[Array, Found]:
            average, new = averaged(params, part, key, model_state)
            value = average.value if whole is None else average.part_of(whole)
            return value * scale, Found(average, new)

        grads, found = jax.grad(share, has_aux=True)(params)
        return found, jax.tree.map(lambda leaf: leaf / scale, grads)

    if microbatches == 1:

        def value_and_grad(params: Any) -> tuple[tuple[Array, Found], Any]:
            found, grads = differentiated(params, batch, key, model_state)
            return (found.average.value, found), grads

        return Gradient(lambda p: averaged(p, batch, key, model_state)[0].value, value_and_grad)

    cut = (_cut(batch, microbatches), _keys(key, microbatches))

    def total(params: Any) -> Any:
        """The average over all parts. Where only its weights are used, no model is computed."""
        _, parts = lax.scan(
            lambda _, cut: (None, averaged(params, *cut, model_state)[0]), None, cut
        )
        return _summed(parts)

    def accumulated(params: Any) -> tuple[tuple[Array, Found], Any]:
        whole = total(params)

        def body(carry: tuple[Any, Any], cut: tuple[Any, Any]) -> tuple[tuple[Any, Any], Any]:
            grads, model_state = carry
            found, more = differentiated(params, *cut, model_state, whole)
            return (jax.tree.map(operator.add, grads, more), found.model_state), found.average

        # Half-precision params would lose what is added to them in their own precision.
        zeros = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32)), params
        )
        (grads, new), parts = lax.scan(body, (zeros, model_state), cut)
        average = _summed(parts)
        grads = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), grads, params)
        return (average.value, Found(average, new)), grads

    return Gradient(lambda params: total(params).value, accumulated)


def leading(name: str, tree: Any) -> int:
    """The length of the axis that all arrays have first.

    Raises:
      ValueError: there is none, or there are several.
    """
    rows = {
        jax.tree_util.keystr(path): jnp.shape(leaf)[0] if jnp.ndim(leaf) else "none"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    if len(set(rows.values())) != 1 or "none" in rows.values():
        found = ", ".join(f"batch{place} has {count}" for place, count in rows.items())
        raise ValueError(
            f"{name}: every array of the batch needs the same leading axis: {found or 'no arrays'}"
        )
    return int(next(iter(rows.values())))


def _cut(batch: Any, microbatches: int) -> Any:
    """The rows as a stack of microbatches, of which each takes every so manieth row."""
    rows = leading("step", batch)
    if microbatches < 1 or rows % microbatches:
        raise ValueError(
            f"step: {rows} rows cannot be cut into {microbatches} equal microbatches; "
            "choose a divisor, or fill up with rows that a mask `where` hides"
        )
    # Not neighbours: of rows that are spread over devices, each device keeps some in every part.
    shape = (rows // microbatches, microbatches)
    return jax.tree.map(
        lambda leaf: jnp.moveaxis(jnp.reshape(leaf, (*shape, *jnp.shape(leaf)[1:])), 1, 0), batch
    )


def _keys(key: Array | None, count: int) -> Array | None:
    return None if key is None else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))


def _summed(parts: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), parts)


def _like(old: Any, new: Any) -> Any:
    """The model state that an objective returned, of the old one's types; the old one if none."""
    if new is None:
        return old
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (old, new)]
    if shapes[0] != shapes[1]:
        raise TypeError(
            f"step: the objective returned a model state of the shapes {shapes[1]}, but was given "
            f"{shapes[0]}; the first one goes into jloss.init(params, optimizer, model_state=...)"
        )
    return jax.tree.map(lambda o, n: jnp.asarray(n, o.dtype), old, new)
