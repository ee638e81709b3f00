"""What a picture or a file is made of: values in the rising order of their coordinates."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jloss.landscape import Plane
from jloss.sweep import Sweep

# Okabe and Ito's colours, told apart under every kind of colour blindness; viridis likewise.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#595959"
COLORMAP = "viridis"


class Axis(NamedTuple):
    """A coordinate: its name, what is written beside it, and its values."""

    name: str
    label: str
    at: np.ndarray


class Grid(NamedTuple):
    """Values with a dimension for each axis, what they are called, and a path in the plane."""

    axes: list[Axis]
    values: np.ndarray
    label: str
    path: np.ndarray | None = None


def grid(source: Plane | Sweep, name: str | None = None) -> Grid:
    """The values of a plane or a sweep, or those of that name, where there are several."""
    if isinstance(source, Plane):
        a = Axis("a", "a (steps along the first direction)", np.asarray(source.a, float))
        b = Axis("b", "b (steps along the second direction)", np.asarray(source.b, float))
        return Grid([a, b], np.asarray(source.numbers(name), float), name or "loss", source.path)
    values, axes = np.asarray(source.numbers(name), float), []
    for dimension, (axis, points) in enumerate(source.axes.items()):
        drawn = _axis(axis, points)
        order = np.argsort(drawn.at)
        values = np.take(values, order, axis=dimension)
        axes.append(drawn._replace(at=drawn.at[order]))
    return Grid(axes, values, name or "value")


def _axis(name: str, points: Any) -> Axis:
    """Numbers stand where they are; keys, vectors and pytrees are drawn in their order."""
    leaves = jax.tree.leaves(points)
    numeric = jnp.issubdtype(leaves[0].dtype, np.number) or leaves[0].dtype == bool
    if len(leaves) == 1 and leaves[0].ndim == 1 and numeric:
        return Axis(name, name, np.asarray(leaves[0], float))
    return Axis(name, f"{name} (number in order)", np.arange(float(len(leaves[0]))))


def scale(values: np.ndarray) -> str:
    """``"log"`` for positive values over more than two decades."""
    values = values[np.isfinite(values)]
    spans = values.size > 0 and values.min() > 0 and values.max() > 100 * values.min()
    return "log" if spans else "linear"


def heights(values: np.ndarray) -> np.ndarray:
    """The values as a height that can be looked at: their decades where they span several."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.log10(values) if scale(values) == "log" else values
