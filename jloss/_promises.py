"""The promises that every loss keeps, each as a function that fails with the worst case.

They are P1 to P8 of the design: what a loss does, whatever it is. Claims that only some losses make
are in ``_claims.py``.
"""

import inspect
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from jloss._exact import (
    UNITS,
    Case,
    Sample,
    call,
    cases,
    cast,
    draw,
    evaluate,
    floors,
    in_blocks,
    is_floating,
    one,
    split,
    worst,
)
from jloss.average import mean
from jloss.card import Card


def require(kept: Any, message: str) -> None:
    """Fails with the message; unlike ``assert`` it is never compiled away."""
    if not kept:
        raise AssertionError(message)


def require_close(got: Any, wanted: Any, card: Card, what: str) -> None:
    """Two ways to one result differ by no more than their rounding errors."""
    got, wanted = np.asarray(got), np.asarray(wanted)
    require(got.shape == wanted.shape, f"{what}: shape {got.shape}, wanted {wanted.shape}")
    finite = np.abs(wanted[np.isfinite(wanted)])
    size = max(1.0, float(finite.max(initial=0.0)))
    near = np.isclose(
        got,
        wanted,
        rtol=0,
        atol=4 * card.ulp * size * float(jnp.finfo(got.dtype).eps),
        equal_nan=True,
    )
    place = np.unravel_index(np.argmin(near), near.shape) if near.ndim else ()
    require(near.all(), f"{what}{_at(place)}: got {got[place]!r}, wanted {wanted[place]!r}")


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """A program for a few numbers: on processors it is compiled in half the time, to slower code.

    It is the same program but for its machine code.
    """
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function, compiler_options=quick if jax.default_backend() == "cpu" else None)


def _at(place: Any) -> str:
    return f" at {[int(i) for i in place]}" if len(place) else ""


# P1, P2: finite and accurate ---------------------------------------------------------------------


def finite(card: Card) -> str:
    """Value and gradient are finite where the exact ones are."""
    count = 0
    for case in cases(card):
        for name, got in case.outcome.items():
            truth = case.truth[name]
            exact_value = case.truth["value"].defined.reshape(-1, *(1,) * (got.ndim - 1))
            must = truth.size <= np.finfo(got.dtype).max / 2
            if name != "targets":  # a jump has no slope, but ours is to be finite all the same
                must |= ~truth.defined & exact_value
            wrong = must & ~np.isfinite(got)
            place = np.unravel_index(np.argmax(wrong), wrong.shape)
            require(
                not wrong.any(),
                f"{name} is {got[place]!r} at {case.describe(int(place[0]))}",
            )
            count += int(must.sum())
    return f"{count} results"


def accurate(card: Card) -> str:
    """Value and gradients are within the card's units in the last place of the exact ones."""
    return _accuracy(card, cases(card))


def _accuracy(card: Card, found: list[Case]) -> str:
    errors = [worst(case, tuple(case.outcome)) for case in found]
    error, message = max(errors, key=lambda e: e[0])
    require(error <= card.ulp, f"{card.ulp} ulp are claimed; {message}")
    return f"{error:.2g} of {card.ulp} ulp"


# P3, P4: masks and empty inputs ------------------------------------------------------------------


def masked(card: Card) -> str:
    """What a mask hides leaks into no value and no gradient, and is as good as deleted."""
    rng = np.random.default_rng(1)
    unit = UNITS[card.values][0]
    clean = cast(_plain(card, draw(card, rng, 8, unit)), np.float32)
    if card.values == "batch":
        clean = {name: x[0] if x.ndim else x for name, x in clean.items()}
    rows = len(clean["targets"])
    shown = np.arange(rows) % 2 == 0
    dirty = _soil(card, clean, ~shown)
    _mask_equals_deletion(card, dirty, shown, _rows(clean, shown), lambda x: x[shown])
    if card.values in ("example", "list"):
        flags = np.ones(clean["predictions"].shape, bool)
        flags[:, -1], flags[~shown] = False, False
        fewer = cast(_plain(card, draw(card, rng, rows, (unit[-1] - 1,))), np.float32)
        padded = {
            name: np.pad(x, [(0, 0), (0, 1)]) if x.ndim == 2 else x for name, x in fewer.items()
        }
        _mask_equals_deletion(
            card, _soil(card, padded, ~flags), flags, _rows(fewer, shown), lambda x: x[shown, :-1]
        )
    return "as if deleted"


def _plain(card: Card, sample: Sample) -> Sample:
    """The hyper-parameters at one value for all, their default where it is a number."""
    defaults = card.defaults
    return {
        name: (np.asarray(x[0] if defaults[name] is None else defaults[name], float))
        if name in defaults
        else x
        for name, x in sample.items()
    }


def _rows(sample: Sample, chosen: np.ndarray) -> Sample:
    return {name: x[chosen] if x.ndim else x for name, x in sample.items()}


def _soil(card: Card, sample: Sample, hidden: np.ndarray) -> Sample:
    """A copy with rubbish in the hidden places."""
    dirty = {name: x.copy() for name, x in sample.items()}
    wrong = card.targets.outside or ((np.nan,) if is_floating(sample["targets"]) else (-7, 10**9))
    for name, rubbish in (("predictions", (np.nan, np.inf, -np.inf, 3e38)), ("targets", wrong)):
        array = dirty[name]
        places = hidden if hidden.ndim <= array.ndim else hidden.all(-1)
        array[places] = np.resize(rubbish, array[places].shape)
    return dirty


def _mask_equals_deletion(
    card: Card, dirty: Sample, where: np.ndarray, kept: Sample, select: Callable[..., Any]
) -> None:
    values, gradients = _values_and_gradients(card, dirty, where)
    if card.values != "batch":
        shown = where if where.ndim == values.ndim else where.any(-1)
        require(
            (values[~shown] == 0).all(), f"a hidden value is {values[~shown]} and not 0, {where=}"
        )
    wanted, wanted_gradients = _values_and_gradients(card, kept, None)
    _compare_masked(card, where, select, (values, gradients), (wanted, wanted_gradients))


def _compare_masked(card, where, select, got, wanted):
    (values, gradients), (wanted_values, wanted_gradients) = got, wanted
    if card.values != "batch":
        shown = where if where.ndim == values.ndim else where.any(-1)
        values = values[shown]
    require_close(values, wanted_values, card, "value beside a hidden place")
    for name, gradient in gradients.items():
        if gradient.ndim == 0:
            require_close(gradient, wanted_gradients[name], card, f"gradient for {name}, masked")
            continue
        hidden = ~np.broadcast_to(
            where[(..., *[None] * (gradient.ndim - where.ndim))], gradient.shape
        )
        require(
            (gradient[hidden] == 0).all(),
            f"the gradient for hidden {name} is {gradient[hidden]} and not 0, {where=}",
        )
        require_close(
            select(gradient), wanted_gradients[name], card, f"gradient for {name} beside a mask"
        )


def _values_and_gradients(card: Card, sample: Sample, where: Any) -> Any:
    """The values of a batch, and the gradients of their sum by the arguments' names."""

    def total(floating: Sample, others: Sample) -> Any:
        hyper = {name: x for name, x in floating.items() if name in card.hyper}
        arguments = {**floating, **others}
        values = card.unreduced(
            arguments["predictions"], arguments["targets"], **hyper, where=where
        )
        return values.sum(), values

    gradients, values = once(jax.grad(total, has_aux=True))(*split(sample))
    return np.asarray(values), {name: np.asarray(x) for name, x in gradients.items()}


def empty(card: Card) -> str:
    """Nothing to average gives 0 with zero gradients, and one thing a number."""
    rng, unit = np.random.default_rng(2), UNITS[card.values][0]
    shape = (1, 4) if card.values == "element" else (3, *unit) if card.values != "batch" else unit
    predictions = card.predictions.draw(rng, shape).astype(np.float32)
    targets = card.targets.draw(rng, shape)
    targets = targets.astype(np.float32) if is_floating(targets) else targets

    def average(predictions: Any, targets: Any, where: Any = None) -> Any:
        values = card.unreduced(predictions, targets, where=where)
        return mean(values, where=where if np.shape(where) == values.shape else None)

    run = once(jax.value_and_grad(average))
    shown = np.zeros(shape if card.values == "element" else shape[:1], bool)
    for what, arguments in {
        "of no rows": (predictions[:0], targets[:0]),
        "of all masked": (predictions * np.float32(np.nan), targets, shown),
    }.items():
        value, gradient = run(*arguments)
        require(value == 0, f"the average {what} is {value} and not 0")
        require(not np.asarray(gradient).any(), f"the gradient {what} is {gradient} and not 0")
    shown.flat[0] = True
    require(not np.isnan(run(predictions, targets, shown)[0]), "a single row gives no number")
    return "0"


# P5: strict --------------------------------------------------------------------------------------


def mistakes(card: Card) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Calls that must be refused: what is wrong, the argument that is to be named, the call."""
    rng, unit = np.random.default_rng(3), UNITS[card.values][0]
    shape = (6, *unit) if card.values != "batch" else (6, 3)
    predictions = card.predictions.draw(rng, shape).astype(np.float32)
    targets = card.targets.draw(rng, shape)
    targets = targets.astype(np.float32) if is_floating(targets) else targets
    loss, (first, second) = card.unreduced, card.arguments
    integers = np.ones(shape, np.int32)
    yield from (
        (what, name, lambda p=p, t=t: loss(p, t))
        for what, name, p, t in [
            ("a trailing axis too many in the predictions", first, predictions[..., None], targets),
            ("a trailing axis too many in the targets", second, predictions, targets[..., None]),
            ("one target too few", second, predictions, targets[:-1]),
            ("one target for all", second, predictions, targets[:1]),
            ("integer predictions", first, integers, targets),
            ("boolean predictions", first, integers > 0, targets),
            ("complex predictions", first, predictions + 0j, targets),
            ("complex targets", second, predictions, targets + 0j),
        ]
    )
    if card.targets.drops:
        one_hot = np.eye(6, shape[-1], dtype=np.float32)
        yield "one-hot targets", second, lambda: loss(predictions, one_hot)
        floating = targets.astype(np.float32)
        yield "floating targets", second, lambda: loss(predictions, floating)
        yield "swapped arguments", first, lambda: loss(targets, predictions)
    elif len(shape) > 1:
        yield "targets without an axis", second, lambda: loss(predictions, targets[..., 0])
    masks = {
        "a mask of numbers": np.ones(shape[:1] if len(shape) > 1 else shape, np.float32),
        "a mask that is too short": np.ones((5, *shape[1:]), bool),
        "a mask of too high a rank": np.ones((*shape, 1), bool),
        "a mask that would enlarge": np.ones((7, *shape), bool),
    }
    for what, where in masks.items():
        yield what, "where", lambda where=where: loss(predictions, targets, where=where)
    for name in card.hyper:
        for what, size in {"would enlarge": (7, *shape), "does not fit": (5,)}.items():
            wrong = {name: np.full(size, 0.5, np.float32)}
            yield (
                f"{name} that {what}",
                name,
                lambda wrong=wrong: loss(predictions, targets, **wrong),
            )
    if "axis" in inspect.signature(loss).parameters:
        yield "an axis that is not there", "axis", lambda: loss(predictions, targets, axis=5)


def refusal(wrong_call: Callable[[], Any]) -> Exception | None:
    """The error that a call meets when it is traced, None where it is not refused."""
    try:
        jax.eval_shape(wrong_call)
    except (TypeError, ValueError, AssertionError) as error:  # chex asserts
        return error
    return None


def strict(card: Card) -> str:
    """Wrong shapes and dtypes are refused by an error that names the loss and the argument."""
    count = 0
    for what, argument, wrong_call in mistakes(card):
        error = refusal(wrong_call)
        require(error is not None, f"{what}: no error")
        for name in (card.name, argument):
            require(name in str(error), f"{what}: the error does not name {name}: {error}")
        count += 1
    return f"{count} mistakes refused"


# P6: stable --------------------------------------------------------------------------------------


def _batched(card: Card) -> Callable[..., Any]:
    """All values of a sample, by the loss itself where it can take a batch of units."""
    if card.values == "batch":
        return jax.vmap(one(card))
    return one(card)


def _reverse(values: Callable[..., Any]) -> Callable[..., Any]:
    def total(floating: Sample, others: Sample) -> Any:
        result = values(floating, others)
        return 0.5 * result.sum(), result

    def run(floating: Sample, others: Sample) -> dict[str, Any]:
        # Of a half, as a loss is seldom all that is differentiated.
        gradients, result = jax.grad(total, has_aux=True)(floating, others)
        return {"value": result} | {name: 2.0 * x for name, x in gradients.items()}

    return run


def _mapped(card: Card) -> Callable[..., Any]:
    def each(sample: tuple[Sample, Sample]) -> dict[str, Any]:
        value, gradients = jax.value_and_grad(one(card))(*sample)
        return {"value": value, **gradients}

    return once(lambda *sample: jax.lax.map(each, sample))


@cache
def forward_mode(card: Card) -> Callable[..., Any]:
    """One argument at a time, for a zero tangent times an infinite slope would be NaN."""

    def run(floating: Sample, others: Sample) -> dict[str, Any]:
        def along(name: str) -> Any:
            return jax.jacfwd(lambda x: one(card)({**floating, name: x}, others))(floating[name])

        return {name: along(name) for name in floating}

    return once(jax.vmap(run))


def _sharded(card: Card) -> Callable[..., Any]:
    devices = jax.sharding.Mesh(np.asarray(jax.devices()), ("examples",))
    rows = jax.sharding.NamedSharding(devices, jax.sharding.PartitionSpec("examples"))
    run = jax.jit(_reverse(_batched(card)))
    return lambda *sample: run(*jax.device_put(sample, rows))


TRANSFORMS: dict[str, Callable[[Card], Callable[..., Any]]] = {
    # Eager gradients are those of the same rules, and every operation is compiled for itself.
    "eager": lambda card: lambda *sample: {"value": _batched(card)(*sample)},
    "jit and checkpoint": lambda card: jax.jit(_reverse(jax.checkpoint(_batched(card)))),
    "lax.map": _mapped,
    "forward mode": forward_mode,
    "sharding": _sharded,
}


def stable(card: Card) -> str:
    """One result by every way through JAX: eager, jit, vmap, checkpoint, map, forward, sharded."""
    ways = [way for way in TRANSFORMS if way != "sharding" or jax.device_count() > 1]
    for way in ways:
        agrees(card, way)
    return f"{len(ways) + 1} ways agree"


def agrees(card: Card, way: str) -> None:
    """A way through JAX gives what `jax.vmap` over single units gives, but for rounding."""
    case = cases(card)[0]
    # One shape for all losses, so that eager operations are compiled but once.
    count = min(64, len(case.sample["targets"]) // 8 * 8)
    chosen = np.linspace(0, len(case.sample["targets"]) - 1, count).astype(int)
    sample = {name: x[chosen] for name, x in case.sample.items()}
    floor, kind = floors(card, sample), np.finfo(np.float32)
    for name, result in TRANSFORMS[way](card)(*split(sample)).items():
        got, wanted = np.asarray(result), case.outcome[name][chosen]
        bound = 2 * card.ulp * kind.eps * np.maximum(np.abs(wanted), floor[name]) + 4 * kind.tiny
        with np.errstate(invalid="ignore"):
            wrong = ~(np.abs(got - wanted) <= bound)
        wrong &= np.isfinite(wanted) | ((name == "value") & (got != wanted))
        if name == "targets":  # an infinite logit has an infinite slope for its label
            finite = np.isfinite(sample["predictions"]).reshape(count, -1).all(-1)
            wrong &= finite.reshape(-1, *(1,) * (wrong.ndim - 1))
        place = np.unravel_index(np.argmax(wrong), wrong.shape)
        require(
            not wrong.any(),
            f"{name} by {way} is {got[place]!r}, by vmap {wanted[place]!r} at "
            f"{case.describe(int(chosen[place[0]]))}",
        )


def derivatives(card: Card) -> str:
    """The Hessian is symmetric, finite, and what the gradient's differences say; then a third."""
    case = cases(card, np.float64)[0]
    floating, others = split(case.sample)
    rng = np.random.default_rng(4)
    predictions = case.sample["predictions"]
    direction = rng.normal(size=predictions.shape)

    step = 1e-6 * np.maximum(1.0, np.abs(np.where(np.isfinite(predictions), predictions, 0)))
    step = step.max(axis=tuple(range(1, step.ndim)), keepdims=True)
    with jax.enable_x64(True):
        hessian = hessians(card, case.sample)
        forward, reverse, third = in_blocks(_higher(card), predictions, direction, floating, others)
        before, after = (
            evaluate(card, case.sample | {"predictions": predictions + side * step * direction})
            for side in (-1, 1)
        )
    flat = predictions.shape[0], -1
    change = (after["predictions"] - before["predictions"]).reshape(flat)
    differences = change / (2 * step.reshape(flat))
    known = case.truth["predictions"].defined & np.isfinite(predictions)
    smooth = np.asarray(known.reshape(flat).all(-1))
    transposed = hessian.transpose(0, 2, 1)
    for what, wrong in {
        "the Hessian is not finite": ~np.isfinite(hessian),
        "the third derivative is not finite": ~np.isfinite(third),
        "the Hessian is not symmetric": _differ(hessian, transposed, 1e-11, hessian),
        "forward and reverse over reverse differ": _differ(forward, reverse, 1e-11, hessian),
    }.items():
        _require_none(wrong, smooth, case, what)
    # The first are ordinary points, where differences serve, if they stay in the domain.
    smooth[len(smooth) // 5 :] = False
    smooth &= np.isfinite(differences).all(-1)
    what = "the Hessian is not the change of the gradient"
    _require_none(_differ(forward, differences, 1e-5, hessian), smooth, case, what)
    return "Hessian and third"


def _gradient(card: Card) -> Callable[..., Any]:
    def value(predictions: Any, floating: Sample, others: Sample) -> Any:
        return one(card)({**floating, "predictions": predictions}, others)

    return jax.grad(value)


@cache
def _hessian(card: Card) -> Callable[..., Any]:
    return once(jax.vmap(jax.jacfwd(_gradient(card))))


def hessians(card: Card, sample: Sample) -> np.ndarray:
    """The Hessian of each unit in its predictions, as a matrix."""
    result = in_blocks(_hessian(card), sample["predictions"], *split(sample))
    size = sample["predictions"][0].size
    return result.reshape(-1, size, size)


@cache
def _higher(card: Card) -> Callable[..., Any]:
    """The Hessian in a direction, forward and reverse over reverse, and the change of that."""
    gradient = _gradient(card)

    def higher(predictions: Any, direction: Any, *rest: Any) -> tuple[Any, ...]:
        def along(p: Any) -> Any:
            return jax.jvp(lambda q: gradient(q, *rest), (p,), (direction,))[1]

        forward, third = jax.jvp(along, (predictions,), (direction,))
        reverse = jax.grad(lambda p: jnp.vdot(gradient(p, *rest), direction))(predictions)
        return forward.ravel(), reverse.ravel(), third.ravel()

    return once(jax.vmap(higher))


def _differ(a: np.ndarray, b: np.ndarray, tolerance: float, hessian: np.ndarray) -> np.ndarray:
    size = np.abs(hessian).max(axis=(1, 2)).reshape(-1, *(1,) * (a.ndim - 1))
    with np.errstate(invalid="ignore"):  # infinity less itself, where nothing is claimed
        return ~(np.abs(a - b) <= tolerance * (size + 1e-3))


def _require_none(wrong: np.ndarray, where: np.ndarray, case: Case, what: str) -> None:
    units = wrong.reshape(len(wrong), -1).any(-1) & where
    require(not units.any(), f"{what} at {case.describe(int(np.argmax(units)))}")


# P7: dtypes --------------------------------------------------------------------------------------


def half(card: Card) -> str:
    """Half precision is computed and returned in float32, with gradients in its own dtype."""
    unit = cases(card)[0].sample["predictions"].shape[1:]
    shaped = [case for case in cases(card) if case.sample["predictions"].shape[1:] == unit]
    for dtype in (jnp.bfloat16, jnp.float16):
        for case in shaped:
            sample = cast(case.sample, dtype)
            single = cast(sample, np.float32)
            got, wanted, floor = (
                evaluate(card, sample),
                evaluate(card, single),
                floors(card, single),
            )
            for name, result in got.items():
                like = np.float32 if name == "value" else dtype
                require(result.dtype == like, f"{name} of {jnp.dtype(dtype)} is {result.dtype}")
                with np.errstate(over="ignore"):
                    exact = wanted[name].astype(like).astype(np.float32)
                size, kind = (
                    np.abs(np.nan_to_num(wanted[name], posinf=0, neginf=0)),
                    jnp.finfo(like),
                )
                bound = 2 * card.ulp * np.finfo(np.float32).eps * np.maximum(size, floor[name])
                bound += 2 * float(kind.tiny) + (like is dtype) * float(kind.eps) * size
                off = np.isclose(
                    result.astype(np.float32), exact, rtol=0, atol=bound, equal_nan=True
                )
                place = np.unravel_index(np.argmin(off), off.shape)
                require(
                    off.all(),
                    f"{name} of {jnp.dtype(dtype)} is {result[place]}, of the same numbers in "
                    f"float32 {exact[place]}, at {case.describe(int(place[0]))}",
                )
    return "as in float32"


def double(card: Card) -> str:
    """float64 stays and keeps its digits; nothing else becomes it; no dtype comes out weak."""
    for dtype in (np.float64, np.float32):
        for name, result in _shapes(card, dtype).items():
            require(
                result.dtype == dtype and not result.weak_type,
                f"{name} of {np.dtype(dtype)} is {'weakly ' * result.weak_type}{result.dtype}",
            )
    return _accuracy(card, cases(card, np.float64)[:1])


def _shapes(card: Card, dtype: Any) -> dict[str, Any]:
    """Shapes and dtypes of the results with 64 bits enabled, the hyper-parameters as they are."""
    rng, unit = np.random.default_rng(5), UNITS[card.values][0]
    sample = {name: np.asarray(x[0]) for name, x in cast(draw(card, rng, 2, unit), dtype).items()}
    predictions, targets = sample["predictions"], sample["targets"]
    with jax.enable_x64(True):
        value, gradient = jax.eval_shape(
            lambda p: jax.value_and_grad(card.unreduced)(p, targets), predictions
        )
    return {"value": value, "gradient": gradient}


# P8 and the domain -------------------------------------------------------------------------------


def sign(card: Card) -> str:
    """A loss whose minimum is 0 is never negative, not by rounding either."""
    if card.minimum != 0:
        return "nothing is claimed"
    for case in _near_minimum(card) + cases(card):
        values = case.outcome["value"]
        place = int(np.argmin(np.where(np.isnan(values), np.inf, values)))
        require(not values[place] < 0, f"{values[place]!r} at {case.describe(place)}")
    return "never negative"


def _near_minimum(card: Card) -> list[Case]:
    """Predictions a few roundings from the best ones."""
    if card.minimizer is None:
        return []
    rng, unit = np.random.default_rng(6), UNITS[card.values][0]
    sample = draw(card, rng, len(cases(card)[0].sample["targets"]), unit)
    hyper = {name: x for name, x in sample.items() if name in card.hyper}
    best = np.asarray(card.constant("minimizer", targets=sample["targets"], **hyper), np.float64)
    noise = 10 ** rng.uniform(-9, -5, best.shape) * rng.normal(size=best.shape)
    noise *= not card.predictions.rows  # these may only be rounded
    return [Case(card, cast({**sample, "predictions": best * (1 + noise)}, np.float32))]


def outside(card: Card) -> str:
    """What is out of its domain gives NaN for that unit alone, and an error under checkify."""
    rng, unit = np.random.default_rng(7), UNITS[card.values][0]
    clean = cast(draw(card, rng, 8, unit), np.float32)
    places = {"targets": card.targets.outside, "predictions": (*card.predictions.outside, np.nan)}
    places |= {name: (*domain.outside, np.nan) for name, domain in card.hyper.items()}
    count = 0
    for name, values in places.items():
        for bad in values:
            sample = {n: x.copy() for n, x in clean.items()}
            sample[name][3].flat[-1:] = bad
            if sample[name].ndim == 1:
                sample[name][3] = bad
            _require_nan(card, name, bad, sample, clean)
            if bad == bad and name != "predictions":
                _require_error(card, name, bad, {n: x[3] for n, x in sample.items()})
            count += 1
    return f"{count} give NaN"


def _require_nan(card: Card, name: str, bad: float, sample: Sample, clean: Sample) -> None:
    got, wanted = evaluate(card, sample), evaluate(card, clean)
    others = np.arange(8) != 3
    for result in ("value", "predictions"):
        is_nan = np.isnan(got[result][3])
        # A gradient may not depend on the predictions; for a bad label it is spoilt all the same.
        if result == "value" or name != "predictions":
            require(is_nan.all(), f"{name}={bad}: {result} is {got[result][3]} and not NaN")
        require_close(
            got[result][others], wanted[result][others], card, f"{name}={bad}: {result} elsewhere"
        )


def _require_error(card: Card, name: str, bad: float, unit: Sample) -> None:
    first, second = card.arguments
    argument = {"predictions": first, "targets": second}.get(name, name)
    error, _ = _checked(card)(unit)
    message = str(error.get())
    require(error.get() is not None, f"{name}={bad}: no error under checkify")
    require(
        card.name in message and argument in message,
        f"{name}={bad}: the error under checkify does not name {argument}: {message}",
    )


@cache
def _checked(card: Card) -> Callable[..., Any]:
    return once(checkify.checkify(partial(call, card), errors=checkify.user_checks))


PROMISES: dict[str, Callable[[Card], str]] = {
    check.__name__: check
    for check in (
        finite,
        accurate,
        masked,
        empty,
        strict,
        stable,
        derivatives,
        half,
        double,
        sign,
        outside,
    )
}
