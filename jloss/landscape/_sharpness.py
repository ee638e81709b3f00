"""Sharpness: how much an objective rises around given params, in the worst case or on average."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from jloss.landscape._bands import half_width
from jloss.landscape._directions import check_finite
from jloss.landscape._total import Total
from jloss.objective import Objective, call


class Sharpness(NamedTuple):
    """The largest rise that was found in a ball.

    Attributes:
      rise: the value there minus that at the params; never negative. A lower bound of the worst.
      first_order: the rise at the point that SAM takes, one step along the gradient; 0 where the
        gradient is.
      away: the step from the params to the worst point, a pytree like them.
    """

    rise: float
    first_order: float
    away: Any


class AverageSharpness(NamedTuple):
    """The mean rise over a sphere.

    Attributes:
      rise: the mean of the values there minus that at the params.
      half_width: of its 95% t-interval.
      samples: random directions taken, each to both sides.
    """

    rise: float
    half_width: float
    samples: int


def sharpness(
    objective: Objective,
    params: Any,
    batch: Any = None,
    *,
    data: Iterable[Any] | None = None,
    radius: float = 0.05,
    steps: int = 20,
    key: Array | None = None,
    model_state: Any = None,
) -> Sharpness:
    r"""How far an objective rises in the worst direction within a ball.

    .. math:: \max_{\|\delta\| \le \rho} L(\theta + \delta) - L(\theta)

    At a minimum of a quadratic this is :math:`\tfrac12 \rho^2 \lambda_{\max}`. SAM climbs it by one
    step along the gradient, which says nothing where the gradient is 0; so here the ascent starts
    from there and from both ends of the eigenvector of largest curvature, and goes on.

    Source: Foret, Kleiner, Mobahi, Neyshabur (2021), Sharpness-aware minimization for efficiently
    improving generalization, ICLR.

    Args:
      objective: ``objective(params, batch) -> Average``.
      params: any pytree of floating arrays.
      batch: what the objective is evaluated on.
      data: batches instead, over which it is averaged exactly: a list, or what can be walked again.
      radius: :math:`\rho`, in the Euclidean norm of all params together.
      steps: of ascent from each start, at most; it ends where nothing rises further.
      key: for the eigenvector.
      model_state: for objectives with an argument of that name.

    Returns:
      A `Sharpness`.

    Raises:
      ValueError: a radius that is not positive, params with NaN, both batch and data.
      TypeError: the objective returns no `Average`, or data is an iterator.

    >>> bowl = lambda params, batch: jloss.average(params @ jnp.diag(batch) @ params)
    >>> found = jloss.landscape.sharpness(bowl, jnp.zeros(2), jnp.array([1.0, 3.0]), radius=0.1)
    >>> round(found.rise, 6)
    0.03
    """
    scale = jax.tree.map(jnp.ones_like, params)
    given = (objective, params, batch, data, radius, key, model_state)
    return _worst("sharpness", *given, scale=scale, steps=steps)


def adaptive_sharpness(
    objective: Objective,
    params: Any,
    batch: Any = None,
    *,
    data: Iterable[Any] | None = None,
    radius: float = 0.5,
    steps: int = 20,
    key: Array | None = None,
    model_state: Any = None,
) -> Sharpness:
    r"""How far an objective rises in the worst case if every parameter moves by its own size.

    .. math:: \max_{\|\delta / |\theta|\| \le \rho} L(\theta + \delta) - L(\theta)

    Unlike `sharpness` it does not change when one layer is multiplied by a number and the next one
    divided by it, which leaves a network of rectified units as it was. Parameters of 0 keep still.

    Source: Kwon, Kim, Park, Choi (2021), ASAM: adaptive sharpness-aware minimization for
    scale-invariant learning of deep neural networks, ICML.

    Args:
      objective: as for `sharpness`.
      params: as for `sharpness`.
      batch: as for `sharpness`.
      data: as for `sharpness`.
      radius: :math:`\rho`, of the steps divided by the sizes of the params.
      steps: as for `sharpness`.
      key: as for `sharpness`.
      model_state: as for `sharpness`.

    Returns:
      A `Sharpness`.

    Raises:
      ValueError: as for `sharpness`.
      TypeError: as for `sharpness`.

    >>> product = lambda params, batch: jloss.average((params[0] * params[1] - batch) ** 2)
    >>> rises = [
    ...     jloss.landscape.adaptive_sharpness(product, jnp.array(params), jnp.ones(1)).rise
    ...     for params in ([1.0, 1.0], [10.0, 0.1])
    ... ]
    >>> abs(rises[0] - rises[1]) < 1e-3 * rises[0]
    True
    """
    scale = jax.tree.map(jnp.abs, params)
    given = (objective, params, batch, data, radius, key, model_state)
    return _worst("adaptive_sharpness", *given, scale=scale, steps=steps)


def average_sharpness(
    objective: Objective,
    params: Any,
    batch: Any = None,
    *,
    data: Iterable[Any] | None = None,
    radius: float = 0.05,
    samples: int = 32,
    key: Array | None = None,
    model_state: Any = None,
) -> AverageSharpness:
    r"""How far an objective rises on average over all directions, at a distance.

    .. math:: \mathbb{E}_{\|\delta\| = \rho}\, L(\theta + \delta) - L(\theta)

    On a quadratic this is :math:`\tfrac12 \rho^2 \operatorname{tr} H / n`. Each direction is taken
    to both sides, which cancels the gradient, and up to n of them are orthogonal to each other:
    n samples are exact on quadratics.

    Args:
      objective: as for `sharpness`.
      params: as for `sharpness`.
      batch: as for `sharpness`.
      data: as for `sharpness`.
      radius: :math:`\rho`.
      samples: directions, 2 at least. Up to n of them are in memory at once.
      key: a random key; ``jax.random.key(0)`` by default.
      model_state: as for `sharpness`.

    Returns:
      An `AverageSharpness`.

    Raises:
      ValueError: as for `sharpness`, or fewer than 2 samples.
      TypeError: as for `sharpness`.

    >>> bowl = lambda params, batch: jloss.average(params @ jnp.diag(batch) @ params)
    >>> found = jloss.landscape.average_sharpness(
    ...     bowl, jnp.ones(2), jnp.array([1.0, 3.0]), radius=0.1, samples=2
    ... )
    >>> round(found.rise, 4)
    0.02
    """
    _check("average_sharpness", params, radius)
    if samples < 2:
        raise ValueError(f"average_sharpness: samples must be at least 2, not {samples}")
    total = Total("average_sharpness", objective, batch, data, model_state)
    center, unravel = ravel_pytree(jax.tree.map(jnp.asarray, params))

    @jax.jit
    def around(rows: Array, batch: Any, model_state: Any) -> Any:
        def at(row: Array) -> Any:
            return call(objective, unravel(center + row), batch, model_state=model_state)[0]

        return lax.map(at, rows)

    key = jax.random.key(0) if key is None else key
    rises, base = [], total.value(params)
    for start in range(0, samples, center.size):
        count = min(center.size, samples - start)
        draws = jax.random.normal(jax.random.fold_in(key, start), (center.size, count))
        steps = radius * jnp.linalg.qr(draws)[0].T.astype(center.dtype)
        rows = jnp.concatenate([steps, -steps])
        whole = None
        for part in total.batches:
            found = around(rows, part, model_state)
            whole = found if whole is None else whole + found
        values = np.asarray(whole.value, np.float64)  # type: ignore
        rises.append((values[:count] + values[count:]) / 2 - base)
    rises = np.concatenate(rises)
    return AverageSharpness(float(rises.mean()), float(half_width(rises)), len(rises))


def _worst(
    caller: str,
    objective: Objective,
    params: Any,
    batch: Any,
    data: Iterable[Any] | None,
    radius: float,
    key: Array | None,
    model_state: Any,
    *,
    scale: Any,
    steps: int,
) -> Sharpness:
    """Ascent in the ball of ``u``, where the params are moved by ``scale * u``."""
    from jloss.curvature import hessian, largest_eigenpairs

    _check(caller, params, radius)
    params = jax.tree.map(jnp.asarray, params)

    def stretched(steps: Any, batch: Any) -> Any:
        moved = jax.tree.map(lambda p, s, u: p + s * u, params, scale, steps)
        return call(objective, moved, batch, model_state=model_state)[0]

    total = Total(caller, stretched, batch, data)
    center, unravel = ravel_pytree(jax.tree.map(jnp.zeros_like, params))

    def value(row: np.ndarray) -> float:
        found = total.value(unravel(jnp.asarray(row, center.dtype)))
        return found if np.isfinite(found) else -np.inf

    def uphill(row: np.ndarray) -> np.ndarray:
        slope = ravel_pytree(total.gradient(unravel(jnp.asarray(row, center.dtype))))[0]
        return _unit(np.asarray(slope, np.float64))

    still = np.zeros(center.size)
    base = total.value(unravel(center))
    operator = hessian(stretched, unravel(center), list(total.batches))
    steepest = largest_eigenpairs(operator, 1, key=key, budget=min(64, center.size)).vectors
    bend = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], steepest))[0]
    bend = radius * _unit(np.asarray(bend, np.float64))
    first = radius * uphill(still)
    best, rise = still, 0.0
    for start in (first, bend, -bend):
        row, height = _climb(start, value, uphill, radius, steps)
        if height - base > rise:
            best, rise = row, height - base
    away = jax.tree.map(lambda s, u: s * u, scale, unravel(jnp.asarray(best, center.dtype)))
    return Sharpness(rise, max(0.0, value(first) - base), away)


def _climb(
    row: np.ndarray, value: Any, uphill: Any, radius: float, steps: int
) -> tuple[np.ndarray, float]:
    """Steps of several lengths along the gradient, back into the ball, as long as one rises."""
    height = value(row)
    for _ in range(steps):
        way = radius * uphill(row)
        # The first is where a linear function, and in the end a convex one, is largest.
        tried = [way, *(_within(row + length * way, radius) for length in (1.0, 0.3, 0.1, 0.01))]
        heights = [value(candidate) for candidate in tried]
        best = int(np.argmax(heights))
        if not heights[best] > height:
            break
        row, height = tried[best], heights[best]
    return row, height


def _within(row: np.ndarray, radius: float) -> np.ndarray:
    return row * min(1.0, radius / max(float(np.linalg.norm(row)), 1e-300))


def _unit(row: np.ndarray) -> np.ndarray:
    size = np.linalg.norm(row)
    return row / size if size > 0 and np.isfinite(size) else np.zeros_like(row)


def _check(caller: str, params: Any, radius: float) -> None:
    check_finite(f"{caller}: params", params)
    if not 0 < radius < float("inf"):
        raise ValueError(f"{caller}: radius must be a positive number, not {radius}")
