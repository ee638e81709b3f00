r"""Margin losses: of a score times a sign, or of a class's score against the others'.

They want a right answer by a margin, and no probabilities: those are in ``classification.py``.
"""

import math

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._safe import (
    class_indices,
    floats,
    is_class,
    keep,
    mask,
    nan_unless,
    nan_unless_class,
    same_shape,
    two_difference,
)
from jloss.card import CLASS, REAL, SIGN, card


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
    scores, signs = floats("hinge_loss", predictor_outputs=predictor_outputs, targets=targets)
    same_shape("hinge_loss", predictor_outputs=scores, targets=signs)
    where = mask("hinge_loss", where, scores.shape)
    scores, signs = keep(where, scores), keep(where, signs, 1)
    spoilt = nan_unless("hinge_loss", jnp.abs(signs) == 1, "-1 or 1", targets=signs)
    scores *= 1.0 + spoilt  # added to the scores, it would leave a constant slope as it is
    return keep(where, _ramp(1.0 - scores * signs))


def _ramp(shortfall: Array) -> Array:
    """Where positive, itself; the gradient at 0 is 0 (`jnp.maximum` has a half), NaN stays."""
    return jnp.where(shortfall <= 0, 0.0, shortfall)


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
    loss = "multiclass_hinge_loss"
    (scores,) = floats(loss, scores=scores)
    axis = scores.ndim - 1
    labels = class_indices(loss, labels, (axis,), scores=scores)
    where = mask(loss, where, scores.shape, (axis,))
    scores, seen = keep(where, scores), None if where is None else where.any(-1)
    labels = keep(seen, labels)
    scores *= 1.0 + nan_unless_class(loss, labels, scores)
    own = is_class(scores, labels)
    rivals = ~own if where is None else ~own & where
    rival = jnp.where(rivals, scores, -jnp.inf).max(-1, initial=-jnp.inf)
    lead, lost = two_difference(rival, jnp.where(own, scores, 0.0).sum(-1))
    return keep(seen, _ramp((1.0 + lead) + lost))
