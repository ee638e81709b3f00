r"""Margin losses: of a score times a sign, or of a class's score against the others'.

They want a right answer by a margin, and no probabilities: those are in ``classification.py``.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._compiled import compiled
from jloss._safe import (
    chain,
    class_indices,
    floats,
    hyper,
    is_class,
    keep,
    largest,
    mask,
    nan_unless,
    nan_unless_class,
    ramp,
    same_shape,
    softplus,
    two_difference,
)
from jloss.card import BINARY, CLASS, LOGIT, NONNEGATIVE, ONE_HOT, REAL, SIGN, card

# Of a score times a sign -------------------------------------------------------------------------


def _signed(
    loss: str, predictor_outputs: ArrayLike, targets: ArrayLike, where: ArrayLike | None
) -> tuple[Array, Array | None]:
    """Scores times signs, 1 where hidden; and the mask."""
    scores, signs = floats(loss, predictor_outputs=predictor_outputs, targets=targets)
    same_shape(loss, predictor_outputs=scores, targets=signs)
    where = mask(loss, where, scores.shape)
    scores, signs = keep(where, scores), keep(where, signs, 1)
    spoilt = nan_unless(loss, jnp.abs(signs) == 1, "-1 or 1", targets=signs)
    # Times, for added to the scores it would leave a constant slope as it is.
    return scores * (1.0 + spoilt) * signs, where


@card(
    values="element",
    predictions=REAL,
    targets=SIGN,
    exact=lambda m, score, sign: max(m.mpf(0), 1 - sign * score),
    source="Cortes & Vapnik (1995), Support-vector networks, Machine Learning 20(3)",
    also=dict(optax="losses.hinge_loss", keras="losses.hinge", sklearn="metrics.hinge_loss"),
    ulp=1,
    minimum=0.0,
    minimizer=lambda targets: targets,
    convex=True,
    lipschitz=1.0,
    kinks=lambda targets: targets,
    elicits="mode",
)
@compiled
def hinge_loss(
    predictor_outputs: ArrayLike, targets: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
    r"""Zero once the score has the right sign by a margin of 1, linear before: the SVM's loss.

    .. math:: L(s, t) = \max(0, 1 - s t)

    Args:
      predictor_outputs: scores of any shape.
      targets: the same shape; -1 or 1, NaN otherwise.
      where: boolean mask of what counts, of the same rank.

    Returns:
      One value an element, in float32 or float64. The gradient is :math:`-t` before the margin and
      0 beyond it; at the kink, which is a minimum, it is 0.

    Raises:
      ValueError: shapes differ.
      TypeError: scores are not floating, or ``where`` is not boolean.

    Prefer it where only the decision counts: its best score is the sign of the likelier class.
    Source: Cortes & Vapnik (1995).

    >>> jloss.hinge_loss(jnp.array([0.5, -2.0, 3.0]), jnp.array([1.0, 1.0, 1.0]))
    Array([0.5, 3. , 0. ], dtype=float32)
    """
    agreement, where = _signed("hinge_loss", predictor_outputs, targets, where)
    return keep(where, ramp(1.0 - agreement))


@card(
    values="element",
    predictions=REAL,
    targets=SIGN,
    exact=lambda m, score, sign: max(m.mpf(0), 1 - sign * score) ** 2,
    source="Chang & Lin (2011), LIBSVM: a library for support vector machines, ACM TIST 2(3)",
    also=dict(keras="losses.squared_hinge"),
    ulp=2,
    minimum=0.0,
    minimizer=lambda targets: targets,
    convex=True,
    smooth=2.0,
    kinks=False,
    elicits="mean",
)
@compiled
def squared_hinge_loss(
    predictor_outputs: ArrayLike, targets: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
    r"""The hinge loss squared: no kink, and examples far on the wrong side count for more.

    .. math:: L(s, t) = \max(0, 1 - s t)^2

    Args:
      predictor_outputs: scores of any shape.
      targets: the same shape; -1 or 1, NaN otherwise.
      where: boolean mask of what counts, of the same rank.

    Returns:
      One value an element, in float32 or float64. The gradient is continuous; the second derivative
      is 2 before the margin and 0 beyond it.

    Raises:
      ValueError: shapes differ.
      TypeError: scores are not floating, or ``where`` is not boolean.

    Prefer it to `hinge_loss` for smooth optimisers, and where a score is to say how likely a class
    is: the best one is the mean of the signs. Keras takes 0 and 1 for signs and averages the last
    axis. Source: Chang & Lin (2011).

    >>> jloss.squared_hinge_loss(jnp.array([0.5, -2.0, 3.0]), jnp.array([1.0, 1.0, 1.0]))
    Array([0.25, 9.  , 0.  ], dtype=float32)
    """
    agreement, where = _signed("squared_hinge_loss", predictor_outputs, targets, where)
    return keep(where, jnp.square(ramp(1.0 - agreement)))


@card(
    values="element",
    predictions=LOGIT,
    targets=SIGN,
    exact=lambda m, score, sign: m.log1p(m.exp(-score if sign > 0 else score)),
    source="Cox (1958), The regression analysis of binary sequences, J. R. Stat. Soc. B 20(2)",
    also=dict(torch="nn.functional.soft_margin_loss"),
    ulp=4,
    minimum=0.0,
    convex=True,
    lipschitz=1.0,
    smooth=0.25,
    kinks=False,
    elicits="probability",
)
@compiled
def soft_margin_loss(
    predictor_outputs: ArrayLike, targets: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
    r"""A smooth hinge: the logistic loss of a score times a sign.

    .. math:: L(s, t) = \log(1 + e^{-s t})

    Args:
      predictor_outputs: scores of any shape; infinities are allowed.
      targets: the same shape; -1 or 1, NaN otherwise.
      where: boolean mask of what counts, of the same rank.

    Returns:
      One value an element, in float32 or float64. No score overflows: at -200 against the sign the
      value is 200, where torch gives infinity. There is a gradient for scores, and none for signs.

    Raises:
      ValueError: shapes differ.
      TypeError: scores are not floating, or ``where`` is not boolean.

    It is `sigmoid_binary_cross_entropy` for signs, so a score is the log-odds of a 1.
    Source: Cox (1958).

    >>> jloss.soft_margin_loss(jnp.array([0.0, -200.0]), jnp.array([1.0, 1.0]))
    Array([  0.6931472, 200.       ], dtype=float32)
    """
    # The slope for a sign is the score times what underflows; a sign needs none.
    targets = jax.lax.stop_gradient(jnp.asarray(targets))
    agreement, where = _signed("soft_margin_loss", predictor_outputs, targets, where)
    return keep(where, softplus(-agreement))


@card(
    values="element",
    predictions=REAL,
    targets=SIGN,
    exact=lambda m, score, sign: max(m.mpf(0), -sign * score),
    source="Rosenblatt (1958), The perceptron: a probabilistic model for information storage and "
    "organization in the brain, Psychological Review 65(6)",
    also=dict(optax="losses.perceptron_loss"),
    ulp=1,
    minimum=0.0,
    minimizer=lambda targets: targets,
    convex=True,
    lipschitz=1.0,
    kinks=lambda targets: 0.0 * targets,
)
@compiled
def perceptron_loss(
    predictor_outputs: ArrayLike, targets: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
    r"""Zero once the score has the right sign, however barely, linear before.

    .. math:: L(s, t) = \max(0, -s t)

    Args:
      predictor_outputs: scores of any shape.
      targets: the same shape; -1 or 1, NaN otherwise.
      where: boolean mask of what counts, of the same rank.

    Returns:
      One value an element, in float32 or float64. The gradient is :math:`-t` on the wrong side and
      0 elsewhere, at the kink too.

    Raises:
      ValueError: shapes differ.
      TypeError: scores are not floating, or ``where`` is not boolean.

    Prefer `hinge_loss`: without a margin the score 0 has no loss for either sign, so that nothing
    keeps a model from answering 0 to everything. Source: Rosenblatt (1958).

    >>> jloss.perceptron_loss(jnp.array([0.5, -2.0, 0.0]), jnp.array([1.0, 1.0, 1.0]))
    Array([0., 2., 0.], dtype=float32)
    """
    agreement, where = _signed("perceptron_loss", predictor_outputs, targets, where)
    return keep(where, ramp(-agreement))


# Of a class's score against the others' ----------------------------------------------------------


def _classes(
    loss: str, scores: ArrayLike, labels: ArrayLike, where: ArrayLike | None
) -> tuple[Array, Array, Array, Array | None]:
    """Scores, that of the right class, where its rivals are, and the mask of whole examples."""
    (scores,) = floats(loss, scores=scores)
    axis = scores.ndim - 1
    labels = class_indices(loss, labels, (axis,), scores=scores)
    where = mask(loss, where, scores.shape, (axis,))
    scores, seen = keep(where, scores), None if where is None else where.any(-1)
    labels = keep(seen, labels)
    scores *= 1.0 + nan_unless_class(loss, labels, scores)[..., None]
    own = is_class(scores, labels)
    rivals = ~own if where is None else ~own & where
    return scores, jnp.where(own, scores, 0.0).sum(-1), rivals, seen


def _behind_by(margin: float | Array, score: Array, rival: Array) -> Array:
    """What a score lacks of leading its rival by a margin, at least 0."""
    lead, lost = two_difference(rival, score)
    return ramp((margin + lead) + lost)


def _exact_multiclass_hinge(m, scores, label):
    others = [score for place, score in enumerate(scores) if place != label]
    return max([m.mpf(0), *(1 + other - scores[label] for other in others)])


@card(
    values="example",
    predictions=REAL,
    targets=CLASS,
    exact=_exact_multiclass_hinge,
    source="Crammer & Singer (2001), On the algorithmic implementation of multiclass kernel-based "
    "vector machines, JMLR 2",
    also=dict(optax="losses.multiclass_hinge_loss", sklearn="metrics.hinge_loss"),
    ulp=1,
    minimum=0.0,
    convex=True,
    lipschitz=math.sqrt(2),
    invariant=("shift",),
)
@compiled
def multiclass_hinge_loss(
    scores: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
    r"""Zero once the class leads all others by a margin of 1, linear in what it lacks before.

    .. math:: L(s, c) = \max\bigl(0,\ 1 + \max_{k \ne c} s_k - s_c\bigr)

    Args:
      scores: one a class along the last axis.
      labels: integer classes from 0 to C - 1, NaN for the example otherwise; the shape of
        ``scores`` without the last axis.
      where: boolean mask of what counts: of the shape of ``labels``, or of the rank of the scores,
        which leaves classes out.

    Returns:
      The shape of ``labels``, in float32 or float64. The gradient is -1 at the class and 1 at its
      strongest rival (shared equally among rivals that tie); at a margin of exactly 1 it is 0.

    Raises:
      ValueError: shapes do not fit.
      TypeError: scores are not floating, labels not integers, or ``where`` not boolean.

    Prefer `softmax_cross_entropy_with_integer_labels` where probabilities are wanted: where no
    class has a majority, the best scores of this loss need not even show the likeliest class.
    Source: Crammer & Singer (2001).

    >>> scores = jnp.array([[2.0, 1.5, -1.0], [0.0, 3.0, 1.0]])
    >>> jloss.multiclass_hinge_loss(scores, jnp.array([0, 1]))
    Array([0.5, 0. ], dtype=float32)
    """
    scores, own, rivals, seen = _classes("multiclass_hinge_loss", scores, labels, where)
    strongest = largest(jnp.where(rivals, scores, -jnp.inf), -jnp.inf)
    return keep(seen, _behind_by(1.0, own, strongest))


def _exact_multiclass_perceptron(m, scores, label):
    return max(scores) - scores[label]


@card(
    values="example",
    predictions=REAL,
    targets=CLASS,
    exact=_exact_multiclass_perceptron,
    source="Collins (2002), Discriminative training methods for hidden Markov models: theory and "
    "experiments with perceptron algorithms, EMNLP",
    also=dict(optax="losses.multiclass_perceptron_loss"),
    ulp=1,
    minimum=0.0,
    convex=True,
    lipschitz=math.sqrt(2),
    invariant=("shift",),
)
@compiled
def multiclass_perceptron_loss(
    scores: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
    r"""By how much another class leads the right one; zero where none does.

    .. math:: L(s, c) = \max_k s_k - s_c

    Args:
      scores: one a class along the last axis.
      labels: integer classes from 0 to C - 1, NaN for the example otherwise; the shape of
        ``scores`` without the last axis.
      where: boolean mask of what counts: of the shape of ``labels``, or of the rank of the scores,
        which leaves classes out.

    Returns:
      The shape of ``labels``, in float32 or float64. The gradient is -1 at the class and 1 at its
      strongest rival (shared equally among rivals that tie); it is 0 where the class ties with
      them.

    Raises:
      ValueError: shapes do not fit.
      TypeError: scores are not floating, labels not integers, or ``where`` not boolean.

    Prefer `multiclass_hinge_loss`, which asks for a lead and not only for a tie.
    Source: Collins (2002).

    >>> scores = jnp.array([[2.0, 2.5, -1.0], [0.0, 3.0, 1.0]])
    >>> jloss.multiclass_perceptron_loss(scores, jnp.array([0, 1]))
    Array([0.5, 0. ], dtype=float32)
    """
    scores, own, rivals, seen = _classes("multiclass_perceptron_loss", scores, labels, where)
    strongest = largest(jnp.where(rivals, scores, -jnp.inf), -jnp.inf)
    return keep(seen, _behind_by(0.0, own, strongest))


def _exact_categorical_hinge(m, scores, labels):
    pairs = list(zip(scores, labels, strict=True))
    strongest = max((1 - label) * score for score, label in pairs)
    return max(m.mpf(0), 1 + strongest - m.fsum(label * score for score, label in pairs))


@card(
    values="example",
    predictions=REAL,
    targets=ONE_HOT,
    exact=_exact_categorical_hinge,
    source="Keras (2015), categorical_hinge; a variant of Crammer & Singer (2001)",
    also=dict(keras="losses.categorical_hinge"),
    ulp=1,
    minimum=0.0,
    convex=True,
    lipschitz=math.sqrt(2),
    invariant=("permutation",),
)
@compiled
def categorical_hinge_loss(
    scores: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
    r"""Zero once the class leads all others, and zero, by a margin of 1: the hinge of Keras.

    .. math:: L(s, y) = \max\bigl(0,\ 1 + \max_k (1 - y_k) s_k - \sum_k y_k s_k\bigr)

    Args:
      scores: one a class along the last axis.
      labels: the same shape; one-hot, NaN for the example where one is neither 0 nor 1.
      where: boolean mask of what counts: of the shape of the result, or of the rank of the scores,
        which leaves classes out.

    Returns:
      The shape of ``scores`` without the last axis, in float32 or float64.

    Raises:
      ValueError: shapes differ.
      TypeError: scores are not floating, or ``where`` is not boolean.

    Prefer `multiclass_hinge_loss`, the loss of Crammer and Singer, which compares scores with each
    other only: in this one the right class takes part as its own rival with a score of 0, so that
    adding a constant to all scores changes the value. Source: Keras (2015).

    >>> scores = jnp.array([[-2.0, -3.5], [0.5, -1.0]])
    >>> jloss.categorical_hinge_loss(scores, jnp.array([[1.0, 0.0], [1.0, 0.0]]))
    Array([3. , 0.5], dtype=float32)
    """
    loss = "categorical_hinge_loss"
    scores, labels = floats(loss, scores=scores, labels=labels)
    same_shape(loss, scores=scores, labels=labels)
    where = mask(loss, where, scores.shape, (scores.ndim - 1,))
    scores, labels = keep(where, scores), keep(where, labels)
    spoilt = nan_unless(loss, (labels == 0) | (labels == 1), "0 or 1", labels=labels)
    scores *= 1.0 + spoilt.sum(-1, keepdims=True)
    others = (1.0 - labels) * scores
    strongest = largest(others if where is None else jnp.where(where, others, -jnp.inf), -jnp.inf)
    own = (labels * scores).sum(-1)
    return keep(None if where is None else where.any(-1), _behind_by(1.0, own, strongest))


def _exact_multi_margin(m, scores, label, margin):
    shortfalls = [max(m.mpf(0), margin - scores[label] + score) for score in scores]
    return m.fsum(s for k, s in enumerate(shortfalls) if k != label) / len(scores)


@card(
    values="example",
    predictions=REAL,
    targets=CLASS,
    hyper=dict(margin=NONNEGATIVE),
    exact=_exact_multi_margin,
    source="Weston & Watkins (1999), Support vector machines for multi-class pattern recognition, "
    "ESANN",
    also=dict(torch="nn.functional.multi_margin_loss"),
    ulp=4,
    minimum=0.0,
    convex=True,
    invariant=("shift",),
)
@compiled
def multi_margin_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    p: int = 1,
    margin: ArrayLike = 1.0,
    where: ArrayLike | None = None,
) -> Array:
    r"""What the class lacks of leading each other class by a margin, averaged over the classes.

    .. math:: L(s, c) = \frac1C \sum_{k \ne c} \max(0,\ m - s_c + s_k)^p

    Args:
      scores: one a class along the last axis.
      labels: integer classes from 0 to C - 1, NaN for the example otherwise; the shape of
        ``scores`` without the last axis.
      p: 1, or 2 for a gradient that is continuous.
      margin: :math:`m`, in the units of the scores; at least 0, NaN otherwise. It broadcasts to
        ``labels``.
      where: boolean mask of what counts: of the shape of ``labels``, or of the rank of the scores,
        which leaves classes out.

    Returns:
      The shape of ``labels``, in float32 or float64. At a lead of exactly the margin the gradient
      is 0.

    Raises:
      ValueError: shapes do not fit, or ``p`` is neither 1 nor 2.
      TypeError: scores are not floating, labels not integers, or ``where`` not boolean.

    Prefer `multiclass_hinge_loss` where only the strongest rival is to count. Torch's class weights
    multiply the values: take ``class_weights[labels] * values``; torch's mean of these divides by
    the number of examples, not by the sum of their weights. Source: Weston & Watkins (1999).

    >>> scores = jnp.array([[2.0, 1.5, 3.0, 0.0], [0.0, 3.0, 1.0, 2.5]])
    >>> jloss.multi_margin_loss(scores, jnp.array([0, 1]))
    Array([0.625, 0.125], dtype=float32)
    """
    loss = "multi_margin_loss"
    if p not in (1, 2):
        raise ValueError(f"{loss}: p must be 1 or 2, not {p}.")
    axis = jnp.ndim(scores) - 1
    flags = mask(loss, where, jnp.shape(scores), (axis,))
    scores, own, rivals, seen = _classes(loss, scores, labels, where)
    margin = hyper(loss, scores, rows=True, margin=margin)
    spoilt = nan_unless(loss, margin >= 0, "at least 0", margin=margin)
    scores *= 1.0 + spoilt[..., None]
    shortfall = _behind_by(margin[..., None], own[..., None], scores)
    total = jnp.where(rivals, shortfall**p, 0.0).sum(-1)
    classes = scores.shape[-1] if flags is None else flags.sum(-1)
    return keep(seen, total / jnp.maximum(classes, 1))


def _exact_multilabel_margin(m, scores, labels):
    pairs = list(zip(scores, labels, strict=True))
    right = [score for score, label in pairs if label > 0.5]
    wrong = [score for score, label in pairs if label <= 0.5]
    return m.fsum(max(m.mpf(0), 1 - s + rival) for s in right for rival in wrong) / len(scores)


@card(
    values="example",
    predictions=REAL,
    targets=BINARY,
    exact=_exact_multilabel_margin,
    source="Elisseeff & Weston (2001), A kernel method for multi-labelled classification, NeurIPS",
    also=dict(torch="nn.functional.multilabel_margin_loss"),
    ulp=4,
    minimum=0.0,
    convex=True,
    invariant=("shift", "permutation"),
)
@compiled
def multilabel_margin_loss(
    scores: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
    r"""What each right class lacks of leading each wrong one by a margin of 1.

    .. math:: L(s, y) = \frac1C \sum_{j: y_j = 1} \sum_{k: y_k = 0} \max(0,\ 1 - s_j + s_k)

    Args:
      scores: one a class along the last axis.
      labels: the same shape; 1 for each class that is right and 0 for the others, NaN for the
        example otherwise.
      where: boolean mask of what counts: of the shape of the result, or of the rank of the scores,
        which leaves classes out.

    Returns:
      The shape of ``scores`` without the last axis, in float32 or float64; 0 where all classes are
      right, or none. Each pair whose lead is exactly 1 has a gradient of 0. All pairs of classes
      are compared, without storing them.

    Raises:
      ValueError: shapes differ.
      TypeError: scores are not floating, or ``where`` is not boolean.

    Prefer it where several classes may be right and only their order counts; for probabilities see
    `sigmoid_binary_cross_entropy`. Torch wants the indices of the right classes instead, ended by
    -1: ``[3, 0, -1, 1]``. Neither shape nor dtype tells that from zeros and ones, so it is not
    guessed; a -1 gives NaN. The example converts it. Source: Elisseeff & Weston (2001).

    >>> scores = jnp.array([[0.1, 0.2, 0.4, 0.8]])
    >>> jloss.multilabel_margin_loss(scores, jnp.array([[1.0, 0.0, 0.0, 1.0]]))
    Array([0.85], dtype=float32)

    >>> indices = jnp.array([[3, 0, -1, 1]])
    >>> ended = jnp.cumsum(indices < 0, axis=-1) > 0
    >>> jax.nn.one_hot(jnp.where(ended, -1, indices), 4).max(-2)
    Array([[1., 0., 0., 1.]], dtype=float32)
    """
    loss = "multilabel_margin_loss"
    scores, labels = floats(loss, scores=scores, labels=labels)
    same_shape(loss, scores=scores, labels=labels)
    where = mask(loss, where, scores.shape, (scores.ndim - 1,))
    scores, labels = keep(where, scores), keep(where, labels)
    spoilt = nan_unless(loss, (labels == 0) | (labels == 1), "0 or 1", labels=labels)
    spoilt = spoilt.sum(-1, keepdims=True)
    right = labels == 1
    wrong = ~right if where is None else ~right & where
    total = _order_hinge(scores * (1.0 + spoilt), right, wrong) + spoilt[..., 0]
    if where is None:
        return total / scores.shape[-1]
    return keep(where.any(-1), total / jnp.maximum(where.sum(-1), 1))


def _over_classes(
    term: Callable[[Array, Array, Array], Array], scores: Array, right: Array, wrong: Array
) -> Array:
    """The sum of a term over the classes, one after the other: all pairs are never stored."""

    def add(place: Array, total: Array) -> Array:
        one = (jax.lax.dynamic_index_in_dim(x, place, -1) for x in (scores, right, wrong))
        return total + term(*one)

    return jax.lax.fori_loop(0, scores.shape[-1], add, jnp.zeros_like(scores))


@jax.custom_jvp
def _order_hinge(scores: Array, right: Array, wrong: Array) -> Array:
    """What right classes lack of leading wrong ones by 1, summed over the pairs of each row."""

    def lacking(score: Array, is_right: Array, _: Array) -> Array:
        return jnp.where(is_right & wrong, _behind_by(1.0, score, scores), 0.0)

    return _over_classes(lacking, scores, right, wrong).sum(-1)


@partial(_order_hinge.defjvp, symbolic_zeros=True)
def _order_hinge_jvp(primals, tangents):
    scores, right, wrong = primals

    def push(score: Array, is_right: Array, is_wrong: Array) -> Array:
        up = is_right & wrong & (_behind_by(1.0, score, scores) > 0)
        down = is_wrong & right & (_behind_by(1.0, scores, score) > 0)
        return up.astype(scores.dtype) - down.astype(scores.dtype)

    slope = _over_classes(push, scores, right, wrong)
    return chain(_order_hinge(*primals), (slope, tangents[0]), axis=-1)
