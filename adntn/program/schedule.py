"""Which schedule runs a layer: predicted from the machine's roofline and a budget of memory (mathematics, section 4).

| schedule | forward | backward | holds |
|---|---|---|---|
| materialise | makes W, multiplies | multiplies, pulls dW back | W from forward to backward, dW |
| recompute | makes W, multiplies | makes W again, multiplies, pulls dW back | nothing in between, then W and dW |
| stream | tile by tile | tile by tile | one tile |
| contract | contracts x with the cores | the adjoint of that | intermediate results of the size of x |

What each would take is in `forecast`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

from adntn.machine import Machine
from adntn.program.contract import check_contracts
from adntn.program.forecast import contracted_forecast, dense_forecast, forecasts
from adntn.program.task import DenseForecast, Forecast, ScheduleName, Task

SCHEDULES: tuple[ScheduleName, ...] = get_args(ScheduleName)

#: "stream" and "recompute" take a plan that holds this share of the weight beyond what they must, if one does.
LEAN = 1 / 8
#: So many bytes may be held without a limit, even if that is more than the above or than a dense layer: a small weight
#: in small tiles takes far longer, and saves what nobody misses.
FEW_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Choice:
    """The schedule that was taken, and why.

    Attributes:
        taken: the forecast of the schedule that was taken.
        reason: why, in words.
        forecasts: of each schedule that the network allows the fastest within the limit, or the one that takes the
            least memory.
        limit: how many bytes a schedule may take; None if there is no limit, or nothing keeps to it.
        dense: what a layer takes that stores its weight.
    """

    taken: Forecast
    reason: str
    forecasts: tuple[Forecast, ...]
    limit: int | None
    dense: DenseForecast

    @property
    def costs(self) -> dict[str, str]:
        """What each schedule would take, and a dense layer, in words."""
        return {one.schedule: f"{one.cost}{self._verdict(one)}" for one in self.forecasts} | {
            "a dense layer": self.dense.cost
        }

    def _verdict(self, forecast: Forecast) -> str:
        return ", over the limit" if self.limit is not None and forecast.bytes > self.limit else ""

    def __str__(self) -> str:
        rows = (f"  {name}: {cost}" for name, cost in self.costs.items())
        return "\n".join([f"{self.taken.schedule}, {self.reason}", *rows])


def rounded(rows: int) -> int:
    """Return the power of two that is not below so many rows: a choice serves all numbers between two of them.

    >>> rounded(0), rounded(1), rounded(33)
    (1, 1, 64)

    Raises:
        ValueError: if that is no number of rows.
    """
    if not hasattr(rows, "__index__") or rows < 0:
        raise ValueError(f"rows must be an integer, and not negative, got {rows!r}")
    return 1 << max(rows - 1, 0).bit_length()


def checked_schedule(schedule: str, memory_limit: int | None) -> ScheduleName:
    """Return the name of a schedule.

    Raises:
        ValueError, TypeError: if there is none of that name, or the limit is no positive number of bytes.
    """
    for name in SCHEDULES:
        if name == schedule:
            break
    else:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
    if memory_limit is not None and (isinstance(memory_limit, bool) or not hasattr(memory_limit, "__index__")):
        raise TypeError(f"memory_limit must be an integer number of bytes, or None, got {memory_limit!r}")
    if memory_limit is not None and memory_limit <= 0:
        raise ValueError(f"memory_limit must be a positive number of bytes, or None, got {memory_limit!r}")
    return name


@lru_cache(maxsize=4096)
def choose(task: Task, machine: Machine, schedule: ScheduleName = "auto", memory_limit: int | None = None) -> Choice:
    """Return the schedule for a task: the named one, or the fastest within the limit.

    Args:
        task: what is to be done.
        machine: how fast the array library is.
        schedule: "auto", or the one to take.
        memory_limit: bytes beyond cores, x, y and their gradients; None allows "auto" what the dense layer takes
            (`Task.dense_bytes`). Without one, "stream" and "recompute" take the fastest of the plans that hold no more
            than 1/8 of the weight beyond what they must. Few bytes are allowed in any case.

    Raises:
        ValueError, TypeError: if there is no such schedule, the network does not allow it, the limit is no positive
            number of bytes, or nothing fits into it; the error names the least that would.
    """
    checked_schedule(schedule, memory_limit)
    if schedule == "contract":
        check_contracts(task.network)
    if (schedule == "stream" and not task.streams) or (schedule == "contract" and not task.contracts):
        raise ValueError(f"schedule must not be {schedule!r} for this layer")
    allowed = _allowed(task, schedule) if memory_limit is None else memory_limit
    # what "stream" may hold beyond what it must is no limit for the others
    limit = allowed if schedule == "auto" else memory_limit
    every = forecasts(task, machine)
    if schedule == "contract" and all(one.schedule != "contract" for one in every):
        every = (*every, contracted_forecast(task, machine))
    named = [one for one in every if schedule in {"auto", one.schedule}]
    taken = _best(named, allowed)
    fits = allowed is None or taken.bytes <= allowed
    if not fits and memory_limit is not None:
        raise ValueError(
            f"memory_limit={memory_limit:,} bytes is too little for the shape {task.network.layout.shape}, up to"
            f" {task.rows:,} rows and schedule {schedule!r}: the least that works is {taken.bytes:,} ({taken.schedule})"
        )
    plans_of = {name: [one for one in every if one.schedule == name] for name in SCHEDULES}
    best = {name: _best(plans, limit) for name, plans in plans_of.items() if plans} | {taken.schedule: taken}
    reason = _reason(schedule, memory_limit, allowed, fits)
    return Choice(taken, reason, tuple(best.values()), limit if fits else None, dense_forecast(task, machine))


def _best(forecasts: Sequence[Forecast], limit: int | None) -> Forecast:
    """Return the fastest within a limit, or what takes the least memory where nothing is."""
    within = [one for one in forecasts if limit is None or one.bytes <= limit]
    return min(within, key=lambda one: one.seconds) if within else min(forecasts, key=lambda one: one.bytes)


def _allowed(task: Task, schedule: ScheduleName) -> int | None:
    """Return the bytes that a schedule may take where the user sets no limit."""
    if schedule == "auto":
        return max(task.dense_bytes, FEW_BYTES)
    beyond = max(int(LEAN * task.weight_bytes), FEW_BYTES)
    if schedule == "recompute":
        return task.weight_bytes * (2 if task.training else 1) + beyond
    return beyond if schedule == "stream" else None


def _reason(schedule: ScheduleName, memory_limit: int | None, allowed: int | None, fits: bool) -> str:
    if schedule != "auto":
        return "as asked for"
    if not fits:
        return "which takes the least memory"
    limit = f"the dense layer's {allowed:,} bytes"
    if memory_limit is not None:
        limit = f"the limit of {allowed:,} bytes"
    elif allowed == FEW_BYTES:
        limit = f"the {allowed:,} bytes that every layer may take"
    return f"the fastest predicted within {limit}"
