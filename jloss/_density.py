"""Spectral densities by stochastic Lanczos quadrature."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jloss import _estimates, _krylov
from jloss._estimates import Errors, Estimate
from jloss._operator import Operator

# Numbers in the bases of the recurrences that run side by side: 512 MiB in float32.
_NUMBERS_AT_ONCE = 2**27


@dataclass(frozen=True)
class SpectralDensity:
    """How the eigenvalues are spread, by Gauss quadratures of random vectors' spectral measures.

    Attributes:
      quadrature: nodes and weights, ``(probes, steps)`` each.
      size: the number of eigenvalues.
      shift: how far rounding may have moved a node.
      held_out: the quadratures without one group of batches after the other, if asked for.
      products: how many products with one vector it took.
      converged: whether the probes' interval met ``rtol``; otherwise the budget ended first.
    """

    quadrature: _krylov.Quadrature
    size: int
    shift: float
    held_out: tuple[_krylov.Quadrature, ...]
    products: int
    converged: bool

    @property
    def support(self) -> tuple[float, float]:
        """The smallest and the largest node; eigenvalues beyond them have nearly no weight."""
        return float(self.quadrature.nodes.min()), float(self.quadrature.nodes.max())

    def cumulative(self, x: Any) -> Estimate:
        """The share of eigenvalues at or below ``x``, ``(g,)``; Krylov errors are strict bounds."""
        places = np.asarray(x, np.float64)
        return self._estimate(lambda rule, shift: rule.cumulative(places + shift))

    def density(self, x: Any, width: float | None = None) -> Estimate:
        """The density at ``x``, ``(g,)``, after smoothing by a normal density.

        Args:
          x: places.
          width: its standard deviation; a fiftieth of the support by default. Krylov errors are
            strict bounds, and large where this is finer than the distance of nodes.
        """
        places = np.asarray(x, np.float64)
        width = self.width if width is None else width
        _estimates.check("density", width=width)
        return self._estimate(lambda rule, shift: rule.smoothed(places + shift, width))

    def plot(self, width: float | None = None, ax: Any = None) -> Any:
        """Draws the density with its band: `jloss.plot.spectrum` (needs matplotlib)."""
        from jloss import plot

        return plot.spectrum(self, width, ax)

    @property
    def width(self) -> float:
        """The standard deviation that `density` smooths by if it is not told."""
        low, high = self.support
        return max((high - low) / 50, 1e-3 * max(abs(low), abs(high)), 1e-30)

    def _estimate(self, evaluate: Callable) -> Estimate:
        values, low, high = evaluate(self.quadrature, 0.0)
        value, count = values.mean(0), len(values)
        krylov = np.maximum(high.mean(0) - value, value - low.mean(0))
        spread = np.max([v.std(0, ddof=1) for v in (values, low, high)], axis=0)
        moved = [evaluate(self.quadrature, shift)[0].mean(0) for shift in (-self.shift, self.shift)]
        rounding = np.max([abs(other - value) for other in moved], axis=0)
        data = np.full_like(value, np.nan)
        if self.held_out:
            others = np.stack([evaluate(rule, 0.0)[0].mean(0) for rule in self.held_out])
            data = _estimates.spread_left_out(others)
        errors = Errors(krylov, _estimates.interval(spread, count), data, rounding)
        return Estimate(value, errors, self.products, self.converged)


def spectral_density(
    operator: Operator,
    *,
    key: Array | None = None,
    steps: int = 64,
    rtol: float = 0.02,
    budget: int = 32,
    held_out: int = 0,
) -> SpectralDensity:
    r"""The spectrum as a whole, by stochastic Lanczos quadrature.

    .. math:: F(x) = \frac1n \#\{i: \lambda_i \le x\} = \mathbb{E}_z \sum_i w_i(z)\,
              [\theta_i(z) \le x]

    Vectors are uniform on the sphere, for which the mean of their spectral measures is the
    spectrum's. The nodes and weights of each are those of its Lanczos recurrence.

    Source: Lin, Saad, Yang (2016), Approximating spectral densities of large matrices, SIAM Rev.
    58; the bounds: Chen, Trogdon, Ubaru (2021), Analysis of stochastic Lanczos quadrature, ICML.

    Args:
      operator: of `hessian` or another.
      key: a random key; ``jax.random.key(0)`` by default.
      steps: of each recurrence; more resolve finer detail. Each keeps so many vectors in memory.
      rtol: probes run until the 95% interval of F is nowhere wider than ``rtol`` to both sides.
        That is asked after 4, 8, 16, ... of them.
      budget: probes at most.
      held_out: how many groups of batches to leave out in turn, for the error by data; each takes
        ``4 * steps`` products more. None by default.

    Returns:
      A `SpectralDensity`.

    Raises:
      ValueError: a budget below 2 probes, ``steps`` or ``rtol`` not positive, more groups than
        batches, or a product is not finite.

    >>> bowl = lambda params, batch: jloss.average(batch * jnp.sum(params**2))
    >>> operator = jloss.curvature.hessian(bowl, jnp.zeros(3), [jnp.ones(3)])
    >>> jloss.curvature.spectral_density(operator).cumulative([1.9, 2.1]).value.round(3)
    array([0., 1.])
    """
    _estimates.check("spectral_density", steps=(steps, 1), rtol=rtol, budget=(budget, 2))
    if held_out:
        batches = sum(1 for _ in operator.iterate())
        if not 2 <= held_out <= batches:
            raise ValueError(
                f"spectral_density: held_out must be 0, or from 2 to the {batches} batches, "
                f"not {held_out}"
            )
    steps = min(steps, operator.size)
    at_once = max(1, min(4, _NUMBERS_AT_ONCE // (steps * operator.size), budget))
    key, rounding_key = _estimates.keys(key)
    rules: list[_krylov.Quadrature] = []
    eps = float(jnp.finfo(operator.center.dtype).eps)
    look = min(4, budget)
    while True:
        while (done := sum(len(rule.nodes) for rule in rules)) < look:
            vectors = _estimates.sphere(
                jax.random.fold_in(key, done), min(at_once, look - done), operator
            )
            rules.append(_quadrature(operator, vectors, steps))
        rule = _joined(rules)
        half = _estimates.interval(
            rule.cumulative(_places(rule.nodes, eps))[0].std(0, ddof=1), look
        )
        converged = bool(half.max() <= rtol)
        if converged or look == budget:
            break
        look = min(2 * look, budget)
    others = _held_out(operator, key, at_once, steps, held_out)
    products = look * steps + sum(r.nodes.size for r in others) + 2 * min(at_once, look)
    vectors = _estimates.sphere(jax.random.fold_in(key, 0), min(at_once, look), operator)
    vectors = vectors / math.sqrt(operator.size)
    shift = _shift(operator, rounding_key, vectors, np.abs(rule.nodes).max())
    return SpectralDensity(rule, operator.size, shift, others, products, converged)


def _shift(operator: Operator, key: Array, vectors: Array, largest: float) -> float:
    """How far rounding may move a node: by the norm of what it does to products."""

    def sample(vectors: Array, images: Array) -> Array:
        return images

    moves = _estimates.rounding(
        operator, key, vectors, operator.products(vectors), sample, len(vectors)
    )
    eps = float(jnp.finfo(vectors.dtype).eps)
    return float(jnp.linalg.norm(moves, axis=1).max()) + 8 * eps * float(largest)


def _quadrature(operator: Operator, vectors: Array, steps: int) -> _krylov.Quadrature:
    nothing = jnp.zeros((0, operator.size), vectors.dtype)
    state = _krylov.start(jax.random.key(0), vectors, steps, nothing)
    state = operator.lanczos(state, 0, steps)
    return _krylov.quadrature(np.asarray(state.alpha), np.asarray(state.beta))


def _places(nodes: np.ndarray, eps: float) -> np.ndarray:
    """Where to look at a spectrum; beyond it, where rounding alone makes it more than a point."""
    low, high = nodes.min(), nodes.max()
    noise = 64 * eps * np.abs(nodes).max()
    return np.linspace(low, high, 65) if high - low > noise else np.array([high + noise])


def _held_out(
    operator: Operator, key: Array, at_once: int, steps: int, groups: int
) -> tuple[_krylov.Quadrature, ...]:
    """Quadratures from the same first probes, on the data without each group in turn."""
    if not groups:
        return ()
    vectors = _estimates.sphere(jax.random.fold_in(key, 0), at_once, operator)
    parts = (operator.without(part, groups) for part in range(groups))
    return tuple(_quadrature(part, vectors, steps) for part in parts)


def _joined(rules: list[_krylov.Quadrature]) -> _krylov.Quadrature:
    return _krylov.Quadrature(*(np.concatenate(column) for column in zip(*rules, strict=True)))
