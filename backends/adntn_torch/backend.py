"""What torch adds to what autoray knows of it: devices and automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from adntn.backends import Backend
from adntn.generator import Generator


def devices() -> tuple[str, ...]:
    """Return the devices that are there: "cpu", "cuda:0" ..., "mps"."""
    cuda = tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    return ("cpu", *cuda, *(("mps",) if torch.backends.mps.is_available() else ()))


def native_vjp(
    generator: Generator, cores: Mapping[str, Tensor]
) -> tuple[Tensor, Callable[[Tensor], dict[str, Tensor]]]:
    """Return the weight and its pullback by torch's autograd; the pullback can be called again."""
    leaves = {name: core.detach().requires_grad_() for name, core in cores.items()}
    with torch.enable_grad():
        weight = generator.weight(leaves)

    def pullback(weight_bar: Tensor) -> dict[str, Tensor]:
        gradients = torch.autograd.grad(weight, tuple(leaves.values()), weight_bar, retain_graph=True)
        return dict(zip(leaves, gradients, strict=True))

    return weight.detach(), pullback


BACKEND = Backend("torch", devices=devices, device=torch.device, native_vjp=native_vjp)
