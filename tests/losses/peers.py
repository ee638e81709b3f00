"""Other libraries' losses in float64, with their gradients, to hold ours in float32 against.

A peer is made from a function of the library's module, predictions and targets; called with numpy
arrays it gives values, gradients for the predictions, and by how much it may itself be off.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")

Peer = Callable[[np.ndarray, np.ndarray], tuple[Any, Any, float]]


def by_torch(function: Callable[..., Any], module: str = "torch.nn.functional") -> Peer:
    def peer(predictions, targets):
        library, torch = pytest.importorskip(module), pytest.importorskip("torch")
        predictions, targets = (torch.tensor(_double(x)) for x in (predictions, targets))
        values = function(library, predictions.requires_grad_(), targets)
        (gradients,) = torch.autograd.grad(values.sum(), predictions)
        return values.detach().numpy(), gradients.numpy(), 1e-14

    return peer


by_keras = partial(by_torch, module="keras.losses")


def by_jax(function: Callable[..., Any], module: str = "optax.losses") -> Peer:
    def peer(predictions, targets):
        library = pytest.importorskip(module)
        with jax.enable_x64(True):
            run = values_and_gradients(lambda p, t: function(library, p, t))
            return *run(_double(predictions), _double(targets)), 1e-14

    return peer


by_optax, by_rax = by_jax, partial(by_jax, module="rax")


def by_sklearn(name: str, **hyper: Any) -> Peer:
    """One of scikit-learn's own losses, which fit its gradient boosting."""

    def peer(predictions, targets):
        loss = getattr(pytest.importorskip("sklearn._loss.loss"), name)(**hyper)
        targets = np.asarray(targets, float)
        return *loss.loss_gradient(targets, np.asarray(predictions, float)), 1e-14

    return peer


def by_numpy(function: Callable[..., Any], module: str = "numpy") -> Peer:
    """Brute force, or a library without gradients, which are taken as differences."""

    def peer(predictions, targets):
        library = pytest.importorskip(module)
        predictions, targets = _double(predictions), _double(targets)
        gradients = np.empty_like(predictions)
        for place in np.ndindex(predictions.shape):
            nearby = []
            for step in (1e-6, -1e-6):
                moved = predictions.copy()
                moved[place] += step
                nearby.append(np.sum(function(library, moved, targets)))
            gradients[place] = (nearby[0] - nearby[1]) / 2e-6
        return np.asarray(function(library, predictions, targets)), gradients, 1e-8

    return peer


by_scipy = partial(by_numpy, module="scipy.special")


def assert_agree(loss, peer: Peer, predictions, targets, rtol: float = 4e-6, atol: float = 0.0):
    """Our values and gradients, in float32, are the peer's."""
    wanted, gradients, off = peer(predictions, targets)
    got = values_and_gradients(loss)(predictions, targets)
    atol = max(atol, off)
    for what, ours, theirs in zip(("values", "gradients"), got, (wanted, gradients), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol, atol, err_msg=what)


def values_and_gradients(loss):
    """The jitted function of predictions and targets that gives both, of the sum."""

    def total(predictions, targets):
        values = loss(predictions, targets)
        return values.sum(), values

    def run(predictions, targets):
        gradients, values = jax.jit(jax.grad(total, has_aux=True))(predictions, targets)
        return np.asarray(values), np.asarray(gradients)

    return run


def _double(array):
    kinds = {"f": np.float64, "i": np.int64}
    return np.array(array, kinds[np.asarray(array).dtype.kind])
