"""Explanations of planted faults name the term, the example and where it began."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jloss.average import Terms, average
from jloss.explanation import Explanation, explain
from jloss.losses.margin import multiclass_perceptron_loss
from jloss.losses.regression import squared_error
from jloss.objective import Aux, objective

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(5, 3)).astype(np.float32)
TARGETS = np.ones(5, np.float32)
PARAMS = {"b": np.zeros((), np.float32), "w": np.ones(3, np.float32)}


def linear(params, inputs):
    return inputs @ params["w"] + params["b"]


LINE = objective(linear, squared_error)


def planted(array, place, value):
    array = np.array(array)
    array[place] = value
    return array


def test_nothing_wrong_is_said_so():
    report = explain(LINE, PARAMS, (INPUTS, TARGETS))
    assert report == Explanation()
    assert str(report) == "The value and its gradient are finite."


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("batch", "place"),
    [
        (lambda value: (planted(INPUTS, (3, 1), value), TARGETS), "batch[0][3, 1]"),
        (lambda value: (INPUTS, planted(TARGETS, 3, value)), "batch[1][3]"),
        (
            lambda value: {"inputs": INPUTS, "targets": planted(TARGETS, 3, value)},
            "batch['targets'][3]",
        ),
    ],
)
def test_what_went_in_bad_is_named_with_its_example(batch, place, value):
    report = explain(LINE, PARAMS, batch(value))
    assert report.cause == f"{place} is {value}"
    assert (report.quantity, report.example, report.examples) == ("value", 3, (1, 5))
    assert str(report) == (
        "The value is not finite. Example 3 is the first that is bad by itself, of 1 in 5. "
        f"Cause: {place} is {value}."
    )


def test_bad_params_are_named():
    params = PARAMS | {"w": planted(PARAMS["w"], 2, np.nan)}
    report = explain(LINE, params, (INPUTS, TARGETS))
    assert (report.cause, report.examples) == ("params['w'][2] is nan", (5, 5))


def test_what_a_mask_hides_is_not_blamed():
    batch = {
        "inputs": planted(INPUTS, (2, 0), np.inf),
        "targets": planted(TARGETS, 1, np.nan),
        "where": np.arange(5) > 1,
    }
    report = explain(LINE, PARAMS, batch)
    assert (report.example, report.cause) == (2, "batch['inputs'][2, 0] is inf")


def root(params, inputs):
    scaled = inputs @ params["w"]
    return jnp.sqrt(scaled)  # its line is looked for below


def test_an_infinite_gradient_of_a_finite_value_names_leaf_and_line():
    inputs = planted(np.abs(INPUTS), 4, 0.0)
    report = explain(objective(root, squared_error), PARAMS, (inputs, TARGETS))
    assert (report.quantity, report.leaf, report.example) == ("gradient", "params['w'][0]", 4)
    line = root.__code__.co_firstlineno + 2
    assert f"test_explanation.py:{line}" in report.cause and "finite numbers" in report.cause
    assert ", first at params['w'][0]. Example 4" in str(report)


def test_an_operation_within_calls_and_loops_is_found():
    @jax.jit
    def deep(params, inputs):
        grown = jax.lax.fori_loop(0, 3, lambda _, x: x * x, inputs @ params["w"])
        return jax.checkpoint(jnp.log)(grown - grown)

    report = explain(objective(deep, squared_error), PARAMS, (INPUTS, TARGETS))
    assert report.cause.startswith("-inf made of finite numbers by log at ")


def test_a_label_that_the_loss_does_not_allow_is_named():
    logits = objective(lambda p, x: x * p["b"], multiclass_perceptron_loss)
    report = explain(logits, PARAMS, (INPUTS, np.array([0, 2, 1, 3, 7])))
    assert (report.example, report.examples) == (3, (2, 5))
    assert "labels must be from 0 to 2; at index [0] it is 3" in report.cause


def test_the_term_is_named_and_its_gradient_by_itself():
    def terms(params, batch):
        size = jnp.sum(jnp.abs(params["w"])) - 3  # 0, where the root has no derivative
        return Terms({"fit": LINE(params, batch), "penalty": average(jnp.sqrt(size))})

    report = explain(terms, PARAMS, (INPUTS, TARGETS))
    assert (report.quantity, report.term, report.leaf) == ("gradient", "penalty", "params['w'][0]")
    report = explain(terms, PARAMS, (planted(INPUTS, 1, np.nan), TARGETS))
    assert (report.quantity, report.term, report.example) == ("value", "fit", 1)
    assert "The value of the term 'fit' is not finite. Example 1" in str(report)


def test_an_overflow_of_the_sum_alone_is_said_to_take_the_whole_batch():
    report = explain(LINE, PARAMS, (INPUTS, np.full(5, 1.5e19, np.float32)))
    assert (report.quantity, report.example, report.examples) == ("value", None, (0, 5))
    assert "made of finite numbers by reduce_sum" in report.cause
    assert "it takes the batch as a whole" in str(report)


def test_model_state_key_and_step_are_given():
    def noisy(params, batch, model_state, key, step):
        noise = jax.random.normal(key) * step
        return average(params["b"] * batch + noise + model_state["mean"]), Aux(model_state)

    key, batch = jax.random.key(0), np.ones(2, np.float32)
    state = {"mean": jnp.array([jnp.inf, 0.0])}
    report = explain(noisy, PARAMS, batch, model_state=state, key=key, step=1)
    assert report.cause == "model_state['mean'][0] is inf"
