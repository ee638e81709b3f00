"""Landscapes: an objective on lines, planes and curves through parameter space. Draws nothing."""

from jloss.landscape._bands import Bands, Bump, bands, lines
from jloss.landscape._connect import Connection, connect, interpolate
from jloss.landscape._directions import (
    Directions,
    hessian_directions,
    path_directions,
    random_directions,
    solution_directions,
)
from jloss.landscape._planes import Plane, barrier, line, plane, volume
from jloss.landscape._refine import InterpolationError, Refined, refine
from jloss.landscape._sharpness import (
    AverageSharpness,
    Sharpness,
    adaptive_sharpness,
    average_sharpness,
    sharpness,
)
from jloss.landscape._smoothness import (
    PlaneCurvature,
    Smoothness,
    gradient_norm,
    path_smoothness,
    plane_curvature,
    plane_hessian,
)
from jloss.landscape._surface import surface_of

__all__ = [
    "AverageSharpness",
    "Bands",
    "Bump",
    "Connection",
    "Directions",
    "InterpolationError",
    "Plane",
    "PlaneCurvature",
    "Refined",
    "Sharpness",
    "Smoothness",
    "adaptive_sharpness",
    "average_sharpness",
    "bands",
    "barrier",
    "connect",
    "gradient_norm",
    "hessian_directions",
    "interpolate",
    "line",
    "lines",
    "path_directions",
    "path_smoothness",
    "plane",
    "plane_curvature",
    "plane_hessian",
    "random_directions",
    "refine",
    "sharpness",
    "solution_directions",
    "surface_of",
    "volume",
]
