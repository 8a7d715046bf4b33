"""Generated weights on four devices: the losses and gradients of one device, and no weight is sent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import adntn  # noqa: E402
from adntn_jax.distributed import part, value_and_grad  # noqa: E402

EPSILON = np.finfo("float64").eps
BYTES = 8
WEIGHT = 32 * 64 * BYTES


def test_training_goes_as_on_one_device_and_no_weight_is_sent(tmp_path: Path) -> None:
    """One test for all: the host has four devices in a process of its own."""
    script, target = Path(__file__).parents[1] / "support" / "spread_jax.py", tmp_path / "found.json"
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(script), str(target)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(target.read_text())
    assert len(found) == 3
    for topology, case in found.items():
        for way in ("data parallel", "tensor parallel"):
            one = case["ways"][way]
            assert one["error of loss"] <= 100 * EPSILON, (way, topology)
            assert one["error of gradients"] <= 1000 * EPSILON, (way, topology)
            assert 0 < max(one["messages"]) < WEIGHT / 2, (way, topology)
        # the cores and the loss
        assert sum(case["ways"]["data parallel"]["messages"]) == BYTES * (case["parameters"] + 1), topology
    # what `adntn_jax.distributed` is there for; where this fails, XLA has learnt to do without
    assert max(found["TTN"]["ways"]["jit alone"]["messages"]) >= WEIGHT


def test_wrong_axes_and_sizes_are_named() -> None:
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with pytest.raises(ValueError, match=r"axis must be one of the mesh's, 'data', got 'rows'"):
        value_and_grad(lambda cores, x: x.sum(), mesh, "rows")
    generator = adntn.TTN((14, 8))
    whole = jax.sharding.PartitionSpec()

    def cut(cores: Any) -> Any:
        return part(generator, cores, "data", dimension=2)[1]["top"]

    spread = jax.shard_map(cut, mesh=mesh, in_specs=(whole,), out_specs=whole)
    with pytest.raises(ValueError, match="dimension must be an integer from 0 to 1, got 2"):
        spread(generator.init(backend="jax"))
