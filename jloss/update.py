"""Training: a state and one update of it. Knows no loss, no data and no plot."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh

from jloss._gradient import gradient, leading
from jloss.average import Average
from jloss.objective import Objective, term_gradients
from jloss.precision import LossScale
from jloss.sharding import split

if TYPE_CHECKING:  # optax costs more to import than jloss does
    import optax

Tree = TypeVar("Tree")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ema:
    r"""An exponential moving average of the params after each update that was made.

    .. math:: \bar\theta_n = \frac{\sum_{i=1}^n d^{n-i} \theta_i}{\sum_{i=1}^n d^{n-i}}

    so that no weight is on where training started, however early one looks.

    Attributes:
      params: the average.
      weight: the sum above below the fraction, times 1 - d; it tends to 1.
      decay: the d above.
    """

    params: Any
    weight: Array
    decay: Array

    def after(self, params: Any) -> "Ema":
        """The average with new params in it."""
        import optax

        weight = self.decay * self.weight + (1 - self.decay)
        share = (1 - self.decay) / weight
        return Ema(optax.incremental_update(params, self.params, share), weight, self.decay)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, init=False)
class State:
    """What training changes: a pytree, with the optimizer riding along as static metadata.

    Attributes:
      params: the model's parameters, any pytree of floating arrays.
      opt_state: what the optimizer remembers.
      step: how many updates were tried.
      skipped: how many of them were not made, because loss or gradient was not finite.
      model_state: what the model changes by itself, as the statistics of a batch normalisation;
        any pytree of arrays, or None.
      key: what the keys of the updates are drawn from, or None.
      ema: an average of the params over the updates, or None: ``state.ema.params``.
      loss_scale: what keeps float16 gradients from underflow, or None.
      optimizer: the optax optimizer. Two states share compiled programs if it is the same object.
      mesh: the devices that `shard` put it on, or None.
    """

    params: Any
    opt_state: Any
    step: Array
    skipped: Array
    model_state: Any
    key: Array | None
    ema: Ema | None
    loss_scale: LossScale | None
    optimizer: "optax.GradientTransformation" = field(metadata={"static": True})
    mesh: Mesh | None = field(default=None, metadata={"static": True})

    def __init__(self, **entries: Any):
        # That of a frozen dataclass takes three times as long, once for each update.
        self.__dict__.update(entries)


def init(
    params: Any,
    optimizer: "optax.GradientTransformation",
    *,
    model_state: Any = None,
    key: Array | None = None,
    ema: float | None = None,
    loss_scale: float | None = None,
) -> State:
    """A state to start training from; what goes in is copied and stays yours.

    Args:
      params: the model's parameters, any pytree of floating arrays.
      optimizer: from optax, as in ``optax.adam(1e-3)``.
      model_state: what the model changes by itself while it is trained. The objective gets it if
        its signature names it, and returns the new one in `Aux`.
      key: for objectives that name one (dropout). Each update draws its own from it.
      ema: the decay of an average of the params over the updates, as in 0.999.
      loss_scale: what the loss is multiplied by at first before it is differentiated, for models
        in float16, as in ``2.0**15``; see `mixed_precision`.

    Returns:
      A `State` at step 0.

    Raises:
      ValueError: the params are empty, or a number is out of its range.
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
    # Traced in a sweep of whole fits, where a number is not known yet.
    if isinstance(ema, (int, float)) and not 0 <= ema < 1:
        raise ValueError(f"init: ema is the decay of an average, from 0 to below 1, not {ema}")
    if isinstance(loss_scale, (int, float)) and not loss_scale >= 1:
        raise ValueError(f"init: loss_scale must be at least 1, not {loss_scale}")
    params, model_state = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), (params, model_state)
    )
    zero, real = jnp.zeros((), jnp.int32), jnp.zeros(())
    state = State(
        params=params,
        opt_state=optimizer.init(params),
        step=zero,
        skipped=zero,
        model_state=model_state,
        key=key,
        ema=None if ema is None else Ema(params, real, real + ema),
        loss_scale=None if loss_scale is None else LossScale(real + loss_scale, zero, zero),
        optimizer=optimizer,
    )
    # Copied as a whole: some optimizers keep params in their state, and nothing is donated twice.
    return copied(state)


def step(
    objective: Objective, *, microbatches: int = 1
) -> Callable[[State, Any], tuple[State, Average]]:
    """One update of a state by the gradient of an objective, compiled once for all calls.

    An update whose loss or gradient is not finite is not made: params, optimizer and model state
    stay as they were, and ``state.skipped`` counts it. (Should the optimizer overflow, the loss
    after it tells, and `fit` ends.)

    Args:
      objective: ``objective(params, batch) -> Average``, or ``(Average, Aux)``. Of the arguments
        ``model_state``, ``key`` (the update's own) and ``step`` it is given what it names.
      microbatches: the rows of a batch are cut into so many parts, and only one at a time is in
        memory. Their gradients add up to that of the whole batch, however unequally rows are masked
        or weighted, if the weights do not depend on the params and the loss on no two rows.

    Returns:
      ``update(state, batch) -> (state, average)``, pure and jitted. The memory of the state that
      goes in is reused for the one that comes out (donated): go on with the new one.

    Raises:
      TypeError: when called, where the objective does not return an `Average`, or a model state
        of another kind than it was given.
      ValueError: when called, where the optimizer's state does not belong to the params, or the
        rows cannot be cut into so many equal parts.

    >>> square = lambda params, batch: jloss.average((params * batch) ** 2)
    >>> update = jloss.step(square)
    >>> state, before = update(jloss.init(jnp.array(1.0), optax.sgd(0.25)), jnp.ones(3))
    >>> float(before.value), float(state.params)
    (1.0, 0.5)
    """
    return partial(_update, objective, microbatches)


def steps(
    objective: Objective, *, microbatches: int = 1
) -> Callable[[State, Any], tuple[State, Average]]:
    """Many updates in one dispatch, one for each of the batches stacked along a leading axis.

    A small model's update takes less time than its dispatch, which is saved here: prefer it where
    an update takes less than a millisecond. On a processor, XLA's convolutions are several times
    slower within such a loop: there, prefer `step` for convolutional networks.

    Args:
      objective: as of `step`.
      microbatches: as of `step`.

    Returns:
      ``updates(state, batches) -> (state, averages)``, with the averages stacked like the batches;
      else as `step`.

    Raises:
      TypeError: as of `step`.
      ValueError: as of `step`, or where the batches are not as many in every array.

    >>> square = lambda params, batch: jloss.average((params * batch) ** 2)
    >>> updates = jloss.steps(square)
    >>> state, before = updates(jloss.init(jnp.array(1.0), optax.sgd(0.25)), jnp.ones((2, 3)))
    >>> before.value, float(state.params)
    (Array([1.  , 0.25], dtype=float32), 0.25)
    """
    return partial(_updates, objective, microbatches)


# The programs: compiled once per objective, optimizer and shapes, for all fits of a process.


def copied(tree: Tree) -> Tree:
    """Fresh memory for every leaf; no weak types, which would compile the first update twice."""
    # Not the tree, whose optimizer may know of a learning rate that is traced, and would be kept.
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten(_copied(leaves))


@jax.jit
def _copied(leaves: list[Array]) -> list[Array]:
    return [jnp.array(leaf, leaf.dtype, copy=True) for leaf in leaves]


@partial(jax.jit, static_argnames=("objective", "microbatches"), donate_argnames=("state",))
def _update(
    objective: Objective, microbatches: int, state: State, batch: Any
) -> tuple[State, Average]:
    return advance(objective, state, batch, microbatches)


@partial(jax.jit, static_argnames=("objective", "microbatches"), donate_argnames=("state",))
def _updates(
    objective: Objective, microbatches: int, state: State, batches: Any
) -> tuple[State, Average]:
    leading("steps", batches)
    return lax.scan(
        lambda state, batch: advance(objective, state, batch, microbatches), state, batches
    )


def advance(
    objective: Objective, state: State, batch: Any, microbatches: int = 1
) -> tuple[State, Any]:
    """One update, to be traced."""
    import optax

    _check_opt_state(state)
    batch = split(batch, state.mesh)
    key = None if state.key is None else jax.random.fold_in(state.key, state.step)
    context = {"model_state": state.model_state, "key": key, "step": state.step}
    scale = 1.0 if state.loss_scale is None else state.loss_scale.value
    on_batch = gradient(objective, batch, microbatches=microbatches, scale=scale, **context)
    (value, found), grads = on_batch.value_and_grad(state.params)
    # Line searches, second-order and sharpness-aware optimizers want more than the gradient.
    wanted = wanted_by(
        state.optimizer,
        value=value,
        grad=grads,
        batch=batch,
        # optax's line searches refuse what their value_fn does not name.
        value_fn=lambda params, batch=None, grad_fn=None, terms=None: on_batch.value(params),
        grad_fn=lambda params, _: on_batch.value_and_grad(params)[1],
        terms=partial(term_gradients, objective, state.params, batch, **context),
    )

    def made() -> State:
        updates, opt_state = state.optimizer.update(grads, state.opt_state, state.params, **wanted)
        params = optax.apply_updates(state.params, updates)
        new = replace(
            state,
            params=params,
            opt_state=opt_state,
            model_state=found.model_state,
            ema=None if state.ema is None else state.ema.after(params),
        )
        # Some optimizers return other types than they were given.
        return jax.tree.map(_like, new, state)

    finite = all_finite((value, grads))
    kept = _if(finite, made, state)
    next_scale = None
    if state.loss_scale is not None:
        next_scale = state.loss_scale.after(finite, overflow=~finite & jnp.isfinite(value))
    skipped = state.skipped + jnp.where(finite, 0, 1)
    return replace(kept, step=state.step + 1, skipped=skipped, loss_scale=next_scale), found.average


def _like(leaf: Array, old: Array) -> Array:
    return leaf if leaf.dtype == old.dtype else leaf.astype(old.dtype)


def _if(chosen: Array, made: Callable[[], State], old: State) -> State:
    # On a processor a branch writes what it makes over what was; an accelerator would have to wait
    # for the processor to take it, and makes a selection on the way.
    if jax.default_backend() != "cpu":
        return jax.tree.map(partial(jnp.where, chosen), made(), old)
    if is_convolutional(old):  # some optimizers take gradients
        new = made()
        return lax.cond(chosen, lambda: new, lambda: old)
    return lax.cond(chosen, made, lambda: old)


def is_convolutional(state: State) -> bool:
    """Whether a kernel has three axes or more, on a processor.

    Within loops and branches XLA's processor backend takes several times as long for the gradient
    of a convolution.
    """
    kernels = any(leaf.ndim > 2 for leaf in jax.tree.leaves(state.params))
    return kernels and jax.default_backend() == "cpu"


def tried_and_bad(state: State) -> tuple[int, int]:
    """How many updates were tried, and how many skipped for another cause than the loss scale."""
    overflows = 0 if state.loss_scale is None else int(state.loss_scale.overflows)
    return int(state.step), int(state.skipped) - overflows


def _check_opt_state(state: State) -> None:
    """Refuses what another model or optimizer left behind, naming the first place that differs."""
    expected, found = (
        {
            jax.tree_util.keystr(path): jnp.shape(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (jax.eval_shape(state.optimizer.init, state.params), state.opt_state)
    )
    for place in expected | found:
        if expected.get(place) != found.get(place):
            raise ValueError(
                f"step: the optimizer's state does not belong to these params: opt_state{place} "
                f"is {found.get(place, 'missing')}, but should be "
                f"{expected.get(place, 'missing')}; make a state by jloss.init(params, optimizer)"
            )


def wanted_by(optimizer: "optax.GradientTransformation", **context: Any) -> dict[str, Any]:
    """Of the context that which the optimizer's update names, or all if it takes any."""
    parameters = inspect.signature(optimizer.update).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return context
    return {name: entry for name, entry in context.items() if name in parameters}


def all_finite(tree: Any) -> Array:
    """Whether all entries of all arrays are."""
    leaves = jax.tree.leaves(tree)
    if jax.default_backend() == "cpu":
        # 0 * inf is NaN, and XLA's products use all of a processor, which its reductions do not.
        # (Elsewhere a product may round the largest numbers to inf.)
        leaves = [jnp.atleast_1d(leaf) for leaf in leaves]
        leaves = [jnp.sum(leaf @ jnp.zeros(leaf.shape[-1], leaf.dtype)) for leaf in leaves]
    return reduce(jnp.logical_and, [jnp.all(jnp.isfinite(leaf)) for leaf in leaves])


finite_now = jax.jit(all_finite)  # for whoever asks between programs
