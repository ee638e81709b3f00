"""Balance: the terms of a loss weighed against each other by their values and gradients.

Each function makes an optax transformation that stands first in a chain: in place of the gradient
of the sum it puts one of its own making. `jloss.step` gives it the terms of what `jloss.combine`
made; the loss that is reported stays the plain sum. It costs a backward pass for each term.

Prefer `uncertainty_weighting` for losses of different units, `gradnorm` where one term learns
faster than the others, `pcgrad` where gradients point against each other, and `mgda` where no term
may get worse.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jloss.objective import Term, dot

# Steps of a search that converges linearly, so that they are never needed.
_STEPS = 1000


class UncertaintyState(NamedTuple):
    """What `uncertainty_weighting` has learned: the logarithm of each term's variance, by name."""

    log_variances: dict[str, Array]
    inner: Any


def uncertainty_weighting(
    names: Sequence[str], optimizer: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    r"""Each term counts by the inverse of a variance that is learned beside the params.

    .. math:: \min_{\theta, s} \sum_k \tfrac12 e^{-s_k} L_k(\theta) + \tfrac12 s_k,
        \qquad s_k = \log \sigma_k^2

    For fixed params the best variance is the term's value, :math:`\sigma_k^2 = L_k`: what is large
    because of its units counts less. Values must be positive, or there is no best variance.

    Source: Kendall, Gal, Cipolla (2018), Multi-task learning using uncertainty to weigh losses for
    scene geometry and semantics, CVPR. This is their form for squared errors.

    Args:
      names: of the terms.
      optimizer: for the variances, as in ``optax.adam(1e-2)``.

    Returns:
      An optax transformation, whose state holds ``log_variances`` by name.

    >>> balance = jloss.balance.uncertainty_weighting(["fit", "pose"], optax.adam(1e-2))
    >>> state = jloss.init(jnp.array(1.0), optax.chain(balance, optax.adam(1e-3)))
    >>> {name: float(s) for name, s in state.opt_state[0].log_variances.items()}
    {'fit': 0.0, 'pose': 0.0}
    """

    def init(params: Any) -> UncertaintyState:
        start = {name: jnp.zeros(()) for name in names}
        return UncertaintyState(start, optimizer.init(start))

    def update(
        updates: Any, state: Any, params: Any = None, *, terms: Any = None, **_: Any
    ) -> tuple[Any, UncertaintyState]:
        found = _found("uncertainty_weighting", terms, names)
        old = state.log_variances
        weights = {name: 0.5 * jnp.exp(-s) for name, s in old.items()}
        slopes = {name: 0.5 - weights[name] * found[name].value for name in old}
        moves, inner = optimizer.update(slopes, state.inner, old)
        new: Any = optax.apply_updates(old, moves)
        return _weighed(found, weights), UncertaintyState(new, inner)

    return optax.GradientTransformationExtraArgs(init, update)


class GradNormState(NamedTuple):
    """What `gradnorm` has learned: the factor of each term and its first value, by name."""

    weights: dict[str, Array]
    first: dict[str, Array]
    step: Array
    inner: Any


def gradnorm(
    names: Sequence[str],
    optimizer: optax.GradientTransformation,
    *,
    alpha: float = 1.5,
    shared: Callable[[Any], Any] = lambda params: params,
) -> optax.GradientTransformationExtraArgs:
    r"""Factors are learned so that all terms train at the same rate.

    .. math:: \min_w \sum_k \bigl| w_k \lVert \nabla L_k \rVert - \bar G\, r_k^\alpha \bigr|,
        \qquad r_k = \frac{L_k / L_k(0)}{\text{mean}_j\, L_j / L_j(0)},

    where :math:`\bar G` is the mean of the weighed norms and counts as fixed. A term that lags
    behind has a larger ratio :math:`r_k`, and is given the larger gradient. The factors stay at
    least 0 and sum to the number of terms.

    Source: Chen, Badrinarayanan, Lee, Rabinovich (2018), GradNorm: gradient normalization for
    adaptive loss balancing in deep multitask networks, ICML.

    Args:
      names: of the terms, whose values must be positive.
      optimizer: for the factors, as in ``optax.adam(1e-2)``.
      alpha: how strongly the rates are pulled together; 0 makes the norms equal.
      shared: picks from a tree like the params those whose gradients are compared; the source takes
        the last layer that all terms share.

    Returns:
      An optax transformation, whose state holds ``weights`` by name.

    >>> balance = jloss.balance.gradnorm(
    ...     ["fit", "pose"], optax.adam(1e-2), shared=lambda params: params["trunk"]
    ... )
    >>> optimizer = optax.chain(balance, optax.adam(1e-3))
    """

    def init(params: Any) -> GradNormState:
        ones = {name: jnp.ones(()) for name in names}
        return GradNormState(ones, ones, jnp.zeros((), jnp.int32), optimizer.init(ones))

    def update(
        updates: Any, state: Any, params: Any = None, *, terms: Any = None, **_: Any
    ) -> tuple[Any, GradNormState]:
        found = _found("gradnorm", terms, names)
        old, keys = state.weights, list(state.weights)
        values = {name: found[name].value for name in keys}
        first = jax.tree.map(lambda f, v: jnp.where(state.step == 0, v, f), state.first, values)
        parts = {name: shared(found[name].gradient) for name in keys}
        norms = {name: jnp.sqrt(dot(part, part)) for name, part in parts.items()}
        mean = sum(old[name] * norms[name] for name in keys) / len(keys)
        ratios = {name: values[name] / first[name] for name in keys}
        usual = sum(ratios.values()) / len(keys)
        slopes = {
            name: norms[name]
            * jnp.sign(old[name] * norms[name] - mean * (ratios[name] / usual) ** alpha)
            for name in keys
        }
        moves, inner = optimizer.update(slopes, state.inner, old)
        moved: Any = optax.apply_updates(old, moves)
        kept = {name: jnp.maximum(weight, 0.0) for name, weight in moved.items()}
        total = sum(kept.values())
        new = {
            name: jnp.where(total > 0, weight * len(keys) / jnp.where(total > 0, total, 1.0), 1.0)
            for name, weight in kept.items()
        }
        return _weighed(found, old), GradNormState(new, first, state.step + 1, inner)

    return optax.GradientTransformationExtraArgs(init, update)


class PCGradState(NamedTuple):
    """The key of the next update."""

    key: Array


def pcgrad(key: Array) -> optax.GradientTransformationExtraArgs:
    r"""Each gradient loses what points against the others before all are summed.

    .. math:: g_i \leftarrow g_i - \frac{\langle g_i, g_j \rangle}{\lVert g_j \rVert^2} g_j
        \quad\text{where}\quad \langle g_i, g_j \rangle < 0,

    for all other terms j in random order. Of two terms neither then gets worse, to first order.

    Source: Yu, Kumar, Gupta, Levine, Hausman, Finn (2020), Gradient surgery for multi-task
    learning, NeurIPS.

    Args:
      key: orders the projections.

    Returns:
      An optax transformation.

    >>> optimizer = optax.chain(jloss.balance.pcgrad(jax.random.key(0)), optax.adam(1e-3))
    """

    def init(params: Any) -> PCGradState:
        return PCGradState(key)

    def update(
        updates: Any, state: Any, params: Any = None, *, terms: Any = None, **_: Any
    ) -> tuple[Any, PCGradState]:
        found = _found("pcgrad", terms)
        key, now = jax.random.split(state.key)
        weights = dict(zip(found, _surgery(_products(found), now), strict=True))
        return _weighed(found, weights), PCGradState(key)

    return optax.GradientTransformationExtraArgs(init, update)


def mgda() -> optax.GradientTransformationExtraArgs:
    r"""The shortest average of the gradients: against it no term gets worse.

    .. math:: g = \sum_k a_k g_k, \qquad
        a = \arg\min_{a \ge 0,\ \sum a = 1} \Bigl\lVert \sum_k a_k g_k \Bigr\rVert^2

    It is 0 just where no direction improves all terms, which makes it a test for that too. Being an
    average and not a sum, it is shorter than the gradient of the sum.

    Source: Désidéri (2012), Multiple-gradient descent algorithm (MGDA) for multiobjective
    optimization, C. R. Math. 350; Sener, Koltun (2018), Multi-task learning as multi-objective
    optimization, NeurIPS. The steps are those of pairwise Frank–Wolfe, which converges linearly:
    Lacoste-Julien, Jaggi (2015), On the global linear convergence of Frank-Wolfe optimization
    variants, NeurIPS.

    Returns:
      An optax transformation.

    >>> optimizer = optax.chain(jloss.balance.mgda(), optax.adam(1e-3))
    """

    def update(
        updates: Any, state: Any, params: Any = None, *, terms: Any = None, **_: Any
    ) -> tuple[Any, Any]:
        found = _found("mgda", terms)
        weights = dict(zip(found, _shortest(_products(found)), strict=True))
        return _weighed(found, weights), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


@jax.jit
def _surgery(products: Array, key: Array) -> Array:
    """The weights of the gradients in the sum of what the projections leave."""
    count, squares = len(products), jnp.diagonal(products)

    # In the coordinates of the gradients, all that is needed are their inner products.
    def project(own: Array, key: Array) -> Array:
        order = jax.random.permutation(key, count)

        def remove(step: Array, part: Array) -> Array:
            other = order[step]
            along = jnp.matmul(products[other], part, precision="highest")
            against = (along < 0) & (other != own)
            share = along / jnp.where(against, squares[other], 1.0)
            return part.at[other].add(jnp.where(against, -share, 0.0))

        return lax.fori_loop(0, count, remove, jnp.eye(count)[own])

    return jax.vmap(project)(jnp.arange(count), jax.random.split(key, count)).sum(0)


@jax.jit
def _shortest(products: Array) -> Array:
    """The weights of the shortest average of vectors with these inner products."""
    count, largest = len(products), jnp.max(jnp.diagonal(products))
    products = products / jnp.where(largest > 0, largest, 1.0)
    small = jnp.finfo(products.dtype).eps

    def ends(weights: Array) -> tuple[Array, Array, Array]:
        """The vector to move to, the one to move from, and how much is to be gained."""
        slope = jnp.matmul(products, weights, precision="highest")
        to, away = jnp.argmin(slope), jnp.argmax(jnp.where(weights > 0, slope, -jnp.inf))
        return to, away, slope[away] - slope[to]

    def unfinished(carry: tuple[Array, Array]) -> Array:
        step, weights = carry
        return (step < _STEPS) & (ends(weights)[2] > small)

    def move(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        step, weights = carry
        to, away, gain = ends(weights)
        bend = products[to, to] - 2 * products[to, away] + products[away, away]
        # A bend of 0 that rounding made leaves nothing to choose but the end.
        length = jnp.minimum(gain / jnp.where(bend > 0, bend, small), weights[away])
        return step + 1, weights.at[to].add(length).at[away].add(-length)

    start = jnp.full(count, 1 / count, products.dtype)
    return lax.while_loop(unfinished, move, (jnp.zeros((), jnp.int32), start))[1]


def _found(caller: str, terms: Any, names: Sequence[str] | None = None) -> Mapping[str, Term]:
    found = terms() if callable(terms) else terms
    if not isinstance(found, Mapping):
        raise TypeError(
            f"{caller}: the terms are missing; jloss.step gives them, and a loop of your own does "
            "by optimizer.update(gradient, state, params, terms=jloss.term_gradients(...))"
        )
    if names is not None and set(names) != set(found):
        raise ValueError(
            f"{caller}: it is to balance {', '.join(names)}, but the terms of the objective are "
            f"{', '.join(found)}"
        )
    return found


def _products(terms: Mapping[str, Term]) -> Array:
    """The inner products of all gradients."""
    gradients = [term.gradient for term in terms.values()]
    return jnp.stack([jnp.stack([dot(one, other) for other in gradients]) for one in gradients])


def _weighed(terms: Mapping[str, Term], weights: Mapping[str, Array]) -> Any:
    """The weighed sum of all gradients."""
    scaled = [
        jax.tree.map(lambda leaf, w=weights[name]: w.astype(leaf.dtype) * leaf, term.gradient)
        for name, term in terms.items()
    ]
    return jax.tree.map(lambda *leaves: sum(leaves), *scaled)
