"""Stages of a training as data: what is made small, by which optimiser, for how long."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from adntn_torch.choose import some
from adntn_torch.training.objectives import Forward, Objective, forward
from adntn_torch.training.rates import warm_up


@dataclass(frozen=True)
class Stage:
    """Steps of an optimiser with one objective.

    >>> from torch.nn import functional
    >>> from adntn_torch.training import task
    >>> Stage("fine-tune", task(functional.cross_entropy), lambda model: torch.optim.Adam(model.parameters()), epochs=3)
    Stage('fine-tune', epochs=3)

    Attributes:
        name: as it stands in metrics and messages.
        objective: a function of (batch, outputs) that is to become small; see `objectives`.
        optimiser: makes the optimiser for the model, such as AdamW of `parameter_groups`. It takes a step for each
            batch (gradients are not accumulated over several), and is none that needs a closure, such as L-BFGS.
        epochs, steps: how long, in passes over the batches or in steps; one of them.
        schedule: makes torch's scheduler for an optimiser and a number of steps; by default `warm_up`.
        forward: makes the outputs from the model and a batch.
        clip: length to which longer gradients (of all parameters together) are scaled down; None leaves them.
        autocast: number type of mixed precision, torch.bfloat16 or torch.float16 (with its losses scaled); None for
            that of the parameters.
        validate: a function of the model, in evaluation mode, whose value is to become small; run after each epoch. The
            stage ends with the state that had the smallest value.
        patience: number of epochs without a smaller value after which the stage ends early.

    Raises:
        ValueError: if there are both epochs and steps or none, one of the numbers has no such value, or patience has
            nothing to watch.
        TypeError: if `optimiser` is an optimiser; when it runs, if it does not make one that can be used.
    """

    name: str
    objective: Objective = field(repr=False)
    optimiser: Callable[[nn.Module], Optimizer] = field(repr=False)
    epochs: int | None = None
    steps: int | None = None
    schedule: Callable[[Optimizer, int], LRScheduler] = warm_up
    forward: Forward = forward
    clip: float | None = None
    autocast: torch.dtype | None = None
    validate: Callable[[nn.Module], float] | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.optimiser, Optimizer):
            raise TypeError(
                f"stage {self.name!r}: optimiser must be a function that makes it for a model, such as lambda model:"
                f" {type(self.optimiser).__name__}(model.parameters(), ...); got one that was made already"
            )
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"stage {self.name!r} needs either epochs or steps, got {self.epochs} and {self.steps}")
        for name in ("epochs", "steps", "patience"):
            number = getattr(self, name)
            if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
                raise ValueError(f"stage {self.name!r}: {name} must be a whole number of at least 1, got {number!r}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"stage {self.name!r}: clip must be above 0, got {self.clip}")
        if self.autocast not in {None, torch.bfloat16, torch.float16}:
            raise ValueError(f"stage {self.name!r}: autocast must be torch.bfloat16 or float16, got {self.autocast}")
        if self.patience is not None and self.validate is None:
            raise ValueError(f"stage {self.name!r}: patience needs validate, a function of the model, to watch")

    def __repr__(self) -> str:
        length = f"epochs={self.epochs}" if self.steps is None else f"steps={self.steps}"
        return f"Stage({self.name!r}, {length})"

    def optimiser_for(self, model: nn.Module) -> Optimizer:
        """Return the optimiser.

        Raises:
            TypeError: if it is none, or its `step` needs an argument.
        """
        optimiser = self.optimiser(model)
        if not isinstance(optimiser, Optimizer):
            raise TypeError(f"stage {self.name!r}: optimiser must make an Optimizer, got {type(optimiser).__name__}")
        try:
            signature(optimiser.step).bind()
        except TypeError as error:
            raise TypeError(
                f"stage {self.name!r}: {type(optimiser).__name__} cannot step by itself ({error}): take another, or a"
                " loop of your own"
            ) from error
        return optimiser

    def length(self, batches: object) -> int:
        """Return the number of steps.

        Raises:
            TypeError, ValueError: if it depends on the number of batches, and these have none or are none.
        """
        if self.steps is not None:
            return self.steps
        if not isinstance(batches, Sized):
            raise TypeError(f"stage {self.name!r} has epochs, but batches no length: give steps instead")
        if not len(batches):
            raise ValueError(f"there are no batches for stage {self.name!r}")
        return (self.epochs or 0) * len(batches)


@dataclass(frozen=True)
class FitStage:
    """A fit of each generated layer to a weight, by `fit_layers`: no batches are needed.

    Attributes:
        targets: a weight for each layer by name, such as `dense_weights` returns.
        adam, lbfgs: numbers of steps for each layer, as in `adntn_torch.fit`.
        name: as it stands in metrics and messages.

    Raises:
        ValueError: if a number of steps is negative.
    """

    targets: Mapping[str, Tensor] = field(repr=False)
    adam: int = 0
    lbfgs: int = 100
    name: str = "fit"

    def __post_init__(self) -> None:
        for name in ("adam", "lbfgs"):
            if getattr(self, name) < 0:
                raise ValueError(f"stage {self.name!r}: {name} must be at least 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class Epoch:
    """What came of one pass over the batches, or of one fit.

    Attributes:
        stage: its name.
        epoch: its number in the stage, from 1.
        step: steps done in all stages so far.
        loss: mean of the objective; of a fit, the sum of the layers' squared relative errors.
        validation: what `validate` returned, if there is one.
    """

    stage: str
    epoch: int
    step: int
    loss: float
    validation: float | None = None


def checked_stages(stages: Sequence[Stage | FitStage]) -> tuple[Stage | FitStage, ...]:
    """Return the stages, if there are any and their names differ."""
    for stage in stages:
        if not isinstance(stage, Stage | FitStage):
            raise TypeError(f"stages must be of Stage and FitStage, got {type(stage).__name__}")
    names = [stage.name for stage in stages]
    if not names:
        raise ValueError("stages must have at least one stage")
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"stages must have different names, got {some(twice)} more than once")
    return tuple(stages)


def on_device(batch: Any, device: torch.device) -> Any:
    """Return a batch with its tensors on a device, in lists, tuples and mappings as they were."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {name: on_device(value, device) for name, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(on_device(value, device) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(on_device(value, device) for value in batch)
    return batch
