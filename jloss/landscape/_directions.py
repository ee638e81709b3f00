"""Directions through parameter space: random, of a path, through solutions, steepest."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

if TYPE_CHECKING:
    from jloss.curvature import Operator

Directions: TypeAlias = tuple[Any, Any]


def random_directions(
    key: Array,
    params: Any,
    *,
    normalize: str | None = "filter",
    biases: bool = False,
    orthogonal: bool = True,
    part: Callable[[Any], Any] | None = None,
) -> Directions:
    r"""Two random directions, Gaussian, as large as the parameters: filter by filter.

    A filter is what makes one output: all entries of a weight that share the index of its last
    axis (a column of a dense kernel ``(inputs, outputs)``, a channel of a convolution's
    ``(height, width, inputs, outputs)``). In each, a direction has the norm of the parameters
    there, so that a step of 1 changes every filter by its own size, whatever its scale; a filter
    of zeros keeps still.

    Source: Li, Xu, Taylor, Studer, Goldstein (2018), Visualizing the loss landscape of neural
    nets, NeurIPS.

    Args:
      key: a random key.
      params: any pytree of floating arrays.
      normalize: ``"filter"``; ``"layer"``, by the norms of whole leaves; ``"weight"``, every
        entry multiplied by the parameter there; or None, as drawn, of variance 1.
      biases: whether leaves with fewer than two axes move too (biases, scales and shifts of
        normalisation layers), each as one filter. They do in any case where all leaves that may
        move are such ones.
      orthogonal: whether the second is made orthogonal to the first within every filter (layer
        by layer, if not normalised by filters), with the norms kept; only filters of a single
        entry, where nothing is orthogonal, are left as drawn. Li et al. leave them all as drawn,
        which is nearly the same in large models and a skewed plane in small ones.
      part: picks what may move, as in ``lambda params: params["head"]``; all else keeps still.

    Returns:
      Two pytrees like ``params``.

    Raises:
      ValueError: there is no such normalisation, params hold NaN or infinity, or ``part`` picks
        nothing.

    >>> params = {"kernel": jnp.array([[3.0, 0.0], [4.0, 2.0]]), "bias": jnp.ones(2)}
    >>> one, two = jloss.landscape.random_directions(jax.random.key(0), params)
    >>> jnp.round(jnp.linalg.norm(one["kernel"], axis=0), 4), one["bias"]
    (Array([5., 2.], dtype=float32), Array([0., 0.], dtype=float32))
    """
    if normalize not in ("filter", "layer", "weight", None):
        raise ValueError(
            f"random_directions: normalize must be 'filter', 'layer', 'weight' or None, "
            f"not {normalize!r}"
        )
    check_finite("random_directions: params", params)
    leaves, structure = jax.tree.flatten(jax.tree.map(jnp.asarray, params))
    free = _picked(structure, len(leaves), part)
    smallest = 2 if not biases and any(leaves[number].ndim >= 2 for number in free) else 0
    # Drawn at once and scaled in numpy, for a program a shape would take a second to compile.
    drawn = np.array(jax.random.normal(key, (2, sum(leaf.size for leaf in leaves))))
    ends = np.cumsum([0] + [leaf.size for leaf in leaves])
    pairs = []
    for number, leaf in enumerate(leaves):
        one, two = drawn[:, ends[number] : ends[number + 1]].reshape(2, *leaf.shape)
        if number in free and leaf.ndim >= smallest:
            one, two = _scaled(one, two, np.asarray(leaf, np.float32), normalize, orthogonal)
        else:
            one, two = 0 * one, 0 * two
        pairs.append((jnp.asarray(one, leaf.dtype), jnp.asarray(two, leaf.dtype)))
    one, two = zip(*pairs, strict=True) if pairs else ((), ())
    return structure.unflatten(one), structure.unflatten(two)


def path_directions(path: Any) -> Directions:
    """The two orthonormal directions in which a training path extends most, seen from its end.

    They are the first two right singular vectors of the differences to the last point, signed so
    that the path starts at positive coordinates.

    Source: Li et al. (2018), section 7, as in `random_directions`.

    Args:
      path: the params on the way: a list of pytrees, or a pytree of arrays (not itself a list)
        with the points along the first axis. All of it is put into memory twice, in float64.

    Returns:
      Two pytrees like the params.

    Raises:
      ValueError: the points do not span a plane, as fewer than three different ones never do, or
        they are of different structures or shapes.

    >>> path = [jnp.array([4.0, 0.0, 0.0]), jnp.array([2.0, 0.0, 1.0]), jnp.array([0.0, 0.0, 0.0])]
    >>> one, two = jloss.landscape.path_directions(path)
    >>> jnp.abs(jnp.round(jnp.array([one @ one, one @ two, two @ two]), 5))
    Array([1., 0., 1.], dtype=float32)
    """
    points, precision, unravel = as_points("path_directions", path)
    if not np.isfinite(points).all():
        raise ValueError("path_directions: the path holds NaN or infinity; leave such points out")
    differences = points - points[-1]
    _, sizes, directions = np.linalg.svd(differences, full_matrices=False)
    # What rounding alone would make of points on a line.
    noise = precision * np.sqrt(len(points)) * np.linalg.norm(points, axis=1).max()
    if (sizes > noise).sum() < 2:
        different = len(np.unique(points, axis=0))
        raise ValueError(
            f"path_directions: the path spans no plane: {different} different points"
            f"{' on a line' if different > 1 else ''}; at least three that are not on a line are "
            "needed"
        )
    start = differences[0] @ directions[:2].T
    one, two = np.where(start < 0, -1.0, 1.0)[:, None] * directions[:2]
    return unravel(one), unravel(two)


def solution_directions(first: Any, second: Any, third: Any) -> Directions:
    """The orthonormal directions of the plane through three solutions, seen from the first.

    The first direction points to the second solution; the third one is on the positive side of
    the second direction. Coordinates are distances in parameter space.

    Source: Garipov, Izmailov, Podoprikhin, Vetrov, Wilson (2018), Loss surfaces, mode
    connectivity, and fast ensembling of DNNs, NeurIPS.

    Args:
      first: params, any pytree of floating arrays.
      second: others of the same structure and shapes.
      third: and others, not on a line with these.

    Returns:
      Two pytrees like the params.

    Raises:
      ValueError: the solutions are on a line, differ in structure or shapes, or hold NaN.

    >>> corners = jnp.zeros(3), jnp.array([2.0, 0.0, 0.0]), jnp.array([1.0, 3.0, 0.0])
    >>> one, two = jloss.landscape.solution_directions(*corners)
    >>> one.tolist(), two.tolist()
    ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0])
    """
    for name, params in {"first": first, "second": second, "third": third}.items():
        check_like(f"solution_directions: {name}", first, params)
        check_finite(f"solution_directions: {name}", params)
    points, precision, unravel = as_points("solution_directions", [first, second, third])
    one, two = points[1:] - points[0]
    noise = 8 * precision * np.linalg.norm(points, axis=1).max()
    one_size = np.linalg.norm(one)
    across = two - one * (two @ one) / one_size**2 if one_size > noise else np.zeros_like(two)
    if np.linalg.norm(across) <= noise:
        raise ValueError(
            "solution_directions: the three solutions are on a line and span no plane; for two, "
            "take jloss.landscape.line(..., to=other)"
        )
    return unravel(one / one_size), unravel(across / np.linalg.norm(across))


def hessian_directions(operator: "Operator", key: Array | None = None) -> Directions:
    """The two orthonormal directions of largest curvature: eigenvectors, by Lanczos.

    Where a random plane shows what is typical, this one shows the steepest walls. For the most
    negative curvature take `jloss.curvature.smallest_eigenpairs`, whose vectors serve as well.

    Args:
      operator: of `jloss.curvature.hessian` or another there, over all params or a `part` of them.
      key: a random key.

    Returns:
      Two pytrees like all params, zero outside the operator's part. The largest entry of each is
      positive, for eigenvectors have no sign.

    Raises:
      ValueError: as `jloss.curvature.largest_eigenpairs`.

    >>> bowl = lambda params, batch: jloss.average(batch * params**2)
    >>> operator = jloss.curvature.hessian(bowl, jnp.zeros(3), [jnp.array([1.0, 2.0, 6.0])])
    >>> one, two = jloss.landscape.hessian_directions(operator)
    >>> jnp.abs(jnp.round(one, 3)), jnp.abs(jnp.round(two, 3))
    (Array([0., 0., 1.], dtype=float32), Array([0., 1., 0.], dtype=float32))
    """
    from jloss.curvature import largest_eigenpairs

    vectors = largest_eigenpairs(operator, 2, key=key).vectors
    nothing = jax.tree.map(jnp.zeros_like, operator.params)

    def whole(number: int) -> Any:
        flat = operator.ravel(jax.tree.map(lambda leaf: leaf[number], vectors))
        flat = flat * jnp.sign(flat[jnp.argmax(jnp.abs(flat))])
        return operator.split.join(nothing, flat)

    return whole(0), whole(1)


# The parts ---------------------------------------------------------------------------------------


def _picked(structure: Any, count: int, part: Callable[[Any], Any] | None) -> set[int]:
    """The numbers of the leaves that may move."""
    if part is None:
        return set(range(count))
    found = set(jax.tree.leaves(part(structure.unflatten(range(count)))))
    if not found or not found <= set(range(count)):
        raise ValueError(
            "random_directions: part must pick some of the params, as in "
            'lambda params: params["head"]'
        )
    return found


def _scaled(
    one: np.ndarray, two: np.ndarray, weights: np.ndarray, normalize: str | None, orthogonal: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Two normal draws, scaled by the weights as asked."""
    by_filter = normalize == "filter" and weights.ndim > 1
    axes = tuple(range(weights.ndim - 1)) if by_filter else None
    if normalize == "weight":
        one, two = one * weights, two * weights

    def dot(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.sum(x * y, axis=axes, keepdims=True)

    if orthogonal and weights.size > (weights.shape[-1] if by_filter else 1):
        square = dot(one, one)
        two = two - one * dot(one, two) / np.where(square == 0, 1, square)
    if normalize in ("filter", "layer"):
        size = np.sqrt(dot(weights, weights))
        one, two = (size * d / np.sqrt(dot(d, d)) for d in (one, two))
    return one, two


def as_points(caller: str, path: Any) -> tuple[np.ndarray, float, Callable[[np.ndarray], Any]]:
    """The path as rows of float64, the precision they had, and what makes params of a row."""
    if isinstance(path, list):
        shapes = {str(jax.tree.map(jnp.shape, point)) for point in path}
        if len(shapes) != 1:
            raise ValueError(
                f"{caller}: the path must be params of one structure and shape, not "
                f"{' and '.join(sorted(shapes)) or 'an empty list'}"
            )
        path = jax.tree.map(lambda *leaves: jnp.stack(leaves), *path)
    leaves = jax.tree.leaves(path)
    if not leaves or {jnp.ndim(leaf) for leaf in leaves} & {0}:
        raise ValueError(f"{caller}: the path must be a list of params, or arrays of them stacked")
    last, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.asarray(leaf)[-1], path))
    rows = [np.reshape(np.asarray(leaf, np.float64), (len(leaf), -1)) for leaf in leaves]
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"{caller}: the arrays of the path differ in length")
    precision = float(jnp.finfo(last.dtype).eps)
    return (
        np.concatenate(rows, axis=1),
        precision,
        lambda row: unravel(jnp.asarray(row, last.dtype)),
    )


def flat(tree: Any) -> np.ndarray:
    """All numbers of a tree, in float64."""
    return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)])


def independent(caller: str, params: Any, directions: Any, count: int) -> tuple[Any, ...]:
    """The directions, if there are so many of them and they span something."""
    directions = tuple(directions)
    if len(directions) != count:
        number = {2: "two", 3: "three"}[count]
        raise ValueError(f"{caller}: {number} directions are needed, not {len(directions)}")
    for direction in directions:
        check_like(f"{caller}: a direction", params, direction)
    rows = np.stack(list(map(flat, directions)))
    sizes = np.linalg.norm(rows, axis=1)
    # The sine of the smallest angle between one and the span of the others is about this.
    if not (np.isfinite(sizes).all() and sizes.all()) or (
        np.linalg.svd(rows / sizes[:, None], compute_uv=False)[-1] < 1e-3
    ):
        raise ValueError(
            f"{caller}: the directions are parallel, zero or not finite and span no {caller} "
            "(random ones have the size of the params: where those are 0, so are they)"
        )
    return directions


def check_like(what: str, params: Any, other: Any) -> None:
    """Refuses what has not the structure and shapes of the params."""
    wanted, found = (jax.tree.map(jnp.shape, tree) for tree in (params, other))
    if found != wanted:
        raise ValueError(
            f"{what} must have the structure and shapes of params, {wanted}, not {found}"
        )


def check_finite(what: str, params: Any) -> None:
    """Refuses params with NaN or infinity, by the names of the leaves that hold them."""
    wrong = [
        jax.tree_util.keystr(path, simple=True, separator="/") or "it"
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if not np.isfinite(np.asarray(leaf)).all()
    ]
    if wrong:
        raise ValueError(f"{what} must be finite, but {', '.join(wrong)} holds NaN or infinity")
