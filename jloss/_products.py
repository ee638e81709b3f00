"""Curvature on one batch as a linear function: of Hessian, Gauss–Newton matrix, empirical Fisher.

Each form has ``linear(at, flat, hyper, batch)``: the product with a flat vector, as a total over
the batch, and the batch's weight. ``at`` makes params of a flat vector.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from jloss.average import Average, Terms, average
from jloss.losses.binary import sigmoid_binary_cross_entropy
from jloss.losses.classification import (
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)
from jloss.losses.regression import l2_loss, squared_error
from jloss.objective import Objective, _of_values, _parts, call, objective

Linear: TypeAlias = Callable[[Array], Array]


@dataclass(frozen=True)
class Hessian:
    objective: Objective

    def linear(self, at: Callable, flat: Array, hyper: Any, batch: Any) -> tuple[Linear, Array]:
        def total(flat: Array) -> tuple[Array, Array]:
            found, _ = call(self.objective, at(flat), batch)
            return _share(found, hyper["whole"]) if hyper else (found.total, found.weight)

        _, product, weight = jax.linearize(jax.grad(total, has_aux=True), flat, has_aux=True)
        return product, weight


def _share(part: Terms, whole: Terms) -> tuple[Array, Array]:
    """A batch's share in the value over all of them, and in their number: both add up exactly."""
    weights = Terms({name: Average(a.weight, a.weight) for name, a in part.averages.items()})
    counting = sum(jnp.where(a.weight == 0, 0, 1) for a in whole.averages.values())
    return part.part_of(whole), weights.part_of(whole) / jnp.maximum(counting, 1)


@dataclass(frozen=True)
class GaussNewton:
    apply: Callable
    loss: Callable
    fixed: tuple[tuple[str, Any], ...]

    def linear(self, at: Callable, flat: Array, hyper: Any, batch: Any) -> tuple[Linear, Array]:
        predictions, push = jax.linearize(lambda flat: self.apply(at(flat), _parts(batch)[0]), flat)
        pull = jax.linear_transpose(push, flat)
        bend, weight = _output_hessian(self.loss, predictions, batch, dict(self.fixed) | hyper)
        return lambda vector: pull(bend(push(vector)))[0], weight


@dataclass(frozen=True)
class EmpiricalFisher:
    apply: Callable
    loss: Callable
    fixed: tuple[tuple[str, Any], ...]

    def linear(self, at: Callable, flat: Array, hyper: Any, batch: Any) -> tuple[Linear, Array]:
        inputs, targets, where, weights = _parts(batch)
        hyper = dict(self.fixed) | hyper
        masked = {} if where is None else {"where": where}

        def values(flat: Array) -> Array:
            return self.loss(self.apply(at(flat), inputs), targets, **masked, **hyper)

        found, push = jax.linearize(values, flat)
        pull = jax.linear_transpose(push, flat)
        if where is not None:
            where = _of_values(jnp.asarray(where), found, hyper.get("axis", -1))
        shares = average(jnp.ones_like(found), where=where, weights=weights)
        share = jax.grad(lambda values: average(values, where=where, weights=weights).total)(found)
        return lambda vector: pull(share * push(vector))[0], shares.weight


def _output_hessian(
    loss: Callable, predictions: Array, batch: Any, hyper: Mapping[str, Any]
) -> tuple[Linear, Array]:
    """The Hessian of a batch's total loss in the predictions, as a product; and its weight."""
    inputs, targets, where, weights = _parts(batch)
    batch = {"inputs": inputs, "targets": targets, "where": where, "weights": weights}

    def averaged(loss: Callable, predictions: Array) -> Average:
        return objective(lambda predictions, _: predictions, loss, **hyper)(predictions, batch)

    weight = averaged(loss, predictions).weight
    if loss not in CURVED:
        gradient = jax.grad(lambda predictions: averaged(loss, predictions).total)
        return jax.linearize(gradient, predictions)[1], weight

    def bend(vector: Array) -> Array:
        form = partial(_form, CURVED[loss], predictions, vector)
        # The form is linear in its argument; its gradient is the product, weighted and masked.
        return jax.grad(lambda probe: averaged(form, probe).total)(jnp.zeros_like(predictions))

    return bend, weight


def _form(
    curved: Callable,
    predictions: Array,
    vector: Array,
    probe: Array,
    targets: Any = None,
    axis: int | tuple[int, ...] = -1,
    *,
    where: Array | None = None,
    **hyper: Any,
) -> Array:
    return curved(predictions, vector, probe, targets, axis, where)


def _softmax_form(logits, vector, probe, labels, axis, where) -> Array:
    r"""``probe^T (diag(p) - p p^T) vector`` of every example, times the sum of its labels."""
    if where is not None and where.ndim < logits.ndim:
        where = None  # it masks whole examples, which the average does
    if where is not None:
        logits = jnp.where(where, logits, -jnp.inf)
        logits = jnp.where(where.any(axis, keepdims=True), logits, 0.0)
    probability = jax.nn.softmax(logits, axis)
    mean = jnp.sum(probability * vector, axis, keepdims=True)
    values = jnp.sum(probe * probability * (vector - mean), axis)
    if jnp.ndim(labels) < logits.ndim:
        return values
    return values * jnp.sum(labels if where is None else jnp.where(where, labels, 0), axis)


def _sigmoid_form(logits, vector, probe, *_) -> Array:
    return probe * vector * jax.nn.sigmoid(logits) * jax.nn.sigmoid(-logits)


# Losses whose Hessian in the predictions is written down: each is a negative log-likelihood in
# its natural parameter, whose Hessian does not depend on what was observed.
CURVED = {
    softmax_cross_entropy: _softmax_form,
    softmax_cross_entropy_with_integer_labels: _softmax_form,
    sigmoid_binary_cross_entropy: _sigmoid_form,
    squared_error: lambda predictions, vector, probe, *_: 2.0 * probe * vector,
    l2_loss: lambda predictions, vector, probe, *_: probe * vector,
}
