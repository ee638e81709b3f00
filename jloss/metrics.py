"""Metrics: what a loss stands in for, one value per example, to be averaged by `objective`."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def accuracy(logits: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None) -> Array:
    """1 where the most probable class is the label, 0 where it is not.

    Labels of the shape of the logits are binary: class 1 is predicted where the logit is above
    0. Otherwise they are class indices, and of several largest logits the first one is taken.
    (One-hot labels would be read as binary ones: pass ``jnp.argmax(labels, -1)``.)

    Args:
      logits: ``(..., classes)``, or the shape of ``labels`` if they are binary.
      labels: ``(...)``, integers; binary labels may be booleans or floats 0.0 and 1.0.
      where: boolean mask of what counts, broadcast to the labels' shape; with the rank of the
        logits it masks classes.

    Returns:
      Float32 values of the shape of ``labels``, to be averaged: 0 where masked out, NaN where a
      logit is NaN or the label is not one of the classes.

    Raises:
      ValueError: the shapes do not fit.
      TypeError: labels that are class indices are not integers.

    >>> logits = jnp.array([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    >>> jloss.accuracy(logits, jnp.array([0, 1]))
    Array([1., 0.], dtype=float32)
    >>> jloss.accuracy(jnp.array([-3.0, 3.0]), jnp.array([0, 0]))
    Array([1., 0.], dtype=float32)
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    where = None if where is None else jnp.asarray(where)
    if logits.shape == labels.shape:
        hit, known = (logits > 0) == (labels == 1), (labels == 0) | (labels == 1)
        known &= ~jnp.isnan(logits)
    elif logits.shape[:-1] == labels.shape:
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            raise TypeError(f"accuracy: labels are class indices, not {labels.dtype}")
        if where is not None and where.ndim == logits.ndim:
            logits, where = jnp.where(where, logits, -jnp.inf), jnp.any(where, axis=-1)
        hit, known = jnp.argmax(logits, axis=-1) == labels, labels < logits.shape[-1]
        known &= (labels >= 0) & ~jnp.any(jnp.isnan(logits), axis=-1)
    else:
        raise ValueError(
            f"accuracy: labels {labels.shape} must have the shape of the logits {logits.shape} "
            "(binary) or that shape without the class axis (class indices)"
        )
    values = jnp.where(known, hit.astype(jnp.float32), jnp.nan)
    return values if where is None else jnp.where(where, values, 0.0)
