"""Values and gradients by us and by torch, in the same form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def ours(loss, predictions, *rest):
    """All values, and the gradient of their sum for the first argument."""

    def total(predictions):
        values = loss(predictions, *rest)
        return values.sum(), values

    gradient, values = jax.grad(total, has_aux=True)(jnp.asarray(predictions, jnp.float32))
    return np.asarray(values), np.asarray(gradient)


def torchs(loss, predictions, *rest):
    """The same of a function of torch, in float64."""
    torch = pytest.importorskip("torch")
    given = torch.tensor(np.asarray(predictions, np.float64), requires_grad=True)
    others = [torch.tensor(x) for x in rest]
    values = loss(given, *others)
    values.sum().backward()
    return values.detach().numpy(), given.grad.numpy()


def require_close(got, wanted, tolerance=1e-5):
    """Values and gradients agree."""
    for ours, theirs in zip(got, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)
