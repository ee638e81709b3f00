"""States and batches over many devices: rows split, parameters whole or in shards."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import keystr, tree_leaves_with_path, tree_map_with_path

if TYPE_CHECKING:
    from jloss.update import State

# Smaller parameters stay whole on every device: to gather them would cost more than it saves.
SMALL = 2**16


def shard(state: "State", mesh: Mesh | None = None, specs: Any = None) -> "State":
    """The state on the devices of a mesh, where `step`, `steps` and `fit` then do their work.

    The rows of every batch are split over the mesh's first axis, as far as it divides them. Each
    update is the one that a single device would make, to rounding: averages add up exactly.

    Args:
      state: from `init`, the same in every process.
      mesh: devices by axis; all devices of all processes along one axis ``"data"`` if not given.
      specs: a ``PartitionSpec`` for each of the params, or for whole parts of their tree. If not
        given, each is split along its longest axis that the mesh's first divides (fully sharded
        data parallelism), and those below 65,536 numbers are not split; ``PartitionSpec()``
        splits none. What belongs to a parameter, as the moments in an optimizer's state, is split
        as it is.

    Returns:
      A state that keeps its place through all updates.

    Raises:
      ValueError: a spec names an axis that the mesh has not, or does not fit its parameter.

    Source: Rajbhandari et al. (2020), ZeRO: Memory Optimizations toward Training Trillion
    Parameter Models, SC20.

    >>> state = jloss.shard(jloss.init(jnp.zeros(3), optax.adam(0.1)))
    >>> state.params.sharding.mesh.axis_names
    ('data',)
    """
    mesh = jax.make_mesh((jax.device_count(),), ("data",)) if mesh is None else mesh
    # Where the compiler chooses the shardings on the way, a model need not know of the mesh.
    mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))
    is_spec = lambda leaf: isinstance(leaf, PartitionSpec)  # noqa: E731
    if specs is None:
        specs = jax.tree.map(lambda leaf: _default(leaf, mesh), state.params)
    else:
        specs = jax.tree.broadcast(specs, state.params, is_leaf=is_spec)
    found = jax.tree.leaves(specs, is_leaf=is_spec)
    by_path = {
        keystr(path): (jnp.shape(leaf), spec)
        for (path, leaf), spec in zip(tree_leaves_with_path(state.params), found, strict=True)
    }

    def put(path: Any, leaf: Any) -> Any:
        sharding = NamedSharding(mesh, _spec(keystr(path), leaf, by_path))
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.device_put(leaf, sharding)
        # Keys cannot be put on the devices of other processes as they are.
        data = jax.device_put(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))

    return replace(tree_map_with_path(put, state), mesh=mesh)


def shard_rows(batch: Any, mesh: Mesh) -> Any:
    """The rows that each process has read, as one batch over the devices of all of them.

    On one process it only saves copies: `step` and `fit` split what they are given themselves. On
    several, a process then needs no more than its own share of the data.

    Args:
      batch: arrays of this process's rows, as many as in every other one.
      mesh: ``state.mesh``.

    Returns:
      The batch with the rows of all processes, one process after the other.

    Raises:
      ValueError: the devices of this process cannot share its rows equally.

    >>> state = jloss.shard(jloss.init(jnp.zeros(3), optax.adam(0.1)))
    >>> jloss.shard_rows({"inputs": jnp.ones((8, 3))}, state.mesh)["inputs"].shape
    (8, 3)
    """
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    devices = max(1, mesh.shape[mesh.axis_names[0]] // jax.process_count())

    def put(path: Any, leaf: Any) -> Any:
        if jnp.ndim(leaf) == 0 or len(leaf) % devices:
            rows = f"{len(leaf)} rows" if jnp.ndim(leaf) else "no rows"
            raise ValueError(
                f"shard_rows: batch{keystr(path)} has {rows}, which the {devices} devices of this "
                "process cannot share equally; fill up with rows that a mask `where` hides"
            )
        return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

    return tree_map_with_path(put, batch)


def split(batch: Any, mesh: Mesh | None) -> Any:
    """A batch within a program, its rows over the mesh's first axis as far as that divides them."""
    if mesh is None:
        return batch
    devices = mesh.shape[mesh.axis_names[0]]

    def over(leaf: Any) -> Any:
        if jnp.ndim(leaf) == 0 or len(leaf) % devices:
            return leaf
        others = (PartitionSpec.UNCONSTRAINED,) * (leaf.ndim - 1)
        spec = PartitionSpec(mesh.axis_names[0], *others)
        return lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(over, batch)


def _default(leaf: Any, mesh: Mesh) -> PartitionSpec:
    axis = mesh.axis_names[0]
    divided = [i for i, size in enumerate(leaf.shape) if size % mesh.shape[axis] == 0]
    if math.prod(leaf.shape) < SMALL or not divided:
        return PartitionSpec()
    longest = max(divided, key=lambda i: leaf.shape[i])
    return PartitionSpec(*(None,) * longest, axis)


def _spec(path: str, leaf: Any, params: dict[str, tuple[tuple[int, ...], PartitionSpec]]) -> Any:
    """As the parameter whose path the leaf's ends with; a memory of several has axes before it."""
    for of_param, (shape, spec) in params.items():
        more = jnp.ndim(leaf) - len(shape)
        if path.endswith(of_param) and more >= 0 and jnp.shape(leaf)[more:] == shape:
            return PartitionSpec(*(None,) * more, *spec) if spec else spec
    return PartitionSpec()
