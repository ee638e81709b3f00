"""Lanczos and what its tridiagonal matrix tells, on flat vectors. Knows no loss and no model."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

# Rows of the basis that are read together, few enough to be in a cache when they are read again;
# rows that are still empty are not read at all.
_CHUNK = 4
# A vector that a pass leaves more than this of is orthogonal to rounding.
_ENOUGH = 0.7
# A remainder this many rounding errors small, relative to the operator, holds no direction.
_NOISE = 8.0


class Lanczos(NamedTuple):
    """The state of ``p`` Lanczos recurrences side by side, after some steps.

    Attributes:
      basis: ``(p, rows, n)`` orthonormal rows; those not yet filled are 0.
      alpha: ``(p, m)`` diagonals of the tridiagonal matrices.
      beta: ``(p, m)`` what is next to them; 0 where an invariant space was complete.
      scale: ``(p,)`` the largest norm of a product so far.
      locked: ``(l, n)`` orthonormal vectors that the bases stay orthogonal to.
      key: where fresh vectors come from.
    """

    basis: Array
    alpha: Array
    beta: Array
    scale: Array
    locked: Array
    key: Array


@partial(jax.jit, static_argnums=2)
def start(key: Array, vectors: Array, steps: int, locked: Array) -> Lanczos:
    """Recurrences from ``(p, n)`` vectors, with room for so many steps."""
    probes, size = vectors.shape
    rows = -(-(steps + 1) // _CHUNK) * _CHUNK
    basis = jnp.zeros((probes, rows, size), vectors.dtype)
    empty = jnp.zeros((probes, steps), vectors.dtype)
    state = Lanczos(basis, empty, empty, jnp.zeros(probes, vectors.dtype), locked, key)
    first, _ = _unit(_orthogonal(state, 0, vectors))
    return state._replace(basis=basis.at[:, 0].set(first))


def step(state: Lanczos, j: Array, images: Array) -> Lanczos:
    r"""One step of every recurrence, given the products of their newest vectors.

    .. math:: \beta_j q_{j+1} = A q_j - \alpha_j q_j - \beta_{j-1} q_{j-1}

    The right-hand side is made orthogonal to all filled rows once more, and again where that took
    much of it away, which keeps the basis orthonormal to rounding (Kahan: twice is enough). Where
    what is left is within rounding of the operator's own size, the space is invariant: the coupling
    is 0, and the recurrence goes on from a fresh random vector outside it. So Ritz values stay
    within the spectrum, further copies of a multiple eigenvalue are found, and a quadrature gives
    the new nodes the weight 0.

    Source: Parlett (1998), The symmetric eigenvalue problem, sections 6.9 and 13.8.
    """
    newest = lax.dynamic_index_in_dim(state.basis, j, 1, keepdims=False)
    before = lax.dynamic_index_in_dim(state.basis, jnp.maximum(j - 1, 0), 1, keepdims=False)
    coupling = jnp.where(j > 0, state.beta[:, j - 1], 0.0)
    alpha = jnp.sum(newest * images, axis=1)
    rest = images - alpha[:, None] * newest - coupling[:, None] * before
    rest, beta = _unit(_orthogonal(state, j + 1, rest))
    scale = jnp.maximum(state.scale, jnp.linalg.norm(images, axis=1))
    broken = beta <= _NOISE * jnp.finfo(rest.dtype).eps * scale

    def renew(rest: Array) -> Array:
        random = jax.random.normal(jax.random.fold_in(state.key, j), rest.shape, rest.dtype)
        fresh, _ = _unit(_orthogonal(state, j + 1, random))
        return jnp.where(broken[:, None], fresh, rest)

    rest = lax.cond(jnp.any(broken), renew, lambda rest: rest, rest)
    return state._replace(
        basis=lax.dynamic_update_index_in_dim(state.basis, rest, j + 1, 1),
        alpha=state.alpha.at[:, j].set(alpha),
        beta=state.beta.at[:, j].set(jnp.where(broken, 0.0, beta)),
        scale=scale,
    )


def run(product: Callable[[Array], Array], state: Lanczos, first: Array, last: Array) -> Lanczos:
    """Steps ``first`` to ``last`` in one compiled loop; ``product`` takes ``(p, n)`` vectors."""

    def body(j: Array, state: Lanczos) -> Lanczos:
        newest = lax.dynamic_index_in_dim(state.basis, j, 1, keepdims=False)
        return step(state, j, product(newest))

    return lax.fori_loop(first, last, body, state)


def _orthogonal(state: Lanczos, filled: Array | int, vectors: Array) -> Array:
    """``(p, n)`` vectors without what lies in the locked ones and the filled rows.

    A second pass follows where the first took so much that its rounding counts.
    """

    def remove(chunk: Array, vectors: Array) -> Array:
        sizes = (len(vectors), _CHUNK, vectors.shape[1])
        rows = lax.dynamic_slice(state.basis, (0, chunk * _CHUNK, 0), sizes)
        return vectors - jax.vmap(within)(rows, vectors)

    def once(vectors: Array) -> Array:
        if len(state.locked):
            vectors = vectors - jax.vmap(partial(within, state.locked))(vectors)
        return lax.fori_loop(0, -(-filled // _CHUNK), remove, vectors)

    left = once(vectors)
    little = jnp.linalg.norm(left, axis=1) < _ENOUGH * jnp.linalg.norm(vectors, axis=1)
    return lax.cond(jnp.any(little), once, lambda left: left, left)


def within(rows: Array, vector: Array) -> Array:
    """The part of a vector in the span of orthonormal rows."""
    # An accelerator's own choice of digits would leave the basis far from orthogonal.
    multiply = partial(jnp.matmul, precision="highest")
    return multiply(multiply(rows, vector), rows)


def _unit(vectors: Array) -> tuple[Array, Array]:
    """The vectors with norm 1, and their norms; a zero vector stays."""
    norms = jnp.linalg.norm(vectors, axis=1)
    return vectors / jnp.where(norms == 0, 1.0, norms)[:, None], norms


class Ritz(NamedTuple):
    """Eigenvalues of a tridiagonal matrix in rising order, and what they are worth.

    Attributes:
      values: ``(m,)`` Ritz values.
      vectors: ``(m, m)`` eigenvectors in the basis, as columns.
      residuals: ``(m,)`` norms of ``A v - value v``: an eigenvalue is at most so far away.
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray


def ritz(alpha: np.ndarray, beta: np.ndarray) -> Ritz:
    r"""The Ritz pairs after ``m`` steps, in float64.

    .. math:: \lVert A v_i - \theta_i v_i \rVert = \beta_m \lvert s_{mi} \rvert

    Args:
      alpha: ``(m,)`` of a `Lanczos` state.
      beta: ``(m,)``; the last one couples to what is not yet seen.
    """
    from scipy.linalg import eigh_tridiagonal

    alpha, beta = np.asarray(alpha, np.float64), np.asarray(beta, np.float64)
    values, vectors = eigh_tridiagonal(alpha, beta[:-1])
    return Ritz(values, vectors, np.abs(beta[-1] * vectors[-1]))


class Quadrature(NamedTuple):
    """Gauss quadratures of the spectral measures of ``p`` vectors.

    Attributes:
      nodes: ``(p, m)`` in rising order.
      weights: ``(p, m)``, at least 0, with the sum 1.
    """

    nodes: np.ndarray
    weights: np.ndarray

    def cumulative(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        r"""How much of each measure lies at or below ``x``, with what it is certainly between.

        .. math:: \sum_{i < j} w_i \le \mu(-\infty, x] \le \sum_{i \le j + 1} w_i
                  \quad\text{for}\quad \theta_j \le x \le \theta_{j+1}

        Source: Chebyshev, Markov and Stieltjes, in Szegő (1939), Orthogonal polynomials, 3.41.

        Args:
          x: ``(g,)`` places.

        Returns:
          The quadratures' own values and the bounds, each ``(p, g)``.
        """
        total = self._running()
        last = total.shape[1] - 1
        at = np.stack([np.searchsorted(nodes, x, side="right") for nodes in self.nodes])
        value, low, high = (
            np.take_along_axis(total, np.clip(at + shift, 0, last), axis=1) for shift in (0, -1, 1)
        )
        return value, low, high

    def smoothed(self, x: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        r"""The measures' densities after convolution with a normal density of that width.

        .. math:: (\mu * \varphi_\sigma)(x) = \int \varphi_\sigma(x - \lambda)\, d\mu(\lambda)

        The bounds are those of `cumulative`, integrated by parts on both flanks of the bell.

        Args:
          x: ``(g,)`` places.
          width: the standard deviation.

        Returns:
          The quadratures' own values and the bounds, each ``(p, g)``.
        """

        def bell(distance: np.ndarray) -> np.ndarray:
            return np.exp(-0.5 * (distance / width) ** 2) / (width * np.sqrt(2 * np.pi))

        distance = self.nodes[:, :, None] - x  # (p, m, g)
        value = np.einsum("pm,pmg->pg", self.weights, bell(distance))
        # Between two neighbouring nodes, the mass below is certainly between these two.
        total = self._running()
        below = np.concatenate([np.zeros_like(total[:, :1]), total[:, :-1]], axis=1)
        above = np.concatenate([total[:, 1:], np.ones_like(total[:, :1])], axis=1)
        end = np.zeros_like(distance[:, :1])
        top = bell(end)
        rising = np.concatenate([end, bell(np.minimum(distance, 0.0)), top], axis=1)
        falling = np.concatenate([top, bell(np.maximum(distance, 0.0)), end], axis=1)
        up, down = np.diff(rising, axis=1), -np.diff(falling, axis=1)

        def integral(for_rising: np.ndarray, for_falling: np.ndarray) -> np.ndarray:
            return np.einsum("pm,pmg->pg", for_falling, down) - np.einsum(
                "pm,pmg->pg", for_rising, up
            )

        low = np.maximum(integral(above, below), 0.0)
        return value, low, np.minimum(integral(below, above), top[:, 0])

    def _running(self) -> np.ndarray:
        """``(p, m + 1)``: the weight of the first 0, 1, ..., m nodes."""
        total = np.cumsum(np.pad(self.weights, ((0, 0), (1, 0))), axis=1)
        return np.minimum(total, 1.0)


def quadrature(alpha: np.ndarray, beta: np.ndarray) -> Quadrature:
    r"""The quadratures that ``(p, m)`` recurrences stand for.

    .. math:: \int f\, d\mu \approx \sum_i s_{1i}^2 f(\theta_i)

    Source: Golub, Welsch (1969), Calculation of Gauss quadrature rules, Math. Comp. 23.
    """
    pairs = [ritz(a, b) for a, b in zip(alpha, beta, strict=True)]
    return Quadrature(
        np.stack([pair.values for pair in pairs]),
        np.stack([pair.vectors[0] ** 2 for pair in pairs]),
    )
