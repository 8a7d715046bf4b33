"""Layers of torch for the tests of schedules, and what the dense layers with their weights give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from helpers import reference_weight, relative_error
from torch import Tensor, nn

import adntn
import adntn_torch

TANH = adntn.TTN.options(bond=2, activation="tanh", last_activation="tanh")
#: The same with a weight that is linear in its last cores, as contracting needs.
LINEAR_AT_LAST = adntn.TTN.options(bond=2, activation="tanh")

#: The class, its arguments, and the shape of an input: weights of fewer and of more numbers than are made in one piece.
LARGE: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "Linear": ("Linear", {"in_features": 250, "out_features": 300}, (2, 3, 250)),
    "Conv1d": ("Conv1d", {"in_channels": 96, "out_channels": 140, "kernel_size": 5}, (2, 96, 9)),
    "Conv2d": (
        "Conv2d",
        {"in_channels": 64, "out_channels": 120, "kernel_size": 3, "stride": (2, 1), "padding": 1},
        (3, 64, 5, 4),
    ),
    "Conv2d, groups": (
        "Conv2d",
        {"in_channels": 128, "out_channels": 120, "kernel_size": 3, "groups": 2},
        (2, 128, 3, 4),
    ),
    "Conv2d, circular": (
        "Conv2d",
        {"in_channels": 64, "out_channels": 120, "kernel_size": 3, "padding": 1, "padding_mode": "circular"},
        (64, 4, 4),
    ),
    "Conv3d": (
        "Conv3d",
        {"in_channels": 32, "out_channels": 100, "kernel_size": (2, 3, 4), "bias": False},
        (1, 32, 3, 4, 5),
    ),
}


def linear(schedule: str, inputs: int = 256, outputs: int = 300, **keywords: Any) -> adntn_torch.Linear:
    """A layer whose weight, with these sizes, is made in tiles."""
    torch.manual_seed(0)  # of the bias
    given = {
        "topology": LINEAR_AT_LAST if schedule == "contract" else TANH,
        "seed": 0,
        "dtype": torch.float64,
    } | keywords
    return adntn_torch.Linear(inputs, outputs, schedule=schedule, **given)


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def differentiated(layer: nn.Module, x: Tensor, run: Callable[[Tensor], Tensor] | None = None) -> dict[str, Tensor]:
    """The output and all gradients of a loss that is not linear in it."""
    layer.zero_grad()
    x = x.detach().requires_grad_()
    y = (layer if run is None else run)(x)
    y.sin().sum().backward()
    gradients = {name: one.grad.clone() for name, one in layer.named_parameters() if one.grad is not None}
    return {"y": y.detach(), "x": x.grad, **gradients}


def dense(layer: adntn_torch.GeneratedLayer, x: Tensor) -> dict[str, Tensor]:
    """The same by torch's own layer, whose weight einsum made; its gradient goes into the cores by torch's own AD."""
    kind = getattr(nn, type(layer).__name__)
    arguments = {name: getattr(layer, name) for name in layer.dense_arguments}
    twin = kind(**arguments, bias=layer.bias is not None, dtype=torch.float64)
    cores = {name: core.detach().double().requires_grad_() for name, core in layer.cores.items()}
    arrays = {name: core.detach().numpy() for name, core in cores.items()}
    with torch.no_grad():
        twin.weight.copy_(torch.from_numpy(reference_weight(layer.generator, arrays)))
        if layer.bias is not None:
            twin.bias.copy_(layer.bias)
    found = differentiated(twin, x.double())
    bars = torch.autograd.grad(layer.generator.weight(cores), list(cores.values()), found.pop("weight"))
    return found | {f"cores.{name}": bar for name, bar in zip(cores, bars, strict=True)}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], within: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape, name
        wide = torch.complex128 if tensor.is_complex() else torch.float64
        assert relative_error(found[name].to(wide), tensor.to(wide)) <= within, name
