"""What the losses' tests share: values and gradients of ours and of a torch program."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jloss._promises import once

# For bounds on temporaries: they hold for blocks that a processor's caches hold.
in_caches = pytest.mark.skipif(
    jax.default_backend() != "cpu",
    reason="an accelerator's blocks are larger, to keep its cores busy",
)


@cache
def program(loss):
    def total(predictions, *rest):
        values = loss(predictions, *rest)
        return values.sum(), values

    return once(jax.grad(total, has_aux=True))


def ours(loss, predictions, *rest):
    """The values, and the gradient of their sum for the predictions.

    It is compiled once for a loss and all arguments of one shape.
    """
    gradient, values = program(loss)(jnp.asarray(predictions, jnp.float32), *rest)
    return np.asarray(values), np.asarray(gradient)


def torchs(loss, predictions, *rest):
    """The same of a function of tensors, in float64."""
    torch = pytest.importorskip("torch")
    leaf = torch.tensor(np.asarray(predictions, np.float64), requires_grad=True)
    others = [
        torch.tensor(x.astype(np.float64 if x.dtype.kind == "f" else np.int64))
        for x in map(np.asarray, rest)
    ]
    values = loss(leaf, *others)
    values.sum().backward()
    return values.detach().numpy(), leaf.grad.numpy()


def assert_same(got, wanted, rtol=5e-6, atol=2e-6):
    for mine, theirs in zip(got, wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=rtol, atol=atol)
