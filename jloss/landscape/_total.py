"""An objective over all data as one function of the params: its value and its gradient, exact."""

from collections.abc import Iterable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jloss.landscape._evaluate import as_batches
from jloss.objective import Objective, call


class Total:
    """The objective over a batch, or over data that can be walked again and again."""

    def __init__(
        self,
        caller: str,
        objective: Objective,
        batch: Any = None,
        data: Iterable[Any] | None = None,
        model_state: Any = None,
    ):
        if data is not None and iter(data) is data:
            raise TypeError(
                f"{caller}: data must be something that can be walked again, as a list, and not "
                "an iterator"
            )
        batches, _ = as_batches(caller, batch, data)
        self.batches = list(batches) if isinstance(batches, tuple) else batches
        self.objective, self.model_state = objective, model_state

    def value(self, params: Any) -> float:
        """The objective's value."""
        return float(self._whole(params).value)

    def gradient(self, params: Any) -> Any:
        """The gradient of the value: the sum of the gradients of all batches' parts in it."""
        whole = self._whole(params)
        parts = [
            _gradient(self.objective, params, batch, self.model_state, whole)
            for batch in self.batches
        ]
        return reduce(partial(jax.tree.map, jnp.add), parts)

    def _whole(self, params: Any) -> Any:
        averages = [
            _average(self.objective, params, batch, self.model_state) for batch in self.batches
        ]
        return reduce(lambda one, two: one + two, averages)


@partial(jax.jit, static_argnames="objective")
def _average(objective: Objective, params: Any, batch: Any, model_state: Any) -> Any:
    return call(objective, params, batch, model_state=model_state)[0]


@partial(jax.jit, static_argnames="objective")
def _gradient(objective: Objective, params: Any, batch: Any, model_state: Any, whole: Any) -> Any:
    def part(params: Any) -> Array:
        return call(objective, params, batch, model_state=model_state)[0].part_of(whole)

    return jax.grad(part)(params)
