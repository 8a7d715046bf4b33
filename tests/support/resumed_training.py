"""Trains in stages in all processes that torchrun started, at once, and interrupted and resumed; writes what came.

Run by `tests/torch/test_distributed.py`; arguments: a folder for checkpoints and metrics, the file for the results.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from processes import leave
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

import adntn
import adntn_torch
from adntn_torch.training import Checkpoints, Stage, parameter_groups, run

STOP = 5  # in the midst of the second epoch


class Noisy(Dataset[Tensor]):
    """Examples with noise of the process's own random numbers; remembers which were asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Tensor:
        self.asked.append(index)
        return torch.full((32,), index / 24) + torch.rand(32) + np.random.rand() + random.random()


class InterruptedRunError(Exception):
    """The processes came to their end."""


def network() -> nn.Module:
    """A compressed network with dropout, the same in every process."""
    torch.manual_seed(0)
    layer = adntn_torch.Linear(32, 64, topology=adntn.MERA.options(bond=2), seed=0)
    model = DistributedDataParallel(nn.Sequential(layer, nn.Tanh(), nn.Dropout(0.3), nn.Linear(64, 4)))
    torch.manual_seed(dist.get_rank())
    np.random.seed(dist.get_rank())
    random.seed(dist.get_rank())
    return model


def stage(stop: int | None = None) -> Stage:
    """Three epochs of three steps, of which each process validates by another number."""
    taken = iter(range(100))

    def objective(batch: Any, outputs: Tensor) -> Tensor:
        if next(taken) == stop:
            raise InterruptedRunError
        return outputs.square().mean()

    def optimiser(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameter_groups(model, cores={"lr": 1e-2}))

    validate: Callable[[nn.Module], float] = lambda model: float(torch.rand(()))  # noqa: E731
    return Stage("task", objective, optimiser, epochs=3, validate=validate, patience=3)


def batches(data: Noisy) -> DataLoader[Tensor]:
    """Each process's own part of the examples, in another order in each epoch."""
    return DataLoader(data, batch_size=4, sampler=DistributedSampler(data, shuffle=True, seed=1))


def state(model: nn.Module) -> dict[str, Any]:
    """All that must be as in the run that was not interrupted, in this process."""
    numbers = {"torch": torch.rand(()).item(), "numpy": np.random.rand(), "python": random.random()}
    return {"parameters": [one.detach().tolist() for one in model.parameters()], **numbers}


def main(folder: Path) -> dict[str, Any]:
    """Return what each process found."""
    data = Noisy()
    model = network()
    whole = run(model, [stage()], batches(data), metrics=folder / "whole.jsonl")
    found = {"whole": state(model), "history": [asdict(epoch) for epoch in whole], "asked": data.asked}
    arguments: dict[str, Any] = {"checkpoints": Checkpoints(folder / "steps", every=2), "metrics": folder / "own.jsonl"}
    try:
        run(network(), [stage(STOP)], batches(Noisy()), **arguments)
    except InterruptedRunError:
        model = network()
        torch.manual_seed(77)
        resumed = run(model, [stage()], batches(Noisy()), **arguments, resume=True)
        found |= {"resumed": state(model), "resumed history": [asdict(epoch) for epoch in resumed]}
    return found


if __name__ == "__main__":
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, main(Path(sys.argv[1])))
    if dist.get_rank() == 0:
        Path(sys.argv[2]).write_text(json.dumps(everyone))
    leave()
