"""Planes through the parameters of real models, against the torch library loss-landscapes.

Claims, on the same data, both cores in use on both sides:

- dense, convolutional, last-layer: at least 4 x as many points a second on a dense network
  (784-256-256-10, 1,024 rows in batches of 512), 4.5 x on a convolutional one (in batches of 128),
  200 x on a plane through the last layer alone. Ours is what a further point takes: the time of a
  large grid less that of a small one. Beside it, what one picture of 41 x 41 points takes as a
  whole, with the compiling that the peer, which compiles nothing, saves;
- refinement: at least 40 x as fast to the largest error that the peer's 41 x 41 points have, read
  bilinearly as its pictures are; all points count, those kept aside for the error included;
- hoisting: a point is never slower than 0.97 x a plain one, whatever the model;
- peak: at least 0.85 of what the same cores make of large matrix products on a plain sweep, and
  0.75 of it, in the FLOPs that are left, on a hoisted plane;
- memory: a sweep stays within 1.1 x memory_limit, and the dense plane, with its curvature, within
  100 MB over import and data, whatever the number of points;
- linear: a point of a million takes no more than 1.1 x as long as one of a hundred thousand;
- resume: keeping finished blocks in a folder takes at most 5% more time.

Command: ``python -m bench.sweep``, or ``python -m bench.sweep dense memory`` for some of them; the
peer is ``pip install --no-deps loss-landscapes``.
"""

import functools
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jloss

jloss.one_device_per_core()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax import lax  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402
from scipy.interpolate import RegularGridInterpolator  # noqa: E402

from bench import measure  # noqa: E402
from jloss.landscape import _evaluate  # noqa: E402

RESOLUTION, PEERS = 41, 9
# Rows whose coefficients, which are evaluated once for all points, a processor's cache holds.
ROWS = {"dense": 512, "convolutional": 128}
LIMIT = 2**28  # bytes
NUMBERS = ("NHWC", "HWIO", "NHWC")
LOSS = jloss.softmax_cross_entropy_with_integer_labels


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


def transformer(params: Any, tokens: jax.Array) -> jax.Array:
    embedding, places, queries, keys, values, out, up, down, head = (w for w, _ in params)
    x = embedding[tokens] + places
    normal = jax.nn.standardize(x)
    scores = jnp.einsum("btd,bsd->bts", normal @ queries, normal @ keys) / np.sqrt(len(queries))
    x = x + jax.nn.softmax(scores) @ (normal @ values) @ out
    x = x + jax.nn.gelu(jax.nn.standardize(x) @ up) @ down
    return x.mean(1) @ head


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


def peer(kind: str) -> Callable[[], Any]:
    """A plane of loss-landscapes, or nothing where it is not installed."""
    try:
        import loss_landscapes
        import torch
        from loss_landscapes.metrics import Loss
    except ImportError:
        return lambda: None
    torch.manual_seed(0)
    inputs, labels = data()
    images = torch.tensor(inputs).reshape(-1, 1, 28, 28)
    metric = Loss(torch.nn.CrossEntropyLoss(), images, torch.tensor(labels, dtype=torch.long))
    model = layers(kind)

    def run() -> None:
        with torch.no_grad():
            loss_landscapes.random_plane(model, metric, 1.0, PEERS, "filter", deepcopy_model=True)

    return run


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(1024, 784)).astype(np.float32)
    return inputs, rng.integers(0, 10, 1024).astype(np.int32)


def network(kind: str) -> tuple[Any, Any, Any]:
    """An objective, its params and a batch."""
    inputs, labels = data()
    if kind == "dense":
        model, params = dense, drawn((784, 256), (256, 256), (256, 10))
    elif kind.startswith("dense on"):
        model, params = dense, drawn((int(kind.split()[-1]), 256), (256, 256), (256, 10))
        inputs = inputs[:, : len(params[0][0])]
    elif kind == "transformer":
        square = [(64, 64)] * 4
        model = transformer
        params = drawn((100, 64), (32, 64), *square, (64, 256), (256, 64), (64, 10))
        inputs, labels = np.abs(10 * inputs[:64, :32]).astype(np.int32), labels[:64]
    else:
        model, params = convolutional, drawn((3, 3, 1, 16), (3, 3, 16, 32), (32 * 49, 10))
        inputs = inputs.reshape(-1, 28, 28, 1)
    return jloss.objective(model, LOSS), params, (jnp.asarray(inputs), jnp.asarray(labels))


def plane(kind: str, resolution: int, rows: int | None = None, **how: Any) -> Any:
    """A plane; of the last layer alone if so asked; over the data as a whole or so many rows."""
    objective, params, batch = network("dense" if kind == "last layer" else kind)
    if kind == "last layer":
        still = jax.tree.map(jnp.zeros_like, params[:-1])
        how["directions"] = [[*still, last] for last in drawn((256, 10), (256, 10))]
    if rows is not None:
        starts = range(0, len(batch[0]), rows)
        how["data"] = [tuple(part[start : start + rows] for part in batch) for start in starts]
        batch = None
    how = {"curvature": False, **how}  # what is compared is the points
    return jloss.landscape.plane(objective, params, batch, resolution=resolution, **how).values


def further(make: Callable[[int], Any], small: int, large: int) -> float:
    """The seconds that one more point takes on a grid that is large anyway."""
    few, many = (seconds(lambda n=n: make(n)) for n in (small, large))
    return (many - few) / (large**2 - small**2)


def line(name: str, found: float, limit: float, at_least: bool) -> int:
    missed = not (found >= limit if at_least else found <= limit)
    sign = ">=" if at_least else "<="
    print(f"{name:58} {found:9.3g} {sign} {limit:g}{'   MISSED' if missed else ''}", flush=True)
    return int(missed)


def rate(kind: str, small: int, large: int, limit: float) -> int:
    """Points a second; in turns, so that a busy moment hits both sides, and the best of each."""
    other = peer("dense" if kind == "last layer" else kind)
    make = functools.partial(plane, kind, rows=ROWS.get(kind))
    make(3)  # the directions' programs
    rounds = [(seconds(other), further(make, small, large)) for _ in range(3)]
    each, mine = (min(side) for side in zip(*rounds, strict=True))
    each /= PEERS**2
    whole = seconds(lambda: make(RESOLUTION))
    print(f"{kind}: {1 / mine:.0f} points a second, {1 / each:.0f} by loss-landscapes")
    print(f"  {RESOLUTION} x {RESOLUTION} as a whole: {whole:.1f} s, {RESOLUTION**2 * each:.1f} s")
    return line(f"{kind}: times as many points a second", each / mine, limit, True)


def refinement() -> int:
    """Seconds until an interpolated surface is as right as the peer's picture."""
    theirs, a = peer("dense"), np.linspace(-1, 1, RESOLUTION)
    each = min(seconds(theirs) for _ in range(2)) / PEERS**2
    fine = np.asarray(plane("dense", 2 * RESOLUTION - 1))
    between = RegularGridInterpolator((a, a), fine[::2, ::2])
    finer = np.linspace(-1, 1, len(fine))
    at = np.stack(np.meshgrid(finer, finer, indexing="ij"), -1)
    wanted = abs(between(at) - fine).max()
    objective, params, batch = network("dense")
    refined = functools.partial(
        jloss.landscape.plane, objective, params, batch, resolution=len(fine)
    )
    for budget in itertools.count(80, 10):
        start = time.perf_counter()
        found = refined(budget=budget)
        took = time.perf_counter() - start
        error = abs(np.asarray(found.values) - fine).max()
        if error <= wanted:
            break
    count, more = found.refined.evaluated, budget + 1000
    start = time.perf_counter()
    further = refined(budget=more).refined.evaluated - count
    mine = (time.perf_counter() - start - took) / further
    print(f"largest error of {RESOLUTION} x {RESOLUTION} points, bilinear: {wanted:.2g}; ", end="")
    print(f"of {count} points, refined: {error:.2g}, said {found.refined.error.largest:.2g}")
    print(f"  as a whole, compiled: {took:.1f} s, {RESOLUTION**2 * each:.1f} s by the peer")
    ratio = RESOLUTION**2 * each / (count * mine)
    return line("refined: times as fast to the same error", ratio, 40, True)


def hoisting() -> int:
    """One point, compiled, hoisted if that was found to pay, against plain."""
    missed, at = 0, [jnp.zeros(()), jnp.zeros(())]
    for kind in ("dense", "dense on 2", "dense on 16", "convolutional", "transformer"):
        objective, params, batch = network(kind)
        judged = _evaluate.Judged("bench", objective)
        directions = jloss.landscape.random_directions(jax.random.key(0), params, biases=True)
        (found,) = _evaluate.on_span(judged, params, directions, batch, None)

        def plain(at: Any, params: Any, directions: Any, batch: Any, judged: Any = judged) -> Any:
            return judged(_evaluate.moved(params, directions, at), batch, None)

        programs = [
            measure.compiled(lambda f, at: f(at), (found, at)),
            measure.compiled(plain, (at, params, directions, batch)),
        ]
        mine, others = measure.interleaved(
            [
                lambda p=programs[0], f=found: p.run(f, at),
                lambda p=programs[1], a=(params, directions, batch): p.run(at, *a),
            ],
            times=30,
        )
        missed += line(f"{kind}: times as fast as plain", others / mine, 0.97, True)
    return missed


def peak() -> int:
    devices = jax.devices()
    mesh = Mesh(np.asarray(devices), ("core",))
    matrices = jax.random.normal(jax.random.key(0), (len(devices), 1024, 1024))
    matrices = jax.device_put(matrices, NamedSharding(mesh, PartitionSpec("core")))
    product = jax.jit(lambda m: m @ m)
    (best,) = measure.interleaved([lambda: product(matrices)])
    best = 2 * matrices.size * 1024 / best
    objective, params, batch = network("dense")
    directions = jloss.landscape.random_directions(jax.random.key(0), params)

    def at(a: jax.Array, b: jax.Array) -> jax.Array:
        moved = jax.tree.map(lambda p, d, e: p + a * d + b * e, params, *directions)
        return objective(moved, batch).value

    def plain(n: int) -> Any:
        return jloss.sweep(at, a=jnp.linspace(-1, 1, n), b=jnp.linspace(-1, 1, n)).values

    first, *others = (2 * 1024 * w.size for w, _ in params)
    found = []
    for make, flops in (
        (plain, first + sum(others)),
        (functools.partial(plane, "dense", rows=ROWS["dense"]), sum(others)),
    ):
        make(3)
        found.append(flops / min(further(make, 11, 61) for _ in range(4)) / best)
    print(f"matrix products on {len(devices)} cores: {best / 1e9:.0f} GFLOP/s")
    return line("a plain sweep, of this", found[0], 0.85, True) + line(
        "a hoisted plane, of this, in the FLOPs that are left", found[1], 0.75, True
    )


def grown(code: str) -> float:
    """By how many MB a process's memory grew at most, over import and data."""
    program = f"""
import jloss
jloss.one_device_per_core()
import jax
import jax.numpy as jnp
from bench.sweep import plane, network, LIMIT, hungry
def status(name):  # not getrusage, whose maximum begins with what the parent process had
    return int(open("/proc/self/status").read().split(name + ":")[1].split()[0]) * 1024
data = jax.block_until_ready(network("dense")[1:])
before = status("VmRSS")
{code}
print(status("VmHWM") - before)
"""
    command = [sys.executable, "-c", program]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1e6


def hungry(x: jax.Array) -> jax.Array:
    """Four MB of temporaries for a point."""
    return jnp.linalg.norm(jnp.sort(jnp.sin(x * jnp.arange(2.0**20))))


def memory() -> int:
    missed = 0
    for n in (11, 41, 161):
        found = grown(f"plane('dense', {n}, curvature=None)")
        missed += line(f"dense plane of {n} x {n}: MB over import and data", found, 100, False)
    cores = len(jax.devices())
    found = grown("jloss.sweep(hungry, memory_limit=LIMIT, x=jnp.arange(512.0) / 512)")
    allowed = 1.1 * cores * LIMIT / 1e6
    text = f"a sweep with memory_limit={LIMIT / 1e6:.0f} MB on each of {cores} devices: MB"
    return missed + line(text, found, allowed, False)


def linear() -> int:
    make = functools.partial(plane, "last layer")
    make(3)
    start = seconds(lambda: make(11))
    found = {n: (seconds(lambda n=n: make(n)) - start) / n**2 for n in (316, 1000)}
    for n, each in found.items():
        print(f"{n**2:9,} points: {1e6 * each:.1f} microseconds each, {n**2 * each:.1f} s")
    return line(
        "a point of a million, against one of a hundred thousand",
        found[1000] / found[316],
        1.1,
        False,
    )


def resume() -> int:
    ratios = []
    plane("dense", 3)
    for _ in range(3):
        plain = seconds(lambda: plane("dense", 61))
        with tempfile.TemporaryDirectory() as folder:
            kept = seconds(lambda: plane("dense", 61, out=Path(folder, "out")))
            again = seconds(lambda: plane("dense", 61, out=Path(folder, "out")))
        ratios.append(kept / plain)
    print(f"61 x 61 points of the dense plane: {plain:.1f} s, from a full folder {again:.1f} s")
    return line("with a folder, against without", float(np.median(ratios)), 1.05, False)


CLAIMS: dict[str, Callable[[], int]] = {
    "dense": lambda: rate("dense", 11, 61, 4.0),
    "convolutional": lambda: rate("convolutional", 5, 31, 4.5),
    "last-layer": lambda: rate("last layer", 41, 301, 200.0),
    "refinement": refinement,
    "hoisting": hoisting,
    "peak": peak,
    "memory": memory,
    "linear": linear,
    "resume": resume,
}


def main(names: list[str]) -> int:
    return sum(CLAIMS[name]() for name in names or CLAIMS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
