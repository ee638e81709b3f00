"""Landscapes: an objective on planes through parameter space. Trains nothing, draws nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from jloss._affine import hoist
from jloss.average import Average
from jloss.objective import Objective
from jloss.sweep import sweep

Directions: TypeAlias = tuple[Any, Any]
Span: TypeAlias = float | tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Plane:
    """The values of an objective on the plane ``params + a * directions[0] + b * directions[1]``.

    Attributes:
      a: coordinates along the first direction, the first index of ``values``.
      b: coordinates along the second direction, the second index of ``values``.
      values: the objective's values, ``(len(a), len(b))``.
      directions: two pytrees like the params.
      path: ``(n, 2)`` coordinates of a training path projected onto the plane, if there is one.
    """

    a: Array
    b: Array
    values: Array
    directions: Directions
    path: np.ndarray | None = None

    def plot(self, kind: str = "contour", ax: Any = None) -> Any:
        """Draws the plane (needs matplotlib).

        Args:
          kind: ``"contour"`` or ``"surface"``.
          ax: the matplotlib Axes to draw into (three-dimensional ones for a surface); new ones
            if not given.

        Returns:
          The Axes.

        Raises:
          ValueError: there is no such kind.
          ImportError: matplotlib is missing.
        """
        from jloss import plot

        kinds = {"contour": plot.contour, "surface": plot.surface}
        if kind not in kinds:
            raise ValueError(f"Plane.plot: kind must be one of {', '.join(kinds)}, not {kind!r}")
        return kinds[kind](self, ax=ax)


def random_directions(key: Array, params: Any) -> Directions:
    """Two random directions as large as the parameters, filter by filter.

    A filter is what makes one output: all entries of a weight that share the index of its last
    axis (a column of a dense kernel ``(inputs, outputs)``, a channel of a convolution's). In each,
    a direction has the norm of the parameters there, so that a step of 1 changes every filter by
    its own size, whatever its scale. Biases and other leaves with fewer than two axes keep still,
    unless the params have no others: then each leaf is one filter.

    The two are orthogonal filter by filter, hence as a whole, with the norms kept; only filters
    of a single entry, where nothing is orthogonal, are left as drawn. (Li et al. leave them all as
    drawn, which is nearly the same in large models and a skewed plane in small ones.)

    Source: Li, Xu, Taylor, Studer, Goldstein (2018), Visualizing the loss landscape of neural
    nets, NeurIPS.

    Args:
      key: a random key.
      params: any pytree of floating arrays.

    Returns:
      Two pytrees like ``params``.

    >>> params = {"kernel": jnp.array([[3.0, 0.0], [4.0, 2.0]]), "bias": jnp.ones(2)}
    >>> one, two = jloss.landscape.random_directions(jax.random.key(0), params)
    >>> jnp.round(jnp.linalg.norm(one["kernel"], axis=0), 4), one["bias"]
    (Array([5., 2.], dtype=float32), Array([0., 0.], dtype=float32))
    """
    leaves, structure = jax.tree.flatten(params)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    smallest = 2 if any(leaf.ndim >= 2 for leaf in leaves) else 0
    pairs = []
    for number, leaf in enumerate(leaves):
        if leaf.ndim < smallest:
            pairs.append((jnp.zeros_like(leaf), jnp.zeros_like(leaf)))
        else:
            pairs.append(_filter_pair(jax.random.fold_in(key, number), leaf))
    one, two = zip(*pairs, strict=True) if pairs else ((), ())
    return structure.unflatten(one), structure.unflatten(two)


def path_directions(path: Any) -> Directions:
    """The two orthonormal directions in which a training path extends most, seen from its end.

    They are the first two right singular vectors of the differences to the last point, signed so
    that the path starts at positive coordinates.

    Source: Li et al. (2018), section 7, as in `random_directions`.

    Args:
      path: the params on the way: a list of pytrees, or a pytree of arrays (not itself a list)
        with the points along the first axis. All of it is put into memory twice, in float64.

    Returns:
      Two pytrees like the params.

    Raises:
      ValueError: the points do not span a plane, as fewer than three different ones never do, or
        they are of different structures or shapes.

    >>> path = [jnp.array([4.0, 0.0, 0.0]), jnp.array([2.0, 0.0, 1.0]), jnp.array([0.0, 0.0, 0.0])]
    >>> one, two = jloss.landscape.path_directions(path)
    >>> jnp.abs(jnp.round(jnp.array([one @ one, one @ two, two @ two]), 5))
    Array([1., 0., 1.], dtype=float32)
    """
    points, precision, unravel = _points("path_directions", path)
    if not np.isfinite(points).all():
        raise ValueError("path_directions: the path holds NaN or infinity; leave such points out")
    differences = points - points[-1]
    _, sizes, directions = np.linalg.svd(differences, full_matrices=False)
    # What rounding alone would make of points on a line.
    noise = precision * np.sqrt(len(points)) * np.linalg.norm(points, axis=1).max()
    if (sizes > noise).sum() < 2:
        different = len(np.unique(points, axis=0))
        raise ValueError(
            f"path_directions: the path spans no plane: {different} different points"
            f"{' on a line' if different > 1 else ''}; at least three that are not on a line are "
            "needed"
        )
    start = differences[0] @ directions[:2].T
    one, two = np.where(start < 0, -1.0, 1.0)[:, None] * directions[:2]
    return unravel(one), unravel(two)


def plane(
    objective: Objective,
    params: Any,
    batch: Any,
    *,
    key: Array | None = None,
    directions: Directions | None = None,
    span: Span | None = None,
    resolution: int = 31,
    path: Any = None,
) -> Plane:
    r"""An objective around given parameters, on a plane through parameter space.

    .. math:: \text{values}_{ij} = \text{objective}(\theta + a_i d_1 + b_j d_2, \text{batch})

    Args:
      objective: ``objective(params, batch) -> Average``.
      params: the centre :math:`\theta`, where a and b are 0.
      batch: what the objective is evaluated on.
      key: for `random_directions`, which are taken if no directions and no path are given;
        ``jax.random.key(0)`` by default. Given together with a path, it asks for them.
      directions: two pytrees like the params, not parallel.
      span: how far a and b reach: a number for both and both signs, or ``((a0, a1), (b0, b1))``.
        By default 1, or with a path, what covers params and path with a margin.
      resolution: points along each direction. Odd, and a span symmetric: the centre is one of them.
      path: a training path as `path_directions` takes it, whose directions are then the default;
        it is projected onto the plane by least squares.

    Returns:
      A `Plane`.

    Raises:
      ValueError: directions that are parallel, zero or unlike the params, both key and directions,
        an empty span, a resolution below 2.

    >>> bowl = lambda params, batch: jloss.average(jnp.sum(params**2) * batch)
    >>> directions = jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0])
    >>> bowl = jloss.landscape.plane(
    ...     bowl, jnp.zeros(2), jnp.ones(1), directions=directions, resolution=3
    ... )
    >>> bowl.values
    Array([[5., 1., 5.],
           [4., 0., 4.],
           [5., 1., 5.]], dtype=float32)
    """
    if resolution < 2 or resolution != int(resolution):
        raise ValueError(
            f"plane: resolution must be a whole number of at least 2, not {resolution}"
        )
    params, batch = jax.tree.map(jnp.asarray, (params, batch))
    directions = _chosen(params, key, directions, path)
    track = None if path is None else _project(params, directions, path)
    a, b = (_grid(low, high, resolution) for low, high in _reach(span, track))

    def average(params: Any, batch: Any) -> Average:
        return objective(params, batch)

    split = hoist(average, params, batch)
    common = jax.jit(split.prepare)(params, directions, batch)
    found = sweep(lambda common, a, b: split.evaluate(common, (a, b)), data=[common], a=a, b=b)
    values = found.values.value
    return Plane(jnp.asarray(a), jnp.asarray(b), values, directions, track)


@jax.jit
def _filter_pair(key: Array, leaf: Array) -> tuple[Array, Array]:
    """Two normal draws, orthogonal within each filter of the leaf and with the filter's norm."""
    wide = jnp.promote_types(leaf.dtype, jnp.float32)
    one, two = jax.random.normal(key, (2, *leaf.shape), wide)
    axes = tuple(range(leaf.ndim - 1)) if leaf.ndim > 1 else None

    def dot(x: Array, y: Array) -> Array:
        return jnp.sum(x * y, axis=axes, keepdims=True)

    if leaf.size > (leaf.shape[-1] if leaf.ndim > 1 else 1):
        two = two - one * dot(one, two) / dot(one, one)
    weights = leaf.astype(wide)
    size = jnp.sqrt(dot(weights, weights))
    one, two = (size * d / jnp.sqrt(dot(d, d)) for d in (one, two))
    return one.astype(leaf.dtype), two.astype(leaf.dtype)


def _points(caller: str, path: Any) -> tuple[np.ndarray, float, Callable[[np.ndarray], Any]]:
    """The path as rows of float64, the precision they had, and what makes params of a row."""
    if isinstance(path, list):
        shapes = {str(jax.tree.map(jnp.shape, point)) for point in path}
        if len(shapes) != 1:
            raise ValueError(
                f"{caller}: the path must be params of one structure and shape, not "
                f"{' and '.join(sorted(shapes)) or 'an empty list'}"
            )
        path = jax.tree.map(lambda *leaves: jnp.stack(leaves), *path)
    leaves = jax.tree.leaves(path)
    if not leaves or {jnp.ndim(leaf) for leaf in leaves} & {0}:
        raise ValueError(f"{caller}: the path must be a list of params, or arrays of them stacked")
    last, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.asarray(leaf)[-1], path))
    rows = [np.reshape(np.asarray(leaf, np.float64), (len(leaf), -1)) for leaf in leaves]
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"{caller}: the arrays of the path differ in length")
    precision = float(jnp.finfo(last.dtype).eps)
    return (
        np.concatenate(rows, axis=1),
        precision,
        lambda row: unravel(jnp.asarray(row, last.dtype)),
    )


def _chosen(params: Any, key: Array | None, directions: Any, path: Any) -> Directions:
    """The directions of a plane, as the arguments of `plane` ask for them, looked over."""
    if directions is not None and key is not None:
        raise ValueError("plane: give key or directions, not both")
    if directions is None and path is not None and key is None:
        directions = path_directions(path)
    if directions is None:
        directions = random_directions(jax.random.key(0) if key is None else key, params)
    directions = tuple(directions)
    if len(directions) != 2:
        raise ValueError(f"plane: two directions are needed, not {len(directions)}")
    wanted = jax.tree.map(jnp.shape, params)
    for direction in directions:
        if (found := jax.tree.map(jnp.shape, direction)) != wanted:
            raise ValueError(
                f"plane: a direction must have the structure and shapes of params, {wanted}, "
                f"not {found}"
            )
    one, two = map(_flat, directions)
    area = np.sqrt(one @ one) * np.sqrt(two @ two)
    if not (np.isfinite(area) and abs(one @ two) < (1 - 1e-6) * area):
        raise ValueError(
            "plane: the directions are parallel, zero or not finite and span no plane "
            "(random ones have the size of the params: where those are 0, so are they)"
        )
    return directions


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)])


def _project(params: Any, directions: Directions, path: Any) -> np.ndarray:
    """Coordinates of the points of the path nearest to them on the plane."""
    points, *_ = _points("plane", path)
    centre, basis = _flat(params), np.stack([_flat(d) for d in directions], axis=1)
    if points.shape[1] != len(centre):
        raise ValueError(
            f"plane: the path has {points.shape[1]} parameters, and params have {len(centre)}"
        )
    # Not lstsq, which would spread the NaN of one point over all of them.
    return (points - centre) @ np.linalg.pinv(basis).T


def _reach(span: Span | None, track: np.ndarray | None) -> list[tuple[float, float]]:
    """The first and the last coordinate along each direction."""
    if span is None and track is not None:
        return _cover(track)
    span = 1.0 if span is None else span
    sides = np.asarray([(-span, span)] * 2 if isinstance(span, (int, float)) else span, float)
    if sides.shape != (2, 2) or not np.isfinite(sides).all() or (sides[:, 0] >= sides[:, 1]).any():
        raise ValueError(
            "plane: span must be a positive number or ((a0, a1), (b0, b1)) with a0 < a1 and "
            f"b0 < b1, not {span}"
        )
    return [(float(low), float(high)) for low, high in sides]


def _cover(track: np.ndarray) -> list[tuple[float, float]]:
    """What holds the path and the centre, and a fifth of its extent on each side."""
    points = np.concatenate([track, np.zeros((1, 2))])
    points = points[np.isfinite(points).all(axis=1)]
    low, high = points.min(axis=0), points.max(axis=0)
    # A path that is flat in one direction, or stands still, still gets a plane to be seen on.
    extent = np.maximum(high - low, 0.2 * (high - low).max() or 1.0)
    middle = (low + high) / 2
    return [(float(m - 0.7 * e), float(m + 0.7 * e)) for m, e in zip(middle, extent, strict=True)]


def _grid(low: float, high: float, resolution: int) -> np.ndarray:
    """Evenly spaced, both ends exact, and the middle of a symmetric span exactly 0."""
    steps = np.arange(resolution)
    return (low * steps[::-1] + high * steps) / (resolution - 1)
