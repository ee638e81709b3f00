"""What must come out the same: masks and deletion, weights and copies, parts and whole, devices."""

import dataclasses
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jloss
from jloss._exact import UNITS, cast, draw, floors, is_floating, without_hyper
from jloss._promises import once

EPS = float(np.finfo(np.float32).eps)
DECOMPOSING = [card for card in jloss.CARDS.values() if card.values != "batch"]

FIRST = {card.values: card for card in reversed(DECOMPOSING)}

every_decomposing_card = pytest.mark.parametrize(
    "card", [pytest.param(c, id=c.name) for c in DECOMPOSING]
)
# For what compiles much: one loss of elements, examples, lists and sequences each by default.
every_decomposing_card_in_time = pytest.mark.parametrize(
    "card",
    [
        pytest.param(c, id=c.name, marks=[pytest.mark.long] * (c is not FIRST[c.values]))
        for c in DECOMPOSING
    ],
)


def sample_of(card, rows=24, seed=0):
    rng = np.random.default_rng(seed)
    drawn = draw(card, rng, rows, UNITS[card.values][0])
    return cast(without_hyper(drawn), np.float32)


@functools.cache
def values_of(card):
    return once(card.unreduced)


def mean_of(card, sample, where=None, **how):
    values = values_of(card)(sample["predictions"], sample["targets"], where=where)
    return jloss.mean(values, where=where, **how)


def sizes(values):
    """Of finite values; others have no rounding."""
    return np.abs(np.where(np.isfinite(values), values, 0), dtype=np.float64)


def spacings(card, sample, values):
    """What the card lets each value be off."""
    floor = floors(card, sample)["value"].reshape(np.shape(values))
    return card.ulp * EPS * np.maximum(sizes(values), floor)


def assert_same_mean(card, got, wanted, sample, values=None):
    """Two ways to the mean of values, those of a sample, differ by their rounding.

    Values may be off by what their card says, and a sum of n numbers by n/2 eps of the sum of their
    magnitudes, in whatever order a processor adds them: much of a sum that nearly cancels.
    """
    if values is None:
        values = values_of(card)(sample["predictions"], sample["targets"])
    adding = len(values) / 2 * EPS * sizes(values)
    bound = 2 * (spacings(card, sample, values) + adding).mean()
    assert np.isclose(got, wanted, rtol=0, atol=bound)


def part(sample, chosen):
    return {name: x[chosen] for name, x in sample.items()}


@every_decomposing_card_in_time
def test_a_mask_is_as_good_as_deleting_rows(card):
    sample, shown = sample_of(card), np.arange(24) % 3 > 0
    rows = part(sample, shown)
    assert_same_mean(card, mean_of(card, sample, where=shown), mean_of(card, rows), rows)


@every_decomposing_card_in_time
def test_a_copied_row_counts_as_one_of_weight_two(card):
    sample = part(sample_of(card), slice(16))
    copied = part(sample, [*range(16), *range(0, 16, 2)])
    weights = np.where(np.arange(16) % 2, np.float32(1), np.float32(2))
    weighted = mean_of(card, sample, weights=weights)
    assert_same_mean(card, mean_of(card, copied), weighted, copied)


@every_decomposing_card
def test_unequal_parts_merge_to_the_whole(card):
    sample, early = sample_of(card), np.arange(24) < 16

    def shown(where):
        return values_of(card)(sample["predictions"], sample["targets"], where=where)

    few, rest = (jloss.average(shown(where), where=where) for where in (early, ~early))
    values = shown(np.ones(24, bool))
    assert_same_mean(card, (few + rest).value, jloss.mean(values), sample, values)


def test_integer_labels_are_one_hot_labels():
    card = jloss.CARDS["softmax_cross_entropy_with_integer_labels"]
    sample = sample_of(card)
    logits, labels = sample["predictions"], sample["targets"]
    one_hot = jax.nn.one_hot(labels, logits.shape[-1])

    def both(loss, labels):
        def total(logits):
            values = loss(logits, labels)
            return values.sum(), values

        gradient, values = jax.jit(jax.grad(total, has_aux=True))(logits)
        return {"value": values, "predictions": gradient}

    got = both(jloss.softmax_cross_entropy_with_integer_labels, labels)
    for name, wanted in both(jloss.softmax_cross_entropy, one_hot).items():
        size = np.maximum(np.abs(wanted), floors(card, sample)[name])
        assert (np.abs(got[name] - wanted) <= 2 * card.ulp * EPS * size).all()


@dataclasses.dataclass
class Layout:
    """Some leading axes, a number of classes, a dtype, and how it is masked."""

    leading: tuple[int, ...]
    classes: int
    dtype: str
    mask: str
    seed: int


layouts = st.builds(
    Layout,
    leading=st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple),
    classes=st.integers(1, 4),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    mask=st.sampled_from(["none", "values", "predictions", "size 1"]),
    seed=st.integers(0, 99),
)


@every_decomposing_card_in_time
@settings(max_examples=4, deadline=None, derandomize=True, database=None)
@given(layout=layouts)
def test_a_loss_of_any_shape_is_the_loss_of_its_rows(card, layout):
    """The value at each place is that of its own row alone, whatever the shape, dtype and mask."""
    rng = np.random.default_rng(layout.seed)
    tail = {"element": (), "sequence": (3, layout.classes)}.get(card.values, (layout.classes,))
    shape = (*layout.leading, *tail)
    predictions = card.predictions.draw(rng, shape).astype(jnp.dtype(layout.dtype))
    targets = card.targets.draw(rng, shape)
    targets = targets.astype(np.float32) if is_floating(targets) else targets
    where = _mask(layout, shape, rng)
    if card.values == "sequence" and where is not None:  # frames and labels have paddings instead
        where = where.any(tuple(range(len(layout.leading), where.ndim)))
    rows, flags = int(np.prod(layout.leading)), None
    if where is not None:
        wide = where.ndim == len(shape)
        flags = np.broadcast_to(where, shape if wide else layout.leading)
        flags = flags.reshape(rows, *tail) if wide else flags.reshape(rows)

    flat = {
        "predictions": predictions.reshape(rows, *tail),
        "targets": targets.reshape(rows, *targets.shape[len(layout.leading) :]),
    }

    @once
    def both(predictions, targets, flat):
        values = card.unreduced(predictions, targets, where=where)
        return values, card.unreduced(flat["predictions"], flat["targets"], where=flags)

    values, by_rows = both(predictions, targets, flat)
    assert values.shape == layout.leading
    assert values.dtype == jnp.float32
    bound = 2 * spacings(card, cast(flat, np.float32), by_rows)
    assert np.allclose(values.ravel(), by_rows, rtol=0, atol=bound, equal_nan=True)
    if flags is not None:
        shown = flags if flags.ndim == 1 else flags.any(-1)
        assert not np.asarray(by_rows)[~shown].any()


def _mask(layout, shape, rng):
    if layout.mask == "none":
        return None
    size = {
        "values": layout.leading,
        "predictions": shape,
        "size 1": (*layout.leading[:-1], 1, *shape[len(layout.leading) :]),
    }[layout.mask]
    return rng.random(size) < 0.6


EIGHT_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}

PROGRAM = """
import sys
import jax, jloss
from jloss._promises import agrees
assert jax.device_count() == 8
for name in sys.argv[1:]:
    agrees(jloss.CARDS[name], "sharding")
    print(name)
"""
# One for each granularity; all of them take a minute.
SOME = list({card.values: name for name, card in reversed(jloss.CARDS.items())}.values())


@pytest.mark.parametrize(
    "names", [SOME, pytest.param(list(jloss.CARDS), marks=pytest.mark.long)], ids=["some", "all"]
)
def test_sharding_changes_no_loss(names):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names],
        env={**os.environ, **EIGHT_DEVICES},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == names
