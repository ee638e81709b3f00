"""Training: a state and one update of it. Knows no loss, no data and no plot."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jloss.average import Average
from jloss.objective import Objective, call

if TYPE_CHECKING:  # optax costs more to import than jloss does
    import optax

Tree = TypeVar("Tree")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """What training changes: a pytree, with the optimizer riding along as static metadata.

    Attributes:
      params: the model's parameters, any pytree of floating arrays.
      opt_state: what the optimizer remembers.
      step: how many updates were tried.
      skipped: how many of them were not made, because something in them was not finite.
      optimizer: the optax optimizer. Two states share compiled programs if it is the same object.
    """

    params: Any
    opt_state: Any
    step: Array
    skipped: Array
    optimizer: "optax.GradientTransformation" = field(metadata={"static": True})


def init(params: Any, optimizer: "optax.GradientTransformation") -> State:
    """A state to start training from; ``params`` are copied and stay yours.

    Args:
      params: the model's parameters, any pytree of floating arrays.
      optimizer: from optax, as in ``optax.adam(1e-3)``.

    Returns:
      A `State` at step 0.

    Raises:
      ValueError: the params are empty.
      TypeError: a leaf of them is not a floating array, or the optimizer is none.

    >>> state = jloss.init({"slope": jnp.array(1.0)}, optax.sgd(0.1))
    >>> int(state.step), state.params
    (0, {'slope': Array(1., dtype=float32)})
    """
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"init: optimizer must be one of optax, as in optax.adam(1e-3), not {optimizer!r}"
        )
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError(f"init: params hold no arrays, there is nothing to train: {params!r}")
    for path, leaf in leaves:
        kind = getattr(leaf, "dtype", type(leaf))
        if not jnp.issubdtype(kind, np.floating):
            raise TypeError(
                f"init: params{jax.tree_util.keystr(path)} is {kind}; a gradient needs floating "
                "arrays. Keep what is not trained out of params"
            )
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), params)
    zero = jnp.zeros((), jnp.int32)
    # Copied as a whole: some optimizers keep params in their state, and nothing is donated twice.
    return copied(State(params, optimizer.init(params), zero, zero, optimizer))


def step(objective: Objective) -> Callable[[State, Any], tuple[State, Average]]:
    """One update of a state by the gradient of an objective, compiled once for all calls.

    An update with a loss, a gradient or a new parameter that is not finite is not made: params
    and optimizer stay as they were, and ``state.skipped`` counts it.

    Args:
      objective: ``objective(params, batch) -> Average``.

    Returns:
      ``update(state, batch) -> (state, average)``, pure and jitted. The memory of the state that
      goes in is reused for the one that comes out (donated): go on with the new one.

    Raises:
      TypeError: when called, where the objective does not return an `Average`.

    >>> square = lambda params, batch: jloss.average((params * batch) ** 2)
    >>> update = jloss.step(square)
    >>> state, before = update(jloss.init(jnp.array(1.0), optax.sgd(0.25)), jnp.ones(3))
    >>> float(before.value), float(state.params)
    (1.0, 0.5)
    """
    return partial(_update, objective)


# The programs: compiled once per objective, optimizer and shapes, for all fits of a process.


@jax.jit
def copied(tree: Tree) -> Tree:
    """Fresh memory for every leaf; no weak types, which would compile the first update twice."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, leaf.dtype, copy=True), tree)


@partial(jax.jit, static_argnames=("objective",), donate_argnames=("state",))
def _update(objective: Objective, state: State, batch: Any) -> tuple[State, Average]:
    return advance(objective, state, batch)


def advance(objective: Objective, state: State, batch: Any) -> tuple[State, Average]:
    """One update, to be traced."""
    import optax

    def loss(params: Any) -> tuple[Array, Average]:
        average, _ = call(objective, params, batch)
        return average.value, average

    (value, average), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    # Line searches, second-order and sharpness-aware optimizers want more than the gradient.
    wanted = _context(
        state.optimizer,
        value=value,
        grad=grads,
        batch=batch,
        # optax's line searches refuse what their value_fn does not name.
        value_fn=lambda params, batch=None, grad_fn=None: loss(params)[0],
        grad_fn=lambda params, _: jax.grad(loss, has_aux=True)(params)[0],
    )
    updates, opt_state = state.optimizer.update(grads, state.opt_state, state.params, **wanted)
    params = optax.apply_updates(state.params, updates)
    finite = _all_finite((value, grads, params))
    old, new = (state.params, state.opt_state), (params, opt_state)
    params, opt_state = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
    skipped = state.skipped + jnp.where(finite, 0, 1)
    return replace(
        state, params=params, opt_state=opt_state, step=state.step + 1, skipped=skipped
    ), average


def _context(optimizer: "optax.GradientTransformation", **context: Any) -> dict[str, Any]:
    """Of the context that which the optimizer's update names, or all if it takes any."""
    parameters = inspect.signature(optimizer.update).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return context
    return {name: entry for name, entry in context.items() if name in parameters}


def _all_finite(tree: Any) -> Array:
    return reduce(jnp.logical_and, [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)])
