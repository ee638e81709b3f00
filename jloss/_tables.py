"""Tables to learn from: a data set of scikit-learn or a user's file, checked and made numeric.

Everything that can be wrong with a user's data is found here, and said in one line.
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from jloss import _optional

BUILT_IN = ("breast_cancer", "diabetes", "digits", "iris", "wine")
SUFFIXES = (".csv", ".parquet")
FEWEST_ROWS = 50
FEWEST_PER_CLASS = 5  # three to train on, one to validate, one to test
MOST_CLASSES = 20


class InputError(ValueError):
    """What the user gave cannot be used; the message is one line that says what to do."""


@dataclass(frozen=True)
class Table:
    """Numeric features, a target, and the task that the target sets.

    Attributes:
      name: of the data set, or the path of the file.
      target: the column to predict; empty for a data set, which has its own.
      features: ``(rows, columns)``, float64, finite.
      targets: ``(rows,)``: class indices (int32) or values (float64).
      columns: the names of the features.
      classes: the names of the classes in the order of their indices; empty for regression.
      rule: why it is this task, in words.
    """

    name: str
    target: str
    features: np.ndarray
    targets: np.ndarray
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    rule: str

    @property
    def task(self) -> str:
        """``"regression"``, ``"binary"`` or ``"multiclass"``."""
        if not self.classes:
            return "regression"
        return "binary" if len(self.classes) == 2 else "multiclass"


def load(name: str, target: str | None = None) -> Table:
    """The table of that name.

    Args:
      name: one of `BUILT_IN`, or the path of a ``.csv`` or ``.parquet`` file.
      target: the column to predict; for files only, and needed there.

    Returns:
      A `Table`.

    Raises:
      InputError: anything that keeps the data from being learnt from, a library that is not
        installed included.
    """
    if Path(name).suffix.lower() in SUFFIXES:
        return _load_file(Path(name), target)
    if name not in BUILT_IN:
        raise InputError(_unknown(name))
    if target is not None:
        raise InputError(f"--target is for files; {name} has a target of its own: leave it out")
    bunch: Any = getattr(library("sklearn.datasets", "data"), f"load_{name}")()
    columns = tuple(map(str, bunch.feature_names))
    if name == "diabetes":
        rule = "regression: the target is a measure of the disease after one year"
        return Table(name, "", bunch.data, bunch.target.astype(np.float64), columns, (), rule)
    classes = tuple(map(str, bunch.target_names))
    rule = f"classification: {len(classes)} classes"
    return Table(name, "", bunch.data, bunch.target.astype(np.int32), columns, classes, rule)


def library(module: str, extra: str) -> ModuleType:
    """An optional library; its absence is something for the user to change, like bad input."""
    try:
        return _optional.optional(module, extra)
    except ImportError as error:
        raise InputError(str(error)) from error


def close_to(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the nearest known name, or nothing."""
    nearest = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""


def _unknown(name: str) -> str:
    offered = f"the data sets are {', '.join(BUILT_IN)}; or give the path of a .csv or .parquet"
    if name.lower().startswith("california"):
        return f"{name} is a download, and jloss compare works offline: {offered}"
    if Path(name).exists():
        return f"{name!r} is not a .csv or .parquet file: {offered}"
    return f"no data set {name!r}.{close_to(name, BUILT_IN)} {offered[0].upper()}{offered[1:]}"


def _load_file(path: Path, target: str | None) -> Table:
    frame = _read(path)
    listed = ", ".join(map(repr, frame.columns))
    if target is None:
        raise InputError(f"which column is to be predicted? --target COLUMN, one of {listed}")
    if target not in frame.columns:
        near = close_to(target, frame.columns)
        raise InputError(f"{path.name} has no column {target!r}.{near} Its columns: {listed}")
    if len(frame.columns) < 2:
        raise InputError(f"{path.name} has no column but {target!r}: nothing to learn from")
    if len(frame) < FEWEST_ROWS:
        raise InputError(f"{path.name} has {len(frame)} rows; at least {FEWEST_ROWS} are needed")
    _check_missing(frame)
    features = frame.drop(columns=target)
    values = np.column_stack([_numbers(features[column]) for column in features.columns])
    targets, classes, rule = _task(frame[target])
    return Table(str(path), target, values, targets, tuple(features.columns), classes, rule)


def _read(path: Path) -> Any:
    """The file as a data frame whose columns are named by text."""
    if not path.is_file():
        raise InputError(f"no file {str(path)!r}" if not path.exists() else f"{path} is no file")
    pandas = library("pandas", "data")
    if path.suffix.lower() == ".parquet":
        library("pyarrow", "data")
    try:
        # low_memory=False: one kind per column, not one per chunk of rows.
        frame = (
            pandas.read_parquet(path)
            if path.suffix.lower() == ".parquet"
            else pandas.read_csv(path, low_memory=False)
        )
    except pandas.errors.EmptyDataError:
        raise InputError(f"{path} is empty") from None
    except (ValueError, OSError, LookupError) as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"cannot read {path}: {cause}") from error
    names = [str(column) for column in frame.columns]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"{path.name} has two columns named {twice[0]!r}: rename one")
    frame.columns = names
    return frame.reset_index(drop=True)


def _check_missing(frame: Any) -> None:
    missing = frame.isna()
    counts = missing.sum()
    counts = counts[counts > 0]
    if len(counts) == 0:
        return
    where = ", ".join(f"{column!r} ({count})" for column, count in counts.head(5).items())
    more = f" and {len(counts) - 5} more columns" if len(counts) > 5 else ""
    row = int(missing.any(axis=1).to_numpy().argmax()) + 1
    raise InputError(
        f"empty or NaN cells in {where}{more}, the first in row {row}: fill them, or drop the rows"
    )


def _numbers(column: Any) -> np.ndarray:
    """A feature as float64; rows are counted from 1, the header not included."""
    types = library("pandas", "data").api.types
    if not (types.is_numeric_dtype(column) and not types.is_complex_dtype(column)):
        row, value = _first_text(column)
        raise InputError(
            f"column {column.name!r} is not numeric: {value!r} in row {row}; "
            "encode it as numbers or leave it out"
        )
    return _finite(column)


def _finite(column: Any) -> np.ndarray:
    values = column.to_numpy(np.float64)
    # The squares are added up when the column is standardised.
    huge = ~(np.abs(values) < 1e150)
    if huge.any():
        row = int(huge.argmax())
        raise InputError(f"column {column.name!r} holds {values[row]} in row {row + 1}: too large")
    return values


def _first_text(column: Any) -> tuple[int, Any]:
    """The row and the value of the first cell that is no number; the first cell if all are."""
    parsed = library("pandas", "data").to_numeric(column.astype(str), errors="coerce")
    row = int(parsed.isna().to_numpy().argmax())
    return row + 1, column.iloc[row]


def _task(column: Any) -> tuple[np.ndarray, tuple[str, ...], str]:
    """The targets, their classes (none for regression), and the rule that told which it is."""
    pandas = library("pandas", "data")
    types = pandas.api.types
    name = column.name
    if types.is_bool_dtype(column) or not types.is_numeric_dtype(column):
        kind = "truth values" if types.is_bool_dtype(column) else "text"
        if kind == "text":
            _check_no_stray_text(column)
        return _classes(column.astype(str), f"classification: {name!r} holds {kind}")
    values = _finite(column)
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= 2:
        whole = column.astype(np.int64) if np.all(values % 1 == 0) else column
        return _classes(whole, f"classification: {name!r} holds two different values")
    whole, few = bool(np.all(distinct % 1 == 0)), len(distinct) <= MOST_CLASSES
    if whole and few and counts.min() >= FEWEST_PER_CLASS:
        rule = f"{name!r} holds {len(distinct)} different whole numbers, at most {MOST_CLASSES}"
        return _classes(column.astype(np.int64), f"classification: {rule}")
    kind = "whole numbers" if whole else "numbers"
    return values, (), f"regression: {name!r} holds {len(distinct)} different {kind}"


def _classes(column: Any, rule: str) -> tuple[np.ndarray, tuple[str, ...], str]:
    names, indices, counts = np.unique(column.to_numpy(), return_inverse=True, return_counts=True)
    names = [str(name) for name in names]
    if len(names) < 2:
        raise InputError(
            f"column {column.name!r} has one class only, {names[0]!r}: there is nothing to tell "
            "apart; choose another --target"
        )
    rare = int(counts.argmin())
    if counts[rare] < FEWEST_PER_CLASS:
        raise InputError(
            f"column {column.name!r}: class {names[rare]!r} has {counts[rare]} of "
            f"{len(indices)} rows; each class needs at least {FEWEST_PER_CLASS}: "
            "merge rare classes or drop them"
        )
    return indices.astype(np.int32), tuple(names), f"{rule} ({len(names)} classes)"


def _check_no_stray_text(column: Any) -> None:
    """Refuses a numeric target that a few stray cells turned into text."""
    parsed = library("pandas", "data").to_numeric(column.astype(str), errors="coerce")
    if 0 < parsed.isna().sum() < len(column) / 2:
        row, value = _first_text(column)
        raise InputError(
            f"column {column.name!r} holds numbers, but {value!r} in row {row}: correct it"
        )
