"""`jloss.check` on a user's own losses: a good one, bad ones, and ones without a card."""

import importlib
import sys
from functools import partial

import jax
import pytest

import jloss
from jloss._promises import PROMISES
from jloss.card import CARDS, REAL


@pytest.fixture(scope="module")
def card():
    """The decorator with what every card needs; its cards leave the table afterwards."""
    before = dict(CARDS)
    yield partial(
        jloss.card,
        values="element",
        predictions=REAL,
        targets=REAL,
        exact=lambda m, prediction, target: 3 * (prediction - target) ** 2,
        source="this test",
        ulp=3,
    )
    for name in set(CARDS) - set(before):
        del CARDS[name]


def tripled(name, scale=3.0):
    """A loss that a user might write upon one of ours."""

    def loss(predictions, targets, *, where=None):
        return scale * jloss.squared_error(predictions, targets, where=where)

    loss.__name__ = name
    return loss


@pytest.fixture(scope="module")
def good(card):
    """The report on a good loss, whose errors speak in its own name."""

    @card(minimum=0.0, convex=True, smooth=6.0, symmetric=True)
    def tripled_error(predictions, targets, *, where=None):
        try:
            return 3.0 * jloss.squared_error(predictions, targets, where=where)
        except (TypeError, ValueError) as error:
            raise type(error)(str(error).replace("squared_error", "tripled_error")) from error

    return jloss.check(tripled_error)


def test_a_good_loss_passes_every_check_that_its_card_asks_for(good):
    assert good.passed, good
    wanted = [*PROMISES, "convex", "smooth", "minimum", "symmetric"]
    assert [finding.check for finding in good.findings] == wanted


def test_a_report_prints_a_line_for_each_check(good):
    first, *lines = str(good).splitlines()
    assert first == "tripled_error"
    assert len(lines) == len(good.findings)
    assert all(line.startswith("passed  ") for line in lines)
    assert "passed  convex       below every chord" in lines


@pytest.fixture
def few_checks(monkeypatch):
    """Only the named ones run, for each takes seconds."""
    module = importlib.import_module("jloss.check")
    return lambda *names: monkeypatch.setattr(module, "checks_of", lambda card: list(names))


def test_a_bad_loss_fails_with_what_is_wrong_and_where(card, few_checks):
    few_checks("accurate", "strict", "convex")
    loss = card(convex=False)(tripled("steeper", scale=3.001))
    report = jloss.check(loss)
    assert not report.passed
    accurate, strict, convex = report.findings
    assert (accurate.passed, strict.passed, convex.passed) == (False, False, False)
    assert accurate.found.startswith("3 ulp are claimed; ")
    assert "predictions=" in accurate.found and "exact" in accurate.found
    assert "does not name steeper" in strict.found
    assert convex.found == "convex=False, but no chord was found that the loss lies above"
    assert str(report).splitlines()[1].startswith("FAILED  accurate     3 ulp are claimed")


def test_a_loss_that_raises_has_failed_and_the_others_are_checked_all_the_same(card, few_checks):
    few_checks("empty", "sign")

    @card()
    def broken(predictions, targets, *, where=None):
        raise RuntimeError("out of order")

    report = jloss.check(broken)
    assert [f.passed for f in report.findings] == [False, True]  # the card claims no sign
    assert report.findings[0].found == "RuntimeError: out of order"


def test_a_jitted_loss_is_known_by_its_function(card, few_checks):
    few_checks("sign")
    loss = card()(tripled("plain"))
    assert jloss.check(loss).loss == jloss.check(jax.jit(loss)).loss == "plain"


def test_a_loss_without_a_card_is_told_how_to_get_one():
    with pytest.raises(LookupError, match=r"my_loss has no card\. Decorate it with @jloss\.card\("):
        jloss.check(tripled("my_loss"))


def test_a_partial_is_told_to_give_the_loss_itself():
    with pytest.raises(LookupError, match="give the loss itself, huber_loss, not a partial of it"):
        jloss.check(partial(jloss.huber_loss, delta=2.0))


def test_without_mpmath_the_extra_is_named(card, monkeypatch):
    monkeypatch.setitem(sys.modules, "mpmath", None)
    loss = card()(tripled("unchecked"))
    with pytest.raises(ImportError, match=r'a check needs mpmath: pip install "jloss\[check\]"'):
        jloss.check(loss)


def test_a_claim_that_is_not_made_is_not_checked():
    checks = importlib.import_module("jloss.check").checks_of(jloss.CARDS["l2_loss"])
    assert set(PROMISES) < set(checks)
    assert "lipschitz" not in checks
