r"""Penalties: what large, many, or uneven parameters cost. Functions of params, not of predictions.

They are sums over all arrays of a tree, as in their sources, so that the proximal operators of
`jloss.optimizers` are theirs. `jloss.penalty` makes one an objective, for all params or some. They
carry no card, for a card's claims are about predictions and targets, and there are none.

Places that count more or less: scale them before, ``jax.tree.map(jnp.multiply, weights, params)``.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jloss._safe import axes_of, floats, keep, mask, to_rows, unit


def l1_penalty(params: Any, *, where: Any = None) -> Array:
    r"""Sum of absolute values: sets what matters little to zero (lasso).

    .. math:: \sum_i |\theta_i|

    At 0 the derivative is 0. With `jloss.optimizers.proximal` instead, zeros are exact.

    Source: Tibshirani (1996), Regression shrinkage and selection via the lasso, J. R. Stat. Soc. B
    58.

    Args:
      params: a tree of floating arrays.
      where: a tree like it of boolean masks of what counts, each of the rank of its array.

    Returns:
      A number; what is masked out adds 0, with a gradient of 0.

    Raises:
      TypeError: an array is not floating, or a mask not boolean.
      ValueError: a mask does not fit, or the trees differ.

    >>> jloss.l1_penalty({"w": jnp.array([3.0, -4.0]), "b": jnp.array(0.0)})
    Array(7., dtype=float32)
    """
    return _total("l1_penalty", lambda array, where: _size(keep(where, array)), params, where)


def l2_penalty(params: Any, *, where: Any = None) -> Array:
    r"""Sum of squares: keeps all params small (ridge, weight decay).

    .. math:: \sum_i \theta_i^2

    The factor :math:`\lambda / 2` of `combine` makes it torch's ``weight_decay`` :math:`\lambda`
    for plain gradient descent.

    Source: Hoerl, Kennard (1970), Ridge regression: biased estimation for nonorthogonal problems,
    Technometrics 12.

    Args:
      params: a tree of floating arrays.
      where: as for `l1_penalty`.

    Returns:
      A number.

    Raises:
      TypeError: as for `l1_penalty`.
      ValueError: as for `l1_penalty`.

    >>> jloss.l2_penalty({"w": jnp.array([3.0, -4.0]), "b": jnp.array(0.0)})
    Array(25., dtype=float32)
    """
    return _total("l2_penalty", lambda array, where: keep(where, array) ** 2, params, where)


def group_lasso_penalty(
    params: Any, *, axis: int | tuple[int, ...] = -1, where: Any = None
) -> Array:
    r"""Sum of the lengths of groups: sets whole groups to zero, as all weights of a unit.

    .. math:: \sum_g \lVert \theta_g \rVert_2

    At a group of zeros the derivative is 0. No magnitude overflows.

    Source: Yuan, Lin (2006), Model selection and estimation in regression with grouped variables,
    J. R. Stat. Soc. B 68. (Their factor, the root of a group's size, is the user's to put.)

    Args:
      params: a tree of floating arrays.
      axis: along which a group extends; in a weight matrix ``(in, out)`` the weights of one input
        by -1, those of one output by 0.
      where: as for `l1_penalty`.

    Returns:
      A number.

    Raises:
      TypeError: as for `l1_penalty`.
      ValueError: as for `l1_penalty`; or an array has no such axis.

    >>> jloss.group_lasso_penalty(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
    Array(5., dtype=float32)
    """

    def lengths(array: Array, where: Array | None) -> Array:
        axes = axes_of("group_lasso_penalty", axis, array.ndim)
        return _length(to_rows(keep(where, array), axes))

    return _total("group_lasso_penalty", lengths, params, where)


def total_variation_penalty(
    params: Any, *, axis: int | tuple[int, ...] = -1, where: Any = None
) -> Array:
    r"""Sum of differences between neighbours: makes params piecewise constant along an axis.

    .. math:: \sum_i |\theta_{i+1} - \theta_i|

    Where neighbours are equal the derivative is 0. Over several axes the differences along each are
    added (the anisotropic form).

    Source: Rudin, Osher, Fatemi (1992), Nonlinear total variation based noise removal algorithms,
    Physica D 60; Tibshirani et al. (2005), Sparsity and smoothness via the fused lasso, J. R. Stat.
    Soc. B 67.

    Args:
      params: a tree of floating arrays.
      axis: along which neighbours stand, or several.
      where: as for `l1_penalty`; a difference counts where both its ends do.

    Returns:
      A number.

    Raises:
      TypeError: as for `l1_penalty`.
      ValueError: as for `l1_penalty`; or an array has no such axis.

    >>> jloss.total_variation_penalty(jnp.array([1.0, 1.0, 4.0, 3.0]))
    Array(4., dtype=float32)
    """

    def differences(array: Array, where: Array | None) -> Array:
        total = jnp.zeros((), array.dtype)
        for along in axes_of("total_variation_penalty", axis, array.ndim):
            step = jnp.diff(keep(where, array), axis=along)
            if where is not None:
                flags = jnp.moveaxis(where, along, 0)
                step = keep(jnp.moveaxis(flags[1:] & flags[:-1], 0, along), step)
            total += jnp.sum(_size(step))
        return total

    return _total("total_variation_penalty", differences, params, where)


def _total(
    name: str, values: Callable[[Array, Array | None], Array], params: Any, where: Any
) -> Array:
    """The sum of the values of all arrays, added up in the order of the tree."""
    leaves, structure = jax.tree.flatten(params)
    masks = [None] * len(leaves)
    if where is not None:
        if jax.tree.structure(where) != structure:
            raise ValueError(
                f"{name}: where must be a tree like the params, {structure}, not "
                f"{jax.tree.structure(where)}"
            )
        masks = jax.tree.leaves(where)
    total = jnp.zeros(())
    for leaf, flags in zip(leaves, masks, strict=True):
        (array,) = floats(name, params=leaf)
        total += jnp.sum(values(array, mask(name, flags, array.shape)))
    return total


def _size(array: Array) -> Array:
    """The absolute value, with a derivative of 0 at 0."""
    return jnp.where(array == 0, 0.0, jnp.abs(array))


@jax.custom_jvp
def _length(rows: Array) -> Array:
    """The Euclidean length of each row, at any magnitude."""
    return jnp.sum(unit(rows).direction * rows, axis=-1)


@_length.defjvp
def _length_jvp(primals, tangents):
    (rows,), (d_rows,) = primals, tangents
    return _length(rows), jnp.sum(unit(rows).direction * d_rows, axis=-1)
