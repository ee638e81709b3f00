"""Losses fused with the last layer against the loss on stored logits, torch and numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jloss
from jloss.losses import linear

rng = np.random.default_rng(0)
ROWS, FEATURES, CLASSES = 150, 6, 40  # more rows than one block has
H = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
W = rng.normal(size=(FEATURES, CLASSES)).astype(np.float32)
B = rng.normal(size=CLASSES).astype(np.float32)
LABELS = rng.integers(0, CLASSES, ROWS).astype(np.int32)
WEIGHTS = rng.lognormal(size=ROWS).astype(np.float32)  # a different cotangent for each row
WHERE = rng.random(ROWS) < 0.7
fused = jax.jit(jloss.linear_softmax_cross_entropy)


def stored(h, w, labels, bias=0.0, where=None):
    return jloss.softmax_cross_entropy_with_integer_labels(h @ w + bias, labels, where=where)


def results(loss, *arguments):
    """Values, and the gradients of their weighted sum for all arguments."""

    def total(*arguments):
        values = loss(*arguments)
        return (WEIGHTS * values).sum(), values

    places = tuple(range(len(arguments)))
    gradients, values = jax.jit(jax.grad(total, places, has_aux=True))(*arguments)
    return [np.asarray(x) for x in (values, *gradients)]


def close(got, wanted, rtol=2e-5, atol=2e-6):
    for mine, theirs in zip(got, wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=rtol, atol=atol)


# linear_softmax_cross_entropy


def test_values_and_all_gradients_are_those_of_stored_logits():
    got = results(lambda h, w, b: fused(h, w, LABELS, bias=b), H, W, B)
    close(got, results(lambda h, w, b: stored(h, w, LABELS, b), H, W, B))


def test_values_and_all_gradients_are_those_of_numpy_in_double_precision():
    h, w, b, weights = (x.astype(float) for x in (H, W, B, WEIGHTS))
    logits = h @ w + b
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    values = -np.log(probabilities[np.arange(ROWS), LABELS])
    slope = weights[:, None] * (probabilities - np.eye(CLASSES)[LABELS])
    wanted = values, slope @ w.T, h.T @ slope, slope.sum(0)
    with jax.enable_x64(True):
        got = results(lambda h, w, b: fused(h, w, LABELS, bias=b), h, w, b)
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
    got = results(lambda h, w, b: fused(h, w, LABELS, bias=b, label_smoothing=smoothing), H, W, B)
    close(got, [values.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)], rtol=5e-5)


def test_a_mask_hides_nan_and_labels_of_minus_one_hundred():
    h, labels = np.where(WHERE[:, None], H, np.nan), np.where(WHERE, LABELS, -100)
    got = results(lambda h, w: fused(h, w, labels, where=WHERE), h, W)
    close(got, results(lambda h, w: stored(h, w, LABELS, where=WHERE), H, W))


def test_right_answers_keep_their_digits():
    h = 20 * np.eye(3, dtype=np.float32)
    with jax.enable_x64(True):
        wanted = stored(h.astype(float), np.eye(3), np.arange(3))
    np.testing.assert_allclose(fused(h, np.eye(3, dtype=np.float32), np.arange(3)), wanted, 1e-6)


def test_a_bias_of_minus_infinity_rules_padding_out():
    padded = np.pad(W, [(0, 0), (0, 8)])
    bias = np.pad(np.zeros(CLASSES, np.float32), (0, 8), constant_values=-np.inf)
    got = results(lambda h, w: fused(h, w, LABELS, bias=bias), H, padded)
    values, for_h, for_w = results(lambda h, w: stored(h, w, LABELS), H, W)
    close(got, [values, for_h, np.pad(for_w, [(0, 0), (0, 8)])])


def test_label_smoothing_is_differentiable_and_one_number_a_label():
    shares = jnp.linspace(0, 0.5, ROWS)

    def values(share):
        return fused(H, W, LABELS, label_smoothing=share)

    each, none, all_of_it, slope = jax.jit(
        lambda: (values(shares), values(0.0), values(1.0), jax.jacfwd(values)(0.2))
    )()
    np.testing.assert_allclose(each, none + shares * (all_of_it - none), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(slope, all_of_it - none, rtol=1e-4, atol=1e-5)


def test_axes_before_the_last_are_kept():
    cube, labels = H.reshape(3, 50, FEATURES), LABELS.reshape(3, 50)
    np.testing.assert_array_equal(fused(cube, W, labels).ravel(), fused(H, W, LABELS))
    assert fused(H[0], W, LABELS[0]).shape == ()


def test_half_precision_gives_float32_with_gradients_in_the_dtype_of_each_argument():
    h, w = H.astype(jnp.bfloat16), W.astype(jnp.float16)
    got = results(lambda h, w: fused(h, w, LABELS), h, w)
    assert [x.dtype for x in got] == [np.float32, jnp.bfloat16, np.float16]
    wanted = fused(h.astype(np.float32), w.astype(np.float32), LABELS)
    np.testing.assert_allclose(got[0], wanted, rtol=1e-6)


def test_forward_mode_hessians_and_their_products_are_those_of_stored_logits():
    labels = LABELS[:3]

    def of_weights(loss):
        return lambda w: loss(H[:3], w.reshape(FEATURES, 5), labels % 5).sum()

    w = W[:, :5].ravel()
    hessians = [jax.jit(jax.hessian(of_weights(loss)))(w) for loss in (fused, stored)]
    close(hessians[:1], hessians[1:])

    def along(loss):
        gradient = jax.grad(lambda h, w: jloss.mean(loss(h, w, LABELS)), (0, 1))
        return jax.jit(lambda: jax.jvp(gradient, (H, W), (H[::-1], W[::-1]))[1])()

    close(along(fused), along(stored))


def temporaries(loss, rows, classes, features=32):
    arguments = (
        jax.ShapeDtypeStruct((rows, features), np.float32),
        jax.ShapeDtypeStruct((features, classes), np.float32),
        jax.ShapeDtypeStruct((rows,), np.int32),
    )
    program = jax.value_and_grad(lambda *a: jloss.mean(loss(*a)), (0, 1))
    return jax.jit(program).lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def test_memory_grows_with_the_weights_and_not_with_rows_times_classes():
    rows, classes = 2048, 2000
    assert temporaries(stored, rows, classes) >= 4 * rows * classes
    least = temporaries(fused, rows, classes)
    assert least < rows * classes  # a quarter of the logits
    more_rows = temporaries(fused, 4 * rows, classes) - least
    assert more_rows < 4 * 3 * rows * (2 * 32 + 8)  # some copies of the features
    more_classes = temporaries(fused, rows, 4 * classes) - least
    assert more_classes < 4 * 3 * classes * (linear._block(np.zeros((1, 32))) * 5 + 2 * 32)


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
        return (WEIGHTS * values).sum(), values

    gradients, values = jax.jit(jax.grad(total, (0, 1), has_aux=True))(H, parameters)
    close([values, gradients[0]], [-output.detach().numpy(), h.grad.numpy()])
    wanted = ours(lambda x: x.grad.numpy())
    close(jax.tree.leaves(gradients[1]), jax.tree.leaves(wanted), rtol=1e-4, atol=1e-5)
    likely = jax.jit(jloss.adaptive_log_softmax)(H, parameters)
    close([likely], [module.log_prob(h).detach().numpy()])
    np.testing.assert_allclose(values, -likely[np.arange(ROWS), LABELS], rtol=1e-5)


def test_the_parameters_have_the_shapes_and_the_spread_of_torchs():
    torch = pytest.importorskip("torch")
    module = torch.nn.AdaptiveLogSoftmaxWithLoss(64, 1000, [50, 200], head_bias=True)
    parameters = jloss.adaptive_softmax_init(jax.random.key(0), 64, 1000, [50, 200], bias=True)
    theirs = [module.head.weight.T, *(x.weight.T for pair in module.tail for x in pair)]
    theirs.append(module.head.bias)
    for mine, peer in zip(jax.tree.leaves(parameters), theirs, strict=True):
        assert mine.shape == tuple(peer.shape)
        largest = float(peer.detach().abs().max())
        np.testing.assert_allclose(jnp.abs(mine).max(), largest, rtol=0.1)


def test_an_adaptive_softmax_without_clusters_is_a_softmax():
    parameters = jloss.AdaptiveSoftmax(W, ())
    got = jax.jit(jloss.adaptive_softmax_cross_entropy)(H, parameters, LABELS, where=WHERE)
    np.testing.assert_allclose(got, stored(H, W, LABELS, where=WHERE), rtol=1e-5, atol=1e-6)


def test_a_class_that_there_is_not_gives_nan_for_its_example_alone():
    parameters = jloss.adaptive_softmax_init(jax.random.key(0), FEATURES, 40, [10], div_value=2)
    labels = LABELS.copy()
    labels[3], labels[5] = 40, -1
    values = jax.jit(jloss.adaptive_softmax_cross_entropy)(H, parameters, labels)
    assert np.flatnonzero(np.isnan(values)).tolist() == [3, 5]


def test_cutoffs_and_parameters_that_do_not_fit_are_refused():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="must increase between 0 and 40"):
        jloss.adaptive_softmax_init(key, FEATURES, 40, [20, 10])
    with pytest.raises(ValueError, match="each needs one"):
        jloss.adaptive_softmax_init(key, FEATURES, 40, [10, 20])
    parameters = jloss.adaptive_softmax_init(key, 8, 40, [10])
    with pytest.raises(ValueError, match=r"features \(150, 6\) and parameters"):
        jloss.adaptive_softmax_cross_entropy(H, parameters, LABELS)
    with pytest.raises(TypeError, match="parameters must be an AdaptiveSoftmax"):
        jloss.adaptive_softmax_cross_entropy(H, LABELS, parameters)
