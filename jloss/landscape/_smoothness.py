"""How a surface bends: metrics of slope and curvature, a plane's against the largest, a path's."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from jloss.average import Average
from jloss.landscape._directions import as_points, independent
from jloss.landscape._evaluate import moved
from jloss.landscape._total import Total
from jloss.objective import Objective, call

_PRODUCTS = 32  # networks' largest eigenvalue stands out so far that a third is enough


def gradient_norm(objective: Objective) -> Objective:
    """The Euclidean norm of an objective's gradient, as a metric of `plane`, `line` and `volume`.

    Over several batches it is the mean of their norms, which noise makes larger than the norm of
    the mean gradient; give one batch for that.

    Args:
      objective: ``objective(params, batch) -> Average``.

    Returns:
      A function like the objective.

    >>> bowl = lambda params, batch: jloss.average(batch * jnp.sum(params**2))
    >>> slope = jloss.landscape.gradient_norm(bowl)
    >>> slope(jnp.array([3.0, 4.0]), jnp.ones(1)).value
    Array(10., dtype=float32)
    """

    def norm(params: Any, batch: Any, model_state: Any = None) -> Average:
        def value(params: Any) -> tuple[Array, Any]:
            found, _ = call(objective, params, batch, model_state=model_state)
            return found.value, found

        slopes, found = jax.grad(value, has_aux=True)(params)
        square = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(slopes))
        weight = _weight(found)
        return Average(jnp.sqrt(jnp.asarray(square)) * weight, weight)

    return norm


def plane_hessian(objective: Objective, directions: Sequence[Any]) -> Objective:
    r"""The Hessian of an objective in the coordinates of given directions, as a metric.

    .. math:: H_{ij} = \frac{\partial^2}{\partial a_i\, \partial a_j}
              L(\theta + \textstyle\sum_k a_k d_k) = d_i^T\, \nabla^2 L\, d_j

    Args:
      objective: ``objective(params, batch) -> Average``.
      directions: pytrees like the params.

    Returns:
      A function like the objective, whose average is of a ``(d, d)`` matrix.

    >>> bowl = lambda params, batch: jloss.average(batch * jnp.sum(params**2))
    >>> bent = jloss.landscape.plane_hessian(bowl, [jnp.array([1.0, 0.0]), jnp.array([1.0, 1.0])])
    >>> jax.jit(bent)(jnp.ones(2), jnp.ones(1)).value.tolist()
    [[2.0, 2.0], [2.0, 4.0]]
    """

    def bent(params: Any, batch: Any, model_state: Any = None) -> Average:
        def value(at: Array) -> tuple[Array, Any]:
            found, _ = call(
                objective, moved(params, directions, [*at]), batch, model_state=model_state
            )
            return found.value, found

        matrix, found = jax.hessian(value, has_aux=True)(jnp.zeros(len(directions)))
        weight = jnp.broadcast_to(_weight(found), matrix.shape)
        return Average(matrix * weight, weight)

    return bent


class PlaneCurvature(NamedTuple):
    """The curvature that a plane shows, and the largest that there is.

    Attributes:
      plane: the two curvatures within the plane, per unit of distance, the smaller one first.
      largest: the largest eigenvalue of the whole Hessian.
    """

    plane: np.ndarray
    largest: float

    @property
    def share(self) -> float:
        """The larger curvature of the plane as a share of the largest."""
        return float(self.plane[1] / self.largest)


def plane_curvature(
    objective: Objective,
    params: Any,
    batch: Any = None,
    *,
    directions: tuple[Any, Any],
    data: Iterable[Any] | None = None,
    key: Array | None = None,
    model_state: Any = None,
) -> PlaneCurvature:
    r"""The curvature within a plane at its centre, against the largest eigenvalue of the Hessian.

    A random direction in n dimensions sees about :math:`\operatorname{tr} H / n`, which is nearly
    nothing where few directions are steep: a random plane that looks flat says little. The
    eigenvalue is found by Lanczos (Paige 1980, Accuracy and effectiveness of the Lanczos algorithm,
    Linear Algebra Appl. 34), in memory for some vectors; should it still grow after 32 products,
    it is a lower bound.

    Args:
      objective: ``objective(params, batch) -> Average``.
      params: the centre of the plane.
      batch: what the objective is evaluated on.
      directions: of the plane.
      data: batches instead, over which it is averaged exactly.
      key: for the vector that Lanczos starts from; ``jax.random.key(0)`` by default.
      model_state: for objectives with an argument of that name.

    Returns:
      A `PlaneCurvature`.

    Raises:
      ValueError: directions that are parallel, zero or unlike the params, both batch and data.
      TypeError: the objective returns no `Average`, or data is an iterator.

    >>> bowl = lambda params, batch: jloss.average(params @ jnp.diag(batch) @ params)
    >>> found = jloss.landscape.plane_curvature(
    ...     bowl, jnp.zeros(3), jnp.array([1.0, 2.0, 8.0]), directions=tuple(jnp.eye(3)[:2])
    ... )
    >>> found.plane.round(3).tolist(), round(found.share, 3)
    ([2.0, 4.0], 0.25)
    """
    from jloss.curvature import hessian

    params = jax.tree.map(jnp.asarray, params)
    directions = independent("plane_curvature", params, directions, 2)
    total = Total("plane_curvature", objective, batch, data)

    def stated(params: Any, batch: Any) -> Any:
        return call(objective, params, batch, model_state=model_state)[0]

    operator = hessian(stated, params, total.batches)

    def product(vector: np.ndarray) -> np.ndarray:
        return np.asarray(operator.products(jnp.asarray(vector[None])))[0]

    one, two = (np.asarray(operator.ravel(direction)) for direction in directions)
    one = one / np.linalg.norm(one)
    for _ in range(2):  # Gram-Schmidt; numpy's QR would take twelve vectors of memory
        two = two - (one @ two) * one
    basis = np.stack([one, two / np.linalg.norm(two)])
    matrix = basis @ np.stack([product(row) for row in basis]).T
    within = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    key = jax.random.key(0) if key is None else key
    start = jax.random.normal(key, (operator.size,), operator.center.dtype)
    return PlaneCurvature(within, _largest(product, np.asarray(start)))


def _largest(product: Callable[[np.ndarray], np.ndarray], start: np.ndarray) -> float:
    """The largest eigenvalue, by Lanczos in memory for three vectors.

    `jloss.curvature.largest_eigenpairs` keeps them all, which eigenvectors and further eigenvalues
    need; the largest is found as well without (Paige 1980).
    """
    vector, before, beta = start / np.linalg.norm(start), np.zeros_like(start), 0.0
    alphas: list[float] = []
    betas: list[float] = []
    while True:
        image = product(vector) - beta * before
        alphas.append(float(vector @ image))
        image -= alphas[-1] * vector
        beta = float(np.linalg.norm(image))
        values, vectors = np.linalg.eigh(np.diag(alphas) + np.diag(betas, 1) + np.diag(betas, -1))
        residual = beta * abs(vectors[-1, -1])
        if residual <= 1e-3 * abs(values[-1]) or len(alphas) == min(_PRODUCTS, len(vector)):
            return float(values[-1])
        betas.append(beta)
        before, vector = vector, image / beta


@dataclass(frozen=True)
class Smoothness:
    """How the gradient changes from one point of a path to the next.

    Attributes:
      lipschitz: ``(n - 1,)`` changes of the gradient per unit of distance; NaN where nothing moved.
      relative: ``(n - 1,)`` changes of the gradient as shares of the gradient before: 0 where the
        surface is a plane, 1 where the next gradient could be anything. They stay the same when
        the loss is multiplied by a number, so that losses can be compared by them.
    """

    lipschitz: np.ndarray
    relative: np.ndarray

    @property
    def largest(self) -> float:
        """The largest change per distance: a lower bound of the Lipschitz constant on the path."""
        return float(np.nanmax(self.lipschitz))


def path_smoothness(
    objective: Objective,
    path: Any,
    batch: Any = None,
    *,
    data: Iterable[Any] | None = None,
    model_state: Any = None,
) -> Smoothness:
    r"""How smooth an objective is along a training path: a local gradient-Lipschitz estimate.

    .. math:: \frac{\|\nabla L(\theta_{k+1}) - \nabla L(\theta_k)\|}
              {\|\theta_{k+1} - \theta_k\|}

    On a quadratic it is at most the largest eigenvalue, and exactly so along its eigenvector.

    Source: Santurkar, Tsipras, Ilyas, Madry (2018), How does batch normalization help
    optimization?, NeurIPS; Zhang, He, Sra, Jadbabaie (2020), Why gradient clipping accelerates
    training, ICLR.

    Args:
      objective: ``objective(params, batch) -> Average``.
      path: the params on the way, as `path_directions` takes them; two at least.
      batch: what the objective is evaluated on.
      data: batches instead, over which the gradient is exact: a list, or what can be walked again.
      model_state: for objectives with an argument of that name.

    Returns:
      A `Smoothness`.

    Raises:
      ValueError: fewer than two points, points unlike each other, both batch and data.
      TypeError: the objective returns no `Average`, or data is an iterator.

    >>> bowl = lambda params, batch: jloss.average(batch * params**2)
    >>> path = [jnp.array([2.0]), jnp.array([1.0])]
    >>> found = jloss.landscape.path_smoothness(bowl, path, jnp.ones(1))
    >>> found.lipschitz.tolist(), found.relative.tolist()
    ([2.0], [0.5])
    """
    points, _, unravel = as_points("path_smoothness", path)
    if len(points) < 2:
        raise ValueError("path_smoothness: the path must have at least two points, not one")
    total = Total("path_smoothness", objective, batch, data, model_state)
    slopes = [np.asarray(ravel_pytree(total.gradient(unravel(p)))[0], np.float64) for p in points]
    changes, distances = (
        np.linalg.norm(np.diff(rows, axis=0), axis=1) for rows in (slopes, points)
    )
    sizes = np.linalg.norm(slopes[:-1], axis=1)
    return Smoothness(_ratio(changes, distances), _ratio(changes, sizes))


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.full_like(over, np.nan), where=under > 0)


def _weight(found: Any) -> Array:
    """How much a batch counts; the sum of several terms has no one weight, and counts as 1."""
    return getattr(found, "weight", jnp.ones(()))
