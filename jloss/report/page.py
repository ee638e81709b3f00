"""The report as one HTML file that needs nothing else: words, table and pictures put together."""

import shlex
from collections.abc import Iterable
from html import escape
from pathlib import Path

from jloss import __version__
from jloss.card import CARDS, Card
from jloss.compare import (
    BATCH_SIZE,
    HIDDEN,
    LEARNING_RATE,
    OUTLIER_SIZE,
    SURFACE_ROWS,
    Comparison,
    Result,
)
from jloss.report import figures, html, words


def write(comparison: Comparison, path: Path) -> None:
    """Writes the page whole or not at all."""
    html.save(page(comparison), path)


def page(comparison: Comparison) -> str:
    """The report as HTML."""
    body = [
        _header(comparison),
        html.section("What came of each loss", _table(comparison), _table_notes(comparison)),
        html.section(
            "How it was learnt",
            _CURVES,
            _METRICS[comparison.metric],
            _key(*_CURVES_KEY),
            *_curves(comparison),
        ),
        html.section("What each loss asks for", _SHAPES, *_shapes(comparison)),
        html.section("The ground they walked on", _SURFACES, _surfaces(comparison)),
        html.section("How this was measured", _method(comparison)),
        _footer(comparison),
    ]
    return html.document(f"Which loss for {_name(comparison)}?", body)


_CURVES = """Each epoch is one round of the cycle over all training rows: predict, compare with the
truth by the loss, update the parameters a little in the direction that lowers it. The model sees
the training rows only, so its training loss is bound to fall. The validation rows tell whether
what it learns holds elsewhere. Where their loss is lowest (the dot) learning was done; what
follows, shaded, is the training rows learnt by heart. So the training loss is not to be driven to
its end: the parameters of the dot are the ones that were kept."""

_METRICS = {
    "accuracy": """The second picture of each pair shows what is wanted in the end, on the same
scale for all. It need not follow the loss: the loss measures how far off every answer is, accuracy
only counts on which side it falls. The one can get worse while the other gets better, and a loss
can fall nicely to the end while the classes stay confused.""",
    "mean absolute error": """The second picture of each pair shows what is wanted in the end, on
the same scale for all: how far off the answers are on average, in the target's own units. It need
not follow the loss. What a loss charges for is what the model improves, and where that is
something else (a few rows that are far off, say) the loss can fall while the answers get worse.""",
}

_SHAPES = """A loss says what wrong means. First picture: how much it charges for an answer; second:
its slope there, which is the pull on the model during an update. Both are computed with the very
functions that trained the models (jax.vmap and jax.grad). Where the slope is zero the loss is
content; where it stays large a row goes on pulling; where the slope jumps there is a kink, at
which jloss takes one of the possible slopes (a subgradient) and training goes on all the same."""

_SURFACES = """Every set of parameters has a training loss, so training is a walk on a surface with
thousands of dimensions. Shown is the flat cut through it in which the walk extends most: the line
is the walk, projected onto the cut, from the square on, with a point for every epoch; the star is
where the validation loss was lowest. Colours and contours are the loss on training rows, dark
being low. Past the star the walk goes on to lower ground: lower for the training rows, not for the
others. Where the walk leaves the cut, the colour beneath it is not quite the loss it met."""


def _header(comparison: Comparison) -> str:
    table, said = comparison.table, words.verdict(comparison)
    facts = [
        f"{len(table.targets):,} rows",
        f"{len(table.columns):,} features",
        f"{len(table.classes)} classes" if table.classes else "regression",
    ]
    if comparison.outliers:
        facts.append(f"{100 * comparison.outliers:g} % outliers")
    reasons = "".join(f"<p>{html.text(reason)}</p>\n" for reason in said.reasons)
    alt = "; ".join(
        f"{r.loss}: {words.metric(comparison, float(r.scores.mean()))}" for r in comparison.results
    )
    drawn = html.picture(figures.scores(comparison, said.take), f"test {comparison.metric}. {alt}")
    return f"""<header>
<p class="kicker">{" · ".join(map(html.text, facts))}</p>
<h1>Which loss for {_name(comparison)}?</h1>
<div class="verdict">
<div>
<p class="lead">{html.text(said.headline)}</p>
{reasons}</div>
{html.figure(words.scores_caption(comparison), drawn)}</div>
</header>
<main>
"""


def _name(comparison: Comparison) -> str:
    """The data set as a heading names it; of a file, its name without the folder."""
    return escape(Path(comparison.table.name).name)


def _table(comparison: Comparison) -> str:
    head, *rows = words.table_rows(comparison)
    take = words.verdict(comparison).take
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = []
    for name, *cells in rows:
        data = "".join(
            f'<td data-label="{escape(label)}">{escape(cell)}</td>'
            for label, cell in zip(head[1:], cells, strict=True)
        )
        mark = ' class="take"' if name == take else ""
        lines.append(f'<tr{mark}><th scope="row">{html.text(name)}</th>{data}</tr>')
    return (
        f"<table>\n<thead><tr>{columns}</tr></thead>\n<tbody>\n"
        + "\n".join(lines)
        + "\n</tbody>\n</table>\n"
    )


def _table_notes(comparison: Comparison) -> str:
    return f'<p class="note">{html.text(words.table_note(comparison))}</p>\n'


def _key(*entries: tuple[str, str, str]) -> str:
    """What lines, dots and patches stand for: kind, colour (a variable of the page), meaning."""
    items = (
        f'<li class="{kind}" style="--line: var(--{colour})">{html.text(name)}</li>'
        for kind, colour, name in entries
    )
    return f'<ul class="key">{"".join(items)}</ul>\n'


_CURVES_KEY = (
    ("line", "series-0", "train"),
    ("line", "series-1", "validation"),
    ("dot", "series-1", "lowest validation loss: the parameters kept"),
    ("patch", "shade", "beyond it: overfitting"),
)


def _curves(comparison: Comparison) -> Iterable[str]:
    for result in comparison.results:
        said = words.curve_caption(comparison, result)
        pictures = [
            html.picture(
                figures.curves(comparison, result, name),
                f"{what} of {result.loss} over the epochs, train and validation",
            )
            for name, what in (("loss", "loss"), ("metric", comparison.metric))
        ]
        yield html.figure(said, *pictures, heading=result.loss)


def _shapes(comparison: Comparison) -> Iterable[str]:
    for title, results, *drawn in figures.shapes(comparison):
        pictures = [
            html.picture(svg, f"{what} as a function of {title}")
            for svg, what in zip(drawn, ("losses", "their gradients"), strict=True)
        ]
        place = comparison.results.index
        yield _key(*(("line", f"series-{place(r) % 6}", r.loss) for r in results))
        yield html.figure(words.shape_caption(comparison, title), *pictures)
    yield f"<dl>{''.join(_definition(CARDS[r.loss]) for r in comparison.results)}</dl>\n"


def _definition(card: Card) -> str:
    claims = words.claims(card)
    claimed = f"Claimed, and checked by machine: {claims}." if claims else "Nothing is claimed."
    said = html.text(f"{words.summary(card)} {claimed}")
    return f"<dt>{html.text(card.name)}</dt><dd>{said}</dd>"


def _surfaces(comparison: Comparison) -> str:
    def one(result: Result) -> str:
        said = words.surface_caption(comparison, result)
        drawn = html.picture(figures.surface(result), f"contours of the training loss. {said}")
        return html.figure(said, drawn, heading=result.loss)

    return f'<div class="pictures">{"".join(map(one, comparison.results))}</div>\n'


def _method(comparison: Comparison) -> str:
    table, parts = comparison.table, comparison.parts
    sizes = [len(part.targets) for part in (parts.train, parts.validation, parts.test)]
    steps = [
        f"The task is a {table.rule}.",
        f"The rows were split at random into {sizes[0]} to train on, {sizes[1]} to validate and "
        f"{sizes[2]} to test" + (", each class alike." if table.classes else "."),
        "Features were standardised by mean and deviation of the training rows alone"
        + (
            "."
            if table.classes
            else "; targets by median and median absolute deviation of the training rows, which "
            "outliers hardly move. Errors are given in the target's own units."
        ),
        f"The model is the same for all: one hidden layer of {HIDDEN} tanh units, the same first "
        f"weights (but for the size of the output), Adam at a rate of {LEARNING_RATE:g}, batches "
        f"of {BATCH_SIZE}, {comparison.epochs} epochs, of which the one with the lowest "
        "validation loss was kept.",
        "No knob was tuned for any loss. Each could do better with settings of its own.",
        "Differences are judged on the same test rows, pair by pair, and count when they exceed "
        "two standard errors. That covers the choice of the test rows, not that of the split or "
        "of the first weights: another --seed shows how much these matter.",
        "Seconds include compilation. The surfaces use "
        f"{min(SURFACE_ROWS, sizes[0])} training rows.",
    ]
    if comparison.outliers:
        steps.insert(
            2,
            f"Outliers: {parts.outliers} targets of train and validation were raised by "
            f"{OUTLIER_SIZE:g} standard deviations, as a slipped decimal point would do. "
            "The test targets are clean.",
        )
    return f"<ul>{''.join(f'<li>{html.text(step)}</li>' for step in steps)}</ul>\n"


def _footer(comparison: Comparison) -> str:
    table = comparison.table
    command = ["jloss", "compare", table.name]
    command += ["--target", table.target] if table.target else []
    command += ["--outliers", f"{comparison.outliers:g}"] if comparison.outliers else []
    command += ["--losses", ",".join(result.loss for result in comparison.results)]
    command += ["--epochs", str(comparison.epochs), "--seed", str(comparison.seed)]
    return f"""</main>
<footer class="note">Made by jloss {__version__}. The same again:
<code tabindex="0">{escape(shlex.join(command))}</code></footer>
"""
