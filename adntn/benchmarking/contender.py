"""Who computes, as pure data: a contender names the function that sets it up, so that a fresh process can find it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from adntn.benchmarking.case import Case
from adntn.benchmarking.fresh import named

#: What is measured:
#: the weight, newly made; the weight, into a buffer that is there; the weight and dL/d(core) for a given dL/dW;
#: y = layer(x), without gradients; y, dL/dx and the gradient of every parameter; the same and the optimiser's step.
Task = Literal["weight", "weight into a buffer", "gradients", "forward", "backward", "step"]
TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True)
class Ready:
    """A contender set up for a case.

    Attributes:
        call: computes once, and returns when the result is there.
        parameters: how many numbers it learns; 0 where there are none.
        note: what a reader should know, such as the rank that was chosen.
    """

    call: Callable[[], object]
    parameters: int = 0
    note: str = ""


@dataclass(frozen=True)
class Contender:
    """Someone who can compute some tasks.

    Attributes:
        name: for tables.
        setup: MODULE:FUNCTION of a function from a case, a task and the options to a `Ready`; whatever it raises is the
            reason why the contender is left out.
        tasks: what it can do.
        options: keywords of that function.
    """

    name: str
    setup: str
    tasks: tuple[Task, ...]
    options: tuple[tuple[str, Any], ...] = ()

    def ready(self, case: Case, task: Task) -> Ready:
        """Return the contender set up for a case.

        Raises:
            ValueError: if it does not do the task.
        """
        if task not in self.tasks:
            raise ValueError(f"does not do {task!r}, only {', '.join(self.tasks)}")
        ready: Ready = named(self.setup)(case, task, **dict(self.options))
        return ready


@dataclass(frozen=True)
class Entry:
    """One line of a comparison: who, what, and the task.

    Attributes:
        label: its name in the comparison, unique there.
        contender: who.
        case: what.
        task: the task.
    """

    label: str
    contender: Contender
    case: Case
    task: Task

    def ready(self) -> Ready:
        """Return the contender set up."""
        return self.contender.ready(self.case, self.task)

    def to_json(self) -> dict[str, Any]:
        """Return the entry as JSON has it."""
        return {**asdict(self), "case": self.case.to_json()}

    @staticmethod
    def from_json(entry: dict[str, Any]) -> Entry:
        """Return the entry that `to_json` wrote."""
        contender = dict(entry["contender"])
        contender["tasks"] = tuple(contender["tasks"])
        contender["options"] = tuple((name, value) for name, value in contender["options"])
        return Entry(entry["label"], Contender(**contender), Case.from_json(entry["case"]), entry["task"])


def entries(contenders: tuple[Contender, ...], case: Case, task: Task) -> tuple[Entry, ...]:
    """Return an entry for each contender that does the task."""
    return tuple(Entry(one.name, one, case, task) for one in contenders if task in one.tasks)
