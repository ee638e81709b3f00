"""Where a fit stands, kept in a folder through orbax: whole or not at all, beside the training."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import jax

from jloss import _store
from jloss._optional import optional
from jloss.update import State, copied, wanted_by

_FORMAT = 1
_KEPT = 2

Row = dict[str, float]


@dataclass
class Run:
    """Where a fit stands: all that it needs to go on as if it had never stopped.

    Attributes:
      state: of the training.
      before: the state's counts of updates and of skipped ones when the fit began.
      rows: the history, a mapping for each finished epoch.
      updates: how many were tried in the epoch under way.
      total: leaves of the sum of their losses, none if there were none.
      best: the epoch with the smallest validation loss, and that loss.
      best_model: params and model state of that epoch.
      stopped: whether the fit has ended.
    """

    state: State
    before: tuple[int, int]
    rows: list[Row] = field(default_factory=list)
    updates: int = 0
    total: Any = None
    best: tuple[int, float] = (-1, float("inf"))
    best_model: Any = None
    stopped: bool = False


class Folder:
    """The checkpoints of one fit, of which the last two are kept.

    A checkpoint is written under another name first, so that a process that is killed leaves
    whole ones only. Each holds a tree of arrays and ``notes`` in JSON.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        every: int | None,
        identity: Mapping[str, Mapping[str, str]],
    ):
        self.every = every
        self._orbax = optional("orbax.checkpoint", "train")
        # Orbax wants no relative path; what has a scheme is on another machine.
        remote = "://" in str(path)
        self._path = str(path) if remote else os.path.abspath(path)
        self._lock = (
            contextlib.nullcontext() if remote else _store.lock("fit: checkpoint", Path(self._path))
        )
        self._identity = identity
        options = self._orbax.CheckpointManagerOptions(max_to_keep=_KEPT)
        self._manager = self._orbax.CheckpointManager(self._path, options=options)
        self._newest: int | None = self._manager.latest_step()

    def due(self, run: Run) -> bool:
        """Whether so many updates were tried since the last checkpoint."""
        since = int(run.state.step) - (run.before[0] if self._newest is None else self._newest)
        return since >= (self.every or 1)

    def save(self, run: Run) -> None:
        """Writes where the run stands, and waits only for the checkpoint before."""
        total = jax.tree.leaves(run.total)
        notes = {
            "format": _FORMAT,
            "identity": self._identity,
            "before": run.before,
            # Copied, for the training appends to it while orbax still writes.
            "rows": list(run.rows),
            "updates": run.updates,
            "total": [(str(leaf.dtype), leaf.shape) for leaf in total],
            "best": run.best,
            "stopped": run.stopped,
        }
        args = self._orbax.args
        self._newest = int(run.state.step)
        # A copy, for the state's own memory is used again while orbax still writes.
        tree = copied(_tree(run.state, total, run.best_model))
        saved = args.Composite(tree=args.StandardSave(tree), notes=args.JsonSave(notes))
        with self._writing():
            self._manager.save(self._newest, args=saved)

    def last(self, run: Run) -> Run:
        """The run as it was last saved, placed on the devices of this one; this one if none was.

        Raises:
          ValueError: what was saved is of another fit or another version, or is damaged.
        """
        if self._newest is None:
            return run
        args = self._orbax.args
        notes = self._restored(notes=args.JsonRestore())["notes"]
        self._check(notes)
        best_model = (run.state.params, run.state.model_state) if notes["best"][0] >= 0 else None
        total = [jax.ShapeDtypeStruct(shape, dtype) for dtype, shape in notes["total"]]
        wanted = _tree(run.state, total, best_model)
        wanted = jax.tree.map(self._orbax.utils.to_shape_dtype_struct, wanted)
        tree = self._restored(tree=args.StandardRestore(wanted))["tree"]
        return Run(
            replace(run.state, **tree["state"]),
            tuple(notes["before"]),
            notes["rows"],
            notes["updates"],
            tree["total"] or None,
            tuple(notes["best"]),
            tree.get("best_model"),
            notes["stopped"],
        )

    def close(self) -> None:
        """Waits for what is being written."""
        with self._lock, self._writing():
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Says which folder it is that cannot be written to; in the background others fail late."""
        try:
            yield
        except Exception as error:  # orbax and what is below it raise errors of many kinds
            raise OSError(
                f"fit: a checkpoint could not be written to {self._path}; those before it are "
                f"kept: {error}"
            ) from error

    def _restored(self, **args: Any) -> Mapping[str, Any]:
        try:
            return self._manager.restore(self._newest, args=self._orbax.args.Composite(**args))
        except Exception as error:  # orbax and what is below it raise errors of many kinds
            raise ValueError(
                f"fit: the checkpoint {self._path}/{self._newest} cannot be read; delete it to go "
                f"on from the one before, if there is one: {error}"
            ) from error

    def _check(self, notes: Mapping[str, Any]) -> None:
        """Refuses a checkpoint of anything else, and names the first thing that differs."""
        if notes["format"] != _FORMAT:
            raise ValueError(
                f"fit: checkpoint={self._path} was written in format {notes['format']}; this "
                f"version of jloss reads {_FORMAT}"
            )
        for name, ours in self._identity.items():
            theirs = notes["identity"].get(name, {})
            # Programs that other versions of the libraries made cannot be compared.
            if theirs == ours or (name == "update rule" and theirs.keys() != ours.keys()):
                continue
            place = next(p for p in [*ours, *theirs] if ours.get(p) != theirs.get(p))
            raise ValueError(
                f"fit: checkpoint={self._path} holds a fit with another {name}: {place} is "
                f"{theirs.get(place, 'missing')} there and {ours.get(place, 'missing')} here; give "
                "another folder, or delete this one"
            )


@contextlib.contextmanager
def folder(
    path: str | os.PathLike | None,
    state: State,
    every: int | None,
    setting: Mapping[str, Any],
) -> Iterator[Folder | None]:
    """A `Folder` for fits of such a state, in which all is written when it is left; or none."""
    if path is None:
        yield None
        return
    identity = {
        "model": _shapes("params", state.params) | _shapes("model_state", state.model_state),
        "optimizer": _shapes("opt_state", state.opt_state),
        "update rule": _rule(state),
        "state": _shapes("", replace(state, params=None, model_state=None, opt_state=None)),
        "setting": {name: str(value) for name, value in setting.items()},
    }
    opened = Folder(path, every, identity)
    try:
        yield opened
    finally:
        opened.close()


def _rule(state: State) -> dict[str, str]:
    """What tells optimizers apart whose states look alike: their rates and schedules are in it."""
    import optax

    def square(params: Any, batch: Any = None, grad_fn: Any = None) -> jax.Array:
        return optax.tree_utils.tree_norm(params, squared=True)

    def updated(params: Any, opt_state: Any) -> Any:
        # Of a loss of its own, for optimizers that want to know more of it than the gradient.
        known = dict(value=square(params), grad=params, batch=None, value_fn=square)
        wanted = wanted_by(state.optimizer, **known, grad_fn=lambda params, _: params)
        return state.optimizer.update(params, opt_state, params, **wanted)

    try:
        program = jax.make_jaxpr(updated)(*jax.eval_shape(lambda: (state.params, state.opt_state)))
    except Exception:  # one that wants to know still more is known by its state alone
        return {}
    digest = _store.digest([_store.program_text(program), *program.consts])
    return {f"with jax {jax.__version__}, optax {optax.__version__} the optimizer": digest}


def _tree(state: State, total: list[Any], best_model: Any) -> dict[str, Any]:
    """The arrays of a checkpoint, in plain dictionaries that others can open."""
    names = [entry.name for entry in fields(State) if not entry.metadata.get("static")]
    tree = {"state": {name: getattr(state, name) for name in names}, "total": total}
    return tree if best_model is None else {**tree, "best_model": best_model}


def _shapes(name: str, tree: Any) -> dict[str, str]:
    """Type and shape of every array by its place."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {name + jax.tree_util.keystr(path): f"{leaf.dtype}{leaf.shape}" for path, leaf in leaves}
