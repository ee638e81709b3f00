"""Curvature operators: matrices known by their products alone. Knows no estimator."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from operator import add
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from jloss import _krylov
from jloss._products import CURVED, EmpiricalFisher, GaussNewton, Hessian, Linear
from jloss.average import Average, Terms
from jloss.objective import Objective, _name, call, objective
from jloss.update import finite_now

# Batches beyond so many share a part in the jackknife, whose memory is one result per part.
PARTS = 32
# A processor's core is busy with one product of a large model, and its cache full; several small
# ones together share what each call costs.
_NUMBERS_AT_ONCE = 2**16


class _Split(NamedTuple):
    """Which leaves of the params are free; hashable, for a compiled program depends on it."""

    free: tuple[int, ...]
    structure: Any

    def join(self, params: Any, vector: Array) -> Any:
        """The params with the free leaves taken from a flat vector."""
        leaves, structure = jax.tree.flatten(params)
        flat, unravel = ravel_pytree([leaves[index] for index in self.free])
        for index, leaf in zip(self.free, unravel(vector.astype(flat.dtype)), strict=True):
            leaves[index] = leaf
        return structure.unflatten(leaves)


@dataclass(frozen=True, eq=False)
class Operator:
    """A symmetric matrix over params, known by its products; `hessian` and others make one.

    Products are exact over all batches: totals and weights add up as `Average` does.

    Attributes:
      name: of the function that made it, for messages.
      form: what is differentiated, and how.
      params: where, all of them.
      split: which of their leaves the matrix is over.
      hyper: hyper-parameters of the loss.
      batches: the data, iterated anew for every product.
    """

    name: str
    form: Any
    params: Any
    split: _Split
    hyper: Mapping[str, Any]
    batches: Iterable[Any]

    @cached_property
    def center(self) -> Array:
        """The free params as a flat vector, at least float32."""
        leaves = jax.tree.leaves(self.params)
        flat, _ = ravel_pytree([leaves[index] for index in self.split.free])
        return flat.astype(jnp.promote_types(flat.dtype, jnp.float32))

    @property
    def size(self) -> int:
        """The number of rows."""
        return self.center.size

    def __call__(self, vector: Any) -> Any:
        """The product with one vector, a pytree like the free params.

        >>> bowl = lambda params, batch: jloss.average(batch * jnp.sum(params**2))
        >>> jloss.curvature.hessian(bowl, jnp.ones(2), [jnp.ones(3)])(jnp.array([1.0, -1.0]))
        Array([ 2., -2.], dtype=float32)
        """
        return self.unravel(self.products(self.ravel(vector)[None])[0])

    def block(self, vectors: Any) -> Any:
        """The products with a block of vectors: every leaf has one more axis, the first.

        The gradient is linearised once for all of them, which makes each cheaper than alone.
        """
        flat = jax.vmap(self.ravel)(vectors)
        return jax.vmap(self.unravel)(self.products(flat))

    def dense(self) -> Array:
        """The matrix, ``(size, size)``, in the order of `jax.flatten_util.ravel_pytree`."""
        return self.products(jnp.eye(self.size, dtype=self.center.dtype))

    def part(self, where: Callable[[Any], Any]) -> "Operator":
        """The diagonal block of some params.

        Args:
          where: picks from a tree like the params, as in ``lambda params: params["head"]``; what
            it returns is the shape of this operator's vectors.

        Raises:
          ValueError: it picks nothing, or something twice.
        """
        count = len(jax.tree.leaves(self.params))
        numbers = jax.tree.structure(self.params).unflatten(range(count))
        picked, structure = jax.tree.flatten(where(numbers))
        free = tuple(picked)
        if not free or len(set(free)) < len(free) or not set(free) <= set(self.split.free):
            raise ValueError(
                f"part: where must pick some of the operator's params, each once; it picked "
                f"{len(free)} leaves, {len(set(free))} different, of {len(self.split.free)}"
            )
        return replace(self, split=_Split(free, structure))

    def layers(self) -> dict[str, "Operator"]:
        """The diagonal blocks by layer: by the first level of the params that has several.

        >>> params = {"body": jnp.ones((2, 3)), "head": jnp.ones(3)}
        >>> small = lambda params, batch: jloss.average(params["body"] @ params["head"] * batch)
        >>> layers = jloss.curvature.hessian(small, params, [jnp.ones(2)]).layers()
        >>> {name: layer.size for name, layer in layers.items()}
        {'body': 6, 'head': 3}
        """
        path: list[Any] = []
        while True:
            children = _children(_descend(self.params, path))
            if len(children) != 1:
                break
            path.append(0)
        if not children:
            return {self.name: self}
        places = [[*path, index] for index in range(len(children))]
        return {
            name: self.part(partial(_descend, path=place))
            for (name, child), place in zip(children, places, strict=True)
            if jax.tree.leaves(child)
        }

    def ravel(self, vector: Any) -> Array:
        """A vector of this operator, a pytree, as a flat one."""
        wanted = jax.tree.map(jnp.shape, self._free)
        found = jax.tree.map(jnp.shape, vector)
        if found != wanted:
            raise ValueError(
                f"{self.name}: a vector must have the structure and shapes of the params, "
                f"{wanted}, not {found}"
            )
        return ravel_pytree(vector)[0].astype(self.center.dtype)

    def unravel(self, vector: Array) -> Any:
        """A flat vector as a pytree like the free params, in their dtypes."""
        flat, unravel = ravel_pytree(self._free)
        return unravel(vector.astype(flat.dtype))

    def products(self, block: Array) -> Array:
        """The products with the rows of a ``(p, n)`` block."""
        total, weight = jnp.zeros(()), jnp.zeros(())
        for batch in self.iterate():
            more, its_weight = self._multiply(batch, block)
            total, weight = total + more, weight + its_weight
        return self.finite(total / _counted(self.name, weight))

    def by_part(
        self, block: Array, reduce: Callable[[Array, Array], Array]
    ) -> tuple[Array, Array, Array]:
        """The products, and totals and weights of ``reduce(block, products)`` in up to 32 parts."""
        total, parts = 0.0, {}
        for number, batch in enumerate(self.iterate()):
            more, weight = self._multiply(batch, block)
            total = total + more
            old, old_weight = parts.get(number % PARTS, (0.0, 0.0))
            parts[number % PARTS] = old + reduce(block, more), old_weight + weight
        totals, weights = (jnp.stack(column) for column in zip(*parts.values(), strict=True))
        return self.finite(total / _counted(self.name, weights.sum())), totals, weights

    def lanczos(self, state: _krylov.Lanczos, first: int, last: int) -> _krylov.Lanczos:
        """Lanczos steps; one compiled loop if all batches are at hand and of one shape."""
        if self._resident is not None:
            count, batches = self._resident
            arrays = self.hyper, self.params, self.center, batches
            state = _run(self.form, self.split.free, count, arrays, state, first, last)
        else:
            for j in range(first, last):
                state = _step(state, j, self.products(state.basis[:, j]))
        self.finite(state.alpha)
        return state

    def without(self, part: int, parts: int) -> "Operator":
        """The operator without the batches whose number is ``part`` modulo ``parts``."""
        return replace(self, batches=_Without(self.batches, part, parts))

    def moved(self, key: Array) -> "Operator":
        """The operator at params that differ by one rounding error in each entry."""
        return replace(self, params=self.split.join(self.params, nudged(key, self.center)))

    def iterate(self) -> Iterator[Any]:
        """The batches, once more."""
        empty = True
        for batch in self.batches:
            empty = False
            yield jax.tree.map(jnp.asarray, batch)
        if empty:
            raise ValueError(f"{self.name}: batches holds no batch")

    def finite(self, values: Array) -> Array:
        """The values, looked over: what is not finite is an error, with its likely source."""
        if bool(finite_now(values)):
            return values
        at = [
            name for name, leaf in _named_leaves(self.params) if not bool(jnp.isfinite(leaf).all())
        ]
        source = f"params hold NaN or infinity in {', '.join(at)}" if at else self._gradient_state()
        raise ValueError(f"{self.name}: a product is not finite; {source}")

    def _gradient_state(self) -> str:
        if isinstance(self.form, Hessian):
            objective = self.form.objective
            for number, batch in enumerate(self.iterate()):
                gradient = jax.grad(lambda p, b=batch: call(objective, p, b)[0].value)(self.params)
                bad = [n for n, leaf in _named_leaves(gradient) if not jnp.isfinite(leaf).all()]
                if bad:
                    return f"the gradient of batch {number} is not finite in {', '.join(bad)}"
        return "params and gradients are, so look at the second derivative and the batches"

    @property
    def _free(self) -> Any:
        leaves = jax.tree.leaves(self.params)
        return self.split.structure.unflatten([leaves[index] for index in self.split.free])

    def _multiply(self, batch: Any, block: Array) -> tuple[Array, Array]:
        arrays = self.hyper, self.params, self.center, batch
        return _multiply(self.form, self.split.free, arrays, block)

    @cached_property
    def _resident(self) -> tuple[int, Any] | None:
        """Their number and all batches, stacked if several; None where they are streamed."""
        if not isinstance(self.batches, (list, _Without)):
            return None
        if isinstance(self.batches, _Without) and not isinstance(self.batches.whole, list):
            return None
        batches = list(self.iterate())
        shapes = {str(jax.tree.map(lambda x: (x.shape, x.dtype), batch)) for batch in batches}
        if len(shapes) > 1:
            return None
        if len(batches) == 1:
            return 1, batches[0]
        return len(batches), jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)


@jax.jit
def nudged(key: Array, values: Array) -> Array:
    """The values, each moved by one rounding error to a random side."""
    signs = jax.random.rademacher(key, values.shape, values.dtype)
    return values * (1 + jnp.finfo(values.dtype).eps * signs)


@dataclass(frozen=True)
class _Without:
    whole: Iterable[Any]
    part: int
    parts: int

    def __iter__(self) -> Iterator[Any]:
        return (
            batch for number, batch in enumerate(self.whole) if number % self.parts != self.part
        )


def _each(linear: Linear, block: Array) -> Array:
    """The linear function of every row."""
    together = len(block)
    if jax.default_backend() == "cpu":
        together = max(1, min(together, _NUMBERS_AT_ONCE // block.shape[1]))
    return lax.map(linear, block, batch_size=together) if together > 1 else lax.map(linear, block)


def _exactly() -> Any:
    """Within, models multiply matrices in full, unless the user chose another precision.

    An accelerator's default keeps ten bits of float32, and the errors told here know of all.
    """
    chosen = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    return jax.default_matmul_precision(chosen or "highest")


def _linear(form: Any, free: tuple[int, ...], arrays: tuple) -> tuple[Linear, Array]:
    hyper, params, center, batch = arrays
    return form.linear(partial(_Split(free, None).join, params), center, hyper, batch)


@partial(jax.jit, static_argnums=(0, 1))
def _multiply(form: Any, free: tuple, arrays: tuple, block: Array) -> tuple[Array, Array]:
    """Total products of one batch, and its weight."""
    with _exactly():
        linear, weight = _linear(form, free, arrays)
        return _each(linear, block), weight


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def _run(
    form: Any,
    free: tuple,
    count: int,
    arrays: tuple,
    state: _krylov.Lanczos,
    first: Array,
    last: Array,
) -> _krylov.Lanczos:
    """Lanczos steps on stacked batches; on one batch, linearised once for all steps."""
    if count == 1:
        with _exactly():
            linear, weight = _linear(form, free, arrays)
            return _krylov.run(lambda block: _each(linear, block) / weight, state, first, last)

    def product(block: Array) -> Array:
        def add(carry: tuple, batch: Any) -> tuple[tuple, None]:
            more = _multiply(form, free, (*arrays[:-1], batch), block)
            return jax.tree.map(jnp.add, carry, more), None

        nothing = jnp.zeros_like(block), jnp.zeros((), block.dtype)
        (total, weight), _ = lax.scan(add, nothing, arrays[-1])
        return total / weight

    return _krylov.run(product, state, first, last)


_step = jax.jit(_krylov.step, donate_argnums=0)


def hessian(objective: Objective, params: Any, batches: Iterable[Any]) -> Operator:
    r"""The Hessian of an objective over a data set, forward over reverse.

    .. math:: H v = \frac{\partial}{\partial \epsilon} \nabla L(\theta + \epsilon v)

    Source: Pearlmutter (1994), Fast exact multiplication by the Hessian, Neural Comput. 6.

    Args:
      objective: ``objective(params, batch) -> Average``.
      params: any pytree of floating arrays.
      batches: an iterable of batches that can be iterated again and again: ``[batch]`` for one, a
        list, or an object that reads them anew. A list of equal shapes is put on the device once.

    Returns:
      An `Operator`.

    Raises:
      TypeError: the objective returns no `Average`, the params are not floating, or the batches
        can be read only once.
      ValueError: there are no params or no batches.

    >>> cubic = lambda params, batch: jloss.average(batch * params**3)
    >>> hessian = jloss.curvature.hessian(cubic, jnp.array(2.0), [jnp.ones(3), jnp.array([5.0])])
    >>> hessian(jnp.array(1.0))  # the mean of batch, 2, times 6 * params
    Array(24., dtype=float32)
    """
    operator = _operator("hessian", Hessian(objective), params, {}, batches)
    if not isinstance(_check_average(objective, operator), Terms):
        return operator
    at = jax.jit(lambda batch: call(objective, operator.params, batch)[0])
    return replace(operator, hyper={"whole": reduce(add, map(at, operator.iterate()))})


def gauss_newton(
    apply: Callable[[Any, Any], Array],
    loss: Callable[..., Array],
    params: Any,
    batches: Iterable[Any],
    **hyper: Any,
) -> Operator:
    r"""The Gauss–Newton matrix: the Hessian of the loss through the model's first derivative.

    .. math:: G = \frac{1}{\sum_i w_i} \sum_i w_i\, J_i^T\, \nabla^2 L(z_i)\, J_i,
              \qquad z_i = f_\theta(x_i), \quad J_i = \partial z_i / \partial \theta

    The Hessian in the predictions is written down for softmax and sigmoid cross-entropy and for
    squared errors, and found by autodiff for other losses. It is positive semidefinite where the
    loss is convex in the predictions. Prefer it to the Hessian for preconditioning; the Hessian
    knows of negative curvature.

    Source: Schraudolph (2002), Fast curvature matrix-vector products for second-order gradient
    descent, Neural Comput. 14.

    Args:
      apply: ``apply(params, inputs) -> predictions``, as for `jloss.objective`.
      loss: of jloss or your own, as for `jloss.objective`.
      params: as for `hessian`.
      batches: as for `hessian`; each a batch of `jloss.objective`.
      hyper: hyper-parameters of the loss.

    Returns:
      An `Operator`.

    Raises:
      TypeError: as for `hessian`.
      ValueError: as for `hessian`.

    >>> line = lambda params, inputs: inputs @ params
    >>> batch = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.zeros(2)
    >>> jloss.curvature.gauss_newton(line, jloss.l2_loss, jnp.ones(2), [batch]).dense()
    Array([[ 5.,  7.],
           [ 7., 10.]], dtype=float32)
    """
    fixed, traced = _sorted_hyper(hyper)
    form = GaussNewton(apply, loss, fixed)
    operator = _operator("gauss_newton", form, params, traced, batches)
    _check_average(objective(apply, loss, **hyper), operator)
    return operator


def fisher(
    apply: Callable[[Any, Any], Array],
    loss: Callable[..., Array],
    params: Any,
    batches: Iterable[Any],
    **hyper: Any,
) -> Operator:
    r"""The Fisher information of the model's own distribution, with its expectation exact.

    .. math:: F = \frac{1}{\sum_i w_i} \sum_i w_i\,
              \mathbb{E}_{y \sim p(y \mid z_i)} \nabla L_i\, \nabla L_i^T

    For a negative log-likelihood in its natural parameter this is the `gauss_newton` matrix, and
    only such losses are taken: softmax and sigmoid cross-entropy, `l2_loss` (a normal distribution
    of variance 1) and `squared_error` (of variance 1/2).

    Source: Martens (2020), New insights and perspectives on the natural gradient method, JMLR 21.

    Args:
      apply: as for `gauss_newton`.
      loss: one of those above.
      params: as for `hessian`.
      batches: as for `gauss_newton`.
      hyper: hyper-parameters of the loss.

    Returns:
      An `Operator`.

    Raises:
      TypeError: as for `hessian`.
      ValueError: another loss; or as for `hessian`.

    >>> line = lambda params, inputs: inputs @ params
    >>> batch = jnp.array([[2.0]]), jnp.array([1.0])
    >>> loss = jloss.sigmoid_binary_cross_entropy
    >>> jloss.curvature.fisher(line, loss, jnp.zeros(1), [batch]).dense()  # 2^2 p (1 - p)
    Array([[1.]], dtype=float32)
    """
    if loss not in CURVED:
        raise ValueError(
            f"fisher: {_name(loss)} is not known as a negative log-likelihood; known are "
            f"{', '.join(map(_name, CURVED))}. Did you mean empirical_fisher?"
        )
    return replace(gauss_newton(apply, loss, params, batches, **hyper), name="fisher")


def empirical_fisher(
    apply: Callable[[Any, Any], Array],
    loss: Callable[..., Array],
    params: Any,
    batches: Iterable[Any],
    **hyper: Any,
) -> Operator:
    r"""The second moment of the gradients of single values of the loss, at the data's targets.

    .. math:: F = \frac{1}{\sum_i w_i} \sum_i w_i\, \nabla L_i\, \nabla L_i^T

    It measures the noise of stochastic gradients. It is no approximation of curvature away from a
    perfect fit (Kunstner, Balles, Hennig, 2019): prefer `fisher` for that.

    Args:
      apply: as for `gauss_newton`.
      loss: of jloss or your own; each of its values counts as one observation.
      params: as for `hessian`.
      batches: as for `gauss_newton`.
      hyper: hyper-parameters of the loss.

    Returns:
      An `Operator`.

    Raises:
      TypeError: as for `hessian`.
      ValueError: as for `hessian`.

    >>> line = lambda params, inputs: inputs @ params
    >>> batch = jnp.array([[1.0], [2.0]]), jnp.array([0.0, 3.0])
    >>> jloss.curvature.empirical_fisher(line, jloss.l2_loss, jnp.ones(1), [batch]).dense()
    Array([[2.5]], dtype=float32)
    """
    fixed, traced = _sorted_hyper(hyper)
    form = EmpiricalFisher(apply, loss, fixed)
    operator = _operator("empirical_fisher", form, params, traced, batches)
    _check_average(objective(apply, loss, **hyper), operator)
    return operator


def _operator(
    name: str, form: Any, params: Any, hyper: Mapping[str, Any], batches: Iterable[Any]
) -> Operator:
    leaves = _named_leaves(params)
    if sum(np.size(leaf) for _, leaf in leaves) == 0:
        raise ValueError(f"{name}: params hold no numbers")
    wrong = [
        f"{place} is {jnp.asarray(leaf).dtype}"
        for place, leaf in leaves
        if not jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)
    ]
    if wrong:
        raise TypeError(
            f"{name}: params must be floating arrays, but {', '.join(wrong)}; "
            "keep what is not trained out of params"
        )
    if isinstance(batches, (tuple, Mapping, jax.Array, np.ndarray)):
        raise TypeError(
            f"{name}: batches must be an iterable of batches, not a {type(batches).__name__}; "
            "did you mean [batch]?"
        )
    if not isinstance(batches, Iterable) or iter(batches) is batches:
        raise TypeError(
            f"{name}: batches must be iterable again and again, which a {type(batches).__name__} "
            "is not; give a list, or an object whose __iter__ reads them anew"
        )
    params = jax.tree.map(jnp.asarray, params)
    everything = _Split(tuple(range(len(leaves))), jax.tree.structure(params))
    return Operator(name, form, params, everything, hyper, batches)


def _check_average(objective: Objective, operator: Operator) -> Average | Terms:
    batch = next(operator.iterate())
    found = jax.eval_shape(objective, operator.params, batch)
    found = found[0] if isinstance(found, tuple) else found
    if isinstance(found, Terms):
        return found
    if not isinstance(found, Average):
        shape = f" of shape {found.shape}" if hasattr(found, "shape") else ""
        raise TypeError(
            f"{operator.name}: objective {_name(objective)} must return an Average, not "
            f"{'an array' if shape else type(found).__name__}{shape}; "
            "did you mean jloss.average(values)?"
        )
    if found.total.shape or found.weight.shape:
        raise TypeError(
            f"{operator.name}: objective {_name(objective)} must return an Average of scalars, not "
            f"of {found.total.shape} and {found.weight.shape}; did you mean jloss.average(values)?"
        )
    return found


def _counted(name: str, weight: Array) -> Array:
    if not float(weight) > 0:
        raise ValueError(f"{name}: nothing counts: the weight of all batches is {float(weight)}")
    return weight


def _sorted_hyper(hyper: Mapping[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """What a compiled program depends on (axes, switches), and what it is given (numbers)."""
    traced = {n: v for n, v in hyper.items() if isinstance(v, (float, jax.Array, np.ndarray))}
    return tuple(sorted((n, v) for n, v in hyper.items() if n not in traced)), traced


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def _children(tree: Any) -> list[tuple[str, Any]]:
    """The names and values one level down; none of a leaf."""
    below = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: node is not tree)
    return [(jax.tree_util.keystr(path, simple=True), child) for path, child in below if path]


def _descend(tree: Any, path: list[int]) -> Any:
    for index in path:
        tree = _children(tree)[index][1]
    return tree
