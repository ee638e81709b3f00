"""Loss-aware optimizers against optax's adam and L-BFGS on three data sets of scikit-learn.

Steps and milliseconds (compilation excluded) until the validation loss is within 5 % of the best
that both adam, in 30 epochs with the best of three learning rates, and L-BFGS reached.
Second-order optimizers get the best of three dampings. Adam and the sharpness-aware one take
batches of 32 rows, the others all rows at once, in 200 steps at most. All of them minimise the
same loss with the same L2 term, without which a separable problem would have no minimum; the
validation loss is without it. A comparison: there is no limit to miss.

Command: ``python -m bench.optimizers``; needs scikit-learn.
"""

import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits

import jloss
from jloss import optimizers

EPOCHS, BATCH, STEPS, LIMIT = 30, 32, 200, 4.0  # seconds that an optimizer gets
DECAY = 1e-3


def standard(array: np.ndarray) -> np.ndarray:
    array = np.asarray(array, np.float32)
    return (array - array.mean(0)) / (array.std(0) + 1e-6)


def network(params: Any, inputs: jax.Array) -> jax.Array:
    for kernel, bias in params[:-1]:
        inputs = jnp.tanh(inputs @ kernel + bias)
    kernel, bias = params[-1]
    return inputs @ kernel + bias


def scalar(params: Any, inputs: jax.Array) -> jax.Array:
    return network(params, inputs)[:, 0]


def drawn(key: jax.Array, *widths: int) -> Any:
    keys = jax.random.split(key, len(widths))
    return [
        (jax.random.normal(key, (m, n)) / np.sqrt(m), jnp.zeros(n))
        for key, m, n in zip(keys, widths, widths[1:], strict=False)
    ]


def split(load: Any, prepared: Any) -> tuple[Any, Any]:
    inputs, targets = load(return_X_y=True)
    inputs, targets = standard(inputs), prepared(targets)
    order = np.random.default_rng(0).permutation(len(inputs))
    held_out = len(order) // 4
    return tuple(
        (jnp.asarray(inputs[rows]), jnp.asarray(targets[rows]))
        for rows in (order[held_out:], order[:held_out])
    )


def batches(data: Any, size: int, seed: int = 0) -> Any:
    """Endless batches of whole passes in random order; the same one if it holds all rows."""
    random, rows = np.random.default_rng(seed), len(data[0])
    while True:
        order = random.permutation(rows)
        for start in range(0, rows - size + 1, size):
            chosen = order[start : start + size]
            yield data if size == rows else jax.tree.map(lambda leaf, c=chosen: leaf[c], data)


def run(problem: Any, optimizer: Any, size: int, target: float, steps: int) -> tuple[Any, ...]:
    """Whether it failed to reach the target, steps and seconds until it did, the best loss met."""
    fitted, params, train, validation = problem
    judge = jax.jit(lambda params: fitted(params, validation).value)
    decayed = jloss.combine(fit=fitted, decay=(DECAY, jloss.penalty(jloss.l2_penalty)))
    update, state = jloss.step(decayed), jloss.init(params, optimizer)
    source = batches(train, size)
    state, _ = update(state, next(source))  # compiled; begun anew
    judge(state.params)
    state, source = jloss.init(params, optimizer), batches(train, size)
    taken, spent, best = 0, 0.0, np.inf
    while taken < steps and spent < LIMIT and best > target:
        batch = jax.block_until_ready(next(source))
        start = time.perf_counter()
        state, _ = update(state, batch)
        jax.block_until_ready(state)
        spent += time.perf_counter() - start
        best = min(best, float(judge(state.params)))
        taken += 1
    return best > target, taken if best <= target else steps, spent, best


def report(name: str, load: Any, prepared: Any, apply: Any, loss: Any, widths: Any) -> None:
    train, validation = split(load, prepared)
    params = drawn(jax.random.key(0), train[0].shape[1], *widths)
    size, rows = sum(leaf.size for leaf in jax.tree.leaves(params)), len(train[0])
    problem = jloss.objective(apply, loss), params, train, validation
    steps = EPOCHS * (rows // BATCH)
    rates = {rate: optax.adam(rate) for rate in (1e-3, 1e-2, 1e-1)}
    found = {rate: run(problem, adam, BATCH, -np.inf, steps)[-1] for rate, adam in rates.items()}
    rate = min(found, key=lambda rate: found[rate])
    # A level that both can reach: on its way a noisy path may pass points better than the minimum.
    least = run(problem, optax.lbfgs(), rows, -np.inf, STEPS)[-1]
    target = 1.05 * max(found[rate], least)
    nearby = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))

    def sparse(params: Any, step_size: Any) -> Any:
        (kernel, bias), *rest = params
        return [(optimizers.prox_l1(kernel, 1e-3 * step_size), bias), *rest]

    dampings = (1e-3, 1e-1, 1e1)
    tried = {
        f"adam({rate})": ([rates[rate]], BATCH, steps),
        f"sam(adam({rate}))": (
            [optax.contrib.sam(rates[rate], nearby, opaque_mode=True)],
            BATCH,
            steps,
        ),
        "lbfgs": ([optax.lbfgs()], rows, STEPS),
        "polyak_sgd": ([optax.polyak_sgd()], rows, STEPS),
        "sgd, proximal": (
            [optax.chain(optax.sgd(0.1), optimizers.proximal(sparse, 0.1))],
            rows,
            STEPS,
        ),
        "gauss_newton": (
            [optimizers.gauss_newton(apply, loss, damping=number) for number in dampings],
            rows,
            STEPS,
        ),
        "levenberg_marquardt": (
            [optimizers.levenberg_marquardt(apply, loss, damping=number) for number in dampings],
            rows,
            STEPS,
        ),
    }
    print(f"{name}: {rows} rows, {size} parameters, validation loss {target:.4f}", flush=True)
    for optimizer, (made, batch, most) in tried.items():
        if optimizer == "levenberg_marquardt" and size > 1000:
            print(f"  {optimizer:24} {'-':>6} {'-':>9}     a matrix of {size} x {size}")
            continue
        missed, taken, seconds, best = min(run(problem, one, batch, target, most) for one in made)
        end = f"     not reached: {best:.4f}" if missed else ""
        print(f"  {optimizer:24} {taken:6} {1e3 * seconds:9.1f}{end}", flush=True)


def main() -> int:
    cross_entropy = jloss.softmax_cross_entropy_with_integer_labels
    print(f"  {'':24} {'steps':>6} {'ms':>9}")
    report("diabetes", load_diabetes, standard, scalar, jloss.squared_error, (16, 1))
    report(
        "breast cancer",
        load_breast_cancer,
        np.float32,
        scalar,
        jloss.sigmoid_binary_cross_entropy,
        (1,),
    )
    report("digits", load_digits, np.int32, network, cross_entropy, (32, 10))
    return 0


if __name__ == "__main__":
    sys.exit(main())
