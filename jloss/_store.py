"""Pytrees of arrays in files, written whole or not at all; folders of blocks that outlive a kill.

Everything is JSON and numpy's own ``.npz``, so that others can open it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jloss.average import Average, Terms

_FORMAT = 1
_UNREADABLE = (KeyError, OSError, ValueError, zipfile.BadZipFile)
Plan = TypeVar("Plan", bound=tuple)


# One file ----------------------------------------------------------------------------------------


def save(path: Path, tree: Any) -> None:
    """Writes a pytree of dictionaries, lists, tuples, averages, arrays and plain values."""
    arrays: list[np.ndarray] = []
    structure = _encode(tree, arrays)
    _write_arrays(path, {"structure": np.array(json.dumps(structure))} | _numbered(arrays))


def load(path: Path) -> Any:
    """What `save` wrote."""
    try:
        with np.load(path) as file:
            return _decode(json.loads(str(file["structure"])), file)
    except _UNREADABLE as error:
        raise ValueError(f"Sweep.load: {path} is no saved sweep: {error}") from error


def _numbered(arrays: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    return {f"array_{number}": array for number, array in enumerate(arrays)}


def _encode(tree: Any, arrays: list[np.ndarray]) -> Any:
    """The structure as JSON; the arrays are appended to a list."""
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return {"plain": tree}
    if isinstance(tree, Average):
        return {"average": [_encode(x, arrays) for x in (tree.total, tree.weight)]}
    if isinstance(tree, Terms):
        return {"terms": _encode(dict(tree.averages), arrays)}
    if hasattr(tree, "_asdict"):
        tree = tree._asdict()
    if isinstance(tree, dict):
        return {"dict": [[key, _encode(value, arrays)] for key, value in tree.items()]}
    if isinstance(tree, (list, tuple)):
        return {type(tree).__name__: [_encode(value, arrays) for value in tree]}
    impl = None
    if jnp.issubdtype(tree.dtype, jax.dtypes.prng_key):
        tree, impl = jax.random.key_data(tree), str(jax.random.key_impl(tree))
    array = np.asarray(tree)
    arrays.append(array.view(f"u{array.itemsize}") if array.dtype.kind == "V" else array)
    return {"array": len(arrays) - 1, "dtype": str(array.dtype), "key": impl}


def _decode(node: Any, file: Any) -> Any:
    if "plain" in node:
        return node["plain"]
    if "array" in node:
        array = file[f"array_{node['array']}"].view(jnp.dtype(node["dtype"]))
        array = jnp.asarray(array)
        return jax.random.wrap_key_data(array, impl=node["key"]) if node["key"] else array
    if "average" in node:
        return Average(*(_decode(value, file) for value in node["average"]))
    if "terms" in node:
        return Terms(_decode(node["terms"], file))
    if "dict" in node:
        return {key: _decode(value, file) for key, value in node["dict"]}
    ((kind, values),) = node.items()
    return {"list": list, "tuple": tuple}[kind](_decode(value, file) for value in values)


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    _write(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def _write(path: Path, put: Callable[[Any], Any]) -> None:
    """Puts a file there as a whole: under another name first, on the disk, then renamed."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            put(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def lock(name: str, folder: Path) -> Any:
    """A folder held until this process ends, however it ends; one lock for each process of a job.

    It is made if it is not there.

    Raises:
      ValueError: it is held by another process, or is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"{name}={folder} is a file; give a folder") from None
    file = open(folder / f".lock-{jax.process_index()}", "w")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise ValueError(
            f"{name}={folder} is in use by another process; give another folder"
        ) from None
    return file


# A folder of blocks ------------------------------------------------------------------------------


class Folder:
    """Finished blocks of a sweep, each a file that is there whole or not at all.

    ``manifest.json`` says what was swept and how points are grouped, ``head.npz`` has the axes,
    ``block-00007.npz`` the values of points ``7 * block`` and on, in the order of the leaves.
    """

    def __init__(
        self, path: Path, identity: dict[str, str] | None = None, head: dict[str, Any] | None = None
    ):
        self._path, self._identity, self._head = path, identity, head
        self._manifest = self._read_manifest()
        if identity is None:
            return
        self._lock = lock("sweep: out", path)
        try:
            self._check(identity)
        except ValueError:
            self._lock.close()
            raise

    def _check(self, identity: dict[str, str]) -> None:
        """Refuses a folder of anything else."""
        known = self._manifest.get("identity", identity)
        changed = [name for name in identity if known.get(name) != identity[name]]
        if changed:
            raise ValueError(
                f"sweep: out={self._path} holds a sweep of another {' and '.join(changed)}; give "
                "another folder, or delete this one"
            )
        if not self._manifest and any(self._path.glob("*.npz")):
            raise ValueError(f"sweep: out={self._path} holds files that are of no sweep")

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyboardInterrupt):
            error.add_note(
                f"sweep: {len(self.done)} finished blocks are kept in out={self._path}; the same "
                "call goes on from there"
            )
        self._lock.close()

    def _read_manifest(self) -> dict[str, Any]:
        try:
            manifest = json.loads((self._path / "manifest.json").read_text())
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except ValueError as error:
            raise ValueError(f"sweep: {self._path}/manifest.json is damaged: {error}") from error
        if manifest.get("format") != _FORMAT:
            raise ValueError(
                f"sweep: {self._path} was written in format {manifest.get('format')}; this version "
                f"of jloss reads {_FORMAT}"
            )
        return manifest

    def plan(self, kind: type[Plan]) -> Plan | None:
        """How points were grouped when the sweep began."""
        return kind(*self._manifest["plan"]) if self._manifest else None

    def open(self, plan: tuple, shapes: Any, points: int) -> None:
        """Writes what a reader needs, before the first block."""
        if self._manifest:
            return
        arrays: list[np.ndarray] = []
        empty = jax.tree.map(lambda s: np.zeros((0, *s.shape), s.dtype), shapes)
        self._manifest = {
            "format": _FORMAT,
            "identity": self._identity,
            "plan": list(plan),
            "points": points,
            "values": _encode(empty, arrays),
        }
        if jax.process_index() == 0:
            text = json.dumps(self._manifest, indent=1).encode()
            save(self._path / "head.npz", self._head)
            _write(self._path / "manifest.json", lambda file: file.write(text))

    @property
    def done(self) -> set[int]:
        """The numbers of the finished blocks."""
        found = self._path.glob("block-*.npz")
        return {int(path.stem.removeprefix("block-")) for path in found}

    def write(self, block: int, values: Any) -> None:
        """Keeps a finished block."""
        arrays: list[np.ndarray] = []
        _encode(values, arrays)
        try:
            _write_arrays(self._block(block), _numbered(arrays))
        except OSError as error:
            raise OSError(
                error.errno,
                f"sweep: block {block} could not be written to out={self._path} "
                f"({error.strerror}); {len(self.done)} finished blocks are kept",
            ) from error

    def read_block(self, block: int) -> list[np.ndarray]:
        """The arrays of a finished block, in the order of the leaves."""
        path = self._block(block)
        try:
            with np.load(path) as file:
                return list(_decode_flat(self._manifest["values"], file))
        except _UNREADABLE as error:
            raise ValueError(
                f"sweep: {path} is damaged, delete it to do it again: {error}"
            ) from error

    def read(self) -> dict[str, Any]:
        """Axes and values of a finished sweep."""
        if not self._manifest:
            raise ValueError(f"Sweep.load: {self._path} holds no sweep")
        blocks = -(-self._manifest["points"] // self._manifest["plan"][-1])
        missing = set(range(blocks)) - self.done
        if missing:
            raise ValueError(
                f"Sweep.load: {len(missing)} of {blocks} blocks of {self._path} are missing; call "
                "sweep again with the same out to finish it"
            )
        head = load(self._path / "head.npz")
        lengths = [len(jax.tree.leaves(axis)[0]) for _, axis in head["axes"]]
        grid = lengths[:1] if head["paired"] else lengths
        columns = zip(*map(self.read_block, range(blocks)), strict=True)
        arrays = [np.concatenate(column) for column in columns]
        arrays = [array.reshape(*grid, *array.shape[1:]) for array in arrays]
        return {**head, "values": _decode(self._manifest["values"], _numbered(arrays))}

    def _block(self, block: int) -> Path:
        return self._path / f"block-{block:05d}.npz"


def _decode_flat(structure: Any, file: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(_decode(structure, file))]


# What a sweep is of ------------------------------------------------------------------------------


def digest(tree: Any) -> str:
    """A hash of all arrays and texts in a pytree, or in an iterable of pytrees."""
    found = hashlib.blake2b(digest_size=16)
    for part in tree:
        for leaf in jax.tree.leaves(part):
            if isinstance(leaf, str):
                found.update(leaf.encode())
                continue
            if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            array = np.ascontiguousarray(leaf)
            found.update(f"{array.dtype}{array.shape}".encode())
            found.update(array.view(np.uint8).data if array.size else b"")
    return found.hexdigest()


def program_text(closed: Any) -> str:
    """A traced program as text, without the addresses of objects, which change with every run."""
    return re.sub(r"0x[0-9a-f]+", "", str(closed))
