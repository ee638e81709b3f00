"""Penalties: against torch's norms and differences, at kinks, under masks, on parts of a tree."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jloss
from jloss._promises import once

RANDOM = np.random.default_rng(0)
PARAMS = {"w": RANDOM.normal(size=(3, 4)), "v": {"w": RANDOM.normal(size=(2, 5))}}
PARAMS = jax.tree.map(np.float32, PARAMS)

# Each penalty, the same of float64 arrays in torch, and its gradient as torch finds it.
FORMS = {
    "l1": (jloss.l1_penalty, lambda x: x.abs().sum()),
    "l2": (jloss.l2_penalty, lambda x: x.pow(2).sum()),
    "rows": (jloss.group_lasso_penalty, lambda x: x.norm(dim=-1).sum()),
    "columns": (lambda p: jloss.group_lasso_penalty(p, axis=0), lambda x: x.norm(dim=0).sum()),
    "all": (lambda p: jloss.group_lasso_penalty(p, axis=(0, 1)), lambda x: x.norm()),
    "lines": (jloss.total_variation_penalty, lambda x: x.diff(dim=-1).abs().sum()),
    "image": (
        lambda p: jloss.total_variation_penalty(p, axis=(0, 1)),
        lambda x: x.diff(dim=0).abs().sum() + x.diff(dim=1).abs().sum(),
    ),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_value_and_gradient_are_those_of_torch(form):
    torch = pytest.importorskip("torch")
    ours, theirs = form
    leaves = [torch.tensor(np.float64(x), requires_grad=True) for x in jax.tree.leaves(PARAMS)]
    expected = sum(map(theirs, leaves))
    expected.backward()
    value, gradient = once(jax.value_and_grad(ours))(PARAMS)
    assert float(value) == pytest.approx(expected.item(), rel=1e-6)
    for found, leaf in zip(jax.tree.leaves(gradient), leaves, strict=True):
        np.testing.assert_allclose(found, leaf.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_at_a_kink_the_derivative_is_zero_forward_and_reverse(form):
    zero, direction = np.zeros((2, 3), np.float32), np.float32([[0, 1, 2], [3, 4, 5]])

    @once
    def kink(zero):
        value, slope = jax.jvp(form[0], (zero,), (direction,))
        return value, slope, jax.grad(form[0])(zero)

    assert not any(np.any(found) for found in kink(zero))


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        (jloss.l1_penalty, 1 + 2 + 5.5 + 3 + 4 + 9),
        (jloss.l2_penalty, 1 + 4 + 5.5**2 + 9 + 16 + 81),
        (jloss.group_lasso_penalty, (1 + 4 + 5.5**2) ** 0.5 + (9 + 16 + 81) ** 0.5),
        (jloss.total_variation_penalty, 3 + 1),
    ],
)
def test_what_a_mask_hides_adds_nothing(ours, expected):
    x = np.float32([[1, -2, 5, 5.5], [3, 4, 7, 9]])
    where = np.array([[True, True, False, True]] * 2)
    hidden = np.where(where, x, np.float32(np.nan))
    value, gradient = once(jax.value_and_grad(ours))(hidden, where=where)
    assert float(value) == pytest.approx(expected, rel=1e-6)
    assert not gradient[:, 2].any() and np.isfinite(gradient).all()


def test_the_hessian_of_a_group_is_that_of_its_length():
    x = np.float32([3, 4])
    expected = np.eye(2) / 5 - np.outer(x, x) / 125
    hessian = once(jax.hessian(jloss.group_lasso_penalty))
    np.testing.assert_allclose(hessian(x), expected, rtol=1e-5)
    assert np.isfinite(hessian(0 * x)).all()


def test_a_group_of_any_magnitude_has_a_length():
    both = once(jax.value_and_grad(jloss.group_lasso_penalty))
    for scale in (1e-30, 1e30):
        value, gradient = both(np.float32([3, 4]) * np.float32(scale))
        assert float(value) == pytest.approx(5 * scale, rel=1e-6)
        np.testing.assert_allclose(gradient, [0.6, 0.8], rtol=1e-6)


def test_half_precision_is_added_up_in_float32():
    params = np.ones(4096, jnp.bfloat16)
    value, gradient = once(jax.value_and_grad(jloss.l1_penalty))(params)
    assert (value, value.dtype, gradient.dtype) == (4096, jnp.float32, jnp.bfloat16)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: jloss.l1_penalty({"n": np.arange(3)}), TypeError, "params must be floating"),
        (lambda: jloss.l2_penalty(np.ones(3), where=np.ones(2, bool)), ValueError, "must fit"),
        (lambda: jloss.l2_penalty(PARAMS, where={"w": True}), ValueError, "a tree like the params"),
        (lambda: jloss.group_lasso_penalty(np.ones(())), ValueError, "axis"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


# As objectives.


def test_a_penalty_of_chosen_parts_is_an_objective():
    params = {
        "dense": {"kernel": np.float32([[3, 4]]), "bias": np.float32([100])},
        "head": {"kernel": np.float32([[-1]])},
    }
    found = {
        "all": jloss.penalty(jloss.l1_penalty),
        "picked": jloss.penalty(jloss.l1_penalty, of=lambda params: params["dense"]["kernel"]),
        "pattern": jloss.penalty(jloss.l1_penalty, of="*/kernel"),
        "options": jloss.penalty(partial(jloss.group_lasso_penalty, axis=0), of="dense/kernel"),
    }
    combined = jloss.combine(fit=found["all"], small=(0.5, found["picked"]))

    @once
    def results(params):
        values = {name: objective(params, None).value for name, objective in found.items()}
        gradient = jax.grad(lambda p: found["pattern"](p, None).value)(params)
        return values, combined(params, None)[0].value, gradient

    values, sum_of_two, gradient = results(params)
    assert values == {"all": 108.0, "picked": 7.0, "pattern": 8.0, "options": 7.0}
    assert sum_of_two == 108 + 3.5
    assert gradient["dense"]["bias"] == 0 and gradient["head"]["kernel"] == -1


def test_a_penalty_of_nothing_names_what_there_is():
    with pytest.raises(ValueError, match=r"no params match 'kernel'; there are dense/kernel, dens"):
        jloss.penalty(jloss.l1_penalty, of="kernel")(
            {"dense": {"kernel": jnp.ones(1), "other": jnp.ones(1)}}, None
        )
    with pytest.raises(ValueError, match="one number, not an array of shape"):
        jloss.penalty(lambda params: params)(jnp.ones(2), None)
