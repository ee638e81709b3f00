"""The building blocks that losses share, each against a formula in float64."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax.experimental import checkify

from jloss import _safe as safe

REAL = np.float32([-1e30, -89, -17, -1, -1e-6, 0, 1e-30, 1e-4, 0.5, 20, 1e30])


# Inputs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        ("float16", "bfloat16", "float32"),
        ("float32", "int32", "float32"),
        ("float16", "bool", "float32"),
        ("float64", "float32", "float64"),
        ("float32", "float64", "float64"),
    ],
)
def test_inputs_are_computed_with_in_single_or_double_precision(first, second, wanted):
    with jax.enable_x64(True):
        found = safe.floats("loss", a=jnp.ones(2, first), b=jnp.ones(2, second))
    assert [x.dtype.name for x in found] == [wanted] * 2


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.ones(2, int), np.ones(2), r"loss: a must be floating, not int.*swapped"),
        (np.ones(2, bool), np.ones(2), r"loss: a must be floating, not bool"),
        (np.ones(2, complex), np.ones(2), r"loss: a must be floating, not complex\d+\.$"),
        (np.ones(2), np.ones(2, complex), r"loss: b must be real, not complex"),
    ],
)
def test_dtypes_of_another_kind_are_refused(a, b, message):
    with pytest.raises(TypeError, match=message):
        safe.floats("loss", a=a, b=b)


@pytest.mark.parametrize(
    ("a", "b", "cure"),
    [
        ((4, 1), (4,), r"Did you mean predictions\[..., 0\]\?"),
        ((4,), (4, 1), r"Did you mean labels\[..., 0\]\?"),
        ((4, 3), (4,), r"Take jax.nn.one_hot\(labels, classes\)"),
        ((4, 3), (3, 4), "nothing is broadcast.$"),
    ],
)
def test_shapes_that_differ_are_refused_with_a_cure(a, b, cure):
    with pytest.raises(ValueError, match=f"^loss: predictions .* and labels .*{cure}"):
        safe.same_shape("loss", predictions=jnp.ones(a), labels=jnp.ones(b))


def test_equal_shapes_are_taken():
    safe.same_shape("loss", a=jnp.ones((2, 0)), b=jnp.ones((2, 0)))


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.ones((4, 3), int), ValueError, r"One-hot\? Take labels.argmax\(-1\)"),
        (np.ones((4, 1), int), ValueError, r"Did you mean labels\[..., 0\]\?"),
        (np.ones(5, int), ValueError, r"must have the shape \(4,\).*class axis\.$"),
        (np.ones(4), TypeError, r"labels must be integer .*astype\(int\)"),
        (np.ones((4, 3)), TypeError, r"One-hot\?"),
    ],
)
def test_labels_that_are_no_classes_are_refused_with_a_cure(labels, error, message):
    with pytest.raises(error, match=f"^loss: .*{message}"):
        safe.class_indices("loss", labels, (1,), logits=jnp.ones((4, 3)))


@pytest.mark.parametrize(
    ("shape", "rows", "fits"),
    [
        ((), False, True),
        ((3,), False, True),
        ((2, 1), False, True),
        ((2,), False, False),
        ((5, 2, 3), False, False),
        ((2,), True, True),
        ((3,), True, False),
    ],
)
def test_a_hyper_parameter_broadcasts_to_the_predictions_and_not_beyond(shape, rows, fits):
    like, given = jnp.ones((2, 3)), np.ones(shape, int)
    if not fits:
        with pytest.raises(ValueError, match=r"^loss: delta \(.*\) must broadcast to \(2"):
            safe.hyper("loss", like, rows=rows, delta=given)
        return
    found = safe.hyper("loss", like, rows=rows, delta=given)
    assert (found.shape, found.dtype) == (shape, like.dtype)


def test_a_hyper_parameter_of_one_number_must_be_a_scalar():
    with pytest.raises(ValueError, match=r"^loss: delta \(2,\) must be a scalar\.$"):
        safe.hyper("loss", jnp.ones(()), delta=jnp.ones(2))


@pytest.mark.parametrize(
    ("axis", "wanted"), [(-1, (2,)), (0, (0,)), ((0, -1), (0, 2)), (None, (0, 1, 2))]
)
def test_axes_are_counted_from_the_front(axis, wanted):
    assert safe.axes_of("loss", axis, 3) == wanted


@pytest.mark.parametrize("axis", [3, -4, (0, 0), (0, -3), (0, 5), ()])
def test_axes_that_are_none_are_refused(axis):
    with pytest.raises(
        ValueError, match=r"^loss: axis .* does not name axes of an array of rank 3"
    ):
        safe.axes_of("loss", axis, 3)


def test_axes_become_the_last_one_in_their_order():
    array = np.arange(24).reshape(2, 3, 4)
    wanted = array.transpose(1, 0, 2).reshape(3, 8)
    np.testing.assert_array_equal(safe.to_rows(jnp.asarray(array), (0, 2)), wanted)
    whole = jnp.asarray(array)
    assert safe.to_rows(whole, (2,)) is whole


# Masks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "axes", "flags"),
    [
        ((), (), None),
        ((1,), (1,), (1, 1)),
        ((2, 1), (), None),
        ((2,), (1,), (2, 1)),
        ((2, 3), (1,), None),
    ],
)
def test_a_mask_covers_the_predictions(shape, axes, flags):
    where = np.random.default_rng(0).random(shape) < 0.5
    found = safe.mask("loss", where, (2, 3), axes)
    wanted = np.broadcast_to(where.reshape(flags or shape), (2, 3))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("shape", "axes", "message"),
    [
        ((2,), (), r"Did you mean where\[..., None\]\?"),
        ((2, 1), (1,), None),
        (
            (2, 3, 1),
            (1,),
            r"\(2,\) for whole rows; each size is equal or 1. Did you mean where\[..., 0\]",
        ),
        ((4, 3), (1,), r"where \(4, 3\) must fit \(2, 3\), or \(2,\) for whole rows"),
        ((5, 2, 3), (), r"where \(5, 2, 3\) must fit \(2, 3\); each"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_with_a_cure(shape, axes, message):
    where = np.ones(shape, bool)
    if message is None:
        assert safe.mask("loss", where, (2, 3), axes).all()
        return
    with pytest.raises(ValueError, match=message):
        safe.mask("loss", where, (2, 3), axes)


def test_a_mask_of_numbers_is_refused():
    with pytest.raises(TypeError, match=r"^loss: where must be boolean, not int.*where > 0"):
        safe.mask("loss", np.ones(2, int), (2,))


def test_what_is_not_kept_is_filled_and_has_no_gradient():
    where, array = np.array([True, False]), np.float32([2.0, np.nan])
    assert safe.keep(where, array, 7).tolist() == [2, 7]
    assert safe.keep(None, array) is array
    gradient = jax.jit(jax.grad(lambda x: jnp.log(safe.keep(where, x, 1)).sum()))(array)
    assert gradient.tolist() == [0.5, 0]


# Values out of their domain ----------------------------------------------------------------------


def test_what_is_inside_adds_nothing_and_what_is_outside_spoils():
    array = jnp.array([[0.5, -1.0], [jnp.nan, 2.0]])
    spoilt = safe.nan_unless("loss", array >= 0, "at least 0", rate=array)
    np.testing.assert_array_equal(spoilt, [[0, np.nan], [np.nan, 0]])
    assert safe.nan_unless("loss", jnp.array(True), "true", label=jnp.array(3)) == 0
    assert safe.nan_unless("loss", jnp.ones(0, bool), "anything", rate=jnp.ones(0)).shape == (0,)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.float32([[0.5, 1], [-1, -2]]),
            r"loss: rate must be at least 0; at index \[1 0\] it is -1",
        ),
        (np.float32(-3), "loss: rate must be at least 0; at index 0 it is -3"),
    ],
)
def test_under_checkify_the_first_place_outside_is_named(array, message):
    def loss(array):
        return array + safe.nan_unless("loss", array >= 0, "at least 0", rate=array)

    checked = jax.jit(checkify.checkify(loss, errors=checkify.user_checks))
    with pytest.raises(checkify.JaxRuntimeError, match=message):
        checked(array)[0].throw()
    checked(np.abs(array))[0].throw()  # says nothing


def test_classes_out_of_range_spoil_their_row():
    scores, labels = jnp.zeros((4, 3)), jnp.array([0, 3, -1, 2])
    spoilt = safe.nan_unless_class("loss", labels, scores)
    assert np.isnan(spoilt).tolist() == [False, True, True, False]


# Numerics ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_logarithm_of_one_plus_a_share_has_all_its_digits(dtype):
    share = np.r_[0.0, 1.0, np.exp(-np.random.default_rng(0).uniform(0, 80, 500))].astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        found = np.asarray(jax.jit(safe.log_one_plus)(share))
    assert found.dtype == dtype and found[0] == 0
    for got, x in zip(found[1:], share[1:], strict=True):
        exact = mpmath.log1p(mpmath.mpf(float(x)))
        assert abs(float(got) - exact) <= 2 * np.spacing(dtype(float(exact)))


def test_what_a_subtraction_loses_is_known():
    a, b = np.meshgrid(REAL, REAL)
    difference, lost = (np.asarray(x, float) for x in jax.jit(safe.two_difference)(a, b))
    moderate = np.abs(a - b) < 1e20
    exact = np.float64(a) - b
    np.testing.assert_array_equal((difference + lost)[moderate], exact[moderate])
    assert jax.jit(safe.two_difference)(np.float32(np.inf), np.float32(1))[1] == 0


def test_an_exact_zero_times_infinity_is_zero_with_a_finite_gradient():
    factor = np.float32([0.0, -np.inf, 2.0, 0.0, 0.0])
    other = np.float32([np.inf, 0.0, 3.0, 5.0, np.nan])
    run = jax.jit(jax.vmap(jax.value_and_grad(safe.product, argnums=(0, 1))))
    value, gradients = run(factor, other)
    np.testing.assert_array_equal(value, [0, 0, 6, 0, np.nan])
    np.testing.assert_array_equal(np.array(gradients)[:, :4], [[0, 0, 3, 5], [0, 0, 2, 0]])


def test_a_ramp_has_no_gradient_at_zero_and_keeps_nan():
    run = jax.jit(jax.vmap(jax.value_and_grad(safe.ramp)))
    value, gradient = run(np.float32([-1.0, 0.0, 2.0, np.nan]))
    np.testing.assert_array_equal(value, [0, 0, 2, np.nan])
    np.testing.assert_array_equal(gradient[:3], [0, 0, 1])


def test_softplus_and_its_derivatives_keep_their_digits():
    run = jax.jit(jax.vmap(jax.value_and_grad(safe.softplus)))
    value, gradient = run(REAL)
    exact = np.float64(REAL)
    small = np.exp(-np.abs(exact))
    np.testing.assert_allclose(value, np.maximum(exact, 0) + np.log1p(small), rtol=4e-7, atol=1e-37)
    sigmoid = np.where(exact >= 0, 1, small) / (1 + small)
    np.testing.assert_allclose(gradient, sigmoid, rtol=4e-7, atol=1e-37)
    assert jax.jit(jax.hessian(safe.softplus))(0.0) == 0.25


def test_the_logarithm_of_what_a_probability_lacks_keeps_its_digits():
    p = np.float32([0, 1e-30, 1e-6, 0.1, 0.5, 0.9, 1 - 2**-20])
    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(safe.log_rest)))(p)
    np.testing.assert_allclose(value, np.log1p(-np.float64(p)), rtol=4e-7)
    np.testing.assert_allclose(gradient, -1 / (1 - np.float64(p)), rtol=4e-7)
    assert jax.jit(safe.log_rest)(np.float32(1)) == -np.inf


def test_a_ratio_of_nothing_to_nothing_is_nothing():
    run = jax.jit(jax.vmap(jax.value_and_grad(safe.ratio)))
    value, gradient = run(np.float32([0, 1, 2]), np.float32([0, 4, 0]))
    np.testing.assert_array_equal(value, [0, 0.25, np.inf])
    np.testing.assert_array_equal(gradient[:2], [0, 0.25])


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_a_unit_vector_is_safe_at_any_magnitude(size):
    rows = np.float32([[3 * size, -4 * size], [0, size]])
    found = jax.jit(safe.unit)(rows)
    np.testing.assert_allclose(found.direction, [[0.6, -0.8], [0, 1]], rtol=2e-7)
    assert not found.lacking.any()


def test_a_vector_shorter_than_epsilon_allows_is_not_stretched():
    rows = np.float32([[0.3, 0.4], [0.0, 0.0], [3.0, 4.0]])
    found = jax.jit(safe.unit)(rows, 4.0)
    np.testing.assert_allclose(found.direction, [[0.15, 0.2], [0, 0], [0.6, 0.8]], rtol=2e-7)
    np.testing.assert_allclose(found.lacking, [1 - 0.25**2, 1, 0], rtol=2e-7)


def test_the_zero_vector_stays_zero_with_a_zero_gradient():
    run = jax.jit(jax.value_and_grad(lambda x: safe.unit(x).direction.sum()))
    value, gradient = run(np.zeros(3, np.float32))
    assert value == 0
    assert not gradient.any()


def test_a_chained_slope_is_left_out_where_its_tangent_is_zero_by_construction():
    @jax.custom_jvp
    def loss(logit, label):
        return logit * label

    def rule(primals, tangents):
        return safe.chain(loss(*primals), (primals[1], tangents[0]), (jnp.inf, tangents[1]))

    loss.defjvp(rule, symbolic_zeros=True)
    assert jax.grad(loss)(2.0, 3.0) == 3
    assert jax.grad(loss, argnums=1)(2.0, 3.0) == np.inf


def test_chained_products_are_summed_along_an_axis():
    slopes = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    value, tangent = safe.chain(jnp.zeros(2), (slopes, jnp.ones((2, 2))), axis=-1)
    assert (value.tolist(), tangent.tolist()) == ([0, 0], [3, 7])
