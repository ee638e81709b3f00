"""A user's own objective, data and checkpoint, by the names that a command line can give them.

Everything that can be wrong with them is found here, and said in one line.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jloss._tables import InputError, close_to, library
from jloss.objective import call


def named(option: str, text: str) -> Any:
    """What ``module:name`` stands for; modules of the working directory are found as well.

    Args:
      option: what it was given as, for errors.
      text: ``module:name``, as in ``train:objective`` or ``models.mlp:Model.loss``.

    Returns:
      The object.

    Raises:
      InputError: the text is of another form, the module cannot be imported, or lacks the name.

    >>> from jloss._user import named
    >>> named("OBJECTIVE", "math:pi")
    3.141592653589793
    """
    module, _, name = text.partition(":")
    if not (module and name):
        raise InputError(f"{option} {text!r} must be module:name, as in train:objective")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and module.startswith(error.name):
            raise InputError(f"{option}: there is no module {error.name!r} here") from None
        raise InputError(f"{option}: importing {module} failed: {_said(error)}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            near = close_to(part, vars(found))
            raise InputError(f"{option}: {module} has no {part!r}.{near}")
        found = getattr(found, part)
    return found


def made(option: str, text: str) -> Any:
    """What ``module:name`` stands for, or gives when it is called without arguments."""
    found = named(option, text)
    return _called(option, text, found) if callable(found) else found


class Batches:
    """Batches that ``module:name`` is or makes, which can be walked more than once."""

    def __init__(self, option: str, text: str):
        self._option, self._text, self._found = option, text, named(option, text)
        if not isinstance(self._walk(), Iterable):
            raise InputError(f"{option}: {text} is no iterable of batches, and gives none")

    def __iter__(self) -> Iterator[Any]:
        return iter(self._walk())

    def _walk(self) -> Any:
        found = self._found
        return _called(self._option, self._text, found) if callable(found) else found


def _called(option: str, text: str, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception as error:
        raise InputError(f"{option}: calling {text} failed: {_said(error)}") from error


def params(path: Path, like: Any = None, part: str | None = None) -> Any:
    """The params in an orbax checkpoint, as arrays of the host.

    Args:
      path: the folder of a checkpoint, or of a manager that keeps several: the last step is taken.
      like: a pytree of the checkpoint's structure, which dictionaries take the place of otherwise.
      part: the place of the params in the checkpoint, as in ``params`` or ``state.params``.

    Returns:
      A pytree of arrays.

    Raises:
      InputError: there is no checkpoint, it cannot be read, or has no such part.
    """
    folder = _checkpoint(path)
    orbax = library("orbax.checkpoint", "train")
    try:
        with orbax.PyTreeCheckpointer() as checkpointer:
            shapes = checkpointer.metadata(folder).item_metadata.tree if like is None else like
            # As arrays of numpy: the devices that they were saved from need not be here.
            kinds = jax.tree.map(lambda _: orbax.RestoreArgs(restore_type=np.ndarray), shapes)
            found = checkpointer.restore(folder, item=like, restore_args=kinds)
    except Exception as error:
        raise InputError(f"--params: cannot read {path}: {_said(error)}") from error
    for name in part.split(".") if part else ():
        inside = found if isinstance(found, dict) else getattr(found, "__dict__", {})
        if name not in inside:
            listed = ", ".join(map(str, inside)) or "nothing by name"
            raise InputError(f"--part {part}: the checkpoint has no {name!r}; there is {listed}")
        found = inside[name]
    return found


def _checkpoint(path: Path) -> Path:
    """The folder with the arrays, below the one that was given."""
    path = path.absolute()
    if not path.is_dir():
        raise InputError(f"--params: there is no folder {path.name!r}")
    if (path / "_METADATA").exists():
        return path
    inside = [folder for folder in path.iterdir() if folder.is_dir()]
    steps = [folder for folder in inside if folder.name.isdigit()]
    if steps:
        return _checkpoint(max(steps, key=lambda folder: int(folder.name)))
    found = [folder for folder in inside if (folder / "_METADATA").exists()]
    if len(found) == 1:
        return found[0]
    several = f"several checkpoints: {', '.join(folder.name for folder in sorted(found))}"
    raise InputError(f"--params: {path.name} holds {several if found else 'no orbax checkpoint'}")


def try_out(name: str, objective: Any, params: Any, batch: Any) -> None:
    """Refuses an objective that does not take these params and this batch.

    Args:
      name: of the objective, for errors.
      objective: ``objective(params, batch)``.
      params: of the checkpoint.
      batch: the first one.

    Raises:
      InputError: it is none, or fails.
    """
    if not callable(objective):
        raise InputError(f"{name} is no function, but {type(objective).__name__}")
    try:
        jax.eval_shape(lambda params, batch: call(objective, params, batch)[0], params, batch)
    except Exception as error:
        raise InputError(
            f"{name} fails on the params of the checkpoint and the first batch: {_said(error)}"
        ) from error


def _said(error: BaseException) -> str:
    """An error in one line, without what JAX says about its own tracebacks."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])}"
