"""The fit against hand-written loops and closed-form solutions; what it promises and refuses."""

import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from least_squares import (
    ADAM,
    DATA,
    FEWER,
    INPUTS,
    LEAST_SQUARES,
    SGD,
    STILL,
    TARGETS,
    linear,
    mean_square,
    square,
    zeros,
)

from jloss.average import Average, Terms, average
from jloss.metrics import accuracy
from jloss.objective import combine, objective, penalty
from jloss.train import NotFiniteError, fit
from jloss.update import init


def test_fit_finds_the_least_squares_solution():
    state, history = fit(
        LEAST_SQUARES, init(zeros(), optax.sgd(0.3)), DATA, epochs=150, batch_size=11
    )
    design = np.c_[INPUTS, np.ones(11)]
    solution, residual, *_ = np.linalg.lstsq(design, TARGETS, rcond=None)
    np.testing.assert_allclose(np.r_[state.params["w"], state.params["b"]], solution, atol=1e-4)
    np.testing.assert_allclose(history["loss"][-1], residual[0] / 11, rtol=1e-5)


def test_an_epoch_is_a_pass_over_shuffled_rows_each_used_once():
    """Steps of size 0 leave the params alone, so that the data seen can be told from the totals."""
    seen = []

    def record(rows):
        seen.append(np.asarray(rows).astype(int).tolist())

    def spy(params, batch):
        jax.debug.callback(record, batch, ordered=True)
        return average(params * batch)

    state = init(jnp.array(1.0), STILL)
    rows = np.arange(11.0, dtype=np.float32)
    fit(spy, state, rows, epochs=2, batch_size=4)
    jax.effects_barrier()
    assert [len(batch) for batch in seen] == [4, 4, 3] * 2
    first, second = np.concatenate(seen).reshape(2, 11).tolist()
    assert sorted(first) == sorted(second) == list(range(11))
    assert len({tuple(order) for order in (first, second, range(11))}) == 3

    # With something to compare them to they are judged after each epoch, as they come.
    seen.clear()
    fit(spy, state, rows, validation=rows + 11, epochs=2, batch_size=4)
    jax.effects_barrier()
    judged = [*range(22)]
    assert np.concatenate(seen).tolist() == [*first, *judged, *second, *judged]


ABSOLUTE = objective(linear, lambda predictions, targets: jnp.abs(predictions - targets))


@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_the_reported_means_are_exact_whatever_the_batches(batch_size):
    params = {"w": jnp.array([1.0, 2.0, 3.0]), "b": jnp.array(0.5)}
    state, history = fit(
        LEAST_SQUARES,
        init(params, STILL),
        DATA,
        validation=FEWER,
        metrics={"error": ABSOLUTE},
        epochs=1,
        batch_size=batch_size,
    )
    residual = INPUTS.astype(float) @ [1.0, 2.0, 3.0] + 0.5 - TARGETS
    expected = {
        "loss": np.mean(residual**2),
        "train_loss": np.mean(residual**2),
        "validation_loss": np.mean(residual[:7] ** 2),
        "train_error": np.mean(np.abs(residual)),
        "validation_error": np.mean(np.abs(residual[:7])),
    }
    assert history.keys() == expected.keys()
    for name, value in expected.items():
        assert type(history[name]) is np.ndarray and history[name].shape == (1,)
        np.testing.assert_allclose(history[name], value, rtol=1e-6)
    assert int(state.step) == -(-11 // batch_size)


def test_masked_and_weighted_rows_count_as_they_say():
    where = np.arange(11) % 3 > 0
    weights = np.arange(1.0, 12.0, dtype=np.float32)
    train = {"inputs": INPUTS, "targets": TARGETS, "where": where, "weights": weights}
    _, history = fit(LEAST_SQUARES, init(zeros(), STILL), train, epochs=1, batch_size=4)
    expected = np.average(TARGETS.astype(float) ** 2, weights=weights * where)
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-6)


def test_the_loss_of_an_epoch_is_that_of_the_params_on_the_way():
    """One batch per epoch: what was met while training is the loss before the update."""
    _, history = fit(LEAST_SQUARES, init(zeros(), ADAM), DATA, validation=DATA, epochs=4)
    np.testing.assert_allclose(history["loss"][0], mean_square(zeros()), rtol=1e-6)
    np.testing.assert_allclose(history["loss"][1:], history["train_loss"][:-1], rtol=1e-5)
    assert history["train_loss"][-1] < history["loss"][-1]


def test_training_in_two_parts_is_training_in_one():
    def fitted(state, epochs):
        return fit(LEAST_SQUARES, state, DATA, epochs=epochs, batch_size=4, key=jax.random.key(3))

    start = init(zeros(), ADAM)
    whole, history = fitted(start, 5)
    half, first = fitted(start, 2)
    again, second = fitted(half, 3)
    for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(np.r_[first["loss"], second["loss"]], history["loss"])


def test_the_key_decides_the_order_and_nothing_else_does():
    def fitted(key):
        state = init(zeros(), ADAM)
        return np.array(
            fit(LEAST_SQUARES, state, DATA, epochs=1, batch_size=4, key=key)[0].params["w"]
        )

    default = fitted(None)
    np.testing.assert_array_equal(default, fitted(jax.random.key(0)))
    assert not np.array_equal(default, fitted(jax.random.key(1)))


SLOPE, ONES = objective(lambda p, x: p * x, square), np.ones(4, np.float32)


def test_the_params_of_the_best_epoch_come_back():
    """Validation wants slope 1, training slope 3: the best epoch is one on the way."""
    path = []
    state, history = fit(
        SLOPE,
        init(0.0, SGD),
        (ONES, 3 * ONES),
        validation=(ONES, ONES),
        epochs=10,
        batch_size=4,
        callback=lambda state, row: path.append(float(state.params)),
    )
    path = np.array(path)
    np.testing.assert_allclose(history["validation_loss"], (path - 1) ** 2, atol=1e-6)
    best = np.argmin((path - 1) ** 2)
    assert 0 < best < 9
    assert float(state.params) == path[best]
    assert int(state.step) == 10


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_stops_after_so_many_epochs_without_a_better_one(patience):
    _, history = fit(
        SLOPE,
        init(0.0, SGD),
        (ONES, 3 * ONES),
        validation=(ONES, ONES),
        patience=patience,
        batch_size=4,
    )
    losses = history["validation_loss"]
    assert len(losses) - 1 - np.argmin(losses) == patience


def sinking(params, limits):
    """An objective whose loss sinks by sgd, but is NaN for params beyond a limit."""
    return average(jnp.where(params < limits, jnp.nan, params))


UNLIMITED = np.full(2, -np.inf, np.float32)


def test_a_validation_loss_of_nan_is_never_the_best():
    state, history = fit(
        sinking,
        init(0.0, SGD),
        UNLIMITED,
        validation=np.full(2, -0.25, np.float32),
        epochs=20,
        patience=3,
    )
    expected = [-0.1, -0.2, np.nan, np.nan, np.nan]
    np.testing.assert_allclose(history["validation_loss"], expected, rtol=1e-6)
    assert float(state.params) == np.float32(-0.2)


def test_a_validation_loss_that_is_never_finite_warns_and_keeps_the_last_params():
    with pytest.warns(RuntimeWarning, match="finite in none of 3 epochs"):
        state, _ = fit(sinking, init(0.0, SGD), UNLIMITED, validation=-UNLIMITED, epochs=3)
    np.testing.assert_allclose(state.params, -0.3, rtol=1e-6)


def test_a_state_survives_its_fit_and_so_do_those_of_the_callback():
    start, kept = init(zeros(), ADAM), []
    state, _ = fit(LEAST_SQUARES, start, DATA, epochs=3, callback=lambda s, row: kept.append(s))
    np.testing.assert_array_equal(start.params["w"], np.zeros(3))
    assert [int(s.step) for s in kept] == [1, 2, 3]
    np.testing.assert_array_equal(kept[-1].params["w"], state.params["w"])
    assert not np.array_equal(kept[0].params["w"], kept[1].params["w"])


def test_the_callback_sees_the_history_and_may_stop():
    rows = []

    def stop_at_two(state, row):
        rows.append(row)
        return len(rows) == 2

    _, history = fit(LEAST_SQUARES, init(zeros(), ADAM), DATA, callback=stop_at_two)
    assert len(history["loss"]) == 2
    for name, values in history.items():
        assert [row[name] for row in rows] == values.tolist()
        assert all(type(row[name]) is float for row in rows)


def test_bad_batches_are_skipped_and_counted_and_shown_in_the_history():
    targets = TARGETS.copy()
    targets[5] = np.nan
    state, history = fit(
        LEAST_SQUARES, init(zeros(), SGD), (INPUTS, targets), epochs=40, batch_size=1
    )
    assert (int(state.step), int(state.skipped)) == (440, 40)
    assert np.isnan(history["loss"]).all()
    rest = np.arange(11) != 5
    assert mean_square(state.params, INPUTS[rest], TARGETS[rest]) < 0.1


def norm(params, batch):
    return average(batch * jnp.sqrt(jnp.sum(params**2)))


@pytest.mark.parametrize(
    ("params", "culprit"), [(jnp.full(3, jnp.nan), "value"), (jnp.zeros(3), "gradient")]
)
def test_a_first_epoch_without_any_update_is_an_error(params, culprit):
    with pytest.raises(
        FloatingPointError, match=f"3 of 3 updates were skipped.*The {culprit} is not finite"
    ):
        fit(norm, init(params, SGD), np.ones(6, np.float32), batch_size=2)


def test_too_many_bad_updates_end_a_fit_that_keeps_what_was_good():
    """Row 5 is bad: one of eleven updates in an epoch, so that the third epoch is one too many."""
    targets = TARGETS.copy()
    targets[5] = np.nan
    data, options = (INPUTS, targets), dict(epochs=9, batch_size=1)
    with pytest.raises(
        NotFiniteError, match=r"3 of 33 updates were skipped \(max_bad_steps=2\)"
    ) as e:
        fit(LEAST_SQUARES, init(zeros(), SGD), data, max_bad_steps=2, **options)
    expected, _ = fit(LEAST_SQUARES, init(zeros(), SGD), data, **options | dict(epochs=3))
    np.testing.assert_array_equal(e.value.state.params["w"], expected.params["w"])
    assert len(e.value.history["loss"]) == 2
    assert fit(LEAST_SQUARES, init(zeros(), SGD), data, max_bad_steps=9, **options)[1]


def test_bad_batches_of_a_loader_end_a_fit_where_they_are():
    bad = (INPUTS * np.inf, TARGETS)
    with pytest.raises(NotFiniteError, match="1 of 3 updates were skipped") as e:
        fit(LEAST_SQUARES, init(zeros(), SGD), lambda _: [DATA, DATA, bad, DATA], max_bad_steps=0)
    assert (int(e.value.state.step), int(e.value.state.skipped), e.value.history) == (3, 1, {})


def test_an_optimizer_that_overflows_ends_a_fit_before_anything_is_written(tmp_path):
    """The sixth learning rate is infinite, where loss and gradient are finite still."""
    optimizer = optax.sgd(lambda count: jnp.where(count < 5, 0.1, jnp.inf))
    options = dict(checkpoint=tmp_path / "fit")
    with pytest.raises(NotFiniteError, match="look at its learning rate") as e:
        fit(LEAST_SQUARES, init(zeros(), optimizer), [DATA, DATA], epochs=9, **options)
    assert int(e.value.state.step) == 6 and len(e.value.history["loss"]) == 2
    kept, _ = fit(LEAST_SQUARES, init(zeros(), optimizer), [DATA, DATA], epochs=2, **options)
    assert np.isfinite(kept.params["w"]).all() and int(kept.step) == 4


def test_a_plateau_of_the_loss_reduces_the_learning_rate():
    """Along a line the loss cannot sink below its limit, and sgd jumps over it to and fro."""
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=1, accumulation_size=1)
    optimizer = optax.chain(optax.sgd(0.3), plateau)
    distance = lambda params, batch: average(jnp.abs(params - 1 + 0 * batch))  # noqa: E731
    ones = np.ones(4, np.float32)
    state, history = fit(distance, init(0.0, optimizer), ones, epochs=60, batch_size=4)
    assert float(state.opt_state[1].scale) < 0.1
    assert history["loss"][-1] < 0.02
    rough = fit(distance, init(0.0, optax.sgd(0.3)), ones, epochs=60, batch_size=4)[1]
    assert rough["loss"][-1] > 0.09


def test_a_schedule_is_followed_over_the_updates_of_all_epochs():
    """The sum of the learning rates is the way that a slope of one makes."""
    schedule = optax.cosine_decay_schedule(0.1, 6)
    slope = lambda params, batch: average(params + 0 * batch)  # noqa: E731
    state, _ = fit(
        slope, init(0.0, optax.sgd(schedule)), np.ones(4, np.float32), epochs=3, batch_size=2
    )
    expected = -sum(0.05 * (1 + np.cos(np.pi * count / 6)) for count in range(6))
    np.testing.assert_allclose(state.params, expected, rtol=1e-5)


def test_a_line_search_finds_the_solution_in_few_epochs():
    state, _ = fit(LEAST_SQUARES, init(zeros(), optax.lbfgs()), DATA, epochs=12, batch_size=11)
    design = np.c_[INPUTS, np.ones(11)]
    solution = np.linalg.lstsq(design, TARGETS, rcond=None)[0]
    np.testing.assert_allclose(np.r_[state.params["w"], state.params["b"]], solution, atol=1e-4)


def test_a_callback_that_fails_is_named_with_its_epoch():
    def broken(state, row):
        raise KeyError("train_accuracy")

    seen = []
    with pytest.raises(
        RuntimeError, match=r"callback \S*broken failed after epoch 0: KeyError"
    ) as e:
        fit(
            LEAST_SQUARES,
            init(zeros(), ADAM),
            DATA,
            callback=[lambda state, row: seen.append(row), broken],
        )
    assert isinstance(e.value.__cause__, KeyError) and len(seen) == 1


def test_the_terms_of_an_objective_are_in_the_history():
    def two(params, batch):
        penalty = average(0.1 * jnp.sum(params["w"] ** 2))
        return Terms({"fit": LEAST_SQUARES(params, batch), "penalty": penalty})

    state, history = fit(two, init(zeros(), SGD), DATA, validation=FEWER, epochs=2)
    assert [*history][:3] == ["loss", "loss_fit", "loss_penalty"]
    for part in ("", "train_", "validation_"):
        terms = history[f"{part}loss_fit"] + history[f"{part}loss_penalty"]
        np.testing.assert_allclose(history[f"{part}loss"], terms, rtol=1e-6)
    penalties = 0.1 * np.sum(np.square(state.params["w"], dtype=np.float64))
    assert np.isclose(history["train_loss_penalty"], penalties, rtol=1e-6).any()


def test_norms_and_shares_of_the_terms_are_in_the_history_on_request():
    two = combine(fit=LEAST_SQUARES, pull=(0.1, penalty(lambda params: jnp.sum(params["w"] ** 2))))
    state, history = fit(two, init(zeros(), SGD), DATA, terms_on=FEWER, epochs=2)
    w, b = (np.asarray(state.params[name], np.float64) for name in "wb")
    inputs = np.column_stack([FEWER[0], np.ones(7)])
    gradients = {
        "fit": 2 / 7 * inputs.T @ (inputs @ [*w, b] - FEWER[1]),
        "pull": 0.2 * np.append(w, 0.0),
    }
    whole = gradients["fit"] + gradients["pull"]
    for name, gradient in gradients.items():
        norm, share = np.linalg.norm(gradient), gradient @ whole / (whole @ whole)
        np.testing.assert_allclose(history[f"norm_{name}"][-1], norm, rtol=1e-4)
        np.testing.assert_allclose(history[f"share_{name}"][-1], share, rtol=1e-3)
    assert "norm_fit" not in fit(two, state, DATA, epochs=1)[1]


@pytest.mark.parametrize("batches", [False, True])
def test_updates_in_parts_are_whole_ones_and_no_part_is_larger_than_asked_for(batches):
    seen = []

    def spied(params, batch):
        seen.append(len(batch[0]))
        return LEAST_SQUARES(params, batch)

    # Eleven rows: the last batch has three, which are cut into as many.
    each = [tuple(part[start : start + 4] for part in DATA) for start in (0, 4, 8)]
    data = (lambda epoch: each) if batches else DATA
    options = {"epochs": 2, "batch_size": 4}
    state, history = fit(spied, init(zeros(), SGD), data, microbatches=2, **options)
    assert {2, 1} <= set(seen) and (not batches or max(seen) == 2)
    whole, expected = fit(LEAST_SQUARES, init(zeros(), SGD), data, **options)
    np.testing.assert_allclose(state.params["w"], whole.params["w"], rtol=1e-5)
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)


def test_a_second_fit_compiles_nothing():
    traced = []

    def counted(params, batch):
        traced.append(batch[0].shape)
        return LEAST_SQUARES(params, batch)

    optimizer = ADAM

    def fitted(seed):
        params = {"w": jnp.full(3, float(seed)), "b": jnp.zeros(())}
        options = dict(epochs=2, batch_size=4, patience=2, key=jax.random.key(seed))
        return fit(counted, init(params, optimizer), DATA, validation=DATA, **options)

    fitted(0)
    # Full batch and remainder, each in a training and an evaluation (shared by both data sets).
    assert sorted(traced) == [(3, 3)] * 2 + [(4, 3)] * 2
    fitted(1)
    assert len(traced) == 4


def test_a_fit_compiles_few_programs(caplog):
    two = objective(lambda params, inputs: inputs[:, :2] @ params["slopes"], square)
    state = init({"slopes": jnp.zeros(2)}, SGD)
    key = jax.random.key(0)
    with jax.log_compiles():
        fit(two, state, DATA, validation=FEWER, epochs=2, batch_size=4, key=key)
    # The copy is that of the best params; the state's own was compiled by init.
    messages = [record.getMessage().split() for record in caplog.records]
    programs = sorted(words[1] for words in messages if words[0] == "Compiling")
    # So was perhaps the one of the values, which depends on the number of metrics alone.
    programs = [name for name in programs if name != "jit(values)"]
    expected = ["jit(_copied)", "jit(all_finite)", "jit(evaluate)", "jit(evaluate)", "jit(train)"]
    assert programs == expected


def test_accuracy_is_a_metric_beside_the_loss():
    labels = (TARGETS > 0).astype(np.int32)

    def logits(params, inputs):
        return inputs @ params

    def cross_entropy(logits, labels):
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], -1)[:, 0]

    state, history = fit(
        objective(logits, cross_entropy),
        init(jnp.zeros((3, 2)), optax.adam(0.2)),
        (INPUTS, labels),
        metrics={"accuracy": objective(logits, accuracy)},
        epochs=5,
    )
    assert history.keys() == {"loss", "train_loss", "train_accuracy"}
    expected = np.mean(np.argmax(INPUTS @ np.array(state.params), -1) == labels)
    np.testing.assert_allclose(history["train_accuracy"][-1], expected, rtol=1e-6)


def test_nothing_is_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(LEAST_SQUARES, init(zeros(), ADAM), DATA, validation=DATA, epochs=2)


def test_progress_is_shown_only_when_wanted(capsys):
    state = init(zeros(), ADAM)
    fit(LEAST_SQUARES, state, DATA, epochs=2)
    assert capsys.readouterr().err == ""
    fit(LEAST_SQUARES, state, DATA, epochs=2, progress=True)
    assert "2/2" in (shown := capsys.readouterr().err) and "loss=" in shown


def test_progress_without_tqdm_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(
        ImportError, match=r'a progress bar needs tqdm: pip install "jloss\[train\]"'
    ):
        fit(LEAST_SQUARES, init(zeros(), SGD), DATA, progress=True)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "epochs must be a whole number of at least 1, not 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be .* not 0"),
        ({"batch_size": 2.5}, ValueError, "batch_size must be .* not 2.5"),
        ({"patience": 0, "validation": DATA}, ValueError, "patience must be .* not 0"),
        ({"patience": 3}, ValueError, "patience needs validation data"),
        ({"train": (INPUTS[:0], TARGETS[:0])}, ValueError, "train has no rows"),
        ({"train": ()}, ValueError, "train has no rows"),
        ({"validation": (INPUTS[:0], TARGETS[:0])}, ValueError, "validation has no rows"),
        (
            {"train": (INPUTS, TARGETS[:9])},
            ValueError,
            r"the same number of rows: train\[0\] has 11, train\[1\] has 9",
        ),
        ({"train": (INPUTS, 3.0)}, ValueError, r"train\[1\] is a single number"),
        (
            {"train": {"inputs": INPUTS, "targets": np.array(["cat"] * 11)}},
            TypeError,
            r"train\['targets'\] holds <U3, not numbers",
        ),
        ({"max_bad_steps": -1}, ValueError, "max_bad_steps must be .* at least 0, not -1"),
        ({"checkpoint_every": 3}, ValueError, "checkpoint_every needs checkpoint, the folder"),
        (
            {"metrics": {"w": lambda params, batch: Average(params["w"], jnp.ones(()))}},
            TypeError,
            r"train_w has the shape \(3,\); the history holds numbers",
        ),
        ({"metrics": {"loss": LEAST_SQUARES}}, ValueError, "a metric cannot be named loss"),
        ({"state": zeros()}, TypeError, r"state is dict; make one by jloss.init"),
    ],
)
def test_fit_refuses(change, error, message):
    arguments = {"state": init(zeros(), ADAM), "train": DATA, "epochs": 1} | change
    state, train = arguments.pop("state"), arguments.pop("train")
    with pytest.raises(error, match=message):
        fit(LEAST_SQUARES, state, train, **arguments)


def test_optax_is_imported_only_when_it_is_used():
    code = "import sys, jloss.train; sys.exit('optax' in sys.modules or 'chex' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_kernel_of_three_axes_trains_as_a_vector_does():
    """Such updates are dispatched one by one; the orders, batches and means are the same."""

    def filtered(params, inputs):
        return inputs @ params["w"][0, :, 0] + params["b"]

    kernel = {"w": jnp.zeros((1, 3, 1)), "b": jnp.zeros(())}
    (one, by_one), (other, by_other) = (
        fit(each, init(params, SGD), DATA, epochs=3, batch_size=4)
        for each, params in ((LEAST_SQUARES, zeros()), (objective(filtered, square), kernel))
    )
    np.testing.assert_allclose(other.params["w"].ravel(), one.params["w"], rtol=1e-5)
    np.testing.assert_allclose(by_other["loss"], by_one["loss"], rtol=1e-5)
