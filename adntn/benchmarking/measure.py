"""Times of calls that take turns, so that whatever else the machine does meets all of them alike."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Call = Callable[[], object]
Clock = Callable[[], float]

#: How long one sample should take at least, in seconds: short calls are repeated within a sample.
LEAST_SECONDS = 0.01
#: The most calls in one sample.
MOST_CALLS = 10_000


@dataclass(frozen=True)
class Timing:
    """Seconds for one call, sample by sample.

    >>> Timing((3.0, 1.0, 2.0, 9.0)).median
    2.5
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """The lower and the upper quartile."""
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high


def interleaved(
    calls: Mapping[str, Call],
    *,
    repeats: int = 7,
    least_seconds: float = LEAST_SECONDS,
    clock: Clock = time.perf_counter,
) -> dict[str, Timing]:
    """Return the timing of each call: one sample of each in turn, `repeats` times over.

    >>> ticks = iter(range(100))
    >>> interleaved({"a": list, "b": dict}, repeats=3, clock=lambda: float(next(ticks)))["b"].seconds
    (1.0, 1.0, 1.0)

    Every call is warmed up with two calls, of which the second says how many fill a sample. Python's garbage collector
    rests meanwhile, as in `timeit`.

    Args:
        calls: what to time, by name.
        repeats: samples of each.
        least_seconds: how long a sample takes at least.
        clock: returns the time in seconds.

    Raises:
        ValueError: if `repeats` is below 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    counts = {name: _count(call, least_seconds, clock) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeats):
            for name, call in calls.items():
                seconds[name].append(_sample(call, counts[name], clock))
    finally:
        if collecting:
            gc.enable()
    return {name: Timing(tuple(samples)) for name, samples in seconds.items()}


def _count(call: Call, least_seconds: float, clock: Clock) -> int:
    """Return how many calls fill a sample."""
    call()
    once = _sample(call, 1, clock)
    return min(MOST_CALLS, max(1, math.ceil(least_seconds / once))) if once > 0 else MOST_CALLS


def _sample(call: Call, count: int, clock: Clock) -> float:
    """Return the seconds that one of `count` calls took."""
    started = clock()
    for _ in range(count):
        call()
    return (clock() - started) / count
