"""torch as a backend: its precision and what its devices are."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from adntn_torch.backend import BACKEND

SETTINGS = """
import torch
from adntn_torch.backend import BACKEND
cuda, cpu = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
{setting}
users = cuda.fp32_precision, cpu.fp32_precision
with BACKEND.full_precision():
    print(cuda.fp32_precision, cpu.fp32_precision)
print((cuda.fp32_precision, cpu.fp32_precision) == users, *users)
"""


@pytest.mark.parametrize(
    ("setting", "users"),
    [
        ("torch.set_float32_matmul_precision('medium')", "tf32 bf16"),
        ("cuda.fp32_precision = 'tf32'", "tf32"),
    ],
)
@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch is older than 2.9")
def test_products_are_in_full_precision_for_a_while_whatever_the_user_set(setting, users):
    """In a process of its own: settings of one kind spoil those of the other for good."""
    code = SETTINGS.format(setting=setting)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    within, after = done.stdout.splitlines()
    assert within == "ieee ieee"
    assert after.startswith(f"True {users}")


def test_every_device_is_described():
    assert BACKEND.device_name("cpu") == "cpu"
    for name in BACKEND.devices():
        assert BACKEND.device_name(name)
