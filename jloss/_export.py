"""Surfaces and volumes as files for other programs: browsers, ParaView, viewers of glTF."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jloss._grid import Grid, grid, heights
from jloss._interactive import interactive
from jloss._optional import optional
from jloss.sweep import Sweep

if TYPE_CHECKING:
    from jloss.landscape import Plane


def export(source: "Plane | Sweep", path: str | os.PathLike[str], name: str | None = None) -> None:
    """Writes values over coordinates into a file that another program shows.

    ========= ================= =================================================================
    suffix    axes              what is written
    ========= ================= =================================================================
    ``.html`` one, two or three the picture of `jloss.plot.interactive`, a page without a network
    ``.vtp``  two               a surface for ParaView
    ``.vti``  two or three      an image or a volume for ParaView, at the true coordinates
    ``.glb``  two               a coloured surface in binary glTF, which browsers and slides show
    ========= ================= =================================================================

    A surface stands in a box of 1 x 1 x 0.5, whatever its coordinates; its height is logarithmic
    where that of `jloss.plot.surface` is. A ``.vtp`` has the true values and coordinates with every
    point. Places whose value is not finite are holes; a ``.vtp`` has a point on the floor for each.

    Args:
      source: a plane, or a sweep.
      path: the file; it is replaced as a whole, or not at all.
      name: which of the values, where there are several.

    Raises:
      ValueError: another suffix, too many or too few axes for it, values that are not one number
        per point, or coordinates that are not evenly spaced in a ``.vti``.
      ImportError: plotly, pyevtk or trimesh is missing.

    >>> import tempfile, pathlib
    >>> x, y = jnp.linspace(-1, 1, 9), jnp.linspace(0, 1, 5)
    >>> bowl = jloss.sweep(lambda x, y: x**2 + y, x=x, y=y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     jloss.export(bowl, f"{folder}/bowl.vtp")
    ...     [file.name for file in pathlib.Path(folder).iterdir()]
    ['bowl.vtp']
    """
    path = Path(path)
    if path.suffix.lower() not in _KINDS:
        raise ValueError(f"export: {path} must end in {', '.join(_KINDS)}")
    write, counts = _KINDS[path.suffix.lower()]
    drawn = grid(source, name)
    if len(drawn.axes) not in counts or min(drawn.values.shape) < 2:
        wanted = " or ".join(str(count) for count in counts)
        raise ValueError(
            f"export: {path.suffix} takes {wanted} axes of at least two points, not a grid of "
            f"{drawn.values.shape}"
        )
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        draft = Path(folder, path.name)
        write(drawn, draft)
        draft.replace(path)


def _page(drawn: Grid, path: Path) -> None:
    interactive(drawn).write_html(path, include_plotlyjs=True)


def _image(grid: Grid, path: Path) -> None:
    origin, spacing = [0.0] * 3, [1.0] * 3
    for place, axis in enumerate(grid.axes):
        steps = np.diff(axis.at)
        # Coordinates in float32 are rounded to this much of their size.
        if np.ptp(steps) > 1e-6 * np.abs(axis.at).max():
            raise ValueError(
                f"export: {axis.name} is not evenly spaced, as a .vti must be; "
                f"write a .vtp or an .html"
            )
        origin[place], spacing[place] = float(axis.at[0]), float(steps.mean())
    values = grid.values.reshape(*grid.values.shape, *(1,) * (3 - grid.values.ndim))
    write = optional("pyevtk.hl", "export").imageToVTK
    data = {grid.label: np.asfortranarray(values)}
    write(str(path.with_suffix("")), tuple(origin), tuple(spacing), pointData=data)


def _polydata(grid: Grid, path: Path) -> None:
    mesh, vtk = _relief(grid), optional("pyevtk.vtk", "export")
    coordinates = np.meshgrid(*(axis.at for axis in grid.axes), indexing="ij")
    points = {axis.name: at.ravel() for axis, at in zip(grid.axes, coordinates, strict=True)}
    points[grid.label] = grid.values.ravel()
    gaps = np.flatnonzero(~np.isfinite(points[grid.label]))
    count, faces = len(mesh.places), mesh.faces
    sections: dict[str, dict[str, Any]] = {
        "Points": {"points": tuple(np.ascontiguousarray(mesh.places.T))},
        "Verts": {"connectivity": gaps, "offsets": np.arange(1, len(gaps) + 1)},
        "Polys": {"connectivity": faces.ravel(), "offsets": 3 * np.arange(1, len(faces) + 1)},
        "PointData": points,
    }
    file = vtk.VtkFile(str(path.with_suffix("")), vtk.VtkPolyData)
    file.openGrid()
    file.openPiece(npoints=count, nverts=len(gaps), npolys=len(faces))
    for section, arrays in sections.items():
        file.openElement(section)
        for name, array in arrays.items():
            file.addData(name, array)
        file.closeElement(section)
    file.closePiece()
    file.closeGrid()
    for arrays in sections.values():  # the bytes come after all that is said of them
        for array in arrays.values():
            file.appendData(array)
    file.save()


def _gltf(grid: Grid, path: Path) -> None:
    mesh, trimesh = _relief(grid), optional("trimesh", "export")
    colours = trimesh.visual.interpolate(mesh.places[:, 2], "viridis")
    x, y, height = mesh.places.T
    places = np.stack([x, height, -y], axis=1)  # in glTF, up is the second coordinate
    surface = trimesh.Trimesh(places, mesh.faces, vertex_colors=colours, process=False)
    surface.remove_unreferenced_vertices()
    surface.export(path)


class _Mesh(NamedTuple):
    places: np.ndarray  # (points, 3)
    faces: np.ndarray  # (triangles, 3), the numbers of their corners


def _relief(grid: Grid) -> _Mesh:
    """The surface in a box of 1 x 1 x 0.5; points that are not finite lie on the floor, alone."""
    numbers = np.arange(grid.values.size).reshape(grid.values.shape)
    low, right, back, far = numbers[:-1, :-1], numbers[1:, :-1], numbers[:-1, 1:], numbers[1:, 1:]
    halves = np.stack([low, right, far], -1), np.stack([low, far, back], -1)
    faces = np.concatenate([half.reshape(-1, 3) for half in halves])
    height = heights(grid.values).ravel()
    finite = np.isfinite(height)
    sides = [_unit(axis.at) for axis in grid.axes]
    x, y = (side.ravel() for side in np.meshgrid(*sides, indexing="ij"))
    z = np.zeros_like(x)
    if finite.any():
        z[finite] = 0.5 * _unit(height[finite])
    return _Mesh(np.stack([x, y, z], axis=1), faces[finite[faces].all(axis=1)])


def _unit(values: np.ndarray) -> np.ndarray:
    """From 0 to 1, evenly over decades where the values span several."""
    values = heights(values)
    low, high = values.min(), values.max()
    return (values - low) / ((high - low) or 1.0)


_KINDS: dict[str, tuple[Callable[[Grid, Path], None], tuple[int, ...]]] = {
    ".html": (_page, (1, 2, 3)),
    ".vtp": (_polydata, (2,)),
    ".vti": (_image, (2, 3)),
    ".glb": (_gltf, (2,)),
}
