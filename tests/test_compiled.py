"""Losses that are called on arrays, outside of any jit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jloss
from jloss._compiled import compiled


@pytest.fixture
def traced():
    """A loss, and what it was traced or called with."""
    calls = []

    @compiled
    def loss(predictions, targets, scale=1.0, axis=-1, norm=None, where=None):
        calls.append((predictions, scale, axis, norm))
        return (scale * (predictions - targets) ** 2).sum(axis)

    return loss, calls


def test_calls_on_arrays_are_traced_once_for_each_shape_and_setting(traced):
    loss, calls = traced
    ones, rows = np.ones((2, 3), np.float32), jnp.zeros((2, 3))
    for scale in (1.0, 2.0, np.float32(3.0), jnp.array(4.0)):
        np.testing.assert_array_equal(loss(ones, rows, scale), 3 * scale * np.ones(2))
    assert len(calls) <= 3  # a float, a number of numpy or JAX: their types may differ
    assert all(isinstance(x, jax.core.Tracer) for call in calls for x in call[:2])
    before = len(calls)
    for axis in (0, (0, 1), 0):
        assert loss(ones, rows, axis=axis, where=None).ndim == 2 - np.size(axis)
    assert [call[2] for call in calls[before:]] == [0, (0, 1)]


def test_a_tuple_of_arrays_is_an_array(traced):
    loss, calls = traced
    loss(jnp.ones(3), jnp.ones(3), norm=(jnp.ones(2), (np.ones(1),)))
    assert isinstance(calls[-1][3][1][0], jax.core.Tracer)


def test_what_is_no_array_is_handed_on_as_it_is(traced):
    loss, calls = traced
    loss(jnp.ones(3), jnp.ones(3), norm=abs)
    assert calls[-1][3] is abs and not isinstance(calls[-1][0], jax.core.Tracer)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'targets'"):
        loss(jnp.ones(3))
    with pytest.raises(TypeError, match="multiple values for argument 'predictions'"):
        loss(jnp.ones(3), predictions=jnp.ones(3))
    with pytest.raises(TypeError, match="unexpected keyword argument 'target'"):
        loss(jnp.ones(3), target=jnp.ones(3))


def test_within_a_transformation_a_loss_leaves_no_trace_of_being_compiled():
    program = jax.make_jaxpr(jloss.squared_error)(jnp.ones(3), jnp.ones(3))
    assert [str(step.primitive) for step in program.eqns] == ["sub", "mul"]


def test_a_loss_keeps_its_name_and_its_errors():
    assert jloss.huber_loss.__name__ == "huber_loss" and "Huber" in jloss.huber_loss.__doc__
    with pytest.raises(ValueError, match=r"huber_loss: .*\(3,\).*\(2,\)"):
        jloss.huber_loss(jnp.ones(3), jnp.ones(2))
    with pytest.raises(TypeError, match="huber_loss: predictions"):
        jloss.huber_loss(np.ones(2, int), jnp.ones(2))
