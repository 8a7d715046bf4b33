"""What torch's processes send; torchrun starts it for `benchmarks.communication`. Argument: the file for results."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import adntn_torch
from adntn_torch.communication import Messages
from adntn_torch.distributed import ColwiseGenerated, RowwiseGenerated, replicate_cores
from benchmarks.spread import SETTING, Sent, sent

Spread = Callable[[nn.Sequential], nn.Module]


def network(compressed: bool) -> nn.Sequential:
    """Return the network; the same in every process."""
    torch.manual_seed(0)
    width = SETTING.width
    if not compressed:
        return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
    first, second = (adntn_torch.Linear(width, width, topology=SETTING.topology, seed=seed) for seed in range(2))
    return nn.Sequential(first, nn.ReLU(), second)


def trained(model: nn.Module, x: Tensor) -> tuple[list[float], list[int]]:
    """Return the losses of some steps and the sizes of the messages of the last; the network is to give x back."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    losses, messages = [], Messages()
    for _ in range(SETTING.steps):
        messages = Messages()
        with messages:
            loss = (model(x) - x).square().mean()
            optimiser.zero_grad()
            loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses, [message.size for message in messages.all]


def fully_sharded(model: nn.Sequential) -> nn.Module:
    """FSDP2, layer by layer."""
    generated = any(isinstance(layer, adntn_torch.Linear) for layer in model)
    cores = replicate_cores(model) if generated else set()
    for layer in model:
        fully_shard(layer, ignored_params=cores)
    fully_shard(model, ignored_params=cores)
    return model


def tensor_parallel(model: nn.Sequential) -> nn.Module:
    """The first layer by rows of its weight, the second by columns."""
    generated = isinstance(model[0], adntn_torch.Linear)
    first, second = (ColwiseGenerated, RowwiseGenerated) if generated else (ColwiseParallel, RowwiseParallel)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return parallelize_module(model, mesh, {"0": first(), "2": second()})


@dataclass(frozen=True)
class Engine:
    """How a network is spread, and whether each process has examples of its own."""

    spread: Spread
    divides: bool


ENGINES = {
    "DDP": Engine(DistributedDataParallel, True),
    "FSDP2": Engine(fully_sharded, True),
    "tensor parallel": Engine(tensor_parallel, False),
}


def measured(engine: Engine, compressed: bool) -> Sent:
    """Train a network spread over all processes, and in this one alone."""
    count, rank = dist.get_world_size(), dist.get_rank()
    x = torch.randn(SETTING.rows, SETTING.width, generator=torch.Generator().manual_seed(1))
    alone, together = network(compressed), network(compressed)
    expected, _ = trained(alone, x)
    losses, sizes = trained(engine.spread(together), x.chunk(count)[rank] if engine.divides else x)
    mean = torch.tensor(losses)
    dist.all_reduce(mean)
    parameters = sum(parameter.numel() for parameter in alone.parameters())
    return sent(parameters, sizes, (mean / count).tolist(), expected)


def main(target: str) -> None:
    """Measure every engine, dense and compressed."""
    dist.init_process_group("gloo")
    found: dict[str, Any] = {
        name: {"dense": asdict(measured(engine, False)), "compressed": asdict(measured(engine, True))}
        for name, engine in ENGINES.items()
    }
    if dist.get_rank() == 0:
        Path(target).write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
