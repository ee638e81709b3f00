r"""Losses on the similarities of all pairs in a batch: examples with the same label should be the
closest ones.

They do not decompose: the value over two halves of a batch is not the value over the batch.
Distances of given pairs and triplets are in ``embedding.py``.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._blocks import at, map_rows
from jloss._compiled import compiled
from jloss._safe import (
    floats,
    hyper,
    keep,
    mask,
    nan_unless,
    ramp,
    sigmoid,
    softplus,
    unit,
)
from jloss.card import COSINE, EMBEDDING, GROUP, POSITIVE, UNIT, card


def _exact_cosine(m, a, b):
    norms = m.sqrt(m.fdot(a, a) * m.fdot(b, b))
    return m.fdot(a, b) / norms if norms else m.mpf(0)


def _exact_ntxent(m, embeddings, labels, temperature):
    terms = []
    for i, anchor in enumerate(embeddings):
        similarity = [_exact_cosine(m, anchor, other) / temperature for other in embeddings]
        negatives = m.fsum(
            m.exp(s) for s, k in zip(similarity, labels, strict=True) if k != labels[i]
        )
        for j, positive in enumerate(similarity):
            if j != i and labels[j] == labels[i]:
                terms.append(m.log(m.exp(positive) + negatives) - positive)
    return m.fsum(terms) / len(terms) if terms else m.mpf(0)


@card(
    values="batch",
    predictions=EMBEDDING,
    targets=GROUP,
    hyper=dict(temperature=POSITIVE),
    exact=_exact_ntxent,
    source="Sohn (2016), Improved deep metric learning with multi-class n-pair loss objective, "
    "NeurIPS; Chen et al. (2020), A simple framework for contrastive learning, ICML",
    also=dict(optax="losses.ntxent"),
    ulp=16,
    scale=lambda temperature: 1 / temperature,
    minimum=0.0,
    convex=False,
    kinks=False,
    invariant=("scale",),
)
@compiled
def ntxent(
    embeddings: ArrayLike,
    labels: ArrayLike,
    temperature: ArrayLike = 0.07,
    *,
    where: ArrayLike | None = None,
) -> Array:
    r"""Normalised temperature-scaled cross-entropy: each example should know its own group.

    .. math::
        L = \frac1{|P|} \sum_{(i, j) \in P} \log\Bigl(1 +
        \sum_{k:\ y_k \ne y_i} e^{(s_{ik} - s_{ij}) / \tau}\Bigr), \qquad
        s_{ij} = \frac{z_i \cdot z_j}{\|z_i\| \|z_j\|}

    over the ordered pairs :math:`P` of two different examples with the same label.

    Args:
      embeddings: (N, D), of any lengths; only directions count.
      labels: (N,) integers; equal ones belong together.
      temperature: :math:`\tau`, positive, NaN otherwise; the smaller, the more the closest
        strangers count.
      where: boolean mask (N,) of the examples that count.

    Returns:
      A scalar in float32 or float64; 0 where no two examples share a label. A zero vector is at
      right angles to all, with a zero gradient.

    Raises:
      ValueError: shapes do not fit.
      TypeError: embeddings are not floating, labels not integers, or ``where`` not boolean.

    It does not decompose: its value over two halves of a batch is not its value over the batch.
    Memory is O(N), for similarities are computed some rows at a time.
    Source: Sohn (2016), Chen et al. (2020).

    >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> jloss.ntxent(embeddings, jnp.array([0, 0, 1, 1]), temperature=1.0)
    Array(0.5978082, dtype=float32)
    """
    embeddings, labels, where = _batch("ntxent", embeddings, labels, where)
    temperature = hyper("ntxent", jnp.zeros((), embeddings.dtype), temperature=temperature)
    temperature += nan_unless("ntxent", temperature > 0, "positive", temperature=temperature)
    directions = unit(embeddings).direction
    groups = _groups(labels, where)
    total = _ntxent_sum(directions / jnp.sqrt(temperature), groups)
    return total / jnp.maximum(_pairs_alike(groups).astype(total.dtype), 1.0)


# Similarities of some rows to all others: a few MiB, which a processor's caches hold, or what keeps
# an accelerator's cores busy; and how many rows at most.
_AT_ONCE, _LARGE_AT_ONCE = 3 * 2**18, 2**24
_ROWS, _LARGE_ROWS = 256, 4096


class _Examples(NamedTuple):
    """Examples of which any two are a pair, with the dot product of their points as similarity."""

    points: Array
    places: Array
    groups: Array  # negative numbers for hidden ones, each of its own


@jax.custom_jvp
def _ntxent_sum(points: Array, groups: Array) -> Array:
    """Over all pairs of two examples of one group."""
    return _ntxent_rows(*_in_blocks(points, groups))[0].sum()


@_ntxent_sum.defjvp
def _ntxent_sum_jvp(primals, tangents):
    # What a similarity adds to the slopes of either point is known when the strangers of both are.
    # So the gradient is one product of matrices, before which similarities are computed anew.
    batch, size = _in_blocks(*primals)
    values, *whole = _ntxent_rows(batch, size)

    def slopes(rows: tuple[_Examples, list[Array]]) -> Array:
        similarity, alike, unlike = _similarities(rows[0], batch)

        def slope(pulls: Array, top: Array, total: Array) -> Array:
            push = pulls / total * jnp.exp(jnp.where(unlike, similarity - top, -jnp.inf))
            return jnp.where(alike, -sigmoid((top - similarity) + jnp.log(total)), push)

        both = slope(*(x[:, None] for x in rows[1])) + slope(*whole)
        return jnp.matmul(both, batch.points, precision="highest")

    found = map_rows(slopes, size, (batch, whole))
    return values.sum(), jnp.vdot(found[: len(primals[0])], tangents[0])


def _ntxent_rows(batch: _Examples, size: int) -> tuple[Array, ...]:
    r"""For each anchor: the sum over its pairs; how strongly these are pulled together; the largest
    similarity to a stranger; and :math:`\sum_{k:\ y_k \ne y_i} e^{s_{ik}}` over its exponential.
    """

    def of_rows(rows: _Examples) -> tuple[Array, ...]:
        similarity, _, unlike = _similarities(rows, batch)
        top, total = _exponentials(similarity, unlike)

        def some(start: Array) -> tuple[Array, ...]:
            part = jax.lax.dynamic_slice_in_dim(similarity, start, size, 1)
            alike, _ = _alike_and_unlike(rows, at(start, size, batch))
            behind = (top - part) + jnp.log(total)
            return tuple(jnp.where(alike, f(behind), 0.0).sum(-1) for f in (softplus, sigmoid))

        def none(start: Array) -> tuple[Array, ...]:
            return (jnp.zeros_like(top[:, 0]),) * 2

        def add(sums: tuple[Array, ...], start: Array):
            # Few blocks of columns have a group in common with the rows.
            groups = at(start, size, batch.groups)
            common = (groups.min() <= rows.groups.max()) & (rows.groups.min() <= groups.max())
            return jax.tree.map(jnp.add, sums, jax.lax.cond(common, some, none, start)), None

        starts = jnp.arange(0, len(batch.groups), size, dtype=jnp.int32)
        sums = jax.lax.scan(add, none(starts), starts)[0]
        return *sums, top[:, 0], total[:, 0]

    return map_rows(of_rows, size, batch)


def _in_blocks(points: Array, groups: Array) -> tuple[_Examples, int]:
    """The examples and padding in whole blocks, and the size of a block."""
    count = len(groups)
    on_processor = jax.default_backend() == "cpu"
    rows, at_once = (_ROWS, _AT_ONCE) if on_processor else (_LARGE_ROWS, _LARGE_AT_ONCE)
    size = max(1, min(count, rows, max(16, at_once // max(count, 1))))
    # Of no example one block as well, for slices must fit.
    places = jnp.arange(size * max(1, -(-count // size)), dtype=jnp.int32)
    points = jnp.pad(points, ((0, len(places) - count), (0, 0)))
    return _Examples(points, places, jnp.concatenate([groups, -1 - places[count:]])), size


def _groups(labels: Array, where: Array | None) -> Array:
    """A number for each label, and for each hidden example a negative one of its own."""
    groups = jnp.searchsorted(jnp.sort(labels), labels).astype(jnp.int32)
    hidden = -1 - jnp.arange(len(labels), dtype=jnp.int32)
    return groups if where is None else jnp.where(where, groups, hidden)


def _pairs_alike(groups: Array) -> Array:
    """How many ordered pairs of two different examples there are in a group."""
    counts = jnp.zeros(groups.shape, jnp.int32).at[groups].add(groups >= 0)
    return (counts * (counts - 1)).sum()


def _batch(
    loss: str, embeddings: ArrayLike, labels: ArrayLike, where: ArrayLike | None
) -> tuple[Array, Array, Array | None]:
    """Embeddings (N, D), 0 where hidden, their labels (N,), and the mask (N,)."""
    (embeddings,) = floats(loss, embeddings=embeddings)
    labels = jnp.asarray(labels)
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"{loss}: embeddings {embeddings.shape} and labels {labels.shape} must have the shapes "
            "(N, D) and (N,)."
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{loss}: labels must be integers, not {labels.dtype}.")
    where = mask(loss, where, labels.shape)
    return keep(None if where is None else where[:, None], embeddings), labels, where


def _similarities(rows: _Examples, columns: _Examples) -> tuple[Array, Array, Array]:
    """Those of all pairs, which of these have equal labels, and which different ones."""
    # XLA would store the transpose of the columns in a product of matrices.
    last = ((1,), (1,)), ((), ())
    similarity = jax.lax.dot_general(rows.points, columns.points, last, precision="highest")
    return similarity, *_alike_and_unlike(rows, columns)


def _alike_and_unlike(rows: _Examples, columns: _Examples) -> tuple[Array, Array]:
    """Which pairs of two different examples are of one group, and which of different ones."""
    group, other = rows.groups[:, None], columns.groups
    alike = (group == other) & (rows.places[:, None] != columns.places)
    return alike, (group != other) & (jnp.minimum(group, other) >= 0)


def _exponentials(array: Array, where: Array) -> tuple[Array, Array]:
    """The largest of each row, kept as an axis, and the sum of exponentials over that of the
    largest; minus infinity and 1, with gradients 0, where none counts.
    """
    top = jax.lax.stop_gradient(array.max(-1, keepdims=True, where=where, initial=-jnp.inf))
    shifted = jnp.where(where, array - jnp.where(jnp.isinf(top), 0.0, top), -jnp.inf)
    total = jnp.exp(shifted).sum(-1, keepdims=True)
    return top, jnp.where(where.any(-1, keepdims=True), total, 1.0)


def _log_sum_exp(array: Array, where: Array) -> Array:
    """Over the last axis, which is kept; minus infinity, with gradient 0, where none counts."""
    top, total = _exponentials(array, where)
    return top + jnp.log(total)


def _exact_circle(m, embeddings, labels, gamma, margin):
    total = m.mpf(0)
    for i, label in enumerate(labels):
        alike, unlike = m.mpf(0), m.mpf(0)
        for j, other in enumerate(labels):
            s = _exact_cosine(m, embeddings[i], embeddings[j])
            if other != label:
                unlike += m.exp(gamma * max(0, s + margin) * (s - margin))
            elif j != i:
                alike += m.exp(-gamma * max(0, 1 + margin - s) * (s - 1 + margin))
        total += m.log1p(alike * unlike)
    return total


def _summed(loss: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(loss)
    def form(*arguments, **options):
        return loss(*arguments, **options).sum()

    return form


@card(
    values="batch",
    predictions=EMBEDDING,
    targets=GROUP,
    # At a margin of 1 the gradient jumps where vectors are opposite, but for a rounding.
    hyper=dict(gamma=POSITIVE, margin=replace(COSINE, draw=UNIT.draw, edges=(0.0, 0.1, 0.5))),
    exact=_exact_circle,
    form=_summed,
    source="Sun et al. (2020), Circle loss: a unified perspective of pair similarity optimization, "
    "CVPR",
    also=dict(keras="losses.circle"),
    ulp=24,  # 16 on a processor, whose quotients are rounded right
    scale=lambda gamma: 1 + gamma,
    minimum=0.0,
    convex=False,
    invariant=("scale",),
)
@compiled
def circle_loss(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    gamma: ArrayLike = 80.0,
    margin: ArrayLike = 0.4,
    where: ArrayLike | None = None,
) -> Array:
    r"""Pulls a group together and others apart, each pair by how far it is from where it should be.

    .. math::
        L_i = \log\Bigl(1 + \sum_{j:\ y_j = y_i} e^{-\gamma [1 + m - s_{ij}]_+ (s_{ij} - 1 + m)}
        \sum_{k:\ y_k \ne y_i} e^{\gamma [s_{ik} + m]_+ (s_{ik} - m)}\Bigr), \qquad
        s_{ij} = \frac{z_i \cdot z_j}{\|z_i\| \|z_j\|}

    Args:
      embeddings: (N, D), of any lengths; only directions count.
      labels: (N,) integers; equal ones belong together.
      gamma: :math:`\gamma`, the scale of similarities; positive, NaN otherwise.
      margin: :math:`m`: the cosine should be above :math:`1 - m` within a group and below :math:`m`
        between groups; from -1 to 1, NaN otherwise.
      where: boolean mask (N,) of the examples that count.

    Returns:
      One value for each example, (N,), in float32 or float64; 0 for one that has no other of its
      group, or none of another group. A zero vector is at right angles to all, with a zero
      gradient.

    Raises:
      ValueError: shapes do not fit.
      TypeError: embeddings are not floating, labels not integers, or ``where`` not boolean.

    The weights in brackets are differentiated, as in Keras, whose embeddings must be normalised
    already; pytorch-metric-learning takes them for constants. A value depends on the whole batch:
    it does not decompose. Source: Sun et al. (2020).

    >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> jloss.circle_loss(embeddings, jnp.array([0, 0, 1]), gamma=1.0)
    Array([0.58288175, 0.8348448 , 0.        ], dtype=float32)
    """
    loss = "circle_loss"
    embeddings, labels, where = _batch(loss, embeddings, labels, where)
    scalar = jnp.zeros((), embeddings.dtype)
    gamma, margin = hyper(loss, scalar, gamma=gamma), hyper(loss, scalar, margin=margin)
    gamma += nan_unless(loss, gamma > 0, "positive", gamma=gamma)
    gamma += nan_unless(loss, jnp.abs(margin) <= 1, "in [-1, 1]", margin=margin)
    directions = unit(embeddings).direction
    batch = _Examples(directions, jnp.arange(len(labels)), _groups(labels, where))
    similarity, alike, unlike = _similarities(batch, batch)
    pull = -gamma * ramp((1.0 - similarity) + margin) * (similarity - (1.0 - margin))
    push = gamma * ramp(similarity + margin) * (similarity - margin)
    both = _log_sum_exp(pull, alike) + _log_sum_exp(push, unlike)
    return softplus(both[:, 0])
