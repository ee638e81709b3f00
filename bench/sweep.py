"""Planes through the parameters of real models, against the torch library loss-landscapes.

Claims, on the same data, both cores in use on both sides: at least 4 x as many points a second on a
dense network (784-256-256-10, 1,024 rows), 4.5 x on a convolutional one, 200 x on a plane through
the last layer alone. Ours is timed as a whole, 41 x 41 points, compilation included; the peer,
which compiles nothing, on 9 x 9.

Command: ``python -m bench.sweep``; the peer is ``pip install --no-deps loss-landscapes``.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import jloss

jloss.one_device_per_core()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax import lax  # noqa: E402

RESOLUTION, PEERS = 41, 9
NUMBERS = ("NHWC", "HWIO", "NHWC")


def dense(params: Any, inputs: jax.Array) -> jax.Array:
    for weights, bias in params[:-1]:
        inputs = jax.nn.relu(inputs @ weights + bias)
    weights, bias = params[-1]
    return inputs @ weights + bias


def convolutional(params: Any, images: jax.Array) -> jax.Array:
    for weights, bias in params[:-1]:
        images = lax.conv_general_dilated(
            images, weights, (2, 2), "SAME", dimension_numbers=NUMBERS
        )
        images = jax.nn.relu(images + bias)
    weights, bias = params[-1]
    return images.reshape(len(images), -1) @ weights + bias


def drawn(*shapes: tuple[int, ...]) -> list[tuple[jax.Array, jax.Array]]:
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [
        (jax.random.normal(key, shape) / np.sqrt(np.prod(shape[:-1])), jnp.zeros(shape[-1]))
        for key, shape in zip(keys, shapes, strict=True)
    ]


def layers(kind: str) -> Any:
    """The peer's model of the same sizes."""
    from torch import nn

    if kind == "convolutional":
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 49, 10),
        )  # fmt: skip
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
        nn.Linear(256, 10),
    )  # fmt: skip


def peer_rate(kind: str, inputs: np.ndarray, labels: np.ndarray) -> float:
    """Points a second of loss-landscapes, or nothing where it is not installed."""
    try:
        import loss_landscapes
        import torch
        from loss_landscapes.metrics import Loss
    except ImportError:
        return float("nan")
    torch.manual_seed(0)
    images = torch.tensor(inputs).reshape(-1, 1, 28, 28)
    metric = Loss(torch.nn.CrossEntropyLoss(), images, torch.tensor(labels, dtype=torch.long))
    model = layers(kind)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        with torch.no_grad():
            loss_landscapes.random_plane(model, metric, 1.0, PEERS, "filter", deepcopy_model=True)
        seconds.append(time.perf_counter() - start)
    return PEERS**2 / min(seconds)


def report(name: str, make: Callable[[int], Any], theirs: float, limit: float) -> int:
    make(2)
    start = time.perf_counter()
    make(RESOLUTION)
    ours = RESOLUTION**2 / (time.perf_counter() - start)
    missed = not ours >= limit * theirs
    print(
        f"{name:28} {ours:10.0f} {theirs:10.0f} {ours / theirs:8.1f} {limit:6.1f}"
        f"{'   MISSED' if missed else ''}"
    )
    return int(missed)


def main() -> int:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(1024, 784)).astype(np.float32)
    labels = rng.integers(0, 10, 1024).astype(np.int32)
    loss = jloss.softmax_cross_entropy_with_integer_labels
    networks = {
        "dense": (dense, drawn((784, 256), (256, 256), (256, 10)), inputs, 4.0),
        "convolutional": (
            convolutional,
            drawn((3, 3, 1, 16), (3, 3, 16, 32), (32 * 49, 10)),
            inputs.reshape(-1, 28, 28, 1),
            4.5,
        ),
    }
    print(f"{'points a second':28} {'ours':>10} {'peer':>10} {'ratio':>8} {'limit':>6}")
    missed, theirs = 0, {}
    for name, (model, params, rows, limit) in networks.items():
        objective = jloss.objective(model, loss)
        theirs[name] = peer_rate(name, inputs, labels)
        missed += report(
            name,
            lambda n, o=objective, p=params, r=rows: jloss.landscape.plane(
                o, p, (r, labels), resolution=n
            ),
            theirs[name],
            limit,
        )
    model, params, rows, _ = networks["dense"]
    still = jax.tree.map(jnp.zeros_like, params)
    directions = [[*still[:-1], jax.tree.map(jnp.ones_like, params[-1])] for _ in range(2)]
    directions[1][-1] = drawn((256, 10))[0]
    missed += report(
        "dense, last layer alone",
        lambda n: jloss.landscape.plane(
            jloss.objective(model, loss),
            params,
            (rows, labels),
            directions=directions,
            resolution=n,
        ),
        theirs["dense"],
        200.0,
    )
    return missed


if __name__ == "__main__":
    sys.exit(main())
