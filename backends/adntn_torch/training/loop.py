"""Stages of a training, run one after another, and resumed exactly where they were interrupted.

Nothing here is needed to train a compressed network, which is an `nn.Module` as any other: the rest of this package
works in a loop of one's own, too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DistributedSampler

from adntn.commands.output import shown_progress
from adntn_torch.training.checkpoints import (
    Checkpoint,
    CheckpointError,
    Checkpoints,
    random_state,
    restore_random_state,
)
from adntn_torch.training.fitting import fit_layers
from adntn_torch.training.metrics import append_line, keep_lines
from adntn_torch.training.place import Place, Plan
from adntn_torch.training.processes import gathered, is_first
from adntn_torch.training.stages import Epoch, FitStage, Stage, checked_stages, on_device

#: Shows how many steps of how many are done, and of what.
Show = Callable[[int, int, str], None]


def run(
    model: nn.Module,
    stages: Sequence[Stage | FitStage],
    batches: Iterable[Any],
    *,
    checkpoints: Checkpoints | None = None,
    metrics: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = False,
) -> tuple[Epoch, ...]:
    """Train a model in place, stage after stage; return what came of each epoch.

    >>> batches = [(torch.ones(8, 4), torch.zeros(8, 2))] * 5
    >>> objective = lambda batch, outputs: nn.functional.mse_loss(outputs, batch[1])
    >>> stage = Stage("task", objective, lambda model: torch.optim.SGD(model.parameters(), lr=0.1), epochs=2)
    >>> first, second = run(nn.Linear(4, 2), [stage], batches)
    >>> (second.stage, second.epoch, second.step), second.loss < first.loss
    (('task', 2, 10), True)

    A resumed run ends with the numbers of one that was never interrupted, to the bit where the machine computes the
    same twice: model, optimiser, rates and random numbers are put back, and the batches of the epoch that were done are
    passed over. They must come as they did, which depends on random numbers at most (as in a `DataLoader`). Stages may
    be longer now if they had not ended, and new ones may follow; with another plan, nothing is resumed.

    Of several processes (torchrun), all run this, with a model under DistributedDataParallel. The first writes metrics,
    of its own losses, and checkpoints, with the random numbers of all. What it validates counts for all.

    Args:
        model: trained where it is; batches are brought to its device. Its mode afterwards is the one before.
        stages: with different names.
        batches: gone through once in every epoch, such as a `DataLoader`. By default each is (inputs, targets) or a
            mapping; `Stage.forward` and the objectives may know others.
        checkpoints: where, and how often, the whole state is written; also at the end of each stage.
        metrics: file to which each step and each epoch appends a line of JSON.
        resume: go on from the last checkpoint; the first is written before the first step. Files of an earlier run are
            an error without it, and so are metrics where there is no checkpoint that they belong to.
        progress: show a bar, if the standard error is a terminal.

    Raises:
        FloatingPointError: if an objective is not finite (but with float16, where such steps are left out).
        CheckpointError: if the last checkpoint is damaged, or of another network, optimiser or plan.
        FileExistsError: if there are checkpoints or metrics already, and `resume` is not set or finds no checkpoint.
        TypeError, ValueError: if an argument has no such value, or there are no batches.
    """
    stages = checked_stages(stages)
    plan = Plan.of(stages, batches)
    checkpoint = _last(checkpoints, metrics, resume)
    found = gathered(None if checkpoint is None else checkpoint.path.name)  # before any process writes
    if len({*found}) > 1:
        raise CheckpointError(f"the processes find different checkpoints, {found}: give a folder that all of them see")
    running = _Run(model, plan, batches, checkpoints=checkpoints, metrics=metrics, checkpoint=checkpoint)
    mode = model.training
    try:
        with shown_progress("training") if progress and is_first() else nullcontext() as show:
            while (place := running.place).stage < len(stages):
                stage = stages[place.stage]
                if isinstance(stage, FitStage):
                    running.fit(stage)
                else:
                    running.train(stage, plan.stages[stage.name], show)
                running.next_stage()
    finally:
        model.train(mode)
    return tuple(running.place.history)


def _last(checkpoints: Checkpoints | None, metrics: str | os.PathLike[str] | None, resume: bool) -> Checkpoint | None:
    """Return the checkpoint to go on from, after a look at what an earlier run has left."""
    if resume:
        if checkpoints is None:
            raise ValueError("resume=True needs checkpoints, to go on from")
        if (latest := checkpoints.latest()) is not None:
            return latest
        advice = f"{str(checkpoints.folder)!r} has no checkpoint to go on from: give its folder"
    else:
        advice = "give resume=True"
    left = [] if checkpoints is None else checkpoints.paths()
    if metrics is not None and Path(metrics).exists():
        left.append(Path(metrics))
    if left:
        raise FileExistsError(f"{str(left[-1])!r} is of an earlier run: {advice}, or another place")
    return None


class _Run:
    """A model on its way through the stages."""

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        batches: Iterable[Any],
        *,
        checkpoints: Checkpoints | None,
        metrics: str | os.PathLike[str] | None,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.model, self.batches, self.checkpoints, self.metrics = model, batches, checkpoints, metrics
        self.plan = plan
        self.generator = getattr(batches, "generator", None)
        self.device = next((one.device for one in model.parameters()), torch.device("cpu"))
        self.place, self.checkpoint = Place(), checkpoint
        if checkpoint is not None:
            self.place = Place.of(checkpoint, plan)
            checkpoint.restore(model, generator=self.generator)
            if metrics is not None and is_first():
                keep_lines(metrics, self.place.lines)
        else:
            self._save()  # so that whoever starts again finds one, however early the end

    def fit(self, stage: FitStage) -> None:
        """Fit the layers to their weights."""
        errors = fit_layers(
            self.model,
            stage.targets,
            adam=stage.adam,
            lbfgs=stage.lbfgs,
            progress=lambda layer, error: self._write(stage.name, layer=layer, relative_error=error),
        )
        self._finish_epoch(stage.name, sum(error**2 for error in errors.values()), None)

    def train(self, stage: Stage, length: int, show: Show | None) -> None:
        """Take the steps that are left of a stage."""
        place = self.place
        tools: dict[str, Any] = {"optimiser": (optimiser := stage.optimiser_for(self.model))}
        tools["schedule"] = stage.schedule(optimiser, length)
        tools["scaler"] = torch.amp.GradScaler(self.device.type, enabled=stage.autocast is torch.float16)
        if self.checkpoint is not None and place.step > 0:
            self.checkpoint.restore(self.model, **tools, generator=self.generator)
        while place.batch > 0 or not self._is_done(stage, length):
            for batch in self._rest_of_epoch() if place.step < length else ():
                loss = self._step(stage, batch, **tools)
                if show is not None:
                    show(place.step, length, f"{stage.name}, loss {loss:.4g}")
                if self._is_due():
                    self._save(**tools)
                if place.step == length:
                    break
            if place.batch == 0:
                raise ValueError(f"there are no batches in epoch {place.epoch + 1} of stage {stage.name!r}")
            self._validate_epoch(stage)
            if self.checkpoints is not None and self.checkpoints.every is None:
                self._save(**tools)
        if place.best is not None:
            self.model.load_state_dict(place.best["model"])

    def next_stage(self) -> None:
        """Leave a stage."""
        place = self.place
        self.place = Place(place.stage + 1, total=place.total, lines=place.lines, history=place.history)
        self.checkpoint = None
        self._save()

    def _is_done(self, stage: Stage, length: int) -> bool:
        out_of_patience = stage.patience is not None and self.place.worse >= stage.patience
        return self.place.step >= length or out_of_patience

    def _is_due(self) -> bool:
        every = None if self.checkpoints is None else self.checkpoints.every
        return every is not None and self.place.total % every == 0

    def _save(self, **tools: Any) -> None:
        if self.checkpoints is not None:
            position = self.place.position(self.plan)
            self.checkpoints.save(self.place.total, self.model, **tools, generator=self.generator, position=position)

    def _rest_of_epoch(self) -> Iterator[Any]:
        """Yield the batches of the epoch that were not yet done.

        Those that were are made once more and passed over, from the random numbers with which the epoch began.
        """
        place = self.place
        if isinstance(sampler := getattr(self.batches, "sampler", None), DistributedSampler):
            sampler.set_epoch(place.epoch)
        now = random_state(self.generator)
        if place.epoch_random is None:
            place.epoch_random = now
            yield from self.batches
            return
        restore_random_state(place.epoch_random, self.generator)
        batches = iter(self.batches)
        for _ in range(place.batch):
            next(batches, None)
        restore_random_state(now, self.generator)
        yield from batches

    def _step(
        self,
        stage: Stage,
        batch: Any,
        *,
        optimiser: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        scaler: torch.amp.GradScaler,
    ) -> float:
        """Take one step and return the loss before it."""
        place = self.place
        self.model.train()
        optimiser.zero_grad()
        batch = on_device(batch, self.device)
        with torch.autocast(self.device.type, stage.autocast, enabled=stage.autocast is not None):
            loss: Tensor = stage.objective(batch, stage.forward(self.model, batch))
        value = float(loss.detach())
        if not math.isfinite(value) and not scaler.is_enabled():
            raise FloatingPointError(f"the objective of stage {stage.name!r} is {value} at step {place.step + 1}")
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        rates = {str(group.get("name", n)): float(group["lr"]) for n, group in enumerate(optimiser.param_groups)}
        norms = {}
        if stage.clip is not None:
            scaler.unscale_(optimiser)
            learning = [one for group in optimiser.param_groups for one in group["params"]]
            norms["gradient_norm"] = _finite(float(nn.utils.clip_grad_norm_(learning, stage.clip)))
        scaler.step(optimiser)
        scale = scaler.get_scale()
        scaler.update()
        if scaler.get_scale() >= scale:  # it falls where a step was left out
            schedule.step()
        place.step, place.total, place.batch = place.step + 1, place.total + 1, place.batch + 1
        place.loss += value
        self._write(stage.name, loss=_finite(value), rates=rates, **norms)
        return value

    def _validate_epoch(self, stage: Stage) -> None:
        place = self.place
        value = None
        if stage.validate is not None:
            self.model.eval()
            with torch.no_grad():
                value = gathered(float(stage.validate(self.model)))[0]
            comparable = math.inf if math.isnan(value) else value
            if place.best is None or comparable < place.best["value"]:
                place.best, place.worse = {"value": comparable, "model": deepcopy(dict(self.model.state_dict()))}, 0
            else:
                place.worse += 1
        self._finish_epoch(stage.name, place.loss / place.batch, value)

    def _finish_epoch(self, stage: str, loss: float, validation: float | None) -> None:
        place = self.place
        place.history.append(Epoch(stage, place.epoch + 1, place.total, loss, validation))
        values = {} if validation is None else {"validation": _finite(validation)}
        self._write(stage, mean_loss=_finite(loss), **values)
        place.epoch, place.batch, place.loss, place.epoch_random = place.epoch + 1, 0, 0.0, None

    def _write(self, stage: str, **values: Any) -> None:
        if self.metrics is not None:
            place = self.place
            if is_first():
                append_line(self.metrics, {"stage": stage, "epoch": place.epoch + 1, "step": place.total, **values})
            place.lines += 1


def _finite(value: float) -> float | None:
    """Return a number as JSON can write it."""
    return value if math.isfinite(value) else None
