"""Deliberately wrong losses and wrong claims, each with the check that must catch it, and how.

They show that the battery can fail. None of them enters the table of cards.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jloss
from jloss.card import REAL, Card


class Wrong(NamedTuple):
    card: Card
    check: str
    complaint: str


WRONG: list[Wrong] = []


def wrong(check: str, complaint: str, *, like: str, **claims) -> Callable:
    """The decorated function takes the card of the right loss, and ``claims`` of its own."""

    def put(loss):
        card = replace(
            _without_options(jloss.CARDS[like], loss), name=loss.__name__, loss=loss, **claims
        )
        WRONG.append(Wrong(card, check, complaint))
        return loss

    return put


def _without_options(card: Card, loss: Callable) -> Card:
    """The card of a loss that lacks some options: of the right one with these switched off."""
    off = {name: x for name, x in card.given.items() if name not in signature(loss).parameters}
    if not off:
        return card
    hyper = {name: domain for name, domain in card.hyper.items() if name not in off}
    return replace(card, hyper=hyper, exact=partial(card.exact, **off), scale=0.0, given={})


def wrong_claim(check: str, complaint: str, *, like: str, **claims) -> None:
    """The right loss with a wrong claim."""
    right = jloss.CARDS[like]
    claimed = "_".join(claims)
    WRONG.append(
        Wrong(replace(right, name=f"{like}_with_wrong_{claimed}", **claims), check, complaint)
    )


# Not finite, not accurate ------------------------------------------------------------------------


@wrong("finite", "value is", like="softmax_cross_entropy_with_integer_labels")
def overflowing_softmax(logits, labels, *, where=None):
    chosen = jnp.take_along_axis(logits, labels[..., None], -1)[..., 0]
    return jnp.log(jnp.exp(logits).sum(-1)) - chosen


@wrong(
    "finite",
    "value is",
    like="cosine_distance",
    hyper={},
    exact=lambda m, *rows: jloss.CARDS["cosine_distance"].exact(m, *rows, epsilon=0),
)
def cosine_of_nothing(predictions, targets, *, where=None):
    norms = jnp.linalg.norm(predictions, axis=-1) * jnp.linalg.norm(targets, axis=-1)
    return 1 - (predictions * targets).sum(-1) / norms


@wrong("finite", "value is", like="log_cosh")
def naive_log_cosh(predictions, targets, *, where=None):
    return jnp.log(jnp.cosh(predictions - targets))


@wrong(
    "accurate",
    "ulp in the gradient for predictions",
    like="softmax_cross_entropy_with_integer_labels",
    predictions=REAL,
)
def cross_entropy_by_log_softmax(logits, labels, *, where=None):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)[..., 0]


@wrong("accurate", "8.39e+06 ulp in the gradient for", like="huber_loss")
def huber_by_autodiff(predictions, targets, *, delta=1.0, where=None):
    return optax.losses.huber_loss(predictions, targets, delta=delta)


@wrong("accurate", "ulp in the value", like="log_cosh")
def log_cosh_by_log_add_exp(predictions, targets, *, where=None):
    return optax.losses.log_cosh(predictions, targets)


@wrong("accurate", "ulp in the", like="sigmoid_binary_cross_entropy")
def clipped_probabilities(logits, labels, *, where=None):
    likely = jnp.clip(jax.nn.sigmoid(logits), 1e-7, 1 - 1e-7)
    return -labels * jnp.log(likely) - (1 - labels) * jnp.log(1 - likely)


@wrong("accurate", "ulp in the gradient for delta", like="huber_loss")
def huber_that_forgets_its_delta(predictions, targets, *, delta=1.0, where=None):
    return jloss.huber_loss(predictions, targets, delta=jax.lax.stop_gradient(delta))


# Masks and empty inputs --------------------------------------------------------------------------


@wrong("masked", "gradient for hidden predictions", like="squared_error")
def masked_after_the_mathematics(predictions, targets, *, where=None):
    values = (predictions - targets) ** 2
    return values if where is None else jnp.where(where, values, 0)


@wrong("masked", "hidden value", like="absolute_error")
def masked_by_multiplication(predictions, targets, *, where=None):
    values = jnp.abs(predictions - targets)
    return values if where is None else values * where


@wrong("masked", "beside a hidden place", like="softmax_cross_entropy")
def masked_rows_but_not_classes(logits, labels, *, where=None):
    if where is None:
        return jloss.softmax_cross_entropy(logits, labels)
    shown = where if where.ndim == logits.ndim else where[..., None]
    seen = shown.any(-1)
    values = jloss.softmax_cross_entropy(jnp.where(shown, logits, 0), jnp.where(shown, labels, 0))
    return jnp.where(seen, values, 0)


@wrong("masked", "beside a hidden place", like="ntxent")
def masked_after_the_mean(embeddings, labels, temperature=0.07, *, where=None):
    if where is not None:
        embeddings = jnp.where(where[:, None], embeddings, 0)
    return jloss.ntxent(embeddings, labels, temperature)


@wrong("empty", "average of", like="ntxent")
def mean_of_no_pairs(embeddings, labels, temperature=0.07, *, where=None):
    shown = jnp.ones(labels.shape, bool) if where is None else where
    pairs = (labels[:, None] == labels) & shown[:, None] & shown & ~jnp.eye(len(labels), dtype=bool)
    return jloss.ntxent(embeddings, labels, temperature, where=where) * pairs.sum() / pairs.sum()


# Shapes and dtypes -------------------------------------------------------------------------------


@wrong("strict", "no error", like="squared_error")
def silently_broadcasting(predictions, targets, *, where=None):
    return (predictions - targets) ** 2


@wrong("strict", "does not name", like="absolute_error")
def speechless(predictions, targets, *, where=None):
    chex.assert_equal_shape([predictions, targets])
    chex.assert_type([predictions, targets], float)
    return jloss.absolute_error(predictions, targets, where=where)


@wrong("strict", "floating targets: no error", like="softmax_cross_entropy_with_integer_labels")
def truncated_labels(logits, labels, *, where=None):
    if labels.shape != logits.shape[:-1]:
        raise ValueError("truncated_labels: logits and labels must fit")
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError("truncated_labels: logits must be floating")
    if jnp.issubdtype(labels.dtype, jnp.complexfloating):
        raise TypeError("truncated_labels: labels must be real")
    labels = labels.astype(int)
    return jloss.softmax_cross_entropy_with_integer_labels(logits, labels, where=where)


@wrong("half", "is bfloat16", like="squared_error")
def half_precision_out(predictions, targets, *, where=None):
    return (predictions - targets) ** 2


@wrong("half", "of the same numbers in float32", like="softmax_cross_entropy")
def added_up_in_half_precision(logits, labels, *, where=None):
    return -(labels * jax.nn.log_softmax(logits)).sum(-1).astype(jnp.float32)


@wrong("double", "ulp in the", like="log_cosh")
def double_through_single(predictions, targets, *, where=None):
    residual = (predictions - targets).astype(jnp.float32)
    return jloss.log_cosh(residual).astype(predictions.dtype)


@wrong("double", "of float32 is float64", like="l2_loss")
def doubled_by_a_constant(predictions, targets, *, where=None):
    return np.float64(0.5) * (predictions - targets) ** 2


@wrong("double", "weakly", like="absolute_error")
def weakly_typed(predictions, targets, *, where=None):
    return jnp.where(predictions > targets, 1.0, -1.0)


# Transformations and derivatives -----------------------------------------------------------------


@wrong("stable", "TracerBoolConversionError", like="absolute_error")
def branching_in_python(predictions, targets, *, where=None):
    if jnp.all(predictions > targets):
        return predictions - targets
    return jnp.abs(predictions - targets)


@wrong("stable", "can be converted to", like="huber_loss")
def static_hyper_parameter(predictions, targets, *, delta=1.0, where=None):
    return jloss.huber_loss(predictions, targets, delta=float(delta))


@wrong("stable", "by eager", like="softmax_cross_entropy")
def normalised_over_the_batch(logits, labels, *, where=None):
    return -(labels * jax.nn.log_softmax(logits, axis=None)).sum(-1)


@jax.custom_vjp
def _square_in_reverse(residual):
    return residual**2


_square_in_reverse.defvjp(lambda r: (r**2, r), lambda r, cotangent: (2 * r * cotangent,))


@wrong("stable", "custom_vjp", like="squared_error")
def without_forward_mode(predictions, targets, *, where=None):
    return _square_in_reverse(predictions - targets)


@jax.custom_vjp
def _square_alone(residual):
    return residual**2


_square_alone.defvjp(lambda r: (r**2, r), lambda r, cotangent: (2 * r,))


@wrong("stable", "by jit and checkpoint", like="squared_error")
def differentiable_only_alone(predictions, targets, *, where=None):
    return _square_alone(predictions - targets)


@jax.custom_jvp
def _square_once(residual):
    return residual**2


@_square_once.defjvp
def _square_once_jvp(primals, tangents):
    return primals[0] ** 2, 2 * jax.lax.stop_gradient(primals[0]) * tangents[0]


@wrong("derivatives", "not the change of the gradient", like="squared_error")
def differentiable_once(predictions, targets, *, where=None):
    return _square_once(predictions - targets)


@wrong("derivatives", "the Hessian is not finite", like="log_cosh")
def infinite_curvature(predictions, targets, *, where=None):
    return jloss.log_cosh(predictions, targets) + 0 * jnp.abs(predictions - targets) ** 1.5


# Domains -----------------------------------------------------------------------------------------


@wrong("sign", "np.float32(-", like="kl_divergence")
def negative_by_rounding(log_predictions, targets, *, where=None):
    return jax.scipy.special.xlogy(targets, targets / jnp.exp(log_predictions)).sum(-1)


@wrong("sign", "np.float32(-", like="squared_error")
def expanded_square(predictions, targets, *, where=None):
    return predictions**2 - 2 * predictions * targets + targets**2


@wrong("outside", "value is", like="softmax_cross_entropy_with_integer_labels")
def label_that_wraps_around(logits, labels, *, where=None):
    own = jax.nn.one_hot(labels % logits.shape[-1], logits.shape[-1])
    return -(own * jax.nn.log_softmax(logits)).sum(-1)


@wrong("outside", "and not NaN", like="sigmoid_binary_cross_entropy")
def clamped_labels(logits, labels, *, where=None):
    return jloss.sigmoid_binary_cross_entropy(logits, jnp.clip(labels, 0, 1))


@wrong("outside", "predictions is", like="hinge_loss")
def bad_label_with_a_gradient(predictor_outputs, targets, *, where=None):
    values = jnp.maximum(0, 1 - predictor_outputs * targets)
    return values + jnp.where(jnp.abs(targets) == 1, 0, jnp.nan)


@wrong("outside", "no error under checkify", like="hinge_loss")
def bad_label_in_silence(predictor_outputs, targets, *, where=None):
    scores = predictor_outputs * jnp.where(jnp.abs(targets) == 1, 1, jnp.nan)
    return jnp.where(scores * targets >= 1, 0, 1 - scores * targets)


@wrong("outside", "predictions=nan", like="absolute_error")
def hidden_nan(predictions, targets, *, where=None):
    return jnp.abs(jnp.nan_to_num(predictions) - targets)


# Kinks -------------------------------------------------------------------------------------------


@wrong("kinks", "a minimum whose gradient is not 0", like="hinge_loss")
def half_a_gradient_at_the_margin(predictor_outputs, targets, *, where=None):
    return jnp.maximum(0, 1 - predictor_outputs * targets)


@wrong("kinks", "no subgradient", like="absolute_error")
def steep_at_the_kink(predictions, targets, *, where=None):
    residual = predictions - targets
    return jnp.where(residual == 0, 2 * residual, jnp.abs(residual))


# Wrong claims ------------------------------------------------------------------------------------

wrong_claim("convex", "above the chord", like="sigmoid_focal_loss", convex=True)
wrong_claim("convex", "above the chord", like="cosine_distance", convex=True)
wrong_claim("convex", "no chord was found", like="squared_error", convex=False)
wrong_claim("lipschitz", "times the", like="huber_loss", lipschitz=lambda delta: 0.5 * delta)
wrong_claim("lipschitz", "times the", like="squared_error", lipschitz=100.0)
wrong_claim("lipschitz", "no more than", like="log_cosh", lipschitz=2.0)
wrong_claim("smooth", "times the", like="sigmoid_binary_cross_entropy", smooth=0.2)
wrong_claim("smooth", "no more than", like="sigmoid_binary_cross_entropy", smooth=0.5)
wrong_claim("kinks", "gradient jumps", like="absolute_error", kinks=False)
wrong_claim("kinks", "gradient jumps", like="multiclass_hinge_loss", kinks=False)
wrong_claim("kinks", "no jump", like="log_cosh", kinks=lambda targets: targets)
wrong_claim("kinks", "no jump", like="hinge_loss", kinks=lambda targets: -targets)
wrong_claim("minimum", "nothing below", like="l2_loss", minimum=-1.0)
wrong_claim("minimum", " at predictions", like="l2_loss", minimum=0.5)
wrong_claim("minimum", "no minimum", like="log_cosh", minimizer=lambda targets: targets + 1)
wrong_claim("maximum", " at predictions", like="cosine_distance", maximum=1.0)
wrong_claim("maximum", "nothing above", like="cosine_distance", maximum=3.0)
wrong_claim("symmetric", "swapped", like="quantile_loss", symmetric=True)
wrong_claim("symmetric", "changed nothing", like="absolute_error", symmetric=False)
wrong_claim("elicits", "has the risk", like="huber_loss", elicits="mean")
wrong_claim("elicits", "has the risk", like="sigmoid_focal_loss", elicits="probability")
wrong_claim("elicits", "has the risk", like="absolute_error", elicits="mean")
wrong_claim("elicits", "has the risk", like="squared_error", elicits="median")
wrong_claim("invariant", "after a shift", like="hinge_loss", invariant=("shift",))
wrong_claim("invariant", "after a scale", like="log_cosh", invariant=("scale",))
wrong_claim("invariant", "after a translation", like="cosine_distance", invariant=("translation",))
wrong_claim("accurate", "ulp are claimed", like="log_cosh", ulp=1)
