"""Verifies a loss against its card: the promises of every loss, and what this card claims."""

import inspect
from collections.abc import Callable
from functools import cache, partial, wraps
from typing import Any, NamedTuple

from jloss.card import CARDS, Card


def _failing(check: Callable[[Card], str]) -> Callable[[Card], str]:
    """A loss that raises what it should not has failed as well."""

    @wraps(check)
    def run(card: Card) -> str:
        try:
            return check(card)
        except (AssertionError, ImportError):
            raise
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}") from error

    return run


@cache
def checks() -> dict[str, Callable[[Card], str]]:
    """All checks by name: the promises of every loss, and the claims that cards may make.

    They load when first asked for: importing jloss would cost half as much again.

    >>> from jloss.check import checks
    >>> "masked" in checks() and "convex" in checks()
    True
    """
    from jloss._claims import CLAIMS
    from jloss._promises import PROMISES

    return {name: _failing(check) for name, check in (PROMISES | CLAIMS).items()}


def checks_of(card: Card) -> list[str]:
    """The names of all checks that a card asks for: every promise, and each claim that it makes.

    >>> from jloss.check import checks_of
    >>> "lipschitz" in checks_of(jloss.CARDS["squared_error"])
    False
    """
    # A claim is named like its field on the card, and what has no field is promised of all.
    return [name for name in checks() if getattr(card, name, True) not in (None, ())]


class Finding(NamedTuple):
    """What one check found: how near the worst case came, or how it failed."""

    check: str
    passed: bool
    found: str


class Report(NamedTuple):
    """What all checks of one loss found; printing it gives a table."""

    loss: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(finding.passed for finding in self.findings)

    def __str__(self) -> str:
        rows = [
            f"{'passed' if finding.passed else 'FAILED'}  {finding.check:12s} {finding.found}"
            for finding in self.findings
        ]
        return "\n".join([self.loss, *rows])


def check(loss: Callable[..., Any]) -> Report:
    """Verifies what is promised of every loss and claimed on the card of this one.

    Promises are strict shapes and dtypes, masks, empty inputs, accuracy against arbitrary
    precision, all ways through JAX, half and double precision; claims are convexity, Lipschitz
    constants, kinks, minima, what is elicited. It takes some seconds and needs mpmath
    (``jloss[check]``).

    Args:
      loss: one of ours, or your own with a `card`; jitted or not.

    Returns:
      A `Report`: print it for the table, or in a test ``assert report.passed, report``.

    Raises:
      LookupError: the loss has no card.

    >>> report = jloss.check(jloss.squared_error)
    >>> report.passed
    True
    >>> print(report)  # doctest: +ELLIPSIS
    squared_error
    passed  finite       ...
    """
    card = _card_of(loss)
    return Report(card.name, tuple(_finding(card, name) for name in checks_of(card)))


def _finding(card: Card, name: str) -> Finding:
    try:
        return Finding(name, True, checks()[name](card))
    except AssertionError as error:
        return Finding(name, False, str(error))


def _card_of(loss: Callable[..., Any]) -> Card:
    if isinstance(loss, partial):
        raise LookupError(
            f"check: give the loss itself, {loss.func.__name__}, not a partial of it; its card "
            "says which hyper-parameters to try."
        )
    plain = inspect.unwrap(loss)
    for card in CARDS.values():
        if card.loss is plain or card.loss is loss:
            return card
    name = getattr(loss, "__name__", repr(loss))
    raise LookupError(
        f"check: {name} has no card. Decorate it with @jloss.card(values=..., predictions=..., "
        "targets=..., exact=..., source=...), which says how to draw its inputs, its formula and "
        "what you claim of it; see help(jloss.card) for an example."
    )
