"""Curvature: spectra, traces and diagonals, with error bars. Changes no params, draws nothing.

The estimators are matfree's, and tested against them, but not called there: an error by data needs
every batch's share of each sample, and one by probes all samples, with the next of them only where
the interval is still too wide. matfree returns means, of products that it asks for itself.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jloss import _estimates, _krylov
from jloss._density import SpectralDensity, spectral_density
from jloss._estimates import Errors, Estimate
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

    >>> saddle = lambda params, batch: jloss.average(batch * params**2)
    >>> operator = jloss.curvature.hessian(saddle, jnp.zeros(3), [jnp.array([1.0, 2.0, -3.0])])
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
    >>> operator = jloss.curvature.hessian(bowl, jnp.zeros(3), [jnp.ones(3)])
    >>> jloss.curvature.diagonal(operator).value
    Array([2., 2., 2.], dtype=float32)
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
    _estimates.check("xtrace", rtol=rtol, budget=(budget, 4 * _GROUPS))
    most = min(budget // (2 * _GROUPS), operator.size)
    key, rounding_key = _estimates.keys(key)
    nothing = jnp.zeros((_GROUPS, 0, operator.size), operator.center.dtype)
    probes = images = basis = curved = nothing
    look, rounding, parts = min(4, most), jnp.zeros(()), []
    looks = 1 + math.ceil(math.log2(most / look))
    while True:
        new = look - probes.shape[1]
        fresh = _estimates.sphere(jax.random.fold_in(key, look), _GROUPS * new, operator)
        more, totals, weights = operator.by_part(fresh, _estimates.forms)
        if not parts:
            rounding = _estimates.rounding(
                operator, rounding_key, fresh, more, _estimates.forms
            ).max()
        parts.append(totals)
        fresh, more = (block.reshape(_GROUPS, new, -1) for block in (fresh, more))
        rows = jax.vmap(_orthonormal)(basis, more)
        products = operator.products(rows.reshape(_GROUPS * new, -1)).reshape(rows.shape)
        probes, images, basis, curved = (
            jnp.concatenate(pair, axis=1)
            for pair in ((probes, fresh), (images, more), (basis, rows), (curved, products))
        )
        groups = zip(*map(_estimates.float64, (probes, images, basis, curved)), strict=True)
        found = np.array([_leave_one_out(*group).mean() for group in groups])
        half = _estimates.interval(found.std(ddof=1), _GROUPS, looks)
        converged = bool(half <= rtol * abs(found.mean()))
        if converged or look == most:
            break
        look = min(2 * look, most)
    data = _estimates.jackknife(
        np.concatenate(list(map(_estimates.float64, parts)), axis=1).mean(1), weights
    )
    dtype = operator.center.dtype.type
    errors = Errors(*map(dtype, (0.0, half, data, np.asarray(rounding))))
    return Estimate(dtype(found.mean()), errors, 2 * _GROUPS * look + 4, converged)


def _extreme(
    name: str, operator: Operator, k: int, key: Array | None, rtol: float, budget: int, *, sign: int
) -> Eigenpairs:
    _estimates.check(name, k=(k, 1), rtol=rtol, budget=(budget, 1))
    if k > operator.size:
        raise ValueError(f"{name}: k is {k}, but the operator has {operator.size} eigenvalues")
    if k > budget:
        raise ValueError(f"{name}: k is {k}, more than the budget of {budget} products")
    key, rounding_key = _estimates.keys(key)
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
    outside = operator.size - int(jnp.count_nonzero(jnp.any(locked, axis=1)))
    budget, done = min(budget, outside), 0
    vector = jax.random.normal(key, (1, operator.size), operator.center.dtype)
    # A copy, for the state gives its arrays away.
    state = _krylov.start(key, vector, steps, jnp.array(locked))
    while True:
        stop = min(budget, max(wanted + 1, done + 1 + done // 16))
        state, done = operator.lanczos(state, done, stop), stop
        # Cut by numpy: JAX would compile a slice for every number of steps.
        alpha, beta = (np.asarray(x)[0, :done] for x in (state.alpha, state.beta))
        pairs = _krylov.ritz(sign * alpha, sign * beta)
        values, residuals = pairs.values[::-1][:wanted], pairs.residuals[::-1][:wanted]
        noise = 8 * jnp.finfo(state.alpha.dtype).eps * np.abs(pairs.values).max()
        converged = bool(np.all(residuals <= np.maximum(rtol * np.abs(values), noise)))
        if converged or values[0] + residuals[0] <= floor or done == budget:
            break
    columns = np.zeros((wanted, state.basis.shape[1]))
    columns[:, :done] = pairs.vectors[:, ::-1][:, :wanted].T
    settled = converged or values[0] + residuals[0] <= floor or done == outside
    columns = jnp.asarray(columns, state.basis.dtype)
    return values, jnp.matmul(columns, state.basis[0], precision="highest"), done, settled


def _measured(
    operator: Operator, key: Array, values: np.ndarray, rows: Array, products: int, converged: bool
) -> Eigenpairs:
    """The pairs with their errors, from products of moved vectors at moved params."""
    rows = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
    # They show the residuals and, in what they differ from the values, the rounding.
    other, moved = _estimates.move(operator, key, rows)
    images, totals, weights = other.by_part(moved, _estimates.forms)
    found = np.asarray(values, images.dtype)
    residuals, rounding = _missed(found, moved, images)
    data = _estimates.jackknife(_estimates.float64(totals), weights).astype(found.dtype)
    none = np.zeros(len(rows), found.dtype)
    errors = Errors(np.asarray(residuals), none, data, np.asarray(rounding))
    vectors, taken = jax.vmap(operator.unravel)(rows), products + len(rows)
    return Eigenpairs(found, vectors, errors, taken, converged)


@jax.jit
def _missed(values: Array, vectors: Array, images: Array) -> tuple[Array, Array]:
    """The norms of the residuals, and how far the forms are from the values."""
    residuals = jnp.linalg.norm(images - values[:, None] * vectors, axis=1)
    floor = jnp.finfo(images.dtype).eps * jnp.linalg.norm(images, axis=1).max()
    return residuals, floor + jnp.abs(_estimates.forms(vectors, images) - values)


def _probed(
    name: str,
    operator: Operator,
    key: Array | None,
    rtol: float,
    budget: int,
    sample: Callable[[Array, Array], Array],
) -> Estimate:
    """The mean of samples of random signs, until its interval is narrow or the budget ends."""
    _estimates.check(name, rtol=rtol, budget=(budget, 2))
    key, rounding_key = _estimates.keys(key)
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
                rounding = _estimates.rounding(operator, rounding_key, probes, images, sample).max(
                    0
                )
            # Sums of squares around the mean, joined as Chan, Golub and LeVeque (1979) do.
            fresh, new = samples.mean(0), shape[0]
            squares += ((samples - fresh) ** 2).sum(0)
            squares += (fresh - mean) ** 2 * count * new / (count + new)
            mean += (fresh - mean) * new / (count + new)
            parts, count = parts + totals, count + new
        half = _estimates.interval(np.sqrt(np.asarray(squares) / (count - 1)), count)
        converged = bool(np.linalg.norm(half) <= rtol * np.linalg.norm(mean))
        if converged or count == budget:
            break
        look = min(2 * look, budget)
    value = np.asarray(mean)[()]
    data = _estimates.jackknife(_estimates.float64(parts) / count, weights)
    sources = np.zeros_like(value), half, data, np.asarray(rounding)
    errors = Errors(*(np.asarray(source, value.dtype)[()] for source in sources))
    return Estimate(value, errors, count + min(4, count), converged)


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


@jax.jit
def _orthonormal(basis: Array, vectors: Array) -> Array:
    """An orthonormal basis, as rows, of what the vectors add to the basis."""
    for _ in range(2):
        vectors = vectors - jax.vmap(partial(_krylov.within, basis))(vectors)
        vectors = jnp.linalg.qr(vectors.T)[0].T
    return vectors
