"""Pictures that can be turned, and that say the numbers under the pointer, drawn by plotly."""

from typing import Any

import numpy as np

from jloss._canvas import _notes
from jloss._grid import BLUE, COLORMAP, GREY, ORANGE, Grid, grid, heights, scale
from jloss._optional import optional
from jloss.landscape import Plane
from jloss.sweep import Sweep


def interactive(source: Plane | Sweep | Grid, name: str | None = None) -> Any:
    """A picture to turn and to read numbers off, over one, two or three coordinates (plotly).

    Two coordinates give a surface like that of `surface`, three give surfaces of equal value, one
    a line. Places whose value is not finite are gaps, marked by crosses. A training path lies on
    the floor, as it is projected: the surface above it is not the loss on the way.

    Args:
      source: a plane, or a sweep over one, two or three axes.
      name: which of the values, where there are several.

    Returns:
      The plotly ``Figure``, which a notebook shows; `jloss.export` makes a page of it.

    Raises:
      ValueError: more than three axes, or not one number per point.
      ImportError: plotly is missing.

    >>> x, y = jnp.linspace(-1, 1, 9), jnp.linspace(0, 1, 5)
    >>> figure = jloss.plot.interactive(jloss.sweep(lambda x, y: x**2 + y, x=x, y=y))
    >>> [trace.type for trace in figure.data]
    ['surface']
    """
    drawn = source if isinstance(source, Grid) else grid(source, name)
    if not 1 <= len(drawn.axes) <= 3:
        raise ValueError(f"interactive: one to three axes are needed, not {len(drawn.axes)}")
    draw = (_turning_line, _turning_surface, _turning_volume)[len(drawn.axes) - 1]
    figure = optional("plotly.graph_objects", "plot").Figure(draw(drawn))
    # In a box there is no room for more than a name.
    flat = len(drawn.axes) == 1
    titles = [axis.label if flat else axis.name for axis in drawn.axes] + [drawn.label]
    sides = {f"{side}axis": {"title": title} for side, title in zip("xyz", titles, strict=False)}
    if flat:
        figure.update_layout(xaxis=sides["xaxis"], yaxis=sides["yaxis"])
    else:
        figure.update_layout(scene=sides | {"aspectmode": "cube"})
    if len(drawn.axes) < 3 and scale(drawn.values) == "log":
        ticks = _decades(drawn.values)
        figure.update_layout({"yaxis" if flat else "scene_zaxis": ticks})
    return figure.update_layout(template="plotly_white", margin={"l": 0, "r": 0, "t": 30, "b": 0})


def interactive_contour(
    source: Plane | Sweep, name: str | None = None, *, clip: float | None = None
) -> Any:
    """Contours over two coordinates, to read numbers off (plotly): `contour` under the pointer.

    A plane shows its centre, its solutions, and the training path, whose points say how far they
    are from the plane; what is drawn under them is not their loss.

    Args:
      source: a plane, or a sweep over two axes.
      name: which of the values, where there are several.
      clip: a height above which all is drawn alike.

    Returns:
      The plotly ``Figure``.

    Raises:
      ValueError: the sweep has not two axes, or not one number per point.
      ImportError: plotly is missing.

    >>> x, y = jnp.linspace(-1, 1, 9), jnp.linspace(0, 1, 5)
    >>> figure = jloss.plot.interactive_contour(jloss.sweep(lambda x, y: x**2 + y, x=x, y=y))
    >>> [trace.type for trace in figure.data]
    ['contour']
    """
    drawn = grid(source, name)
    if len(drawn.axes) != 2:
        raise ValueError(f"interactive_contour: two axes are needed, not {len(drawn.axes)}")
    graph, (x, y) = optional("plotly.graph_objects", "plot"), drawn.axes
    shown = drawn.values if clip is None else np.minimum(drawn.values, clip)
    bar = {"title": drawn.label, **_decades(shown)}
    style = {"colorscale": COLORMAP, "colorbar": bar, "ncontours": 20}
    said = _said(drawn)
    said["text"] = said["text"].T
    figure = graph.Figure(
        graph.Contour(x=x.at, y=y.at, z=_gappy(heights(shown)).T, **style, **said)
    )
    for label, places, text in _marks(source):
        color = "white" if label == "training path" else ORANGE
        marker = {"color": color, "size": 8, "line": {"color": "black", "width": 1}}
        mark = {"name": label, "text": text, "hoverinfo": "text", "marker": marker}
        mark |= {"mode": "lines+markers", "line": {"color": color, "width": 3}}
        figure.add_trace(graph.Scatter(x=places[:, 0], y=places[:, 1], **mark))
    note = "<br>".join(_notes(source)) if isinstance(source, Plane) else ""
    figure.update_layout(xaxis_title=x.label, yaxis_title=y.label, template="plotly_white")
    figure.update_layout(title={"text": note, "font": {"size": 12}})
    return figure.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom"})


def _marks(source: Plane | Sweep) -> list[tuple[str, np.ndarray, list[str]]]:
    """What stands on a plane: names, places, and what is said of each."""
    if not isinstance(source, Plane):
        return []
    marks = []
    if source.path is not None and source.off_plane is not None:
        text = [f"point {i}: {off:.3g} off the plane" for i, off in enumerate(source.off_plane)]
        marks.append(("training path", np.asarray(source.path), text))
    if source.solutions is not None:
        marks += [
            (f"solution {i}", place[None], [f"solution {i}"])
            for i, place in enumerate(source.solutions, 2)
        ]
    return [*marks, ("params", np.zeros((1, 2)), ["params"])]


def _turning_line(grid: Grid) -> list[Any]:
    graph, (x,) = optional("plotly.graph_objects", "plot"), grid.axes
    height = heights(grid.values)
    traces = [graph.Scatter(x=x.at, y=_gappy(height), line={"color": BLUE}, **_said(grid))]
    gaps = ~np.isfinite(height)
    if gaps.any():
        floor = np.full(gaps.sum(), _floor(height))
        traces.append(graph.Scatter(x=x.at[gaps], y=floor, **_crosses()))
    traces[0].name = grid.label
    return traces


def _turning_surface(grid: Grid) -> list[Any]:
    graph = optional("plotly.graph_objects", "plot")
    x, y = np.meshgrid(*(axis.at for axis in grid.axes), indexing="ij")
    height = heights(grid.values)
    colours = {
        "colorscale": COLORMAP,
        "colorbar": {"title": grid.label, **_decades(grid.values)},
    }
    traces = [graph.Surface(x=x, y=y, z=_gappy(height), **colours, **_said(grid))]
    floor, gaps = _floor(height), ~np.isfinite(height)
    if gaps.any():
        z = np.full(gaps.sum(), floor)
        traces.append(graph.Scatter3d(x=x[gaps], y=y[gaps], z=z, **_crosses()))
    if grid.path is not None:
        track, style = grid.path.T, {"color": ORANGE}
        traces.append(
            graph.Scatter3d(
                x=track[0], y=track[1], z=np.full(len(grid.path), floor), mode="lines+markers",
                line=style, marker={"size": 2, **style}, name="training path, projected",
            )
        )  # fmt: skip
    for trace in traces[1:]:
        trace.showlegend = True
    return traces


def _turning_volume(grid: Grid) -> list[Any]:
    """Surfaces of equal value around the low half, which is what lies inside."""
    places = np.meshgrid(*(axis.at for axis in grid.axes), indexing="ij")
    x, y, z = (place.ravel() for place in places)
    height = heights(grid.values).ravel()
    finite = np.isfinite(height)
    low, middle = np.quantile(height[finite], [0.02, 0.5]) if finite.any() else (0.0, 1.0)
    style = {"colorscale": COLORMAP, "colorbar": {"title": grid.label, **_decades(grid.values)}}
    style |= {"isomin": low, "isomax": middle, "surface_count": 4, "opacity": 0.4}
    style |= {"caps": {f"{side}_show": False for side in "xyz"}}
    graph = optional("plotly.graph_objects", "plot")
    # A gap is put above all that is shown.
    value = np.where(finite, height, height[finite].max() if finite.any() else 2.0)
    traces = [graph.Isosurface(x=x, y=y, z=z, value=value, **style, **_said(grid))]
    if not finite.all():
        gaps = ~finite
        traces.append(graph.Scatter3d(x=x[gaps], y=y[gaps], z=z[gaps], **_crosses()))
    return traces


def _said(grid: Grid) -> dict[str, Any]:
    """What the pointer reads off: coordinates, and the value even where its log is drawn."""
    named = zip((axis.name for axis in grid.axes), "xyz", strict=False)
    lines = [f"{name} %{{{letter}:.4g}}" for name, letter in named] + [grid.label + " %{text}"]
    text = np.vectorize("{:.4g}".format)(grid.values)
    text = text.ravel() if grid.values.ndim == 3 else text
    return {"text": text, "hovertemplate": "<br>".join(lines) + "<extra></extra>"}


def _crosses() -> dict[str, Any]:
    marker = {"symbol": "x", "color": GREY, "size": 3}
    return {"mode": "markers", "marker": marker, "name": "not finite"}


def _gappy(height: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(height), height, np.nan)


def _floor(height: np.ndarray) -> float:
    finite = height[np.isfinite(height)]
    return float(finite.min()) if finite.size else 0.0


def _decades(values: np.ndarray) -> dict[str, Any]:
    """Ticks for heights that are logarithms."""
    if scale(values) != "log":
        return {}
    finite = heights(values)[np.isfinite(values)]
    at = np.linspace(finite.min(), finite.max(), 6)
    return {"tickvals": at, "ticktext": [f"{10**height:.2g}" for height in at]}
