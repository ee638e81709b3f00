"""The peers' table: every public loss of the installed peers has a counterpart here."""

import importlib
import inspect
import re

import pytest

import jloss
from jloss.peers import PEERS, differences, like, likenesses

# Public names in the same places that are no losses.
NOT_LOSSES = {"keras.losses": {"Loss", "deserialize", "get", "serialize"}}
METRICS = re.compile(r"_metric$|^(types|utils)$")


def public(module):
    library = pytest.importorskip(module.partition(".")[0])
    names = [name for name in dir(importlib.import_module(module)) if not name.startswith("_")]
    return library, [name for name in names if name not in NOT_LOSSES.get(module, ())]


def names_of(peer):
    if peer == "torch":
        torch, functions = public("torch.nn.functional")
        a_loss = re.compile(r"loss$|entropy|kl_div|similarity")
        return [
            *(f"torch.nn.functional.{name}" for name in functions if a_loss.search(name)),
            *(f"torch.nn.{name}" for name in torch.nn.modules.loss.__all__),
            "torch.nn.AdaptiveLogSoftmaxWithLoss",
        ]
    if peer == "rax":
        return [f"rax.{name}" for name in public("rax")[1] if not METRICS.search(name)]
    return [f"{peer}.losses.{name}" for name in public(f"{peer}.losses")[1]]


@pytest.mark.parametrize("peer", ["optax", "torch", "keras", "rax"])
def test_no_public_loss_of_a_peer_is_without_a_counterpart(peer):
    names, lacking = names_of(peer), set()
    for name in names:
        try:
            assert all(getattr(jloss, found.card.name) for found in like(name))
        except LookupError:
            lacking.add(name.rpartition(".")[2])
    assert len(names) > 15
    assert not lacking


def test_all_of_optax_is_here_under_its_own_names_and_arguments():
    import optax

    for name in {full_name.rpartition(".")[2] for full_name in names_of("optax")}:
        theirs = list(inspect.signature(getattr(optax.losses, name)).parameters.values())
        ours = list(inspect.signature(getattr(jloss, name)).parameters.values())
        by_position = [p.name for p in theirs if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert [p.name for p in ours][: len(by_position)] == by_position, name
        assert {p.name for p in theirs} <= {p.name for p in ours}, name
        for parameter in theirs:
            default = next(p.default for p in ours if p.name == parameter.name)
            assert type(default) is type(parameter.default), (name, parameter.name)


def test_the_transforms_have_the_names_of_rax():
    for name in ("approx_t12n", "bound_t12n", "gumbel_t12n", "segment_t12n"):
        assert callable(getattr(jloss, name))


def test_every_name_in_the_table_is_there_in_the_peer():
    wrong = []
    for found in likenesses():
        place, _, name = found.peer.rpartition(".")
        pytest.importorskip(place.partition(".")[0])
        if not hasattr(importlib.import_module(place), name):
            wrong.append(found.peer)
    assert not wrong


def test_a_likeness_says_how_each_convention_differs():
    for found in likenesses():
        assert {"arguments", "input", "reduction", "axis"} <= set(differences(found))
        assert found.peer.partition(".")[0] in PEERS


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("torch.nn.HuberLoss", ["huber_loss"]),
        ("nn.HuberLoss", ["huber_loss"]),
        ("HuberLoss", ["huber_loss"]),
        ("F.huber_loss", ["huber_loss"]),
        ("optax.huber_loss", ["huber_loss"]),
        ("tf.keras.losses.Huber", ["huber_loss"]),
        (
            "torch.nn.CrossEntropyLoss",
            ["softmax_cross_entropy", "softmax_cross_entropy_with_integer_labels"],
        ),
    ],
)
def test_a_loss_is_found_by_any_of_its_names(name, ours):
    assert {found.card.name for found in like(name)} >= set(ours)


def test_an_unknown_name_is_an_error_that_names_what_comes_near():
    with pytest.raises(LookupError, match=r"called 'torch.nn.HuberLos'; near: torch.nn.HuberLoss"):
        like("torch.nn.HuberLos")
    with pytest.raises(LookupError, match=r"called 'quite_another'$"):
        like("quite_another")
