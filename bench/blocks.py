"""Value and gradient of losses of all pairs, block by block: pairwise logistic at 10,240 items
against rax, ntxent at N 1,024 and d 128 against optax, and at N 8,192 against a hand-written
product of matrices with log-sum-exp.

Targets: pairwise logistic at least 4 x as fast as rax in at most 3 MiB of temporaries; ntxent at
least 100 x as fast as optax, and at N 8,192 2 x as fast as by hand, within 20 MiB. What is not
reached is printed as MISSED.

Command: ``python -m bench.blocks``.
"""

import sys

import jax
import jax.numpy as jnp
import optax
import rax

import jloss
from bench import measure

ITEMS, FEATURES, FEW, MANY = 10_240, 128, 1_024, 8_192


def by_hand(embeddings: jax.Array, labels: jax.Array) -> jax.Array:
    directions = embeddings / jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
    similarity = directions @ directions.T / 0.07
    same = labels[:, None] == labels
    alike = same & ~jnp.eye(len(labels), dtype=bool)
    strangers = jax.nn.logsumexp(similarity, axis=-1, keepdims=True, where=~same)
    values = jnp.where(alike, jax.nn.softplus(strangers - similarity), 0.0)
    return values.sum() / alike.sum()


def batch(size: int) -> tuple[jax.Array, jax.Array]:
    """Two views of each of half as many images."""
    return jax.random.normal(jax.random.key(0), (size, FEATURES)), jnp.arange(size) // 2


def items() -> tuple[jax.Array, jax.Array]:
    one, two = jax.random.split(jax.random.key(0))
    labels = jax.random.bernoulli(two, shape=(ITEMS,)).astype(jnp.float32)
    return jax.random.normal(one, (ITEMS,)), labels


CASES = {  # ours, a peer, arguments, how fast at least, and in how many MiB
    "pairwise_logistic_loss / rax": (
        jloss.pairwise_logistic_loss,
        rax.pairwise_logistic_loss,
        items(),
        4.0,
        3.0,
    ),
    f"ntxent, {FEW} / optax": (jloss.ntxent, optax.losses.ntxent, batch(FEW), 100.0, 20.0),
    f"ntxent, {MANY} / by hand": (jloss.ntxent, by_hand, batch(MANY), 2.0, 20.0),
}


def main() -> int:
    missed = 0
    print(measure.head("ours", "peer"))
    for name, (ours, peer, arguments, speed, mebibytes) in CASES.items():
        mine, theirs = jax.value_and_grad(ours), jax.value_and_grad(peer)
        missed += measure.compare(name, mine, theirs, arguments, at_least=speed, times=3, pause=0.2)
        used = measure.compiled(mine, arguments).temporaries / 2**20
        print(f"  {used:.1f} MiB, limit {mebibytes:.0f}{'' if used <= mebibytes else '   MISSED'}")
        missed += used > mebibytes
    return missed


if __name__ == "__main__":
    sys.exit(main())
