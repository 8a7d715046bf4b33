"""Measuring: samples take turns, the median is taken, memory that is there is seen, processes are fresh."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from adntn.benchmarking import Timing, interleaved
from adntn.benchmarking.fresh import in_fresh_process
from adntn.benchmarking.memory import Memory, ProcessMeter, measure

MEBIBYTE = 2**20


class Clock:
    """A clock that only calls move forward."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_samples_take_turns() -> None:
    clock, order = Clock(), list[str]()

    def call(name: str, seconds: float) -> None:
        clock.now += seconds
        order.append(name)

    calls = {"a": lambda: call("a", 1.0), "b": lambda: call("b", 2.0), "c": lambda: call("c", 3.0)}
    found = interleaved(calls, repeats=3, least_seconds=0.5, clock=clock)
    assert order == [*"aabbcc", *"abc" * 3]  # two calls of each to warm up, then in turns
    assert {name: timing.seconds for name, timing in found.items()} == {
        "a": (1.0,) * 3,
        "b": (2.0,) * 3,
        "c": (3.0,) * 3,
    }


def test_the_median_forgets_what_happened_once() -> None:
    clock = Clock()
    lengths: Iterator[float] = iter([1.0, 1.0, 1.0, 500.0, 3.0, 2.0, 1.0])

    def call() -> None:
        clock.now += next(lengths)

    timing = interleaved({"a": call}, repeats=5, least_seconds=0.5, clock=clock)["a"]
    assert timing.seconds == (1.0, 500.0, 3.0, 2.0, 1.0)
    assert timing.median == 2.0
    assert timing.spread == (1.0, 3.0)


@pytest.mark.parametrize(("seconds", "calls"), [(0.001, 10), (0.004, 3), (0.02, 1)])
def test_short_calls_fill_a_sample_and_are_counted_one_by_one(seconds: float, calls: int) -> None:
    clock, count = Clock(), [0]

    def call() -> None:
        clock.now += seconds
        count[0] += 1

    timing = interleaved({"a": call}, repeats=2, least_seconds=0.01, clock=clock)["a"]
    assert count[0] == 2 + 2 * calls
    assert timing.seconds == pytest.approx((seconds, seconds))


def test_one_sample_has_no_spread() -> None:
    assert Timing((2.0,)).spread == (2.0, 2.0)


def test_no_samples_are_an_error() -> None:
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        interleaved({"a": list}, repeats=0)


class Counter:
    """A meter whose bytes are what a test says."""

    def __init__(self, readings: list[int], peak: int) -> None:
        self.readings, self.highest, self.resets = readings, peak, 0

    def now(self) -> int:
        return self.readings.pop(0)

    def reset_peak(self) -> None:
        self.resets += 1

    def peak(self) -> int:
        return self.highest


def test_memory_is_what_is_held_and_what_a_second_call_adds() -> None:
    built, called = [], []

    def build():
        built.append(1)
        return lambda: called.append(1)

    meter = Counter([100, 130, 200], peak=450)
    found = measure(build, meter)
    assert found == Memory(held=70, above=250, kept=30)
    assert found.total == 320
    assert (len(built), len(called), meter.resets) == (2, 3, 1)


def allocating(argument: dict[str, int]) -> dict[str, int]:
    """Run in a fresh process: hold some memory, and take more in each call."""

    def build():
        held = np.ones(argument["held"] * MEBIBYTE, dtype=np.uint8)
        return lambda: (held, np.ones(argument["above"] * MEBIBYTE, dtype=np.uint8).sum())

    found = measure(build, ProcessMeter())
    return {"held": found.held, "above": found.above, "kept": found.kept}


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory of a process is measured on Linux only")
@pytest.mark.parametrize(("held", "above"), [(64, 0), (0, 64), (32, 96)])
def test_memory_of_a_known_size_is_seen(held: int, above: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    found = in_fresh_process("test_measure:allocating", {"held": held, "above": above}, threads=1)
    assert found["held"] / MEBIBYTE == pytest.approx(held, abs=4)
    assert found["above"] / MEBIBYTE == pytest.approx(above, abs=4)
    assert found["kept"] / MEBIBYTE < 4


def environment(name: str) -> str | None:
    """Run in a fresh process."""
    print("whatever a library prints")
    return os.environ.get(name)


def failing(argument: object) -> None:
    """Run in a fresh process."""
    raise MemoryError("83 GB")


def test_a_fresh_process_has_the_threads_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    assert in_fresh_process("test_measure:environment", "OMP_NUM_THREADS", threads=3) == "3"


def test_idle_threads_sleep_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert in_fresh_process("test_measure:environment", "OMP_WAIT_POLICY", threads=1) == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert in_fresh_process("test_measure:environment", "OMP_WAIT_POLICY", threads=1) == "ACTIVE"


def test_a_process_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    with pytest.raises(RuntimeError, match="MemoryError: 83 GB"):
        in_fresh_process("test_measure:failing", None, threads=1)
