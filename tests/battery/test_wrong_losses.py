"""The battery can fail: every wrong loss is caught by the check named for it."""

import re

import pytest
from wrong_losses import WRONG

import jloss
from jloss.check import checks, checks_of


@pytest.mark.parametrize("wrong", WRONG, ids=[f"{w.card.name}-{w.check}" for w in WRONG])
def test_a_wrong_loss_is_caught_by_its_check(wrong):
    with pytest.raises(AssertionError, match=re.escape(wrong.complaint)):
        checks()[wrong.check](wrong.card)


def test_every_check_catches_something():
    assert {wrong.check for wrong in WRONG} == set(checks())


def test_every_check_passes_on_some_right_loss():
    assert {name for card in jloss.CARDS.values() for name in checks_of(card)} == set(checks())


def test_no_wrong_loss_is_in_the_catalogue():
    assert not {wrong.card.name for wrong in WRONG} & set(jloss.CARDS)
