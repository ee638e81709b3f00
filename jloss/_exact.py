"""What a card's formula gives in arbitrary precision, and the inputs to compare a loss at.

A sample is a dictionary of stacked units: one unit is what one value of the loss stands for, a
number, a row or a batch. `evaluate` applies the loss to each, and `truth` its formula.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jloss._optional import optional
from jloss.card import Card, Domain

Sample = dict[str, np.ndarray]

UNITS = {
    "element": [()],
    "example": [(4,), (1,)],
    "list": [(4,), (1,)],
    "sequence": [(4, 3), (1, 2)],
    "batch": [(5, 3), (2, 1)],
}
FAR = 80  # infinity is taken as the limit, at ten to this power
BLOCK = 1024  # so many units are computed at once
COUNTS = {(): 240, (4,): 64, (1,): 16, (4, 3): 48, (1, 2): 16, (5, 3): 24, (2, 1): 8}


# Inputs ------------------------------------------------------------------------------------------


def draw(card: Card, rng: np.random.Generator, count: int, unit: tuple[int, ...]) -> Sample:
    """``count`` ordinary units of a shape."""
    shape = (count, *unit)
    sample = {
        "predictions": card.predictions.draw(rng, shape),
        "targets": card.targets.draw(rng, shape),
    }
    return sample | {
        name: domain.draw(rng, shape if domain.whole else (count,))
        for name, domain in card.hyper.items()
    }


def domains(card: Card) -> dict[str, Domain]:
    """The domain of each argument that a sample holds."""
    return {"predictions": card.predictions, "targets": card.targets, **card.hyper}


def scalars(card: Card) -> list[str]:
    """The hyper-parameters that claimed constants may depend on."""
    return [name for name, domain in card.hyper.items() if not domain.whole]


def hard(card: Card, rng: np.random.Generator, count: int, unit: tuple[int, ...]) -> Sample:
    """Units at the edges: each with each other for numbers, mixed with ordinary ones in rows."""
    sample = draw(card, rng, count, unit)
    edges = {name: np.asarray(domain.edges) for name, domain in domains(card).items()}
    if unit == () and len(edges["targets"]):
        grid = np.array(list(itertools.product(*(e for e in edges.values() if len(e)))))
        grid = grid[rng.permutation(len(grid))[:count]]
        names = [name for name, e in edges.items() if len(e)]
        return {name: x[: len(grid)] for name, x in sample.items()} | dict(
            zip(names, grid.T, strict=True)
        )
    for name, domain in domains(card).items():
        if domain.edges and not domain.rows:
            mixed = rng.random(sample[name].shape) < 0.6
            sample[name] = np.where(
                mixed, rng.choice(edges[name], sample[name].shape), sample[name]
            )
    for place, edge in enumerate([] if card.predictions.rows else card.predictions.edges):
        sample["predictions"][place % count] = edge  # ties
    return sample


def cast(sample: Sample, dtype: Any) -> Sample:
    """The floating arrays rounded to a dtype."""
    with np.errstate(over="ignore", invalid="ignore"):
        return {
            name: x.astype(dtype) if is_floating(x) else x.astype(np.int32)
            for name, x in sample.items()
        }


def is_floating(array: np.ndarray) -> bool:
    """Half precision included, which numpy does not know."""
    return bool(jnp.issubdtype(array.dtype, jnp.floating))


def without_hyper(sample: Sample) -> Sample:
    """With the defaults of all hyper-parameters."""
    return {name: sample[name] for name in ("predictions", "targets")}


@dataclass(frozen=True, eq=False)
class Case:
    """A sample and what is true of it."""

    card: Card
    sample: Sample

    @cached_property
    def truth(self) -> dict[str, "Truth"]:
        return truth(self.card, self.sample)

    @cached_property
    def outcome(self) -> dict[str, np.ndarray]:
        with jax.enable_x64(self.sample["predictions"].dtype == np.float64):
            return evaluate(self.card, self.sample)

    def describe(self, unit: int) -> str:
        """The arguments of one unit, to be pasted into a call."""
        return ", ".join(f"{name}={x[unit].tolist()}" for name, x in self.sample.items())


@cache
def cases(card: Card, dtype: Any = np.float32) -> list[Case]:
    """Ordinary and hard units of each shape, with hyper-parameters drawn and at their defaults."""
    rng, found = np.random.default_rng(0), []
    for unit in UNITS[card.values]:
        samples = [draw(card, rng, COUNTS[unit] // 4, unit), hard(card, rng, COUNTS[unit], unit)]
        sample = {name: np.concatenate([s[name] for s in samples]) for name in samples[0]}
        found.append(Case(card, cast(sample, dtype)))
    if None in card.defaults.values():
        found.append(Case(card, without_hyper(found[0].sample)))
    return found


# The loss ----------------------------------------------------------------------------------------


def call(card: Card, sample: Any) -> Any:
    """All values of the loss at a sample's arguments."""
    hyper = {name: x for name, x in sample.items() if name in card.hyper}
    return card.unreduced(sample["predictions"], sample["targets"], **hyper)


def split(sample: Sample) -> tuple[Sample, Sample]:
    """The arguments that have gradients, and the others."""
    floating = {name: x for name, x in sample.items() if is_floating(x)}
    return floating, {name: x for name, x in sample.items() if name not in floating}


def one(card: Card) -> Callable[[Sample, Sample], Any]:
    """The loss of one unit as a function of its floating arguments and the others."""
    return lambda floating, others: call(card, {**floating, **others})


@cache
def _evaluator(card: Card) -> Callable[..., Any]:
    return jax.jit(jax.vmap(jax.value_and_grad(one(card))))


def evaluate(card: Card, sample: Sample) -> dict[str, np.ndarray]:
    """The value of each unit and its gradients for the floating arguments, by their names."""
    value, gradients = in_blocks(_evaluator(card), *split(sample))
    return {"value": value, **gradients}


def in_blocks(function: Callable[..., Any], *arguments: Any) -> Any:
    """A compiled function over the leading axis of all arguments, with one shape for all samples.

    The last block is filled up with copies.
    """
    (count,) = {len(x) for x in jax.tree.leaves(arguments)}

    def block(x: np.ndarray, start: int) -> np.ndarray:
        return np.resize(x[start : start + BLOCK], (BLOCK, *x.shape[1:]))

    results = [
        function(*jax.tree.map(partial(block, start=start), arguments))
        for start in range(0, count, BLOCK)
    ]
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *results)


# The truth ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Truth:
    """An exact result lies from ``low`` to ``high`` (a kink has all between); NaN: undefined.

    ``floor`` is what a unit in the last place counts of where the result is smaller than that.
    """

    low: np.ndarray
    high: np.ndarray
    floor: np.ndarray

    def ulp(self, got: np.ndarray) -> np.ndarray:
        """How far results are off, in units of their last place; NaN where nothing is claimed."""
        kind = jnp.finfo(got.dtype)
        eps, tiny, largest = float(kind.eps), float(kind.smallest_normal), float(kind.max)
        off = np.full(got.shape, np.nan)
        for place in np.ndindex(got.shape):
            low: Any = self.low[place]
            high, floor = self.high[place], self.floor[place]
            size = max(abs(low), abs(high))
            if not size <= min(largest / 2, 10 ** (FAR - 10)):
                continue
            if not math.isfinite(got[place]):
                off[place] = math.inf
                continue
            result = low.context.mpf(float(got[place]))
            error = max(low - result, result - high, 0) - tiny
            off[place] = max(0.0, float(error / (eps * max(size, floor, tiny))))
        return off

    @cached_property
    def size(self) -> np.ndarray:
        """The larger magnitude of the bounds, in float64."""
        sizes = [max(abs(a), abs(b)) for a, b in zip(self.low.flat, self.high.flat, strict=True)]
        return np.array([float(x) for x in sizes], float).reshape(self.low.shape)

    @cached_property
    def defined(self) -> np.ndarray:
        return np.array([x == x for x in self.low.flat], bool).reshape(self.low.shape)


def truth(card: Card, sample: Sample) -> dict[str, Truth]:
    """The exact value and gradients of each unit."""
    double = sample["predictions"].dtype == np.float64
    units = [{name: np.asarray(x[i]) for name, x in sample.items()} for i in _count(sample)]
    exact = [_Unit(card, _rounded(card, unit), double) for unit in units]
    floor, result = floors(card, sample), {}
    for name in ("value", *split(sample)[0]):
        bounds = [unit.value if name == "value" else unit.slopes(name) for unit in exact]
        low, high = (np.array([b[side] for b in bounds], object) for side in (0, 1))
        result[name] = Truth(low, high, floor[name])
    return result


def floors(card: Card, sample: Sample) -> dict[str, np.ndarray]:
    """Of what size rounding errors count where a result is smaller, by the result's name."""
    units = [{name: np.asarray(x[i]) for name, x in sample.items()} for i in _count(sample)]
    each = [_floors(card, unit) for unit in units]
    shapes = {"value": ()} | {name: x.shape[1:] for name, x in split(sample)[0].items()}
    return {
        name: np.array([np.broadcast_to(f[name], shape) for f in each], float)
        for name, shape in shapes.items()
    }


def _count(sample: Sample) -> range:
    return range(len(sample["targets"]))


def _rounded(card: Card, unit: Sample) -> Sample:
    """A loss of a residual answers for the residual as floating point rounds it."""
    if "translation" not in card.invariant:
        return unit
    residual = unit["predictions"] - unit["targets"]
    return unit | {"predictions": residual, "targets": np.zeros_like(residual)}


def _floors(card: Card, unit: Sample) -> dict[str, Any]:
    if card.scale == "unit":
        return dict.fromkeys(("value", *unit), 1.0)
    hyper = {name: float(x) for name, x in unit.items() if name in scalars(card)}
    inputs = _row_size(unit["predictions"])
    scale = inputs if card.scale == "input" else card.constant("scale", inputs=inputs, **hyper)
    result = {"value": np.max(scale, initial=0.0)}
    for name, x in split(unit)[0].items():
        size = _row_size(x)
        result[name] = scale / np.where(size > 0, size, 1.0)
        if name in card.hyper:
            # What underflows may have been about to be multiplied by a prediction.
            kind = np.finfo(x.dtype)
            result[name] = max(np.max(result[name]), np.max(inputs) * kind.tiny / kind.eps)
    if card.targets.soft:
        if not _is_hard(unit["targets"]):
            size = np.abs(unit["targets"]).max(initial=0.0)
            result["predictions"] = np.maximum(result["predictions"], size)
        result["targets"] = np.maximum(result["targets"], inputs)  # it is a difference of them
    return result


def _row_size(array: np.ndarray) -> np.ndarray:
    """The largest finite magnitude along the last axis, which is kept."""
    size = np.abs(np.where(np.isfinite(array), array, 0.0)).astype(float)
    return size.max(-1, keepdims=True, initial=0.0) if array.ndim else size


def _is_hard(labels: np.ndarray) -> bool:
    """A certain label: 0 or 1, or one-hot."""
    return set(labels.flat) <= {0.0, 1.0} and (labels.ndim == 0 or labels.sum() == 1)


@cache
def _arithmetic(mp: Any, digits: int) -> Any:
    """mpmath at so many decimal digits."""
    mp = mp.clone()
    mp.dps = digits
    return mp


class _Unit:
    """One unit in arbitrary precision, differentiated by steps far smaller than its digits."""

    def __init__(self, card: Card, unit: Sample, double: bool):
        self.card = card
        numbers = [x for array in unit.values() for x in array.flat]
        infinite = sum(not math.isfinite(x) for x in numbers)
        largest = max((math.log10(abs(x)) for x in numbers if x and math.isfinite(x)), default=0)
        # A step is small against every number, and where one is infinite against its inverse too.
        step = (60 if double else 45) + (FAR if infinite else 0)
        digits = step + (140 if double else 65) + (FAR if infinite else int(max(0, largest)))
        self.mp = _arithmetic(optional("mpmath", "check").mp, digits)
        self.step = self.mp.mpf(10) ** -step
        self.unit = {name: self._exact(x) for name, x in unit.items()}
        self.ambiguous = infinite > 1 and not self._limit_is_unique(unit)

    def _exact(self, array: np.ndarray, paths: int = 0) -> np.ndarray:
        """Its numbers as mpmath has them; infinities are taken far out, each at its own place."""
        if not is_floating(array):
            return array.astype(object)
        one = self.mp.mpf(1)
        far = (10**FAR * (1 + paths * one * k / 64) for k in itertools.count())
        numbers = [
            self.mp.mpf(float(x)) if math.isfinite(x) else math.copysign(1, x) * next(far)
            for x in array.flat
        ]
        result = np.empty(array.size, object)
        result[:] = numbers
        return result.reshape(array.shape)

    def _limit_is_unique(self, unit: Sample) -> bool:
        values = [
            self._value({name: self._exact(x, paths) for name, x in unit.items()})
            for paths in (0, 1, -1)
        ]
        return all(abs(v - values[0]) <= abs(values[0]) * self.step for v in values)

    def _value(self, unit: dict[str, np.ndarray]) -> Any:
        arguments = {name: x.tolist() for name, x in unit.items()}
        predictions, targets = arguments.pop("predictions"), arguments.pop("targets")
        given = {name: x for name, x in self.card.defaults.items() if name not in arguments}
        arguments |= {n: x if x is None else self.mp.mpf(x) for n, x in given.items()}
        try:
            value = self.card.exact(self.mp, predictions, targets, **arguments)
        except (ArithmeticError, ValueError):
            return self.mp.nan
        value = self.mp.nan if isinstance(value, self.mp.mpc) else self.mp.mpf(value)
        return value if self.mp.isfinite(value) else self.mp.nan

    @cached_property
    def value(self) -> tuple[Any, Any]:
        value = self.mp.nan if self.ambiguous else self._value(self.unit)
        return value, value

    def slopes(self, name: str) -> tuple[Any, Any]:
        """The smaller and the larger one-sided derivative for each entry of an argument."""
        array = self.unit[name]
        if name == "targets" and any(abs(x) >= 10**FAR / 2 for x in self.unit["predictions"].flat):
            # The slope for the label of an infinite logit is infinite.
            nowhere = np.full(array.shape, self.mp.nan, object)[()]
            return nowhere, nowhere
        sides = [self._sides(name, place) for place in np.ndindex(array.shape)]
        if array.ndim == 0:
            return sides[0]
        low, high = np.empty(array.size, object), np.empty(array.size, object)
        low[:], high[:] = [s[0] for s in sides], [s[1] for s in sides]
        return low.reshape(array.shape), high.reshape(array.shape)

    def _sides(self, name: str, place: tuple[int, ...]) -> tuple[Any, Any]:
        sides = self._slopes(name, place, self.step)
        if not all(abs(s) < 1e5 for s in sides):
            nearer = self._slopes(name, place, self.step / 1000)
            if not all(abs(a - b) <= abs(b) / 100 for a, b in zip(sides, nearer, strict=True)):
                return self.mp.nan, self.mp.nan  # a jump, not only steep
        return min(sides), max(sides)

    def _slopes(self, name: str, place: tuple[int, ...], step: Any) -> list[Any]:
        slopes = []
        for change in (-step, step):
            array = self.unit[name].copy()
            array[place] += change
            slopes.append((self._value({**self.unit, name: array}) - self.value[0]) / change)
        return slopes


def worst(case: Case, names: Iterator[str] | tuple[str, ...]) -> tuple[float, str]:
    """The largest error in the named results, in units of the last place, and where it is."""
    largest, message = 0.0, ""
    for name in names:
        off = case.truth[name].ulp(case.outcome[name])
        if not np.isfinite(off).any() and not np.isinf(off).any():
            continue
        place = np.unravel_index(np.nanargmax(off), off.shape)
        if off[place] >= largest:
            largest = float(off[place])
            entry = [int(i) for i in place[1:]] or ""
            what = "value" if name == "value" else f"gradient for {name}{entry}"
            exact = case.truth[name]
            message = (
                f"{largest:.3g} ulp in the {what} at {case.describe(int(place[0]))}: "
                f"got {case.outcome[name][place]!r}, exact {_show(exact.low[place])}"
            )
            if exact.low[place] != exact.high[place]:
                message += f" to {_show(exact.high[place])}"
    return largest, message


def _show(number: Any) -> str:
    return number.context.nstr(number, 12)
