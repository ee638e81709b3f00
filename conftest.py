"""The names that every doctest may use."""

import jax
import jax.numpy as jnp
import optax
import pytest

import jloss


@pytest.fixture(autouse=True)
def names(doctest_namespace):
    """Puts them into the doctests' namespace."""
    doctest_namespace.update(jax=jax, jnp=jnp, optax=optax, jloss=jloss)
