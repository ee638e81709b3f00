"""What all tests share: keras computes without JAX, and the names that every doctest may use."""

import gc
import importlib.util
import itertools
import os

import jax
import jax.numpy as jnp
import optax
import pytest

import jloss

os.environ.setdefault("KERAS_BACKEND", "torch" if importlib.util.find_spec("torch") else "numpy")
# To leave its own frames out of a traceback, JAX asks the file system about each one: of all that
# the tests of errors take, two thirds.
jax.config.update("jax_traceback_filtering", "off")


@pytest.fixture(autouse=True)
def names(doctest_namespace):
    """Puts them into the doctests' namespace."""
    doctest_namespace.update(jax=jax, jnp=jnp, optax=optax, jloss=jloss)


# Almost all that JAX makes lives on in its caches, and looking for garbage among it takes a fifth
# of the time. So both are emptied now and then.
gc.disable()
FINISHED = itertools.count(1)


def pytest_collection_finish():
    """What is there by now is no garbage."""
    gc.freeze()


@pytest.fixture(autouse=True)
def tidy():
    """Keeps memory within a few gigabytes."""
    yield
    if next(FINISHED) % 300 == 0:
        jax.clear_caches()
        gc.collect()
