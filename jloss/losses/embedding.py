r"""Losses on embeddings: which examples of a batch should lie close to each other.

A distance between two given vectors (`cosine_distance`) is in ``regression.py``.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jloss._safe import floats, hyper, keep, mask, nan_unless, unit
from jloss.card import EMBEDDING, GROUP, POSITIVE, card


def _exact_ntxent(m, embeddings, labels, temperature):
    def cosine(a, b):
        norms = m.sqrt(m.fdot(a, a) * m.fdot(b, b))
        return m.fdot(a, b) / norms if norms else m.mpf(0)

    terms = []
    for i, anchor in enumerate(embeddings):
        similarity = [cosine(anchor, other) / temperature for other in embeddings]
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
    Source: Sohn (2016), Chen et al. (2020).

    >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> jloss.ntxent(embeddings, jnp.array([0, 0, 1, 1]), temperature=1.0)
    Array(0.5978082, dtype=float32)
    """
    (embeddings,) = floats("ntxent", embeddings=embeddings)
    labels = jnp.asarray(labels)
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"ntxent: embeddings {embeddings.shape} and labels {labels.shape} must have the shapes "
            "(N, D) and (N,)."
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"ntxent: labels must be integers, not {labels.dtype}.")
    temperature = hyper("ntxent", jnp.zeros((), embeddings.dtype), temperature=temperature)
    temperature += nan_unless("ntxent", temperature > 0, "positive", temperature=temperature)
    where = mask("ntxent", where, labels.shape)
    directions, _ = unit(keep(None if where is None else where[:, None], embeddings))
    seen = jnp.ones(labels.shape, bool) if where is None else where
    pairs = seen[:, None] & seen[None, :] & ~jnp.eye(len(labels), dtype=bool)
    alike = labels[:, None] == labels[None, :]
    # Accelerators multiply float32 matrices in fewer digits unless they are told not to.
    similarity = jnp.matmul(directions, directions.T, precision="highest") / temperature
    strangers = _log_sum_exp(similarity, pairs & ~alike)
    values = jnp.where(pairs & alike, jax.nn.softplus(strangers - similarity), 0.0)
    return values.sum() / jnp.maximum((pairs & alike).sum(), 1)


def _log_sum_exp(array: Array, where: Array) -> Array:
    """Over the last axis, which is kept; minus infinity, with gradient 0, where none counts."""
    top = jax.lax.stop_gradient(array.max(-1, keepdims=True, where=where, initial=-jnp.inf))
    some = where.any(-1, keepdims=True)
    shifted = jnp.where(where, array - jnp.where(some, top, 0.0), -jnp.inf)
    total = jnp.exp(shifted).sum(-1, keepdims=True)
    return jnp.where(some, top + jnp.log(jnp.where(some, total, 1.0)), -jnp.inf)
