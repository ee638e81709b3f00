"""Pictures of sweeps, planes, spectra and training. Computes nothing that is not drawn."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jloss._grid import BLUE, COLORMAP, GREY, ORANGE, Axis, grid, scale
from jloss._interactive import interactive as interactive
from jloss._optional import optional
from jloss.landscape import Plane
from jloss.sweep import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from jloss.curvature import SpectralDensity

_GAP = {"facecolor": "#e8e8e8", "edgecolor": "#9a9a9a", "hatch": "////", "linewidth": 0.0}
_LEVELS = 21


def contour(source: Plane | Sweep, name: str | None = None, ax: "Axes | None" = None) -> "Axes":
    """Filled contours of values over two coordinates.

    Levels are spaced logarithmically where the values are positive and span more than two
    decades. Places whose value is not finite are hatched. A plane shows its centre, and the
    training path if it has one.

    Args:
      source: a plane, or a sweep over two axes.
      name: which of the values of a sweep, where there are several.
      ax: where to draw; new Axes if not given.

    Returns:
      The matplotlib Axes; ``.figure.savefig(path)`` saves them. New ones belong to pyplot in a
      notebook, which shows them, and where pyplot was imported already; elsewhere to nobody else.

    Raises:
      ValueError: the sweep has not two axes of at least two points, or not one number per point.
      ImportError: matplotlib is missing.

    >>> x, y = jnp.linspace(-1, 1, 9), jnp.linspace(0, 1, 5)
    >>> ax = jloss.sweep(lambda x, y: x**2 + y, x=x, y=y).plot()
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('x', 'y')
    """
    field = _field("contour", source, name)
    ax = _axes() if ax is None else ax
    x, y, values = field.x.at, field.y.at, np.ma.masked_invalid(field.values)
    if values.mask.any():
        ax.patch.set(**_GAP)
    if values.count():
        levels, style = _levels(values)
        filled = ax.contourf(x, y, values.T, levels, cmap=COLORMAP, **style)
        ax.contour(x, y, values.T, levels, colors="white", linewidths=0.3, alpha=0.6)
        _add_colorbar(ax, filled, levels, field)
    if isinstance(source, Plane):
        _add_path(ax, source)
    _add_legend(ax, gaps=bool(values.mask.any()))
    ax.set(xlabel=field.x.label, xlim=(x[0], x[-1]), xscale=scale(x))
    ax.set(ylabel=field.y.label, ylim=(y[0], y[-1]), yscale=scale(y))
    _thin_ticks(ax.xaxis, ax.yaxis)
    return ax


def surface(source: Plane | Sweep, name: str | None = None, ax: "Axes | None" = None) -> "Axes":
    """Values over two coordinates as a surface in three dimensions.

    The height is logarithmic where the values are positive and span more than two decades. Places
    whose value is not finite are left out, and marked by grey crosses on the floor.

    Args:
      source: a plane, or a sweep over two axes.
      name: which of the values of a sweep, where there are several.
      ax: where to draw, three-dimensional; new Axes if not given.

    Returns:
      The matplotlib Axes, as those of `contour`.

    Raises:
      ValueError: as for `contour`, or ``ax`` is flat.
      ImportError: matplotlib is missing.

    >>> x, y = jnp.linspace(-1, 1, 9), jnp.linspace(0, 1, 5)
    >>> ax = jloss.plot.surface(jloss.sweep(lambda x, y: x**2 + y, x=x, y=y))
    >>> ax.get_zlabel()
    'value'
    """
    field = _field("surface", source, name)
    axes: Any = _axes(projection="3d") if ax is None else ax
    if not hasattr(axes, "plot_surface"):
        raise ValueError(
            'surface: ax must be three-dimensional, as figure.add_subplot(projection="3d") makes it'
        )
    x, y = np.meshgrid(field.x.at, field.y.at, indexing="ij")
    missing = ~np.isfinite(field.values)
    label, height = field.label, np.where(missing, np.nan, field.values)
    if scale(field.values) == "log":
        label, height = f"{label} (log scale)", np.log10(height)
        axes.zaxis.set_major_formatter(lambda z, _: f"{10**z:.2g}")
    if missing.all():
        axes.set_zlim(0, 1)
    else:
        style = {"cmap": COLORMAP, "linewidth": 0, "antialiased": False}
        axes.plot_surface(x, y, height, rcount=x.shape[0], ccount=x.shape[1], **style)
    if missing.any():
        floor, style = axes.get_zlim()[0], {"color": GREY, "marker": "x", "s": 6}
        axes.scatter(x[missing], y[missing], floor, label="not finite", **style)
        axes.legend(loc="upper left", fontsize="small")
    axes.set_xlabel(field.x.name, labelpad=6)
    axes.set_ylabel(field.y.name, labelpad=6)
    axes.set_zlabel(label, labelpad=8)
    axes.tick_params(labelsize="small")
    _thin_ticks(axes.xaxis, axes.yaxis, axes.zaxis)
    axes.set_box_aspect(None, zoom=0.85)  # by default, the label of the height is cut off
    return axes


def line(source: Sweep, name: str | None = None, ax: "Axes | None" = None) -> "Axes":
    """Values along one coordinate; places whose value is not finite are hatched.

    Both axes are logarithmic where what they show is positive and spans more than two decades.

    Args:
      source: a sweep over one axis.
      name: which of its values, where there are several.
      ax: where to draw; new Axes if not given.

    Returns:
      The matplotlib Axes, as those of `contour`.

    Raises:
      ValueError: the sweep has not one axis, or not one number per point.
      ImportError: matplotlib is missing.

    >>> jloss.plot.line(jloss.sweep(lambda x: x**2, x=jnp.linspace(-1, 1, 9))).get_xlabel()
    'x'
    """
    if len(source.axes) != 1:
        raise ValueError(f"line: one axis is needed, not {len(source.axes)}")
    (x,), values, *_ = grid(source, name)
    ax = _axes() if ax is None else ax
    _draw_line(ax, x.at, values, color=BLUE)
    _hatch_gaps(ax, x.at, np.isfinite(values))
    ax.set(xlabel=x.label, ylabel=name or "value", xscale=scale(x.at), yscale=scale(values))
    return ax


def curves(history: Mapping[str, Any], name: str = "loss", ax: "Axes | None" = None) -> "Axes":
    """Loss or metric by epoch, on training and validation data, with the best epoch marked.

    The best epoch is the one with the smallest validation loss, whose params `fit` returns: where
    the validation curve of the loss rises behind it, the model overfits. Epochs count from 1.

    Args:
      history: of `fit`.
      name: ``"loss"``, or the name of a metric.
      ax: where to draw; new Axes if not given.

    Returns:
      The matplotlib Axes, as those of `contour`.

    Raises:
      ValueError: the history has nothing of that name.
      ImportError: matplotlib is missing.

    >>> history = {"train_loss": [3.0, 2.0, 1.0], "validation_loss": [3.0, 2.5, 2.8]}
    >>> ax = jloss.plot.curves(history)
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['train', 'validation', 'best epoch: 2']
    """
    parts = {"train": BLUE, "validation": ORANGE}
    found = {part: history[f"{part}_{name}"] for part in parts if f"{part}_{name}" in history}
    if not found:
        names = sorted(key.removeprefix("train_") for key in history if key.startswith("train_"))
        raise ValueError(f"curves: no {name!r} in the history; there are {', '.join(names)}")
    ax = _axes() if ax is None else ax
    found = {part: np.asarray(values, float) for part, values in found.items()}
    epochs = 1 + np.arange(len(next(iter(found.values()))))
    for part, values in found.items():
        _draw_line(ax, epochs, values, color=parts[part], label=part)
    judged = np.asarray(history.get("validation_loss", []), float)
    if np.isfinite(judged).any():
        best = int(np.nanargmin(np.where(np.isfinite(judged), judged, np.nan)))
        ax.axvline(
            epochs[best], color=GREY, linestyle="--", linewidth=1, label=f"best epoch: {best + 1}"
        )
        ax.plot(epochs[best], found["validation"][best], "o", color=parts["validation"])
    values = np.concatenate(list(found.values()))
    _hatch_gaps(ax, epochs, np.all([np.isfinite(v) for v in found.values()], axis=0))
    ax.set(xlabel="epoch", ylabel=name, yscale=scale(values))
    ax.xaxis.set_major_locator(optional("matplotlib.ticker", "plot").MaxNLocator(integer=True))
    ax.legend()
    return ax


def spectrum(
    source: "SpectralDensity", width: float | None = None, ax: "Axes | None" = None
) -> "Axes":
    """The density of eigenvalues, logarithmic, with the band that all errors leave.

    What is below a hundredth of one eigenvalue's peak, or a ten-millionth of the highest, is cut
    off: it is the tail of the smoothing.

    Args:
      source: of `jloss.curvature.spectral_density`.
      width: the standard deviation of the smoothing, as for its ``density``.
      ax: where to draw; new Axes if not given.

    Returns:
      The matplotlib Axes, as those of `contour`.

    Raises:
      ValueError: ``width`` is not positive.
      ImportError: matplotlib is missing.

    >>> bowl = lambda params, batch: jloss.average(batch * jnp.sum(params**2))
    >>> operator = jloss.curvature.hessian(bowl, jnp.zeros(9), [jnp.ones(3)])
    >>> jloss.plot.spectrum(jloss.curvature.spectral_density(operator)).get_xlabel()
    'eigenvalue'
    """
    width = source.width if width is None else width
    low, high = source.support
    x = np.linspace(low - 4 * width, high + 4 * width, 801)
    found = source.density(x, width)
    size, value = np.asarray(found.errors.total), np.asarray(found.value)
    floor = max(1e-7 * value.max(), 1e-2 / (source.size * width * np.sqrt(2 * np.pi)))
    ax = _axes() if ax is None else ax
    style = {"color": BLUE, "linewidth": 0.0}
    below, above = np.maximum(value - size, floor), np.maximum(value + size, floor)
    ax.fill_between(x, below, above, alpha=0.25, label="95% band of all errors", **style)
    ax.plot(x, np.where(value > floor, value, np.nan), color=BLUE, label="density")
    if low < 0 < high:
        ax.axvline(0.0, color=GREY, linestyle="--", linewidth=1)
    ax.set(xlabel="eigenvalue", ylabel=f"density (smoothed by {width:.2g})")
    ax.set(yscale="log", ylim=(floor, 2 * above.max()), xlim=(x[0], x[-1]))
    _thin_ticks(ax.xaxis)
    _add_legend(ax, gaps=False)
    return ax


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
    """Axes on a figure of their own; pyplot, which keeps figures, only where it shows them."""
    ipython = sys.modules.get("IPython")
    running = ipython is not None and ipython.get_ipython() is not None
    if running or "matplotlib.pyplot" in sys.modules:
        make = optional("matplotlib.pyplot", "plot").figure
    else:
        make = optional("matplotlib.figure", "plot").Figure
    return make(figsize=(5.6, 4.2), layout="constrained").add_subplot(**kind)


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
    if plane.path is not None:
        style = {"color": "white", "markeredgecolor": "black", "markeredgewidth": 0.6}
        ax.plot(*plane.path.T, "-", color="black", linewidth=2.4)
        ax.plot(*plane.path.T, ".-", linewidth=1.2, markersize=6, label="training path", **style)
        ax.plot(*plane.path[0], "s", markersize=7, label="its start", **style)
    ax.plot(0, 0, "*", color=ORANGE, markeredgecolor="white", markersize=13, label="params")


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
