"""Mixed precision: models computed in half precision, with parameters and averages in float32."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

# The scale doubles after so many updates without an overflow (Micikevicius et al., 2018).
PERIOD = 2000


def mixed_precision(
    apply: Callable[..., Any], dtype: DTypeLike = jnp.bfloat16
) -> Callable[..., Any]:
    """The model computed in half precision: it halves the memory of activations, and is fast.

    Params and inputs are rounded to ``dtype`` on the way in, predictions (and a model state that
    is returned with them) come out in float32. So the loss sees targets as they are, and gradients
    reach the params in their own precision. ``bfloat16`` has the range of float32 and needs nothing
    else; gradients in ``float16`` underflow without ``jloss.init(..., loss_scale=2.0**15)``.

    Args:
      apply: ``apply(params, inputs) -> predictions``; named arguments go through unchanged.
      dtype: of the computation.

    Returns:
      A function of the same signature.

    Source: Micikevicius et al. (2018), Mixed Precision Training, ICLR.

    >>> line = jloss.mixed_precision(lambda slope, inputs: slope * inputs)
    >>> line(jnp.array(1.001), jnp.array([3.0]))
    Array([3.], dtype=float32)
    """

    @functools.wraps(apply)
    def rounded(*arguments: Any, **named: Any) -> Any:
        found = apply(*_cast(arguments, lambda leaf: jnp.dtype(dtype)), **named)
        return _cast(found, lambda leaf: jnp.promote_types(leaf.dtype, jnp.float32))

    return rounded


def _cast(tree: Any, dtype: Callable[[Any], Any]) -> Any:
    """Floating arrays of the dtype that is said for each; all else as it is."""

    def cast(leaf: Any) -> Any:
        floating = jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.floating)
        leaf = jnp.asarray(leaf) if floating else leaf
        return leaf.astype(dtype(leaf)) if floating else leaf

    return jax.tree.map(cast, tree)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LossScale:
    """What a loss is multiplied by before it is differentiated, lest float16 gradients underflow.

    It halves when an update is skipped, and doubles after 2000 that were made.

    Attributes:
      value: the scale; gradients are divided by it again.
      made: how many updates were made since it last changed.
      overflows: how many were skipped because it was too large, with a loss that was finite.
    """

    value: Array
    made: Array
    overflows: Array

    def after(self, finite: Array, overflow: Array) -> "LossScale":
        """The scale for the next update, after one that was finite, or overflowed, or neither."""
        # At 1 it is not the scale that is too large.
        overflows = self.overflows + jnp.where(overflow & (self.value > 1), 1, 0)
        made = jnp.where(finite, self.made + 1, 0)
        double = made == PERIOD
        value = jnp.where(finite, self.value, jnp.maximum(self.value / 2, 1.0))
        return LossScale(jnp.where(double, 2 * value, value), jnp.where(double, 0, made), overflows)
