"""Pictures that can be turned, and that say the numbers under the pointer, drawn by plotly."""

from typing import Any

import numpy as np

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
