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
from jloss.objective import Objective, call, term_gradients

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
      model_state: what the model changes by itself, as the statistics of a batch normalisation;
        any pytree of arrays, or None.
      key: what the keys of the updates are drawn from, or None.
      optimizer: the optax optimizer. Two states share compiled programs if it is the same object.
    """

    params: Any
    opt_state: Any
    step: Array
    skipped: Array
    model_state: Any
    key: Array | None
    optimizer: "optax.GradientTransformation" = field(metadata={"static": True})


def init(
    params: Any,
    optimizer: "optax.GradientTransformation",
    *,
    model_state: Any = None,
    key: Array | None = None,
) -> State:
    """A state to start training from; what goes in is copied and stays yours.

    Args:
      params: the model's parameters, any pytree of floating arrays.
      optimizer: from optax, as in ``optax.adam(1e-3)``.
      model_state: what the model changes by itself while it is trained. The objective gets it if
        its signature names it, and returns the new one in `Aux`.
      key: for objectives that name one (dropout). Each update draws its own from it.

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
    params, model_state = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), (params, model_state)
    )
    zero = jnp.zeros((), jnp.int32)
    # Copied as a whole: some optimizers keep params in their state, and nothing is donated twice.
    return copied(State(params, optimizer.init(params), zero, zero, model_state, key, optimizer))


def step(objective: Objective) -> Callable[[State, Any], tuple[State, Average]]:
    """One update of a state by the gradient of an objective, compiled once for all calls.

    An update with a loss, a gradient or a new parameter that is not finite is not made: params,
    optimizer and model state stay as they were, and ``state.skipped`` counts it.

    Args:
      objective: ``objective(params, batch) -> Average``, or ``(Average, Aux)``. Of the arguments
        ``model_state``, ``key`` (the update's own) and ``step`` it is given what it names.

    Returns:
      ``update(state, batch) -> (state, average)``, pure and jitted. The memory of the state that
      goes in is reused for the one that comes out (donated): go on with the new one.

    Raises:
      TypeError: when called, where the objective does not return an `Average`, or a model state
        of another kind than it was given.

    >>> square = lambda params, batch: jloss.average((params * batch) ** 2)
    >>> update = jloss.step(square)
    >>> state, before = update(jloss.init(jnp.array(1.0), optax.sgd(0.25)), jnp.ones(3))
    >>> float(before.value), float(state.params)
    (1.0, 0.5)
    """
    return partial(_update, objective)


# The programs: compiled once per objective, optimizer and shapes, for all fits of a process.


def copied(tree: Tree) -> Tree:
    """Fresh memory for every leaf; no weak types, which would compile the first update twice."""
    # Not the tree, whose optimizer may know of a learning rate that is traced, and would be kept.
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten(_copied(leaves))


@jax.jit
def _copied(leaves: list[Array]) -> list[Array]:
    return [jnp.array(leaf, leaf.dtype, copy=True) for leaf in leaves]


@partial(jax.jit, static_argnames=("objective",), donate_argnames=("state",))
def _update(objective: Objective, state: State, batch: Any) -> tuple[State, Average]:
    return advance(objective, state, batch)


def advance(objective: Objective, state: State, batch: Any) -> tuple[State, Average]:
    """One update, to be traced."""
    import optax

    key = None if state.key is None else jax.random.fold_in(state.key, state.step)

    context = {"model_state": state.model_state, "key": key, "step": state.step}

    def loss(params: Any) -> tuple[Array, tuple[Average, Any]]:
        average, aux = call(objective, params, batch, **context)
        return average.value, (average, _like(state.model_state, aux.model_state))

    grad = jax.value_and_grad(loss, has_aux=True)
    (value, (average, model_state)), grads = grad(state.params)
    # Line searches, second-order and sharpness-aware optimizers want more than the gradient.
    wanted = _context(
        state.optimizer,
        value=value,
        grad=grads,
        batch=batch,
        # optax's line searches refuse what their value_fn does not name.
        value_fn=lambda params, batch=None, grad_fn=None, terms=None: loss(params)[0],
        grad_fn=lambda params, _: jax.grad(loss, has_aux=True)(params)[0],
        terms=partial(term_gradients, objective, state.params, batch, **context),
    )
    updates, opt_state = state.optimizer.update(grads, state.opt_state, state.params, **wanted)
    params = optax.apply_updates(state.params, updates)
    finite = _all_finite((value, grads, params))
    new = replace(state, params=params, opt_state=opt_state, model_state=model_state)
    kept = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, state)
    skipped = state.skipped + jnp.where(finite, 0, 1)
    return replace(kept, step=state.step + 1, skipped=skipped), average


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


def _context(optimizer: "optax.GradientTransformation", **context: Any) -> dict[str, Any]:
    """Of the context that which the optimizer's update names, or all if it takes any."""
    parameters = inspect.signature(optimizer.update).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return context
    return {name: entry for name, entry in context.items() if name in parameters}


def _all_finite(tree: Any) -> Array:
    return reduce(jnp.logical_and, [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)])
