"""The surface of a loss itself, over what it compares, with its gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jloss.landscape._planes import Span, check_resolution, grid, reach
from jloss.sweep import Sweep, sweep


def surface_of(
    loss: Callable[..., Array],
    label: Any = None,
    *,
    span: Span = 3.0,
    resolution: int = 41,
    **hyper: Any,
) -> Sweep:
    """A loss and its gradient over (prediction, target), or over the two logits of one example.

    Args:
      loss: of jloss or your own, as in ``loss(predictions, targets, **hyper)``.
      label: what the two logits are compared with, as in 0, or ``jnp.array([1.0, 0.0])`` for a
        loss that takes probabilities; by default predictions and targets are single numbers.
      span: how far the coordinates reach: a number for both and both signs, or
        ``((p0, p1), (t0, t1))``.
      resolution: points along each.
      hyper: hyper-parameters of the loss.

    Returns:
      A `Sweep` over ``prediction`` and ``target`` or ``first logit`` and ``second logit``, whose
      values are ``loss`` and ``gradient``: two numbers per point, in the order of the axes. That
      along the target is 0, for nobody moves targets. `jloss.plot.field` draws both.

    Raises:
      ValueError: an empty span, a resolution below 2, or what the loss refuses.

    >>> found = jloss.landscape.surface_of(jloss.squared_error, resolution=3)
    >>> found.values["loss"][2].tolist(), found.values["gradient"][2, 0].tolist()
    ([36.0, 9.0, 0.0], [12.0, 0.0])
    >>> two = jloss.landscape.surface_of(jloss.softmax_cross_entropy_with_integer_labels, label=0)
    >>> list(two.axes), two.values["gradient"].shape
    (['first logit', 'second logit'], (41, 41, 2))
    """
    check_resolution("surface_of", resolution)
    (low, high), (bottom, top) = reach("surface_of", span, [])
    across, up = grid(low, high, resolution), grid(bottom, top, resolution)

    def at(first: Array, second: Array) -> dict[str, Array]:
        if label is None:
            predictions, targets = first[None], second[None]
        else:
            predictions, targets = jnp.stack([first, second])[None], jnp.asarray(label)[None]

        def value(predictions: Array) -> Array:
            return jnp.sum(loss(predictions, targets, **hyper))

        found, slope = jax.value_and_grad(value)(predictions)
        slope = jnp.concatenate([slope, jnp.zeros(1)]) if label is None else slope[0]
        return {"loss": found, "gradient": slope}

    found = sweep(at, first=jnp.asarray(across), second=jnp.asarray(up))
    names = ("prediction", "target") if label is None else ("first logit", "second logit")
    return Sweep(dict(zip(names, found.axes.values(), strict=True)), found.values)
