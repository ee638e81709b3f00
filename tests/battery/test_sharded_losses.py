"""Sharded over eight devices, every loss gives what it gives on one."""

import os
import subprocess
import sys

import pytest

import jloss

EIGHT_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}

PROGRAM = """
import sys
import jax, jloss
from jloss._promises import agrees
assert jax.device_count() == 8
for name in sys.argv[1:]:
    agrees(jloss.CARDS[name], "sharding")
    print(name)
"""
# One for each granularity; all of them take a minute.
SOME = list({card.values: name for name, card in reversed(jloss.CARDS.items())}.values())


@pytest.mark.parametrize(
    "names", [SOME, pytest.param(list(jloss.CARDS), marks=pytest.mark.long)], ids=["some", "all"]
)
def test_sharding_changes_no_loss(names):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names],
        env={**os.environ, **EIGHT_DEVICES},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == names
