"""The page about the ground around a user's params: a map, the same to turn, how it was made."""

import shlex
from dataclasses import dataclass
from html import escape
from pathlib import Path

import jax
import numpy as np

from jloss import __version__
from jloss._interactive import interactive
from jloss.landscape import Plane
from jloss.report import figures, html


@dataclass(frozen=True)
class Survey:
    """A plane around params, and what the page says of it.

    Attributes:
      plane: with the params in the middle.
      objective: its name.
      checkpoint: the folder of the params.
      data: what the objective was evaluated on, in words.
      parameters: how many numbers the params are.
      seed: of the directions.
      command: that does it again, word by word.
    """

    plane: Plane
    objective: str
    checkpoint: Path
    data: str
    parameters: int
    seed: int
    command: tuple[str, ...]

    @property
    def centre(self) -> float:
        """The value at the params."""
        values = self.plane.values
        return float(values[values.shape[0] // 2, values.shape[1] // 2])

    def said(self) -> list[str]:
        """What was found, in sentences."""
        values = np.asarray(self.plane.values)
        finite = np.isfinite(values)
        lines = [f"{self.objective} is {self.centre:.6g} at the params."]
        if finite.any():
            i, j = np.unravel_index(np.where(finite, values, np.inf).argmin(), values.shape)
            a, b = float(self.plane.a[i]), float(self.plane.b[j])
            low, high = values[i, j], values[finite].max()
            found = f"The lowest of the {values.size:,} points is {low:.6g}"
            if low < self.centre:
                lines.append(f"{found}, at a = {a:.3g}, b = {b:.3g}; the highest is {high:.6g}.")
            else:
                lines.append(f"No point is lower; the highest is {high:.6g}.")
        if not finite.all():
            lines.append(f"{(~finite).sum():,} points are not finite; they are marked as such.")
        if (bend := self.plane.curvature) is not None:
            low, high = bend.plane
            lines.append(
                f"The curvature at the params is {low:.3g} to {high:.3g} in this plane, and "
                f"{bend.largest:.3g} in the steepest direction of all."
            )
        return lines


_MAP = """Every point stands for other params: those of the checkpoint, in the middle (the star),
plus a times one direction plus b times another. Colours and contours are the objective there, dark
being low."""

_LIMITS = """Two directions out of {parameters:,} show little. Random ones mostly miss the few in
which the ground is steep, so that it looks flatter and rounder here than it is; a valley in this
picture is one in two directions, and not in all. Another --seed shows others."""


def write(survey: Survey, path: Path) -> None:
    """Writes the page whole or not at all."""
    html.save(page(survey), path)


def page(survey: Survey) -> str:
    """The page as HTML."""
    plane, name = survey.plane, escape(survey.checkpoint.name)
    first, *others = survey.said()
    facts = [
        f"{survey.parameters:,} parameters",
        f"{plane.values.size:,} points",
        f"seed {survey.seed}",
    ]
    turned = interactive(plane).update_layout(paper_bgcolor="#ffffff", height=560)
    body = [
        f"""<header>
<p class="kicker">{" · ".join(map(html.text, facts))}</p>
<h1>The ground around {name}</h1>
<div class="verdict" style="display: block">
<p class="lead">{html.text(first)}</p>
{"".join(f"<p>{html.text(line)}</p>" for line in others)}</div>
</header>
<main>
""",
        html.section(
            "The map",
            _MAP,
            html.figure("", html.picture(figures.plane(plane), " ".join(survey.said()))),
            _LIMITS.format(parameters=survey.parameters),
        ),
        html.section(
            "The same to turn",
            "Drag it to turn it; the numbers are those under the pointer.",
            f"<div>{turned.to_html(full_html=False, include_plotlyjs=True)}</div>",
        ),
        html.section("How this was measured", _method(survey)),
        f"""</main>
<footer class="note">Made by jloss {__version__}. The same again:
<code tabindex="0">{escape(shlex.join(survey.command))}</code></footer>
""",
    ]
    return html.document(f"The ground around {name}", body)


def _method(survey: Survey) -> str:
    plane = survey.plane
    reach = float(plane.a[-1])
    steps = [
        f"The objective is {survey.objective}, evaluated on {survey.data}.",
        f"The grid is {len(plane.a)} x {len(plane.b)} points, from {-reach:g} to {reach:g} along "
        "both directions.",
        "The directions are random, orthogonal, and as large as the params filter by filter, so "
        "that a step of 1 changes every filter by its own size; biases and other leaves of fewer "
        "than two axes keep still (Li et al. 2018).",
        "What of the objective is affine in a and b, as a first layer is, was computed once; this "
        "changes nothing but rounding.",
        f"It ran on {jax.device_count()} {jax.devices()[0].device_kind} "
        f"device{'s' if jax.device_count() > 1 else ''} with jax {jax.__version__}.",
    ]
    return f"<ul>{''.join(f'<li>{html.text(step)}</li>' for step in steps)}</ul>\n"
