"""The pictures of the report: matplotlib figures made into SVG that follows the page's colours."""

import io
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jloss import plot
from jloss._optional import optional
from jloss.card import CARDS
from jloss.compare import Comparison, Reading, Result
from jloss.landscape import Plane

# Colours that matplotlib draws with; on the page each becomes a variable, light or dark. The first
# three series are those of `jloss.plot`.
INK, MUTED, RULE, SHADE, ACCENT = "#010101", "#020202", "#030303", "#040404", "#050505"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#0a0101", "#0a0202", "#0a0303")
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    SHADE: "shade",
    ACCENT: "accent",
    "#595959": "muted",
    **{colour: f"series-{place}" for place, colour in enumerate(SERIES)},
}

_STYLE = {
    "svg.fonttype": "none",
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "normal",
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}
_SIZE = (4.9, 3.1)


def _drawn(name: str, draw: Callable[[Any], None], size: tuple[float, float] = _SIZE) -> str:
    """What ``draw`` puts on a set of axes in the page's style, as SVG."""
    # The salt makes ids, which must not meet those of another picture on the page.
    style = _STYLE | {"svg.hashsalt": name}
    with optional("matplotlib", "plot").rc_context(style):
        figure = optional("matplotlib.figure", "plot").Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return _inline(text.getvalue())


def _inline(svg: str) -> str:
    """SVG as a part of a page: no prologue, no addresses, colours from the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg


def scores(comparison: Comparison, take: str) -> str:
    """The metric on the test rows: a dot for each loss, with two standard errors either way."""
    results = comparison.results
    factor = 100 if comparison.table.classes else 1

    def draw(ax: Any) -> None:
        ax.axvline(factor * comparison.baseline, color=MUTED, linewidth=1, linestyle="--")
        for place, result in enumerate(results):
            mean = factor * result.scores.mean()
            margin = factor * 2 * result.scores.std(ddof=1) / np.sqrt(len(result.scores))
            colour = ACCENT if result.loss == take else INK
            ax.errorbar(mean, place, xerr=margin, fmt="o", color=colour, markersize=7)
            ax.text(0, place - 0.28, result.loss, transform=ax.get_yaxis_transform())
        title = f"test {comparison.metric}{', %' if comparison.table.classes else ''}"
        ax.set(title=title, yticks=[], ylim=(len(results) - 0.6, -0.75))
        ax.grid(visible=False, axis="y")
        ax.spines["left"].set_visible(False)

    return _drawn("scores", draw, (4.2, 0.9 + 0.5 * len(results)))


def curves(comparison: Comparison, result: Result, name: str) -> str:
    """One quantity, ``"loss"`` or ``"metric"``, over the epochs: train and validation."""
    percent = name == "metric" and bool(comparison.table.classes)
    history = dict(result.history)
    if percent:
        history |= {key: 100 * values for key, values in history.items() if "metric" in key}
    best, last = result.best + 1, comparison.epochs

    def draw(ax: Any) -> None:
        plot.curves(history, name, ax)
        ax.get_legend().remove()  # the page has one key for all
        if best < last:
            ax.axvspan(best, last, color=SHADE, linewidth=0, zorder=0)
        title = (comparison.metric + ", %" * percent) if name == "metric" else "loss"
        if name == "metric":
            ax.set_ylim(*_metric_limits(comparison, 100 if percent else 1))
        elif ax.get_yscale() == "log":
            title += ", log scale"
        ax.set(title=title, ylabel="", xlim=(1, last))

    return _drawn(f"{result.loss}-{name}", draw)


def _metric_limits(comparison: Comparison, factor: float) -> tuple[float, float]:
    """The same scale for every loss, so that their pictures can be compared."""
    names = ("train_metric", "validation_metric")
    values = np.concatenate([r.history[name] for r in comparison.results for name in names])
    values = values[np.isfinite(values)] * factor
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


# Shapes: the losses themselves, as functions of one number.


def shapes(comparison: Comparison) -> list[tuple[str, list[Result], str, str]]:
    """For each group of losses that share an axis: its title, they, their values and gradients."""
    groups: dict[str, list[Result]] = {}
    for result in comparison.results:
        groups.setdefault(_axis(comparison, result.reading), []).append(result)
    return [
        (
            title,
            group,
            _shape(comparison, title, group, "loss"),
            _shape(comparison, title, group, "gradient"),
        )
        for title, group in groups.items()
    ]


def _axis(comparison: Comparison, reading: Reading) -> str:
    """What the horizontal axis means for a loss."""
    classes = comparison.table.classes
    if not classes:
        return "prediction − target, standardised"
    if len(classes) == 2:
        return f"the model's output for a row of class {classes[1]!r}"
    if reading.as_number:
        return f"the model's output for a row of class {classes[_shown_class(comparison)]!r}"
    return "score of the right class above all the others"


def _shown_class(comparison: Comparison) -> int:
    return len(comparison.table.classes) // 2


def _shape(comparison: Comparison, title: str, group: list[Result], part: str) -> str:
    span, mark = _span(comparison, group[0].reading)
    places = jnp.linspace(*span, 401, dtype=jnp.float32)

    def draw(ax: Any) -> None:
        if mark is not None:
            ax.axvline(mark, color=MUTED, linewidth=1, linestyle="--")
        drawn = []
        for result in group:
            along = _along(comparison, result)
            each = jax.vmap(along if part == "loss" else jax.grad(along))
            drawn.append(np.asarray(jax.jit(each)(places)))
            ax.plot(places, drawn[-1], color=colour(comparison, result))
        if part == "loss" or comparison.table.classes:
            ax.set_ylim(*_readable(drawn))
        ax.set(
            title="loss" if part == "loss" else "gradient: how hard a row pulls",
            xlabel=title,
            xlim=span,
        )

    return _drawn(f"shape-{part}-{title}", draw)


def _readable(drawn: list[np.ndarray]) -> tuple[float, float]:
    """Limits that the steepest curve may leave, so that the others stay readable."""
    second = sorted(float(np.abs(values).max()) for values in drawn)[-2:][0]
    low = max(min(float(values.min()) for values in drawn), -2.5 * second)
    high = min(max(float(values.max()) for values in drawn), 2.5 * second)
    margin = 0.03 * (high - low)
    return low - margin, high + margin


def colour(comparison: Comparison, result: Result) -> str:
    """The colour of a loss in the shapes."""
    return SERIES[comparison.results.index(result) % len(SERIES)]


def _span(comparison: Comparison, reading: Reading) -> tuple[tuple[float, float], float | None]:
    """How far the axis goes, and what is marked on it."""
    classes = comparison.table.classes
    if not classes:
        # A target that is too high leaves a prediction that is too low.
        outlier = -comparison.parts.outlier_size
        return ((1.1 * outlier, 3.0), outlier) if outlier else ((-4.0, 4.0), None)
    if len(classes) > 2 and reading.as_number:
        return (0.0, len(classes) - 1.0), float(_shown_class(comparison))
    return (-4.0, 6.0), 0.0


def _along(comparison: Comparison, result: Result) -> Any:
    """The loss of one row as a function of the number on the axis, computed by the real loss."""
    loss, reading = CARDS[result.loss].loss, result.reading
    classes = len(comparison.table.classes)
    if classes == 2:
        target = jnp.ones((), jnp.int32)
    elif classes:
        target = jnp.asarray(_shown_class(comparison) if reading.as_number else 0, jnp.int32)
    else:
        target = jnp.zeros((), jnp.float32)
    encoded = reading.encode(target, classes)
    if reading.width(classes) == 1:
        return lambda output: loss(output, encoded)
    others = jnp.zeros(classes - 1)
    return lambda margin: loss(jnp.concatenate([margin[None], others]), encoded)


def surface(result: Result) -> str:
    """The training loss around the solution, with the path of training on it."""

    def draw(ax: Any) -> None:
        plot.contour(result.plane, ax=ax)
        ax.get_legend().remove()
        ax.grid(visible=False)
        ax.set(xlabel="along the walk", ylabel="across it")

    return _drawn(f"{result.loss}-surface", draw)


def plane(found: Plane) -> str:
    """A plane around params as a map."""

    def draw(ax: Any) -> None:
        plot.contour(found, ax=ax)
        ax.grid(visible=False)

    return _drawn("plane", draw, (6.6, 4.8))
