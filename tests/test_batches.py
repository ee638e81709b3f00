"""Batches of loaders and functions against the same rows as arrays; what is refused of them."""

import itertools

import jax
import numpy as np
import pytest
from least_squares import ADAM, DATA, INPUTS, LEAST_SQUARES, STILL, TARGETS, zeros

from jloss import train as training
from jloss.train import fit
from jloss.update import init, step


def batches(*sizes):
    """Batches of so many rows each, from the first row on."""
    stops = np.cumsum(sizes)
    return [
        (INPUTS[stop - size : stop], TARGETS[stop - size : stop])
        for size, stop in zip(sizes, stops, strict=True)
    ]


class Loader:
    """Can be iterated anew, and says no more of itself."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def by_hand(epochs, batches):
    """The same updates one by one."""
    state, update = init(zeros(), ADAM), step(LEAST_SQUARES)
    for _ in range(epochs):
        for batch in batches:
            state, average = update(state, batch)
    return state, average


def same(ours, theirs):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", [Loader, list])
@pytest.mark.parametrize("sizes", [(4, 4, 3), (4, 3, 4), (5, 5)])
def test_batches_make_the_updates_that_they_make_one_by_one(sizes, kind):
    """A last smaller batch, and one of another shape in between."""
    found = batches(*sizes)
    state, history = fit(LEAST_SQUARES, init(zeros(), ADAM), kind(found), epochs=2)
    same(state, by_hand(2, found)[0])
    assert [*history] == ["loss"]  # batches are not gone through again to be judged


def test_stacked_batches_make_the_same_updates(monkeypatch):
    """To the rounding of a loop that is compiled as a whole."""
    monkeypatch.setattr("jloss._batches._STACKED", 3)
    found = batches(*(1,) * 11)
    state, _ = fit(LEAST_SQUARES, init(zeros(), ADAM), Loader(found), epochs=2)
    expected, _ = by_hand(2, found)
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    with_arrays = fit(LEAST_SQUARES, init(zeros(), STILL), DATA, epochs=1)[1]["loss"]
    still = fit(LEAST_SQUARES, init(zeros(), STILL), Loader(found), epochs=1)[1]["loss"]
    np.testing.assert_allclose(still, with_arrays, rtol=1e-6)


def test_a_loader_a_function_and_an_iterator_of_one_epoch_are_as_good():
    found = batches(4, 4, 3)
    expected = by_hand(1, found)[0]
    endless = itertools.cycle(found)
    for data in (
        Loader(found),
        lambda epoch: found,
        iter(found),
        lambda epoch: itertools.islice(endless, 3),
    ):
        same(fit(LEAST_SQUARES, init(zeros(), ADAM), data, epochs=1)[0], expected)


def test_a_function_is_given_the_epoch():
    given = []

    def data(epoch):
        given.append(epoch)
        return batches(4, 4, 3)

    fit(LEAST_SQUARES, init(zeros(), ADAM), data, epochs=3)
    assert given == [0, 1, 2]


@pytest.mark.parametrize("sizes", [(4, 4, 3), (4, 1, 4, 2), (1,) * 11])
def test_validation_in_batches_is_exact_whatever_they_are(sizes, monkeypatch):
    monkeypatch.setattr("jloss._batches._STACKED", 3)
    _, history = fit(
        LEAST_SQUARES, init(zeros(), ADAM), DATA, validation=Loader(batches(*sizes)), epochs=2
    )
    np.testing.assert_allclose(history["validation_loss"], history["train_loss"], rtol=1e-6)


def test_stacks_are_made_for_small_models_alone(monkeypatch):
    monkeypatch.setattr("jloss._batches._STACKED", 2)
    sizes = []
    monkeypatch.setattr(
        training,
        "stacked",
        lambda group, stack=training.stacked: sizes.append(len(group)) or stack(group),
    )
    options = dict(train=Loader(batches(2, 2, 2, 2, 2)), epochs=1)
    fit(LEAST_SQUARES, init(zeros(), ADAM), **options)
    assert sizes == [2, 2]
    monkeypatch.setattr(training, "_SMALL_MODEL", 3)
    fit(LEAST_SQUARES, init(zeros(), ADAM), **options)
    assert sizes == [2, 2]


def test_loaders_of_grain_and_torch_serve():
    grain, torch = pytest.importorskip("grain"), pytest.importorskip("torch")
    rows = [(INPUTS[row], TARGETS[row]) for row in range(11)]
    expected = by_hand(2, batches(4, 4, 3))[0]
    for loader in (
        grain.MapDataset.source(rows).batch(4),
        torch.utils.data.DataLoader(rows, batch_size=4),
    ):
        same(fit(LEAST_SQUARES, init(zeros(), ADAM), loader, epochs=2)[0], expected)


WIDER = (np.ones((2, 4), np.float32), np.ones(2, np.float32))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"train": Loader([*batches(4, 4), WIDER])},
            ValueError,
            r"refuses batch 2 of epoch 0, which has \[0\] float32\(2, 4\), \[1\] float32\(2,\), "
            r"while the batches before had \[0\] float32\(4, 3\)",
        ),
        (
            {"train": Loader([*batches(4), INPUTS])},
            ValueError,
            "refuses batch 1 of epoch 0, which has  ?float32.*a batch is",
        ),
        ({"train": Loader([])}, ValueError, "train gave no batches in epoch 0"),
        ({"validation": Loader([])}, ValueError, "validation gave no batches in epoch 0"),
        (
            {"train": Loader([(INPUTS[:0], TARGETS[:0])])},
            ValueError,
            r"batch 0 of train\[0\] has no rows",
        ),
        ({"train": iter([])}, ValueError, "train is an iterator, which can be gone through only"),
        ({"validation": iter([])}, ValueError, "validation is an iterator.*=lambda epoch"),
        (
            {"train": Loader([(np.array(["cat"]), np.ones(1))])},
            TypeError,
            r"batch 0 of train\[0\] holds <U3, not numbers",
        ),
        (
            {"train": [INPUTS[:4], INPUTS[4:7]]},
            ValueError,
            "a list of batches goes in as train=lambda epoch",
        ),
        (
            {"train": [*batches(4), (INPUTS[:4, :2], TARGETS[:4])]},
            ValueError,
            r"refuses batch 1 of epoch 0, which has \[0\] float32\(4, 2\)",
        ),
    ],
)
def test_fit_refuses(change, error, message):
    arguments = {"train": DATA, "epochs": 2} | change
    with pytest.raises(error, match=message):
        fit(LEAST_SQUARES, init(zeros(), ADAM), **arguments)
