"""How long value and gradient of element-wise and row-wise losses take to trace and to compile,
against optax's of the same names.

Aim: all together no longer than optax's. The median of each is taken over interleaved
compilations; what a loss has more to do (a mask, checks, lost digits kept) is in it.

Command: ``python -m bench.compile``.
"""

import statistics
import sys

import jax
import optax

import jloss
from bench import measure
from bench.rowwise import arguments, value_and_grad

NAMES = (
    "squared_error",
    "l2_loss",
    "huber_loss",
    "log_cosh",
    "cosine_distance",
    "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "kl_divergence",
)
COMPILATIONS, LIMIT = 5, 1.0


def main() -> int:
    sums = [0.0, 0.0]
    print(f"{'':45} {'ours ms':>8} {'optax ms':>8} {'ratio':>6}")
    for name in NAMES:
        inputs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments(name))
        losses = getattr(jloss, name), getattr(optax.losses, name)
        samples = [
            [measure.from_nothing(value_and_grad(loss), inputs) for loss in losses]
            for _ in range(COMPILATIONS)
        ]
        medians = [statistics.median(sample) for sample in zip(*samples, strict=True)]
        sums = [total + median for total, median in zip(sums, medians, strict=True)]
        ours, peer = (1e3 * median for median in medians)
        print(f"{name:45} {ours:8.0f} {peer:8.0f} {ours / peer:6.2f}")
    ratio = sums[0] / sums[1]
    print(f"{'all together':61} {ratio:8.2f} <= {LIMIT}{'   MISSED' if ratio > LIMIT else ''}")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
