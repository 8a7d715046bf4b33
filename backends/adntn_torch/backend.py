"""What torch adds to what autoray knows of it: devices and automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from adntn.backends import Backend
from adntn.generator import Generator


def devices() -> tuple[str, ...]:
    """Return the devices that are there: "cpu", "cuda:0" ..., "mps"."""
    cuda = tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    return ("cpu", *cuda, *(("mps",) if torch.backends.mps.is_available() else ()))


def device_name(name: str) -> str:
    """Return what a device is, such as "NVIDIA H100 80GB HBM3"; its name where torch knows no more."""
    return torch.cuda.get_device_name(name) if torch.device(name).type == "cuda" else name


@contextmanager
def full_precision() -> Iterator[None]:
    """A context in which float32 is multiplied in float32, whatever the user allows."""
    backends: Any = torch.backends
    full: list[tuple[Any, str, Any]] = [(backends.cuda.matmul, "allow_tf32", False)]
    if hasattr(backends.cuda.matmul, "fp32_precision"):  # since torch 2.9, which refuses to mix both kinds of setting
        full = [(own.matmul, "fp32_precision", "ieee") for own in (backends.cuda, backends.mkldnn)]
    users = [getattr(products, setting) for products, setting, _ in full]
    for products, setting, value in full:
        setattr(products, setting, value)
    try:
        yield
    finally:
        for (products, setting, _), value in zip(full, users, strict=True):
            setattr(products, setting, value)


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


BACKEND = Backend(
    "torch",
    devices=devices,
    device=torch.device,
    native_vjp=native_vjp,
    full_precision=full_precision,
    device_name=device_name,
    threads=torch.get_num_threads,
)
