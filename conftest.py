"""What all tests share: keras computes without JAX, and the names that every doctest may use."""

import gc
import importlib.util
import os

import jax
import jax.numpy as jnp
import optax
import pytest

import jloss

os.environ.setdefault("KERAS_BACKEND", "torch" if importlib.util.find_spec("torch") else "numpy")


@pytest.fixture(autouse=True)
def names(doctest_namespace):
    """Puts them into the doctests' namespace."""
    doctest_namespace.update(jax=jax, jnp=jnp, optax=optax, jloss=jloss)


# Traces live in caches and make no garbage: looking for it among them takes a fifth of the time.
gc.disable()


@pytest.fixture(autouse=True, scope="module")
def tidy():
    """Forgets what a file's tests compiled, which no other file asks for."""
    yield
    jax.clear_caches()
    gc.collect()
