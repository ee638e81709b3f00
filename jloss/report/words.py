"""What the numbers of a comparison say, in plain words: computed, never assumed."""

import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jloss.card import CARDS, Card
from jloss.compare import OUTLIER_SIZE, Comparison, Result

# A difference counts as shown from two standard errors on (some 95 % of a normal distribution).
SHOWN = 2.0


@dataclass(frozen=True)
class Verdict:
    """Which loss to take, and why.

    Attributes:
      take: the name of the loss.
      headline: one sentence.
      reasons: further sentences, in the order of their weight.
    """

    take: str
    headline: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """How much worse one loss did than another on the same test rows, in units of the metric."""

    mean: float
    error: float

    @property
    def shown(self) -> bool:
        """Whether it is more than noise."""
        return self.mean > SHOWN * self.error


def verdict(comparison: Comparison) -> Verdict:
    """The loss to take, judged by the metric on the test rows and, where that ties, by its card."""
    best = min(comparison.results, key=lambda result: _errors(comparison, result).mean())
    tied = [r for r in comparison.results if not worse(comparison, r, best).shown]
    take = min(tied, key=lambda result: _preference(comparison, result))
    others = [result for result in comparison.results if result not in tied]
    reasons = [_why(comparison, take, tied)]
    reasons += [_misled(comparison, result, take) for result in others]
    reasons += [_spared(comparison, result) for result in tied if _risk(comparison, result)]
    reasons += [_when_to_stop(comparison, take)]
    return Verdict(take.loss, _headline(comparison, take, tied), tuple(filter(None, reasons)))


def worse(comparison: Comparison, result: Result, than: Result) -> Difference:
    """How much worse one result is than another, row by row, so that hard rows cancel."""
    rows = _errors(comparison, result) - _errors(comparison, than)
    return Difference(float(rows.mean()), float(rows.std(ddof=1) / np.sqrt(len(rows))))


def metric(comparison: Comparison, value: float) -> str:
    """A metric as it is written everywhere: ``97.2 %``, or three digits."""
    return f"{100 * value:.1f} %" if comparison.table.classes else number(value)


def number(value: float) -> str:
    """A number to three digits, without exponents where they can be avoided."""
    if not np.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    digits = int(np.clip(2 - np.floor(np.log10(abs(value))), 0, 4))
    return f"{value:.3g}" if not 1e-4 <= abs(value) < 1e6 else f"{value:.{digits}f}"


def listed(names: list[str], last: str = "and") -> str:
    """``a, b and c``."""
    return f" {last} ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _errors(comparison: Comparison, result: Result) -> np.ndarray:
    """What is bad about each test row: 1 if it is wrong, or its absolute error. NaN is worst."""
    errors = 1 - result.scores if comparison.table.classes else result.scores
    return np.where(np.isfinite(errors), errors, np.finfo(np.float32).max).astype(np.float64)


def _amount(comparison: Comparison, difference: Difference) -> str:
    """A difference with its margin."""
    mean, margin = difference.mean, SHOWN * difference.error
    if comparison.table.classes:
        return f"{100 * mean:.1f} ± {100 * margin:.1f} points"
    digits = len(number(mean).partition(".")[2])
    return f"{number(mean)} ± {margin:.{digits}f}"


def _preference(comparison: Comparison, result: Result) -> tuple:
    """What decides between losses that the test rows cannot tell apart; the smallest is taken."""
    card, error = CARDS[result.loss], _errors(comparison, result).mean()
    if comparison.table.classes:
        return result.reading.as_number, card.elicits != "probability", error
    return card.lipschitz is None, card.smooth is None, error


def _headline(comparison: Comparison, take: Result, tied: list[Result]) -> str:
    score = metric(comparison, take.scores.mean())
    rows = len(take.scores)
    if len(tied) == 1:
        return (
            f"Take {take.loss}: {comparison.metric} {score} on {rows} test rows, clearly the best."
        )
    names = [result.loss for result in tied if result is not take]
    return (
        f"Take {take.loss}: {comparison.metric} {score} on {rows} test rows, and no difference to "
        f"{listed(names)} that this test set can show."
    )


def _why(comparison: Comparison, take: Result, tied: list[Result]) -> str:
    """What speaks for the loss beside its score, as its card has it."""
    card = CARDS[take.loss]
    because = f"Among the {len(tied)} that tie, it is preferred because " if len(tied) > 1 else ""
    if card.elicits == "probability" and not take.reading.as_number:
        text = (
            "it is a proper score: it is smallest when the model states the true probabilities, "
            "so that its outputs can be read as such."
        )
    elif not comparison.table.classes and card.lipschitz is not None:
        smooth = card.smooth is not None
        text = (
            f"its gradient is never larger than {card.constant('lipschitz'):g}, however "
            "wrong a target is, so that no single row can pull it far"
            + (", and it has no kink, so that steps settle at the minimum." if smooth else ".")
        )
    elif len(tied) > 1:
        text = "it had the best score of them; nothing on the cards tells them apart."
    else:
        return ""
    return _sentence(because + text)


def _risk(comparison: Comparison, result: Result) -> str:
    """Why this loss is expected to mislead here; empty if nothing on its card says so."""
    classes = comparison.table.classes
    if result.reading.as_number and len(classes) > 2:
        return (
            f"it sees class numbers, so that taking {classes[0]!r} for {classes[-1]!r} counts "
            f"{(len(classes) - 1) ** 2} times as much as taking it for {classes[1]!r}, though "
            "classes are not places on a line"
        )
    if result.reading.as_number:
        return (
            "it sees the class numbers 0 and 1 and wants exactly these as outputs, so that it "
            "punishes an answer for being right with more confidence than that"
        )
    if comparison.outliers and CARDS[result.loss].lipschitz is None:
        return (
            f"a target that is {OUTLIER_SIZE:g} standard deviations off pulls at it "
            f"{_pull(comparison, result):.0f} times as hard as one that is a single one off"
        )
    return ""


def _pull(comparison: Comparison, result: Result) -> float:
    """How much larger the gradient is at an outlier than at a residual of a tenth of it."""
    slope = jax.grad(lambda r: CARDS[result.loss].loss(r, jnp.zeros_like(r)))
    return float(slope(jnp.float32(OUTLIER_SIZE)) / slope(jnp.float32(1.0)))


def _misled(comparison: Comparison, result: Result, take: Result) -> str:
    """A loss that did worse than the one to take: by how much, and why if the card tells."""
    score = metric(comparison, result.scores.mean())
    amount = _amount(comparison, worse(comparison, result, take))
    risk = _risk(comparison, result)
    verb = "misleads" if risk else "does worse"
    why = f": {risk}" if risk else "; its card names no reason"
    text = f"{result.loss} {verb} here ({score}, worse by {amount}){why}."
    return text + _against_baseline(comparison, result)


def _against_baseline(comparison: Comparison, result: Result) -> str:
    score, baseline = float(result.scores.mean()), comparison.baseline
    beaten = score > baseline if comparison.table.classes else score < baseline
    if beaten:
        return ""
    answer = "the commonest class" if comparison.table.classes else "the training median"
    return (
        f" That is no better than always answering {answer} ({metric(comparison, baseline)}): "
        "the model learnt nothing of use."
    )


def _spared(comparison: Comparison, result: Result) -> str:
    """A loss that could have misled and did not, as far as these rows show."""
    return (
        f"{result.loss} could have misled and measurably did not on these rows; still, "
        f"{_risk(comparison, result)}."
    )


def _when_to_stop(comparison: Comparison, result: Result) -> str:
    """Where the validation loss was lowest, and what going on cost."""
    best, last = result.best, comparison.epochs - 1
    loss = result.history["validation_loss"]
    if best == last:
        return (
            f"Its validation loss was still falling at the last epoch ({last + 1}): "
            "more --epochs may help."
        )
    train = result.history["train_loss"]
    ends = number(loss[best]), number(loss[last])
    moved = f"went from {ends[0]} to {ends[1]}" if ends[0] != ends[1] else f"stayed at {ends[0]}"
    return (
        f"Stop at epoch {best + 1}: from there to epoch {last + 1} its training loss went from "
        f"{number(train[best])} to {number(train[last])}, its validation loss {moved}."
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


# Tables.


def claims(card: Card) -> str:
    """What a card claims of its loss, in a few words."""
    words = {
        "convex": card.convex,
        "Lipschitz": card.lipschitz is not None,
        "smooth": card.smooth is not None,
        "bounded": card.maximum is not None,
        "symmetric": card.symmetric,
        f"elicits {card.elicits}": card.elicits is not None,
    }
    return ", ".join(word for word, claimed in words.items() if claimed)


def table_rows(comparison: Comparison) -> list[list[str]]:
    """The table: a heading, then a row for each loss, at the epoch whose params were kept."""
    short = "acc." if comparison.table.classes else "error"
    head = ["loss", "train loss", "val. loss", "gap", "gap at end", "best epoch"]
    rows = [[*head, f"val. {short}", f"test {short}", "time"]]
    for result in comparison.results:
        best = result.best
        numbers = [result.history[name][best] for name in ("train_loss", "validation_loss")]
        numbers += [result.gap(best), result.gap(comparison.epochs - 1)]
        scores = result.history["validation_metric"][best], result.scores.mean()
        rows.append(
            [result.loss, *map(number, numbers), str(best + 1)]
            + [metric(comparison, float(score)) for score in scores]
            + [f"{result.seconds:.1f} s"]
        )
    return rows


# Captions of the report.


def scores_caption(comparison: Comparison) -> str:
    """What the picture beside the verdict shows."""
    better = "to the right" if comparison.table.classes else "to the left"
    return (
        f"Better is {better}. Bars: two standard errors either way, each loss on its own; the "
        "verdict compares row by row, which tells more. Dashed: an answer that ignores the inputs."
    )


def curve_caption(comparison: Comparison, result: Result) -> str:
    """What the curves of one loss show."""
    best, last = result.best, comparison.epochs - 1
    loss, score = result.history["validation_loss"], result.history["validation_metric"]
    text = (
        f"Lowest validation loss {number(loss[best])} at epoch {best + 1}, "
        f"{number(loss[last])} at epoch {last + 1}; validation {comparison.metric} "
        f"{metric(comparison, score[best])} and {metric(comparison, score[last])}. "
    )
    peak = int(np.argmax(score) if comparison.table.classes else np.argmin(score))
    # A twentieth of the way that the metric went is more than its jitter.
    if abs(score[peak] - score[best]) > 0.05 * np.ptp(score):
        text += (
            f"The metric was at its best in epoch {peak + 1}, with "
            f"{metric(comparison, score[peak])}: loss and metric are not the same thing. "
        )
    gaps = result.gap(best), result.gap(last)
    return text + f"The gap to the training loss goes from {number(gaps[0])} to {number(gaps[1])}."


def table_note(comparison: Comparison) -> str:
    """What may be compared in the table and what not."""
    answer = "the commonest class" if comparison.table.classes else "the training median"
    text = (
        "Each loss counts in a unit of its own, so losses and gaps cannot be compared between "
        f"rows; the {comparison.metric} can. The gap is validation minus training loss, at the "
        "best epoch (lowest validation loss, whose parameters are kept) and at the end: what it "
        f"grew by was learnt by heart. Always answering {answer} has a test {comparison.metric} "
        f"of {metric(comparison, comparison.baseline)}."
    )
    if comparison.outliers:
        text += " Train and validation columns include the outliers; the test column is clean."
    return text


def shape_caption(comparison: Comparison, title: str) -> str:
    """What to look for in the shapes."""
    classes = comparison.table.classes
    if not classes and comparison.outliers:
        return (
            f"Dashed: a row whose target lies {OUTLIER_SIZE:g} standard deviations above the "
            "prediction, an outlier. See how hard each loss lets it pull."
        )
    if not classes:
        return "Bounded slopes limit what one row can do; a slope that grows lets the worst rule."
    if title.startswith("score"):
        return "To the right the answer is right; a good loss asks for little more there."
    if len(classes) == 2:
        numbered = [result.loss for result in comparison.results if result.reading.as_number]
        note = f" (under {listed(numbered)}, to the right of 0.5)" if numbered else ""
        return (
            f"To the right of the dashed line the answer is right{note}. A loss that rises again "
            "there punishes confidence."
        )
    return (
        "The output is a class number here. The loss grows with the distance between the numbers, "
        "which says nothing about how alike two classes are."
    )


def summary(card: Card) -> str:
    """The first line of the loss's docstring, without its markup."""
    return re.sub(r":math:`(.+?)`", r"\1", card.summary).replace("``", "").replace("\\", "")


def surface_caption(comparison: Comparison, result: Result) -> str:
    """What the surface of one loss shows."""
    best, last = result.best, comparison.epochs - 1
    train = result.history["train_loss"]
    text = f"The cut holds {100 * result.in_plane:.0f} % of the walk's squared extent. "
    if best == last:
        return text + f"The walk ends at the star, at a training loss of {number(train[last])}."
    return (
        f"{text}Training loss {number(train[best])} at the star and {number(train[last])} at the "
        f"end of the walk, {last - best} epochs later."
    )
