"""Refinement: a budget of points, spent where a surface bends, and what lies between them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

# Lines along each axis to begin with, and points kept aside: 59 of them judge 95% of the area.
_FIRST, _ASIDE = 7, 59
FEWEST = _FIRST**2 + 20


class InterpolationError(NamedTuple):
    """How far the interpolation is off, at random points that it has not seen.

    Attributes:
      largest: the largest error among them.
      typical: the root of their mean square.
      points: how many there are.
    """

    largest: float
    typical: float
    points: int

    @property
    def beyond(self) -> float:
        """At most this share of the area errs more than ``largest``, with 95% confidence.

        If the share were ``s``, all points would miss it with probability ``(1 - s) ** points``.
        """
        return float(1 - 0.05 ** (1 / self.points))


@dataclass(frozen=True)
class Refined:
    """A bicubic spline through the values on lines that are denser where the surface bends.

    Attributes:
      a: coordinates of the lines along the first axis.
      b: coordinates of the lines along the second axis.
      values: ``(len(a), len(b))``.
      error: at points kept aside.
      evaluated: all points that were evaluated, those kept aside included.
    """

    a: np.ndarray
    b: np.ndarray
    values: np.ndarray
    error: InterpolationError
    evaluated: int

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The surface on the grid of these coordinates, in rising order, within the range."""
        return self.spline(a, b)

    @property
    def spline(self) -> Any:
        """The `scipy.interpolate.RectBivariateSpline`, with its derivatives and integrals."""
        from scipy.interpolate import RectBivariateSpline

        return RectBivariateSpline(self.a, self.b, self.values)


def refine(
    function: Callable[[np.ndarray], np.ndarray],
    ranges: tuple[tuple[float, float], tuple[float, float]],
    budget: int,
    seed: int = 0,
) -> Refined:
    """A surface by so many points, spent where it bends.

    Begins with a coarse grid and halves the intervals next to those lines that a spline through
    all others misses most. Points at random, an eighth of the budget, are kept aside for the error.

    Args:
      function: ``(k, 2)`` points to ``(k,)`` values.
      ranges: the first and last coordinate along each axis.
      budget: points to be evaluated at most; 69 at least.
      seed: of the random points.

    Returns:
      The `Refined` surface.

    Raises:
      ValueError: too small a budget, or a value that is not finite.

    >>> bump = lambda points: jnp.exp(-4 * (points**2).sum(1))
    >>> found = jloss.landscape.refine(bump, ((-1, 1), (-1, 1)), budget=200)
    >>> found.evaluated <= 200, found.error.largest < 0.01
    (True, True)
    """
    if budget < FEWEST:
        raise ValueError(f"refine: a budget of at least {FEWEST} points is needed, not {budget}")
    aside = min(_ASIDE, max(20, budget // 8))
    left = budget - aside
    axes = [np.linspace(*ends, _FIRST) for ends in ranges]
    values = _on_grid(function, *axes)
    left -= values.size
    while True:
        wanted = _wanted(axes, values, left)
        if not any(map(len, wanted)):
            break
        for axis, new in enumerate(wanted):
            if len(new):
                grid = [new, axes[1]] if axis == 0 else [axes[0], new]
                more = _on_grid(function, *grid)
                left -= more.size
                order = np.argsort(together := np.concatenate([axes[axis], new]))
                axes[axis] = together[order]
                values = np.take(np.concatenate([values, more], axis), order, axis)
    low, high = np.transpose(ranges)
    places = np.random.default_rng(seed).uniform(low, high, (aside, 2))
    a, b = axes
    surface = Refined(a, b, values, InterpolationError(0.0, 0.0, aside), budget - left)
    off = abs(surface.spline(*places.T, grid=False) - _finite(function(places), places))
    error = InterpolationError(float(off.max()), float(np.sqrt(np.mean(off**2))), aside)
    return Refined(a, b, values, error, budget - left)


def _on_grid(function: Callable, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    points = np.stack(np.meshgrid(a, b, indexing="ij"), axis=-1).reshape(-1, 2)
    return _finite(function(points), points).reshape(len(a), len(b))


def _finite(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        a, b = points[~np.isfinite(values)][0]
        raise ValueError(
            f"refine: the value at ({a:.4g}, {b:.4g}) is not finite, and nothing can be "
            "interpolated across it; take a smaller span, or a plain grid, which shows such places"
        )
    return values


def _wanted(axes: list[np.ndarray], values: np.ndarray, left: int) -> list[np.ndarray]:
    """The next lines along each axis, those of largest error first, as far as the points reach."""
    candidates = []
    for axis, at in enumerate(axes):
        rows = values if axis == 0 else values.T
        error = _missed(at, rows)
        middles = (at[1:] + at[:-1]) / 2
        scores = np.maximum(error[1:], error[:-1])
        candidates += [(score, axis, m) for score, m in zip(scores, middles, strict=True)]
    candidates.sort(reverse=True)
    highest, chosen = candidates[0][0], ([], [])
    for score, axis, middle in candidates:
        counts = [len(at) + len(new) for at, new in zip(axes, chosen, strict=True)]
        counts[axis] += 1
        if score < 0.25 * highest or counts[0] * counts[1] - values.size > left:
            break
        chosen[axis].append(middle)
    return [np.sort(np.asarray(new, np.float64)) for new in chosen]


def _missed(at: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """By how much a spline through all other lines misses each; the first and last as the next."""
    from scipy.interpolate import make_interp_spline

    found = np.empty(len(at))
    for number in range(1, len(at) - 1):
        others = np.delete(np.arange(len(at)), number)
        spline = make_interp_spline(at[others], rows[others])
        found[number] = abs(spline(at[number]) - rows[number]).max()
    found[0], found[-1] = found[1], found[-2]
    return found
