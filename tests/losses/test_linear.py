"""Losses fused with the last layer against the loss on stored logits, torch and numpy."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from peers import in_caches

import jloss
from jloss._promises import once
from jloss.losses import linear

rng = np.random.default_rng(0)
ROWS, FEATURES, CLASSES = 150, 6, 40  # more rows than one block has
H = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
W = rng.normal(size=(FEATURES, CLASSES)).astype(np.float32)
B = rng.normal(size=CLASSES).astype(np.float32)
LABELS = rng.integers(0, CLASSES, ROWS).astype(np.int32)
WEIGHTS = rng.lognormal(size=ROWS).astype(np.float32)  # a different cotangent for each row
WHERE = rng.random(ROWS) < 0.7
EVERY = np.ones(ROWS, bool)
# Frequent classes 0 to 9 and a cluster of 30 rare ones.
PARAMETERS = jloss.AdaptiveSoftmax(
    W[:, :11],
    (tuple(np.float32(rng.normal(size=size)) for size in ((FEATURES, 3), (3, 30))),),
)
fused = jloss.linear_softmax_cross_entropy


def biased(h, w, b, **others):
    return fused(h, w, bias=b, **others)


def stored(h, w, labels, bias=0.0, where=None):
    return jloss.softmax_cross_entropy_with_integer_labels(h @ w + bias, labels, where=where)


def of_logits(h, w, b, *, labels, where):
    return stored(h, w, labels, b, where)


@cache
def program(loss):
    def total(arguments, others):
        values = loss(*arguments, **others)
        return (WEIGHTS * values).sum(), values

    return once(jax.grad(total, has_aux=True))


def results(loss, *arguments, labels=LABELS, **others):
    """Values, and the gradients of their weighted sum for the arguments before the labels."""
    gradients, values = program(loss)(arguments, {"labels": labels, **others})
    return [np.asarray(x) for x in (values, *gradients)]


def smoothed(h, w, b, labels=LABELS, where=EVERY, smoothing=0.0):
    """One program for all of these options."""
    return results(biased, h, w, b, labels=labels, where=where, label_smoothing=smoothing)


def close(got, wanted, rtol=2e-5, atol=2e-6):
    for mine, theirs in zip(got, wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=rtol, atol=atol)


# linear_softmax_cross_entropy


def test_values_and_all_gradients_are_those_of_stored_logits():
    close(smoothed(H, W, B), results(of_logits, H, W, B, where=EVERY))


def test_values_and_all_gradients_are_those_of_numpy_in_double_precision():
    h, w, b, weights = (x.astype(float) for x in (H, W, B, WEIGHTS))
    logits = h @ w + b
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    values = -np.log(probabilities[np.arange(ROWS), LABELS])
    slope = weights[:, None] * (probabilities - np.eye(CLASSES)[LABELS])
    wanted = values, slope @ w.T, h.T @ slope, slope.sum(0)
    with jax.enable_x64(True):
        got = results(biased, h, w, b)
    assert got[0].dtype == np.float64
    close(got, wanted, rtol=1e-6, atol=1e-6)  # the weights of the sum are float32


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_values_and_all_gradients_are_those_of_torch(smoothing):
    torch = pytest.importorskip("torch")
    peer = getattr(torch.nn.functional, "linear_cross_entropy", None)
    if peer is None:
        pytest.skip("this torch has no linear_cross_entropy")
    leaves = [torch.tensor(x.astype(float), requires_grad=True) for x in (H, W, B)]
    values = peer(
        leaves[0],
        leaves[1].T,
        torch.tensor(LABELS).long(),
        linear_bias=leaves[2],
        label_smoothing=smoothing,
        reduction="none",
    )
    (torch.tensor(WEIGHTS) * values).sum().backward()
    got = smoothed(H, W, B, smoothing=np.float32(smoothing))
    close(got, [values.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)], rtol=5e-5)


def test_a_mask_hides_nan_and_labels_of_minus_one_hundred():
    h, labels = np.where(WHERE[:, None], H, np.nan), np.where(WHERE, LABELS, -100)
    close(smoothed(h, W, B, labels, WHERE), results(of_logits, H, W, B, where=WHERE))


def test_right_answers_keep_their_digits():
    h, w = np.float32(20 * np.eye(3)), np.eye(3, dtype=np.float32)
    np.testing.assert_allclose(fused(h, w, np.arange(3)), np.log1p(2 * np.exp(-20.0)), 1e-6)


def test_a_bias_of_minus_infinity_rules_padding_out():
    labels, bias = LABELS % 32, np.where(np.arange(CLASSES) < 32, B, np.float32(-np.inf))
    values, for_h, *others = smoothed(H, W, bias, labels)
    wanted = results(of_logits, H, W[:, :32], B[:32], labels=labels, where=EVERY)
    close([values, for_h, *(x[..., :32] for x in others)], wanted)
    assert not any(x[..., 32:].any() for x in others)


def test_label_smoothing_is_differentiable_and_one_number_a_label():
    shares = np.linspace(0, 0.5, ROWS, dtype=np.float32)

    def values(share):
        return fused(H, W, LABELS, label_smoothing=share)

    each, none, all_of_it, slope = once(
        lambda: (values(shares), values(0.0), values(1.0), jax.jacfwd(values)(0.2))
    )()
    np.testing.assert_allclose(each, none + shares * (all_of_it - none), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(slope, all_of_it - none, rtol=1e-4, atol=1e-5)


def test_axes_before_the_last_are_kept():
    cube, labels = H.reshape(3, 50, FEATURES), LABELS.reshape(3, 50)
    loss = once(fused)
    # Each shape has a program of its own, which on an accelerator may add up in another order.
    rtol = 0 if jax.default_backend() == "cpu" else 1e-6
    np.testing.assert_allclose(loss(cube, W, labels).ravel(), loss(H, W, LABELS), rtol=rtol)
    assert jax.eval_shape(fused, H[0], W, LABELS[0]).shape == ()


def test_half_precision_gives_float32_with_gradients_in_the_dtype_of_each_argument():
    h, w = H.astype(jnp.bfloat16), W.astype(jnp.float16)
    got = results(fused, h, w)
    assert [x.dtype for x in got] == [np.float32, jnp.bfloat16, np.float16]
    wanted = smoothed(h.astype(np.float32), w.astype(np.float32), 0 * B)
    np.testing.assert_allclose(got[0], wanted[0], rtol=1e-6)


def test_forward_mode_hessians_and_their_products_are_those_of_stored_logits():
    labels = LABELS[:3]

    def of_weights(loss):
        return lambda w: loss(H[:3], w.reshape(FEATURES, 5), labels % 5).sum()

    w = W[:, :5].ravel()
    hessians = [once(jax.hessian(of_weights(loss)))(w) for loss in (fused, stored)]
    close(hessians[:1], hessians[1:])

    def along(loss):
        gradient = jax.grad(lambda h, w: jloss.mean(loss(h, w, LABELS)), (0, 1))
        return once(lambda: jax.jvp(gradient, (H, W), (H[::-1], W[::-1]))[1])()

    close(along(fused), along(stored))


def temporaries(loss, rows, classes, features=32):
    arguments = (
        jax.ShapeDtypeStruct((rows, features), np.float32),
        jax.ShapeDtypeStruct((features, classes), np.float32),
        jax.ShapeDtypeStruct((rows,), np.int32),
    )
    program = jax.value_and_grad(lambda *a: jloss.mean(loss(*a)), (0, 1))
    return once(program).lower(*arguments).compile().memory_analysis().temp_size_in_bytes


@in_caches
def test_memory_grows_with_the_weights_and_not_with_rows_times_classes():
    rows, classes = 2048, 2000
    assert temporaries(stored, rows, classes) >= 4 * rows * classes
    least = temporaries(fused, rows, classes)
    assert least < rows * classes  # a quarter of the logits
    more_rows = temporaries(fused, 4 * rows, classes) - least
    assert more_rows < 4 * 3 * rows * (2 * 32 + 8)  # some copies of the features
    more_classes = temporaries(fused, rows, 4 * classes) - least
    assert more_classes < 4 * 3 * classes * (linear._block(np.zeros((1, 32)), classes) * 5 + 2 * 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((H, W.T, LABELS), r".* weights \(40, 6\) .*Did you mean weights.T"),
        ((H, W, LABELS[:, None]), r"labels \(150, 1\) .*without the last axis.*labels\[..., 0\]"),
        ((H, W, LABELS.astype(float)), "labels must be integer"),
        ((H.astype(int), W, LABELS), "features must be floating"),
    ],
)
def test_mistakes_are_refused(arguments, message):
    with pytest.raises((TypeError, ValueError), match=f"linear_softmax_cross_entropy: {message}"):
        fused(*arguments)


def test_a_bias_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"bias \(1,\) must have the shape \(40,\)"):
        fused(H, W, LABELS, bias=B[:1])


# adaptive_softmax_cross_entropy


@pytest.mark.parametrize("bias", [False, True])
def test_the_adaptive_softmax_and_all_its_gradients_are_those_of_torch(bias):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.AdaptiveLogSoftmaxWithLoss(
        FEATURES, CLASSES, [7, 20], div_value=1.5, head_bias=bias
    ).double()
    h = torch.tensor(H.astype(float), requires_grad=True)
    output, _ = module(h, torch.tensor(LABELS).long())
    (torch.tensor(WEIGHTS) * -output).sum().backward()

    def ours(of):
        tails = tuple((of(down.weight).T, of(up.weight).T) for down, up in module.tail)
        return jloss.AdaptiveSoftmax(
            of(module.head.weight).T, tails, of(module.head.bias) if bias else None
        )

    parameters = ours(lambda x: x.detach().numpy().astype(np.float32))

    def total(h, parameters):
        values = jloss.adaptive_softmax_cross_entropy(h, parameters, LABELS)
        return (WEIGHTS * values).sum(), (values, jloss.adaptive_log_softmax(h, parameters))

    gradients, (values, likely) = once(jax.grad(total, (0, 1), has_aux=True))(H, parameters)
    close([values, gradients[0]], [-output.detach().numpy(), h.grad.numpy()])
    wanted = ours(lambda x: x.grad.numpy())
    close(jax.tree.leaves(gradients[1]), jax.tree.leaves(wanted), rtol=1e-4, atol=1e-5)
    close([likely], [module.log_prob(h).detach().numpy()])
    np.testing.assert_allclose(values, -likely[np.arange(ROWS), LABELS], rtol=1e-5)


def test_the_parameters_have_the_shapes_and_the_spread_of_torchs():
    torch = pytest.importorskip("torch")
    module = torch.nn.AdaptiveLogSoftmaxWithLoss(64, 1000, [50, 200], head_bias=True)
    init = partial(
        jloss.adaptive_softmax_init, features=64, classes=1000, cutoffs=[50, 200], bias=True
    )
    parameters = once(init)(jax.random.key(0))
    theirs = [module.head.weight.T, *(x.weight.T for pair in module.tail for x in pair)]
    theirs.append(module.head.bias)
    for mine, peer in zip(jax.tree.leaves(parameters), theirs, strict=True):
        assert mine.shape == tuple(peer.shape)
        largest = float(peer.detach().abs().max())
        np.testing.assert_allclose(np.abs(mine).max(), largest, rtol=0.1)


def test_an_adaptive_softmax_without_clusters_is_a_softmax():
    def both(h, w):
        parameters = jloss.AdaptiveSoftmax(w, ())
        return (
            jloss.adaptive_softmax_cross_entropy(h, parameters, LABELS, where=WHERE),
            stored(h, w, LABELS, where=WHERE),
        )

    np.testing.assert_allclose(*once(both)(H, W), rtol=1e-5, atol=1e-6)


def test_a_class_that_there_is_not_gives_nan_for_its_example_alone():
    labels = LABELS.copy()
    labels[3], labels[5] = 40, -1
    values = once(jloss.adaptive_softmax_cross_entropy)(H, PARAMETERS, labels)
    assert np.flatnonzero(np.isnan(values)).tolist() == [3, 5]


def test_cutoffs_and_parameters_that_do_not_fit_are_refused():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="must increase between 0 and 40"):
        jloss.adaptive_softmax_init(key, FEATURES, 40, [20, 10])
    with pytest.raises(ValueError, match="each needs one"):
        jloss.adaptive_softmax_init(key, FEATURES, 40, [10, 20])
    with pytest.raises(ValueError, match=r"features \(150, 5\) and parameters"):
        jloss.adaptive_softmax_cross_entropy(H[:, :5], PARAMETERS, LABELS)
    with pytest.raises(TypeError, match="parameters must be an AdaptiveSoftmax"):
        jloss.adaptive_softmax_cross_entropy(H, LABELS, PARAMETERS)
