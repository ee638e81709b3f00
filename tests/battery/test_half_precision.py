"""Every float16 and every bfloat16 there is, as a prediction of every loss of numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jloss
from jloss._exact import cast, evaluate, floors

ELEMENTS = [card for card in jloss.CARDS.values() if card.values == "element"]
EVERY = np.arange(2**16, dtype=np.uint16)
TARGETS = 3
ON_PROCESSOR = jax.default_backend() == "cpu"


def _sample(card, dtype):
    """All predictions against a few targets, as exact in float32 as they are in half precision."""
    targets = np.resize([x for x in card.targets.edges if abs(x) < 1e3], TARGETS)
    sample = {
        "predictions": np.tile(EVERY.view(dtype), TARGETS),
        "targets": np.repeat(targets, len(EVERY)).astype(dtype),
    }
    if "translation" in card.invariant:  # only the residual is looked at, as float32 rounds it
        sample["targets"] = np.zeros_like(sample["targets"])
    return sample


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("card", [pytest.param(c, id=c.name) for c in ELEMENTS])
def test_no_half_precision_number_is_treated_badly(card, dtype):
    sample = _sample(card, dtype)
    got = evaluate(card, sample)
    sample["predictions"] = _flushed(sample["predictions"])
    with jax.enable_x64(True):  # float64 is checked against arbitrary precision elsewhere
        exact = evaluate(card, cast(sample, np.float64))
    floor = _floors(card, sample)
    single, kind = np.finfo(np.float32), jnp.finfo(dtype)
    assert got["value"].dtype == np.float32
    assert got["predictions"].dtype == dtype
    for name, limit, extra in (("value", single, 0.0), ("predictions", kind, float(kind.eps))):
        # Digits are promised up to 1e30, and a slope where there is a value.
        claimed = (np.abs(exact[name]) < float(limit.max) / 2) & np.isfinite(exact["value"])
        with np.errstate(invalid="ignore"):  # NaN is a number to cast like others
            claimed &= np.abs(sample["predictions"].astype(np.float64)) <= 1e30
            # Other devices keep them, but not all of them can divide by one.
            claimed &= ON_PROCESSOR | ~_subnormal(sample["predictions"])
            wanted, ours = exact[name][claimed], got[name].astype(np.float64)[claimed]
        size = np.maximum(np.abs(wanted), np.broadcast_to(floor[name], claimed.shape)[claimed])
        bound = card.ulp * single.eps * size + extra * np.abs(wanted)
        # Twice, for a half of it is subnormal as well and may have been flushed on the way.
        wrong = ~(np.abs(ours - wanted) <= bound + 2 * float(limit.smallest_normal))
        assert not wrong.any(), (name, sample["predictions"][claimed][wrong][:5])
        assert np.array_equal(np.isnan(got[name]), np.isnan(exact[name]))


def _flushed(array):
    """Numbers that are subnormal in float32 may count as 0, as on a processor they do."""
    return np.where(_subnormal(array), 0, array) if ON_PROCESSOR else array


def _subnormal(array):
    return np.abs(array.astype(np.float32)) < np.finfo(np.float32).tiny


def _floors(card, sample):
    """The floors of one unit of each target, which for numbers do not depend on the prediction."""
    if card.scale == 0 and not card.targets.soft:
        return {"value": 0.0, "predictions": 0.0}
    few = {name: x[:: len(EVERY)] for name, x in sample.items()}
    return {
        name: np.repeat(x, len(EVERY))
        for name, x in floors(card, cast(few, np.float32)).items()
        if name != "targets"
    }
