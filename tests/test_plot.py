"""What stands in the pictures; how they look was judged by eye."""

import dataclasses
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

import jloss
from jloss.average import average
from jloss.landscape import plane
from jloss.plot import contour, curves, line, surface
from jloss.sweep import sweep

X, Y = jnp.linspace(-1, 1, 9), jnp.linspace(0, 2, 5)
GRID = sweep(lambda x, y: x**2 + y, x=X, y=Y)
HISTORY = {
    "loss": np.array([4.0, 3.0, 2.0, 1.5]),
    "train_loss": np.array([3.0, 2.0, 1.5, 1.0]),
    "validation_loss": np.array([3.0, 2.5, np.nan, 2.8]),
    "train_accuracy": np.array([0.1, 0.2, 0.3, 0.4]),
    "validation_accuracy": np.array([0.2, 0.3, 0.1, 0.4]),
}


@pytest.fixture(scope="module")
def bowl():
    centre = jnp.array([1.0, 2.0])
    objective = lambda p, batch: average(1.0 + jnp.sum((p - centre) ** 2) * batch)  # noqa: E731
    path = [centre + 2, centre + jnp.array([1.0, 0.5]), centre]
    return plane(objective, centre, jnp.ones(1), path=path, resolution=7)


def render(ax):
    """Draws in full, so that whatever matplotlib would complain of is complained of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax.figure.draw_without_rendering()
    return ax


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()] if ax.get_legend() else []


def colour_at(ax, x, y):
    """The value of the filled contour that covers a place, by the level that it starts from."""
    filled = ax.collections[0]
    inside = [
        level
        for level, path in zip(filled.levels, filled.get_paths(), strict=False)
        if path.contains_point((x, y))
    ]
    assert len(inside) == 1
    return inside[0]


def test_a_contour_shows_each_value_at_its_place():
    ax = render(contour(GRID))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "y")
    assert (ax.get_xlim(), ax.get_ylim()) == ((-1, 1), (0, 2))
    for x, y in [(-0.9, 0.1), (0.05, 1.8), (0.8, 1.0)]:
        assert colour_at(ax, x, y) <= x**2 + y + 0.02 <= colour_at(ax, x, y) + 0.25
    assert labels(ax) == []


def test_axes_out_of_order_are_drawn_in_order():
    shuffled = sweep(lambda x, y: x**2 + y, x=X[::-1], y=Y[jnp.array([3, 0, 4, 1, 2])])
    ax = render(contour(shuffled))
    assert colour_at(ax, 0.05, 1.8) == colour_at(contour(GRID), 0.05, 1.8)
    assert (ax.get_xlim(), ax.get_ylim()) == ((-1, 1), (0, 2))


@pytest.mark.parametrize(
    ("function", "logarithmic"),
    [(lambda x, y: 10 ** (x * y), True), (lambda x, y: 10 ** (x * y) - 0.1, False)],
)
def test_levels_are_logarithmic_for_positive_values_over_decades(function, logarithmic):
    filled = render(contour(sweep(function, x=2 * X, y=Y))).collections[0]
    assert isinstance(filled.norm, LogNorm) is logarithmic
    steps = np.diff(np.log(filled.levels) if logarithmic else filled.levels)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)


def test_a_plane_shows_params_and_path(bowl):
    ax = render(bowl.plot())
    assert labels(ax) == ["training path", "its start", "params"]
    drawn = [tuple(artist.get_xydata()[-1]) for artist in ax.lines]
    assert drawn[-1] == (0, 0)
    np.testing.assert_array_equal(ax.lines[1].get_xydata(), bowl.path)


@pytest.mark.parametrize("kind", ["contour", "surface"])
def test_places_that_are_not_finite_are_shown_as_such(bowl, kind):
    values = np.array(bowl.values)
    values[:2, :3], values[5, 5] = np.nan, np.inf
    ax = render(dataclasses.replace(bowl, values=values, path=None).plot(kind))
    assert labels(ax)[-1] == "not finite"
    if kind == "contour":
        assert ax.patch.get_hatch()
    else:
        crosses = ax.collections[-1]._offsets3d[0]
        assert len(crosses) == 7


@pytest.mark.parametrize("draw", [contour, surface])
def test_a_grid_of_nothing_finite_is_drawn_all_the_same(draw):
    ax = render(draw(sweep(lambda x, y: x * jnp.nan, x=X, y=Y)))
    assert labels(ax) == ["not finite"]


@pytest.mark.parametrize("value", [0.0, -3.0, 1e-20])
def test_a_flat_grid_is_drawn_in_one_colour(value):
    grid = sweep(lambda x, y: value + 0 * x, x=X, y=Y)
    assert len([p for p in render(contour(grid)).collections[0].get_paths() if len(p)]) == 1
    render(surface(grid))


def test_a_surface_has_the_values_as_its_height():
    ax = render(surface(GRID))
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_zlabel()) == ("x", "y", "value")
    np.testing.assert_allclose(ax.zz_dataLim.intervalx, [0, 3], atol=1e-6)


def test_a_surface_over_decades_is_logarithmic_and_labelled_by_values():
    ax = render(surface(sweep(lambda x, y: 10 ** (4 * x), x=X, y=Y)))
    assert ax.get_zlabel() == "value (log scale)"
    np.testing.assert_allclose(ax.zz_dataLim.intervalx, [-4, 4], atol=1e-5)
    assert ax.zaxis.get_major_formatter()(2.0, 0) == "1e+02"


def test_a_surface_needs_three_dimensions():
    with pytest.raises(ValueError, match="must be three-dimensional"):
        surface(GRID, ax=Figure().add_subplot())


def test_a_line_shows_its_values_and_its_gaps():
    grid = sweep(lambda x: jnp.where(jnp.abs(x) < 0.1, jnp.nan, x**2), x=X)
    ax = render(grid.plot())
    drawn = ax.lines[0].get_xydata()
    np.testing.assert_allclose(drawn[:, 0], X)
    np.testing.assert_allclose(drawn[:, 1], grid.values)
    (gap,) = ax.patches
    assert (gap.get_x(), gap.get_x() + gap.get_width()) == (-0.125, 0.125)
    assert labels(ax) == ["not finite"]
    assert (ax.get_xscale(), ax.get_yscale()) == ("linear", "linear")


def test_a_line_over_decades_is_logarithmic_both_ways():
    ax = render(line(sweep(lambda lr: lr**2, lr=jnp.logspace(-3, 0, 7))))
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_xlabel()) == ("log", "log", "lr")


def test_one_of_several_values_is_drawn_by_name():
    grid = sweep(lambda x: {"loss": x, "slope": -x}, x=X)
    ax = render(grid.plot("slope"))
    assert ax.get_ylabel() == "slope"
    np.testing.assert_allclose(ax.lines[0].get_ydata(), -X)
    with pytest.raises(ValueError, match="name one of the values: loss, slope"):
        grid.plot()


def test_keys_are_drawn_in_their_order():
    keys = jax.random.split(jax.random.key(0), 3)
    ax = render(sweep(lambda key, x: jax.random.normal(key) + x, key=keys, x=X).plot())
    assert ax.get_xlabel() == "key (number in order)" and ax.get_xlim() == (0, 2)


def test_curves_mark_the_best_epoch_by_the_validation_loss():
    ax = render(curves(HISTORY))
    assert labels(ax) == ["train", "validation", "best epoch: 2", "not finite"]
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[1, 3], [2, 2], [3, 1.5], [4, 1]])
    assert ax.lines[2].get_xdata() == [2, 2]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "loss")


def test_curves_of_a_metric_mark_the_same_epoch():
    ax = render(curves(HISTORY, "accuracy"))
    assert labels(ax) == ["train", "validation", "best epoch: 2"]
    assert ax.lines[-1].get_xydata().tolist() == [[2, 0.3]]


def test_curves_without_validation_have_no_best_epoch():
    ax = render(curves({"loss": [2.0], "train_loss": [1.0]}))
    assert labels(ax) == ["train"] and ax.lines[0].get_marker() == "."


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: contour(sweep(lambda x: x, x=X)), r"two axes .* not \(9,\)"),
        (lambda: contour(sweep(lambda x, y: x, x=X, y=Y[:1])), r"not \(9, 1\)"),
        (lambda: surface(sweep(lambda x: x, x=X)), "surface: two axes"),
        (lambda: line(GRID), "line: one axis is needed, not 2"),
        (lambda: curves(HISTORY, "error"), "no 'error' in the history; there are accuracy, loss"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_an_unknown_kind_of_plot_is_refused(bowl):
    with pytest.raises(ValueError, match="kind must be one of contour, surface, not 'map'"):
        bowl.plot("map")


def test_given_axes_are_drawn_into():
    figure = Figure()
    flat, solid = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2, projection="3d")
    assert contour(GRID, ax=flat) is flat and surface(GRID, ax=solid) is solid
    assert curves(HISTORY, ax=flat) is flat and sweep(lambda x: x, x=X).plot(ax=flat) is flat


PICTURE = """
import sys
import jloss.plot

def shown():
    ax = jloss.plot.curves({"train_loss": [2.0, 1.0]})
    ax.figure.savefig(sys.argv[1])
    pyplot = sys.modules.get("matplotlib.pyplot")
    return pyplot is not None and ax.figure.number in pyplot.get_fignums()

"""
PYPLOT = "print(shown()); import matplotlib.pyplot; print(shown())"
NOTEBOOK = "from IPython.core.interactiveshell import InteractiveShell as S; S.instance()"


@pytest.mark.parametrize(
    ("code", "said"), [(PYPLOT, "False True"), (f"{NOTEBOOK}; print(shown())", "True")]
)
def test_pyplot_keeps_a_figure_only_where_it_shows_it(code, said, tmp_path):
    if "IPython" in code:
        pytest.importorskip("IPython")
    image = tmp_path / "curves.png"
    command = [sys.executable, "-c", PICTURE + code, str(image)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split() == said.split()
    assert image.read_bytes().startswith(b"\x89PNG")


def test_plotting_without_matplotlib_names_the_extra(monkeypatch):
    for module in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        ImportError, match=r'plotting needs matplotlib: pip install "jloss\[plot\]"'
    ):
        curves(HISTORY)


# Landscapes.


@pytest.fixture(scope="module")
def ways():
    ring = lambda p, batch: average(batch * (jnp.sum(p**2) - 1) ** 2)  # noqa: E731
    ends = jnp.array([-1.0, 0.0]), jnp.array([1.0, 0.0])
    return jloss.landscape.interpolate(ring, *ends, jnp.ones(1), resolution=5)


def test_a_projected_path_says_how_far_it_is_from_the_plane(bowl):
    off = np.array([0.5, 2.0, 0.0])
    ax = render(contour(dataclasses.replace(bowl, off_plane=off)))
    texts = [text.get_text() for text in ax.texts]
    assert "0: 0.5 off" in texts and "1: 2 off" in texts
    assert any("up to 2 off the plane:\nthe contour under it is not the loss" in t for t in texts)


def test_a_plane_says_how_little_it_shows_and_how_it_was_interpolated(bowl):
    unknown = dataclasses.replace(bowl, path=None, off_plane=None)
    assert "Steeper directions may be missing" in contour(unknown).texts[-1].get_text()
    bend = jloss.landscape.PlaneCurvature(np.array([0.25, 0.5]), 40.0)
    fine = jloss.landscape.Refined(X, Y, X, jloss.landscape.InterpolationError(0.1, 0.05, 20), 100)
    ax = render(contour(dataclasses.replace(bowl, curvature=bend, refined=fine)))
    note = ax.texts[-1].get_text()
    assert "0.25 to 0.5 in this plane,\n40 in the steepest" in note
    assert "from 80 points,\noff by 0.1 at most at 20 others" in note


def test_solutions_and_metrics_of_a_plane_are_drawn(bowl):
    plane = dataclasses.replace(
        bowl, metrics={"slope": bowl.values + 10}, solutions=np.array([[1.0, 0.0], [0.0, 1.0]])
    )
    ax = render(contour(plane, "slope"))
    assert "other solutions" in labels(ax)
    assert ax.figure.axes[1].get_ylabel() == "slope"
    assert colour_at(ax, 0.01, 0.01) > 9
    with pytest.raises(ValueError, match="no values named 'height'; there are loss, slope"):
        contour(plane, "height")


def test_a_peak_above_the_clip_is_drawn_like_the_clip():
    peaked = sweep(lambda x, y: jnp.where(x > 0.9, 1e6, x + y) - 5.0, x=X, y=Y)
    ax = render(contour(peaked, clip=-2.0))
    assert ax.collections[0].extend == "max"
    assert ax.collections[0].levels[-1] < 0
    assert contour(GRID, clip=100.0).collections[0].extend == "neither"


def test_a_barrier_is_marked_at_its_place(ways):
    ax = render(jloss.plot.barrier({"straight": ways}))
    assert labels(ax) == ["straight: barrier 1"]
    (mark,) = ax.collections[0].get_segments()
    np.testing.assert_allclose(mark, [[0.5, 0.0], [0.5, 1.0]], atol=1e-6)
    assert labels(render(ways.plot())) == ["barrier 1"]


def test_a_band_shows_draws_mean_and_verdict():
    draws = np.random.default_rng(0).normal(size=(6, 9))
    ax = render(jloss.plot.band(jloss.landscape.Bands({"a": X}, draws)))
    assert len(ax.lines) == 6 + 1 + 1
    assert "may be chance" in ax.get_title()
    np.testing.assert_allclose(ax.lines[6].get_ydata(), draws.mean(0))
    with pytest.raises(ValueError, match="draws of a line are needed"):
        jloss.plot.band(jloss.landscape.Bands({"a": X, "b": X}, draws))


def test_arrows_of_a_field_point_down_the_gradient():
    grid = sweep(lambda x, y: {"loss": x**2 + y, "gradient": jnp.stack([2 * x, 1.0])}, x=X, y=Y)
    ax = render(jloss.plot.field(grid))
    arrows = ax.collections[-1]
    np.testing.assert_allclose(arrows.U, -2 * np.asarray(arrows.X), atol=1e-6)
    np.testing.assert_allclose(arrows.V, -1.0)
    with pytest.raises(ValueError, match="a sweep of loss and gradient is needed"):
        jloss.plot.field(GRID)


def test_multiples_share_levels_and_stand_where_they_belong():
    z, w = jnp.array([3.0, 1.0, 2.0]), jnp.arange(2.0)
    cube = sweep(lambda x, y, z, w: x**2 + y * z + w, x=X, y=Y, z=z, w=w)
    axes = jloss.plot.multiples(cube)
    render(axes[0, 0])
    assert axes.shape == (3, 2)
    assert axes[2, 1].get_title() == "z = 3, w = 1"
    levels = [tuple(ax.collections[0].levels) for ax in axes.flat]
    assert len(set(levels)) == 1
    at = colour_at(axes[2, 1], 0.05, 1.0)
    assert at <= 0.05**2 + 3 + 1 <= at + (levels[0][1] - levels[0][0]) * 1.1
    with pytest.raises(ValueError, match="three or four axes are needed, not 2"):
        jloss.plot.multiples(GRID)


def test_an_interactive_contour_has_each_value_at_its_place(bowl):
    (drawn,) = jloss.plot.interactive_contour(GRID).data
    x, y = np.asarray(drawn.x), np.asarray(drawn.y)
    np.testing.assert_allclose(drawn.z, x[None] ** 2 + y[:, None], rtol=1e-5)
    assert drawn.text[4][0] == "3"
    (clipped,) = jloss.plot.interactive_contour(GRID, clip=0.5).data
    assert np.max(clipped.z) == 0.5 and clipped.text[4][0] == "3"
    figure = jloss.plot.interactive_contour(bowl)
    (path,) = [trace for trace in figure.data if trace.name == "training path"]
    np.testing.assert_allclose(np.stack([path.x, path.y], 1), bowl.path)
    assert path.text[0].startswith("point 0: ")
    assert "is not the loss on it" in figure.layout.title.text
    with pytest.raises(ValueError, match="two axes are needed, not 1"):
        jloss.plot.interactive_contour(sweep(lambda x: x, x=X))
