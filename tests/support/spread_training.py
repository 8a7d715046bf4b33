"""Trains compressed networks in one process and in all that torchrun started, and writes how far apart they come.

Run by `tests/torch/test_distributed.py`; argument: the file for the results.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from processes import leave
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import adntn
import adntn_torch
from adntn_torch.communication import Messages
from adntn_torch.distributed import ColwiseGenerated, RowwiseGenerated, replicate_cores

STEPS = 3
WIDTH, HIDDEN, OUTPUTS, ROWS = 32, 64, 4, 8
TOPOLOGIES = {
    "TTN": adntn.TTN.options(bond=4, leg=2),
    "AugmentedTTN": adntn.AugmentedTTN.options(bond=2, mixing_activation="tanh"),
    "MERA": adntn.MERA.options(bond=2),
}
SCHEDULES = {"TTN": "stream", "AugmentedTTN": "recompute", "MERA": "auto"}


def network(topology: str) -> nn.Sequential:
    """A generated layer up, one down, and a dense one; the same in every process, in double precision."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"topology": TOPOLOGIES[topology], "schedule": SCHEDULES[topology]}
    return nn.Sequential(
        adntn_torch.Linear(WIDTH, HIDDEN, seed=0, **options),
        nn.Tanh(),
        adntn_torch.Linear(HIDDEN, WIDTH, seed=1, **options),
        nn.Linear(WIDTH, OUTPUTS),
    ).double()


def data() -> tuple[Tensor, Tensor]:
    """Examples and what is wanted of them."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64)
    return x, torch.randn(ROWS, OUTPUTS, generator=generator, dtype=torch.float64)


@dataclass
class Trained:
    """The losses of a few steps, the gradients of the first, and the messages of the last."""

    losses: list[float]
    gradients: dict[str, Tensor]
    messages: Messages


def trained(model: nn.Module, x: Tensor, y: Tensor) -> Trained:
    """Train a model as users do, with clipping and Adam, whose divisor is large enough not to enlarge rounding."""
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01, eps=1e-2)
    found = Trained([], {}, Messages())
    for step in range(STEPS):
        optimiser.zero_grad()
        found.messages = Messages()
        with found.messages:
            loss = (model(x) - y).square().mean()
            loss.backward()
        if step == 0:
            names = (name.removeprefix("module.") for name, _ in model.named_parameters())
            parameters = zip(names, model.parameters(), strict=True)
            found.gradients = {name: whole(parameter.grad).clone() for name, parameter in parameters}
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        found.losses.append(loss.item())
    return found


@cache
def alone(topology: str) -> Trained:
    """Train a network in this process, with all examples."""
    return trained(network(topology), *data())


def whole(tensor: Any) -> Tensor:
    """Return all of a gradient."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def mesh() -> DeviceMesh:
    """Return all processes."""
    return init_device_mesh("cpu", (dist.get_world_size(),))


def fully_sharded(model: nn.Sequential) -> nn.Module:
    """FSDP2, layer by layer."""
    cores = replicate_cores(model)
    for layer in model:
        fully_shard(layer, ignored_params=cores)
    return fully_shard(model, ignored_params=cores)


def tensor_parallel(model: nn.Module) -> nn.Module:
    """Up by columns, down by rows, and a dense layer by torch's own style."""
    plan = {"0": ColwiseGenerated(), "2": RowwiseGenerated(), "3": ColwiseParallel(output_layouts=Replicate())}
    return parallelize_module(model, mesh(), plan)


def other_layouts(model: nn.Module) -> nn.Module:
    """The same with x and y divided between the layers in other ways."""
    plan = {
        "0": ColwiseGenerated(input_layouts=Shard(0), output_layouts=Replicate(), use_local_output=False),
        "2": RowwiseGenerated(input_layouts=Replicate(), output_layouts=Shard(0), use_local_output=False),
        "3": ColwiseParallel(input_layouts=Shard(0), output_layouts=Replicate()),
    }
    return parallelize_module(model, mesh(), plan)


#: How a network is spread, and whether each process then gets rows of x, and of y, of its own.
WAYS: dict[str, tuple[Callable[[Any], nn.Module], bool, bool]] = {
    "DDP": (DistributedDataParallel, True, True),
    "FSDP2": (fully_sharded, True, True),
    "tensor parallel": (tensor_parallel, False, False),
    "tensor parallel, other layouts": (other_layouts, True, False),
}


def compared(way: str, topology: str) -> dict[str, Any]:
    """Return how far a spread network comes from one in this process alone, and what was sent."""
    spread, divides_x, divides_y = WAYS[way]
    (x, y), rank, count = data(), dist.get_rank(), dist.get_world_size()
    together = network(topology)
    numbers = [layer.generator.parameters for layer in together if isinstance(layer, adntn_torch.Linear)]
    parameters = sum(parameter.numel() for parameter in together.parameters())
    expected = alone(topology)
    found = trained(
        spread(together), x.chunk(count)[rank] if divides_x else x, y.chunk(count)[rank] if divides_y else y
    )
    losses = torch.tensor(found.losses, dtype=torch.float64)
    dist.all_reduce(losses)
    of_gradients = [
        float((found.gradients[name] - gradient).norm() / gradient.norm())
        for name, gradient in expected.gradients.items()
    ]
    return {
        "losses": expected.losses,
        "error of losses": float((losses / count - torch.tensor(expected.losses)).abs().max()),
        "error of gradients": max(of_gradients),
        "messages": [message.size for message in found.messages.all],
        "cores": numbers,
        "parameters": parameters,
    }


def main(target: str) -> None:
    """Compare every way and topology."""
    torch.set_default_dtype(torch.float64)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    found = {way: {topology: compared(way, topology) for topology in TOPOLOGIES} for way in WAYS}
    if dist.get_rank() == 0:
        Path(target).write_text(json.dumps(found))
    leave()


if __name__ == "__main__":
    main(sys.argv[1])
