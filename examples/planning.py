"""How much of a plan of many training runs is left, as a progress bar."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich import progress as bars
from rich.console import Console

Job = tuple[str, str]
"""A network and a version of it."""


@dataclass(frozen=True)
class Plan:
    """All jobs in their order, each of so many steps."""

    jobs: tuple[Job, ...]
    steps: int

    def remaining(self, seconds: dict[Job, float], current: Job | None, left: int) -> float | None:
        """Return the seconds that are still to come, None while nothing was measured.

        >>> plan = Plan((("a", "dense"), ("a", "TTN"), ("b", "dense"), ("b", "TTN")), steps=10)
        >>> plan.remaining({("a", "dense"): 10.0, ("a", "TTN"): 30.0}, None, 0)
        40.0

        Args:
            seconds: what whole jobs take, where it was measured.
            current: the job that is running, which `seconds` must contain.
            left: its steps that are still to be done.
        """
        if not seconds:
            return None
        begun = set(seconds)
        coming = sum(self._expected(seconds, job) for job in self.jobs if job not in begun)
        return coming + (seconds[current] * left / self.steps if current is not None else 0.0)

    def _expected(self, seconds: dict[Job, float], job: Job) -> float:
        """Return what a job may take: as the same version of another network, or else the average job."""
        same = [taken for (_, version), taken in seconds.items() if version == job[1]]
        known = same or list(seconds.values())
        return sum(known) / len(known)


class Progress:
    """A bar over the whole plan with the remaining time; quiet where the output is no terminal."""

    def __init__(self, plan: Plan, seconds: dict[Job, float], console: Console) -> None:
        self._plan, self._seconds = plan, dict(seconds)
        self._bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            bars.TextColumn("{task.fields[loss]}"),
            bars.TimeElapsedColumn(),
            bars.TextColumn("{task.fields[remaining]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        total = len(plan.jobs) * plan.steps
        self._task = self._bars.add_task("", total=total, loss="", remaining="", completed=len(seconds) * plan.steps)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def step(self, job: Job, step: int, loss: float, seconds: float) -> None:
        """Show that a job has done so many of its steps in so many seconds."""
        measured = {**self._seconds, job: seconds * self._plan.steps / step} if step else self._seconds
        left = self._plan.remaining(measured, job if step else None, self._plan.steps - step)
        self._bars.update(
            self._task,
            completed=len(self._seconds) * self._plan.steps + step,
            description=f"{job[0]}, {job[1]}, step {step:,} of {self._plan.steps:,}",
            loss="" if math.isnan(loss) else f"loss {loss:.3f}",
            remaining="" if left is None else f"{clock(left)} left",
        )

    def finished(self, job: Job, seconds: float) -> None:
        """Remember what a job took."""
        self._seconds[job] = seconds


def clock(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds.

    >>> clock(59.6), clock(3723)
    ('1:00', '1:02:03')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
