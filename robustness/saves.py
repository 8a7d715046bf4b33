"""A process that saves all the time is killed at random moments: what it had saved must be there, and whole.

The process saves the same number everywhere, step after step, in three kinds of file, and says so after each step.
Every number that is saved at step n is n, so that a file which mixes two steps is known. After SIGKILL, what is there
is looked at, and a new process goes on from it.
"""

from __future__ import annotations

import itertools
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import nn

import adntn
from adntn_torch import adapt, load_adapter, save_adapter
from adntn_torch.training import Checkpoints

#: Large enough for a kill to come often while a file is written.
GENERATOR = adntn.LowRank((1024, 256), rank=64)
DELTA = adntn.LowRank.options(rank=64)
FEATURES = 512
#: Seconds that the first step may take.
PATIENCE = 300
#: A process is killed within so many times what its first step has taken.
LIFE = 2.0


Save = Callable[[Path, int], None]
"""What saves a step in a folder."""


class LostError(AssertionError):
    """What was saved is not there, or is not whole."""


def save_all(folder: Path, step: int) -> None:
    """Save a step: a checkpoint of training, generated weights, an adapter."""
    with torch.no_grad():
        model = nn.Linear(FEATURES, FEATURES)
        _fill(model.parameters(), step)
        optimiser = torch.optim.SGD(model.parameters())
        Checkpoints(folder / "checkpoints").save(step, model, optimiser=optimiser, position={"step": step})
        cores = {name: np.full(shape, step, "float32") for name, shape in GENERATOR.core_shapes.items()}
        adntn.save(folder / "weights.safetensors", {"a": (GENERATOR, cores)})
        adapted = nn.Sequential(nn.Linear(FEATURES, FEATURES))
        adapt(adapted, ["0"], topology=DELTA)
        _fill((one for one in adapted.parameters() if one.requires_grad), step)
        save_adapter(adapted, folder / "adapter")


def saved(folder: Path) -> dict[str, int]:
    """Return the step of each kind of file that is there; -1 where there is none.

    Raises:
        LostError: if a file is not whole.
    """
    found = {"checkpoint": -1, "weights": -1, "adapter": -1}
    checkpoint = Checkpoints(folder / "checkpoints").latest()
    if checkpoint is not None:
        model = nn.Linear(FEATURES, FEATURES)
        checkpoint.restore(model)
        found["checkpoint"] = _step_of(model.parameters())
        if checkpoint.position["step"] != found["checkpoint"]:
            raise LostError(f"{checkpoint.position} is with the numbers of step {found['checkpoint']}")
    if (path := folder / "weights.safetensors").exists():
        found["weights"] = _step_of(adntn.load(path, backend="torch")["a"][1].values())
    if (path := folder / "adapter" / "adapter_model.safetensors").exists():
        adapted = nn.Sequential(nn.Linear(FEATURES, FEATURES))
        load_adapter(adapted, path.parent, trainable=True)
        found["adapter"] = _step_of(one for one in adapted.parameters() if one.requires_grad)
    return found


def interrupted(folder: Path, kills: int, *, seed: int = 0, save: Save = save_all) -> dict[str, Any]:
    """Return how often a process was killed, and in what state the files were.

    Args:
        folder: an empty one.
        kills: how often.
        seed: of the moments.
        save: a function of a module, which the other process imports.

    Raises:
        LostError: if something that had been saved is not there, or not whole.
    """
    random, cut_short = Random(seed), 0
    found = saved(folder)
    for _ in range(kills):
        said = _until_killed(folder, max(found.values()) + 1, random.uniform(0, LIFE), save)
        before, found = found, saved(folder)
        for kind, step in found.items():
            if step < max(said, before[kind]):
                raise LostError(f"{kind}: step {max(said, before[kind])} had been saved, there is step {step}")
        parts = list(folder.rglob("*.part"))
        cut_short += bool(parts)
        for part in parts:
            part.unlink()
    return {"kills": kills, "kills while a file was written": cut_short, "steps saved": max(found.values()) + 1}


def _until_killed(folder: Path, first: int, life: float, save: Save) -> int:
    """Save steps in a process of its own until it is killed; return the last step that it has said to be saved.

    It is killed some time after its first step: the time that this one took, times `life`.
    """
    # Forked from a server that has imported all this and has no threads yet, it begins at once and holds no lock.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    hears, says = context.Pipe(duplex=False)
    process = context.Process(target=_save_for_ever, args=(folder, first, save, says), daemon=True)
    process.start()
    says.close()
    with hears:
        said: list[float] = []
        with suppress(EOFError):  # of a process that is there no more
            if hears.poll(PATIENCE):
                said.append(hears.recv())
                time.sleep(life * said[0])
        process.kill()
        process.join()
        if not said or process.exitcode != -signal.SIGKILL:
            raise LostError("the process that saves has failed, or saved nothing")
        with suppress(EOFError):
            while True:
                said.append(hears.recv())
    return first + len(said) - 1


def _save_for_ever(folder: Path, first: int, save: Save, says: Connection) -> None:
    """Save one step after the other; say of each how many seconds it has taken."""
    torch.set_num_threads(1)
    for step in itertools.count(first):
        start = time.monotonic()
        save(folder, step)
        says.send(time.monotonic() - start)


def _fill(tensors: Iterable[torch.Tensor], value: int) -> None:
    for tensor in tensors:
        tensor.fill_(value)


def _step_of(tensors: Iterable[torch.Tensor]) -> int:
    """Return the number that all numbers are.

    Raises:
        LostError: if they are not one number.
    """
    values = {float(value) for tensor in tensors for value in (tensor.detach().min(), tensor.detach().max())}
    if len(values) != 1:
        raise LostError(f"numbers of different steps are in one file: {sorted(values)}")
    return int(values.pop())
