"""Landscapes: an objective on lines, planes and curves through parameter space. Draws nothing."""

from jloss.landscape._directions import (
    Directions,
    hessian_directions,
    path_directions,
    random_directions,
    solution_directions,
)
from jloss.landscape._planes import (
    Plane,
    barrier,
    line,
    plane,
    volume,
)

__all__ = [
    "Directions",
    "Plane",
    "barrier",
    "hessian_directions",
    "line",
    "path_directions",
    "plane",
    "random_directions",
    "solution_directions",
    "volume",
]
