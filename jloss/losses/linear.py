r"""Losses fused with the last linear layer, for more classes than their logits have room in memory.

Losses on logits themselves are in ``classification.py``.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._compiled import compiled
from jloss._safe import (
    class_indices,
    floats,
    hyper,
    keep,
    mask,
    nan_unless,
    nan_unless_class,
    product,
)
from jloss._softmax import integer_cross_entropy
from jloss.card import CLASS, REAL, UNIT, card

# Blocks of rows ----------------------------------------------------------------------------------


def _by_blocks(function: Callable[..., Array], block: int, *rows: Array) -> Array:
    """One value a row, of blocks of rows one after another.

    What a block computes on the way is computed again for its derivative, and never stored.
    """
    count = len(rows[0])
    block = max(1, min(block, count))
    blocks = -(-count // block)
    parts = [
        jnp.pad(x, [(0, blocks * block - count)] + [(0, 0)] * (x.ndim - 1)).reshape(
            blocks, block, *x.shape[1:]
        )
        for x in rows
    ]
    again = jax.checkpoint(function, prevent_cse=False)
    return jax.lax.map(lambda part: again(*part), parts).reshape(-1)[:count]


def _block(features: Array, classes: int) -> int:
    """Half as many rows as features, so that their logits are half as large as the weights.

    An accelerator is not busy with less than 64 MiB of logits.
    """
    rows = max(64, features.shape[-1] // 2)
    return rows if jax.default_backend() == "cpu" else max(rows, 2**24 // max(classes, 1))


def _examples(
    loss: str, features: Array, labels: ArrayLike, where: ArrayLike | None
) -> tuple[Array, Array, Array | None]:
    """Features and labels, 0 where hidden, and the mask."""
    if features.ndim == 0:
        raise ValueError(f"{loss}: features () must have the shape (..., D).")
    labels = class_indices(loss, labels, (features.ndim - 1,), features=features)
    where = mask(loss, where, labels.shape)
    seen = None if where is None else where[..., None]
    return keep(seen, features), keep(where, labels), where


def _hide_features(
    loss: str, features: ArrayLike, where: ArrayLike | None
) -> tuple[ArrayLike, ArrayLike | None]:
    """For the forms of cards: a mask of the features' rank leaves some of these out."""
    shape = jnp.shape(features)
    if where is None or len(shape) < 2 or jnp.ndim(where) != len(shape):
        return features, where
    flags = jnp.asarray(mask(loss, where, shape))
    return keep(flags, jnp.asarray(features)), flags.any(-1)


# The whole softmax -------------------------------------------------------------------------------


def _on_first_classes(loss):
    """Each feature is the logit of a class, and the last of five classes has the logit 0."""

    def form(features, labels, *, label_smoothing=0.0, where=None):
        features, where = _hide_features(loss.__name__, features, where)
        weights = jnp.eye(jnp.shape(features)[-1], 5, dtype=jnp.float32)
        return loss(features, weights, labels, label_smoothing=label_smoothing, where=where)

    return form


def _exact_linear(m, features, label, label_smoothing):
    logits = features + [m.mpf(0)] * (5 - len(features))
    shares = [label_smoothing / 5 + (1 - label_smoothing) * (k == label) for k in range(5)]
    total = m.log(m.fsum(m.exp(x - max(logits)) for x in logits)) + max(logits)
    return m.fsum(share * (total - x) for share, x in zip(shares, logits, strict=True) if share)


@card(
    values="example",
    predictions=REAL,
    targets=CLASS,
    hyper=dict(label_smoothing=UNIT),
    exact=_exact_linear,
    source="Wijmans et al. (2024), Cut your losses in large-vocabulary language models, "
    "arXiv:2411.09009",
    also=dict(torch="nn.functional.linear_cross_entropy"),
    ulp=24,  # of a smoothed label's gradient, which is a difference
    scale=lambda label_smoothing: label_smoothing,
    minimum=0.0,
    convex=True,
    lipschitz=math.sqrt(2),
    smooth=0.5,
    kinks=False,
    given=dict(label_smoothing=0.0),
    form=_on_first_classes,
)
@compiled
def linear_softmax_cross_entropy(
    features: ArrayLike,
    weights: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
) -> Array:
    r"""Cross-entropy of one class out of many, without storing the logits ``features @ weights``.

    .. math:: L(h, W, c) = -\log \frac{e^{h \cdot w_c + b_c}}{\sum_k e^{h \cdot w_k + b_k}}

    Args:
      features: (..., D), what goes into the last layer.
      weights: (D, V), its kernel; of an embedding table (V, D) give the transpose.
      labels: integer classes from 0 to V - 1, NaN for the example otherwise; the shape of
        ``features`` without the last axis.
      bias: (V,) or None; minus infinity rules a class out, as padding of the vocabulary.
      label_smoothing: the share in [0, 1], NaN otherwise, that all classes have of the label in
        equal parts; it broadcasts to the labels.
      where: boolean mask of what counts, of the rank of ``labels``.

    Returns:
      The shape of ``labels``, in float32 or float64: the values of the loss on logits, and the
      gradients for features, weights and bias of the two together, but for rounding.

    Raises:
      ValueError: shapes do not fit.
      TypeError: features are not floating, labels not integers, or ``where`` not boolean.

    Logits are computed for some rows at a time, and once more for the gradient: a third more
    arithmetic than with stored logits, and temporary memory of about twice the weights (on an
    accelerator 200 MiB more) instead of rows times classes. Prefer it where there are many more
    rows than features. Products are as exact as `jax.default_matmul_precision` says. torch has this
    under ``options``, without forward mode and Hessians.
    Source: Wijmans et al. (2024).

    >>> features = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> weights = jnp.array([[17.0, 0.0], [0.0, 0.0]])
    >>> jloss.linear_softmax_cross_entropy(features, weights, jnp.array([0, 1]))
    Array([4.1399375e-08, 6.9314718e-01], dtype=float32)
    """
    loss = "linear_softmax_cross_entropy"
    given = {} if bias is None else {"bias": bias}
    features, weights, *offset = floats(loss, features=features, weights=weights, **given)
    features, labels, where = _examples(loss, features, labels, where)
    _check_layer(loss, features, weights, *offset)
    share = hyper(loss, features, rows=True, label_smoothing=label_smoothing)
    share += nan_unless(loss, (share >= 0) & (share <= 1), "in [0, 1]", label_smoothing=share)
    spoilt = nan_unless_class(loss, labels, weights)
    # Here is the mean of a row's logits, which smoothing needs: the logits of a mean class.
    average = weights.mean(-1), *(x.mean() for x in offset)

    def values(features: Array, labels: Array, spoilt: Array, share: Array) -> Array:
        logits = _layer(features, weights, *offset)
        chosen = jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]
        ahead = chosen - _layer(features, *average)
        return integer_cross_entropy(logits, labels, spoilt) + product(share, ahead)

    share = jnp.broadcast_to(share, labels.shape).ravel()
    rows = features.reshape(-1, len(weights)), labels.ravel(), spoilt.ravel(), share
    found = _by_blocks(values, _block(features, weights.shape[1]), *rows)
    return keep(where, found.reshape(labels.shape))


def _layer(features: Array, weights: Array, offset: ArrayLike = 0.0) -> Array:
    return features @ weights + offset


def _check_layer(loss: str, features: Array, weights: Array, *offset: Array) -> None:
    if weights.ndim != 2 or len(weights) != features.shape[-1]:
        cure = " Did you mean weights.T?" if weights.shape[-1:] == features.shape[-1:] else ""
        raise ValueError(
            f"{loss}: features {features.shape} and weights {weights.shape} must have the shapes "
            f"(..., D) and (D, V).{cure}"
        )
    for bias in offset:
        if bias.shape != weights.shape[1:]:
            raise ValueError(
                f"{loss}: bias {bias.shape} must have the shape {weights.shape[1:]}, one number a "
                "class."
            )


# A tree of two levels ----------------------------------------------------------------------------


class AdaptiveSoftmax(NamedTuple):
    """The parameters of a last layer with few features for rare classes.

    Args:
      head: (D, S + K), for the S frequent classes and for each of the K clusters of rare ones.
      tails: for each cluster the weights (D, H) down to its few features and (H, V) to its classes.
      bias: (S + K,) of the head, or None.
    """

    head: Array
    tails: tuple[tuple[Array, Array], ...]
    bias: Array | None = None


def adaptive_softmax_init(
    key: Array,
    features: int,
    classes: int,
    cutoffs: Sequence[int],
    *,
    div_value: float = 4.0,
    bias: bool = False,
) -> AdaptiveSoftmax:
    r"""Random parameters for `adaptive_softmax_cross_entropy`, distributed as in torch.

    Args:
      key: a random key.
      features: how many numbers go into the layer, D.
      classes: how many classes there are, the frequent ones first.
      cutoffs: where a cluster of rarer classes begins, increasing, between 0 and ``classes``.
      div_value: the n-th cluster has D over its n-th power features.
      bias: whether the head has one.

    Returns:
      The parameters, uniform in plus or minus one over the root of the features that go in.

    Raises:
      ValueError: cutoffs do not increase between 0 and ``classes``, or leave a cluster no feature.

    Source: Grave et al. (2017).

    >>> parameters = jloss.adaptive_softmax_init(jax.random.key(0), 64, 1000, [50])
    >>> jax.tree.map(jnp.shape, (parameters.head, parameters.tails))
    ((64, 51), (((64, 16), (16, 950)),))
    """
    ends = [0, *cutoffs, classes]
    if any(a >= b for a, b in pairwise(ends)):
        raise ValueError(
            f"adaptive_softmax_init: cutoffs {list(cutoffs)} must increase between 0 and {classes}."
        )
    hidden = [int(features // div_value ** (n + 1)) for n in range(len(cutoffs))]
    if not all(hidden):
        raise ValueError(
            f"adaptive_softmax_init: {features} features divided by powers of div_value "
            f"{div_value} leave {hidden} for the clusters; each needs one."
        )
    keys = iter(jax.random.split(key, 2 + 2 * len(hidden)))

    def uniform(inputs: int, *shape: int) -> Array:
        return jax.random.uniform(next(keys), shape, minval=-1.0, maxval=1.0) / math.sqrt(inputs)

    size = ends[1] + len(hidden)
    head = uniform(features, features, size)
    tails = tuple(
        (uniform(features, features, few), uniform(few, few, stop - start))
        for few, (start, stop) in zip(hidden, pairwise(ends[1:]), strict=True)
    )
    return AdaptiveSoftmax(head, tails, uniform(features, size) if bias else None)


def _clusters(parameters: AdaptiveSoftmax) -> list[tuple[int, int]]:
    """The first class of each cluster, and the first beyond it."""
    start, clusters = parameters.head.shape[-1] - len(parameters.tails), []
    for _, up in parameters.tails:
        clusters.append((start, start + up.shape[-1]))
        start = clusters[-1][1]
    return clusters


def _adaptive(
    loss: str, features: ArrayLike, parameters: AdaptiveSoftmax
) -> tuple[Array, AdaptiveSoftmax]:
    """Both in the dtype to compute in, with shapes that fit."""
    if not isinstance(parameters, AdaptiveSoftmax):
        raise TypeError(
            f"{loss}: parameters must be an AdaptiveSoftmax, as adaptive_softmax_init makes it; "
            "they come after the features."
        )
    leaves, structure = jax.tree.flatten(parameters)
    named = {f"parameters {place}": leaf for place, leaf in enumerate(leaves)}
    features, *leaves = floats(loss, features=features, **named)
    head, tails, bias = parameters = jax.tree.unflatten(structure, leaves)
    size = features.shape[-1] if features.ndim else 0
    fits = head.ndim == 2 and head.shape[0] == size and head.shape[1] > len(tails)
    fits &= bias is None or bias.shape == head.shape[1:]
    for down, up in tails:
        fits &= down.ndim == up.ndim == 2 and down.shape == (size, len(up))
    if not fits:
        shapes = jax.tree.map(jnp.shape, tuple(parameters))
        raise ValueError(
            f"{loss}: features {features.shape} and parameters {shapes} must have the shapes "
            "(..., D) and ((D, S + K), K pairs of (D, H) and (H, V), and (S + K,) or None); see "
            "adaptive_softmax_init."
        )
    return features, parameters


def adaptive_log_softmax(features: ArrayLike, parameters: AdaptiveSoftmax) -> Array:
    r"""The logarithms of the probabilities of all classes, for `adaptive_softmax_cross_entropy`.

    .. math:: \log p(v) = \log p(\text{cluster of } v) + \log p(v \mid \text{cluster of } v)

    Args:
      features: (..., D), what goes into the last layer.
      parameters: as from `adaptive_softmax_init`.

    Returns:
      (..., V) in float32 or float64, as torch's ``log_prob``.

    Raises:
      ValueError: shapes do not fit.
      TypeError: features are not floating, or ``parameters`` no `AdaptiveSoftmax`.

    Source: Grave et al. (2017).

    >>> tail = jnp.ones((2, 1)), jnp.zeros((1, 2))
    >>> parameters = jloss.AdaptiveSoftmax(jnp.zeros((2, 3)), (tail,))
    >>> print((6 * jnp.exp(jloss.adaptive_log_softmax(jnp.ones(2), parameters))).round())
    [2. 2. 1. 1.]
    """
    features, (head, tails, bias) = _adaptive("adaptive_log_softmax", features, parameters)
    first = jax.nn.log_softmax(_layer(features, head, 0.0 if bias is None else bias))
    parts = [first[..., : head.shape[-1] - len(tails)]]
    for cluster, (down, up) in zip(range(-len(tails), 0), tails, strict=True):
        parts.append(first[..., cluster, None] + jax.nn.log_softmax(features @ down @ up))
    return jnp.concatenate(parts, -1)


def _on_fixed_tree(loss):
    """Two features are logits of frequent classes, two others those within a cluster."""

    def form(features, labels, *, where=None):
        features, where = _hide_features(loss.__name__, features, where)
        own = jnp.eye(4, dtype=jnp.float32)[: jnp.shape(features)[-1]]
        head = own[:, :2] @ jnp.eye(2, 3, dtype=jnp.float32)
        tail = own[:, 2:], jnp.eye(2, dtype=jnp.float32)
        return loss(features, AdaptiveSoftmax(head, (tail,)), labels, where=where)

    return form


def _exact_adaptive(m, features, label):
    def cross_entropy(logits, label):
        return m.log(m.fsum(m.exp(x - logits[label]) for x in logits))

    features = features + [m.mpf(0)] * (4 - len(features))
    value = cross_entropy([*features[:2], 0], min(label, 2))
    return value + cross_entropy(features[2:], label - 2) if label >= 2 else value


@card(
    values="example",
    predictions=REAL,
    targets=CLASS,
    exact=_exact_adaptive,
    source="Grave et al. (2017), Efficient softmax approximation for GPUs, ICML",
    also=dict(torch="nn.AdaptiveLogSoftmaxWithLoss"),
    ulp=4,
    minimum=0.0,
    convex=True,
    lipschitz=math.sqrt(3),
    smooth=0.5,
    kinks=False,
    form=_on_fixed_tree,
)
@compiled
def adaptive_softmax_cross_entropy(
    features: ArrayLike,
    parameters: AdaptiveSoftmax,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
) -> Array:
    r"""Cross-entropy of one class out of many of which few are frequent, by a tree of two levels.

    .. math:: L(h, c) = -\log p(\text{cluster of } c) - \log p(c \mid \text{cluster of } c)

    Args:
      features: (..., D), what goes into the last layer.
      parameters: as from `adaptive_softmax_init`; their shapes say where clusters begin.
      labels: integer classes, the frequent ones first, NaN for the example where there is no such
        class; the shape of ``features`` without the last axis.
      where: boolean mask of what counts, of the rank of ``labels``.

    Returns:
      The shape of ``labels``, in float32 or float64.

    Raises:
      ValueError: shapes do not fit.
      TypeError: features are not floating, ``parameters`` no `AdaptiveSoftmax`, labels not
        integers, or ``where`` not boolean.

    Prefer it to `linear_softmax_cross_entropy` where arithmetic is scarce and classes are as uneven
    as words: a rare class has fewer features, and costs nothing where no example of a block has it.
    Another model than a softmax, it needs training of its own. torch gives the log-likelihood
    together with the negative mean.
    Source: Grave et al. (2017).

    >>> tail = jnp.ones((2, 1)), jnp.zeros((1, 2))
    >>> parameters = jloss.AdaptiveSoftmax(jnp.zeros((2, 3)), (tail,))
    >>> jloss.adaptive_softmax_cross_entropy(jnp.ones((2, 2)), parameters, jnp.array([0, 3]))
    Array([1.0986123, 1.7917595], dtype=float32)
    """
    loss = "adaptive_softmax_cross_entropy"
    features, parameters = _adaptive(loss, features, parameters)
    features, labels, where = _examples(loss, features, labels, where)
    head, tails, bias = parameters
    clusters = _clusters(parameters)
    classes = clusters[-1][1] if clusters else head.shape[-1]
    spoilt = nan_unless_class(loss, labels, jnp.zeros(classes, head.dtype))

    def values(features: Array, labels: Array, spoilt: Array) -> Array:
        first = labels
        for place, (start, stop) in enumerate(clusters):
            inside = (labels >= start) & (labels < stop)
            first = jnp.where(inside, clusters[0][0] + place, first)
        logits = _layer(features, head, 0.0 if bias is None else bias)
        total = integer_cross_entropy(logits, first, spoilt)
        for (start, stop), tail in zip(clusters, tails, strict=True):
            inside = (labels >= start) & (labels < stop)
            own = jnp.where(inside, labels - start, 0)
            within = jax.lax.cond(inside.any(), _within, _nothing, tail, features, own, spoilt)
            total += jnp.where(inside, within, 0.0)
        return total

    # In the order of their labels, so that few blocks have examples of several clusters.
    order = jnp.argsort(labels.ravel())
    rows = features.reshape(-1, len(head)), labels.ravel(), spoilt.ravel()
    block = _block(features, head.shape[1])
    result = _by_blocks(values, block, *(x[order] for x in rows))
    return keep(where, jnp.zeros_like(result).at[order].set(result).reshape(labels.shape))


def _within(tail: tuple[Array, Array], features: Array, labels: Array, spoilt: Array) -> Array:
    down, up = tail
    return integer_cross_entropy(features @ down @ up, labels, spoilt)


def _nothing(tail: tuple[Array, Array], features: Array, labels: Array, spoilt: Array) -> Array:
    return jnp.zeros_like(features, shape=labels.shape)
