"""A whole fit as one program, to be traced: what `jloss.fit` is within a sweep, vmap or jit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import eval_context
from jax.extend.core import get_opaque_trace_state

from jloss.update import State

Epoch = Callable[[State], tuple[State, dict[str, Array]]]


class _Run(NamedTuple):
    """Where a fit stands: what the loop over epochs carries.

    Attributes:
      state: after the last epoch.
      epoch: the number of those that are done.
      history: their entries; NaN beyond them.
      best: the smallest validation loss, and the number of its epoch; infinity and -1 if none.
      best_model: params and model state of that epoch, or None without validation.
    """

    state: State
    epoch: Array
    history: dict[str, Array]
    best: tuple[Array, Array]
    best_model: Any


def tracing() -> bool:
    """Whether anything is being traced, so that values are not known yet.

    Neither params nor data need be tracers: a learning rate within the optimizer may be one.
    """
    here = get_opaque_trace_state(convention="jloss")
    with eval_context():
        return here != get_opaque_trace_state(convention="jloss")


def traced_fit(
    epoch: Epoch, state: State, epochs: int, patience: int | None
) -> tuple[State, dict[str, Array]]:
    """As many epochs as are wanted, with the best params kept.

    Under vmap the members that have stopped stand still until the last one stops.

    Args:
      epoch: from a state to the next one and its entries of the history, numbers by name.
      state: to start from.
      epochs: at most.
      patience: stop after so many without a smaller ``validation_loss``.

    Returns:
      The state and the history, both as `jloss.fit` returns them, but that the history has
      entries for all epochs, which are NaN for those after the stop.
    """
    state = jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), state)
    entries = jax.eval_shape(epoch, state)[1]
    history = {name: jnp.full(epochs, jnp.nan, entry.dtype) for name, entry in entries.items()}
    validated = "validation_loss" in history
    dtype = entries["validation_loss" if validated else "loss"].dtype
    best = jnp.array(jnp.inf, dtype), jnp.array(-1)
    best_model = (state.params, state.model_state) if validated else None
    run = _Run(state, jnp.array(0), history, best, best_model)

    def onward(run: _Run) -> _Run:
        state, entries = epoch(run.state)
        history = {name: run.history[name].at[run.epoch].set(entries[name]) for name in entries}
        best, best_model = run.best, run.best_model
        if validated:
            judgement = entries["validation_loss"]
            better = jnp.isfinite(judgement) & (judgement < best[0])
            best, best_model = jax.tree.map(
                lambda new, old: jnp.where(better, new, old),
                ((judgement, run.epoch), (state.params, state.model_state)),
                (best, best_model),
            )
        return _Run(state, run.epoch + 1, history, best, best_model)

    if patience is None:
        # Their number is known, so that the fit can be differentiated.
        run = lax.fori_loop(0, epochs, lambda _, run: onward(run), run)
    else:
        run = lax.while_loop(
            lambda run: (run.epoch < epochs) & (run.epoch - 1 - run.best[1] < patience), onward, run
        )
    state = run.state
    if validated:
        found = run.best[1] >= 0
        params, model_state = jax.tree.map(
            lambda best, last: jnp.where(found, best, last),
            run.best_model,
            (state.params, state.model_state),
        )
        state = replace(state, params=params, model_state=model_state)
    return state, run.history
