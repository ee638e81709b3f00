"""Landscapes: an objective on lines, planes and volumes through parameter space. Draws nothing."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

from jloss._affine import hoist
from jloss.average import Statistic
from jloss.objective import Objective
from jloss.sweep import Sweep, sweep

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
      off_plane: ``(n,)`` distances of the path's points from the plane. The loss under a projected
        point is not the loss at the point itself, and the less so the larger this is.
    """

    a: Array
    b: Array
    values: Array
    directions: Directions
    path: np.ndarray | None = None
    off_plane: np.ndarray | None = None

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
    batch: Any = None,
    *,
    data: Iterable[Any] | None = None,
    key: Array | None = None,
    directions: Directions | None = None,
    span: Span | None = None,
    resolution: int = 31,
    path: Any = None,
    **how: Any,
) -> Plane:
    r"""An objective around given parameters, on a plane through parameter space.

    .. math:: \text{values}_{ij} = \text{objective}(\theta + a_i d_1 + b_j d_2, \text{batch})

    What of the objective is affine in a and b, such as a first layer, is evaluated once and not at
    each point.

    Args:
      objective: ``objective(params, batch) -> Average``.
      params: the centre :math:`\theta`, where a and b are 0.
      batch: what the objective is evaluated on.
      data: batches instead, over which it is averaged exactly.
      key: for `random_directions`, which are taken if no directions and no path are given;
        ``jax.random.key(0)`` by default. Given together with a path, it asks for them.
      directions: two pytrees like the params, not parallel.
      span: how far a and b reach: a number for both and both signs, or ``((a0, a1), (b0, b1))``.
        By default 1, or with a path, what covers params and path with a margin.
      resolution: points along each direction. Odd, and a span symmetric: the centre is one of them.
      path: a training path as `path_directions` takes it, whose directions are then the default;
        it is projected onto the plane by least squares.
      how: options of `jloss.sweep`: ``batch_size``, ``memory_limit``, ``mesh``, ``out``,
        ``progress``.

    Returns:
      A `Plane`.

    Raises:
      ValueError: directions that are parallel, zero or unlike the params, both key and directions,
        an empty span, a resolution below 2, both batch and data.
      TypeError: the objective returns no `Average`.

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
    _check_resolution("plane", resolution)
    params = jax.tree.map(jnp.asarray, params)
    directions = _chosen(params, key, directions, path)
    track, off = (None, None) if path is None else _project(params, directions, path)
    a, b = (_grid(low, high, resolution) for low, high in _reach(span, track))
    found = _swept("plane", objective, params, directions, batch, data, {"a": a, "b": b}, how)
    return Plane(found.axes["a"], found.axes["b"], found.values, directions, track, off)


def line(
    objective: Objective,
    params: Any,
    batch: Any = None,
    *,
    direction: Any = None,
    to: Any = None,
    data: Iterable[Any] | None = None,
    key: Array | None = None,
    span: tuple[float, float] | None = None,
    resolution: int = 101,
    **how: Any,
) -> Sweep:
    r"""An objective along a line through parameter space.

    .. math:: \text{values}_i = \text{objective}(\theta + a_i d, \text{batch})

    Args:
      objective: ``objective(params, batch) -> Average``.
      params: where a is 0.
      batch: what the objective is evaluated on.
      direction: a pytree like the params; a random one as `random_directions` draws it if neither
        it nor ``to`` is given.
      to: other params, where a is 1, instead of a direction: the line between two solutions.
      data: batches instead of one, over which the objective is averaged exactly.
      key: for the random direction; ``jax.random.key(0)`` by default.
      span: the first and the last a; (-1, 1) by default, or (0, 1) with ``to``.
      resolution: points on the line.
      how: options of `jloss.sweep`.

    Returns:
      A `Sweep` over ``a``; `barrier` says how high the line climbs.

    Raises:
      ValueError: a direction that is zero or unlike the params, both direction and ``to``, an
        empty span, a resolution below 2, both batch and data.
      TypeError: the objective returns no `Average`.

    Source: Goodfellow, Vinyals, Saxe (2015), Qualitatively characterizing neural network
    optimization problems, ICLR.

    >>> well = lambda params, batch: jloss.average((params**2 - 1) ** 2 * batch)
    >>> between = jloss.landscape.line(
    ...     well, jnp.array(-1.0), jnp.ones(1), to=jnp.array(1.0), resolution=5
    ... )
    >>> between.values, jloss.landscape.barrier(between)
    (Array([0.    , 0.5625, 1.    , 0.5625, 0.    ], dtype=float32), Array(1., dtype=float32))
    """
    _check_resolution("line", resolution)
    if direction is not None and to is not None:
        raise ValueError("line: give direction or to, not both")
    params = jax.tree.map(jnp.asarray, params)
    if to is not None:
        _check_like("line: to", params, to)
        direction = jax.tree.map(lambda other, p: jnp.asarray(other, p.dtype) - p, to, params)
    if direction is None:
        direction, _ = random_directions(jax.random.key(0) if key is None else key, params)
    _check_like("line: a direction", params, direction)
    if not _flat(direction).any():
        raise ValueError("line: the direction is zero")
    low, high = span or ((-1.0, 1.0) if to is None else (0.0, 1.0))
    if not low < high:
        raise ValueError(f"line: span must be (a0, a1) with a0 < a1, not {span}")
    axes = {"a": _grid(low, high, resolution)}
    return _swept("line", objective, params, [direction], batch, data, axes, how)


def barrier(between: Sweep) -> Array:
    """How high a line climbs over the straight way from its first value to its last; at least 0.

    0 says that two solutions are linearly connected: none of their averages is worse.

    Source: Frankle et al. (2020), Linear mode connectivity and the lottery ticket hypothesis, ICML.

    Args:
      between: of `line`.

    Returns:
      A scalar, NaN if any value on the line is.
    """
    values, (a,) = between.numbers(), between.axes.values()
    share = (a - a[0]) / (a[-1] - a[0])
    return jnp.max(values - ((1 - share) * values[0] + share * values[-1]))


def volume(
    objective: Objective,
    params: Any,
    batch: Any = None,
    *,
    directions: tuple[Any, Any, Any],
    data: Iterable[Any] | None = None,
    span: float = 1.0,
    resolution: int = 15,
    **how: Any,
) -> Sweep:
    """An objective around given parameters, in three directions at once.

    Args:
      objective: ``objective(params, batch) -> Average``.
      params: the centre.
      batch: what the objective is evaluated on.
      directions: three pytrees like the params, which are linearly independent.
      data: batches instead of one, over which the objective is averaged exactly.
      span: how far the coordinates reach to both sides.
      resolution: points along each direction.
      how: options of `jloss.sweep`.

    Returns:
      A `Sweep` over ``a``, ``b`` and ``c``.

    Raises:
      ValueError: directions that are dependent, zero or unlike the params, an empty span, a
        resolution below 2, both batch and data.
      TypeError: the objective returns no `Average`.

    >>> bowl = lambda params, batch: jloss.average(jnp.sum(params**2) * batch)
    >>> found = jloss.landscape.volume(
    ...     bowl, jnp.zeros(3), jnp.ones(1), directions=tuple(jnp.eye(3)), resolution=3
    ... )
    >>> found.shape, float(found.values[0, 1, 2])
    ((3, 3, 3), 2.0)
    """
    _check_resolution("volume", resolution)
    params = jax.tree.map(jnp.asarray, params)
    directions = _independent("volume", params, directions, 3)
    ((low, high), _) = _reach(span, None)
    axes = {name: _grid(low, high, resolution) for name in "abc"}
    return _swept("volume", objective, params, directions, batch, data, axes, how)


def _swept(
    caller: str,
    objective: Objective,
    params: Any,
    directions: Sequence[Any],
    batch: Any,
    data: Iterable[Any] | None,
    axes: dict[str, np.ndarray],
    how: dict[str, Any],
) -> Sweep:
    """The values of an objective over coordinates along the directions."""
    if (batch is None) == (data is None):
        raise ValueError(f"{caller}: give a batch, or data with batches, and not both")
    batches: Iterable[Any] = [batch] if data is None else data
    example = next(walk := iter(batches), None)
    if example is None:
        raise ValueError(f"{caller}: data has no batches")
    again = map if walk is batches else _Again
    if walk is batches:
        batches = itertools.chain([example], walk)

    def averaged(params: Any, batch: Any) -> Statistic:
        found = objective(params, batch)
        found = found[0] if isinstance(found, tuple) else found
        if not isinstance(found, Statistic):
            raise TypeError(
                f"{caller}: the objective must return jloss.average(...), not "
                f"{type(found).__name__}"
            )
        return found

    splits = {}

    def hoisted(batch: Any) -> Partial:
        """The objective on a batch as a function of the coordinates: a pytree, and so data."""
        leaves, structure = jax.tree.flatten(batch)
        kind = structure, tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        if kind not in splits:
            split = hoist(averaged, params, batch)
            splits[kind] = split.evaluate, jax.jit(split.prepare)
        evaluate, prepare = splits[kind]
        return Partial(evaluate, prepare(params, directions, batch))

    plain = Partial(lambda batch, at: averaged(_moved(params, directions, at), batch), example)
    if _pays(hoisted(example), plain, [jnp.zeros(()) for _ in axes]):
        batches = again(hoisted, batches)
    else:
        batches = again(lambda batch: Partial(plain.func, batch), batches)

    options: dict[str, Any] = {**how, **axes}
    found = sweep(lambda batch, **at: batch([*at.values()]), data=batches, **options)
    return Sweep(found.axes, found.values.value)


def _moved(params: Any, directions: Sequence[Any], coordinates: Sequence[Any]) -> Any:
    def move(p: Array, *steps: Array) -> Array:
        for coordinate, step in zip(coordinates, steps, strict=True):
            p += (coordinate * step).astype(p.dtype)
        return p

    return jax.tree.map(move, params, *directions)


def _pays(hoisted: Partial, plain: Partial, at: list[Array]) -> bool:
    """Whether a point takes less arithmetic with what is done once than without."""
    analyses: list[Any] = [
        jax.jit(lambda f, at: f(at)).lower(f, at).cost_analysis() for f in (hoisted, plain)
    ]
    return analyses[0]["flops"] < 0.95 * analyses[1]["flops"]


class _Again:
    """`map` that can be walked as often as what it maps over."""

    def __init__(self, function: Callable[[Any], Any], data: Iterable[Any]):
        self._function, self._data = function, data

    def __iter__(self) -> Any:
        return map(self._function, self._data)


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
    return _independent("plane", params, directions, 2)


def _independent(caller: str, params: Any, directions: Any, count: int) -> tuple[Any, ...]:
    directions = tuple(directions)
    if len(directions) != count:
        number = {2: "two", 3: "three"}[count]
        raise ValueError(f"{caller}: {number} directions are needed, not {len(directions)}")
    for direction in directions:
        _check_like(f"{caller}: a direction", params, direction)
    rows = np.stack(list(map(_flat, directions)))
    sizes = np.linalg.norm(rows, axis=1)
    # The sine of the smallest angle between one and the span of the others is about this.
    if not (np.isfinite(sizes).all() and sizes.all()) or (
        np.linalg.svd(rows / sizes[:, None], compute_uv=False)[-1] < 1e-3
    ):
        raise ValueError(
            f"{caller}: the directions are parallel, zero or not finite and span no {caller} "
            "(random ones have the size of the params: where those are 0, so are they)"
        )
    return directions


def _check_like(what: str, params: Any, other: Any) -> None:
    wanted, found = (jax.tree.map(jnp.shape, tree) for tree in (params, other))
    if found != wanted:
        raise ValueError(
            f"{what} must have the structure and shapes of params, {wanted}, not {found}"
        )


def _check_resolution(caller: str, resolution: int) -> None:
    if resolution < 2 or resolution != int(resolution):
        raise ValueError(
            f"{caller}: resolution must be a whole number of at least 2, not {resolution}"
        )


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)])


def _project(params: Any, directions: Directions, path: Any) -> tuple[np.ndarray, np.ndarray]:
    """For each point of the path the coordinates of the nearest on the plane, and how far it is."""
    points, *_ = _points("plane", path)
    centre, basis = _flat(params), np.stack([_flat(d) for d in directions], axis=1)
    if points.shape[1] != len(centre):
        raise ValueError(
            f"plane: the path has {points.shape[1]} parameters, and params have {len(centre)}"
        )
    # Not lstsq, which would spread the NaN of one point over all of them.
    away = points - centre
    track = away @ np.linalg.pinv(basis).T
    return track, np.linalg.norm(away - track @ basis.T, axis=1)


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
