"""Every check that a card asks for, on every card: what is promised of a loss and claimed of it."""

import pytest

import jloss
from jloss.check import checks, checks_of

# The checks of a card share what it gives at its cases: they belong into one process.
PAIRS = [
    pytest.param(card, name, id=f"{card.name}-{name}", marks=pytest.mark.xdist_group(card.name))
    for card in jloss.CARDS.values()
    for name in checks_of(card)
]


@pytest.mark.parametrize(("card", "name"), PAIRS)
def test_a_card_tells_the_truth(card, name):
    checks()[name](card)
