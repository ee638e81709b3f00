import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator, eigsh

import jloss
from jloss import _krylov, curvature

# Nominal 95%. Below 0.93 an interval promises too much, and fewer seeds see it less sharply.
COVERAGE = [(100, 0.90), pytest.param(1000, 0.93, marks=pytest.mark.long)]
coverage_of_seeds = pytest.mark.parametrize(("seeds", "least"), COVERAGE)


def quadratic(params, matrix):
    """Its Hessian is the matrix, everywhere."""
    return jloss.Average(0.5 * params @ (matrix @ params), jnp.ones(()))


def planted(values, dtype=np.float32):
    """A randomly rotated matrix with these eigenvalues."""
    size = len(values)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(size, size)))
    matrix = (rotation * values) @ rotation.T
    return ((matrix + matrix.T) / 2).astype(dtype)


def operator_of(matrix):
    return curvature.hessian(quadratic, np.zeros(len(matrix), matrix.dtype), [matrix])


# Of every operator here, wherever another size shows nothing else: JAX compiles for each.
N = 48
SPECTRA = {
    "clustered": np.r_[5, 5.001, 5.002, np.linspace(0, 1, N - 3)],
    "degenerate": np.r_[5, 5, 5, np.linspace(0, 3, N - 3)],
    "rank 5": np.r_[1, 2, 3, 4, 5, np.zeros(N - 5)],
    "indefinite": np.linspace(-3, 2, N),
    "condition 1e12": np.logspace(-12, 0, N),
    "zero": np.zeros(N),
    "identity": np.ones(N),
}


@pytest.fixture(params=SPECTRA)
def spectrum(request):
    return np.sort(SPECTRA[request.param])


@pytest.mark.parametrize("k", [1, 3])
def test_eigenvalues_of_planted_spectra_lie_within_their_errors(spectrum, k):
    for find, exact in (
        (curvature.largest_eigenpairs, spectrum[::-1]),
        (curvature.smallest_eigenpairs, spectrum),
    ):
        found = find(operator_of(planted(spectrum)), k, budget=N)
        error = np.abs(found.values[:, None] - spectrum).min(axis=1)
        assert (error <= found.errors.total + 1e-6 * np.abs(spectrum).max()).all()
        if found.converged:
            # The cluster's members are closer than a residual of 1e-3 * 5 tells apart.
            np.testing.assert_allclose(found.values, exact[:k], atol=2.5e-3 if k == 1 else 3e-4)


def test_all_but_hopeless_planted_spectra_converge():
    for name, values in SPECTRA.items():
        found = curvature.largest_eigenpairs(operator_of(planted(values)), 3, budget=N)
        assert found.converged, name


@pytest.mark.long
def test_eigenvalues_of_condition_1e12_are_exact_to_rounding_in_float64():
    values = SPECTRA["condition 1e12"]
    with jax.enable_x64(True):
        operator = operator_of(planted(values, np.float64))
        found = curvature.smallest_eigenpairs(operator, 2, rtol=1e-2, budget=N)
        top = curvature.largest_eigenpairs(operator, 3, rtol=1e-8)
    assert (np.abs(found.values - np.sort(values)[:2]) <= found.errors.total + 1e-15).all()
    np.testing.assert_allclose(top.values, np.sort(values)[::-1][:3], rtol=1e-12)


def test_lanczos_on_a_low_rank_operator_stays_within_its_spectrum():
    # matfree's default Lanczos gave Ritz values of -37.7 and +41.0 for one of 120 rows.
    values = SPECTRA["rank 5"]
    operator = operator_of(planted(values))
    start = jax.random.normal(jax.random.key(1), (1, N))
    state = _krylov.start(jax.random.key(2), start, N, jnp.zeros((0, N)))
    state = operator.lanczos(state, 0, N)
    found = _krylov.ritz(state.alpha[0], state.beta[0])
    np.testing.assert_allclose(found.values, np.sort(values), atol=1e-5)
    basis = np.asarray(state.basis[0, :N], np.float64)
    np.testing.assert_allclose(basis @ basis.T, np.eye(N), atol=1e-6)


def test_eigenvectors_are_orthonormal_and_have_the_residuals_that_are_told():
    matrix = planted(SPECTRA["degenerate"])
    found = curvature.largest_eigenpairs(operator_of(matrix), 3)
    vectors = np.asarray(found.vectors, np.float64)
    residuals = np.linalg.norm(vectors @ matrix - found.values[:, None] * vectors, axis=1)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(3), atol=1e-4)
    np.testing.assert_allclose(residuals, found.errors.krylov, atol=5e-6)


def test_a_budget_that_ends_is_told():
    found = curvature.largest_eigenpairs(operator_of(planted(SPECTRA["indefinite"])), budget=5)
    assert not found.converged
    assert found.products == 6
    assert abs(found.values[0] - 2) > found.errors.rounding[0]
    trace = curvature.trace(operator_of(planted(SPECTRA["indefinite"])), rtol=1e-6, budget=32)
    assert not trace.converged


# Operators.


def network(params, inputs):
    hidden = jnp.tanh(inputs @ params["body"]["kernel"] + params["body"]["bias"])
    return hidden @ params["head"]


@pytest.fixture(scope="module")
def small():
    """A small network of N params with two batches of different lengths, all in float64."""
    random = np.random.default_rng(3)
    params = {
        "body": {"kernel": random.normal(size=(4, 6)), "bias": random.normal(size=6)},
        "head": random.normal(size=(6, 3)),
    }
    batches = [
        (random.normal(size=(n, 4)), random.integers(0, 3, n), random.uniform(0.5, 2, n))
        for n in (5, 8)
    ]
    return params, batches


LOSSES = {
    "softmax": jloss.softmax_cross_entropy_with_integer_labels,
    # Written out, for it compiles several times as fast.
    "squared": lambda predictions, labels: jnp.sum(
        (predictions - jax.nn.one_hot(labels, 3, dtype=predictions.dtype)) ** 2, axis=-1
    ),
}


def joined(batches):
    return tuple(np.concatenate(column) for column in zip(*batches, strict=True))


# Twenty seconds of compiling; what it shows beyond the other is the loss's own second derivative.
@pytest.mark.parametrize("loss", [pytest.param("softmax", marks=pytest.mark.long), "squared"])
def test_the_hessian_over_batches_is_the_dense_one_of_all_data(small, loss):
    params, batches = small
    objective = jloss.objective(network, LOSSES[loss])
    with jax.enable_x64(True):
        flat, unravel = jax.flatten_util.ravel_pytree(params)
        data = joined(batches)
        whole = jax.jit(jax.hessian(lambda flat: objective(unravel(flat), data).value))(flat)
        found = curvature.hessian(objective, params, batches).dense()
        np.testing.assert_allclose(found, whole, rtol=1e-11, atol=1e-13)
        exact = np.linalg.eigvalsh(whole)
    single = jax.tree.map(np.float32, params)
    operator = curvature.hessian(objective, single, batches)
    top = curvature.largest_eigenpairs(operator, rtol=1e-5)
    assert (np.abs(top.values - exact[-1]) <= top.errors.krylov + top.errors.rounding).all()


@pytest.mark.long
def test_lists_streams_and_single_batches_give_the_same_eigenvalues(small):
    params, batches = jax.tree.map(np.float32, small[0]), small[1]
    objective = jloss.objective(network, LOSSES["squared"])

    class Stream:
        def __iter__(self):
            return iter(batches)

    whole = joined(batches)
    halves = [tuple(x[:6] for x in whole), tuple(x[6:12] for x in whole)]
    rest = tuple(x[12:] for x in whole)
    for data in (batches, Stream(), [whole], [*halves, rest]):
        operator = curvature.hessian(objective, params, data)
        found = curvature.largest_eigenpairs(operator, rtol=1e-5).values[0]
        np.testing.assert_allclose(found, np.linalg.eigvalsh(operator.dense())[-1], rtol=1e-5)
    stacked = curvature.hessian(objective, params, halves)
    streamed = curvature.hessian(objective, params, [*halves, tuple(x[:0] for x in rest)])
    pairs = [curvature.largest_eigenpairs(operator).values for operator in (stacked, streamed)]
    np.testing.assert_allclose(*pairs, rtol=1e-5)


@pytest.fixture(scope="module")
def of_network(small):
    """The Hessian of the network on a batch, and the dense matrix."""
    params, batches = jax.tree.map(np.float32, small[0]), small[1]
    objective = jloss.objective(network, LOSSES["squared"])
    tree = {"params": params}  # as flax has it
    operator = curvature.hessian(lambda p, b: objective(p["params"], b), tree, batches[:1])
    return operator, operator.dense()


def test_products_with_pytrees_and_blocks_are_those_of_the_matrix(of_network):
    operator, dense = of_network
    block = np.random.default_rng(0).normal(size=(N, N)).astype(np.float32)
    wanted = block @ dense
    found = operator.block(jax.vmap(operator.unravel)(block))
    body = found["params"]["body"]
    assert jax.tree.map(jnp.shape, body) == {"kernel": (N, 4, 6), "bias": (N, 6)}
    np.testing.assert_allclose(jax.vmap(operator.ravel)(found), wanted, atol=1e-5)
    one = operator.ravel(operator(operator.unravel(block[0])))
    np.testing.assert_allclose(one, wanted[0], atol=1e-5)


def test_layers_are_the_diagonal_blocks(of_network):
    operator, dense = of_network
    layers = operator.layers()
    assert list(layers) == ["body", "head"]
    np.testing.assert_allclose(layers["body"].dense(), dense[:30, :30], atol=1e-5)
    np.testing.assert_allclose(layers["head"].dense(), dense[30:, 30:], atol=1e-5)
    kernel = operator.part(lambda p: p["params"]["body"]["kernel"])
    columns = kernel.block(np.eye(24, dtype=np.float32).reshape(24, 4, 6))
    assert columns.shape == (24, 4, 6)
    np.testing.assert_allclose(columns.reshape(24, 24), dense[6:30, 6:30], atol=1e-5)


def test_gauss_newton_and_fisher_of_regressions_have_their_closed_forms():
    random = np.random.default_rng(5)
    inputs, weights = random.normal(size=(10, 4)), random.uniform(1, 2, 10)
    params, labels = random.normal(size=4), random.integers(0, 2, 10).astype(float)

    def line(params, inputs):
        return inputs @ params

    with jax.enable_x64(True):
        batches = [tuple(x[:5] for x in (inputs, labels, weights))]
        batches += [tuple(x[5:] for x in (inputs, labels, weights))]
        linear = inputs.T @ (weights[:, None] * inputs) / weights.sum()
        mean = 1 / (1 + np.exp(-inputs @ params))
        bend = weights * mean * (1 - mean)
        logistic = inputs.T @ (bend[:, None] * inputs) / weights.sum()
        for loss, wanted in (
            (jloss.l2_loss, linear),
            (jloss.squared_error, 2 * linear),
            (jloss.sigmoid_binary_cross_entropy, logistic),
        ):
            for found in (
                curvature.gauss_newton(line, loss, params, batches),
                curvature.fisher(line, loss, params, batches),
                curvature.hessian(jloss.objective(line, loss), params, batches),
            ):
                np.testing.assert_allclose(found.dense(), wanted, rtol=1e-12)
        share = weights * (mean - labels) ** 2
        wanted = inputs.T @ (share[:, None] * inputs) / weights.sum()
        loss = jloss.sigmoid_binary_cross_entropy
        found = curvature.empirical_fisher(line, loss, params, batches).dense()
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize(
    ("mask", "dense_labels"),
    [
        (None, False),
        pytest.param(None, True, marks=pytest.mark.long),
        ("examples", False),
        pytest.param("examples", True, marks=pytest.mark.long),
        ("classes", False),
        ("classes", True),
    ],
)
def test_the_written_output_hessian_is_that_of_autodiff(mask, dense_labels):
    random = np.random.default_rng(3)
    params, inputs, labels = (
        random.normal(size=(4, 3)),
        random.normal(size=(5, 4)),
        np.arange(5) % 3,
    )
    loss = jloss.softmax_cross_entropy_with_integer_labels
    with jax.enable_x64(True):
        batch = {"inputs": inputs, "targets": labels}
        if dense_labels:
            loss = jloss.softmax_cross_entropy
            batch["targets"] = random.uniform(size=(5, 3))
        if mask == "examples":
            batch["where"] = np.array([True, False, True, True, False])
        if mask == "classes":
            batch["where"] = np.arange(3) != (labels[:, None] + 1) % 3
            batch["where"][1] = False

        def unknown(*arguments, **options):
            return loss(*arguments, **options)

        pair = [
            curvature.gauss_newton(lambda p, x: x @ p, f, params, [batch]) for f in (loss, unknown)
        ]
        np.testing.assert_allclose(pair[0].dense(), pair[1].dense(), rtol=1e-10, atol=1e-14)


def test_the_empirical_fisher_is_the_second_moment_of_gradients(small):
    params, (batch, _) = small
    with jax.enable_x64(True):
        flat, unravel = jax.flatten_util.ravel_pytree(params)
        inputs, labels, weights = batch
        loss = LOSSES["softmax"]
        rows = jax.jacobian(lambda flat: loss(network(unravel(flat), inputs), labels))
        rows = jax.jit(rows)(flat)
        wanted = rows.T @ (weights[:, None] * rows) / weights.sum()
        found = curvature.empirical_fisher(network, loss, params, [batch]).dense()
        np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-14)


def test_the_largest_eigenvalue_takes_no_more_products_than_scipys():
    matrix = planted(np.r_[np.linspace(0, 1, N - 1), 1.5])
    taken = 0

    def product(vector):
        nonlocal taken
        taken += 1
        return matrix @ vector

    peer = LinearOperator(matrix.shape, matvec=product, dtype=np.float32)
    wanted = eigsh(peer, k=1, which="LA", tol=1e-4, return_eigenvectors=False)
    found = curvature.largest_eigenpairs(operator_of(matrix), rtol=1e-4)
    assert found.products <= taken
    np.testing.assert_allclose(found.values, wanted, rtol=1e-5)


# Spectral densities.


def semicircle(x):
    x = np.clip(x / 2, -1, 1)
    return 0.5 + (x * np.sqrt(1 - x**2) + np.arcsin(x)) / np.pi


def marchenko_pastur(x, ratio=0.5):
    low, high = (1 - np.sqrt(ratio)) ** 2, (1 + np.sqrt(ratio)) ** 2
    grid = np.linspace(low, high, 20001)[1:]
    density = np.sqrt((high - grid) * (grid - low)) / (2 * np.pi * ratio * grid)
    return np.interp(x, grid, np.cumsum(density) / density.sum(), left=0, right=1)


def wigner(random, size):
    matrix = random.normal(size=(size, size))
    return (matrix + matrix.T) / np.sqrt(2 * size)


def wishart(random, size):
    matrix = random.normal(size=(size, 2 * size))
    return matrix @ matrix.T / (2 * size)


@pytest.mark.parametrize(
    ("matrix", "law"), [(wigner, semicircle), (wishart, marchenko_pastur)], ids=["wigner", "mp"]
)
def test_random_matrices_follow_their_laws(matrix, law):
    matrix = matrix(np.random.default_rng(0), 500).astype(np.float32)
    found = curvature.spectral_density(operator_of(matrix), steps=40)
    x = np.linspace(-1.8, 2.7, 19)
    estimate = found.cumulative(x)
    # A matrix of 500 rows is within a few eigenvalues of the law.
    assert (np.abs(estimate.value - law(x)) <= estimate.errors.total + 4 / 500).all()
    assert found.converged
    assert estimate.errors.probes.max() < 0.03
    exact = (np.linalg.eigvalsh(matrix)[:, None] <= x).mean(axis=0)
    assert (np.abs(estimate.value - exact) <= estimate.errors.total).all()


def test_the_bounds_of_cumulative_and_density_hold_for_the_measures_themselves(spectrum):
    matrix = planted(spectrum, np.float64)
    values, vectors = np.linalg.eigh(matrix)
    with jax.enable_x64(True):
        starts = np.random.default_rng(4).normal(size=(3, N))
        state = _krylov.start(jax.random.key(5), starts, 12, jnp.zeros((0, N)))
        state = operator_of(matrix).lanczos(state, 0, 12)
        weights = (starts @ vectors) ** 2
    weights /= weights.sum(axis=1, keepdims=True)
    rule = _krylov.quadrature(np.asarray(state.alpha), np.asarray(state.beta))
    x = np.linspace(-3.3, 5.31, 58)
    _, low, high = rule.cumulative(x)
    exact = np.einsum("pn,ng->pg", weights, values[:, None] <= x)
    # A node of an isolated eigenvalue is off by rounding, and no x is that near to one.
    assert (low <= exact + 1e-12).all()
    assert (exact <= high + 1e-12).all()
    for width in (0.02, 0.5):
        _, low, high = rule.smoothed(x, width)
        bell = np.exp(-0.5 * ((values[:, None] - x) / width) ** 2) / (width * np.sqrt(2 * np.pi))
        exact = np.einsum("pn,ng->pg", weights, bell)
        assert (low <= exact + 1e-9).all()
        assert (exact <= high + 1e-9).all()


def test_a_spectrum_is_drawn_with_its_band():
    pytest.importorskip("matplotlib")
    operator = operator_of(planted(SPECTRA["indefinite"]))
    ax = curvature.spectral_density(operator, steps=N, budget=8).plot()
    assert ax.get_xlabel() == "eigenvalue"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "95% band of all errors",
        "density",
    ]


# Intervals.


@pytest.fixture(scope="module")
def decaying():
    """An operator and its matrix in float64."""
    matrix = planted(np.r_[np.linspace(1, 4, N - 8), np.linspace(5, 20, 8)])
    return operator_of(matrix), matrix.astype(np.float64)


def coverage(estimates, exact, source="probes"):
    """The share of intervals by one source, with rounding, that hold the exact value."""
    held = [
        np.abs(estimate.value - exact)
        <= np.asarray(getattr(estimate.errors, source)) + estimate.errors.rounding
        for estimate in estimates
    ]
    return np.mean(held)


def drawn_keys(seed, count):
    """One by one: JAX would take its time to compile what takes all of them apart."""
    keys = jax.random.split(jax.random.key(seed), count)
    return [keys[number] for number in range(count)]


@coverage_of_seeds
@pytest.mark.parametrize(
    ("estimator", "options"),
    [
        (curvature.trace, {"rtol": 0.05}),
        (curvature.trace, {"rtol": 0.2}),
        (curvature.trace, {"rtol": 1e-6, "budget": 4}),
        (curvature.xtrace, {"rtol": 1e-6, "budget": 64}),
        pytest.param(curvature.xtrace, {"rtol": 0.05}, marks=pytest.mark.long),
    ],
    ids=["to 5%", "to 20%", "4 probes", "xtrace, 64 products", "xtrace, to 5%"],
)
def test_intervals_of_traces_cover(decaying, estimator, options, seeds, least):
    operator, matrix = decaying
    keys = drawn_keys(1, seeds)
    found = [estimator(operator, key=key, **options) for key in keys]
    assert coverage(found, np.trace(matrix)) >= least
    errors = np.array([estimate.value - np.trace(matrix) for estimate in found])
    assert abs(errors.mean()) < 4 * errors.std() / np.sqrt(seeds) + 1e-4  # unbiased


@coverage_of_seeds
def test_intervals_of_diagonals_cover(decaying, seeds, least):
    operator, matrix = decaying
    keys = drawn_keys(2, seeds)
    found = [curvature.diagonal(operator, key=key, rtol=0.3) for key in keys]
    assert coverage(found, np.diag(matrix)) >= least


@coverage_of_seeds
def test_intervals_of_cumulatives_cover(decaying, seeds, least):
    operator, matrix = decaying
    x = np.array([1.5, 2.5, 3.5, 6.0, 12.0])
    exact = (np.linalg.eigvalsh(matrix)[:, None] <= x).mean(axis=0)
    keys = drawn_keys(3, seeds)
    # As many steps as there are eigenvalues leave no Krylov error, so that probes stand alone.
    found = [
        curvature.spectral_density(operator, key=key, steps=N, rtol=0.1).cumulative(x)
        for key in keys
    ]
    assert coverage(found, exact) >= least


def test_the_hessian_of_several_terms_counts_each_batch_in_each_of_them():
    def terms(params, batch):
        size = jloss.average(params**4, weights=jnp.ones(N) * len(batch) ** 2)
        nothing = jloss.average(params, where=False)
        return jloss.Terms({"fit": jloss.average(batch @ params**2), "size": size, "no": nothing})

    params, matrix = np.linspace(1, 3, N), np.arange(4.0 * N).reshape(4, N)
    params, matrix = np.float32(params), np.float32(matrix / matrix.max())
    hessian = curvature.hessian(terms, params, [matrix[:3], matrix[3:]])
    expected = 2 * matrix.mean(0) + 12 * params**2 / N
    np.testing.assert_allclose(hessian.dense(), np.diag(expected), rtol=1e-6)
    assert curvature.trace(hessian).value == pytest.approx(float(expected.sum()), rel=1e-5)


@coverage_of_seeds
def test_jackknife_intervals_cover_what_the_data_are_drawn_from(seeds, least):
    # A quadratic whose curvature is the batch's: its trace over all data is known.
    def bowl(params, batch):
        return jloss.average(batch @ params**2)

    random = np.random.default_rng(6)
    batches = random.gamma(4.0, size=(seeds, 6, 5, N)).astype(np.float32)
    found = []
    for data in batches:
        operator = curvature.hessian(bowl, np.zeros(N, np.float32), list(data))
        found.append(curvature.trace(operator))
    assert coverage(found, 2 * N * 4.0, "data") >= least
    pairs = curvature.largest_eigenpairs(operator, rtol=1e-6)
    diagonals = 2 * data.mean(axis=1)
    best = diagonals.mean(axis=0).argmax()
    spread = diagonals[:, best].std(ddof=1) / np.sqrt(6)
    np.testing.assert_allclose(pairs.errors.data, 2.571 * spread, rtol=1e-3)


def test_xtrace_leaves_one_probe_out_as_matfree_does():
    stochtrace = pytest.importorskip("matfree.stochtrace")
    matrix = planted(np.logspace(0, -3, 40))
    probes = np.random.default_rng(1).normal(size=(8, 40)).astype(np.float32)
    probes *= np.sqrt(40) / np.linalg.norm(probes, axis=1, keepdims=True)
    theirs = stochtrace.leave_one_out_xtrace()(lambda v: matrix @ v, jnp.asarray(probes))
    images = probes @ matrix
    basis = np.asarray(curvature._orthonormal(jnp.zeros((0, 40)), jnp.asarray(images)))
    groups = (np.asarray(x, np.float64) for x in (probes, images, basis, basis @ matrix))
    np.testing.assert_allclose(curvature._leave_one_out(*groups), theirs, rtol=1e-5)


def test_a_single_batch_says_nothing_about_the_data(decaying):
    operator, _ = decaying
    for found in (curvature.trace(operator), curvature.largest_eigenpairs(operator)):
        assert np.isnan(found.errors.data).all()
        assert np.isfinite(found.errors.total).all()


@pytest.mark.long
def test_leaving_batches_out_shows_how_a_spectrum_depends_on_data(small):
    params, batches = jax.tree.map(np.float32, small[0]), small[1] * 3
    operator = curvature.hessian(jloss.objective(network, LOSSES["squared"]), params, batches)
    found = curvature.spectral_density(operator, held_out=3, steps=20, budget=8)
    x = np.array([0.01, 0.1])
    others = [operator.without(part, 3).dense() for part in range(3)]
    exact = np.array([(np.linalg.eigvalsh(o)[:, None] <= x).mean(axis=0) for o in others])
    spread = 4.303 * 2 * exact.std(axis=0, ddof=1) / np.sqrt(3)
    assert (found.cumulative(x).errors.data <= 3 * spread + 0.1).all()
    np.testing.assert_allclose(
        others[0] * sum(b[2].sum() for b in (batches[1], batches[2]) * 2) / 2,
        sum(
            curvature.hessian(operator.form.objective, params, [b]).dense() * b[2].sum()
            for b in (batches[1], batches[2])
        ),
        atol=1e-4,
    )


# Bad input.

BOWL = {"operator": lambda: operator_of(np.eye(3, dtype=np.float32))}


def scalar(params, batch):
    return jnp.sum(params**2)


def vector(params, batch):
    return jloss.Average(params**2, jnp.ones(()))


def root(params, batch):
    return jloss.average(jnp.sqrt(params))


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        (lambda: curvature.hessian(scalar, jnp.ones(2), [0.0]), TypeError,
         "hessian: objective scalar must return an Average, not an array of shape ()"),
        (lambda: curvature.hessian(vector, jnp.ones(2), [0.0]), TypeError,
         "hessian: objective vector must return an Average of scalars, not of (2,) and ()"),
        (lambda: curvature.hessian(root, {"a": jnp.ones(2), "b": jnp.arange(2)}, [0.0]), TypeError,
         "hessian: params must be floating arrays, but b is int32"),
        (lambda: curvature.hessian(root, {}, [0.0]), ValueError,
         "hessian: params hold no numbers"),
        (lambda: curvature.hessian(root, jnp.ones(2), (jnp.ones(2), jnp.ones(2))), TypeError,
         "hessian: batches must be an iterable of batches, not a tuple; did you mean [batch]?"),
        (lambda: curvature.hessian(root, jnp.ones(2), iter([0.0])), TypeError,
         "hessian: batches must be iterable again and again, which a list_iterator is not"),
        (lambda: curvature.hessian(root, jnp.ones(2), []), ValueError,
         "hessian: batches holds no batch"),
        (lambda: curvature.trace(curvature.hessian(root, jnp.zeros(N), [0.0])), ValueError,
         "hessian: a product is not finite; the gradient of batch 0 is not finite"),
        (lambda: curvature.largest_eigenpairs(
            operator_of(np.full((N, N), np.nan, np.float32))
        ), ValueError, "hessian: a product is not finite; the gradient of batch 0 is not finite"),
        (lambda: curvature.hessian(
            lambda p, b: root(p["w"], b), {"w": jnp.array([1.0, jnp.nan])}, [0.0]
        ).dense(), ValueError,
         "hessian: a product is not finite; params hold NaN or infinity in w"),
        (lambda: curvature.largest_eigenpairs(BOWL["operator"](), 4), ValueError,
         "largest_eigenpairs: k is 4, but the operator has 3 eigenvalues"),
        (lambda: curvature.smallest_eigenpairs(BOWL["operator"](), 3, budget=2), ValueError,
         "smallest_eigenpairs: k is 3, more than the budget of 2 products"),
        (lambda: curvature.largest_eigenpairs(BOWL["operator"](), 0), ValueError,
         "largest_eigenpairs: k must be a whole number of at least 1, not 0"),
        (lambda: curvature.trace(BOWL["operator"](), budget=0), ValueError,
         "trace: budget must be a whole number of at least 2, not 0"),
        (lambda: curvature.diagonal(BOWL["operator"](), rtol=0.0), ValueError,
         "diagonal: rtol must be positive, not 0.0"),
        (lambda: curvature.xtrace(BOWL["operator"](), budget=3), ValueError,
         "xtrace: budget must be a whole number of at least 16, not 3"),
        (lambda: curvature.spectral_density(BOWL["operator"](), steps=0), ValueError,
         "spectral_density: steps must be a whole number of at least 1, not 0"),
        (lambda: curvature.spectral_density(BOWL["operator"](), held_out=2), ValueError,
         "spectral_density: held_out must be 0, or from 2 to the 1 batches, not 2"),
        (lambda: curvature.fisher(lambda p, x: x * p, jloss.huber_loss, jnp.ones(2),
                                  [(jnp.ones(2), jnp.ones(2))]), ValueError,
         "fisher: huber_loss is not known as a negative log-likelihood"),
        (lambda: BOWL["operator"]()(jnp.ones(2)), ValueError,
         "hessian: a vector must have the structure and shapes of the params, (3,), not (2,)"),
        (lambda: BOWL["operator"]().part(lambda p: (p, p)), ValueError,
         "part: where must pick some of the operator's params, each once"),
    ],
)  # fmt: skip
def test_bad_input_is_named(wrong, kind, message):
    with pytest.raises(kind) as error:
        wrong()
    assert message in str(error.value)
