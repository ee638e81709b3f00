"""Objectives on the span of directions: hoisted where that pays, over batches, several at once."""

import functools
import itertools
import operator
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial

from jloss._affine import hoist, operations
from jloss.objective import Objective, call
from jloss.sweep import Sweep, sweep

# Points that one call of the compiled program takes on a device, at most.
_BLOCK = 64
# Operations of a point from which on it is worth measuring.
_WORTH = 1e6
# Seconds of measuring, or four points if they take longer.
_WATCH = 0.2


class Judged:
    """What is measured at each point: the objective, as ``loss``, and metrics by name."""

    def __init__(
        self,
        caller: str,
        objective: Objective,
        metrics: Mapping[str, Objective] | None = None,
        model_state: Any = None,
    ):
        metrics = metrics or {}
        if "loss" in metrics:
            raise ValueError(f"{caller}: a metric cannot be named loss: that is the objective")
        self.caller, self.model_state = caller, model_state
        self.judges = {"loss": objective, **metrics}

    def __call__(self, params: Any, batch: Any, model_state: Any) -> dict[str, Any]:
        found = {
            name: call(judge, params, batch, model_state=model_state)[0]
            for name, judge in self.judges.items()
        }
        shape = jnp.shape(found["loss"].value)
        if shape:
            raise TypeError(
                f"{self.caller}: the objective must return the Average of a batch, one number, "
                f"not an array of shape {shape}; did you mean jloss.average(values)?"
            )
        return found

    def values(self, averages: dict[str, Any]) -> Any:
        """The values of averages: those of the objective alone, or all by name."""
        found = {name: average.value for name, average in averages.items()}
        return found if len(found) > 1 else found["loss"]


def swept(
    judged: Judged,
    params: Any,
    directions: Sequence[Any],
    batch: Any,
    data: Iterable[Any] | None,
    axes: dict[str, np.ndarray],
    how: dict[str, Any],
) -> Sweep:
    """The values over the grid of coordinates along the directions."""
    batches = on_span(judged, params, directions, batch, data)
    options: dict[str, Any] = {**how, **axes}
    found = sweep(lambda batch, **at: batch([*at.values()]), data=batches, **options)
    return Sweep(found.axes, judged.values(found.values))


def at_points(judged: Judged, functions: Iterable[Partial], points: np.ndarray) -> Any:
    """The values at ``(k, d)`` coordinates, of averages added up over the functions of all batches.

    All is done in blocks of one size, for a program is compiled for each size.
    """
    mesh = Mesh(np.asarray(jax.local_devices()), ("points",))
    at_once = len(mesh.devices) * _BLOCK
    blocks = [points[first : first + at_once] for first in range(0, len(points), at_once)]
    totals: list[Any] = []
    for function in functions:
        parts = [_block(function, block, mesh) for block in blocks]
        totals = [add(*both) for both in zip(totals, parts, strict=True)] if totals else parts

    def joined(*leaves: Array) -> Array:
        cut = [
            np.asarray(leaf)[:, : _share(block, mesh)].reshape(-1, *leaf.shape[2:])[: len(block)]
            for leaf, block in zip(leaves, blocks, strict=True)
        ]
        return jnp.asarray(np.concatenate(cut))

    return jax.tree.map(joined, *map(judged.values, totals))


def _share(points: np.ndarray, mesh: Mesh) -> int:
    """Of a device."""
    return -(-len(points) // len(mesh.devices))


def _block(function: Partial, points: np.ndarray, mesh: Mesh) -> Any:
    """The averages at some points, an equal share of them on each device, with room for more."""
    devices, share = len(mesh.devices), _share(points, mesh)
    room = np.zeros((devices, _BLOCK, points.shape[1]), jnp.result_type(float))
    room[:, :share] = np.resize(points, (devices, share, points.shape[1]))
    everywhere = NamedSharding(mesh, PartitionSpec())
    function, count = jax.device_put((function, np.int32(share)), everywhere)
    places = jax.device_put(room, NamedSharding(mesh, PartitionSpec("points")))
    return _shared_out(mesh)(function, places, count)


@functools.cache
def _shared_out(mesh: Mesh) -> Any:
    def several(function: Partial, points: Array, count: Array) -> Any:
        def put(number: Array, values: Any) -> Any:
            found = function([*points[0, number]])
            return jax.tree.map(lambda all, one: all.at[0, number].set(one), values, found)

        shapes = jax.eval_shape(function, [*points[0, 0]])
        nothing = jax.tree.map(lambda s: jnp.zeros((1, _BLOCK, *s.shape), s.dtype), shapes)
        return lax.fori_loop(0, count, put, nothing)

    shares = PartitionSpec("points")
    return jax.jit(
        jax.shard_map(
            several,
            mesh=mesh,
            in_specs=(PartitionSpec(), shares, PartitionSpec()),
            out_specs=shares,
            check_vma=False,
        )
    )


def add(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """Averages by name, merged."""
    return {name: one[name] + two[name] for name in one}


def on_span(
    judged: Judged, params: Any, directions: Sequence[Any], batch: Any, data: Iterable[Any] | None
) -> Iterable[Partial]:
    """For each batch what is measured as a function of the coordinates: a pytree, and so data."""
    batches, example = as_batches(judged.caller, batch, data)
    again = map if iter(batches) is batches else _Again
    state, splits = judged.model_state, {}
    moving = [
        any(map(np.any, steps)) for steps in zip(*map(jax.tree.leaves, directions), strict=True)
    ]

    def hoisted(batch: Any) -> Partial:
        leaves, structure = jax.tree.flatten(batch)
        kind = structure, tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        if kind not in splits:
            split = hoist(judged, params, batch, state, moving=moving)
            splits[kind] = split.evaluate, jax.jit(split.prepare)
        evaluate, prepare = splits[kind]
        return Partial(evaluate, prepare(params, directions, batch, state))

    def at(params: Any, directions: Any, batch: Any, state: Any, at: Sequence[Any]) -> Any:
        return judged(moved(params, directions, at), batch, state)

    def plain(batch: Any) -> Partial:
        return Partial(at, params, directions, batch, state)

    first = hoisted(example), plain(example)
    pays = _pays(*first, [jnp.zeros(()) for _ in directions])
    if data is None:
        return [first[0] if pays else first[1]]
    return again(hoisted if pays else plain, batches)


def as_batches(caller: str, batch: Any, data: Iterable[Any] | None) -> tuple[Iterable[Any], Any]:
    """The batches, and the first of them."""
    if (batch is None) == (data is None):
        raise ValueError(f"{caller}: give a batch, or data with batches, and not both")
    batches: Iterable[Any] = [batch] if data is None else data
    example = next(walk := iter(batches), None)
    if example is None:
        raise ValueError(f"{caller}: data has no batches")
    return (itertools.chain([example], walk) if walk is batches else batches), example


def moved(params: Any, directions: Sequence[Any], coordinates: Sequence[Any]) -> Any:
    """The params at coordinates along the directions, in their dtypes."""

    def move(p: Array, *steps: Array) -> Array:
        for coordinate, step in zip(coordinates, steps, strict=True):
            p = p + (coordinate * step).astype(p.dtype)
        return p

    return jax.tree.map(move, params, *directions)


def _pays(hoisted: Partial, plain: Partial, at: list[Array]) -> bool:
    """Whether a point is faster with what is done once than without.

    Less than half the arithmetic is; where less is saved, the coefficients may take longer to read
    than a thin layer to compute, and a clock says, if a point is worth compiling it twice.
    """
    left, whole = (operations(f, at) for f in (hoisted, plain))
    if not 0.5 * whole < left < 0.98 * whole or whole < _WORTH:
        return left < 0.98 * whole
    runs = [jax.jit(lambda f, at: f(at)).lower(f, at).compile() for f in (hoisted, plain)]
    seconds: list[list[float]] = [[], []]
    # In turns, so that a busy moment hits both, and for long enough that none hits all of one.
    while len(seconds[0]) < 4 or (sum(map(sum, seconds)) < _WATCH and len(seconds[0]) < 20):
        for run, f, found in zip(runs, (hoisted, plain), seconds, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(run(f, at))
            found.append(time.perf_counter() - start)
    return min(seconds[0][1:]) < min(seconds[1][1:])


class _Again:
    """`map` that can be walked as often as what it maps over."""

    def __init__(self, function: Callable[[Any], Any], data: Iterable[Any]):
        self._function, self._data = function, data

    def __iter__(self) -> Any:
        return map(self._function, self._data)

    def __length_hint__(self) -> int:  # for a progress bar
        return operator.length_hint(self._data)
