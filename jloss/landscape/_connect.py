"""Curves between two solutions: the straight one, and low-loss ones that are trained."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jloss.landscape._directions import check_finite, check_like
from jloss.landscape._evaluate import Judged, as_batches
from jloss.landscape._planes import barrier, check_resolution
from jloss.objective import Objective, call
from jloss.sweep import Sweep, sweep

if TYPE_CHECKING:
    import optax


@dataclass(frozen=True)
class Connection:
    """A curve through parameter space and the objective along it.

    Attributes:
      corners: the params that span it, the two solutions first and last.
      curve: ``"polygon"`` or ``"bezier"``.
      along: a `Sweep` over ``t`` from 0 to 1, of the objective or, with metrics, of all by name.
    """

    corners: tuple[Any, ...]
    curve: str
    along: Sweep

    def at(self, t: Any) -> Any:
        """The params at ``t``, from 0 to 1."""
        return _point(self.curve, self.corners, t)

    @property
    def barrier(self) -> float:
        """How high the objective climbs over the straight way between its values at the ends."""
        return float(barrier(self.along, "loss" if self._several else None))

    @property
    def values(self) -> Array:
        """The objective's values along the curve."""
        return self.along.values["loss"] if self._several else self.along.values

    @property
    def _several(self) -> bool:
        return isinstance(self.along.values, Mapping)

    def plot(self, ax: Any = None) -> Any:
        """Draws the objective along the curve: `jloss.plot.barrier` (needs matplotlib)."""
        from jloss import plot

        return plot.barrier(self, ax=ax)


def interpolate(
    objective: Objective,
    first: Any,
    second: Any,
    batch: Any = None,
    *,
    data: Iterable[Any] | None = None,
    resolution: int = 51,
    metrics: Mapping[str, Objective] | None = None,
    model_state: Any = None,
    **how: Any,
) -> Connection:
    """The straight way between two solutions, and the barrier on it.

    Source: Frankle et al. (2020), Linear mode connectivity and the lottery ticket hypothesis, ICML.

    Args:
      objective: ``objective(params, batch) -> Average``.
      first: params, any pytree of floating arrays.
      second: others of the same structure and shapes.
      batch: what the objective is evaluated on.
      data: batches instead, over which it is averaged exactly.
      resolution: points on the way.
      metrics: as for `line`.
      model_state: for objectives with an argument of that name, the same all along.
      how: options of `jloss.sweep`.

    Returns:
      A `Connection`, whose ``barrier`` is 0 if nothing lies between the solutions.

    Raises:
      ValueError: solutions unlike each other or with NaN, a resolution below 2, both batch and
        data.
      TypeError: the objective returns no `Average`.

    >>> well = lambda params, batch: jloss.average((params**2 - 1) ** 2 * batch)
    >>> found = jloss.landscape.interpolate(well, jnp.array(-1.0), jnp.array(1.0), jnp.ones(1))
    >>> found.barrier
    1.0
    """
    corners = _ends("interpolate", first, second)
    judged = Judged("interpolate", objective, metrics, model_state)
    batches, _ = as_batches("interpolate", batch, data)
    return Connection(
        corners, "polygon", _along(judged, corners, "polygon", batches, resolution, how)
    )


def connect(
    objective: Objective,
    first: Any,
    second: Any,
    batch: Any = None,
    *,
    data: Iterable[Any] | None = None,
    curve: str = "bezier",
    bends: int = 1,
    steps: int = 500,
    optimizer: "optax.GradientTransformation | None" = None,
    key: Array | None = None,
    resolution: int = 51,
    metrics: Mapping[str, Objective] | None = None,
    model_state: Any = None,
    **how: Any,
) -> Connection:
    r"""A curve between two solutions along which an objective stays low, trained with optax.

    .. math:: \min_{w} \; \mathbb{E}_{t \sim U(0, 1)} \, L(\gamma_w(t)), \qquad
              \gamma_w(0) = \theta_1, \; \gamma_w(1) = \theta_2

    The bends :math:`w` start on the straight way. Models with batch statistics are evaluated with
    those given, all along; Garipov et al. compute them anew at each point.

    Source: Garipov, Izmailov, Podoprikhin, Vetrov, Wilson (2018), Loss surfaces, mode
    connectivity, and fast ensembling of DNNs, NeurIPS.

    Args:
      objective: ``objective(params, batch) -> Average``.
      first: params, any pytree of floating arrays.
      second: others of the same structure and shapes.
      batch: what the objective is evaluated on.
      data: batches instead: one for each step in turn, all for the values along the curve.
      curve: ``"bezier"``, smooth and pulled by the bends, or ``"polygon"``, straight from one bend
        to the next.
      bends: how many.
      steps: of the optimizer, each at one random ``t`` on one batch.
      optimizer: of optax; ``optax.adam(0.01)`` if not given.
      key: draws the ``t``; ``jax.random.key(0)`` by default.
      resolution: points along the curve to be evaluated.
      metrics: as for `line`.
      model_state: for objectives with an argument of that name, the same all along.
      how: options of `jloss.sweep`.

    Returns:
      A `Connection`. Two solutions are connected as far as its ``barrier`` is low.

    Raises:
      ValueError: as `interpolate`; there is no such curve, no bends, or no steps.
      TypeError: the objective returns no `Average`, or data is an iterator.

    >>> ring = lambda params, batch: jloss.average((jnp.sum(params**2) - 1) ** 2 * batch)
    >>> ends = jnp.array([-1.0, 0.0]), jnp.array([1.0, 0.1])
    >>> straight = jloss.landscape.interpolate(ring, *ends, jnp.ones(1))
    >>> fast = optax.adam(0.1)
    >>> around = jloss.landscape.connect(ring, *ends, jnp.ones(1), steps=100, optimizer=fast)
    >>> around.barrier < 0.2 * straight.barrier
    True
    """
    if curve not in _BASIS:
        raise ValueError(f"connect: curve must be one of {', '.join(_BASIS)}, not {curve!r}")
    for name, number in {"bends": bends, "steps": steps}.items():
        if number < 1 or number != int(number):
            raise ValueError(f"connect: {name} must be a whole number of at least 1, not {number}")
    import optax

    from jloss.update import init, step

    ends = _ends("connect", first, second)
    judged = Judged("connect", objective, metrics, model_state)
    batches, _ = as_batches("connect", batch, data)
    if iter(batches) is batches:
        raise TypeError(
            "connect: data must be something that can be walked again, as a list, and not an "
            "iterator"
        )

    def on_curve(bends: Any, drawn: Any) -> Any:
        t, ends, batch, model_state = drawn
        point = _point(curve, (ends[0], *bends, ends[1]), t)
        return call(objective, point, batch, model_state=model_state)[0]

    start = [_point("polygon", ends, share) for share in jnp.linspace(0, 1, bends + 2)[1:-1]]
    state = init(start, optax.adam(0.01) if optimizer is None else optimizer)
    update = step(on_curve)
    # By numpy one at a time, for which JAX would compile slices of all of them.
    places = np.asarray(jax.random.uniform(jax.random.key(0) if key is None else key, (steps,)))
    for t, batch in zip(places, _endless(batches), strict=False):
        state, _ = update(state, (t, ends, batch, model_state))
    corners = (ends[0], *state.params, ends[1])
    return Connection(corners, curve, _along(judged, corners, curve, batches, resolution, how))


def _polygon(last: int, t: Any) -> Array:
    return jnp.maximum(0.0, 1.0 - jnp.abs(t * last - jnp.arange(last + 1)))


def _bezier(last: int, t: Any) -> Array:
    """Bernstein's polynomials."""
    k = jnp.arange(last + 1)
    ways = jnp.asarray([math.comb(last, number) for number in range(last + 1)], jnp.float32)
    return ways * jnp.asarray(t) ** k * (1.0 - t) ** (last - k)


_BASIS = {"bezier": _bezier, "polygon": _polygon}


def _point(curve: str, corners: tuple[Any, ...], t: Any) -> Any:
    """The point of a curve: the corners, weighted."""
    weights = _BASIS[curve](len(corners) - 1, t)

    def mix(*leaves: Array) -> Array:
        total = sum(w * leaf for w, leaf in zip(weights, leaves, strict=True))
        return jnp.asarray(total, leaves[0].dtype)

    return jax.tree.map(mix, *corners)


def _along(
    judged: Judged,
    corners: tuple[Any, ...],
    curve: str,
    batches: Iterable[Any],
    resolution: int,
    how: dict[str, Any],
) -> Sweep:
    check_resolution(judged.caller, resolution)
    state = judged.model_state
    found = sweep(
        lambda batch, t: judged(_point(curve, corners, t), batch, state),
        data=batches,
        t=jnp.linspace(0.0, 1.0, resolution),
        **how,
    )
    return Sweep(found.axes, judged.values(found.values))


def _ends(caller: str, first: Any, second: Any) -> tuple[Any, Any]:
    check_like(f"{caller}: second", first, second)
    for name, params in {"first": first, "second": second}.items():
        check_finite(f"{caller}: {name}", params)
    return jax.tree.map(jnp.asarray, first), jax.tree.map(jnp.asarray, second)


def _endless(batches: Iterable[Any]) -> Iterable[Any]:
    while True:
        yield from batches
