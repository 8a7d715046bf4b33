"""Trains a compressed network; in the job's first life the last process is killed midway. Writes both lives' losses.

Run by `tests/torch/test_distributed.py` under `torchrun --max-restarts=1`; arguments: a folder for the checkpoint, the
file for the results.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from processes import leave
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import adntn
import adntn_torch
from adntn_torch.training import read_checkpoint, save_checkpoint

STEPS, LAST_OF_FIRST_LIFE = 6, 3


def trained(checkpoint: Path | None) -> dict[str, Any]:
    """Return the losses of all steps, and the first step of this life; with a checkpoint, go on from it."""
    torch.manual_seed(0)
    layer = adntn_torch.Linear(32, 64, topology=adntn.MERA.options(bond=2), seed=0)
    model = DistributedDataParallel(nn.Sequential(layer, nn.Tanh(), nn.Linear(64, 4)))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    torch.manual_seed(dist.get_rank())  # other examples in each process
    losses: list[float] = []
    if checkpoint is not None and checkpoint.exists():
        saved = read_checkpoint(checkpoint)
        saved.restore(model, optimiser=optimiser)
        losses = saved.position["losses"]
    first = len(losses)
    for step in range(first, STEPS):
        if checkpoint is not None and step == LAST_OF_FIRST_LIFE and is_first_life() and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        loss = (model(torch.randn(8, 32)) - 1.0).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total = loss.detach()
        dist.all_reduce(total)
        losses.append(total.item())
        if checkpoint is not None:
            save_checkpoint(checkpoint, model, optimiser=optimiser, position={"losses": losses})
    return {"losses": losses, "first step": first}


def is_first_life() -> bool:
    """Return whether torchrun has not restarted the processes yet."""
    return os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"


if __name__ == "__main__":
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    found = {"disturbed": trained(Path(sys.argv[1]) / "checkpoint.pt"), "undisturbed": trained(None)}
    if dist.get_rank() == 0:
        Path(sys.argv[2]).write_text(json.dumps({**found, "first life": is_first_life()}))
    leave()
