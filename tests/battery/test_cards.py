"""Every check that a card asks for, on every card: what is promised of a loss and claimed of it.

Some promises take thrice as long as all else, for they compile a loss in every way and precision
that JAX has, or search for the largest slope. These are tried on one loss of elements, of examples
and of lists each, and on all by ``pytest -m long tests/battery``, which the gate runs too.
"""

import jax
import numpy as np
import pytest

import jloss
from jloss._exact import UNITS, cast, draw, without_hyper
from jloss.check import checks, checks_of

CARDS = jloss.CARDS.values()
SLOW = (
    "masked",
    "convex",
    "stable",
    "derivatives",
    "half",
    "double",
    "empty",
    "kinks",
    "lipschitz",
    "smooth",
)
FIRST = {card.values: card for card in reversed(CARDS)}
TRIED = [FIRST[values] for values in ("element", "example", "list")]


def is_long(card, name):
    return name in SLOW and card not in TRIED


PAIRS = [
    pytest.param(
        card, name, id=f"{card.name}-{name}", marks=[pytest.mark.long] * is_long(card, name)
    )
    for card in CARDS
    for name in checks_of(card)
]


@pytest.mark.parametrize(("card", "name"), PAIRS)
def test_a_card_tells_the_truth(card, name):
    checks()[name](card)


@pytest.mark.parametrize("card", [pytest.param(card, id=card.name) for card in CARDS])
def test_a_loss_has_no_effects_which_would_make_its_dispatch_slow(card):
    drawn = draw(card, np.random.default_rng(0), 4, UNITS[card.values][0])
    sample = cast(without_hyper(drawn), np.float32)
    if card.values == "batch":
        sample = {name: x[0] for name, x in sample.items()}
    program = jax.make_jaxpr(card.unreduced)(sample["predictions"], sample["targets"])
    assert not program.effects
