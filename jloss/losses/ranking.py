r"""Ranking losses: of scores for the items of a list, against how relevant each item is."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._safe import floats, hyper, keep, mask, nan_unless, same_shape
from jloss._softmax import cross_entropy
from jloss.card import LOGIT, RELEVANCE, card


@card(
    values="list",
    predictions=LOGIT,
    targets=RELEVANCE,
    exact=lambda m, logits, labels: m.fsum(
        label * m.log(m.fsum(m.exp(other - logit) for other in logits))
        for logit, label in zip(logits, labels, strict=True)
        if label
    ),
    source="Cao et al. (2007), Learning to rank: from pairwise approach to listwise approach, ICML",
    also=dict(optax="losses.ranking_softmax_loss", rax="softmax_loss"),
    ulp=4,
    minimum=0.0,
    convex=True,
    kinks=False,
    invariant=("shift", "permutation"),
)
def ranking_softmax_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduce_fn: Callable[..., Array] | None = jnp.mean,
) -> Array:
    r"""ListNet: the cross-entropy that makes relevant items outscore the rest of their list.

    .. math:: L(x, y) = -\sum_i w_i y_i \log \frac{e^{x_i}}{\sum_k e^{x_k}}

    Args:
      logits: one score an item, the items of a list along the last axis.
      labels: the same shape; how relevant each item is, at least 0, NaN for the list otherwise.
      where: boolean mask of the items that count (lists are padded), or of whole lists.
      weights: a factor for each label; it broadcasts to the labels.
      reduce_fn: how the lists' values are reduced, called as ``reduce_fn(values, where=...)`` with
        the lists that have an item. The mean of no list is 0. None returns one value a list.

    Returns:
      A scalar, or with ``reduce_fn=None`` the shape of ``logits`` without the last axis, in float32
      or float64.

    Raises:
      ValueError: shapes differ, or ``weights`` do not broadcast.
      TypeError: logits are not floating, or ``where`` is not boolean.

    Source: Cao et al. (2007).

    >>> jloss.ranking_softmax_loss(jnp.array([[2.0, 0.0, 1.0]]), jnp.array([[1.0, 0.0, 0.0]]))
    Array(0.40760595, dtype=float32)
    """
    loss = "ranking_softmax_loss"
    logits, labels = floats(loss, logits=logits, labels=labels)
    same_shape(loss, logits=logits, labels=labels)
    where = mask(loss, where, logits.shape, (logits.ndim - 1,))
    labels = keep(where, labels)
    lists = None if where is None else where.any(-1)
    logits = keep(
        where, logits, 0.0 if lists is None else jnp.where(lists[..., None], -jnp.inf, 0.0)
    )
    logits += nan_unless(loss, labels >= 0, "at least 0", labels=labels)
    if weights is not None:
        labels *= keep(where, jnp.broadcast_to(hyper(loss, labels, weights=weights), labels.shape))
    values = keep(lists, cross_entropy(logits, labels))
    if reduce_fn is jnp.mean:
        count = values.size if lists is None else lists.sum()
        return values.sum() / jnp.maximum(count, 1)
    return values if reduce_fn is None else reduce_fn(values, where=lists)
