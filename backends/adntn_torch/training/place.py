"""Where a training is in its stages, as plain data for its checkpoints, and whether another can go on from there."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import asdict, dataclass, field
from typing import Any

from adntn_torch.training.checkpoints import Checkpoint, CheckpointError
from adntn_torch.training.processes import gathered, own, processes
from adntn_torch.training.stages import Epoch, FitStage, Stage


@dataclass(frozen=True)
class Plan:
    """What a training will do.

    Attributes:
        stages: their numbers of steps by their names; 0 for a fit.
        batches: how many an epoch has; None if they have no length.
        processes: how many train together.
    """

    stages: dict[str, int]
    batches: int | None
    processes: int

    @classmethod
    def of(cls, stages: Sequence[Stage | FitStage], batches: object) -> Plan:
        """Return the plan of `run`.

        Raises:
            TypeError, ValueError: see `Stage.length`.
        """
        lengths = {stage.name: stage.length(batches) if isinstance(stage, Stage) else 0 for stage in stages}
        return cls(lengths, len(batches) if isinstance(batches, Sized) else None, processes())

    def difference(self, saved: Plan, *, stage: int, batch: int) -> str:
        """Return why this plan cannot go on from a stage and a batch of another; stages may be longer, or more."""
        if not saved.stages or [*self.stages][: len(saved.stages)] != [*saved.stages]:
            return f"is of a training in the stages {[*saved.stages]}, not {[*self.stages]}"
        if batch > 0 and saved.batches != self.batches:
            return f"was saved in an epoch of {saved.batches} batches; here it has {self.batches}"
        if batch > 0 and saved.processes != self.processes:
            return f"was saved in mid-epoch by {saved.processes} processes; here they are {self.processes}"
        for number, (name, steps) in enumerate(saved.stages.items()):
            here = self.stages[name]
            if number < stage and here != steps:
                return f"has stage {name!r} done, of {steps} steps; here it has {here}: to train on, add a stage"
            if number == stage and here < steps:
                return f"is in stage {name!r} of {steps} steps; here it has only {here}"
        return ""


@dataclass
class Place:
    """Where a training is: what changes beside the model, the optimiser and the random numbers."""

    stage: int = 0
    epoch: int = 0  # that were finished in the stage
    batch: int = 0  # done in the epoch
    step: int = 0  # done in the stage
    total: int = 0  # steps done in all stages
    lines: int = 0  # of metrics
    loss: float = 0.0  # sum over the epoch
    best: dict[str, Any] | None = None  # the smallest validation so far, and the model's state there
    worse: int = 0  # epochs since
    epoch_random: dict[str, Any] | None = None  # the random numbers before the epoch's first batch
    history: list[Epoch] = field(default_factory=list)

    def position(self, plan: Plan) -> dict[str, Any]:
        """Return it as plain data: the random numbers of all processes, of the rest those of the one that asks."""
        history, randoms = [asdict(epoch) for epoch in self.history], gathered(self.epoch_random)
        return {**vars(self), "history": history, "epoch_random": randoms, "plan": asdict(plan)}

    @classmethod
    def of(cls, checkpoint: Checkpoint, plan: Plan) -> Place:
        """Return the place where a checkpoint was written.

        Raises:
            CheckpointError: if the plan cannot go on from there.
        """
        saved = dict(checkpoint.position)
        try:
            then = Plan(**saved.pop("plan"))
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{str(checkpoint.path)!r} was not written by run") from error
        if problem := plan.difference(then, stage=saved["stage"], batch=saved["batch"]):
            raise CheckpointError(f"{str(checkpoint.path)!r} {problem}")
        history = [Epoch(**epoch) for epoch in saved["history"]]
        return cls(**{**saved, "history": history, "epoch_random": own(saved["epoch_random"])})
