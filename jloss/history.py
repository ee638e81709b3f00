"""The history of a fit: what it says of overfitting, and where it is written while training."""

import csv
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jloss._optional import optional

Log = Callable[[Any, Mapping[str, float]], None]


class Overfitting(NamedTuple):
    """What a history says of how far a model learnt its data by heart. Epochs count from 0.

    Attributes:
      best: the epoch with the smallest validation loss.
      turned: the first epoch after it, if the loss of the training data went on to fall while that
        of validation never came down again; None if there is none.
      gap: validation minus training loss at the last epoch.
      lost: how much the validation loss has risen since the best epoch.
    """

    best: int
    turned: int | None
    gap: float
    lost: float


def overfitting(history: Mapping[str, ArrayLike]) -> Overfitting:
    """When validation turned, and the gap that opened since.

    Args:
      history: of `fit` with validation. The training loss is ``train_loss``, or where the data
        came in batches ``loss``, the mean while training.

    Returns:
      An `Overfitting`.

    Raises:
      ValueError: the history has no validation loss.

    >>> history = {"train_loss": [3.0, 2.0, 1.0, 0.5], "validation_loss": [3.0, 2.5, 2.75, 3.0]}
    >>> jloss.overfitting(history)
    Overfitting(best=1, turned=2, gap=2.5, lost=0.5)
    """
    best, open_gap = best_epoch(history), gap(history)
    train, validation = _losses(history)
    turned = best + 1 if best + 1 < len(train) and train[-1] < train[best] else None
    lost = float(validation[-1] - validation[best])
    return Overfitting(best, turned, float(open_gap[-1]), lost)


def best_epoch(history: Mapping[str, ArrayLike]) -> int:
    """The epoch whose params `fit` returns: of the smallest finite validation loss, or the last."""
    _, validation = _losses(history)
    if not np.isfinite(validation).any():
        return len(validation) - 1
    return int(np.argmin(np.where(np.isfinite(validation), validation, np.inf)))


def gap(history: Mapping[str, ArrayLike]) -> np.ndarray:
    """Validation minus training loss of every epoch: how much was learnt by heart."""
    train, validation = _losses(history)
    return validation - train


def _losses(history: Mapping[str, ArrayLike]) -> tuple[np.ndarray, np.ndarray]:
    if "validation_loss" not in history:
        raise ValueError(
            "overfitting: the history has no validation_loss; give jloss.fit validation data"
        )
    train = history["train_loss"] if "train_loss" in history else history["loss"]
    return np.asarray(train), np.asarray(history["validation_loss"])


# Logs: callbacks of a fit. A fit that goes on after a kill may repeat its last line.


def csv_log(path: str | os.PathLike) -> Log:
    """A callback of `fit` that appends a line for each epoch, the step first.

    Args:
      path: of the file. A new one gets a line of names.

    Raises:
      ValueError: when called, where the file has other columns.
    """
    path = Path(path)

    def log(state: Any, row: Mapping[str, float]) -> None:
        names = ["step", *row]
        with path.open("a+", newline="") as file:
            file.seek(0)
            found = next(csv.reader(file), None)
            if found is not None and found != names:
                raise ValueError(f"csv_log: {path} has the columns {found}, not {names}")
            writer = csv.writer(file)
            if found is None:
                writer.writerow(names)
            writer.writerow([int(state.step), *row.values()])

    return log


def json_log(path: str | os.PathLike) -> Log:
    """A callback of `fit` that appends an object for each epoch, one a line (JSON lines)."""

    def log(state: Any, row: Mapping[str, float]) -> None:
        with open(path, "a") as file:
            file.write(json.dumps({"step": int(state.step), **row}) + "\n")

    return log


def tensorboard_log(path: str | os.PathLike) -> Log:
    """A callback of `fit` that writes scalars for TensorBoard, by the state's step.

    Raises:
      ImportError: tensorboardX is not installed.
    """
    # A thread of its own writes, every second: it has no way to wait for it.
    writer = optional("tensorboardX", "tensorboard").SummaryWriter(str(path), flush_secs=1)

    def log(state: Any, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            writer.add_scalar(name, value, int(state.step))

    return log
