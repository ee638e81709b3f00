"""Pictures of sweeps, planes, spectra and training. Computes nothing that is not drawn."""

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jloss._canvas import (
    _COLORS,
    _GAP,
    _add_colorbar,
    _add_legend,
    _add_path,
    _axes,
    _draw_line,
    _Field,
    _field,
    _figure,
    _fill,
    _hatch_gaps,
    _levels,
    _thin_ticks,
)
from jloss._grid import BLUE, COLORMAP, GREY, ORANGE, grid, scale
from jloss._interactive import interactive as interactive
from jloss._interactive import interactive_contour as interactive_contour
from jloss._optional import optional
from jloss.landscape import Plane
from jloss.sweep import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from jloss.curvature import SpectralDensity
    from jloss.landscape import Bands, Connection


def contour(
    source: Plane | Sweep,
    name: str | None = None,
    ax: "Axes | None" = None,
    *,
    clip: float | None = None,
) -> "Axes":
    """Filled contours of values over two coordinates.

    Levels are spaced logarithmically where the values are positive and span more than two
    decades. Places whose value is not finite are hatched. A plane shows its centre, the solutions
    that it goes through, and the training path if it has one: its points numbered, with their
    distances from the plane.

    Args:
      source: a plane, or a sweep over two axes.
      name: which of the values, where there are several.
      ax: where to draw; new Axes if not given.
      clip: a height above which all is drawn alike, so that peaks leave colours to the valleys.

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
        levels, style = _levels(values if clip is None else np.ma.minimum(values, clip))
        _add_colorbar(ax, _fill(ax, field, levels, style), levels, field)
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
    >>> operator = jloss.curvature.hessian(bowl, jnp.zeros(3), [jnp.ones(3)])
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


def barrier(source: "Connection | Mapping[str, Connection]", ax: "Axes | None" = None) -> "Axes":
    """An objective along the way between two solutions, and how high the barrier on it is.

    Args:
      source: of `jloss.landscape.interpolate` or `connect`; several by name to compare them.
      ax: where to draw; new Axes if not given.

    Returns:
      The matplotlib Axes, as those of `contour`.

    Raises:
      ImportError: matplotlib is missing.

    >>> well = lambda params, batch: jloss.average((params**2 - 1) ** 2 * batch)
    >>> ends = jnp.array(-1.0), jnp.array(1.0)
    >>> found = jloss.landscape.interpolate(well, *ends, jnp.ones(1))
    >>> [text.get_text() for text in found.plot().get_legend().get_texts()]
    ['barrier 1']
    """
    several = source if isinstance(source, Mapping) else {"": source}
    ax = _axes() if ax is None else ax
    for color, (name, way) in zip(_COLORS, several.items(), strict=False):
        t, values = np.asarray(way.along.axes["t"]), np.asarray(way.values, float)
        label = f"{name}: barrier {way.barrier:.3g}" if name else f"barrier {way.barrier:.3g}"
        ax.plot(t, values, color=color, label=label)
        ax.plot(t[[0, -1]], values[[0, -1]], "--", color=color, linewidth=1)
        straight = values[0] + (values[-1] - values[0]) * t
        top = int(np.argmax(values - straight))
        ax.vlines(t[top], straight[top], values[top], color=color, linestyle=":", linewidth=1.5)
        ax.plot(t[[0, -1]], values[[0, -1]], "o", color=color, markersize=5)
    ax.set(
        xlabel="t (0 and 1: the two solutions)",
        ylabel="loss",
        ylim=(min(0, ax.get_ylim()[0]), None),
    )
    ax.legend()
    return ax


def band(source: "Bands", ax: "Axes | None" = None) -> "Axes":
    """The draws of a line, their mean, and the 95% band of the mean.

    Args:
      source: of `jloss.landscape.bands`, over one axis.
      ax: where to draw; new Axes if not given.

    Returns:
      The matplotlib Axes, as those of `contour`.

    Raises:
      ValueError: the draws are not of a line.
      ImportError: matplotlib is missing.

    >>> a = jnp.linspace(0, 1, 5)
    >>> draws = [jloss.sweep(lambda a, s=s: s * a * (1 - a), a=a) for s in (3.9, 4.0, 4.1, 4.2)]
    >>> jloss.landscape.bands(draws).plot().get_title()
    'bump of 1 ± 0.32 at a = 0.5: real'
    """
    if len(source.axes) != 1:
        raise ValueError(f"band: draws of a line are needed, not of {len(source.axes)} axes")
    ((name, axis),) = source.axes.items()
    a, mean, half = np.asarray(axis), source.mean, source.half_width
    ax = _axes() if ax is None else ax
    for number, draw in enumerate(source.draws):
        label = None if number else f"{len(source.draws)} draws"
        ax.plot(a, draw, color=GREY, linewidth=0.5, alpha=0.5, label=label)
    ax.fill_between(
        a,
        mean - half,
        mean + half,
        color=BLUE,
        alpha=0.3,
        linewidth=0,
        label="95% band of the mean",
    )
    ax.plot(a, mean, color=BLUE, label="mean")
    if len(source.draws) >= 4:
        bump = source.bump()
        ax.axvline(bump.at, color=ORANGE, linestyle=":", linewidth=1)
        verdict = "real" if bump.real else "may be chance"
        size = f"{bump.height:.2g} ± {bump.half_width:.2g}"
        ax.set_title(f"bump of {size} at {name} = {bump.at:.2g}: {verdict}", fontsize="medium")
    ax.set(xlabel=name, ylabel="loss")
    ax.legend()
    return ax


def field(source: Sweep, ax: "Axes | None" = None) -> "Axes":
    """A loss over what it compares, with arrows where a step down its gradient leads.

    Args:
      source: of `jloss.landscape.surface_of`.
      ax: where to draw; new Axes if not given.

    Returns:
      The matplotlib Axes, as those of `contour`.

    Raises:
      ValueError: the sweep has no values named loss and gradient.
      ImportError: matplotlib is missing.

    >>> jloss.plot.field(jloss.landscape.surface_of(jloss.huber_loss)).get_xlabel()
    'prediction'
    """
    if not (isinstance(source.values, Mapping) and {"loss", "gradient"} <= set(source.values)):
        raise ValueError("field: a sweep of loss and gradient is needed, as surface_of makes it")
    ax = contour(source, "loss", ax)
    x, y = (np.asarray(axis, float) for axis in source.axes.values())
    every = [slice(len(axis) // 22, None, max(1, len(axis) // 11)) for axis in (x, y)]
    down = -np.asarray(source.values["gradient"], float)[every[0], every[1]]
    place = np.meshgrid(x[every[0]], y[every[1]], indexing="ij")
    style: dict[str, Any] = {"color": "white", "edgecolor": "black", "linewidth": 0.4}
    ax.quiver(*place, down[..., 0], down[..., 1], pivot="tail", width=0.007, **style)
    ax.set_title("arrows: where a step of gradient descent leads", fontsize="small")
    return ax


def multiples(source: Sweep, name: str | None = None) -> Any:
    """Contours over the first two axes of a sweep, one beside the other along further ones.

    All have the same levels. Of a long axis, up to nine places are shown, or four by four.

    Args:
      source: a sweep over three or four axes, such as `jloss.landscape.volume`.
      name: which of the values, where there are several.

    Returns:
      An array of matplotlib Axes.

    Raises:
      ValueError: the sweep has not three or four axes, or not one number per point.
      ImportError: matplotlib is missing.

    >>> x = jnp.linspace(-1, 1, 5)
    >>> axes = jloss.plot.multiples(jloss.sweep(lambda x, y, z: x**2 + y * z, x=x, y=x, z=x[:4]))
    >>> axes.shape, axes[0, 0].get_title()
    ((2, 2), 'z = -1')
    """
    if len(source.axes) not in (3, 4):
        raise ValueError(f"multiples: three or four axes are needed, not {len(source.axes)}")
    (x, y, *further), values, *_ = grid(source, name)
    most = 9 if len(further) == 1 else 4
    kept = [np.unique(np.linspace(0, len(f.at) - 1, most).astype(int)) for f in further]
    places = list(itertools.product(*kept))
    columns = int(np.ceil(np.sqrt(len(places)))) if len(further) == 1 else len(kept[1])
    rows = -(-len(places) // columns)
    axes = _figure((2.3 * columns + 1.2, 2.3 * rows + 0.4)).subplots(
        rows, columns, sharex=True, sharey=True, squeeze=False
    )
    drawn = np.ma.masked_invalid(np.stack([values[(..., *place)] for place in places]))
    levels, style = _levels(drawn)
    picture = None
    for ax, place in itertools.zip_longest(axes.flat, places):
        if place is None:
            ax.set_visible(False)
            continue
        one = _Field(x, y, values[(..., *place)], name or "value")
        if not np.isfinite(one.values).all():
            ax.patch.set(**_GAP)
        picture = _fill(ax, one, levels, style) if np.isfinite(one.values).any() else picture
        at = ", ".join(f"{f.name} = {f.at[i]:.3g}" for f, i in zip(further, place, strict=True))
        ax.set_title(at, fontsize="small")
        _thin_ticks(ax.xaxis, ax.yaxis)
    for ax in axes[-1]:
        ax.set_xlabel(x.label)
    for ax in axes[:, 0]:
        ax.set_ylabel(y.label)
    axes[0, 0].figure.colorbar(picture, ax=axes, label=name or "value")
    return axes
