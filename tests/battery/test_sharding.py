"""Sharded over eight devices, every loss gives what it gives on one."""

import os
import subprocess
import sys

import jloss

EIGHT_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}

PROGRAM = """
import jax, jloss
from jloss._promises import agrees
assert jax.device_count() == 8
for card in jloss.CARDS.values():
    agrees(card, "sharding")
    print(card.name)
"""


def test_sharding_changes_no_loss():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **EIGHT_DEVICES},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(jloss.CARDS)
