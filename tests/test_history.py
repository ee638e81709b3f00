"""What a history says, and the logs that are written of it."""

import csv
import json
import sys
import time

import numpy as np
import pytest
from least_squares import DATA, LEAST_SQUARES, SGD, zeros

import jloss
from jloss.history import best_epoch, csv_log, gap, json_log, overfitting, tensorboard_log
from jloss.train import fit
from jloss.update import init

NAN = float("nan")


@pytest.mark.parametrize(
    ("train", "validation", "expected"),
    [
        ([3, 2, 1, 0], [3, 1, 2, 4], (1, 2, 4, 3)),
        ([3, 2, 1, 0], [3, 2, 1, 0.5], (3, None, 0.5, 0)),  # still getting better
        ([3, 1, 2, 2], [3, 1, 2, 4], (1, None, 2, 3)),  # both got worse: it diverges
        ([3, 2, 1], [NAN, 2, NAN], (1, 2, NAN, NAN)),
        ([1], [2], (0, None, 1, 0)),
        ([2, 1], [NAN, NAN], (1, None, NAN, NAN)),  # of which the last params are kept
    ],
)
def test_overfitting_is_a_validation_loss_that_turned_while_training_went_on(
    train, validation, expected
):
    found = overfitting({"train_loss": train, "validation_loss": validation, "loss": [9] * 4})
    np.testing.assert_array_equal(
        [NAN if x is None else x for x in found], [NAN if x is None else x for x in expected]
    )
    assert found.best == best_epoch({"loss": train, "validation_loss": validation})


def test_without_a_training_loss_of_its_own_the_one_met_on_the_way_is_taken():
    np.testing.assert_array_equal(gap({"loss": [1.0, 2.0], "validation_loss": [4.0, 4.0]}), [3, 2])


def test_overfitting_needs_a_validation_loss():
    with pytest.raises(ValueError, match=r"give jloss\.fit validation data"):
        overfitting({"loss": [1.0]})


def test_logs_hold_the_history(tmp_path):
    table, lines = tmp_path / "history.csv", tmp_path / "history.jsonl"
    logs = [csv_log(table), json_log(lines), tensorboard_log(tmp_path / "board")]
    state = init(zeros(), SGD)
    for _ in range(2):  # the second fit goes on in the same files
        state, history = fit(LEAST_SQUARES, state, DATA, epochs=2, batch_size=4, callback=logs)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [row["step"] for row in found] == [3, 6, 9, 12]
    assert [[float(x) for x in row.values()] for row in rows] == [[*row.values()] for row in found]
    for name, values in history.items():
        assert [row[name] for row in found[2:]] == values.tolist()
    expected = {row["step"]: np.float32(row["loss"]) for row in found}
    written, limit = {}, time.monotonic() + 30
    while written != expected and time.monotonic() < limit:  # by a thread, every second
        time.sleep(0.1)
        written = scalars(tmp_path / "board", "loss")
    assert written == expected


def scalars(folder, name):
    """What a file for TensorBoard holds under a name, read by the protocol of its records."""
    from tensorboardX.proto.event_pb2 import Event

    data = next(folder.iterdir()).read_bytes()
    found = {}
    while len(data) >= 12 + int.from_bytes(data[:8], "little"):
        length = int.from_bytes(data[:8], "little")
        event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
        for value in event.summary.value:
            if value.tag == name:
                found[event.step] = np.float32(value.simple_value)
    return found


def test_a_table_of_something_else_is_not_written_to(tmp_path):
    (tmp_path / "table.csv").write_text("name,age\n")
    with pytest.raises(ValueError, match=r"has the columns \['name', 'age'\], not \['step', 'loss"):
        csv_log(tmp_path / "table.csv")(init(zeros(), SGD), {"loss": 1.0})
    assert (tmp_path / "table.csv").read_text() == "name,age\n"


def test_tensorboard_without_its_library_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(
        ImportError, match=r'needs tensorboardX: pip install "jloss\[tensorboard\]"'
    ):
        jloss.tensorboard_log(tmp_path)
