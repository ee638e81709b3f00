"""Exported files, read back by libraries that did not write them."""

import json
import re

import jax.numpy as jnp
import numpy as np
import pytest

import jloss

X, Y, Z = np.linspace(-2.0, 1.0, 5), np.linspace(0.0, 0.3, 4), np.linspace(1.0, 3.0, 3)
pytest.importorskip("plotly")


def slope(x, y):
    """Asymmetric, on a grid that is not square, and not finite at one corner."""
    return jnp.where((x < -1.9) & (y > 0.29), jnp.nan, 3 * x + 10 * y**2)


@pytest.fixture(scope="module")
def surface():
    return jloss.sweep(slope, batch_size=5, x=X, y=Y)


@pytest.fixture(scope="module")
def volume():
    return jloss.sweep(lambda x, y, z: x - 10 * y + z**2, batch_size=5, x=X, y=Y, z=Z)


def test_a_surface_for_paraview_has_the_values_at_their_coordinates(surface, tmp_path):
    pyvista = pytest.importorskip("pyvista")
    pytest.importorskip("pyevtk")
    jloss.export(surface, tmp_path / "surface.vtp")
    mesh = pyvista.read(tmp_path / "surface.vtp")
    x, y, value = (mesh.point_data[name] for name in ("x", "y", "value"))
    np.testing.assert_allclose(value, np.asarray(surface.values).ravel(), rtol=1e-6)
    np.testing.assert_allclose(value, np.asarray(slope(x, y)), rtol=1e-5)
    # The box: coordinates and values along its sides, but for the gap, which is on the floor.
    gap = np.isnan(value)
    np.testing.assert_allclose(mesh.points[:, 0], (x + 2) / 3, atol=1e-6)
    np.testing.assert_allclose(mesh.points[:, 1], y / 0.3, atol=1e-6)
    low, high = value[~gap].min(), value[~gap].max()
    heights = 0.5 * (value[~gap] - low) / (high - low)
    np.testing.assert_allclose(mesh.points[~gap, 2], heights, atol=1e-6)
    assert gap.sum() == 1 and mesh.n_verts == 1 and mesh.points[gap, 2] == 0
    # All but the corner's one triangle: each half of a cell is as large as the other.
    flat = mesh.points * [1, 1, 0]
    area = pyvista.PolyData(flat, faces=mesh.faces).area
    assert mesh.n_cells == 1 + 2 * 12 - 1 and area == pytest.approx(23 / 24)


@pytest.mark.parametrize("kind", ["surface", "volume"])
def test_an_image_for_paraview_has_the_values_at_their_coordinates(kind, request, tmp_path):
    pyvista = pytest.importorskip("pyvista")
    grid = request.getfixturevalue(kind)
    jloss.export(grid, tmp_path / "grid.vti")
    image = pyvista.read(tmp_path / "grid.vti")
    for index in np.ndindex(grid.shape):
        place = [float(axis[i]) for axis, i in zip(grid.axes.values(), index, strict=True)]
        place += [0.0] * (3 - len(place))
        found = image.point_data["value"][image.find_closest_point(place)]
        np.testing.assert_allclose(found, grid.values[index], rtol=1e-6)
    np.testing.assert_allclose(image.bounds[:4], [-2, 1, 0, 0.3], rtol=1e-6, atol=1e-6)


def test_a_gltf_surface_stands_upright(surface, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    jloss.export(surface, tmp_path / "surface.glb")
    mesh = trimesh.load(tmp_path / "surface.glb", force="mesh")
    assert len(mesh.faces) == 23 and len(mesh.vertices) == 19
    np.testing.assert_allclose(mesh.extents, [1, 0.5, 1], atol=1e-6)
    highest, lowest = mesh.vertices[:, 1].argmax(), mesh.vertices[:, 1].argmin()
    np.testing.assert_allclose(mesh.vertices[highest], [1, 0.5, -1], atol=1e-6)
    np.testing.assert_allclose(mesh.vertices[lowest], [0, 0, 0], atol=1e-6)
    colours = mesh.visual.vertex_colors
    # Viridis, from its dark end to its light one.
    np.testing.assert_allclose(colours[lowest][:3], [68, 1, 84], atol=2)
    np.testing.assert_allclose(colours[highest][:3], [253, 231, 37], atol=2)


def test_a_page_needs_no_network_and_has_the_values(surface, volume, tmp_path):
    line = jloss.sweep(lambda x: x**2, batch_size=5, x=X)
    for grid, kind in ((line, "scatter"), (surface, "surface"), (volume, "isosurface")):
        jloss.export(grid, tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text()
        assert not re.search(r"<(script|link)[^>]*(src|href)=", page)
        assert "Plotly.newPlot" in page and f'"type":"{kind}"' in page
        assert json.dumps("x") in page


def test_a_training_path_lies_on_the_floor():
    def bowl(params, batch):
        return jloss.average(jnp.sum(params**2) * batch)

    path = [jnp.array(p) for p in ([2.0, 1.0], [1.0, 1.0], [0.0, 0.0])]
    plane = jloss.landscape.plane(bowl, path[-1], jnp.ones(1), path=path, resolution=5)
    surface, track = jloss.plot.interactive(plane).data
    np.testing.assert_allclose(np.stack([track.x, track.y], 1), plane.path)
    assert "projected" in track.name and (np.asarray(track.z) == np.nanmin(surface.z)).all()


def test_heights_over_decades_are_logarithms(tmp_path):
    grid = jloss.sweep(lambda x, y: 10 ** (x + y), x=jnp.arange(4.0), y=jnp.arange(2.0))
    (surface,) = jloss.plot.interactive(grid).data
    np.testing.assert_allclose(surface.z, np.add.outer(np.arange(4.0), np.arange(2.0)), atol=1e-6)
    assert surface.text[3][1] == "1e+04"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("a.obj", r"a.obj must end in .html, .vtp, .vti, .glb"),
        ("a.vtp", r".vtp takes 2 axes .* not a grid of \(5, 4, 3\)"),
        ("a.glb", r".glb takes 2 axes"),
    ],
)
def test_export_refuses(volume, tmp_path, file, message):
    with pytest.raises(ValueError, match=message):
        jloss.export(volume, tmp_path / file)
    assert not list(tmp_path.iterdir())


def test_an_image_refuses_uneven_coordinates(tmp_path):
    grid = jloss.sweep(lambda x, y: x + y, x=jnp.array([1.0, 2.0, 4.0]), y=jnp.arange(3.0))
    with pytest.raises(ValueError, match="x is not evenly spaced"):
        jloss.export(grid, tmp_path / "a.vti")
    assert not list(tmp_path.iterdir())
