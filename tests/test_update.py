"""A state and one update of it, against hand-written loops of optax."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from least_squares import (
    ADAM,
    DATA,
    INPUTS,
    LEAST_SQUARES,
    SGD,
    TARGETS,
    linear,
    square,
    zeros,
)

from jloss.average import Average, average
from jloss.losses.classification import softmax_cross_entropy_with_integer_labels
from jloss.losses.regression import squared_error
from jloss.objective import Aux, objective
from jloss.update import State, init, step, steps


def test_step_does_what_a_hand_written_optax_loop_does():
    params, state = zeros(), init(zeros(), ADAM)
    opt_state, update = ADAM.init(params), step(LEAST_SQUARES)

    @jax.jit
    def by_hand(params, opt_state, inputs, targets):
        loss, grads = jax.value_and_grad(lambda p: jnp.mean(square(linear(p, inputs), targets)))(
            params
        )
        updates, opt_state = ADAM.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, loss

    for start in (0, 4, 7):
        batch = (INPUTS[start : start + 4], TARGETS[start : start + 4])
        params, opt_state, loss = by_hand(params, opt_state, *batch)
        state, before = update(state, batch)
        np.testing.assert_allclose(before.value, loss, rtol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert (int(state.step), int(state.skipped)) == (3, 0)


@pytest.mark.parametrize(
    "batch", [(INPUTS * np.nan, TARGETS), (INPUTS, np.full(11, 3e38, np.float32))]
)
def test_an_update_that_is_not_finite_is_skipped_and_counted(batch):
    update = step(LEAST_SQUARES)
    state, _ = update(init(zeros(), ADAM), DATA)
    old = jax.tree.map(np.array, state)
    state, bad = update(state, batch)
    assert not np.isfinite(bad.value)
    assert (int(state.step), int(state.skipped)) == (2, 1)
    for ours, theirs in zip(jax.tree.leaves(old), jax.tree.leaves(state), strict=True):
        if np.ndim(ours) == 0 and ours.dtype == np.int32:
            continue  # the counts, looked at above
        np.testing.assert_array_equal(ours, theirs)
    state, good = update(state, DATA)
    assert np.isfinite(good.value) and int(state.skipped) == 1
    assert not np.array_equal(state.params["w"], old.params["w"])


def test_a_finite_loss_with_an_infinite_gradient_is_skipped():
    root = lambda params, batch: average(jnp.sqrt(params) * batch)  # noqa: E731
    # An optimizer that goes by the sign alone would make a finite update of it.
    state, before = step(root)(init(jnp.array(0.0), optax.sign_sgd(0.1)), jnp.ones(2))
    assert float(before.value) == 0.0
    assert (int(state.skipped), float(state.params)) == (1, 0.0)


def test_an_optimizer_that_overflows_is_told_of_by_the_loss_after_it():
    slope = lambda params, batch: average(params * batch)  # noqa: E731
    state, before = step(slope)(init(jnp.array(3e38), optax.sgd(-1e38)), jnp.ones(1))
    assert np.isfinite(before.value) and int(state.skipped) == 0
    state, after = step(slope)(state, jnp.ones(1))
    assert np.isinf(after.value) and int(state.skipped) == 1


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1)])
def test_an_optimizer_that_takes_gradients_by_itself_skips_too(shape):
    """Whether it runs within the branch, or for convolutional kernels before it."""
    sharpness_aware = optax.contrib.sam(SGD, optax.sgd(0.05), opaque_mode=True)
    update = step(lambda params, batch: average(jnp.sum(params**2) * batch))
    state, _ = update(init(jnp.ones(shape), sharpness_aware), jnp.ones(1))
    assert np.all(np.array(state.params) < 1)
    old = np.array(state.params)
    state, _ = update(state, jnp.full(1, np.nan))
    assert int(state.skipped) == 1
    np.testing.assert_array_equal(state.params, old)


LBFGS = optax.lbfgs()


def test_init_copies_so_that_donation_spares_what_the_caller_holds():
    params = zeros()
    state = init(params, LBFGS)  # which keeps the params themselves in its state
    held = state.params["w"]
    step(LEAST_SQUARES)(state, DATA)
    np.testing.assert_array_equal(params["w"], np.zeros(3))
    assert held.is_deleted()  # the promise "donated": its memory went into the new state


def test_line_searches_get_the_value_they_need():
    state = init(zeros(), LBFGS)
    update = step(LEAST_SQUARES)
    for _ in range(20):
        state, _ = update(state, DATA)
    design = np.c_[INPUTS, np.ones(11)]
    solution = np.linalg.lstsq(design, TARGETS, rcond=None)[0]
    np.testing.assert_allclose(np.r_[state.params["w"], state.params["b"]], solution, atol=1e-4)


def test_sharpness_aware_steps_follow_the_gradient_at_the_worst_point_nearby():
    nearby = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    sharpness_aware = optax.contrib.sam(optax.sgd(0.1), nearby, opaque_mode=True)
    state, _ = step(LEAST_SQUARES)(init(zeros(), sharpness_aware), DATA)
    design, at = np.c_[INPUTS, np.ones(11)].astype(np.float64), np.zeros(4)
    gradient = lambda at: 2 * design.T @ (design @ at - TARGETS) / 11  # noqa: E731
    worst = at + 0.05 * gradient(at) / np.linalg.norm(gradient(at))
    found = np.r_[state.params["w"], state.params["b"]]
    np.testing.assert_allclose(found, at - 0.1 * gradient(worst), rtol=1e-5)


def test_polyak_steps_are_as_long_as_the_loss_says():
    state, _ = step(LEAST_SQUARES)(init(zeros(), optax.polyak_sgd(max_learning_rate=9)), DATA)
    gradient = -2 * np.c_[INPUTS, np.ones(11)].T.astype(np.float64) @ TARGETS / 11
    found = np.r_[state.params["w"], state.params["b"]]
    wanted = -np.mean(TARGETS.astype(np.float64) ** 2) / np.sum(gradient**2) * gradient
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_python_numbers_and_weak_types_compile_one_update():
    traced = []

    def slope(params, batch):
        traced.append(1)
        return average(params * batch)

    update, state = step(slope), init(1.0, ADAM)
    for _ in range(3):
        state, _ = update(state, jnp.ones(2))
    assert len(traced) == 1
    assert state.params.dtype == jnp.float32 and not state.params.weak_type


def test_states_of_many_models_are_made_by_vmap():
    optimizer = ADAM
    states = jax.vmap(lambda w: init({"w": w, "b": 0.0}, optimizer))(jnp.ones((4, 3)))
    assert isinstance(states, State) and states.step.shape == (4,)


@pytest.mark.parametrize(
    ("params", "optimizer", "error", "message"),
    [
        ({"n": jnp.arange(3)}, optax.sgd(1.0), TypeError, r"params\['n'\] is int32; a gradient"),
        ({"f": jax.nn.relu}, optax.sgd(1.0), TypeError, r"params\['f'\] is <class"),
        ({}, optax.sgd(1.0), ValueError, "params hold no arrays"),
        (zeros(), optax.sgd, TypeError, r"as in optax.adam\(1e-3\), not <function sgd"),
    ],
)
def test_init_refuses(params, optimizer, error, message):
    with pytest.raises(error, match=message):
        init(params, optimizer)


def test_an_objective_must_return_an_average():
    with pytest.raises(TypeError, match=r"must return an Average, not .*jloss.average\(values\)"):
        step(lambda p, batch: jnp.mean(p * batch))(init(1.0, SGD), jnp.ones(2))


def test_an_average_made_by_hand_is_as_good():
    by_hand = lambda p, batch: Average(jnp.sum(p * batch), jnp.sum(batch))  # noqa: E731
    state, before = step(by_hand)(init(2.0, optax.sgd(0.5)), jnp.array([1.0, 3.0]))
    assert (float(before.value), float(state.params)) == (2.0, 1.5)


# What the objective is given beside params and batch, and returns beside its average.


def noisy(params, batch, model_state, key, step):
    noise = jax.random.normal(key)
    seen = {"noise": noise, "calls": model_state["calls"] + 1, "at": step}
    return average(params * batch + noise), Aux(model_state=seen)


UPDATE_NOISY = step(noisy)


def noisy_state():
    seen = {"noise": 0.0, "calls": 0, "at": -1}
    return init(1.0, SGD, model_state=seen, key=jax.random.key(3))


def test_each_update_draws_its_own_key_and_keeps_the_model_state():
    state = noisy_state()
    for number in range(3):
        state, _ = UPDATE_NOISY(state, jnp.ones(2))
        drawn = jax.random.normal(jax.random.fold_in(jax.random.key(3), number))
        assert jax.tree.map(float, state.model_state) == {
            "noise": float(drawn),
            "calls": number + 1,
            "at": number,
        }
    assert jax.tree.map(jnp.shape, state.model_state) == {"noise": (), "calls": (), "at": ()}


def test_a_skipped_update_keeps_the_old_model_state():
    state, _ = UPDATE_NOISY(noisy_state(), jnp.ones(2))
    old = jax.tree.map(float, state.model_state)
    state, _ = UPDATE_NOISY(state, jnp.full(2, jnp.nan))
    assert jax.tree.map(float, state.model_state) == old
    assert (int(state.step), int(state.skipped)) == (2, 1)


def test_without_a_key_an_objective_is_given_none():
    def keyless(params, batch, key):
        assert key is None
        return average(params * batch)

    step(keyless)(init(1.0, SGD), jnp.ones(2))


def test_a_model_state_that_is_not_returned_is_kept():
    scaled = lambda p, batch, model_state: average(p * batch * model_state)  # noqa: E731
    state, _ = step(scaled)(init(1.0, SGD, model_state=2), jnp.ones(2))
    assert int(state.model_state) == 2


def test_a_model_state_that_init_was_not_given_is_an_error():
    grown = lambda p, batch: (average(p * batch), Aux(model_state={"mean": p}))  # noqa: E731
    with pytest.raises(TypeError, match=r"shapes \{'mean': \(\)\}, but was given None; .*init\("):
        step(grown)(init(1.0, SGD), jnp.ones(2))


# Many updates in one dispatch, batches in parts.


def test_many_updates_in_one_dispatch_are_the_single_ones():
    batches = jax.tree.map(lambda leaf: leaf[:8].reshape(4, 2, *leaf.shape[1:]), DATA)
    one, single = init(zeros(), ADAM, ema=0.5), step(LEAST_SQUARES)
    values = []
    for i in range(4):
        one, average = single(one, jax.tree.map(lambda leaf, i=i: leaf[i], batches))
        values.append(average.value)
    many, averages = steps(LEAST_SQUARES)(init(zeros(), ADAM, ema=0.5), batches)
    np.testing.assert_allclose(averages.value, values, rtol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def tokens(params, inputs):
    """Logits for each token of each row, by a layer with something to hide in it."""
    return jnp.tanh(inputs @ params["a"]) @ params["b"]


TOKENS = objective(tokens, softmax_cross_entropy_with_integer_labels)
RANDOM = np.random.default_rng(0)
# A lone token in one part, none in another, all of them in a third: a mean of means is far off.
COUNTS = np.array([5, 3, 0, 1, 5, 4, 0, 0, 5, 2, 0, 0])
BATCH = {
    "inputs": RANDOM.normal(size=(12, 5, 4)).astype(np.float32),
    "targets": RANDOM.integers(0, 3, size=(12, 5)),
    "where": np.arange(5) < COUNTS[:, None],
    "weights": RANDOM.uniform(0.5, 2, size=(12, 5)).astype(np.float32),
}


def layers(dtype=np.float32):
    random = np.random.default_rng(1)
    return {
        name: random.normal(size=shape).astype(dtype)
        for name, shape in {"a": (4, 8), "b": (8, 3)}.items()
    }


def ulp(leaf):
    """That of its largest entry."""
    return np.spacing(np.max(np.abs(leaf)))


def in_ulps(ours, theirs):
    """The largest difference in ULPs of the largest entry, for each leaf."""
    return [
        float(np.max(np.abs(np.float64(a) - np.float64(b))) / ulp(b))
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    ]


GRADIENT_IS_KEPT = optax.trace(decay=0.0)  # its state is the last gradient
gradient_of_tokens = jax.jit(jax.grad(lambda params, batch: TOKENS(params, batch).value))


def true_gradient():
    """That of TOKENS on BATCH, in float64 and by hand."""
    (a, b), inputs = (np.float64(leaf) for leaf in layers().values()), np.float64(BATCH["inputs"])
    hidden = np.tanh(inputs @ a)
    excess = np.exp(hidden @ b)
    excess = excess / excess.sum(-1, keepdims=True) - np.eye(3)[BATCH["targets"]]
    weights = np.float64(BATCH["weights"]) * BATCH["where"]
    excess *= weights[..., None] / weights.sum()
    back = excess @ b.T * (1 - hidden**2)
    return {
        "a": np.einsum("rti,rth->ih", inputs, back),
        "b": np.einsum("rth,rtc->hc", hidden, excess),
    }


def gradient_in_parts(objective, params, batch, microbatches):
    update = step(objective, microbatches=microbatches)
    state, average = update(init(params, GRADIENT_IS_KEPT), batch)
    return state.opt_state.trace, average


@pytest.mark.parametrize("microbatches", [4, 12])
def test_parts_of_unequal_token_counts_are_the_whole_batch_to_2_ulp(microbatches):
    """They are at most 2 ULP further from the truth, which the whole batch misses by some, too."""
    whole, average = gradient_in_parts(TOKENS, layers(), BATCH, 1)
    parts, summed = gradient_in_parts(TOKENS, layers(), BATCH, microbatches)
    truth = true_gradient()
    single = jax.tree.map(np.float32, truth)
    errors = [
        np.max([np.max(np.abs(found[name] - truth[name])) / ulp(single[name]) for name in truth])
        for found in (parts, whole)
    ]
    assert errors[0] <= errors[1] + 2
    assert max(in_ulps(summed.value, average.value)) <= 2
    assert float(summed.weight) == pytest.approx(np.sum(BATCH["weights"] * BATCH["where"]))


@pytest.mark.parametrize("microbatches", [4, 12])
def test_parts_of_unequal_counts_are_the_whole_batch_bit_for_bit_where_nothing_is_rounded(
    microbatches,
):
    """Small whole numbers, and weights that add up to a power of two."""
    random = np.random.default_rng(2)
    batch = BATCH | {
        "inputs": random.integers(-4, 5, size=(12, 5, 4)).astype(np.float32),
        "targets": random.integers(-4, 5, size=(12, 5)).astype(np.float32),
        "weights": np.ones((12, 5), np.float32),
    }
    batch["weights"][np.cumsum(batch["where"]).reshape(12, 5) <= 7] = 2.0
    assert np.sum(batch["weights"] * batch["where"]) == 32
    objective_ = objective(lambda slopes, inputs: inputs @ slopes, squared_error)
    slopes = np.array([1, -2, 3, 1], np.float32)
    whole, average = gradient_in_parts(objective_, slopes, batch, 1)
    parts, summed = gradient_in_parts(objective_, slopes, batch, microbatches)
    np.testing.assert_array_equal(parts, whole)
    assert jax.tree.map(float, summed) == jax.tree.map(float, average)


def test_the_mean_of_the_means_of_parts_is_not_the_whole_batch():
    """The case above can tell them apart: a wrong accumulation is off by thousands of ULP."""
    parts = [jax.tree.map(lambda leaf, i=i: leaf[i::4], BATCH) for i in range(4)]
    gradients = [jax.device_get(gradient_of_tokens(layers(), part)) for part in parts]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 4, *gradients)
    assert min(in_ulps(mean, gradient_of_tokens(layers(), BATCH))) > 1000


def test_every_part_draws_its_own_key_and_passes_the_model_state_on():
    state, average = step(noisy, microbatches=2)(noisy_state(), jnp.ones(4))
    of_step = jax.random.fold_in(jax.random.key(3), 0)
    noise = [jax.random.normal(jax.random.fold_in(of_step, part)) for part in range(2)]
    assert int(state.model_state["calls"]) == 2
    np.testing.assert_allclose(average.value, 1 + np.mean(noise), rtol=1e-6)


def test_the_weights_of_the_parts_cost_no_model():
    """Before the parts are differentiated, their weights are added up, without their losses."""
    state = init(layers(), GRADIENT_IS_KEPT)
    programs = [
        step(TOKENS, microbatches=count).func.lower(TOKENS, count, state, BATCH).compile().as_text()
        for count in (1, 4)
    ]
    whole, parts = (program.count(" dot(") for program in programs)
    assert parts == whole > 0


def test_line_searches_see_the_whole_batch_in_parts():
    design = np.c_[INPUTS[:10], np.ones(10)]
    state, update = init(zeros(), LBFGS), step(LEAST_SQUARES, microbatches=5)
    for _ in range(20):
        state, _ = update(state, (INPUTS[:10], TARGETS[:10]))
    solution = np.linalg.lstsq(design, TARGETS[:10], rcond=None)[0]
    np.testing.assert_allclose(np.r_[state.params["w"], state.params["b"]], solution, atol=1e-4)


def test_clipping_is_a_link_of_optax_and_sees_the_whole_gradient():
    clipped = optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(1.0))
    gradient = jax.device_get(gradient_of_tokens(layers(), BATCH))
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in gradient.values()))
    assert norm > 0.5
    state, _ = step(TOKENS, microbatches=4)(init(layers(), clipped), BATCH)
    for name, start in layers().items():
        wanted = start - 0.5 / norm * gradient[name]
        np.testing.assert_allclose(state.params[name], wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("update", "batch", "message"),
    [
        (step(LEAST_SQUARES, microbatches=4), DATA, "11 rows cannot be cut into 4 equal"),
        (
            step(LEAST_SQUARES, microbatches=2),
            (INPUTS[:4], TARGETS[:2]),
            r"same leading axis: batch\[0\] has 4.*batch\[1\] has 2",
        ),
        (steps(LEAST_SQUARES), (INPUTS[:4], 1.0), r"batch\[1\] has none"),
    ],
)
def test_batches_that_cannot_be_cut_are_refused(update, batch, message):
    with pytest.raises(ValueError, match=message):
        update(init(zeros(), SGD), batch)


def test_a_batch_that_the_model_refuses_is_named_by_its_shapes():
    with pytest.raises(TypeError) as caught:
        step(LEAST_SQUARES)(init(zeros(), SGD), (INPUTS[:, :2], TARGETS))
    assert "a batch of the shapes ((11, 2), (11,))" in "".join(caught.value.__notes__)


def test_the_optimizer_state_of_another_model_is_refused():
    other = init({"w": jnp.zeros(4), "b": jnp.zeros(())}, ADAM)
    mixed = dataclasses.replace(init(zeros(), ADAM), opt_state=other.opt_state)
    message = r"opt_state\[0\].mu\['w'\] is \(4,\), but should be \(3,\)"
    with pytest.raises(ValueError, match=message):
        step(LEAST_SQUARES)(mixed, DATA)
    plain = dataclasses.replace(mixed, opt_state=init(zeros(), SGD).opt_state)
    with pytest.raises(ValueError, match=r"opt_state\[0\].count is missing"):
        step(LEAST_SQUARES)(plain, DATA)


# The average of the params over the updates.


def test_the_average_of_the_params_is_weighted_towards_the_last_and_forgets_the_start():
    slope = lambda params, batch: average(params * batch)  # noqa: E731
    state, update, path = init(1000.0, SGD, ema=0.8), step(slope), []
    for gradient in (10.0, np.nan, -30.0, 5.0):  # the second update is skipped and does not count
        state, _ = update(state, jnp.array([gradient]))
        path.append(float(state.params))
    made = [path[0], *path[2:]]
    weights = 0.8 ** np.array([2, 1, 0])
    np.testing.assert_allclose(state.ema.params, np.average(made, weights=weights), rtol=1e-6)
    np.testing.assert_allclose(state.ema.weight, 0.2 * weights.sum(), rtol=1e-6)


@pytest.mark.parametrize("options", [{"ema": 1.0}, {"ema": -0.1}, {"loss_scale": 0.0}])
def test_init_refuses_numbers_out_of_range(options):
    with pytest.raises(ValueError, match=r"init: (ema|loss_scale) .*not"):
        init(zeros(), SGD, **options)
