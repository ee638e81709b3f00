"""Steps and fits of the same models against hand-written loops and against other libraries.

Limits: one update a dispatch takes at most 1.03 times what a jitted optax loop written by hand
takes (which looks for no NaN); for a model below 1,000 parameters, `jloss.steps` is at least 2.5
times as fast as that loop; an epoch of `jloss.fit` takes less time than one of keras on JAX and
than one of a loop over flax nnx's jitted step, for an MLP and for a CNN, each in a process of its
own.

Command: ``python -m bench.train``.
"""

import itertools
import json
import os
import resource
import subprocess
import sys
import time

BATCH, SCANNED = 64, 32
MODELS = {"mlp": ((256,), 4096), "cnn": ((16, 16, 1), 2048)}  # shape of an input, rows
CLASSES, EPOCHS = 10, 6


def data(name):
    import numpy as np

    (shape, rows), random = MODELS[name], np.random.default_rng(0)
    inputs = random.normal(size=(rows, *shape)).astype(np.float32)
    return inputs, random.integers(0, CLASSES, size=rows).astype(np.int32)


# A step against one written by hand.


def layers(sizes):
    import jax
    import jax.numpy as jnp

    keys = jax.random.split(jax.random.key(0), len(sizes))
    pairs = zip(keys, sizes[:-1], sizes[1:], strict=False)
    return [(jax.random.normal(k, (m, n)) / m**0.5, jnp.zeros(n)) for k, m, n in pairs]


def perceptron(params, inputs):
    import jax

    for weights, bias in params[:-1]:
        inputs = jax.nn.relu(inputs @ weights + bias)
    weights, bias = params[-1]
    return inputs @ weights + bias


def steps(sizes, count):
    """Seconds for an update: ours, ours in one dispatch for 32 of them, and by hand."""
    import functools

    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    import jloss
    from bench import measure

    random, optimizer = np.random.default_rng(0), optax.adam(1e-3)
    batch = jax.device_put(
        (
            random.normal(size=(BATCH, sizes[0])).astype(np.float32),
            random.integers(0, sizes[-1], size=BATCH),
        )
    )
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * SCANNED), batch)
    loss = jloss.softmax_cross_entropy_with_integer_labels
    objective = jloss.objective(perceptron, loss)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def by_hand(params, opt_state, batch):
        inputs, labels = batch
        mean = lambda params: loss(perceptron(params, inputs), labels).mean()  # noqa: E731
        value, grads = jax.value_and_grad(mean)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    update, updates = jloss.step(objective), jloss.steps(objective)
    ours = {name: jloss.init(layers(sizes), optimizer) for name in ("single", "scanned")}
    theirs = [layers(sizes), optimizer.init(layers(sizes))]

    def single():
        for _ in range(count):
            ours["single"], average = update(ours["single"], batch)
        return average

    def scanned():
        for _ in range(count // SCANNED):
            ours["scanned"], averages = updates(ours["scanned"], stacked)
        return averages

    def hand():
        for _ in range(count):
            *theirs[:], value = by_hand(*theirs, batch)
        return value

    return [seconds / count for seconds in measure.interleaved([single, scanned, hand], 11)]


def compare_steps() -> int:
    missed = 0
    print(f"{'one update, adam, batch of 64':40} {'ours us':>9} {'by hand us':>11} ratio  limit")
    cases = {"161 parameters": ((8, 16, 1), 640), "201,482 parameters": ((256, 512, 128, 10), 96)}
    for name, (sizes, count) in cases.items():
        single, scanned, hand = (1e6 * seconds for seconds in steps(sizes, count))
        lines = [
            (f"{name}, one a dispatch", single, single / hand <= 1.03, single / hand, "<= 1.03")
        ]
        if count > 100:
            ratio = hand / scanned
            lines.append((f"{name}, 32 a dispatch", scanned, ratio >= 2.5, ratio, ">= 2.50"))
        for line, ours, kept, ratio, limit in lines:
            verdict = "" if kept else "   MISSED"
            print(f"{line:40} {ours:9.1f} {hand:11.1f} {ratio:5.2f} {limit}{verdict}", flush=True)
            missed += not kept
    return missed


# A fit against those of others, each in a process of its own.


def fit_jloss(name, inputs, labels):
    import jax
    import jax.numpy as jnp
    import optax

    import jloss

    def cnn(params, inputs):
        for kernel, bias in params["convolutions"]:
            inputs = jax.lax.conv_general_dilated(
                inputs, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            inputs = jax.nn.relu(inputs + bias)
        return perceptron(params["dense"], inputs.reshape(len(inputs), -1))

    params = layers((256, 256, 128, CLASSES))
    if name == "cnn":
        kernels = [(3, 3, 1, 16), (3, 3, 16, 32)]
        convolutions = [
            (0.1 * jax.random.normal(jax.random.key(i), shape), jnp.zeros(shape[-1]))
            for i, shape in enumerate(kernels)
        ]
        params = {"convolutions": convolutions, "dense": layers((512, CLASSES))}
    loss = jloss.softmax_cross_entropy_with_integer_labels
    objective = jloss.objective(cnn if name == "cnn" else perceptron, loss)
    state = jloss.init(params, optax.adam(1e-3))
    for _ in range(EPOCHS):
        start = time.perf_counter()
        state, history = jloss.fit(objective, state, (inputs, labels), epochs=1, batch_size=BATCH)
        yield time.perf_counter() - start, float(history["loss"][-1])


def fit_nnx(name, inputs, labels):
    import jax.numpy as jnp
    import numpy as np
    import optax
    from flax import nnx

    rngs = nnx.Rngs(0)

    def dense(sizes):
        return [nnx.Linear(m, n, rngs=rngs) for m, n in itertools.pairwise(sizes)]

    if name == "cnn":
        parts = [
            nnx.Conv(1, 16, (3, 3), strides=2, rngs=rngs),
            nnx.relu,
            nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs),
            nnx.relu,
            lambda x: x.reshape(len(x), -1),
            *dense((512, CLASSES)),
        ]
    else:
        one, two, three = dense((256, 256, 128, CLASSES))
        parts = [one, nnx.relu, two, nnx.relu, three]
    model = nnx.Sequential(*parts)
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

    @nnx.jit
    def update(model, optimizer, inputs, labels):
        def mean(model):
            logits = model(inputs)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, grads = nnx.value_and_grad(mean)(model)
        optimizer.update(model, grads)
        return value

    random = np.random.default_rng(0)
    for _ in range(EPOCHS):
        start, values = time.perf_counter(), []
        order = random.permutation(len(inputs))
        for first in range(0, len(inputs), BATCH):
            chosen = order[first : first + BATCH]
            values.append(update(model, optimizer, inputs[chosen], labels[chosen]))
        mean = float(jnp.mean(jnp.stack(values)))
        yield time.perf_counter() - start, mean


def fit_keras(name, inputs, labels):
    import keras
    from keras import layers

    if name == "cnn":
        parts = [
            layers.Conv2D(16, 3, 2, "same", activation="relu"),
            layers.Conv2D(32, 3, 2, "same", activation="relu"),
            layers.Flatten(),
        ]
    else:
        parts = [layers.Dense(256, activation="relu"), layers.Dense(128, activation="relu")]
    model = keras.Sequential([*parts, layers.Dense(CLASSES)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    for _ in range(EPOCHS):
        start = time.perf_counter()
        history = model.fit(inputs, labels, batch_size=BATCH, epochs=1, verbose=0)
        yield time.perf_counter() - start, history.history["loss"][-1]


FITS = {"jloss": fit_jloss, "nnx": fit_nnx, "keras": fit_keras}


def one_fit(library, name):
    """Prints as JSON what a fit took: the first epoch compiles, the fastest other one counts."""
    start = time.perf_counter()
    epochs = list(FITS[library](name, *data(name)))
    seconds, losses = zip(*epochs, strict=True)
    whole = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    found = {"epoch": min(seconds[1:]), "first": seconds[0], "start": whole - sum(seconds)}
    print(json.dumps(found | {"MiB": peak, "loss": losses[-1]}))


def compare_fits() -> int:
    missed = 0
    columns = "epoch ms   first epoch s   start-up s   peak MiB   last loss"
    print(f"\n{'an epoch of a fit, adam, batches of 64':40} {columns}")
    for name in MODELS:
        found = {}
        for library in FITS:
            command = [sys.executable, "-m", "bench.train", library, name]
            done = subprocess.run(
                command,
                env={**os.environ, "KERAS_BACKEND": "jax"},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            found[library] = json.loads(done.stdout.splitlines()[-1])
            row = found[library]
            print(
                f"{name + ', ' + library:40} {1e3 * row['epoch']:8.1f} {row['first']:15.2f} "
                f"{row['start']:12.2f} {row['MiB']:10.0f} {row['loss']:11.3f}",
                flush=True,
            )
        for peer in ("nnx", "keras"):
            ratio = found[peer]["epoch"] / found["jloss"]["epoch"]
            verdict = "" if ratio >= 1 else "   MISSED"
            print(f"  {ratio:.2f} times as fast as {peer}, limit 1.00{verdict}")
            missed += ratio < 1
    return missed


def main() -> int:
    return compare_steps() + compare_fits()


if __name__ == "__main__":
    sys.exit(one_fit(*sys.argv[1:]) if len(sys.argv) > 2 else main())
