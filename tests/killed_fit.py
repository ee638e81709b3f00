"""A fit to be killed: a program that says when it has begun, and the same fit for its test."""

import sys
import time

import jax
import numpy as np
import optax
from least_squares import FEWER, INPUTS, TARGETS, linear, zeros

from jloss.average import average
from jloss.train import fit
from jloss.update import init

OPTIMIZER = optax.adam(0.1)
BATCHES, PAUSE = 6, 0.01


def noisy(params, batch, key=None):
    """Least squares with dropout, so that the keys of the updates matter."""
    inputs, targets = batch
    if key is not None:
        inputs = inputs * jax.random.bernoulli(key, 0.8, inputs.shape)
    return average((linear(params, inputs) - targets) ** 2)


def start():
    return init(zeros(), OPTIMIZER, key=jax.random.key(7))


def fitted(folder=None, pause=0.0, **options):
    """Validation, best params, an order and noise of its own in each epoch, checkpoints within."""

    def batches(epoch):
        for rows in np.array_split(np.random.default_rng(epoch).permutation(11)[:6], BATCHES):
            time.sleep(pause)
            yield INPUTS[rows], TARGETS[rows]

    if folder is not None:
        options |= dict(checkpoint=folder, checkpoint_every=5)
    return fit(noisy, start(), batches, validation=FEWER, epochs=30, patience=25, **options)


if __name__ == "__main__":
    fitted(sys.argv[1], PAUSE, callback=lambda state, row: print("an epoch", flush=True))
