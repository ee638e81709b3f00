"""Curvature: spectra, traces and diagonals, with error bars. Changes no params, draws nothing."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jloss import _krylov
from jloss._operator import Operator, empirical_fisher, fisher, gauss_newton, hessian

__all__ = [
    "Eigenpairs",
    "Errors",
    "Estimate",
    "Operator",
    "SpectralDensity",
    "diagonal",
    "empirical_fisher",
    "fisher",
    "gauss_newton",
    "hessian",
    "largest_eigenpairs",
    "smallest_eigenpairs",
    "spectral_density",
    "trace",
    "xtrace",
]

# Probes per block of products: enough to share what linearising costs, few enough for memory.
_PROBES_AT_ONCE = 16
# Independent estimates by XTrace, whose spread is an error that can be trusted.
_GROUPS = 4
# Numbers in the bases of the recurrences that run side by side: 512 MiB in float32.
_NUMBERS_AT_ONCE = 2**27


class Errors(NamedTuple):
    """Half-widths around a value, by source; NaN where a source could not be measured.

    Attributes:
      krylov: what stopping the Lanczos recurrence leaves open: a bound.
      probes: what random probes leave open: a 95% t-interval.
      data: what another sample of the data would change: a 95% t-interval by the jackknife over
        batches, or over 32 groups of them; unknown for a single batch.
      rounding: what one rounding error in each param and vector entry changes: an estimate.
    """

    krylov: Any
    probes: Any
    data: Any
    rounding: Any

    @property
    def total(self) -> Any:
        """The sum of what is known: sources may all err in one direction."""
        return jax.tree.map(lambda *sources: np.nansum(np.stack(sources), axis=0), *self)


class Estimate(NamedTuple):
    """A value with its errors.

    Attributes:
      value: a number, an array, or a pytree like the params.
      errors: half-widths by source, each like the value.
      products: how many products with one vector it took.
      converged: whether the probes' interval met ``rtol``; otherwise the budget ended first.
    """

    value: Any
    errors: Errors
    products: int
    converged: bool


class Eigenpairs(NamedTuple):
    """Eigenvalues and their vectors, the most extreme first.

    Attributes:
      values: ``(k,)``.
      vectors: pytrees like the params, with one more axis in front: orthonormal.
      errors: half-widths of the values by source. ``krylov`` is the norm of ``A v - value v``: an
        eigenvalue is at most so far away.
      products: how many products with one vector it took.
      converged: whether all residuals met ``rtol``; otherwise the budget ended first.
    """

    values: np.ndarray
    vectors: Any
    errors: Errors
    products: int
    converged: bool


def largest_eigenpairs(
    operator: Operator,
    k: int = 1,
    *,
    key: Array | None = None,
    rtol: float = 1e-3,
    budget: int = 128,
) -> Eigenpairs:
    """The ``k`` largest eigenvalues, with their vectors, by Lanczos.

    The recurrence is kept orthogonal to rounding and never restarted, so that no product is
    wasted; its basis takes ``budget`` vectors of memory. For several pairs, a second recurrence
    from a fresh vector, orthogonal to what was found, looks for copies of multiple eigenvalues
    that the first cannot see, until what is left certainly starts lower.

    Source: Parlett (1998), The symmetric eigenvalue problem, chapter 13.

    Args:
      operator: of `hessian` or another.
      k: how many.
      key: a random key; ``jax.random.key(0)`` by default.
      rtol: a pair has converged when its residual is below ``rtol`` times its value, or at
        rounding. The error of the value is of the order of the residual's square.
      budget: products at most, without those that measure the errors, 1 for each pair.

    Returns:
      `Eigenpairs`.

    Raises:
      ValueError: ``k`` is larger than the operator or the budget, or an argument is not positive,
        or a product is not finite.

    >>> bowl = lambda params, batch: jloss.average(batch * params**2)
    >>> operator = jloss.curvature.hessian(bowl, jnp.zeros(3), [jnp.array([1.0, 2.0, 6.0])])
    >>> jloss.curvature.largest_eigenpairs(operator).values.round(4)
    array([4.], dtype=float32)
    """
    return _extreme("largest_eigenpairs", operator, k, key, rtol, budget, sign=1)


def smallest_eigenpairs(
    operator: Operator,
    k: int = 1,
    *,
    key: Array | None = None,
    rtol: float = 1e-3,
    budget: int = 128,
) -> Eigenpairs:
    """The ``k`` smallest eigenvalues, most negative first: arguments as `largest_eigenpairs`.

    A negative one shows a direction in which an objective falls although its gradient may be 0.

    Args:
      operator: of `hessian` or another.
      k: how many.
      key: a random key.
      rtol: relative tolerance of the residuals.
      budget: products at most.

    Returns:
      `Eigenpairs`.

    Raises:
      ValueError: as `largest_eigenpairs`.

    >>> saddle = lambda params, batch: jloss.average(batch * (params[0] ** 2 - params[1] ** 2))
    >>> operator = jloss.curvature.hessian(saddle, jnp.zeros(2), [jnp.ones(1)])
    >>> jloss.curvature.smallest_eigenpairs(operator).values.round(4)
    array([-2.], dtype=float32)
    """
    return _extreme("smallest_eigenpairs", operator, k, key, rtol, budget, sign=-1)


def trace(
    operator: Operator, *, key: Array | None = None, rtol: float = 0.05, budget: int = 1024
) -> Estimate:
    r"""The trace, by random signs.

    .. math:: \operatorname{tr} A = \mathbb{E}\, z^T A z, \qquad z_i = \pm 1

    Prefer `xtrace` where the spectrum decays, or where more than two digits are wanted.

    Source: Hutchinson (1989), A stochastic estimator of the trace of the influence matrix,
    Commun. Stat. Simul. Comput. 18.

    Args:
      operator: of `hessian` or another.
      key: a random key; ``jax.random.key(0)`` by default.
      rtol: probes run until their 95% interval is within ``rtol`` of the value to both sides.
        That is asked after 16, 32, 64, ... of them.
      budget: probes at most.

    Returns:
      An `Estimate` of a number.

    Raises:
      ValueError: a budget below 2 probes, ``rtol`` not positive, or a product is not finite.

    >>> bowl = lambda params, batch: jloss.average(batch * params**2)
    >>> operator = jloss.curvature.hessian(bowl, jnp.zeros(3), [jnp.array([1.0, 2.0, 6.0])])
    >>> found = jloss.curvature.trace(operator)
    >>> found.value.round(4), found.converged
    (np.float32(6.0), True)
    """

    def sample(probes: Array, images: Array) -> Array:
        return jnp.sum(probes * images, axis=1)

    return _probed("trace", operator, key, rtol, budget, sample)


def diagonal(
    operator: Operator, *, key: Array | None = None, rtol: float = 0.1, budget: int = 1024
) -> Estimate:
    r"""The diagonal, by random signs; for a small operator, ``operator.dense()`` is exact.

    .. math:: \operatorname{diag} A = \mathbb{E}\, z \odot A z, \qquad z_i = \pm 1

    Source: Bekas, Kokiopoulou, Saad (2007), An estimator for the diagonal of a matrix, Appl.
    Numer. Math. 57.

    Args:
      operator: of `hessian` or another.
      key: a random key; ``jax.random.key(0)`` by default.
      rtol: probes run until the norm of all half-widths is below ``rtol`` times that of the
        diagonal.
      budget: probes at most.

    Returns:
      An `Estimate` of a pytree like the params.

    Raises:
      ValueError: as `trace`.

    >>> bowl = lambda params, batch: jloss.average(batch * jnp.sum(params**2))
    >>> operator = jloss.curvature.hessian(bowl, jnp.zeros(2), [jnp.ones(3)])
    >>> jloss.curvature.diagonal(operator).value
    Array([2., 2.], dtype=float32)
    """

    def sample(probes: Array, images: Array) -> Array:
        return probes * images

    found = _probed("diagonal", operator, key, rtol, budget, sample)
    value, *errors = (operator.unravel(jnp.asarray(x)) for x in (found.value, *found.errors))
    return found._replace(value=value, errors=Errors(*errors))


def xtrace(
    operator: Operator, *, key: Array | None = None, rtol: float = 0.01, budget: int = 1024
) -> Estimate:
    r"""The trace by XTrace: exact on what the probes span, random on the rest.

    .. math:: \operatorname{tr}_i = \operatorname{tr}(Q_i^T A Q_i) +
              \tilde\omega_i^T A \tilde\omega_i, \qquad
              \tilde\omega_i \propto (I - Q_i Q_i^T)\, \omega_i

    :math:`Q_i` spans the products of all probes but the i-th, :math:`\tilde\omega_i` is scaled as
    a vector on the sphere of what is left, and the estimate is the mean over i. Its authors take
    the spread of the :math:`\operatorname{tr}_i` for its error, but they depend on each other:
    nominal 95% intervals held the trace in 72% to 97% of the cases tried. So the value here is
    the mean of four independent estimates, and its interval is by their spread, at a level that
    allows for all the looks taken.

    Prefer it where the spectrum decays fast: an operator whose rank is below a quarter of the
    probes has no error but rounding. Elsewhere `trace` takes fewer products.

    Source: Epperly, Tropp, Webber (2024), XTrace: making the most of every sample in stochastic
    trace estimation, SIAM J. Matrix Anal. Appl. 45.

    Args:
      operator: of `hessian` or another.
      key: a random key; ``jax.random.key(0)`` by default.
      rtol: as for `trace`; asked after 32, 64, 128, ... products.
      budget: products at most; a probe takes two. Half of them are vectors in memory, four times.

    Returns:
      An `Estimate` of a number.

    Raises:
      ValueError: a budget below 16 products, ``rtol`` not positive, or a product is not finite.

    >>> bowl = lambda params, batch: jloss.average(batch * params**2)
    >>> operator = jloss.curvature.hessian(bowl, jnp.zeros(3), [jnp.array([1.0, 2.0, 6.0])])
    >>> jloss.curvature.xtrace(operator).value.round(4)
    np.float32(6.0)
    """
    _check("xtrace", rtol=rtol, budget=(budget, 4 * _GROUPS))
    most = min(budget // (2 * _GROUPS), operator.size)
    key, rounding_key = _keys(key)
    nothing = jnp.zeros((_GROUPS, 0, operator.size), operator.center.dtype)
    probes = images = basis = curved = nothing
    look, rounding, parts = min(4, most), jnp.zeros(()), []
    looks = 1 + math.ceil(math.log2(most / look))
    while True:
        new = look - probes.shape[1]
        fresh = _sphere(jax.random.fold_in(key, look), _GROUPS * new, operator)
        more, totals, weights = operator.by_part(fresh, _forms)
        if not parts:
            rounding = _rounding(operator, rounding_key, fresh, more, _forms).max()
        parts.append(totals)
        fresh, more = (block.reshape(_GROUPS, new, -1) for block in (fresh, more))
        rows = jax.vmap(_orthonormal)(basis, more)
        products = operator.products(rows.reshape(_GROUPS * new, -1)).reshape(rows.shape)
        probes, images, basis, curved = (
            jnp.concatenate(pair, axis=1)
            for pair in ((probes, fresh), (images, more), (basis, rows), (curved, products))
        )
        groups = zip(*map(_float64, (probes, images, basis, curved)), strict=True)
        found = np.array([_leave_one_out(*group).mean() for group in groups])
        half = _interval(found.std(ddof=1), _GROUPS, looks)
        converged = bool(half <= rtol * abs(found.mean()))
        if converged or look == most:
            break
        look = min(2 * look, most)
    data = _jackknife(np.concatenate(list(map(_float64, parts)), axis=1).mean(1), weights)
    dtype = operator.center.dtype.type
    errors = Errors(*map(dtype, (0.0, half, data, np.asarray(rounding))))
    return Estimate(dtype(found.mean()), errors, 2 * _GROUPS * look + 4, converged)


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
        _check("density", width=width)
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
            data = _spread_left_out(others)
        errors = Errors(krylov, _interval(spread, count), data, rounding)
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
    >>> operator = jloss.curvature.hessian(bowl, jnp.zeros(9), [jnp.ones(3)])
    >>> jloss.curvature.spectral_density(operator).cumulative([1.9, 2.1]).value.round(3)
    array([0., 1.])
    """
    _check("spectral_density", steps=(steps, 1), rtol=rtol, budget=(budget, 2))
    steps = min(steps, operator.size)
    at_once = max(1, min(4, _NUMBERS_AT_ONCE // (steps * operator.size), budget))
    key, rounding_key = _keys(key)
    rules: list[_krylov.Quadrature] = []
    eps = float(jnp.finfo(operator.center.dtype).eps)
    look = min(4, budget)
    while True:
        while (done := sum(len(rule.nodes) for rule in rules)) < look:
            vectors = _sphere(jax.random.fold_in(key, done), min(at_once, look - done), operator)
            rules.append(_quadrature(operator, vectors, steps))
        rule = _joined(rules)
        half = _interval(rule.cumulative(_places(rule.nodes, eps))[0].std(0, ddof=1), look)
        converged = bool(half.max() <= rtol)
        if converged or look == budget:
            break
        look = min(2 * look, budget)
    others = _held_out(operator, key, at_once, steps, held_out)
    products = look * steps + sum(r.nodes.size for r in others) + 2 * min(at_once, look)
    vectors = _sphere(jax.random.fold_in(key, 0), min(at_once, look), operator)
    vectors = vectors / math.sqrt(operator.size)
    shift = _shift(operator, rounding_key, vectors, np.abs(rule.nodes).max())
    return SpectralDensity(rule, operator.size, shift, others, products, converged)


def _extreme(
    name: str, operator: Operator, k: int, key: Array | None, rtol: float, budget: int, *, sign: int
) -> Eigenpairs:
    _check(name, k=(k, 1), rtol=rtol, budget=(budget, 1))
    if k > operator.size:
        raise ValueError(f"{name}: k is {k}, but the operator has {operator.size} eigenvalues")
    if k > budget:
        raise ValueError(f"{name}: k is {k}, more than the budget of {budget} products")
    key, rounding_key = _keys(key)
    # Rows for what is found later; none for a single pair, whose copies do not change its value.
    locked = jnp.zeros((0 if k == 1 else 2 * k, operator.size), operator.center.dtype)
    climb = _climb(operator, jax.random.fold_in(key, 0), locked, k, -np.inf, rtol, budget, sign)
    values, rows, products, converged = climb
    spare = min(k if k > 1 else 0, operator.size - k)
    for again in range(spare):
        found = k + again
        if not converged or products >= budget:
            converged = False
            break
        locked = jnp.zeros_like(locked).at[:found].set(rows)
        floor, more = np.sort(values)[-k], jax.random.fold_in(key, again + 1)
        left = budget - products
        value, row, used, converged = _climb(
            operator, more, locked, 1, floor, rtol, left, sign, room=budget
        )
        products += used
        if value[0] <= floor:
            break
        values, rows = np.append(values, value), jnp.concatenate([rows, row])
    order = np.argsort(-values)[:k]
    return _measured(operator, rounding_key, sign * values[order], rows[order], products, converged)


def _climb(
    operator: Operator,
    key: Array,
    locked: Array,
    wanted: int,
    floor: float,
    rtol: float,
    budget: int,
    sign: int,
    room: int | None = None,
) -> tuple[np.ndarray, Array, int, bool]:
    """The largest Ritz pairs outside the locked vectors, at once when all are below the floor."""
    steps = min(room or budget, operator.size)
    outside = operator.size - int(jnp.sum(jnp.any(locked != 0, axis=1)))
    budget, done = min(budget, outside), 0
    vector = jax.random.normal(key, (1, operator.size), operator.center.dtype)
    # A copy, for the state gives its arrays away.
    state = _krylov.start(key, vector, steps, jnp.array(locked))
    while True:
        stop = min(budget, max(wanted + 1, done + 1 + done // 16))
        state, done = operator.lanczos(state, done, stop), stop
        alpha, beta = (np.asarray(x[0, :done]) for x in (state.alpha, state.beta))
        pairs = _krylov.ritz(sign * alpha, sign * beta)
        values, residuals = pairs.values[::-1][:wanted], pairs.residuals[::-1][:wanted]
        noise = 8 * jnp.finfo(state.alpha.dtype).eps * np.abs(pairs.values).max()
        converged = bool(np.all(residuals <= np.maximum(rtol * np.abs(values), noise)))
        if converged or values[0] + residuals[0] <= floor or done == budget:
            break
    columns = jnp.asarray(pairs.vectors[:, ::-1][:, :wanted], state.basis.dtype)
    settled = converged or values[0] + residuals[0] <= floor or done == outside
    return values, columns.T @ state.basis[0, :done], done, settled


def _measured(
    operator: Operator, key: Array, values: np.ndarray, rows: Array, products: int, converged: bool
) -> Eigenpairs:
    """The pairs with their errors, from products of moved vectors at moved params."""
    rows = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
    # They show the residuals and, in what they differ from the values, the rounding.
    other, moved = _moved(operator, key, rows)
    images, totals, weights = other.by_part(moved, _forms)
    found = jnp.asarray(values, images.dtype)
    residuals = jnp.linalg.norm(images - found[:, None] * moved, axis=1)
    floor = jnp.finfo(found.dtype).eps * jnp.linalg.norm(images, axis=1).max()
    rounding = floor + jnp.abs(_forms(moved, images) - found)
    data = _jackknife(_float64(totals), weights).astype(found.dtype)
    none = np.zeros(len(rows), found.dtype)
    errors = Errors(np.asarray(residuals), none, data, np.asarray(rounding))
    vectors, taken = jax.vmap(operator.unravel)(rows), products + len(rows)
    return Eigenpairs(np.asarray(found), vectors, errors, taken, converged)


def _probed(
    name: str,
    operator: Operator,
    key: Array | None,
    rtol: float,
    budget: int,
    sample: Callable[[Array, Array], Array],
) -> Estimate:
    """The mean of samples of random signs, until its interval is narrow or the budget ends."""
    _check(name, rtol=rtol, budget=(budget, 2))
    key, rounding_key = _keys(key)
    count, mean, squares, parts = 0, 0.0, 0.0, 0.0
    rounding = weights = jnp.zeros(())
    look = min(_PROBES_AT_ONCE, budget)
    while True:
        while count < look:
            shape = min(_PROBES_AT_ONCE, look - count), operator.size
            signs = jax.random.fold_in(key, count)
            probes = jax.random.rademacher(signs, shape, operator.center.dtype)
            images, totals, weights = operator.by_part(probes, lambda z, az: sample(z, az).sum(0))
            samples = sample(probes, images)
            if count == 0:
                rounding = _rounding(operator, rounding_key, probes, images, sample).max(0)
            # Sums of squares around the mean, joined as Chan, Golub and LeVeque (1979) do.
            fresh, new = samples.mean(0), shape[0]
            squares += ((samples - fresh) ** 2).sum(0)
            squares += (fresh - mean) ** 2 * count * new / (count + new)
            mean += (fresh - mean) * new / (count + new)
            parts, count = parts + totals, count + new
        half = _interval(np.sqrt(np.asarray(squares) / (count - 1)), count)
        converged = bool(np.linalg.norm(half) <= rtol * np.linalg.norm(mean))
        if converged or count == budget:
            break
        look = min(2 * look, budget)
    value = np.asarray(mean)[()]
    data = _jackknife(_float64(parts) / count, weights)
    sources = np.zeros_like(value), half, data, np.asarray(rounding)
    errors = Errors(*(np.asarray(source, value.dtype)[()] for source in sources))
    return Estimate(value, errors, count + min(4, count), converged)


def _rounding(
    operator: Operator,
    key: Array,
    vectors: Array,
    images: Array,
    sample: Callable[[Array, Array], Array],
    count: int = 4,
) -> Array:
    """What one rounding error in each param and entry does to samples of the first vectors.

    Inputs that are moved so also make all later roundings fall anew, so that the difference
    shows those of the whole computation. (Parker, 1997: Monte Carlo arithmetic.)
    """
    vectors, images = vectors[:count], images[:count]
    other, moved = _moved(operator, key, vectors)
    return jnp.abs(sample(moved, other.products(moved)) - sample(vectors, images))


def _moved(operator: Operator, key: Array, vectors: Array) -> tuple[Operator, Array]:
    """The operator and the vectors, moved by one rounding error in each entry."""
    params_key, vector_key = jax.random.split(key)
    eps = jnp.finfo(vectors.dtype).eps
    signs = jax.random.rademacher(vector_key, vectors.shape, vectors.dtype)
    return operator.moved(params_key), vectors * (1 + eps * signs)


def _shift(operator: Operator, key: Array, vectors: Array, largest: float) -> float:
    """How far rounding may move a node: by the norm of what it does to products."""

    def sample(vectors: Array, images: Array) -> Array:
        return images

    moves = _rounding(operator, key, vectors, operator.products(vectors), sample, len(vectors))
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
    batches = sum(1 for _ in operator.iterate())
    if not 2 <= groups <= batches:
        raise ValueError(
            f"spectral_density: held_out must be 0, or from 2 to the {batches} batches, "
            f"not {groups}"
        )
    vectors = _sphere(jax.random.fold_in(key, 0), at_once, operator)
    parts = (operator.without(part, groups) for part in range(groups))
    return tuple(_quadrature(part, vectors, steps) for part in parts)


def _joined(rules: list[_krylov.Quadrature]) -> _krylov.Quadrature:
    return _krylov.Quadrature(*(np.concatenate(column) for column in zip(*rules, strict=True)))


def _leave_one_out(
    probes: np.ndarray, images: np.ndarray, basis: np.ndarray, curved: np.ndarray
) -> np.ndarray:
    """XTrace's estimates, each without one probe; all arguments ``(k, n)``."""
    count, size = probes.shape
    curvature = basis @ curved.T  # Q^T A Q
    inside, factor = basis @ probes.T, basis @ images.T  # Q^T Omega, and R of A Omega = Q R
    # Probes whose products depend on each other leave R singular, and any direction will do.
    bottom = np.finfo(np.float32).eps ** 2 * np.linalg.norm(factor) + np.finfo(np.float32).tiny
    left_out = np.linalg.inv(factor + bottom * np.eye(count)).T
    left_out /= np.linalg.norm(left_out, axis=0)
    dropped = np.sum(left_out * (curvature @ left_out), axis=0)
    spanned = inside - left_out * np.sum(left_out * inside, axis=0)
    rest = np.sum((inside - 2 * spanned) * factor + spanned * (curvature @ spanned), axis=0)
    norms = np.sum(probes**2, axis=1) - np.sum(spanned**2, axis=0)
    scale = np.divide(size - count + 1, norms, where=norms > 1e-9 * size, out=np.zeros(count))
    return np.trace(curvature) - dropped + scale * rest


def _orthonormal(basis: Array, vectors: Array) -> Array:
    """An orthonormal basis, as rows, of what the vectors add to the basis."""
    for _ in range(2):
        vectors = vectors - (vectors @ basis.T) @ basis
        vectors = jnp.linalg.qr(vectors.T)[0].T
    return vectors


def _forms(vectors: Array, images: Array) -> Array:
    return jnp.sum(vectors * images, axis=1)


def _sphere(key: Array, count: int, operator: Operator) -> Array:
    """Vectors uniform on the sphere whose radius is the root of the size."""
    vectors = jax.random.normal(key, (count, operator.size), operator.center.dtype)
    return vectors * (math.sqrt(operator.size) / jnp.linalg.norm(vectors, axis=1, keepdims=True))


def _interval(spread: Any, count: int, looks: int = 1) -> Any:
    """The half-width of the 95% t-interval of a mean, from the standard deviation of samples.

    Stopping at the first of several looks that seems narrow favours those that are so by chance;
    with all of them given, each has its share of the 5% (Bonferroni).
    """
    from scipy.special import stdtrit

    return stdtrit(count - 1, 1 - 0.025 / looks) * spread / math.sqrt(count)


def _jackknife(totals: np.ndarray, weights: Array) -> np.ndarray:
    """The half-width of a ratio of sums, from its values without each part; NaN for one part."""
    parts = _float64(weights)
    others = parts.sum() - parts
    if len(parts) < 2 or not (others > 0).all():
        return np.full(totals.shape[1:], np.nan)
    others = others.reshape(-1, *[1] * (totals.ndim - 1))
    return _spread_left_out((totals.sum(0) - totals) / others)


def _spread_left_out(values: np.ndarray) -> np.ndarray:
    """The 95% half-width by the delete-one jackknife. Source: Tukey (1958), Ann. Math. Stat. 29."""
    count = len(values)
    return (count - 1) * _interval(values.std(0, ddof=1), count)


def _float64(array: Any) -> np.ndarray:
    return np.asarray(array, np.float64)


def _keys(key: Array | None) -> tuple[Array, Array]:
    """A key for the probes, and one for what measures rounding."""
    one, other = jax.random.split(jax.random.key(0) if key is None else key)
    return one, other


def _check(name: str, **arguments: Any) -> None:
    """Numbers must be positive; of a pair, a whole number of at least the second."""
    for argument, value in arguments.items():
        if isinstance(value, tuple):
            number, least = value
            if isinstance(number, bool) or number != int(number) or number < least:
                raise ValueError(
                    f"{name}: {argument} must be a whole number of at least {least}, not {number}"
                )
        elif not value > 0:
            raise ValueError(f"{name}: {argument} must be positive, not {value}")
