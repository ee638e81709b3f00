"""CTC against the sum over all paths, and against torch and optax where these are right."""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jloss
from jloss._promises import once

LOSSES = [jloss.ctc_loss, lambda *a, **k: jloss.ctc_loss_with_forward_probs(*a, **k)[0]]
# The one is the other and more; to compile both takes long.
every_form_in_time = pytest.mark.parametrize(
    "loss",
    [LOSSES[0], pytest.param(LOSSES[1], marks=pytest.mark.long)],
    ids=["ctc_loss", "with_forward_probs"],
)


def read(path, blank):
    return tuple(k for k, _ in itertools.groupby(path) if k != blank)


def log_softmax(logits):
    return logits - np.logaddexp.reduce(logits, -1, keepdims=True)


def brute(logits, frames, labels, blank=0):
    """Minus the logarithm of the sum over all paths, in float64."""
    log_p = log_softmax(np.asarray(logits, np.float64)[frames])
    paths = itertools.product(range(log_p.shape[1]), repeat=len(log_p))
    scores = [
        sum(frame[k] for frame, k in zip(log_p, path, strict=True))
        for path in paths
        if read(path, blank) == tuple(labels)
    ]
    return -np.logaddexp.reduce(scores) if scores else np.inf


def brute_batch(logits, logit_paddings, labels, label_paddings, blank=0):
    return np.array(
        [
            brute(x, p == 0, y[q == 0].tolist(), blank)
            for x, p, y, q in zip(logits, logit_paddings, labels, label_paddings, strict=True)
        ]
    )


def batch(rng, size=8, frames=5, count=2, classes=3, blank=0):
    """All lengths of frames and of labels, zero included."""
    logits = rng.normal(scale=2.0, size=(size, frames, classes))
    choices = [k for k in range(classes) if k != blank]
    labels = rng.choice(choices, (size, count)).astype(np.int32)
    logit_paddings = np.arange(frames) >= rng.integers(0, frames + 1, (size, 1))
    label_paddings = np.arange(count) >= rng.integers(0, count + 1, (size, 1))
    return logits, logit_paddings.astype(float), labels, label_paddings.astype(float)


def long_batch(seed=0, size=3, frames=150, count=20, classes=12):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(size, frames, classes)).astype(np.float32)
    labels = rng.integers(1, classes, (size, count)).astype(np.int32)
    logit_paddings = np.arange(frames) >= np.array([[150], [131], [97]])
    label_paddings = np.arange(count) >= np.array([[20], [13], [0]])
    return logits, logit_paddings.astype(np.float32), labels, label_paddings.astype(np.float32)


@cache
def program(loss, **how):
    def summed(*inputs):
        values = loss(*inputs, **how)
        return values.sum(), values

    return once(jax.grad(summed, has_aux=True))


def values_and_slopes(loss, *inputs, **how):
    """Compiled once for all tests that have inputs of the same shapes."""
    slopes, values = program(loss, **how)(*inputs)
    return values, slopes


@pytest.mark.parametrize("blank", [0, 2])
def test_values_are_the_sum_over_all_paths(blank):
    inputs = batch(np.random.default_rng(blank), size=16, blank=blank)
    wanted = brute_batch(*inputs, blank)
    assert np.isinf(wanted).any() and np.isfinite(wanted).sum() > 3
    with jax.enable_x64(True):
        both = once(lambda *a: [loss(*a, blank_id=blank) for loss in LOSSES])(*inputs)
    for got in both:
        assert np.allclose(got, wanted, rtol=1e-13, atol=1e-13)


def test_gradients_are_the_differences_of_the_sum_over_all_paths():
    logits, *rest = batch(np.random.default_rng(3), size=4, frames=4)
    rest[0][:] = np.arange(4) >= np.array([[4], [3], [2], [4]])
    rest[2][:] = np.arange(2) >= np.array([[2], [1], [0], [1]])
    with jax.enable_x64(True):
        _, got = values_and_slopes(jloss.ctc_loss, logits, *rest)
    step, wanted = 1e-5, np.zeros_like(logits)
    for place in np.ndindex(logits.shape):
        change = np.zeros_like(logits)
        change[place] = step
        up, down = (brute_batch(logits + s * change, *rest)[place[0]] for s in (1, -1))
        wanted[place] = (up - down) / (2 * step)
    assert np.allclose(got, wanted, atol=1e-9)


@pytest.mark.long
def test_the_hessian_is_the_change_of_the_gradient_in_many_segments():
    logits, *rest = (x[:1] for x in long_batch())
    logits = logits[:, :33, :4].astype(np.float64)
    rest = [rest[0][:, :33], 1 + rest[1][:, :6] % 3, rest[2][:, :6]]
    direction = np.random.default_rng(4).normal(size=logits.shape)

    def loss(logits):
        return jloss.ctc_loss(logits, *rest)[0]

    def along(x):
        return jnp.vdot(jax.grad(loss)(x), direction)

    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(loss))
        forward = jax.jit(lambda x: jax.jvp(jax.grad(loss), (x,), (direction,))[1])(logits)
        reverse = jax.jit(jax.grad(along))(logits)
        step = 1e-5 * direction
        differences = (gradient(logits + step) - gradient(logits - step)) / 2e-5
    assert np.allclose(forward, differences, atol=1e-8)
    assert np.allclose(reverse, forward, atol=1e-12)


def test_hessians_of_single_sequences_are_symmetric_and_have_the_shift_as_null_direction():
    logits, *rest = batch(np.random.default_rng(5), size=1, frames=4)
    rest = [np.zeros_like(rest[0]), rest[1], np.zeros_like(rest[2])]
    with jax.enable_x64(True):
        hessian = once(jax.hessian(lambda x: jloss.ctc_loss(x[None], *rest)[0]))(logits[0])
    flat = np.asarray(hessian).reshape(12, 12)
    assert np.allclose(flat, flat.T, atol=1e-14)
    assert np.allclose(np.asarray(hessian).sum(-1), 0, atol=1e-14)
    assert np.abs(flat).max() > 1e-3


def test_values_and_gradients_are_those_of_torch():
    torch = pytest.importorskip("torch")
    logits, logit_paddings, labels, label_paddings = inputs = long_batch()
    values, gradient = values_and_slopes(jloss.ctc_loss, *inputs)
    x = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    lengths = [torch.tensor((p == 0).sum(1)) for p in (logit_paddings, label_paddings)]
    log_p = x.transpose(0, 1).log_softmax(-1)
    wanted = torch.nn.functional.ctc_loss(
        log_p, torch.tensor(labels, dtype=torch.long), *lengths, reduction="none"
    )
    wanted.sum().backward()
    assert np.allclose(values, wanted.detach().numpy(), rtol=1e-6)
    assert np.abs(gradient - x.grad.numpy()).max() < 2e-6


def test_values_and_gradients_are_those_of_optax_on_ordinary_input():
    logits, logit_paddings, labels, label_paddings = inputs = long_batch(1)
    ours, theirs = (values_and_slopes(m.ctc_loss, *inputs) for m in (jloss, optax.losses))
    assert np.allclose(ours[0], theirs[0], rtol=1e-6)
    assert np.allclose(ours[1], theirs[1], atol=1e-3)  # optax's own error is some 1e-4 here
    inputs = logits, logit_paddings, np.where(labels == 3, 0, labels), label_paddings
    how = dict(blank_id=3, log_epsilon=-1e5)
    ours, theirs = (once(partial(m.ctc_loss, **how))(*inputs) for m in (jloss, optax.losses))
    assert np.allclose(ours, theirs, rtol=1e-5)


def test_forward_probabilities_are_those_of_optax_with_minus_infinity_for_its_epsilon():
    logits, *rest = long_batch(2)
    ours, theirs = (
        once(m.ctc_loss_with_forward_probs)(logits, *rest) for m in (jloss, optax.losses)
    )
    lengths = (rest[2] == 0).sum(1)
    for got, wanted in zip(ours[1:], theirs[1:], strict=True):
        assert got.shape == wanted.shape
        first = 21 - got.shape[2]  # blanks start before any label, labels with the first
        within = np.arange(first, 21) <= lengths[:, None]
        within = np.broadcast_to(within, got.shape)
        possible = np.asarray(got > -np.inf)
        assert not possible[~within].any()
        assert np.array_equal(possible[within], np.asarray(wanted > -9e4)[within])
        assert np.allclose(got[possible], wanted[possible], rtol=1e-5)
    assert np.isclose(-ours[1][-1, 0, 20], ours[0][0], rtol=1e-6)


def test_forward_probabilities_have_gradients():
    logits, *rest = batch(np.random.default_rng(6), size=4, frames=4)
    rest = [np.zeros_like(rest[0]), rest[1], np.zeros_like(rest[2])]
    with jax.enable_x64(True):

        def last(logits):
            return -jloss.ctc_loss_with_forward_probs(logits, *rest)[1][-1, :, -1].sum()

        got = once(jax.grad(last))(logits)
        _, wanted = values_and_slopes(jloss.ctc_loss, logits, *rest)
    assert np.allclose(got, wanted, atol=1e-13)


@every_form_in_time
def test_an_infeasible_alignment_is_infinite_with_a_zero_gradient_where_optax_has_1e5(loss):
    _, logit_paddings, labels, label_paddings = inputs = long_batch(7)
    logit_paddings[:], label_paddings[:] = np.arange(150) >= 3, np.arange(20) >= 3
    labels[:, :3] = [[1, 1, 2], [1, 2, 3], [1, 2, 1]]  # the first needs four frames
    values, slopes = values_and_slopes(loss, *inputs)
    assert np.array_equal(np.isinf(values), [True, False, False])
    assert values_and_slopes(optax.losses.ctc_loss, *inputs)[0][0] < 2e5
    assert not slopes[0].any()
    assert np.abs(slopes[1:]).max(axis=(1, 2)).all()
    zeroed, slopes = values_and_slopes(loss, *inputs, zero_infinity=True)
    assert np.allclose(zeroed, [0, *values[1:]])
    assert not slopes[0].any() and np.isfinite(slopes).all()


def test_a_loss_is_never_negative_where_optax_is():
    logits = np.zeros((1, 40, 3), np.float32)
    logits[..., 0] = 1.0
    logits[:, :20, 1] = 30.0
    logits[:, 20:, 2] = 30.0
    scales = np.linspace(0.2, 2.0, 64, dtype=np.float32)[:, None, None]
    many = logits * scales
    labels = np.tile(np.array([[1, 2]], np.int32), (64, 1))
    rest = np.zeros((64, 40)), labels, np.zeros((64, 2))
    loss = once(jloss.ctc_loss)
    assert (loss(many, *rest) >= 0).all()
    blanks = np.zeros((8, 100, 5), np.float32) + 40.0 * np.eye(5, dtype=np.float32)[0]
    empty = np.zeros((8, 100)), np.zeros((8, 0), np.int32), np.zeros((8, 0))
    assert (loss(blanks, *empty) >= 0).all()


def test_no_frames_and_no_labels_are_certain_where_optax_gives_minus_zero_or_fails():
    none = np.zeros((2, 0), np.int32)
    logits = np.full((2, 3, 4), np.nan, np.float32)
    values, slopes = values_and_slopes(jloss.ctc_loss, logits, np.ones((2, 3)), none, none)
    assert not values.any() and not slopes.any()
    frames, one = np.zeros((2, 0, 4), np.float32), np.ones((2, 1), np.int32)
    loss = once(jloss.ctc_loss)
    assert np.array_equal(loss(frames, none, none, none), [0, 0])
    assert np.isinf(loss(frames, none, one, 0 * one)).all()
    values, blank, label = once(jloss.ctc_loss_with_forward_probs)(
        np.zeros((2, 3, 4), np.float32), np.zeros((2, 3)), none, none
    )
    assert blank.shape == (3, 2, 1) and label.shape == (3, 2, 0)
    assert np.allclose(values, 3 * np.log(4.0))


@every_form_in_time
def test_what_padding_hides_never_matters(loss):
    rng = np.random.default_rng(8)
    logits, logit_paddings, labels, label_paddings = long_batch()
    clean = values_and_slopes(loss, logits, logit_paddings, labels, label_paddings)
    hidden = logit_paddings == 1
    dirty = logits.copy()
    dirty[hidden] = rng.choice([np.nan, np.inf, -np.inf, 3e38], (hidden.sum(), 12))
    bad = np.where(label_paddings == 1, rng.choice([-1, 0, 12, 10**9], labels.shape), labels)
    got = values_and_slopes(loss, dirty, logit_paddings, bad, label_paddings)
    assert np.array_equal(got[0], clean[0])
    # An accelerator scatters in any order.
    rtol = 0 if jax.default_backend() == "cpu" else 1e-5
    np.testing.assert_allclose(got[1], clean[1], rtol=rtol, atol=rtol, equal_nan=False)
    assert not got[1][hidden].any()


@pytest.mark.long
@pytest.mark.parametrize("mode", [jax.jacfwd, jax.grad])
def test_what_padding_hides_matters_to_no_second_derivative(mode):
    logits, logit_paddings, labels, label_paddings = long_batch()
    logits = np.where(logit_paddings[..., None] == 1, np.nan, logits)[1:2, 125:]
    rest = logit_paddings[1:2, 125:], labels[1:2, :2], label_paddings[1:2, :2]

    def slope(size):
        return jax.grad(lambda x: jloss.ctc_loss(x, *rest).sum())(size * logits)[0, 0, 0]

    def spread(logits):
        return (jax.grad(lambda x: jloss.ctc_loss(x, *rest).sum())(logits) ** 2).sum()

    second = mode(slope)(1.0) if mode is jax.jacfwd else mode(spread)(logits)
    assert np.isfinite(second).all() and np.any(second)


def test_frames_of_padding_may_stand_anywhere():
    logits, logit_paddings, labels, label_paddings = long_batch()
    logit_paddings = (np.arange(150) % 3 == 0) * np.ones((3, 1), np.float32)
    kept = logits[:, logit_paddings[0] == 0]
    got, _ = values_and_slopes(jloss.ctc_loss, logits, logit_paddings, labels, label_paddings)
    wanted = once(jloss.ctc_loss)(kept, np.zeros(kept.shape[:2]), labels, label_paddings)
    assert np.allclose(got, wanted, rtol=1e-6)


def masked(*inputs):
    return jloss.ctc_loss(*inputs[:-1], where=inputs[-1])


@pytest.mark.parametrize(
    ("name", "place", "bad"),
    [
        ("labels", (1, 2), -1),
        ("labels", (1, 2), 12),
        ("labels", (1, 2), 0),  # the blank
        ("logit_paddings", (1, 5), 0.5),
        ("logit_paddings", (1, 39), np.nan),
        ("label_paddings", (1, 1), 1.0),  # labels after padding
        ("label_paddings", (1, 19), 2.0),
        ("label_paddings", (1, 19), np.nan),
    ],
)
def test_a_value_out_of_its_domain_spoils_its_own_sequence_alone(name, place, bad):
    inputs = long_batch()
    inputs[1][:, 40:] = 1
    inputs[1][:, :40] = 0
    others = np.array([True, False, True])
    clean, _ = values_and_slopes(jloss.ctc_loss, *inputs)
    names = ["logits", "logit_paddings", "labels", "label_paddings"]
    inputs[names.index(name)][place] = bad
    values, slopes = values_and_slopes(jloss.ctc_loss, *inputs)
    assert np.array_equal(np.isnan(values), ~others)
    assert np.array_equal(values[others], clean[others])
    assert np.array_equal(np.isnan(slopes).any((1, 2)), ~others)
    values, slopes = values_and_slopes(masked, *inputs, others)
    assert np.array_equal(values, np.where(others, clean, 0))
    assert np.isfinite(slopes).all() and not slopes[1].any()


@pytest.mark.long
def test_infinite_logits_are_the_limit_of_large_ones():
    labels = np.array([[1]], np.int32)
    rest = np.zeros((1, 2)), labels, np.zeros((1, 1))
    certain = np.array([[[-np.inf, np.inf, 0.0], [0.0, 0.0, -np.inf]]], np.float32)
    value, gradient = values_and_slopes(jloss.ctc_loss, certain, *rest)
    assert value == 0 and not gradient.any()
    lost = np.array([[[0.0, -np.inf, 0.0], [0.0, -np.inf, 0.0]]], np.float32)
    value, gradient = values_and_slopes(jloss.ctc_loss, lost, *rest)
    assert value == np.inf and not gradient.any()
    ruled_out = np.array([[[0.5, 1.0, -np.inf], [0.0, 2.0, -np.inf]]], np.float32)
    two = jloss.ctc_loss(ruled_out[..., :2], *rest)
    value, gradient = values_and_slopes(jloss.ctc_loss, ruled_out, *rest)
    assert np.isclose(value, two[0]) and np.isfinite(gradient).all()


@pytest.mark.parametrize("size", [1e4, 1e8, 1e30])
def test_logits_of_any_size_give_numbers(size):
    logits, *rest = long_batch()
    logits *= np.float32(size)
    values, gradient = values_and_slopes(jloss.ctc_loss, logits, *rest)
    assert np.isfinite(values).all()
    assert np.isfinite(gradient).all() and np.abs(gradient).max() <= 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.long)])
def test_half_precision_is_computed_in_float32(dtype):
    logits, *rest = long_batch()
    logits = logits.astype(dtype)
    values, gradient = values_and_slopes(jloss.ctc_loss, logits, *rest)
    wanted, slope = values_and_slopes(jloss.ctc_loss, logits.astype(np.float32), *rest)
    assert values.dtype == jnp.float32 and gradient.dtype == dtype
    assert np.array_equal(values, wanted)
    assert np.array_equal(gradient, slope.astype(dtype))


def test_any_leading_axes_and_vmap_give_what_single_sequences_give():
    loss = jloss.ctc_loss

    @once
    def forms(*inputs):
        more_axes = loss(*(x[None, :, None] for x in inputs))[0, :, 0]
        return loss(*inputs), more_axes, jax.vmap(loss)(*inputs), loss(*(x[0] for x in inputs))

    inputs = long_batch()
    flat, more_axes, mapped, first = forms(*inputs)
    assert np.array_equal(more_axes, flat)
    assert np.allclose(mapped, flat, rtol=1e-6)
    assert np.allclose(first, flat[0], rtol=1e-6)
    _, blanks, labels = jax.eval_shape(
        jloss.ctc_loss_with_forward_probs, *(x[None] for x in inputs)
    )
    assert blanks.shape == (150, 1, 3, 21) and labels.shape == (150, 1, 3, 20)


def test_paddings_may_be_booleans_or_integers():
    @once
    def of_dtypes(logits, logit_paddings, labels, label_paddings):
        return [
            jloss.ctc_loss(logits, logit_paddings.astype(t), labels, label_paddings.astype(t))
            for t in (float, bool, int)
        ]

    wanted, *others = of_dtypes(*long_batch())
    for got in others:
        assert np.array_equal(got, wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(logit_paddings=np.zeros(3)), "logit_paddings .* Lengths"),
        (dict(label_paddings=np.zeros(3)), "label_paddings .* Lengths"),
        (dict(blank_id=12), "blank_id 12 is none of the 12"),
        (dict(blank_id=-1), "blank_id -1"),
        (dict(labels=np.zeros((3, 20, 12), np.int32)), "labels .* One-hot"),
        (dict(where=np.ones((3, 150), bool)), "where"),
    ],
)
def test_a_mistake_is_named(change, message):
    names = ["logits", "logit_paddings", "labels", "label_paddings"]
    arguments = dict(zip(names, long_batch(), strict=True)) | change
    with pytest.raises(ValueError, match=f"ctc_loss: {message}"):
        jloss.ctc_loss(**arguments)


def temporaries(loss, frames):
    shapes = [(4, frames, 10), (4, frames), (4, 16), (4, 16)]
    dtypes = [jnp.float32, jnp.float32, jnp.int32, jnp.float32]
    inputs = [jax.ShapeDtypeStruct(s, d) for s, d in zip(shapes, dtypes, strict=True)]
    run = jax.jit(jax.value_and_grad(lambda *a: loss(*a).sum()))
    return run.lower(*inputs).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.long
def test_the_gradient_needs_less_than_half_of_the_memory_of_optax_and_at_most_linearly_more():
    ours = [temporaries(jloss.ctc_loss, frames) for frames in (200, 400)]
    assert ours[1] <= 2 * ours[0]
    assert ours[1] <= temporaries(optax.losses.ctc_loss, 400) / 2
