"""Lines, planes and volumes: an objective on the span of directions around given parameters."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jloss.landscape._directions import (
    Directions,
    as_points,
    check_finite,
    check_like,
    flat,
    independent,
    path_directions,
    random_directions,
    solution_directions,
)
from jloss.landscape._evaluate import Judged, at_points, on_span, swept
from jloss.landscape._refine import Refined, refine
from jloss.landscape._smoothness import PlaneCurvature, plane_curvature
from jloss.objective import Objective
from jloss.sweep import Sweep

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
      metrics: what else was measured, by name: arrays like ``values``, perhaps with more axes.
      solutions: ``(2, 2)`` coordinates of the other solutions that the plane goes through.
      curvature: within the plane, against the largest there is, if it was measured.
      refined: what ``values`` were interpolated from, and how well, if there was a budget.
    """

    a: Array
    b: Array
    values: Array
    directions: Directions
    path: np.ndarray | None = None
    off_plane: np.ndarray | None = None
    metrics: Mapping[str, Array] = field(default_factory=dict)
    solutions: np.ndarray | None = None
    curvature: PlaneCurvature | None = None
    refined: Refined | None = None

    def numbers(self, name: str | None = None) -> Array:
        """The values, or those of a metric, one number per point.

        Args:
          name: of a metric; ``"loss"`` or None for the objective.

        Returns:
          An array like ``values``.

        Raises:
          ValueError: there is no such metric, or it is more than one number per point.
        """
        known = {"loss": self.values, **self.metrics}
        name = name or "loss"
        if name not in known:
            raise ValueError(f"Plane: no values named {name!r}; there are {', '.join(known)}")
        if known[name].shape != self.values.shape:
            raise ValueError(
                f"Plane: one number per point is needed, and {name} is {known[name].shape} on a "
                f"grid of {self.values.shape}"
            )
        return known[name]

    def plot(self, kind: str = "contour", name: str | None = None, ax: Any = None) -> Any:
        """Draws the plane (needs matplotlib).

        Args:
          kind: ``"contour"`` or ``"surface"``.
          name: of a metric, to be drawn instead of the objective.
          ax: the matplotlib Axes to draw into (three-dimensional ones for a surface); new ones
            if not given.

        Returns:
          The Axes.

        Raises:
          ValueError: there is no such kind, or no such metric.
          ImportError: matplotlib is missing.
        """
        from jloss import plot

        kinds = {"contour": plot.contour, "surface": plot.surface}
        if kind not in kinds:
            raise ValueError(f"Plane.plot: kind must be one of {', '.join(kinds)}, not {kind!r}")
        return kinds[kind](self, name=name, ax=ax)


def plane(
    objective: Objective,
    params: Any,
    batch: Any = None,
    *,
    data: Iterable[Any] | None = None,
    key: Array | None = None,
    directions: Directions | None = None,
    to: tuple[Any, Any] | None = None,
    span: Span | None = None,
    resolution: int = 31,
    path: Any = None,
    metrics: Mapping[str, Objective] | None = None,
    model_state: Any = None,
    budget: int | None = None,
    curvature: bool | None = None,
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
      data: batches instead, over which it is averaged exactly. On a processor some hundred rows
        each are fastest: what is evaluated once for all points then stays in its caches.
      key: for `random_directions`, which are taken if no directions, solutions or path are given;
        ``jax.random.key(0)`` by default. Given together with a path, it asks for them.
      directions: two pytrees like the params, not parallel: your own, or of `random_directions`
        (with other normalisations, or in a part of the tree), `hessian_directions`.
      to: two other solutions, instead of directions: the plane through all three, as
        `solution_directions` spans it.
      span: how far a and b reach: a number for both and both signs, or ``((a0, a1), (b0, b1))``.
        By default 1, or with a path or solutions, what covers them and params with a margin.
      resolution: points along each direction. Odd, and a span symmetric: the centre is one of them.
      path: a training path as `path_directions` takes it, whose directions are then the default;
        it is projected onto the plane by least squares.
      metrics: other functions like the objective, by name, measured in the same pass: accuracy,
        `gradient_norm`, `plane_hessian`.
      model_state: for objectives with an argument of that name, such as statistics of a batch
        normalisation; it stays as it is.
      budget: evaluate so many points at most, where the surface bends, and interpolate those of
        the grid from them (`refine`); `Plane.refined` says how well. Without metrics and options.
      curvature: whether to measure the plane's curvature against the largest there is, as
        `plane_curvature` does, in some tens of Hessian products. If not given, it is measured for
        random directions, which miss most of what is steep; where that fails, for the objective has
        no second derivative or data cannot be walked again, a warning says so, and the picture.
      how: options of `jloss.sweep`: ``batch_size``, ``memory_limit``, ``mesh``, ``out``,
        ``progress``.

    Returns:
      A `Plane`.

    Raises:
      ValueError: directions that are parallel, zero or unlike the params, two of key, directions
        and to, an empty span, a resolution below 2, both batch and data, params or solutions that
        hold NaN.
      TypeError: the objective or a metric returns no `Average`, or one of an array; params that are
        not floating.

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
    check_resolution("plane", resolution)
    params = _looked_over("plane", params)
    is_random = directions is None and to is None and (path is None or key is not None)
    directions = _chosen(params, key, directions, to, path)
    track, off = (None, None) if path is None else _project(params, directions, path)
    solutions = None if to is None else _project(params, directions, list(to))[0]
    shown = [places for places in (track, solutions) if places is not None]
    a, b = (grid(low, high, resolution) for low, high in reach("plane", span, shown))
    judged = Judged("plane", objective, metrics, model_state)
    given = {"directions": directions, "data": data, "model_state": model_state}
    measured = partial(plane_curvature, objective, params, batch, **given)
    bend = measured() if curvature else None
    if budget is not None:
        if metrics or how:
            raise ValueError(
                "plane: budget goes without metrics and options of sweep, as nothing but the "
                "objective is interpolated"
            )
        surface = _refined(judged, params, directions, batch, data, (a, b), budget)
        loss, values = jnp.asarray(surface(a, b), jnp.float32), {}
        a, b = jnp.asarray(a), jnp.asarray(b)
    else:
        surface = None
        found = swept(judged, params, directions, batch, data, {"a": a, "b": b}, how)
        values = found.values if metrics else {"loss": found.values}
        loss = values.pop("loss")
        a, b = found.axes["a"], found.axes["b"]
    if curvature is None and is_random:
        try:
            bend = measured()
        except (TypeError, ValueError) as error:
            warnings.warn(f"plane: the steepest direction is not known: {error}", stacklevel=2)
    return Plane(a, b, loss, directions, track, off, values, solutions, bend, surface)


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
    metrics: Mapping[str, Objective] | None = None,
    model_state: Any = None,
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
      metrics: as for `plane`.
      model_state: as for `plane`.
      how: options of `jloss.sweep`.

    Returns:
      A `Sweep` over ``a``; `barrier` says how high the line climbs. With metrics, its values are a
      dictionary of them and of ``"loss"``.

    Raises:
      ValueError: a direction that is zero or unlike the params, both direction and ``to``, an
        empty span, a resolution below 2, both batch and data, params that hold NaN.
      TypeError: the objective returns no `Average`, or params are not floating.

    Source: Goodfellow, Vinyals, Saxe (2015), Qualitatively characterizing neural network
    optimization problems, ICLR.

    >>> well = lambda params, batch: jloss.average((params**2 - 1) ** 2 * batch)
    >>> between = jloss.landscape.line(
    ...     well, jnp.array(-1.0), jnp.ones(1), to=jnp.array(1.0), resolution=5
    ... )
    >>> between.values, jloss.landscape.barrier(between)
    (Array([0.    , 0.5625, 1.    , 0.5625, 0.    ], dtype=float32), Array(1., dtype=float32))
    """
    params, direction, a = along("line", params, direction, to, key, span, resolution)
    judged = Judged("line", objective, metrics, model_state)
    return swept(judged, params, [direction], batch, data, {"a": a}, how)


def barrier(between: Sweep, name: str | None = None) -> Array:
    """How high a line climbs over the straight way from its first value to its last; at least 0.

    0 says that two solutions are linearly connected: none of their averages is worse.

    Source: Frankle et al. (2020), Linear mode connectivity and the lottery ticket hypothesis, ICML.

    Args:
      between: of `line`.
      name: which of the values, where there are metrics.

    Returns:
      A scalar, NaN if any value on the line is.
    """
    values, (a,) = between.numbers(name), between.axes.values()
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
    metrics: Mapping[str, Objective] | None = None,
    model_state: Any = None,
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
      metrics: as for `plane`.
      model_state: as for `plane`.
      how: options of `jloss.sweep`.

    Returns:
      A `Sweep` over ``a``, ``b`` and ``c``. With metrics, its values are a dictionary of them and
      of ``"loss"``.

    Raises:
      ValueError: directions that are dependent, zero or unlike the params, an empty span, a
        resolution below 2, both batch and data, params that hold NaN.
      TypeError: the objective returns no `Average`, or params are not floating.

    >>> bowl = lambda params, batch: jloss.average(jnp.sum(params**2) * batch)
    >>> found = jloss.landscape.volume(
    ...     bowl, jnp.zeros(3), jnp.ones(1), directions=tuple(jnp.eye(3)), resolution=3
    ... )
    >>> found.shape, float(found.values[0, 1, 2])
    ((3, 3, 3), 2.0)
    """
    check_resolution("volume", resolution)
    params = _looked_over("volume", params)
    directions = independent("volume", params, directions, 3)
    ((low, high), _) = reach("volume", span, [])
    axes = {name: grid(low, high, resolution) for name in "abc"}
    judged = Judged("volume", objective, metrics, model_state)
    return swept(judged, params, directions, batch, data, axes, how)


def along(
    caller: str,
    params: Any,
    direction: Any,
    to: Any,
    key: Array | None,
    span: tuple[float, float] | None,
    resolution: int,
) -> tuple[Any, Any, np.ndarray]:
    """Params, direction and coordinates of a line, as the arguments of `line` ask for them."""
    check_resolution(caller, resolution)
    if direction is not None and to is not None:
        raise ValueError(f"{caller}: give direction or to, not both")
    params = _looked_over(caller, params)
    if to is not None:
        check_like(f"{caller}: to", params, to)
        check_finite(f"{caller}: to", to)
        direction = jax.tree.map(lambda other, p: jnp.asarray(other, p.dtype) - p, to, params)
    if direction is None:
        direction, _ = random_directions(jax.random.key(0) if key is None else key, params)
    check_like(f"{caller}: a direction", params, direction)
    check_finite(f"{caller}: the direction", direction)
    if not flat(direction).any():
        raise ValueError(f"{caller}: the direction is zero")
    low, high = span or ((-1.0, 1.0) if to is None else (0.0, 1.0))
    if not low < high:
        raise ValueError(f"{caller}: span must be (a0, a1) with a0 < a1, not {span}")
    return params, direction, grid(low, high, resolution)


def _looked_over(caller: str, params: Any) -> Any:
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(params)]
    wrong = {str(leaf.dtype) for leaf in leaves if not jnp.issubdtype(leaf.dtype, jnp.floating)}
    if wrong or not leaves:
        raise TypeError(
            f"{caller}: params must be floating arrays, not {', '.join(sorted(wrong)) or 'none'}; "
            "keep what is not trained out of params"
        )
    check_finite(f"{caller}: params", params)
    return jax.tree.map(jnp.asarray, params)


def _refined(
    judged: Judged,
    params: Any,
    directions: Directions,
    batch: Any,
    data: Iterable[Any] | None,
    axes: tuple[np.ndarray, np.ndarray],
    budget: int,
) -> Refined:
    functions = list(on_span(judged, params, directions, batch, data))

    def values(points: np.ndarray) -> np.ndarray:
        return np.asarray(at_points(judged, functions, points))

    (low, *_, high), (bottom, *_, top) = axes
    return refine(values, ((low, high), (bottom, top)), budget)


def _chosen(params: Any, key: Array | None, directions: Any, to: Any, path: Any) -> Directions:
    """The directions of a plane, as the arguments of `plane` ask for them, looked over."""
    given = {"key": key, "directions": directions, "to": to}
    given = [name for name, value in given.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"plane: give {' or '.join(given)}, not both")
    if to is not None:
        directions = solution_directions(params, *to)
    elif directions is None and path is not None and key is None:
        directions = path_directions(path)
    if directions is None:
        directions = random_directions(jax.random.key(0) if key is None else key, params)
    return independent("plane", params, directions, 2)


def check_resolution(caller: str, resolution: int) -> None:
    """Refuses what is not a number of points."""
    if resolution < 2 or resolution != int(resolution):
        raise ValueError(
            f"{caller}: resolution must be a whole number of at least 2, not {resolution}"
        )


def _project(params: Any, directions: Directions, path: Any) -> tuple[np.ndarray, np.ndarray]:
    """For each point of the path the coordinates of the nearest on the plane, and how far it is."""
    points, *_ = as_points("plane", path)
    centre, basis = flat(params), np.stack([flat(d) for d in directions], axis=1)
    if points.shape[1] != len(centre):
        raise ValueError(
            f"plane: the path has {points.shape[1]} parameters, and params have {len(centre)}"
        )
    # Not lstsq, which would spread the NaN of one point over all of them.
    away = points - centre
    track = away @ np.linalg.pinv(basis).T
    return track, np.linalg.norm(away - track @ basis.T, axis=1)


def reach(caller: str, span: Span | None, shown: list[np.ndarray]) -> list[tuple[float, float]]:
    """The first and the last coordinate along each direction."""
    if span is None and shown:
        return _cover(np.concatenate(shown))
    span = 1.0 if span is None else span
    sides = np.asarray([(-span, span)] * 2 if isinstance(span, (int, float)) else span, float)
    if sides.shape != (2, 2) or not np.isfinite(sides).all() or (sides[:, 0] >= sides[:, 1]).any():
        raise ValueError(
            f"{caller}: span must be a positive number or ((a0, a1), (b0, b1)) with a0 < a1 and "
            f"b0 < b1, not {span}"
        )
    return [(float(low), float(high)) for low, high in sides]


def _cover(shown: np.ndarray) -> list[tuple[float, float]]:
    """What holds the places and the centre, and a fifth of their extent on each side."""
    points = np.concatenate([shown, np.zeros((1, 2))])
    points = points[np.isfinite(points).all(axis=1)]
    low, high = points.min(axis=0), points.max(axis=0)
    # A path that is flat in one direction, or stands still, still gets a plane to be seen on.
    extent = np.maximum(high - low, 0.2 * (high - low).max() or 1.0)
    middle = (low + high) / 2
    return [(float(m - 0.7 * e), float(m + 0.7 * e)) for m, e in zip(middle, extent, strict=True)]


def grid(low: float, high: float, resolution: int) -> np.ndarray:
    """Evenly spaced, both ends exact, and the middle of a symmetric span exactly 0."""
    steps = np.arange(resolution)
    return (low * steps[::-1] + high * steps) / (resolution - 1)
