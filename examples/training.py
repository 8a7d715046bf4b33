"""Training one network: steps, schedule, evaluation, and checkpoints from which a run continues exactly.

Everything random in a step is a function of the seed and the step's number (which images, which shifts) or of torch's
own generator (dropout), whose state is kept with the checkpoint. So a run that is stopped between any two steps and
resumed gives the numbers that it would have given undisturbed.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from torch import Tensor, nn

from adntn_torch.training import parameter_groups, rate_factor, read_checkpoint, save_checkpoint
from data import Dataset

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A number that becomes small, from images, labels and what the network returns."""


def cross_entropy(images: Tensor, labels: Tensor, outputs: Tensor) -> Tensor:
    """Return the mean cross entropy of logits."""
    return nn.functional.cross_entropy(outputs, labels)


@dataclass(frozen=True)
class Recipe:
    """How every network of a comparison is trained, the same for all of them."""

    epochs: int = 6
    batch: int = 64
    rate: float = 1e-3
    """Peak learning rate of ordinary parameters."""
    core_rate: float = 3e-3
    """Peak learning rate of the cores of generated weights."""
    core_rates: Mapping[str, float] = field(default_factory=dict)
    """Peak learning rates of the cores in layers whose names match patterns, the first that does, in place of that."""
    weight_decay: float = 1e-2
    """Decay of ordinary weights; biases, normalisations and cores are left alone."""
    warmup: float = 0.15
    """Part of all steps in which the rates rise to their peak; then they fall along a cosine."""
    clip: float = 5.0
    """Largest norm of a step's whole gradient; a longer one is scaled down to it."""
    autocast: bool = False
    """Whether matrix products and convolutions round their inputs to bfloat16: faster where the processor has it."""
    seed: int = 0

    def steps_per_epoch(self, dataset: Dataset) -> int:
        """Return the number of full batches in the training images, at least one."""
        return max(1, len(dataset.train_labels) // self.batch)

    def steps(self, dataset: Dataset) -> int:
        """Return the number of steps of a whole run."""
        return self.epochs * self.steps_per_epoch(dataset)


@dataclass(frozen=True)
class Trained:
    """What a finished run left behind besides the network itself."""

    seconds: float
    losses: tuple[float, ...]
    """Mean training loss of every epoch that was finished with finite losses."""
    diverged: bool
    """Whether the loss stopped being a finite number, which ends a run early."""


class InterruptedRunError(Exception):
    """The user asked to stop, and a checkpoint was written."""


class Stop:
    """Whether the user has asked to stop."""

    requested = False


@contextmanager
def stop_on_interrupt() -> Iterator[Stop]:
    """Turn the first Ctrl-C into a request that is honoured between two steps; a second one stops at once.

    A request to terminate (as batch systems send before they kill) is treated like the first Ctrl-C.
    """
    stop = Stop()

    def request(number: int, frame: FrameType | None) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def train(
    network: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    *,
    job: str,
    checkpoint: Path,
    resume: bool,
    stop: Stop,
    on_step: Callable[[int, float, float], None] = lambda step, loss, seconds: None,
    objective: Objective = cross_entropy,
) -> Trained:
    """Train a network in place and return its history.

    Args:
        job: all that the run depends on, written into the checkpoint: one of another run is not resumed from.
        checkpoint: file that holds the state after every epoch, and at the step where `stop` was requested.
        resume: whether to go on from `checkpoint` where it belongs to this job.
        on_step: called with the steps done, the last loss and the seconds spent so far.
        objective: what becomes small.

    Raises:
        InterruptedRunError
        when `stop` was requested; the checkpoint is then on the disk.
    """
    torch.manual_seed(recipe.seed)
    optimiser = _optimiser(network, recipe)
    progress = _Progress()
    if resume:
        progress = _restore(checkpoint, job, network, optimiser) or progress
    started = time.monotonic() - progress.seconds
    per_epoch, steps = recipe.steps_per_epoch(dataset), recipe.steps(dataset)
    rising = max(1, round(recipe.warmup * steps))
    network.train()
    order = _order(dataset, recipe, progress.step // per_epoch)
    on_step(progress.step, math.nan, progress.seconds)
    while progress.step < steps and not progress.diverged:
        if stop.requested:
            _save(checkpoint, job, network, optimiser, progress)
            raise InterruptedRunError
        epoch, position = divmod(progress.step, per_epoch)
        if position == 0:
            order, progress.loss_sum = _order(dataset, recipe, epoch), 0.0
        rows = order[position * recipe.batch : (position + 1) * recipe.batch]
        images, labels = dataset.train_images[rows], dataset.train_labels[rows]
        images = augmented(images, dataset.shift, dataset.mirror, _generator(recipe.seed, "shift", progress.step))
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * rate_factor(progress.step, steps, rising)
        loss = _step(network, optimiser, (images, labels), recipe, objective)
        progress.step += 1
        progress.loss_sum += loss
        progress.diverged = not math.isfinite(loss)
        progress.seconds = time.monotonic() - started
        on_step(progress.step, loss, progress.seconds)
        if position == per_epoch - 1 and not progress.diverged:
            progress.losses.append(progress.loss_sum / per_epoch)
            if progress.step < steps:
                _save(checkpoint, job, network, optimiser, progress)
    network.eval()
    return Trained(time.monotonic() - started, tuple(progress.losses), progress.diverged)


def accuracy(network: nn.Module, images: Tensor, labels: Tensor, *, autocast: bool = False, batch: int = 256) -> float:
    """Return the part of the images that a network in evaluation mode classifies rightly."""
    network.eval()
    with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
        pairs = zip(torch.split(images, batch), torch.split(labels, batch), strict=True)
        right = sum(int((network(some).argmax(1) == wanted).sum()) for some, wanted in pairs)
    return right / len(labels)


def augmented(images: Tensor, shift: int, mirror: bool, generator: torch.Generator) -> Tensor:
    """Return the images, moved by up to `shift` pixels each way (zeros come in), half of them mirrored if wanted."""
    if not shift and not mirror:
        return images
    count, channels, height, width = images.shape
    padded = nn.functional.pad(images, [shift] * 4)
    moved = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator)
    mirrored = torch.randint(0, 2 if mirror else 1, (count, 1), generator=generator).bool()
    rows = moved[0] + torch.arange(height)
    columns = torch.arange(width).expand(count, width)
    columns = moved[1] + torch.where(mirrored, columns.flip(1), columns)
    images_at, channels_at = torch.arange(count), torch.arange(channels)
    return padded[
        images_at[:, None, None, None],
        channels_at[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def _step(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor],
    recipe: Recipe,
    objective: Objective,
) -> float:
    """Take one optimiser step and return the loss before it."""
    images, labels = batch
    optimiser.zero_grad(set_to_none=True)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.autocast):
        loss = objective(images, labels, network(images))
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    nn.utils.clip_grad_norm_(parameters, recipe.clip)
    optimiser.step()
    return float(loss.detach())


def _order(dataset: Dataset, recipe: Recipe, epoch: int) -> Tensor:
    """Return the order in which an epoch goes through the training images."""
    generator = _generator(recipe.seed, "order", epoch)
    return torch.randperm(len(dataset.train_labels), generator=generator)


def _generator(seed: int, purpose: str, number: int) -> torch.Generator:
    """Return a generator of its own for one purpose at one epoch or step."""
    entropy = np.random.SeedSequence([seed, number, *purpose.encode()])
    return torch.Generator().manual_seed(int(entropy.generate_state(1)[0]))


def _optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Return AdamW with its own rate for cores, and weight decay for ordinary matrices and kernels only."""
    groups = parameter_groups(
        network,
        cores={"peak": recipe.core_rate},
        others={"peak": recipe.rate, "weight_decay": recipe.weight_decay},
    )
    rates = {id(core): _core_rate(name, recipe) for name, core in network.named_parameters()}
    for cores in [group for group in groups if group["name"] == "cores"]:
        groups.remove(cores)
        for rate in dict.fromkeys(rates[id(core)] for core in cores["params"]):
            these = [core for core in cores["params"] if rates[id(core)] == rate]
            groups.append({**cores, "params": these, "peak": rate})
    # The fused step goes over millions of dense weights once instead of ten times.
    return torch.optim.AdamW(groups, fused=True)


def _core_rate(name: str, recipe: Recipe) -> float:
    """Return the peak rate of the core of this name, such as "classifier.0.cores.top"."""
    layer = name.partition(".cores.")[0]
    rates = (rate for pattern, rate in recipe.core_rates.items() if fnmatchcase(layer, pattern))
    return next(rates, recipe.core_rate)


@dataclass
class _Progress:
    """What was done so far; the one thing here that changes."""

    step: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    losses: list[float] = field(default_factory=list)
    diverged: bool = False


def _save(path: Path, job: str, network: nn.Module, optimiser: torch.optim.Optimizer, progress: _Progress) -> None:
    """Write a checkpoint, whole or not at all."""
    save_checkpoint(path, network, optimiser=optimiser, position={"job": job, **asdict(progress)})


def _restore(path: Path, job: str, network: nn.Module, optimiser: torch.optim.Optimizer) -> _Progress | None:
    """Load a checkpoint into the network and its optimiser; None where it is of another job or there is none."""
    if not path.is_file():
        return None
    checkpoint = read_checkpoint(path)
    progress = dict(checkpoint.position)
    if progress.pop("job", None) != job:
        return None
    checkpoint.restore(network, optimiser=optimiser)
    return _Progress(**progress)
