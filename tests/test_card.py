"""Cards: what the decorator takes and refuses, and what a card answers."""

import importlib
import inspect
from dataclasses import FrozenInstanceError, fields

import jax.numpy as jnp
import numpy as np
import pytest

import jloss
from jloss.card import CARDS, REAL, UNIT, Domain

CLAIMS = dict(
    values="element",
    predictions=REAL,
    targets=REAL,
    exact=lambda m, prediction, target: (prediction - target) ** 4,
    source="this test",
)
module = importlib.import_module("jloss.card")  # jloss.card is the decorator
DOMAINS = {name: x for name, x in vars(module).items() if isinstance(x, Domain)}


@pytest.fixture
def put():
    """The decorator; what it adds to the table is taken out again."""
    before = dict(CARDS)
    yield jloss.card
    for name in set(CARDS) - set(before):
        del CARDS[name]


def test_the_decorator_returns_the_loss_itself_and_puts_a_card_into_the_table(put):
    def quartic(predictions, targets, *, where=None):
        """The fourth power.

        More of it.
        """

    assert put(**CLAIMS, convex=True)(quartic) is quartic
    card = CARDS["quartic"]
    assert (card.loss, card.name, card.family) == (quartic, "quartic", __name__.rpartition(".")[2])
    assert card.summary == "The fourth power."
    assert card.convex is True
    assert card.lipschitz is None


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({**CLAIMS, "convexe": True}, "convexe"),
        ({n: x for n, x in CLAIMS.items() if n != "source"}, "source"),
        ({}, "required"),
    ],
    ids=["unknown", "missing", "none"],
)
def test_unknown_and_missing_claims_are_refused(put, claims, message):
    with pytest.raises(TypeError, match=message):
        put(**claims)(lambda predictions, targets: predictions)


def test_a_card_cannot_be_changed_by_mistake():
    with pytest.raises(FrozenInstanceError):
        CARDS["huber_loss"].convex = False


def test_a_constant_may_depend_on_hyper_parameters_and_targets():
    huber, quantile = CARDS["huber_loss"], CARDS["quantile_loss"]
    assert huber.constant("lipschitz") == 1.0  # at the default
    assert huber.constant("lipschitz", delta=3.0) == 3.0
    assert huber.constant("smooth", delta=3.0) == 1.0
    assert quantile.constant("lipschitz", quantile=0.9) == 0.9
    assert quantile.constant("kinks", targets=2.0, quantile=0.9) == 2.0
    assert CARDS["squared_error"].constant("lipschitz") is None
    assert CARDS["ntxent"].constant("scale", temperature=0.5) == 2.0


def test_a_constant_is_given_only_what_it_names(put):
    @put(**CLAIMS, hyper=dict(a=UNIT, b=UNIT), lipschitz=lambda b: 2 * b)
    def bent(predictions, targets, *, a=0.25, b=0.5, where=None): ...

    assert CARDS["bent"].defaults == {"a": 0.25, "b": 0.5}
    assert CARDS["bent"].constant("lipschitz", a=7.0, targets=1.0) == 1.0


def test_the_usual_form_of_a_loss_has_all_values():
    card, scores = CARDS["ranking_softmax_loss"], jnp.zeros((2, 4))
    assert card.loss(scores, scores).shape == ()
    assert card.unreduced(scores, scores).shape == (2,)
    assert CARDS["huber_loss"].unreduced is jloss.huber_loss


def test_a_form_makes_a_loss_of_a_function_with_other_arguments(put):
    def form(loss):
        return lambda scores, labels, *, tilt=1.0, where=None: loss(labels, scores, tilt)

    @put(**CLAIMS, hyper=dict(tilt=UNIT), form=form)
    def odd(labels, scores, tilt):
        return tilt * (scores - labels)

    card = CARDS["odd"]
    assert card.arguments == ("scores", "labels")
    assert card.defaults == {"tilt": 1.0}
    assert card.unreduced(5.0, 2.0, tilt=2.0) == 6.0


def test_arguments_are_called_what_the_loss_calls_them():
    assert CARDS["hinge_loss"].arguments == ("predictor_outputs", "targets")
    assert CARDS["ranking_softmax_loss"].arguments == ("logits", "labels")


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domain_draws_what_it_says(name):
    domain, shape = DOMAINS[name], (40, 5)
    drawn = domain.draw(np.random.default_rng(0), shape)
    assert drawn.shape == (shape[:-1] if domain.drops else shape)
    assert not np.isnan(drawn).any()
    inside = {
        "LOG_PROBABILITIES": lambda x: np.isclose(np.exp(x).sum(-1), 1),
        "LOG_TARGETS": lambda x: np.isclose(np.exp(x).sum(-1), 1),
        "ONE_HOT": lambda x: (x.max(-1) == 1) & (np.abs(x).sum(-1) == 1),
        "COSINE": lambda x: np.abs(x) <= 1,
        "DEGREE": lambda x: x >= 1,
        "NONZERO": lambda x: (x < 0) | (x > 0),
        "ABOVE_MINUS_ONE": lambda x: x > -1,
        "PROBABILITY": lambda x: (x >= 0) & (x <= 1),
        "PROBABILITIES": lambda x: (x >= 0).all(-1) & np.isclose(x.sum(-1), 1),
        "RELEVANCE": lambda x: x >= 0,
        "SIGN": lambda x: np.abs(x) == 1,
        "CLASS": lambda x: (x >= 0) & (x < 5),
        "UNIT": lambda x: (x >= 0) & (x <= 1),
        "POSITIVE": lambda x: x > 0,
        "NONNEGATIVE": lambda x: x >= 0,
        "COEFFICIENT": lambda x: x >= -1,
        "COUNT": lambda x: (x >= 0) & (x == np.round(x)),
        "RATE": lambda x: x >= 0,
        "BINARY": lambda x: (x == 0) | (x == 1),
    }.get(name, np.isfinite)
    assert np.all(inside(drawn))
    if not domain.rows:  # a constraint on the row as a whole does not speak of one number
        edges = np.array([edge for edge in domain.edges if np.isfinite(edge)])
        assert np.all(inside(edges))
        assert not np.any(inside(np.array(domain.outside)))


@pytest.mark.parametrize("card", CARDS.values(), ids=list(CARDS))
def test_a_card_speaks_of_its_loss(card):
    parameters = inspect.signature(card.unreduced).parameters
    assert "where" in parameters
    assert set(card.hyper) | set(card.given) <= set(parameters)
    assert getattr(jloss, card.name) is card.loss
    assert card.summary.endswith(".")
    assert card.source.split(" ")[0].rstrip(",") in card.loss.__doc__


def test_the_docstring_names_every_claim():
    for field in fields(module.Card):
        assert f"{field.name}: " in module.Card.__doc__, field.name
