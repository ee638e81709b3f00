"""Averages: totals and weights that add up, whatever is masked, weighted or empty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jloss

VALUES = jnp.array([[1.0, 2.0], [3.0, 10.0]])


def test_an_average_is_a_total_and_a_weight():
    found = jloss.average(VALUES)
    assert (found.total, found.weight, found.value) == (16, 4, 4)
    assert jloss.mean(VALUES) == 4


@pytest.mark.parametrize(
    ("weights", "total", "weight"),
    [
        (2.0, 32, 8),
        ([[1.0, 2.0], [0.0, 1.0]], 15, 4),
        ([[1.0], [3.0]], 42, 8),  # a size of 1 spreads
        ([[1, 1], [1, 0]], 6, 3),
        ([[True, False], [True, True]], 14, 3),
    ],
)
def test_weights_count_in_both(weights, total, weight):
    found = jloss.average(VALUES, weights=jnp.array(weights))
    assert (found.total, found.weight) == (total, weight)


def test_averages_of_unequal_parts_add_up_to_that_of_the_whole():
    values, weights = np.arange(10.0, dtype=np.float32), np.arange(10.0, dtype=np.float32) % 4
    parts = [jloss.average(values[a:b], weights=weights[a:b]) for a, b in [(0, 1), (1, 7), (7, 10)]]
    assert sum(parts[1:], parts[0]) == jloss.average(values, weights=weights)
    # The mean of the parts' means is something else.
    assert np.mean([p.value for p in parts]) != jloss.mean(values, weights=weights)


def test_what_a_mask_hides_may_be_nan_and_has_no_gradient():
    values, where = jnp.array([1.0, jnp.nan, jnp.inf, 5.0]), jnp.array([True, False, False, True])
    value, gradient = jax.value_and_grad(jloss.mean)(values, where=where)
    assert value == 3
    assert gradient.tolist() == [0.5, 0, 0, 0.5]


def test_a_mask_hides_the_weight_too():
    where, weights = jnp.array([True, False]), jnp.array([3.0, jnp.nan])
    found = jloss.average(jnp.array([2.0, 7.0]), where=where, weights=weights)
    assert (found.value, found.weight) == (2, 3)


def test_a_weight_of_zero_does_not_hide_a_nan():
    assert jnp.isnan(jloss.mean(jnp.array([1.0, jnp.nan]), weights=jnp.array([1.0, 0.0])))


@pytest.mark.parametrize(
    ("values", "how"),
    [
        (np.zeros((0, 3), np.float32), {}),
        (np.float32([np.nan, 2]), {"where": np.array([False, False])}),
        (np.float32([np.nan, 2]), {"where": False}),
        (np.float32([3, 2]), {"weights": np.zeros(2, np.float32)}),
    ],
    ids=["no values", "all hidden", "one flag", "no weight"],
)
def test_nothing_to_count_gives_zero_with_a_zero_gradient(values, how):
    value, gradient = jax.value_and_grad(jloss.mean)(values, **how)
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("given", [jnp.bfloat16, jnp.float16, jnp.int32, jnp.bool_, jnp.float32])
def test_what_is_not_double_is_added_up_in_float32(given):
    found = jloss.average(jnp.ones(3, given), weights=jnp.ones(3, jnp.bfloat16))
    assert {x.dtype for x in (found.total, found.weight, found.value)} == {jnp.dtype("float32")}


def test_many_half_precision_values_do_not_saturate():
    assert jloss.average(jnp.ones(4096, jnp.bfloat16)).total == 4096


def test_double_stays_double():
    with jax.enable_x64(True):
        found = jloss.average(np.full(3, 0.1), weights=np.ones(3, np.float32))
        assert {x.dtype for x in (found.total, found.weight)} == {jnp.dtype("float64")}
        assert found.value == pytest.approx(0.1, abs=1e-16)


def test_an_average_passes_through_jit_vmap_scan_and_grad():
    batched = jax.jit(jax.vmap(jloss.average))(VALUES)
    assert batched.value.tolist() == [1.5, 6.5]

    def add(total, row):
        return total + jloss.average(row), None

    merged, _ = jax.lax.scan(add, jloss.average(jnp.zeros(0)), VALUES)
    assert merged.value == 4
    gradient = jax.grad(lambda v: (jloss.average(v[0]) + jloss.average(v[1])).value)(VALUES)
    assert gradient.tolist() == [[0.25, 0.25], [0.25, 0.25]]


def test_weights_have_gradients():
    gradient = jax.grad(lambda w: jloss.mean(jnp.array([1.0, 4.0]), weights=w))(jnp.ones(2))
    assert gradient.tolist() == [-0.75, 0.75]


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"where": np.ones((2, 2))}, TypeError, "average: where must be boolean, not float"),
        (
            {"where": np.ones(2, bool)},
            ValueError,
            r"where \(2,\) must be a scalar or have the rank of values .*where\[..., None\]",
        ),
        ({"weights": np.ones(3)}, ValueError, r"weights \(3,\) must .* each size equal or 1\.$"),
        ({"weights": np.ones((3, 2, 2))}, ValueError, r"weights \(3, 2, 2\) must be a scalar"),
        ({"weights": np.ones((2, 3))}, ValueError, r"weights \(2, 3\) must be a scalar"),
    ],
)
def test_what_does_not_fit_is_refused(how, error, message):
    with pytest.raises(error, match=message):
        jloss.average(VALUES, **how)


# Parts and terms.

PARTS = [
    {"fit": jloss.average(jnp.arange(n, dtype=jnp.float32)), "size": jloss.average(jnp.full(m, x))}
    for n, m, x in [(2, 1, 3.0), (5, 0, 7.0), (3, 4, 0.5)]
]


@pytest.mark.parametrize("part", [lambda p: p["fit"], jloss.Terms], ids=["average", "terms"])
def test_the_shares_of_parts_add_up_to_the_value_of_the_whole(part):
    parts = [part(p) for p in PARTS]
    whole = sum(parts[1:], parts[0])
    shares = [p.part_of(whole) for p in parts]
    expected = np.mean([0, 1, 0, 1, 2, 3, 4, 0, 1, 2])
    if part is jloss.Terms:
        expected += np.mean([3, 0.5, 0.5, 0.5, 0.5])
    assert sum(shares) == pytest.approx(expected, rel=1e-6)
    assert whole.value == pytest.approx(expected, rel=1e-6)


def test_each_of_several_terms_adds_up_by_itself():
    whole = jloss.Terms(PARTS[0]) + jloss.Terms(PARTS[1])
    assert whole.averages["size"] == jloss.average(jnp.array([3.0]))
    assert whole.value == np.float32(11 / 7) + 3
    # The parts' own values are something else.
    assert whole.value != (jloss.Terms(PARTS[0]).value + jloss.Terms(PARTS[1]).value) / 2


def test_a_share_in_a_whole_where_nothing_counts_is_zero():
    empty = jloss.average(jnp.zeros(0))
    assert empty.part_of(empty) == jloss.Terms({"a": empty}).value == 0


def test_terms_pass_through_jit_and_scan_whatever_the_order_of_their_names():
    def add(total, x):
        return total + jloss.Terms({"b": jloss.average(x), "a": jloss.average(x[:1])}), None

    start = jloss.Terms({"a": jloss.average(jnp.zeros(0)), "b": jloss.average(jnp.zeros(0))})
    whole, _ = jax.jit(lambda x: jax.lax.scan(add, start, x))(VALUES)
    assert whole.value == 4 + 2


def test_terms_of_other_names_do_not_add_up():
    with pytest.raises(ValueError, match="size"):
        jloss.Terms(PARTS[0]) + jloss.Terms({"fit": PARTS[0]["fit"]})
