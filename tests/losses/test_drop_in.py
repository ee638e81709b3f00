"""Whatever optax.losses has under a name of ours may be replaced by ours."""

import inspect
from dataclasses import replace

import jax
import numpy as np
import pytest

import jloss
from jloss._exact import UNITS, cast, draw

optax = pytest.importorskip("optax")
PUBLIC = {name: f for name, f in vars(optax.losses).items() if inspect.isfunction(f)}
SHARED = [name for name in PUBLIC if hasattr(jloss, name)]
WITH_CARD = [name for name in SHARED if name in jloss.CARDS]


@pytest.mark.parametrize("name", SHARED)
def test_arguments_have_the_names_the_order_and_the_defaults_of_optax(name):
    theirs = inspect.signature(PUBLIC[name]).parameters
    ours = inspect.signature(getattr(jloss, name)).parameters
    in_order = [
        [n for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
        for parameters in (theirs, ours)
    ]
    assert in_order[1][: len(in_order[0])] == in_order[0]
    for argument, parameter in theirs.items():
        assert ours[argument].default == parameter.default, argument


@pytest.mark.parametrize("hyper", ["by default", "given"])
@pytest.mark.parametrize("name", WITH_CARD)
def test_ordinary_values_are_those_of_optax(name, hyper):
    card = jloss.CARDS[name]
    theirs = replace(card, loss=PUBLIC[name])
    accepted = inspect.signature(theirs.unreduced).parameters
    unit = UNITS[card.values][0]
    shape = unit if card.values == "batch" else (6, *unit)
    sample = {
        n: x[0] for n, x in cast(draw(card, np.random.default_rng(0), 1, shape), "f4").items()
    }
    inputs = sample.pop("predictions"), sample.pop("targets")
    known = {n: x for n, x in sample.items() if n in accepted} if hyper == "given" else {}
    got = jax.jit(card.unreduced)(*inputs, **known)
    by_keyword = dict(zip(card.arguments, inputs, strict=True))
    assert np.array_equal(got, jax.jit(card.unreduced)(**by_keyword, **known))
    wanted = jax.jit(theirs.unreduced)(*inputs, **known)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_most_of_the_catalogue_is_compared():
    assert len(WITH_CARD) >= 14
