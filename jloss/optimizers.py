"""Optimizers that need to know the loss, as optax transformations. Holds no training loop."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from jloss._products import GaussNewton, Linear

# (product with the curvature, gradient, damping) -> step
_Solve: TypeAlias = Callable[[Linear, Array, Array], Array]


class DampedState(NamedTuple):
    """What `gauss_newton` and `levenberg_marquardt` remember.

    Attributes:
      damping: of the next step.
      growth: the factor by which it grows if that step is refused.
    """

    damping: Array
    growth: Array


def gauss_newton(
    apply: Callable[[Any, Any], Array],
    loss: Callable[..., Array],
    *,
    damping: ArrayLike = 1e-3,
    iterations: int = 50,
    tolerance: float = 1e-4,
    **hyper: Any,
) -> optax.GradientTransformationExtraArgs:
    r"""Generalised Gauss–Newton steps, solved by conjugate gradients without a matrix.

    .. math:: \Delta\theta = -(G + \lambda I)^{-1} \nabla L, \qquad
              G = \frac{1}{\sum_i w_i} \sum_i w_i\, J_i^T\, \nabla^2 L(z_i)\, J_i

    :math:`G` is the matrix of `jloss.curvature.gauss_newton` on the batch of the step; for softmax
    and sigmoid cross-entropy it is that of the natural gradient, too. The damping follows the
    gain ratio: what the batch's loss fell by, over what its quadratic model promised. It shrinks
    where the model is good, and a step that would raise the loss is refused and retried with more
    damping on the next batch. A damping of 0 stays 0.

    Prefer it for models of any size with a loss that is convex in the predictions, on batches
    large enough for their curvature to mean something; `levenberg_marquardt` for models of at most
    some hundred parameters, whose scales it does not depend on.

    Source: Schraudolph (2002), Fast curvature matrix-vector products for second-order gradient
    descent, Neural Comput. 14; Martens (2010), Deep learning via Hessian-free optimization, ICML;
    Nielsen (1999), Damping parameter in Marquardt's method, IMM-REP-1999-05.

    Args:
      apply: ``apply(params, inputs) -> predictions``, as given to `jloss.objective`.
      loss: as given to `jloss.objective`.
      damping: the first :math:`\lambda`, at least 0.
      iterations: of conjugate gradients in a step, at most; each costs about two gradients.
      tolerance: the residual, over the gradient's norm, at which they stop.
      hyper: hyper-parameters of the loss.

    Returns:
      An optax transformation whose updates are whole steps, without a learning rate. `jloss.step`
      and `fit` give its update what it needs; a loop of your own passes ``batch=``, ``value=``
      (the loss of the batch) and ``value_fn=`` (that loss as a function of the params).

    >>> line = lambda params, inputs: inputs @ params
    >>> batch = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 5.0]]), jnp.array([5.0, 11.0, 15.0])
    >>> optimizer = jloss.optimizers.gauss_newton(line, jloss.squared_error, damping=0.0)
    >>> update = jloss.step(jloss.objective(line, jloss.squared_error))
    >>> state, _ = update(jloss.init(jnp.zeros(2), optimizer), batch)
    >>> state.params.round(3)  # one step solves linear least squares
    Array([1., 2.], dtype=float32)
    """

    def solve(product: Linear, gradient: Array, damping: Array) -> Array:
        step, _ = jax.scipy.sparse.linalg.cg(
            lambda vector: product(vector) + damping * vector,
            -gradient,
            tol=tolerance,
            maxiter=iterations,
        )
        return step

    return _damped("gauss_newton", apply, loss, hyper, damping, solve)


def levenberg_marquardt(
    apply: Callable[[Any, Any], Array],
    loss: Callable[..., Array],
    *,
    damping: ArrayLike = 1e-3,
    **hyper: Any,
) -> optax.GradientTransformationExtraArgs:
    r"""Levenberg–Marquardt steps for least squares with few parameters.

    .. math:: \Delta\theta = -(G + \lambda\, \text{diag}\, G)^{-1} \nabla L

    For `squared_error` :math:`G` is :math:`2 J^T J / n`; it serves for every loss that is convex
    in the predictions. The damping is relative to the diagonal, so that steps do not depend on
    the scales of the parameters; it follows the gain ratio as in `gauss_newton`.

    Source: Marquardt (1963), An algorithm for least-squares estimation of nonlinear parameters, J.
    SIAM 11; Nielsen (1999), Damping parameter in Marquardt's method, IMM-REP-1999-05.

    Args:
      apply: ``apply(params, inputs) -> predictions``, as given to `jloss.objective`.
      loss: as given to `jloss.objective`; for least squares `squared_error` or `l2_loss`.
      damping: the first :math:`\lambda`, at least 0.
      hyper: hyper-parameters of the loss.

    Returns:
      An optax transformation, used like `gauss_newton`. It stores the matrix, and a step costs as
      many products with it as there are parameters: at most some hundred.

    >>> decay = lambda params, t: params["size"] * jnp.exp(-params["rate"] * t)
    >>> t = jnp.linspace(0.0, 3.0, 7)
    >>> batch = t, 100.0 * jnp.exp(-2.0 * t)
    >>> optimizer = jloss.optimizers.levenberg_marquardt(decay, jloss.squared_error)
    >>> state = jloss.init({"size": jnp.array(20.0), "rate": jnp.array(0.5)}, optimizer)
    >>> update = jloss.step(jloss.objective(decay, jloss.squared_error))
    >>> for _ in range(8):
    ...     state, _ = update(state, batch)
    >>> round(float(state.params["size"]), 2), round(float(state.params["rate"]), 4)
    (100.0, 2.0)
    """

    def solve(product: Linear, gradient: Array, damping: Array) -> Array:
        matrix = jax.vmap(product)(jnp.eye(gradient.size, dtype=gradient.dtype))
        scale = jnp.sqrt(jnp.diagonal(matrix))
        scale = jnp.where(scale > 0, scale, 1.0)  # a parameter that nothing depends on
        # Scaled to a unit diagonal, as Marquardt did: the scales of the parameters cost no digits.
        matrix = matrix / jnp.outer(scale, scale) + damping * jnp.eye(gradient.size)
        factor = jax.scipy.linalg.cho_factor(matrix)
        return -jax.scipy.linalg.cho_solve(factor, gradient / scale) / scale

    return _damped("levenberg_marquardt", apply, loss, hyper, damping, solve)


def _damped(
    name: str, apply: Callable, loss: Callable, hyper: Any, damping: ArrayLike, solve: _Solve
) -> optax.GradientTransformationExtraArgs:
    """Steps of a quadratic model whose damping follows the gain ratio."""
    form = GaussNewton(apply, loss, ())

    def init(params: Any) -> DampedState:
        dtype = _working(ravel_pytree(params)[0]).dtype
        return DampedState(jnp.asarray(damping, dtype), jnp.asarray(2.0, dtype))

    def update(
        updates: Any, state: Any, params: Any = None, **context: Any
    ) -> tuple[Any, DampedState]:
        _check_given(name, params)
        missing = [f"{key}=" for key in ("batch", "value", "value_fn") if key not in context]
        if missing:
            raise TypeError(
                f"{name}: update needs {', '.join(missing)} too, which jloss.step and fit give it"
            )
        batch, value, value_fn = (context[key] for key in ("batch", "value", "value_fn"))
        flat, unravel = ravel_pytree(params)
        gradient = _working(ravel_pytree(updates)[0])
        total, weight = form.linear(
            lambda vector: unravel(vector.astype(flat.dtype)), _working(flat), hyper, batch
        )
        weight = jnp.where(weight > 0, weight, 1.0)

        def product(vector: Array) -> Array:
            return total(vector) / weight

        step = solve(product, gradient, state.damping)
        promised = -jnp.vdot(step, gradient + product(step) / 2)
        moves = unravel(step.astype(flat.dtype))
        gained = value - value_fn(optax.apply_updates(params, moves))
        # Close to a minimum the loss knows no difference any more, while the gradient still does.
        rounding = 8 * jnp.finfo(gained.dtype).eps * jnp.abs(value)
        even = jnp.maximum(jnp.abs(gained), jnp.abs(promised)) <= rounding
        ratio = jnp.where(even, 1.0, jnp.where(promised > 0, gained / promised, -1.0))
        taken = ratio > 0  # and so not NaN
        factor = jnp.where(taken, jnp.maximum(1 / 3, 1 - (2 * ratio - 1) ** 3), state.growth)
        eps = jnp.finfo(flat.dtype).eps
        state = DampedState(
            jnp.clip(state.damping * factor, damping * eps, damping / eps).astype(flat.dtype),
            jnp.where(taken, 2.0, jnp.minimum(2 * state.growth, 2.0**10)),
        )
        return jax.tree.map(lambda move: jnp.where(taken, move, 0), moves), state

    return optax.GradientTransformationExtraArgs(init, update)


def _check_given(name: str, params: Any) -> None:
    if params is None:
        raise ValueError(f"{name}: update needs the params: update(updates, state, params, ...)")


def _working(flat: Array) -> Array:
    return flat.astype(jnp.promote_types(flat.dtype, jnp.float32))


# Penalties that are not smooth -------------------------------------------------------------------


def proximal(
    prox: Callable[[Any, ArrayLike], Any], learning_rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    r"""Ends a step of gradient descent by the proximal operator of a penalty that is not smooth.

    .. math:: \theta \leftarrow \text{prox}_{\eta h}(\theta + \Delta\theta), \qquad
              \text{prox}_{\eta h}(v) = \arg\min_u h(u) + \tfrac{1}{2\eta} \|u - v\|^2

    What is minimised is the objective plus the penalty :math:`h`, which itself must not be in the
    objective. Unlike with its subgradient, zeros become exact. It belongs at the end of a chain,
    after steps of the length ``learning_rate`` (``optax.sgd``): of a step that is scaled for each
    parameter, as Adam's, the fixed point is another.

    Source: Parikh, Boyd (2014), Proximal algorithms, Found. Trends Optim. 1.

    Args:
      prox: ``prox(params, step_size) -> params``: by `prox_l1`, `prox_group_lasso`,
        `prox_total_variation` for the parts of the params that are penalised. A projection of
        ``optax.projections`` is the prox of a constraint and ignores the step size.
      learning_rate: of the steps before it: a number or an optax schedule.

    Returns:
      An optax transformation that needs the params.

    >>> def sparse(params, step_size):
    ...     return {**params, "w": jloss.optimizers.prox_l1(params["w"], 0.5 * step_size)}
    >>> optimizer = optax.chain(optax.sgd(0.1), jloss.optimizers.proximal(sparse, 0.1))
    >>> far = lambda params, batch: jloss.average((params["w"] - batch) ** 2 / 2)
    >>> state = jloss.init({"w": jnp.zeros(2)}, optimizer)
    >>> for _ in range(200):
    ...     state, _ = jloss.step(far)(state, jnp.array([3.0, 0.4]))
    >>> state.params["w"].round(2)
    Array([2., 0.], dtype=float32)
    """

    def init(params: Any) -> optax.ScaleByScheduleState:
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        _check_given("proximal", params)
        size = learning_rate(state.count) if callable(learning_rate) else learning_rate
        moved = prox(optax.apply_updates(params, updates), size)
        # Where the result is 0 this is exactly -params, and so the sum exactly 0.
        updates = jax.tree.map(lambda new, old: (new - old).astype(old.dtype), moved, params)
        return updates, state._replace(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def prox_l1(x: Array, size: ArrayLike) -> Array:
    r"""The proximal operator of ``size`` times the sum of absolute values: soft thresholding.

    Args:
      x: any shape.
      size: step size times strength of the penalty; broadcasts.

    Returns:
      An array like ``x``.

    >>> jloss.optimizers.prox_l1(jnp.array([-3.0, 0.5, 2.0]), 1.0)
    Array([-2.,  0.,  1.], dtype=float32)
    """
    size = jnp.asarray(size, x.dtype)
    return x - jnp.clip(x, -size, size)


def prox_group_lasso(x: Array, size: ArrayLike, axis: int | tuple[int, ...] = -1) -> Array:
    r"""The proximal operator of ``size`` times the sum of the norms of groups.

    Source: Yuan, Lin (2006), Model selection and estimation in regression with grouped variables,
    J. R. Stat. Soc. B 68.

    Args:
      x: any shape.
      size: step size times strength of the penalty.
      axis: along which a group extends; a weight matrix ``(in, out)`` loses whole inputs by -1.

    Returns:
      An array like ``x``: each group is shortened by ``size``, to zero if it is no longer.

    >>> jloss.optimizers.prox_group_lasso(jnp.array([[3.0, 4.0], [0.6, 0.8]]), 1.0)
    Array([[2.4, 3.2],
           [0. , 0. ]], dtype=float32)
    """
    largest = jnp.max(jnp.abs(x), axis, keepdims=True)
    safe = jnp.where(largest > 0, largest, 1.0)
    norm = safe * jnp.linalg.norm(x / safe, axis=axis, keepdims=True)
    return x * jnp.maximum(1 - size / jnp.where(norm > 0, norm, 1.0), 0.0)


def prox_total_variation(x: Array, size: ArrayLike) -> Array:
    r"""The proximal operator of ``size`` times the sum of differences between neighbours.

    .. math:: \arg\min_u \tfrac12 \|u - x\|^2 + \text{size} \sum_i |u_{i+1} - u_i|

    Exact, by dynamic programming: the derivative of what the places before ``i`` cost is piecewise
    linear, and cut off at :math:`\pm` size. Its work is linear in the length, one step at a time.

    Source: Johnson (2013), A dynamic programming algorithm for the fused lasso and L0-segmentation,
    J. Comput. Graph. Stat. 22.

    Args:
      x: ``(..., n)``; along the last axis.
      size: step size times strength of the penalty, a number.

    Returns:
      An array like ``x``, piecewise constant.

    >>> jloss.optimizers.prox_total_variation(jnp.array([0.0, 0.2, 0.1, 5.0, 5.2]), 0.3)
    Array([0.2 , 0.2 , 0.2 , 4.95, 4.95], dtype=float32)
    """
    if x.ndim > 1:
        return jax.vmap(lambda row: prox_total_variation(row, size))(x)
    return _denoised(x, jnp.asarray(size, x.dtype))


def _denoised(x: Array, size: Array) -> Array:
    """One row. ``slope * u + offset`` is the derivative of a piece, and grows by ``rises`` at each
    of the ``knots``, of which those from ``left`` to ``right`` are in use.
    """
    n = len(x)

    def crossing(derivative: tuple, value: Array, edge: Array, level: Array, side: int) -> tuple:
        """The piece on which the derivative reaches a level, looked for from one side."""
        knots, rises, left, right = derivative
        start = left if side > 0 else right

        def before(state: tuple) -> Array:
            at, slope, offset = state
            here = slope * knots[at] + offset
            return (left <= at) & (at <= right) & (side * here < side * level)

        def onward(state: tuple) -> tuple:
            at, slope, offset = state
            return at + side, slope + side * rises[at, 0], offset + side * rises[at, 1]

        state = start, jnp.ones((), x.dtype), edge - value
        return lax.while_loop(before, onward, state)

    def cut(derivative: tuple, value: Array) -> tuple[tuple, tuple[Array, Array]]:
        """The derivative after one more place, between -size and size."""
        knots, rises, left, right = derivative
        edge = jnp.where(left > right, 0.0, size)  # what lies before the first place costs nothing
        left, slope, offset = crossing(derivative, value, -edge, -size, 1)
        low, rise = (-size - offset) / slope, jnp.stack([slope, offset + size])
        right, slope, offset = crossing(derivative, value, edge, size, -1)
        high, fall = (size - offset) / slope, jnp.stack([-slope, size - offset])
        left, right = left - 1, right + 1
        knots = knots.at[left].set(low).at[right].set(high)
        rises = rises.at[left].set(rise).at[right].set(fall)
        return (knots, rises, left, right), (low, high)

    empty = (
        jnp.zeros(2 * n, x.dtype),
        jnp.zeros((2 * n, 2), x.dtype),
        jnp.array(n),
        jnp.array(n - 1),
    )
    derivative, bounds = lax.scan(cut, empty, x[:-1])
    edge = size if n > 1 else jnp.zeros_like(size)
    _, slope, offset = crossing(derivative, x[-1], -edge, jnp.zeros_like(size), 1)
    last = -offset / slope

    def back(after: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        here = jnp.clip(after, *bounds)
        return here, here

    _, before = lax.scan(back, last, bounds, reverse=True)
    return jnp.append(before, last)
