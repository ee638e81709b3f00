"""Devices and processes: which of them there are, and what they tell each other.

A sweep has three places where processes meet, however many points it has: the plan, the blocks that
are done already, and the values at the end.
"""

import functools
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh


def one_device_per_core(cores: int | None = None) -> None:
    """Makes every core of this processor a device of its own, which sweeps then share out over.

    Each core does whole points, so that none waits for another. To be called before JAX is first
    used; as an environment variable:
    ``XLA_FLAGS="--xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false"``.

    Args:
      cores: how many; all that this process may run on if not given.

    Raises:
      RuntimeError: JAX has been used already.
    """
    available = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    jax.config.update("jax_num_cpu_devices", cores or len(available))


def local(mesh: Mesh | None) -> list[Any]:
    """The devices of this process: all, or those in the mesh."""
    if mesh is None:
        return jax.local_devices()
    if not isinstance(mesh, Mesh):
        raise TypeError(f"sweep: mesh must be a jax.sharding.Mesh, not {type(mesh).__name__}")
    return [device for device in mesh.devices.flat if device.process_index == jax.process_index()]


@functools.cache
def compiler_options(platform: str) -> dict[str, str] | None:
    """What a program over many points at once must be compiled with to be right."""
    if platform != "cpu":
        return None
    # For processors jaxlib 0.10.2 fuses a sum with what it adds up, and where `vmap` has left a
    # factor unbatched, reads wrong rows from some fifty points on; and what it stores in a product
    # that is fused with others, it does not count. Other versions may lack this.
    options = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return None
    return options


def as_the_first_says(numbers: Sequence[int]) -> Any:
    """The numbers of the first process: timings differ, and blocks get done meanwhile."""
    if jax.process_count() == 1:
        return numbers
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(np.asarray(numbers))


def wait_for_all(name: str) -> None:
    """Returns when all processes have come here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def exchanged(values: Any) -> Any:
    """The sum over all processes, each of which has zeros where it did nothing."""
    from jax.experimental import multihost_utils

    return jax.tree.map(
        lambda leaf: multihost_utils.process_allgather(leaf).sum(0, dtype=leaf.dtype), values
    )
