"""Comparing entries in one run: times in turns in one fresh process, peak memory in a fresh process for each."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from adntn.benchmarking.case import Case
from adntn.benchmarking.contender import Entry, Ready, Task
from adntn.benchmarking.fresh import in_fresh_process
from adntn.benchmarking.measure import interleaved
from adntn.benchmarking.memory import Memory, measure, meter_of

#: What a case is shrunk to, so that libraries are loaded and warm before memory is counted.
SMALL_MATRIX, SMALL_KERNEL = (256, 256), (64, 64, 3, 3)


@dataclass(frozen=True)
class Prediction:
    """What the generator's report says that a task takes, apart from the product with x.

    Attributes:
        operations: multiplications, additions and pointwise maps.
        bytes_moved: read and written, if nothing stays in a cache.
        peak_bytes: held at once.
    """

    operations: int
    bytes_moved: int
    peak_bytes: int


@dataclass(frozen=True)
class Measurement:
    """What one entry took.

    Attributes:
        label, contender, case, task: the entry.
        parameters: how many numbers the contender learns.
        note: what the contender says about itself.
        seconds: the median of the samples; None if there is none.
        spread: their quartiles.
        memory: None if it was not measured.
        reason: why something is missing; empty if nothing is.
    """

    label: str
    contender: str
    case: Case
    task: Task
    parameters: int = 0
    note: str = ""
    seconds: float | None = None
    spread: tuple[float, float] | None = None
    memory: Memory | None = None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as JSON has it."""
        return {**asdict(self), "case": self.case.to_json()}

    @staticmethod
    def from_json(entry: Mapping[str, Any]) -> Measurement:
        """Return the measurement that `to_json` wrote."""
        given = dict(entry)
        given["case"] = Case.from_json(given["case"])
        given["spread"] = None if given["spread"] is None else tuple(given["spread"])
        given["memory"] = None if given["memory"] is None else Memory(**given["memory"])
        return Measurement(**given)


@dataclass(frozen=True)
class Comparison:
    """Measurements of one run.

    Attributes:
        title: what is compared.
        measurements: one for each entry, in their order.
        predictions: by label, for the entries of ours that generate a weight.
    """

    title: str
    measurements: tuple[Measurement, ...]
    predictions: Mapping[str, Prediction]

    def __getitem__(self, label: str) -> Measurement:
        return next(one for one in self.measurements if one.label == label)

    def seconds(self, label: str) -> float:
        """Return the median of an entry; NaN where there is none."""
        found = self[label].seconds
        return math.nan if found is None else found

    def memory(self, label: str) -> float:
        """Return the peak memory of an entry above what there was before it was built; NaN where there is none."""
        found = self[label].memory
        return math.nan if found is None else found.total

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON has it."""
        return {
            "title": self.title,
            "measurements": [one.to_json() for one in self.measurements],
            "predictions": {label: asdict(one) for label, one in self.predictions.items()},
        }

    @staticmethod
    def from_json(entry: Mapping[str, Any]) -> Comparison:
        """Return the comparison that `to_json` wrote."""
        measurements = tuple(map(Measurement.from_json, entry["measurements"]))
        predictions = {label: Prediction(**one) for label, one in entry["predictions"].items()}
        return Comparison(entry["title"], measurements, predictions)


def compare(
    title: str,
    entries: Sequence[Entry],
    *,
    threads: int,
    repeats: int = 7,
    time: bool = True,
    memory: Collection[str] | None = None,
) -> Comparison:
    """Return what the entries took, side by side in one run.

    Args:
        title: what is compared.
        entries: what to measure.
        threads: of the array libraries.
        repeats: samples of each time.
        time: whether times are measured.
        memory: labels of the entries whose peak memory is; None for all of them.

    Raises:
        ValueError: if two entries share a label.
    """
    labels = [entry.label for entry in entries]
    if len(set(labels)) < len(labels):
        raise ValueError(f"labels of entries must be unique, got {labels}")
    found = {one.label: Measurement(one.label, one.contender.name, one.case, one.task) for one in entries}
    if time:
        given = {"entries": [one.to_json() for one in entries], "repeats": repeats}
        try:
            answers = in_fresh_process(f"{__name__}:timed", given, threads=threads)
        except RuntimeError as error:  # the process died, as it does where memory runs out
            answers = {label: replace(one, reason=f"time: {error}").to_json() for label, one in found.items()}
        found |= {label: Measurement.from_json(answer) for label, answer in answers.items()}
    for entry in entries:
        if not found[entry.label].reason and (memory is None or entry.label in memory):
            found[entry.label] = _with_memory(found[entry.label], entry, threads)
    predictions = _predictions(entry for entry in entries if not found[entry.label].reason)
    return Comparison(title, tuple(found[label] for label in labels), predictions)


def timed(argument: Mapping[str, Any]) -> dict[str, Any]:
    """Return the measurements of the entries in `argument`, timed in turns; those that fail give their reason."""
    found: dict[str, Measurement] = {}
    ready: dict[str, Ready] = {}
    for given in argument["entries"]:
        entry = Entry.from_json(given)
        blank = Measurement(entry.label, entry.contender.name, entry.case, entry.task)
        try:
            made = entry.ready()
            made.call()
        except Exception as error:  # whatever a contender does
            found[entry.label] = replace(blank, reason=in_words(error))
            continue
        ready[entry.label] = made
        found[entry.label] = replace(blank, parameters=made.parameters, note=made.note)
    timings = interleaved({label: one.call for label, one in ready.items()}, repeats=argument["repeats"])
    for label, timing in timings.items():
        found[label] = replace(found[label], seconds=timing.median, spread=timing.spread)
    return {label: one.to_json() for label, one in found.items()}


def remembered(argument: Mapping[str, Any]) -> dict[str, Any]:
    """Return the memory, the parameters and the note of the entry in `argument`; or the reason why there are none."""
    entry = Entry.from_json(argument["entry"])
    small = replace(entry.case, shape=SMALL_KERNEL if entry.case.is_convolution else SMALL_MATRIX, batch=2, image=4)
    facts: dict[str, Any] = {}

    def build() -> Any:
        ready = entry.ready()
        facts.update(parameters=ready.parameters, note=ready.note)
        return ready.call

    try:
        replace(entry, case=small).ready().call()
        taken = measure(build, meter_of(entry.case.device))
    except Exception as error:  # whatever a contender does
        return {"reason": in_words(error)}
    return {"memory": asdict(taken), **facts}


def _with_memory(measurement: Measurement, entry: Entry, threads: int) -> Measurement:
    try:
        answer = in_fresh_process(f"{__name__}:remembered", {"entry": entry.to_json()}, threads=threads)
    except RuntimeError as error:
        return replace(measurement, reason=f"memory: {error}")
    if "reason" in answer:
        return replace(measurement, reason=f"memory: {answer['reason']}")
    return replace(
        measurement,
        memory=Memory(**answer["memory"]),
        parameters=answer["parameters"],
        note=answer["note"],
    )


def _predictions(entries: Iterable[Entry]) -> dict[str, Prediction]:
    """Return the report's costs for entries of ours, as the names of their setups say."""
    found = {}
    for entry in entries:
        if entry.contender.setup.endswith((":generated", ":applied")):
            report = entry.case.generator.report(entry.case.itemsize)
            costs = report.forward_and_backward if entry.task in ("gradients", "backward", "step") else report.forward
            found[entry.label] = Prediction(costs.operations, costs.bytes_moved, costs.peak_bytes)
    return found


def in_words(error: BaseException) -> str:
    r"""Return an error on one line of at most 200 characters.

    >>> in_words(ValueError("no\nroom"))
    'ValueError: no room'
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
