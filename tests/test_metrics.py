"""Metrics: against scikit-learn, whole and in parts, with masks, weights, ties, single classes."""

import itertools

import jax
import numpy as np
import pytest
from sklearn import calibration
from sklearn import metrics as sklearn

import jloss
from jloss.objective import objective

RANDOM = np.random.default_rng(0)
N = 40
LOGITS = RANDOM.normal(size=N).astype(np.float32).round(1)  # with ties
LABELS = (RANDOM.normal(size=N) + LOGITS > 0).astype(int)
SCORES = RANDOM.normal(size=(N, 3)).astype(np.float32)
CLASSES = np.where(RANDOM.random(N) < 0.5, SCORES.argmax(1), RANDOM.integers(0, 3, N))
WEIGHTS = RANDOM.gamma(1.0, size=N).astype(np.float32)
WHERE = RANDOM.random(N) < 0.7
MASKED = {"where": WHERE, "weights": WEIGHTS}
PROBABILITY = 1 / (1 + np.exp(-np.float64(LOGITS)))
TARGETS = np.stack([LOGITS, RANDOM.normal(size=N)], 1).astype(np.float32)
FITTED = TARGETS + RANDOM.normal(size=(N, 2), scale=0.5).astype(np.float32)


def expected_calibration_error(confidence, hit, weights, bins):
    edges, total = np.linspace(0, 1, bins + 1), 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        total += abs(np.sum((weights * (hit - confidence))[inside]))
    return total / weights.sum()


def softmax(logits):
    odds = np.exp(np.float64(logits))
    return odds / odds.sum(1, keepdims=True)


value_of = jax.jit(lambda statistic: statistic.value)
f1, r2, auc = jax.jit(jloss.f1), jax.jit(jloss.r2), jax.jit(jloss.auc)
calibration_error = jax.jit(jloss.calibration_error, static_argnames="bins")
binned_auc = jax.jit(jloss.binned_auc, static_argnames="bins")
accuracy = jax.jit(jloss.accuracy)
ALL = np.ones(N, bool)

# Each metric, its arguments, and the truth of arguments and weights.
METRICS = {
    "f1": (
        f1,
        LOGITS,
        LABELS,
        lambda x, y, w: sklearn.f1_score(y, x > 0, sample_weight=w),
    ),
    "f1 of classes": (
        f1,
        SCORES,
        CLASSES,
        lambda x, y, w: sklearn.f1_score(y, x.argmax(1), sample_weight=w, average="macro"),
    ),
    "r2": (
        r2,
        FITTED[:, 0],
        TARGETS[:, 0],
        lambda x, y, w: sklearn.r2_score(y, x, sample_weight=w),
    ),
    "calibration": (
        calibration_error,
        LOGITS,
        LABELS,
        lambda x, y, w: expected_calibration_error(1 / (1 + np.exp(-np.float64(x))), y, w, 15),
    ),
    "calibration of classes": (
        calibration_error,
        SCORES,
        CLASSES,
        lambda x, y, w: expected_calibration_error(softmax(x).max(1), y == x.argmax(1), w, 15),
    ),
}


@pytest.fixture(params=METRICS.values(), ids=list(METRICS))
def metric(request):
    return request.param


def test_a_whole_array_gives_what_scikit_learn_gives(metric):
    ours, x, y, truth = metric
    found = value_of(ours(x, y, where=ALL))
    assert float(found) == pytest.approx(truth(x, y, np.ones(N)), rel=1e-5)


def test_parts_add_up_under_masks_and_weights(metric):
    ours, x, y, truth = metric
    x, y = np.array(x), np.array(y)
    x[~WHERE], y[~WHERE] = np.nan, 99  # what is hidden
    parts = np.split(np.arange(N), 4)
    parts = [ours(x[p], y[p], where=WHERE[p], weights=WEIGHTS[p]) for p in parts]
    expected = truth(x[WHERE], y[WHERE], WEIGHTS[WHERE])
    assert float(value_of(sum(parts[1:], parts[0]))) == pytest.approx(expected, rel=1e-5)


def test_nothing_that_counts_and_what_is_out_of_its_domain_give_nan(metric):
    ours, x, y, _ = metric
    bad = np.array(x)
    bad[3] = np.nan
    wrong = np.where(np.arange(N) == 5, -1, y).astype(y.dtype)
    assert np.isnan(value_of(ours(bad, y, where=ALL)))
    assert np.isnan(value_of(ours(x, y, where=~ALL)))
    assert ours is r2 or np.isnan(value_of(ours(x, wrong, where=ALL)))
    assert np.isnan(value_of(ours(x[:0], y[:0])))


def test_a_metric_refuses_what_does_not_fit(metric):
    ours, x, y, _ = metric
    with pytest.raises(ValueError, match=rf"{ours.__name__}: .*\(40,.*\(39,|\(39,.*\(40,"):
        ours(x, y[:-1])
    with pytest.raises(ValueError, match=rf"{ours.__name__}: weights \(3,\) must be a scalar or"):
        ours(x, y, weights=np.ones(3))
    with pytest.raises(TypeError, match=rf"{ours.__name__}: where must be boolean, not int"):
        ours(x, y, where=np.ones(N, int))


def test_metrics_stay_of_one_shape_in_a_scan(metric):
    ours, x, y, _ = metric

    def add(total, batch):
        return total + ours(*batch), None

    batches = x.reshape(4, 10, *x.shape[1:]), y.reshape(4, 10)

    @jax.jit
    def scanned():
        start = ours(x[:10], y[:10], where=False)
        return jax.lax.scan(add, start, batches)[0].value

    assert float(scanned()) == pytest.approx(float(value_of(ours(x, y, where=ALL))), rel=1e-5)


# F1.


def test_the_f1_of_each_class_and_of_those_that_never_occur():
    found = f1(np.pad(SCORES, ((0, 0), (0, 1)), constant_values=-9), CLASSES)
    expected = sklearn.f1_score(CLASSES, SCORES.argmax(1), average=None)
    np.testing.assert_allclose(found.per_class, [*expected, np.nan], rtol=1e-6)
    assert float(value_of(found)) == pytest.approx(expected.mean(), rel=1e-6)


def test_the_f1_of_a_class_that_is_never_met_is_nan():
    logits, labels = np.ones(3, np.float32), np.zeros(3, int)
    assert np.isnan(value_of(f1(-logits, labels)))
    assert value_of(f1(logits, labels)) == 0


# R².


def test_r2_of_several_outputs_is_their_mean():
    expected = sklearn.r2_score(TARGETS, FITTED)
    assert float(value_of(r2(FITTED, TARGETS))) == pytest.approx(expected, rel=1e-5)


def test_a_center_keeps_the_digits_of_targets_far_from_zero():
    x, y = FITTED[:, 0] + np.float32(4096), TARGETS[:, 0] + np.float32(4096)
    expected = sklearn.r2_score(np.float64(y), np.float64(x))
    assert float(value_of(r2(x, y, center=4096.0))) == pytest.approx(expected, rel=1e-5)
    assert float(value_of(r2(x, y, center=0.0))) != pytest.approx(expected, rel=1e-3)


def test_r2_of_constant_targets_is_nan():
    assert np.isnan(value_of(r2(FITTED[:, 0], np.ones(N, np.float32), where=ALL)))


# Calibration.


def test_the_bins_are_those_of_scikit_learn():
    found = jax.device_get(calibration_error(LOGITS, LABELS, bins=5))
    hits, confidence = calibration.calibration_curve(LABELS, PROBABILITY, n_bins=5)
    full = found.weight > 0
    np.testing.assert_allclose((found.hits / found.weight)[full], hits, rtol=1e-5)
    np.testing.assert_allclose((found.confidence / found.weight)[full], confidence, rtol=1e-5)


@pytest.mark.parametrize("metric", [calibration_error, binned_auc])
def test_at_least_one_bin_is_needed(metric):
    with pytest.raises(ValueError, match=f"{metric.__name__}: bins must be at least 1, not 0"):
        metric(LOGITS, LABELS, bins=0)


# AUC.


def test_the_exact_area_counts_ties_half_under_masks_and_weights():
    plain = auc(LOGITS, LABELS, where=ALL, weights=np.ones(N, np.float32))
    assert float(plain) == pytest.approx(sklearn.roc_auc_score(LABELS, LOGITS), rel=1e-6)
    hidden, labels = np.where(WHERE, LOGITS, np.float32(np.nan)), np.where(WHERE, LABELS, 7)
    expected = sklearn.roc_auc_score(LABELS[WHERE], LOGITS[WHERE], sample_weight=WEIGHTS[WHERE])
    assert float(auc(hidden, labels, **MASKED)) == pytest.approx(expected, rel=1e-5)
    shape = (5, 8)
    assert float(auc(LOGITS.reshape(shape), LABELS.reshape(shape))) == pytest.approx(float(plain))


@pytest.mark.parametrize("bins", [1, 20, 1000])
def test_the_binned_area_is_off_by_no_more_than_it_says(bins):
    one, other = (binned_auc(LOGITS[c], LABELS[c], bins=bins) for c in (slice(20), slice(20, N)))
    value, error = jax.jit(lambda found: (found.value, found.error))(one + other)
    off = abs(float(value) - sklearn.roc_auc_score(LABELS, LOGITS))
    assert off <= float(error) + 1e-6
    assert error <= 0.5 and (bins > 1 or error == 0.5 == value)
    assert bins < 1000 or error < 0.03  # what ties leave


def test_the_area_of_a_single_class_is_nan():
    for area in (auc, lambda *a, **k: value_of(binned_auc(*a, **k))):
        assert np.isnan(area(LOGITS, np.ones(N, int), where=ALL))
        assert np.isnan(area(LOGITS, LABELS, where=LABELS == 0))
        assert np.isnan(area(LOGITS, LABELS + 1, where=ALL))
        bad = np.where(LABELS == 0, np.float32(np.nan), LOGITS)
        assert np.isnan(area(bad, LABELS, where=ALL))
        assert area(np.float32(LABELS), LABELS, where=ALL) == 1


def test_the_area_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"auc: scores .40,. and labels .39,. must have the same"):
        auc(LOGITS, LABELS[:-1])
    with pytest.raises(TypeError, match="auc: scores must be floating, not int"):
        auc(LABELS, LABELS)


# Accuracy.


def line(params, inputs):
    return inputs * params


def test_accuracy_agrees_with_counting():
    logits = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 3, (4, 5))
    expected = np.array([[max(range(3), key=row.__getitem__) for row in rows] for rows in logits])
    np.testing.assert_array_equal(accuracy(logits, labels), expected == labels)


def test_accuracy_of_binary_logits_is_about_their_sign():
    labels = np.array([1, 0, 1, 0, 0])
    values = accuracy(np.float32([0.1, -0.1, -2.0, 2.0, 0.0]), labels)
    np.testing.assert_array_equal(values, [1, 1, 0, 0, 1])
    np.testing.assert_array_equal(values, accuracy(np.array([1, -1, -2, 2, 0]), labels * 1.0))


def test_accuracy_of_nan_or_of_an_unknown_label_is_nan():
    logits = np.float32([[0.0, np.nan], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    assert np.isnan(accuracy(logits, np.array([1, -1, 2, 1]))).tolist() == [1, 1, 1, 0]
    binary = accuracy(np.float32([np.nan, 1.0, 1.0]), np.array([0, 2, 1]))
    assert np.isnan(binary).tolist() == [1, 1, 0]


def test_accuracy_under_masks():
    logits = np.float32([[0.0, 9.0], [np.nan, 1.0]])
    labels = np.array([0, 1])
    classes = np.array([[True, False], [False, False]])
    np.testing.assert_array_equal(accuracy(logits, labels, where=classes), [1, 0])
    np.testing.assert_array_equal(accuracy(logits, labels, where=labels == 0), [0, 0])
    counted = objective(line, accuracy)(
        1.0, {"inputs": logits, "targets": labels, "where": classes}
    )
    assert (float(counted.total), float(counted.weight)) == (1.0, 1.0)


def test_accuracy_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"labels \(3,\) must have the shape of the logits"):
        accuracy(np.ones((2, 3)), np.zeros(3, int))
    with pytest.raises(TypeError, match="class indices, not float32"):
        accuracy(np.ones((2, 3)), np.zeros(2))
