"""Bands: several draws of one line or plane, and whether a bump in them is real."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from jloss.landscape._evaluate import Judged, as_batches, at_points, on_span
from jloss.landscape._planes import Plane, along
from jloss.objective import Objective
from jloss.sweep import Sweep


class Bump(NamedTuple):
    """How high the draws of a line climb over the straight way between its ends.

    Attributes:
      at: the coordinate at which half of them climb highest.
      height: how high, measured in other draws than those that chose the place.
      half_width: of the 95% t-interval of the height.
    """

    at: float
    height: float
    half_width: float

    @property
    def real(self) -> bool:
        """Whether the interval lies above 0."""
        return self.height > self.half_width


@dataclass(frozen=True)
class Bands:
    """Several draws of the same coordinates, as by different batches or seeds.

    Attributes:
      axes: the coordinates by name, as of a `Sweep`.
      draws: ``(k, ...)``, a draw of the grid in each row.
    """

    axes: dict[str, Array]
    draws: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """The mean of the draws at each point."""
        return self.draws.mean(axis=0)

    @property
    def half_width(self) -> np.ndarray:
        """The half-width of the mean's 95% t-interval at each point."""
        return half_width(self.draws)

    def bump(self) -> Bump:
        """Whether the line climbs, or only seems to because the highest of many points is taken.

        Every other draw helps to choose the place, and the height is measured in the rest of them,
        so that chance cannot raise it.

        Returns:
          A `Bump`.

        Raises:
          ValueError: the draws are not of a line, or fewer than four.

        >>> a = jnp.linspace(0, 1, 5)
        >>> draws = [jloss.sweep(lambda a, s=s: s * a * (1 - a), a=a) for s in (3.9, 4.0, 4.1, 4.0)]
        >>> found = jloss.landscape.bands(draws).bump()
        >>> found.at, round(found.height, 4), found.real
        (0.5, 1.0, True)
        """
        if len(self.axes) != 1:
            raise ValueError(
                f"Bands.bump: draws of a line are needed, not of {len(self.axes)} axes"
            )
        if len(self.draws) < 4:
            raise ValueError(f"Bands.bump: at least four draws are needed, not {len(self.draws)}")
        a = np.asarray(*self.axes.values(), dtype=np.float64)
        share = (a - a[0]) / (a[-1] - a[0])
        excess = self.draws - self.draws[:, :1] * (1 - share) - self.draws[:, -1:] * share
        # Not by all but one in turn: they choose nearly the same place, which is no test of it.
        place = int(excess[::2].mean(axis=0).argmax())
        heights = excess[1::2, place]
        return Bump(float(a[place]), float(heights.mean()), float(half_width(heights)))

    def plot(self, ax: Any = None) -> Any:
        """Draws the mean of a line with its band: `jloss.plot.band` (needs matplotlib)."""
        from jloss import plot

        return plot.band(self, ax=ax)


def bands(draws: Sequence[Sweep | Plane], name: str | None = None) -> Bands:
    """Draws put together: of `lines`, of lines by several seeds or between several solutions.

    Args:
      draws: sweeps over the same coordinates, two at least; or planes, as of one batch each.
      name: which of their values, where there are several.

    Returns:
      `Bands`.

    Raises:
      ValueError: fewer than two draws, or of different coordinates.

    >>> a = jnp.linspace(-1, 1, 3)
    >>> found = jloss.landscape.bands([jloss.sweep(lambda a, s=s: a + s, a=a) for s in (1.0, 3.0)])
    >>> found.mean.tolist()
    [1.0, 2.0, 3.0]
    """
    if len(draws) < 2:
        raise ValueError(f"bands: at least two draws are needed, not {len(draws)}")
    first, *others = map(_axes, draws)
    for other in others:
        if list(first) != list(other) or not all(
            np.array_equal(first[name], other[name]) for name in first
        ):
            raise ValueError("bands: the draws must be over the same coordinates")
    return Bands(first, np.stack([np.asarray(d.numbers(name), np.float64) for d in draws]))


def _axes(draw: Sweep | Plane) -> dict[str, Any]:
    return {"a": draw.a, "b": draw.b} if isinstance(draw, Plane) else draw.axes


def lines(
    objective: Objective,
    params: Any,
    data: Iterable[Any],
    *,
    direction: Any = None,
    to: Any = None,
    key: Array | None = None,
    span: tuple[float, float] | None = None,
    resolution: int = 101,
    metrics: Mapping[str, Objective] | None = None,
    model_state: Any = None,
) -> list[Sweep]:
    """The same line on each batch by itself, for `bands`; compiled once for batches of one shape.

    Args:
      objective: ``objective(params, batch) -> Average``.
      params: as for `line`.
      data: the batches.
      direction: as for `line`.
      to: as for `line`.
      key: as for `line`.
      span: as for `line`.
      resolution: as for `line`.
      metrics: as for `line`.
      model_state: as for `line`.

    Returns:
      A `Sweep` over ``a`` for each batch.

    Raises:
      ValueError: as for `line`.
      TypeError: as for `line`.

    >>> bowl = lambda params, batch: jloss.average(batch * params**2)
    >>> found = jloss.landscape.lines(
    ...     bowl, jnp.array(1.0), [jnp.ones(2), 3 * jnp.ones(2)], to=jnp.array(3.0), resolution=3
    ... )
    >>> [draw.values.tolist() for draw in found]
    [[1.0, 4.0, 9.0], [3.0, 12.0, 27.0]]
    """
    params, direction, a = along("lines", params, direction, to, key, span, resolution)
    judged = Judged("lines", objective, metrics, model_state)
    data, _ = as_batches("lines", None, data)
    return [
        Sweep({"a": a}, at_points(judged, [function], a[:, None]))
        for function in on_span(judged, params, [direction], None, data)
    ]


def half_width(draws: np.ndarray) -> np.ndarray:
    """That of the 95% t-interval of the mean along the first axis."""
    from scipy.special import stdtrit

    count = len(draws)
    return stdtrit(count - 1, 0.975) * draws.std(axis=0, ddof=1) / np.sqrt(count)
