"""What pictures share: figures, scales, levels, marks and notes. Knows no picture."""

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jloss._grid import BLUE, COLORMAP, GREY, ORANGE, Axis, grid, scale
from jloss._optional import optional
from jloss.landscape import Plane
from jloss.sweep import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", GREY)
_GAP = {"facecolor": "#e8e8e8", "edgecolor": "#9a9a9a", "hatch": "////", "linewidth": 0.0}
_LEVELS = 21


class _Field(NamedTuple):
    x: Axis
    y: Axis
    values: np.ndarray
    label: str


def _field(caller: str, source: Plane | Sweep, name: str | None) -> _Field:
    if isinstance(source, Sweep) and (len(source.axes) != 2 or min(source.shape) < 2):
        raise ValueError(
            f"{caller}: two axes of at least two points are needed, not {source.shape}; "
            "a sweep over one axis is drawn by line"
        )
    drawn = grid(source, name)
    x, y = drawn.axes
    return _Field(x, y, drawn.values, drawn.label)


def _axes(**kind: Any) -> "Axes":
    """Axes on a figure of their own."""
    return _figure((5.6, 4.2)).add_subplot(**kind)


def _figure(size: tuple[float, float]) -> Any:
    """A new figure; of pyplot, which keeps figures, only where that shows them."""
    ipython = sys.modules.get("IPython")
    running = ipython is not None and ipython.get_ipython() is not None
    if running or "matplotlib.pyplot" in sys.modules:
        make = optional("matplotlib.pyplot", "plot").figure
    else:
        make = optional("matplotlib.figure", "plot").Figure
    return make(figsize=size, layout="constrained")


def _levels(values: np.ma.MaskedArray) -> tuple[np.ndarray, dict[str, Any]]:
    """Levels that cover the values, and how `contourf` is to colour them."""
    low, high = float(values.min()), float(values.max())
    if scale(values.compressed()) == "log":
        norm = optional("matplotlib.colors", "plot").LogNorm
        return np.geomspace(low, high, _LEVELS), {"norm": norm(low, high)}
    if low == high:  # a flat field has one colour, in the middle of the scale
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    ticks = optional("matplotlib.ticker", "plot").MaxNLocator(_LEVELS).tick_values(low, high)
    return ticks, {}


def _add_colorbar(ax: "Axes", filled: Any, levels: np.ndarray, field: _Field) -> None:
    logarithmic = scale(field.values) == "log"
    ticks = {"ticks": levels[::5], "format": "%.2g"} if logarithmic else {}
    bar = ax.figure.colorbar(filled, ax=ax, label=field.label, **ticks)
    bar.ax.minorticks_off()


def _add_path(ax: "Axes", plane: Plane) -> None:
    style = {"color": "white", "markeredgecolor": "black", "markeredgewidth": 0.6}
    if plane.path is not None:
        ax.plot(*plane.path.T, "-", color="black", linewidth=2.4)
        ax.plot(*plane.path.T, ".-", linewidth=1.2, markersize=6, label="training path", **style)
        ax.plot(*plane.path[0], "s", markersize=7, label="its start", **style)
        _number_path(ax, plane)
    if plane.solutions is not None:
        ax.plot(*plane.solutions.T, "D", markersize=7, label="other solutions", **style)
    ax.plot(0, 0, "*", color=ORANGE, markeredgecolor="white", markersize=13, label="params")
    if notes := "\n".join(_notes(plane)):
        # Below the label of the axis, where it hides nothing.
        place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
        ax.annotate(notes, (0.5, 0), (0, -34), ha="center", va="top", fontsize="small", **place)


def _number_path(ax: "Axes", plane: Plane) -> None:
    """Numbers and distances at a few points of the path that are far enough from each other."""
    track, off = np.asarray(plane.path), np.asarray(plane.off_plane)
    size = np.array([np.ptp(np.asarray(axis)) for axis in (plane.a, plane.b)])
    shown: list[int] = []
    for number in [0, len(track) - 1, *range(1, len(track) - 1)]:
        gaps = abs(track[shown] - track[number]) / size
        if np.isfinite(track[number]).all() and not ((gaps < (0.34, 0.09)).all(axis=1)).any():
            shown.append(number)
    for number in shown[:8]:
        left = track[number][0] > np.asarray(plane.a).mean()
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0}
        ax.annotate(
            f"{number}: {off[number]:.2g} off",
            tuple(track[number]),
            (-7 if left else 7, 7),
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize="x-small",
            bbox=box,
        )


def _notes(plane: Plane) -> list[str]:
    """What nobody should read into the picture."""
    notes = []
    if plane.off_plane is not None:
        farthest = np.nanmax(np.append(plane.off_plane, 0.0))
        notes.append(f"The path (numbered) is projected, from up to {farthest:.2g} off the plane:")
        notes.append("the contour under it is not the loss on it.")
    if plane.curvature is not None:
        low, high = plane.curvature.plane
        notes.append(f"Curvature at the centre: {low:.2g} to {high:.2g} in this plane,")
        notes.append(f"{plane.curvature.largest:.3g} in the steepest direction.")
    elif plane.path is None and plane.solutions is None:
        notes.append("Steeper directions may be missing: curvature=True compares.")
    if plane.refined is not None:
        error = plane.refined.error
        used = plane.refined.evaluated - error.points
        notes.append(f"Interpolated from {used} points,")
        notes.append(f"off by {error.largest:.2g} at most at {error.points} others.")
    return notes


def _add_legend(ax: "Axes", gaps: bool) -> None:
    """Above the picture, where it hides nothing."""
    handles, _ = ax.get_legend_handles_labels()
    if gaps:
        handles.append(optional("matplotlib.patches", "plot").Patch(label="not finite", **_GAP))
    if handles:
        above: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0)}
        ax.legend(handles=handles, ncols=4, frameon=False, fontsize="small", **above)


def _thin_ticks(*axes: Any) -> None:
    """Few enough ticks that their labels do not run into each other."""
    for axis in axes:
        if axis.get_scale() == "linear":
            ticks = optional("matplotlib.ticker", "plot").MaxNLocator(5, steps=[1, 2, 5, 10])
            axis.set_major_locator(ticks)


def _draw_line(ax: "Axes", x: np.ndarray, values: np.ndarray, **style: Any) -> None:
    # Dots show the points of a short line, and those that stand between two gaps of any.
    marker = "." if len(x) < 30 or not np.isfinite(values).all() else None
    ax.plot(x, np.where(np.isfinite(values), values, np.nan), marker=marker, **style)


def _hatch_gaps(ax: "Axes", x: np.ndarray, finite: np.ndarray) -> None:
    """Hatches what is nearer to a point without a finite value than to any other."""
    middles = (x[1:] + x[:-1]) / 2
    edges = np.concatenate([x[:1], middles, x[-1:]])
    label = "not finite"
    for index in np.flatnonzero(~finite):
        ax.axvspan(edges[index], edges[index + 1], label=label, zorder=0, **_GAP)
        label = None
    if not finite.all():
        ax.legend()


def _fill(ax: "Axes", field: _Field, levels: np.ndarray, style: dict[str, Any]) -> Any:
    """Filled contours and thin lines; what is above the levels has the last colour."""
    values = np.ma.masked_invalid(field.values)
    extend = "max" if values.max() > levels[-1] * (1 + 1e-9 * np.sign(levels[-1])) else "neither"
    filled = ax.contourf(
        field.x.at, field.y.at, values.T, levels, cmap=COLORMAP, extend=extend, **style
    )
    ax.contour(field.x.at, field.y.at, values.T, levels, colors="white", linewidths=0.3, alpha=0.6)
    return filled
