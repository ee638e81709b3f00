"""What is special to objectives and metrics: batches of every kind, masks, errors."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jloss
from jloss._optional import optional
from jloss.objective import Aux, call, objective


def square(predictions, targets, *, scale=1.0, where=None):
    values = scale * (predictions - targets) ** 2
    return values if where is None else jnp.where(where, values, 0.0)


def per_example(logits, labels, *, axis=-1, where=None):
    """Squared norm over the class axis, a stand-in for a cross-entropy with a class mask."""
    values = square(logits, labels[..., None], where=None if where is None else _spread(where, 2))
    return values.sum(axis)


def _spread(where, ndim):
    return where if where.ndim == ndim else where[..., None]


def line(params, inputs):
    return inputs * params


X, Y = jnp.array([1.0, 2.0, 3.0]), jnp.array([2.0, 2.0, 2.0])
VALUES = np.array([1.0, 0.0, 1.0])  # (x - y)² at slope 1


def test_a_pair_is_averaged_over_all_values():
    average = objective(line, square)(jnp.float32(1.0), (X, Y))
    assert (float(average.total), float(average.weight)) == (VALUES.sum(), 3)


def test_a_triple_carries_weights():
    average = objective(line, square)(jnp.float32(1.0), [X, Y, jnp.array([1.0, 5.0, 3.0])])
    assert (float(average.total), float(average.weight)) == (4.0, 9.0)


def test_a_mapping_carries_mask_and_weights_together():
    batch = {"inputs": X, "targets": Y, "where": X < 3, "weights": jnp.array([1.0, 5.0, 3.0])}
    average = objective(line, square)(jnp.float32(1.0), batch)
    assert (float(average.total), float(average.weight)) == (1.0, 6.0)


def test_a_mapping_without_mask_is_a_pair():
    pair = objective(line, square)(jnp.float32(3.0), (X, Y))
    mapping = objective(line, square)(jnp.float32(3.0), {"targets": Y, "inputs": X, "where": None})
    assert float(pair.value) == float(mapping.value) == pytest.approx(np.mean((3 * X - Y) ** 2))


def test_a_mask_hides_nan_from_value_and_gradient():
    def safe(predictions, targets, *, where=None):
        where = jnp.ones_like(targets, bool) if where is None else where
        return jnp.where(where, (jnp.where(where, predictions - targets, 0.0)) ** 2, 0.0)

    batch = {"inputs": X, "targets": Y.at[2].set(jnp.nan), "where": jnp.array([True, True, False])}
    value, slope = jax.value_and_grad(lambda p: objective(line, safe)(p, batch).value)(3.0)
    assert (float(value), float(slope)) == (8.5, 9.0)  # residuals 1 and 4, inputs 1 and 2


def test_a_mask_of_classes_counts_the_examples_that_keep_a_class():
    logits = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    where = jnp.array([[True, False], [False, False], [True, True]])
    batch = {"inputs": logits, "targets": jnp.zeros(3, int), "where": where}
    average = objective(line, per_example)(1.0, batch)
    assert (float(average.total), float(average.weight)) == (1.0 + 25.0 + 36.0, 2.0)


def test_a_mask_of_classes_follows_the_axis_of_the_loss():
    logits = jnp.array([[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]])
    where = jnp.array([[True, False, True], [False, False, True]])

    def columns(logits, labels, *, axis=-1, where=None):
        return jnp.where(where, logits - labels, 0.0).sum(axis)

    batch = {"inputs": logits, "targets": jnp.zeros(3), "where": where}
    average = objective(line, columns, axis=0)(1.0, batch)
    assert (float(average.total), float(average.weight)) == (1.0 + 5.0 + 6.0, 2.0)


def test_a_mask_of_examples_is_taken_as_it_is_by_a_per_example_loss():
    batch = {
        "inputs": jnp.array([[1.0, 2.0], [3.0, 4.0]]),
        "targets": jnp.zeros(2, int),
        "where": jnp.array([False, True]),
    }
    average = objective(line, per_example)(1.0, batch)
    assert (float(average.total), float(average.weight)) == (25.0, 1.0)


@pytest.mark.parametrize(("mask", "weight"), [([True, False, False], 1.0), ([False] * 3, 0.0)])
def test_a_loss_of_a_whole_batch_counts_while_anything_in_it_does(mask, weight):
    batch = {"inputs": X, "targets": Y, "where": jnp.array(mask)}
    whole = objective(line, lambda p, t, where=None: jnp.sum(square(p, t, where=where)))
    assert float(whole(1.0, batch).weight) == weight


def test_hyper_parameters_reach_the_loss_and_may_be_traced():
    def value(scale):
        return objective(line, square, scale=scale)(1.0, (X, Y)).value

    assert float(jax.jit(jax.grad(value))(7.0)) == pytest.approx(2 / 3)


def test_a_loss_with_keywords_of_any_name_takes_them():
    powered = objective(line, lambda p, t, **kw: (p - t) ** kw["power"], power=3)
    assert float(powered(1.0, (X, Y)).total) == -1.0 + 0.0 + 1.0


@pytest.mark.parametrize(
    ("hyper", "message"),
    [
        ({"delta": 1.0}, "square has no hyper-parameter delta; it has scale"),
        ({"targets": X}, "square has no hyper-parameter targets; it has scale"),
        ({"where": X > 0}, "a mask belongs to the batch"),
    ],
)
def test_wrong_hyper_parameters_are_refused_at_construction(hyper, message):
    with pytest.raises(TypeError, match=message):
        objective(line, square, **hyper)


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (X, TypeError, "a batch is .*, not ArrayImpl"),
        ((X,), ValueError, "not a tuple of 1"),
        ((X, Y, X, Y), ValueError, "not a tuple of 4"),
        ({"inputs": X}, ValueError, "with the keys inputs$"),
        ({"inputs": X, "targets": Y, "mask": X > 0}, ValueError, "the keys inputs, targets, mask"),
        ((X, Y, X > 1), TypeError, "weights of the batch are boolean; a mask goes in by name"),
        ((X, Y, jnp.ones(2)), ValueError, r"weights \(2,\) must be a scalar or have the rank"),
        ({"inputs": X, "targets": Y, "where": X}, TypeError, "where must be boolean"),
    ],
)
def test_a_wrong_batch_is_named_with_what_was_wanted(batch, error, message):
    with pytest.raises(error, match=message):
        objective(line, square)(1.0, batch)


def test_a_mask_for_a_loss_without_where_is_an_error():
    bare = objective(line, lambda p, t: (p - t) ** 2)
    assert float(bare(1.0, (X, Y)).total) == 2.0
    with pytest.raises(TypeError, match="takes none; give it an argument where=None"):
        bare(1.0, {"inputs": X, "targets": Y, "where": X > 1})


def test_an_objective_is_named_by_its_loss():
    assert objective(line, square).__name__ == "objective(square)"


# Models with a state and with chance.


def noisy(params, inputs, *, key):
    return params * inputs if key is None else params * inputs + jax.random.normal(key)


def counting(params, inputs, *, model_state):
    return params * inputs + model_state, model_state + len(inputs)


def test_a_model_that_names_a_key_is_given_it():
    key, found = jax.random.key(3), objective(noisy, square)
    noise = jax.random.normal(key)
    average, _ = call(found, 1.0, (X, Y), key=key, step=7, model_state=None)
    assert average.value == pytest.approx(float(jnp.mean((X + noise - Y) ** 2)))
    assert call(found, 1.0, (X, Y))[0].value == call(found, 1.0, (X, Y), key=None)[0].value == 2 / 3


def test_a_model_that_names_a_state_returns_the_next_one():
    average, aux = call(objective(counting, square), 1.0, (X, Y), model_state=1.0, key=None)
    assert (average.value, aux.model_state, aux.terms) == (pytest.approx(5 / 3), 4.0, {})


def test_a_model_without_a_state_is_not_asked_for_one():
    assert call(objective(line, square), 1.0, (X, Y), model_state=1.0)[1] == Aux()


def test_no_state_and_no_step_leave_those_that_were_given_before():
    combined = jloss.combine(fit=(lambda step: step, objective(counting, square)))
    fixed = partial(combined, model_state=1.0, step=3)
    for context in ({}, {"model_state": None, "key": None, "step": None}):
        assert call(fixed, 1.0, (X, Y), **context)[0].value == pytest.approx(3 * 5 / 3)
    assert call(fixed, 1.0, (X, Y), step=6)[0].value == pytest.approx(6 * 5 / 3)
    quiet = partial(objective(noisy, square), key=jax.random.key(0))
    assert call(quiet, 1.0, (X, Y), key=None)[0].value == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (objective(counting, square), "counting names a model_state and was given none; start"),
        (objective(lambda p, x, model_state: p * x, square), "must return .predictions, model_st"),
        (lambda p, b: p, "must return an Average, not float: end it with"),
        (lambda p, b: (jloss.average(b[0]), {"fit": 1.0}), "not a dict in second place"),
    ],
)
def test_what_is_missing_in_a_call_is_named(found, message):
    state = 0.0 if "must return" in message else None
    with pytest.raises(TypeError, match=message):
        call(found, 1.0, (X, Y), model_state=state)


# Several terms.


def fit(params, batch):
    return jloss.average((batch - params["w"]) ** 2)


def ridge(params, batch):
    return jloss.average(params["w"] ** 2)


def bias(params, batch):
    return jloss.average(params["b"])


PARAMS = {"w": jnp.array(2.0), "b": jnp.array([3.0, 5.0])}
BATCH = jnp.array([1.0, 2.0, 6.0])


def test_a_sum_of_terms_is_each_average_times_its_factor():
    combined = jloss.combine(fit=fit, penalty=(0.25, ridge), bias=(jnp.float32(-2), bias))
    terms, aux = combined(PARAMS, BATCH)
    assert terms.value == pytest.approx(17 / 3 + 1 - 8)
    assert {n: float(a.value) for n, a in terms.averages.items()} == pytest.approx(
        {"fit": 17 / 3, "penalty": 1.0, "bias": -8.0}
    )
    assert aux.terms == {
        "fit": fit(PARAMS, BATCH),
        "penalty": ridge(PARAMS, None),
        "bias": bias(PARAMS, 0),
    }


def test_a_penalty_counts_once_however_the_data_are_cut():
    combined = jloss.combine(fit=fit, penalty=(0.25, ridge))
    parts = [combined(PARAMS, batch)[0] for batch in (BATCH[:1], BATCH[1:])]
    whole = parts[0] + parts[1]
    assert whole.value == pytest.approx(float(combined(PARAMS, BATCH)[0].value), rel=1e-7)
    assert sum(part.part_of(whole) for part in parts) == pytest.approx(float(whole.value), rel=1e-7)


def test_a_schedule_is_given_the_step_and_may_be_traced():
    combined = jloss.combine(fit=fit, penalty=(optax.linear_schedule(0.0, 1.0, 10), ridge))

    @jax.jit
    def penalty(step):
        return call(combined, PARAMS, BATCH, step=step)[0].averages["penalty"].value

    assert [float(penalty(step)) for step in (0, 5, 20)] == [0.0, 2.0, 4.0]
    with pytest.raises(TypeError, match="penalty is a schedule, which needs a step; functools"):
        combined(PARAMS, BATCH)


def test_a_factor_may_be_differentiated():
    slope = jax.grad(lambda c: jloss.combine(fit=fit, penalty=(c, ridge))(PARAMS, BATCH)[0].value)
    assert slope(0.5) == 4.0


def test_terms_of_terms_are_named_from_outside_in():
    inner = jloss.combine(w=(3.0, ridge), b=bias)
    terms, aux = jloss.combine(fit=fit, small=(0.5, inner))(PARAMS, BATCH)
    assert terms.value == pytest.approx(17 / 3 + 0.5 * (3 * 4 + 4))
    assert {n: float(a.value) for n, a in aux.terms.items()} == pytest.approx(
        {"fit": 17 / 3, "small.w": 4.0, "small.b": 4.0}
    )


def test_the_state_of_a_model_passes_through_the_terms_and_all_have_one_key():
    one = jloss.combine(a=objective(counting, square), b=(0.0, objective(noisy, square)))
    two = jloss.combine(one=one, c=objective(counting, square), d=(0.0, objective(noisy, square)))
    _, aux = call(two, 1.0, (X, Y), model_state=1.0, key=jax.random.key(0))
    assert aux.model_state == 1.0 + 3 + 3
    assert aux.terms["one.b"] == aux.terms["d"]
    assert aux.terms["c"].value == pytest.approx(float(jnp.mean((X + 4 - Y) ** 2)))


@pytest.mark.parametrize(
    ("terms", "error", "message"),
    [
        ({}, ValueError, "there are no terms"),
        ({"fit": 3.0}, TypeError, "fit must be an objective .*; an objective is a function"),
        ({"fit": (fit, 0.5)}, TypeError, r"the factor stands first: fit=\(0.5, fit\)"),
        ({"fit": ("a", fit)}, TypeError, "its factor is 'a', and must be one number"),
        ({"fit": (True, fit)}, TypeError, "its factor is True"),
        ({"fit": (jnp.ones(2), fit)}, TypeError, "must be one number or a schedule"),
        ({"fit": (1.0, fit, 2)}, TypeError, "fit must be an objective or .factor, objective."),
    ],
)
def test_a_wrong_term_is_refused_at_once(terms, error, message):
    with pytest.raises(error, match=message):
        jloss.combine(**terms)


def test_the_gradients_of_terms_are_those_of_each_alone():
    combined = jloss.combine(fit=fit, penalty=(0.25, ridge), bias=(-2.0, bias))
    found = jax.jit(lambda p: jloss.term_gradients(combined, p, BATCH))(PARAMS)
    whole = jax.grad(lambda p: combined(p, BATCH)[0].value)(PARAMS)
    assert {n: float(term.value) for n, term in found.items()} == pytest.approx(
        {"fit": 17 / 3, "penalty": 1.0, "bias": -8.0}
    )
    # The slopes in w are -2 and 1, in b -1 each: together (-1, -1, -1).
    assert whole == {"w": -1.0, "b": pytest.approx(np.array([-1.0, -1.0]))}
    assert {n: float(term.norm) for n, term in found.items()} == pytest.approx(
        {"fit": 2.0, "penalty": 1.0, "bias": 2**0.5}
    )
    assert {n: float(term.share) for n, term in found.items()} == pytest.approx(
        {"fit": 2 / 3, "penalty": -1 / 3, "bias": 2 / 3}
    )
    assert found["penalty"].gradient["w"] == 1.0 and not found["penalty"].gradient["b"].any()


def test_an_objective_of_one_term_is_all_of_its_gradient():
    found = jloss.term_gradients(fit, PARAMS, BATCH)
    assert (found["loss"].norm, found["loss"].share) == (2.0, 1.0)
    flat = jloss.term_gradients(lambda p, b: jloss.average(0.0 * p["w"]), PARAMS, BATCH)
    assert (flat["loss"].norm, flat["loss"].share) == (0.0, 0.0)


# Metrics.


def test_a_metric_is_given_mask_and_weights_and_evaluates_a_model_with_a_state():
    batch = {"inputs": X, "targets": Y, "where": X < 3, "weights": jnp.array([1.0, 5.0, 3.0])}
    found = jloss.metric(line, jloss.r2, center=1.0)(2.0, batch)
    assert found == jloss.r2(2 * X, Y, center=1.0, where=X < 3, weights=batch["weights"])
    found, _ = call(jloss.metric(counting, jloss.r2), 1.0, (X, Y), model_state=1.0, key=3)
    assert found == jloss.r2(X + 1, Y)
    (quiet,) = call(jloss.metric(noisy, jloss.r2), 1.0, (X, Y), key=jax.random.key(0))[:1]
    assert quiet == jloss.r2(X, Y)


def test_what_is_no_metric_is_named():
    with pytest.raises(TypeError, match=r"must return a jloss.Statistic, .* jloss.objective.line"):
        jloss.metric(line, lambda p, t, where, weights: p)(1.0, (X, Y))
    with pytest.raises(TypeError, match="r2 has no hyper-parameter bins; it has center, weights"):
        jloss.metric(line, jloss.r2, bins=3)
    with pytest.raises(TypeError, match="fit returned R2, a metric without a gradient"):
        jloss.combine(fit=jloss.metric(line, jloss.r2))(1.0, (X, Y))


# Optional libraries.


def test_a_missing_library_names_the_extra():
    with pytest.raises(ImportError, match=r'^this needs nowhere: pip install "jloss\[plot\]"$'):
        optional("nowhere.deep", "plot")


def test_a_library_that_breaks_while_importing_says_so_itself(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("import not_there_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        optional("half_there", "plot")
