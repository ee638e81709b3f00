"""The claims of a card, each verified by a function that fails with a counterexample.

A claim is tried in float64 on a thousand units, and a claimed bound must be nearly reached as well:
it is the best one. What every loss promises is in ``_promises.py``.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jloss._exact import (
    BLOCK,
    UNITS,
    Case,
    Sample,
    cases,
    cast,
    draw,
    evaluate,
    floors,
    in_blocks,
    one,
    scalars,
    split,
)
from jloss._promises import forward_mode, hessians, once, require
from jloss.card import LOG_PROBABILITIES, PROBABILITIES, PROBABILITY, SIGN, Card

COUNT = BLOCK


# Units to try a claim on -------------------------------------------------------------------------


@cache
def _units(card: Card) -> Sample:
    """Ordinary units of every magnitude and units at finite edges, in float64."""
    rng, unit = np.random.default_rng(10), UNITS[card.values][0]
    sample = _given(card, draw(card, rng, COUNT, unit))
    if _is_free(card):
        size = 10 ** rng.uniform(-2, 1, (COUNT, *(1,) * len(unit)))
        edges = [x for x in card.predictions.edges if abs(x) <= 1e4]
        predictions = sample["predictions"] * size
        at_edge = (rng.random(predictions.shape) < 0.5) & (np.arange(COUNT) % 4 == 0).reshape(
            size.shape
        )
        sample["predictions"] = np.where(
            at_edge & (len(edges) > 0), rng.choice(edges or [0.0], predictions.shape), predictions
        )
    return cast(sample, np.float64)


def _given(card: Card, sample: Sample) -> Sample:
    """The hyper-parameters for which the claims are made."""
    return sample | {
        name: np.full_like(sample[name], x) for name, x in card.given.items() if name in sample
    }


def _is_free(card: Card) -> bool:
    """Predictions may be any numbers."""
    return not (card.predictions.rows or card.predictions.outside)


def _moved(card: Card, sample: Sample, rng: np.random.Generator) -> np.ndarray:
    """Other predictions nearby and far, still in their domain."""
    here = sample["predictions"]
    size = 10 ** rng.uniform(-4, 0, (len(here), *(1,) * (here.ndim - 1)))
    if _is_free(card):
        return here + 30 * size * rng.normal(size=here.shape)
    return here + size * (card.predictions.draw(rng, here.shape) - here)


@cache
def _valuer(card: Card) -> Callable[..., Any]:
    return once(jax.vmap(one(card)))


def _values(card: Card, sample: Sample) -> np.ndarray:
    with jax.enable_x64(True):
        return in_blocks(_valuer(card), *split(sample))


def _results(card: Card, sample: Sample) -> dict[str, np.ndarray]:
    with jax.enable_x64(True):
        return evaluate(card, sample)


def _climb(card: Card, score: Callable[[Sample], np.ndarray]) -> tuple[float, Sample]:
    """The highest score that random steps from every unit find, and the unit that has it."""
    rng = np.random.default_rng(11)
    sample = dict(_units(card))
    best = score(sample)
    for _ in range(30):
        other = {**sample, "predictions": _moved(card, sample, rng)}
        scores = score(other)
        better = scores > best
        shape = (-1, *(1,) * (sample["predictions"].ndim - 1))
        best = np.where(better, scores, best)
        sample["predictions"] = np.where(
            better.reshape(shape), other["predictions"], sample["predictions"]
        )
    place = int(np.nanargmax(best))
    return float(best[place]), {name: x[place : place + 1] for name, x in sample.items()}


def _show(card: Card, sample: Sample, place: int = 0) -> str:
    return Case(card, sample).describe(place)


def _refute(card: Card, sample: Sample, wrong: Any, what: str) -> None:
    place = int(np.argmax(wrong))
    require(not wrong.any(), f"{what} at {_show(card, sample, place)}")


# Shape -------------------------------------------------------------------------------------------


def convex(card: Card) -> str:
    """Between two points the loss lies nowhere above its chord; if False is claimed, somewhere."""
    rng, sample = np.random.default_rng(12), _units(card)
    worst, where = -np.inf, ""
    for _ in range(4):
        other = {**sample, "predictions": _moved(card, sample, rng)}
        middle = 0.5 * (sample["predictions"] + other["predictions"])
        a, b = _values(card, sample), _values(card, other)
        between = _values(card, {**sample, "predictions": middle})
        size = np.abs(a) + np.abs(b) + np.abs(middle).reshape(COUNT, -1).max(-1)
        with np.errstate(invalid="ignore"):  # infinity less itself
            excess = (between - 0.5 * (a + b)) / (1e-12 * size + 1e-300)
        place = int(np.nanargmax(excess))
        if excess[place] > worst:
            worst = float(excess[place])
            where = f"{_show(card, sample, place)} and {other['predictions'][place].tolist()}"
    if card.convex:
        require(worst <= 1, f"the middle lies above the chord between {where}")
        return "below every chord"
    require(worst > 1e3, "convex=False, but no chord was found that the loss lies above")
    return f"not between {where}"


def lipschitz(card: Card) -> str:
    """The gradient's norm stays below the constant and comes near it."""

    def norms(sample: Sample) -> np.ndarray:
        gradient = _results(card, sample)["predictions"]
        return np.linalg.norm(gradient.reshape(len(gradient), -1), axis=-1)

    return _best_bound(card, "lipschitz", norms)


def smooth(card: Card) -> str:
    """The Hessian's spectral norm stays below the constant and comes near it."""

    def norms(sample: Sample) -> np.ndarray:
        with jax.enable_x64(True):
            return np.abs(jnp.linalg.eigvalsh(hessians(card, sample))).max(-1)

    return _best_bound(card, "smooth", norms)


def _best_bound(
    card: Card,
    claim: Literal["lipschitz", "smooth"],
    norms: Callable[[Sample], np.ndarray],
) -> str:
    hyper = {name: x for name, x in _units(card).items() if name in scalars(card)}
    bounds = np.array(
        [card.constant(claim, **{n: float(x[i]) for n, x in hyper.items()}) for i in range(COUNT)]
    )
    bounds = bounds.astype(float)

    def ratio(sample: Sample) -> np.ndarray:
        size = norms(sample)
        return np.where(
            bounds == 0, np.where(size > 0, np.inf, 1.0), size / np.maximum(bounds, 1e-300)
        )

    reached, unit = _climb(card, ratio)
    require(reached <= 1 + 1e-9, f"{reached:.9g} times the {claim} constant at {_show(card, unit)}")
    require(reached >= 0.9, f"no more than {reached:.3g} of the {claim} constant is reached")
    return f"{reached:.3g} of the bound is reached"


def kinks(card: Card) -> str:
    """The gradient jumps where it is said to, and nowhere else; there ours is a subgradient."""
    if card.kinks is not False:
        _jumps_at_kinks(card)
    else:
        for case in cases(card):
            if card.given:
                case = Case(card, _given(card, case.sample))
            truth = case.truth["predictions"]
            finite = np.isfinite(case.sample["predictions"])
            gap = _gap(truth) > 1e-12 * np.maximum(np.maximum(truth.size, truth.floor), 1e-12)
            wrong = (truth.defined & finite & gap).reshape(len(finite), -1).any(-1)
            _refute(card, case.sample, wrong, "the exact gradient jumps")
    places = _found_jumps(card)
    if card.kinks is False:
        _refute(card, _units(card) | {"predictions": places[0]}, places[1], "the gradient jumps")
        return "no jump found"
    hyper = {name: x for name, x in _units(card).items() if name in card.hyper}
    stated = card.constant("kinks", targets=_units(card)["targets"], **hyper)
    away = np.abs(places[0] - stated) > 1e-6 * (1 + np.abs(stated))
    away = away.reshape(COUNT, -1).any(-1) & places[1]
    _refute(card, _units(card) | {"predictions": places[0]}, away, "the gradient jumps as well")
    return f"{int(places[1].sum())} jumps found, all as stated"


def _gap(truth: Any) -> np.ndarray:
    gaps = [float(b - a) for a, b in zip(truth.low.flat, truth.high.flat, strict=True)]
    return np.array(gaps).reshape(truth.low.shape)


def _jumps_at_kinks(card: Card) -> None:
    sample = {name: x[:64] for name, x in cast(_units(card), np.float32).items()}
    hyper = {name: x for name, x in sample.items() if name in card.hyper}
    at_kink = np.asarray(card.constant("kinks", targets=sample["targets"], **hyper), np.float32)
    case = Case(card, {**sample, "predictions": at_kink})
    truth, ours = case.truth["predictions"], case.outcome["predictions"]
    by_units = (len(ours), -1)
    smooth_there = (_gap(truth) <= 1e-12).reshape(by_units).all(-1)
    _refute(card, case.sample, smooth_there, "no jump")
    low, high = truth.low.astype(float), truth.high.astype(float)
    tolerance = card.ulp * np.finfo(np.float32).eps * np.maximum(truth.size, truth.floor)
    between = (ours >= low - tolerance) & (ours <= high + tolerance)
    _refute(card, case.sample, ~between.reshape(by_units).all(-1), "no subgradient")
    minimum = ((low <= 0) & (high >= 0)).reshape(by_units).all(-1)
    nonzero = minimum & (ours != 0).reshape(by_units).any(-1)
    _refute(card, case.sample, nonzero, "a minimum whose gradient is not 0")
    forward = np.asarray(forward_mode(card)(*split(case.sample))["predictions"])
    differ = (~(np.abs(forward - ours) <= 2 * tolerance)).reshape(by_units).any(-1)
    _refute(card, case.sample, differ, "another gradient in forward mode")


def _found_jumps(card: Card) -> tuple[np.ndarray, np.ndarray]:
    """Bisection of segments for where the gradient changes most; where that is, and if it jumps."""
    rng, sample = np.random.default_rng(13), _units(card)
    shape = (COUNT, *(1,) * (sample["predictions"].ndim - 1))
    ends = [sample["predictions"], _moved(card, sample, rng)]

    def gradient(predictions: np.ndarray) -> np.ndarray:
        return _results(card, {**sample, "predictions": predictions})["predictions"].reshape(
            COUNT, -1
        )

    slopes, changes = [gradient(end) for end in ends], []
    moved = np.zeros((2, COUNT), bool)
    for _ in range(36):
        middle = 0.5 * (ends[0] + ends[1])
        slope = gradient(middle)
        with np.errstate(invalid="ignore"):  # infinity less itself
            left, right = (np.abs(slope - s).max(-1) for s in slopes)
        take_left = left >= right
        changes.append(np.maximum(left, right))
        chosen = take_left.reshape(shape)
        ends = [np.where(chosen, ends[0], middle), np.where(chosen, middle, ends[1])]
        moved |= [~take_left, take_left]
        chosen = take_left[:, None]
        slopes = [np.where(chosen, slopes[0], slope), np.where(chosen, slope, slopes[1])]
    size = 1e-6 * (1e-3 + np.maximum(*(np.abs(s).max(-1) for s in slopes)))
    # A slope that only rises steeply changes a thousand times less over a thousandth of the way;
    # an end that never moved, or a segment of a few roundings, may be too steep to be resolved.
    width, far = (np.abs(x).reshape(COUNT, -1).max(-1) for x in (ends[1] - ends[0], ends[0]))
    resolved = moved.all(0) & (width > 8 * np.finfo(float).eps * far)
    return ends[0], (changes[-1] > size) & (changes[-1] > 0.5 * changes[-11]) & resolved


# Extremes ----------------------------------------------------------------------------------------


def minimum(card: Card) -> str:
    """No value is smaller, some come near, and the stated predictions have it."""
    assert card.minimum is not None
    lowest, unit = _climb(card, lambda sample: -_values(card, sample))
    size = max(1.0, float(np.median(np.abs(_values(card, _units(card))))))
    require(-lowest >= card.minimum - 1e-12 * size, f"{-lowest!r} at {_show(card, unit)}")
    if card.minimizer is not None:  # random steps may not come near it
        best = card.constant(
            "minimizer", **{n: x for n, x in _units(card).items() if n != "predictions"}
        )
        there = _values(card, {**_units(card), "predictions": np.asarray(best, np.float64)})
        lowest = max(lowest, float(-np.nanmin(there)))
    require(-lowest <= card.minimum + 1e-3 * size, f"nothing below {-lowest:.6g} was found")
    return f"{-lowest:.3g} is reached" if card.minimizer is None else _at_minimizer(card)


def _at_minimizer(card: Card) -> str:
    assert card.minimum is not None and card.minimizer is not None
    ordinary = draw(card, np.random.default_rng(14), 64, UNITS[card.values][0])
    named = {name for name in card.hyper if name in card.minimizer.__code__.co_varnames}
    kept = {name: x for name, x in ordinary.items() if name not in set(card.hyper) - named}
    sample = cast(kept, np.float32)
    best = card.constant("minimizer", **{n: x for n, x in sample.items() if n != "predictions"})
    case = Case(card, cast({**sample, "predictions": np.asarray(best)}, np.float32))
    excess = np.abs(case.outcome["value"] - card.minimum)
    kind = np.finfo(np.float32)
    floor = np.maximum(floors(card, case.sample)["value"], abs(card.minimum))
    _refute(card, case.sample, ~(excess <= card.ulp * kind.eps * floor + kind.tiny), "no minimum")
    return "reached where stated"


def maximum(card: Card) -> str:
    """No value is larger, and some come near."""
    assert card.maximum is not None
    highest, unit = _climb(card, lambda sample: _values(card, sample))
    require(highest <= card.maximum, f"{highest!r} at {_show(card, unit)}")
    require(highest >= card.maximum - 0.01 * abs(card.maximum), f"nothing above {highest:.6g}")
    for case in cases(card):
        wrong = case.outcome["value"] > card.maximum
        _refute(card, case.sample, wrong, f"more than {card.maximum}")
    return f"{highest:.6g} is reached"


# Sameness ----------------------------------------------------------------------------------------


def symmetric(card: Card) -> str:
    """Predictions and targets may be swapped, or not if False is claimed."""
    sample = _units(card)
    swapped = {**sample, "predictions": sample["targets"], "targets": sample["predictions"]}
    differ = _differ(_values(card, sample), _values(card, swapped))
    if card.symmetric:
        _refute(card, sample, differ, "another value with the arguments swapped")
        return "swapped"
    require(differ.any(), "symmetric=False, but swapping the arguments changed nothing")
    return f"not at {_show(card, sample, int(np.argmax(differ)))}"


def invariant(card: Card) -> str:
    """Shifting, translating, scaling or permuting changes no value."""
    rng, sample = np.random.default_rng(15), _units(card)
    wanted = _values(card, sample)
    column = (COUNT, *(1,) * (sample["predictions"].ndim - 1))
    constant = rng.normal(scale=3.0, size=column)
    changes = {
        "shift": lambda name, x: x + constant if name == "predictions" else x,
        "translation": lambda name, x: x + constant.reshape(COUNT, *(1,) * (x.ndim - 1)),
        "scale": lambda name, x: x * np.exp(constant) if name == "predictions" else x,
    }
    for kind in card.invariant:
        if kind == "permutation":
            _permute(card, sample, wanted, rng)
            continue
        changed = {
            name: x if name in card.hyper else changes[kind](name, x) for name, x in sample.items()
        }
        size = np.abs(sample["predictions"]).reshape(COUNT, -1).max(-1) + np.abs(constant).ravel()
        differ = _differ(wanted, _values(card, changed), size)
        _refute(card, sample, differ, f"another value after a {kind}")
    return ", ".join(card.invariant)


def _permute(card: Card, sample: Sample, wanted: np.ndarray, rng: np.random.Generator) -> None:
    """One permutation along the last axis, which for numbers is that of the values themselves."""
    if sample["predictions"].ndim == 1:
        order = rng.permutation(COUNT)
        changed, wanted = {name: x[order] for name, x in sample.items()}, wanted[order]
    else:
        order = rng.permutation(sample["predictions"].shape[-1])
        changed = {name: x[..., order] if x.ndim > 1 else x for name, x in sample.items()}
    differ = _differ(wanted, _values(card, changed))
    _refute(card, sample, differ, "another value after a permutation")


def _differ(a: np.ndarray, b: np.ndarray, size: Any = 0.0) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # infinity less itself
        near = np.abs(a - b) <= 1e-12 * (np.abs(a) + np.abs(b) + size**2 + size + 1e-3)
    return ~(near | (a == b))


# What it elicits ---------------------------------------------------------------------------------


def elicits(card: Card) -> str:
    """The best constant prediction for random targets is the claimed statistic, and only that."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        outcomes, weights = _distribution(card, rng)
        hyper = {name: float(domain.draw(rng, (1,))[0]) for name, domain in card.hyper.items()}
        hyper |= card.given
        best = _STATISTICS[card.elicits or ""](card, outcomes, weights, hyper)
        others = _rivals(card, best, outcomes, rng)
        risks = _risks(card, np.concatenate([best[None], others]), outcomes, weights, hyper)
        place = 1 + int(np.nanargmin(risks[1:]))
        require(
            risks[0] <= risks[place] + 1e-13 * abs(risks[place]),
            f"for targets {outcomes.tolist()} with probabilities {weights.tolist()} the prediction "
            f"{others[place - 1].tolist()} has the risk {risks[place]:.9g}, the {card.elicits} "
            f"{best.tolist()} has {risks[0]:.9g}",
        )
        change = np.abs(_centred(card, others) - _centred(card, best)).reshape(len(others), -1)
        equal = (change.max(-1) > 0.01) & (risks[1:] <= risks[0] + 1e-12 * abs(risks[0]))
        require(not equal.any(), f"{others[int(np.argmax(equal))].tolist()} is as good as the best")
    return f"the {card.elicits}"


def _centred(card: Card, predictions: np.ndarray) -> np.ndarray:
    """Predictions that a shift leaves equal are the same."""
    if "shift" not in card.invariant:
        return predictions
    return predictions - predictions.mean(-1, keepdims=True)


def _distribution(card: Card, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Some outcomes of the targets and their probabilities."""
    unit = UNITS[card.values][0]
    if card.targets.drops:
        outcomes = np.arange(unit[-1], dtype=np.int32)
    elif card.elicits == "probability":
        signs = card.targets is SIGN
        outcomes = np.eye(unit[-1]) if unit else np.array([-1.0 if signs else 0.0, 1.0])
    else:
        outcomes = np.unique(card.targets.draw(rng, (9, *unit)), axis=0)
    return outcomes, rng.dirichlet(np.full(len(outcomes), 2.0))


def _rivals(
    card: Card, best: np.ndarray, outcomes: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Predictions around the best one, near and far, and for numbers the outcomes themselves."""
    around = _moved(card, {"predictions": np.broadcast_to(best, (COUNT, *best.shape))}, rng)
    return around if best.ndim else np.concatenate([around, outcomes])


def _risks(card: Card, predictions: Any, outcomes: Any, weights: Any, hyper: Any) -> np.ndarray:
    first, second = (np.repeat(predictions, len(outcomes), 0), np.tile(outcomes, len(predictions)))
    if outcomes.ndim > 1:
        second = np.tile(outcomes, (len(predictions), 1))
    sample = {"predictions": first, "targets": second}
    sample |= {name: np.full(len(first), x) for name, x in hyper.items()}
    return _values(card, cast(sample, np.float64)).reshape(len(predictions), -1) @ weights


def _mean(card: Card, outcomes: Any, weights: Any, hyper: Any) -> np.ndarray:
    return np.asarray(weights @ outcomes)


def _quantile(card: Card, outcomes: Any, weights: Any, hyper: Any) -> np.ndarray:
    level = hyper["quantile"] if card.elicits == "quantile" else 0.5
    order = np.argsort(outcomes)
    return outcomes[order][np.searchsorted(np.cumsum(weights[order]), level)]


def _mode(card: Card, outcomes: Any, weights: Any, hyper: Any) -> np.ndarray:
    return np.asarray(outcomes[np.argmax(weights)])


def _probability(card: Card, outcomes: Any, weights: Any, hyper: Any) -> np.ndarray:
    """The prediction that stands for the probabilities: these, their logarithms or log-odds."""
    likely = weights if UNITS[card.values][0] else weights[1]
    if card.predictions in (PROBABILITY, PROBABILITIES):
        return np.asarray(likely)
    if card.predictions is LOG_PROBABILITIES or np.ndim(likely):
        return np.log(likely)
    return np.asarray(np.log(likely) - np.log1p(-likely))


_STATISTICS: dict[str, Callable[..., np.ndarray]] = {
    "mean": _mean,
    "median": _quantile,
    "quantile": _quantile,
    "mode": _mode,
    "probability": _probability,
}

CLAIMS: dict[str, Callable[[Card], str]] = {
    check.__name__: check
    for check in (
        convex,
        lipschitz,
        smooth,
        kinks,
        minimum,
        maximum,
        symmetric,
        elicits,
        invariant,
    )
}
