"""The few building blocks that all losses share: strict inputs, masks, safe numerics.

Nothing here knows a particular loss. Shapes and dtypes are checked at trace time.
"""

from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from jloss._holds import holds

Tree = TypeVar("Tree")
Axis = int | tuple[int, ...] | None


# Inputs: dtypes and shapes -----------------------------------------------------------------------


def floats(loss: str, **arrays: ArrayLike) -> list[Array]:
    """The arrays in the dtype to compute in: float32, or float64 where one of them is.

    The first must be floating already; the others may hold integers or booleans.
    """
    named = {name: jnp.asarray(array) for name, array in arrays.items()}
    first, *others = named
    if not jnp.issubdtype(named[first].dtype, jnp.floating):
        cure = ""
        if not jnp.issubdtype(named[first].dtype, jnp.complexfloating):
            cure = (
                " Are the arguments swapped (predictions come first), or is astype(float) missing?"
            )
        raise TypeError(f"{loss}: {first} must be floating, not {named[first].dtype}.{cure}")
    for name in others:
        if jnp.issubdtype(named[name].dtype, jnp.complexfloating):
            raise TypeError(f"{loss}: {name} must be real, not {named[name].dtype}.")
    dtype = jnp.float32
    for array in named.values():
        dtype = jnp.promote_types(dtype, array.dtype)
    return [array.astype(dtype) for array in named.values()]


def same_shape(loss: str, **pair: Array) -> None:
    """Nothing is broadcast: (4, 1) against (4,) is an error, not a (4, 4) matrix."""
    (first, a), (second, b) = pair.items()
    if a.shape == b.shape:
        return
    cure = ""
    if a.shape == (*b.shape, 1):
        cure = f" Did you mean {first}[..., 0]?"
    elif b.shape == (*a.shape, 1):
        cure = f" Did you mean {second}[..., 0]?"
    elif second == "labels" and b.shape == a.shape[:-1]:
        cure = " Class indices? Take jax.nn.one_hot(labels, classes) or a loss of integer labels."
    raise ValueError(
        f"{loss}: {first} {a.shape} and {second} {b.shape} must have the same shape; "
        f"nothing is broadcast.{cure}"
    )


def class_indices(loss: str, labels: ArrayLike, axes: tuple[int, ...], **scores: Array) -> Array:
    """``labels`` checked to be integers, one for each example of ``scores``."""
    ((name, classes),) = scores.items()
    labels = jnp.asarray(labels)
    shape = tuple(size for a, size in enumerate(classes.shape) if a not in axes)
    cure = ""
    if labels.shape == classes.shape:
        cure = " One-hot? Take labels.argmax(-1)."
    elif labels.shape == (*shape, 1):
        cure = " Did you mean labels[..., 0]?"
    elif labels.shape == shape:
        cure = " Take labels.astype(int)."
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{loss}: labels must be integer class indices, not {labels.dtype}.{cure}")
    if labels.shape != shape:
        raise ValueError(
            f"{loss}: labels {labels.shape} must have the shape {shape}, that of {name} "
            f"{classes.shape} without the {'last' if name == 'features' else 'class'} axis.{cure}"
        )
    return labels


def hyper(loss: str, like: Array, *, rows: bool = False, **parameter: ArrayLike) -> Array:
    """A traced hyper-parameter in the dtype of ``like``; it may broadcast to its shape, not beyond.

    With ``rows`` the last axis of ``like`` does not count: there is one value a row.
    """
    ((name, given),) = parameter.items()
    array, shape = jnp.asarray(given), like.shape[:-1] if rows else like.shape
    try:
        fits = jnp.broadcast_shapes(array.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        wanted = f"broadcast to {shape}" if shape else "be a scalar"
        raise ValueError(f"{loss}: {name} {array.shape} must {wanted}.")
    return array.astype(like.dtype)


def axes_of(loss: str, axis: Axis, ndim: int) -> tuple[int, ...]:
    """``axis`` as a tuple of distinct axes counted from the front; None names them all."""
    named = tuple(range(ndim)) if axis is None else (axis,) if isinstance(axis, int) else axis
    axes = tuple(a % ndim for a in named if -ndim <= a < ndim)
    if not axes or len(set(axes)) < len(named):
        raise ValueError(f"{loss}: axis {axis} does not name axes of an array of rank {ndim}.")
    return axes


def to_rows(array: Array, axes: tuple[int, ...]) -> Array:
    """``axes`` moved to the end and made one, so that every example is a row."""
    if axes == (array.ndim - 1,):
        return array
    kept = tuple(a for a in range(array.ndim) if a not in axes)
    return array.transpose(kept + axes).reshape(*(array.shape[a] for a in kept), -1)


# Masks -------------------------------------------------------------------------------------------


def mask(
    loss: str, where: ArrayLike | None, shape: tuple[int, ...], axes: tuple[int, ...] = ()
) -> Array | None:
    """``where`` over the whole ``shape`` of the predictions.

    It has their rank, each size equal or 1; or it lacks ``axes`` and flags whole examples; or it is
    one flag for all.
    """
    if where is None:
        return None
    flags = jnp.asarray(where)
    if flags.dtype != bool:
        raise TypeError(
            f"{loss}: where must be boolean, not {flags.dtype}. Take where > 0; weights are for "
            "jloss.mean."
        )
    if axes and flags.ndim == len(shape) - len(axes):
        flags = jnp.expand_dims(flags, axes)
    fits = flags.ndim in (0, len(shape)) and all(
        size in (1, full) for size, full in zip(flags.shape, shape, strict=False)
    )
    if not fits:
        given, whole = jnp.shape(where), tuple(s for a, s in enumerate(shape) if a not in axes)
        cure = ""
        if given == (*whole, 1) or given == (*shape, 1):
            cure = " Did you mean where[..., 0]?"
        elif given and given == shape[: len(given)]:
            cure = " Did you mean where[..., None]?"
        rows = f", or {whole} for whole rows" if axes else ""
        raise ValueError(
            f"{loss}: where {given} must fit {shape}{rows}; each size is equal or 1.{cure}"
        )
    return jnp.broadcast_to(flags, shape)


def keep(where: Array | None, array: Array, fill: ArrayLike = 0) -> Array:
    """``array`` where it counts and ``fill`` elsewhere.

    Used on the inputs, so that no hidden NaN gets into the mathematics or its derivative, and again
    on the values, which makes hidden ones 0 (the "double where").
    """
    return array if where is None else jnp.where(where, array, jnp.asarray(fill, array.dtype))


def class_rows(
    loss: str, scores: Array, axis: Axis, where: ArrayLike | None, hidden: float
) -> tuple[Array, tuple[int, ...], Array | None]:
    """Scores of classes by rows, ``hidden`` where a class is left out; axes; the mask by rows.

    A row that is left out as a whole holds a half, at which every loss has a gradient.
    """
    axes = axes_of(loss, axis, scores.ndim)
    where = mask(loss, where, scores.shape, axes)
    rows = to_rows(scores, axes)
    if where is None:
        return rows, axes, None
    where = to_rows(where, axes)
    return keep(where, rows, jnp.where(where.any(-1, keepdims=True), hidden, 0.5)), axes, where


# Values out of their domain ----------------------------------------------------------------------


def nan_unless(loss: str, inside: Array, wanted: str, **argument: Array) -> Array:
    """0 where ``inside`` holds, else NaN: added to an input, it spoils value *and* gradient.

    Under `jax.experimental.checkify` it raises instead; in plain jit that check costs nothing.
    """
    ((name, array),) = argument.items()
    if inside.size:
        message = f"{loss}: {name} must be {wanted}; at index {{index}} it is {{found}}"
        inside = holds(inside, array, message)
    dtype = array.dtype if jnp.issubdtype(array.dtype, jnp.floating) else jnp.float32
    return jnp.where(inside, jnp.zeros((), dtype), jnp.asarray(jnp.nan, dtype))


def nan_with(values: Array) -> Array:
    """NaN for a row whose value is NaN, else 0, (..., 1); added to slopes it spoils them all."""
    return jnp.where(jnp.isnan(values), jnp.nan, 0.0)[..., None]


def nan_unless_class(loss: str, labels: Array, scores: Array) -> Array:
    """`nan_unless` for class indices into the last axis of ``scores``, one for each."""
    classes = scores.shape[-1]
    inside, wanted = (labels >= 0) & (labels < classes), f"from 0 to {classes - 1}"
    return nan_unless(loss, inside, wanted, labels=labels).astype(scores.dtype)


# Derivatives and numerics ------------------------------------------------------------------------


def chain(
    value: Array, *pairs: tuple[Array, Array | SymbolicZero], axis: Axis = None
) -> tuple[Array, Array]:
    """What a `jax.custom_jvp` rule returns: ``value`` and the sum of slope times tangent.

    The products are summed over ``axis`` for a loss that has one value a row. A tangent that is
    zero by construction is left out: times an infinite slope, as a label has at an infinite logit,
    it would be NaN. The rule is registered with ``symbolic_zeros=True``.
    """
    total = jnp.zeros_like(value)
    for slope, tangent in pairs:
        if not isinstance(tangent, SymbolicZero):
            product = slope * tangent
            total += product if axis is None else product.sum(axis)
    return value, total


def apart(arrays: Tree) -> Tree:
    """The same arrays, for the slopes of a loss, without XLA's knowing that they are the same.

    For a processor it would store what value and slopes have in common, which takes longer than to
    compute it twice.
    """
    if jax.default_backend() != "cpu":
        return arrays
    # One by one, for a tangent that is zero by construction would not be so beside another.
    return jax.tree.map(jax.lax.optimization_barrier, arrays)


def is_class(scores: Array, labels: Array) -> Array:
    """Where the last axis of ``scores`` is at the label: a one-hot mask that is never stored."""
    places = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
    return places == labels[..., None]


def two_difference(a: Array, b: Array) -> tuple[Array, Array]:
    """``a - b`` rounded, and what the rounding lost (Knuth 1969); 0 where infinite."""
    difference, lost = finite_two_difference(a, b)
    return difference, jnp.where(jnp.isfinite(difference), lost, 0.0)


def finite_two_difference(a: Array, b: Array) -> tuple[Array, Array]:
    """`two_difference` where nothing overflows, without the selection, which may cost storage."""
    difference = a - b
    part = difference - a
    return difference, (a - (difference - part)) - (b + part)


def product(factor: Array, other: Array) -> Array:
    """``factor * other`` where an exact 0 times infinity is 0, as in 0 log 0."""
    nought = ((factor == 0) & jnp.isinf(other)) | (jnp.isinf(factor) & (other == 0))
    return jnp.where(nought, 0.0, factor) * jnp.where(nought, 0.0, other)


def ramp(array: Array) -> Array:
    """Where positive, itself; the gradient at 0 is 0 (`jnp.maximum` has a half), NaN stays."""
    return jnp.where(array <= 0, 0.0, array)


@jax.custom_jvp
def softplus(array: Array) -> Array:
    """``log(1 + exp(array))`` with all digits in both tails, and in those of its derivative."""
    return jnp.maximum(array, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(array)))


@partial(softplus.defjvp, symbolic_zeros=True)
def _softplus_jvp(primals, tangents):
    (array,) = primals
    return chain(softplus(array), (jax.nn.sigmoid(array), tangents[0]))


def log_one_plus(x: Array) -> Array:
    """``log(1 + x)`` for x from 0 to 1, by the series of the inverse hyperbolic tangent.

    In a loop that stores its results it takes a third of what XLA's log1p does, with more digits.
    """
    share = x / (2.0 + x)
    square = share * share
    rest = jnp.zeros_like(x)
    for power in range(6 if x.dtype == jnp.float32 else 16, 0, -1):
        rest = square * (2.0 / (2 * power + 1) + rest)
    return 2.0 * share + share * rest  # x itself, once more, would be stored


@jax.custom_jvp
def sigmoid(x: Array) -> Array:
    """With all digits in both tails of its derivative."""
    return jax.nn.sigmoid(x)


@sigmoid.defjvp
def _sigmoid_jvp(primals, tangents):
    # Autodiff's p (1 - p) has no digit left where p is nearly 1.
    (x,), (d_x,) = primals, tangents
    return sigmoid(x), sigmoid(x) * sigmoid(-x) * d_x


def largest(rows: Array, least: float) -> Array:
    """The largest of each row and of ``least``; NaN, and so its gradient, where one in it is."""
    # `jnp.max` says so too, but for processors jaxlib 0.10.2 drops NaN where rows are many.
    spoilt = jnp.where(jnp.isnan(rows).any(-1), jnp.nan, 1.0)
    return rows.max(-1, initial=least) * spoilt.astype(rows.dtype)


class Unit(NamedTuple):
    """Rows over their Euclidean norm, or over a floor where they are shorter."""

    direction: Array
    lacking: Array  # what its squared norm lacks of 1, one a row: 0 but for a short one
    short: Array
    scale: Array  # the row was divided by this,
    divisor: Array  # and then by this: infinite for a zero row without a floor


def unit(rows: Array, epsilon: Array | None = None) -> Unit:
    """A row shorter than ``sqrt(epsilon)`` is divided by that.

    Without it, or where it is 0, the zero row stays zero, with a zero gradient. Rows are scaled
    before they are squared, so that any magnitude is safe.
    """
    largest = jax.lax.stop_gradient(jnp.abs(rows).max(-1, initial=0.0))
    scale = jnp.where(largest == 0, 1.0, largest)
    scaled = rows / scale[..., None]
    squared = (scaled * scaled).sum(-1)
    short = squared == 0
    norm = jnp.sqrt(jnp.where(short, 1.0, squared))
    if epsilon is None:
        divisor, lacking = jnp.where(short, jnp.inf, norm), short.astype(rows.dtype)
    else:
        floor = jnp.where(epsilon > 0, jnp.sqrt(jnp.where(epsilon > 0, epsilon, 1.0)), 0.0) / scale
        short |= norm < floor
        divisor = jnp.where(short, jnp.where(floor > 0, floor, jnp.inf), norm)
        lacking = jnp.where(short, 1.0 - squared / divisor / divisor, 0.0)
    return Unit(scaled / divisor[..., None], lacking, short, scale, divisor)


@jax.custom_jvp
def log_rest(p: Array) -> Array:
    """``log(1 - p)``; XLA's log1p loses a hundred roundings of it in float64 (Kahan 1979)."""
    rest = 1.0 - p
    return jnp.where(rest == 1.0, -p, jnp.log(rest) * (p / jnp.where(rest == 1.0, 1.0, 1.0 - rest)))


log_rest.defjvps(lambda tangent, _, p: -tangent / (1.0 - p))


def ratio(part: Array, whole: Array) -> Array:
    """``part / whole``, 0 where part is 0."""
    return jnp.where(part == 0, 0.0, part / jnp.where(part == 0, 1.0, whole))
