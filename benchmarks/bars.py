"""The bars we set ourselves, each a function: what is measured, and the ratio that must not be exceeded.

A bar is given `compare`, which measures entries side by side; so the arithmetic here can be tested without a clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from adntn.benchmarking import Case, Comparison, Entry
from adntn.benchmarking.contender import Contender, Task
from adntn.benchmarking.contenders import DENSE, DENSE_FUSED, MUTABLE, copy_on, generator_on, layer, tanh_on
from adntn.benchmarking.table import seconds, size
from benchmarks.cases import ACTIVATIONS_AT_THE_END, BONDS, SHAPES, SIZES, SQUARE, TOPOLOGIES
from benchmarks.contenders import FACTORIZED, NAIVE, RECONSTRUCTED, TRAIN


@dataclass(frozen=True)
class Wanted:
    """What is to be compared: whether times are, and the labels of the entries whose memory is."""

    title: str
    entries: tuple[Entry, ...]
    time: bool = True
    memory: tuple[str, ...] = ()


Compare = Callable[[Wanted], Comparison]


@dataclass(frozen=True)
class Row:
    """One check.

    Attributes:
        bar: its number.
        case: what was computed.
        what: what is compared with what.
        measured: ours; NaN where it could not be measured.
        reference: what it is compared with.
        limit: the largest ratio of the two that meets the bar; None where there is none.
        unit: "s", "B" or "".
        reason: why there is no number.
        predicted: what the generator's report foresaw.
    """

    bar: int
    case: str
    what: str
    measured: float
    reference: float
    limit: float | None
    unit: str = "s"
    reason: str = ""
    predicted: str = ""

    @property
    def ratio(self) -> float:
        """Measured by reference."""
        return self.measured / self.reference if self.reference else math.nan

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None where there is no limit or no number."""
        return None if self.limit is None or math.isnan(self.ratio) else self.ratio <= self.limit

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON has it, with null for numbers that are missing."""
        numbers = {"measured": self.measured, "reference": self.reference, "ratio": self.ratio}
        known = {name: None if math.isnan(value) else value for name, value in numbers.items()}
        return {**asdict(self), **known, "met": self.met}

    @staticmethod
    def from_json(entry: dict[str, Any]) -> Row:
        """Return the row that `to_json` wrote."""
        given = {name: value for name, value in entry.items() if name not in ("ratio", "met")}
        for name in ("measured", "reference"):
            given[name] = math.nan if given[name] is None else given[name]
        return Row(**given)

    def shown(self, value: float) -> str:
        """Return one of its numbers with the unit."""
        if math.isnan(value):
            return ""
        return {"s": seconds, "B": size}.get(self.unit, "{:.3g}".format)(value)


@dataclass(frozen=True)
class Scope:
    """How much of a bar is measured.

    Attributes:
        shape: of the square weights.
        topologies, bonds, batches, ends: of the cases; `ends` are last activations.
        shapes: all shapes of the list.
        sizes: of the weights that grow.
        giant: the shape of a layer whose dense weight fits into no budget.
        device, dtype: where, and of what.
    """

    shape: tuple[int, ...] = SQUARE
    topologies: tuple[str, ...] = TOPOLOGIES
    bonds: tuple[int, ...] = BONDS
    batches: tuple[int, ...] = (1, 32, 256, 1024, 4096)
    ends: tuple[str, ...] = ACTIVATIONS_AT_THE_END
    shapes: tuple[tuple[int, ...], ...] = SHAPES
    sizes: tuple[tuple[int, ...], ...] = SIZES
    giant: tuple[int, ...] = (65_536, 65_536)
    device: str = "cpu"
    dtype: str = "float32"

    def cases(self, **fixed: Any) -> Iterator[Case]:
        """Yield the square case with each topology and bond."""
        for topology in self.topologies:
            for bond in self.bonds:
                yield Case(
                    **{
                        "shape": self.shape,
                        "topology": topology,
                        "bond": bond,
                        "device": self.device,
                        "dtype": self.dtype,
                        **fixed,
                    }
                )


#: As a look: small, and of each kind one.
SHORT = Scope(
    shape=(1024, 1024),
    topologies=("TTN",),
    bonds=(2,),
    batches=(1, 32),
    ends=("identity",),
    shapes=SHAPES[:1],
    sizes=SIZES[:4],
    giant=(8192, 8192),
)
FULL = Scope()

Bar = Callable[[Compare, Scope], Iterator[Row]]

#: Tasks of bars 4 and 7.
TRAINING: tuple[Task, ...] = ("forward", "backward")
GENERATING: tuple[Task, ...] = ("weight into a buffer", "gradients")
#: Two calls of the same function measured in turns differ by this much on a machine that does nothing else.
NOISE = 1.05


def generating(compare: Compare, scope: Scope) -> Iterator[Row]:
    """Yield bar 1: generating W into a held buffer, beside copying and tanh, and beside tensorly-torch."""
    task: Task = "weight into a buffer"
    for library in MUTABLE if scope.device == "cpu" else ("torch",):
        ours, copy, tanh = generator_on(library), copy_on(library), tanh_on(library)
        for bond in scope.bonds:
            for end in scope.ends:
                cases = {
                    topology: Case(
                        scope.shape, topology, bond, last_activation=end, device=scope.device, dtype=scope.dtype
                    )
                    for topology in scope.topologies
                }
                first = next(iter(cases.values()))
                found = compare(
                    Wanted(
                        f"bar 1, {library}: {first}",
                        (
                            Entry("copy", copy, first, task),
                            Entry("tanh", tanh, first, task),
                            *(Entry(topology, ours, case, task) for topology, case in cases.items()),
                        ),
                    )
                )
                floor, limit, words = found.seconds("copy"), 4.0, "one copy"
                if end == "tanh":
                    floor, limit, words = floor + found.seconds("tanh"), 1.5, "one copy and one tanh"
                tree = found.seconds("TTN")
                yield _row(1, found, "TTN", f"W into a buffer on {library} by {words}", floor, limit=limit)
                for topology in scope.topologies[1:]:
                    yield _row(1, found, topology, f"W into a buffer on {library} by the TTN's", tree, limit=2.5)
    for case in scope.cases(activation="identity"):
        entries = (
            Entry("ours, into a buffer", generator_on("torch"), case, task),
            Entry("ours, newly made", generator_on("torch"), case, "weight"),
            *(Entry(one.name, one, case, "weight") for one in RECONSTRUCTED),
        )
        found = compare(Wanted(f"bar 1, linear: {case}", entries))
        for label in ("ours, into a buffer", "ours, newly made"):
            for rival in RECONSTRUCTED:
                what = f"W {label.removeprefix('ours, ')} by {_sized(found, rival)}"
                most = None if rival == TRAIN else 1 / 8  # a tensor train is no matrix there: it has no to_matrix()
                yield _row(1, found, label, what, found.seconds(rival.name), limit=most)


def differentiating(compare: Compare, scope: Scope) -> Iterator[Row]:
    """Yield bar 2: W and all gradients, beside W alone; peak memory above W and dL/dW."""
    for library in MUTABLE if scope.device == "cpu" else ("torch",):
        ours = generator_on(library)
        for end in scope.ends:
            for case in scope.cases(last_activation=end):
                entries = (
                    Entry("gradients", ours, case, "gradients"),
                    Entry("weight", ours, case, "weight"),
                    Entry("weight into a buffer", ours, case, "weight into a buffer"),
                )
                found = compare(Wanted(f"bar 2, {library}: {case}", entries, memory=("gradients",)))
                for label, words in (("weight", "W newly made"), ("weight into a buffer", "W into a buffer")):
                    what = f"W and gradients on {library} by {words}"
                    yield _row(2, found, "gradients", what, found.seconds(label), limit=4.0)
                above = found.memory("gradients") - 2 * case.weight_bytes
                what = f"peak memory above W and dL/dW on {library} by W"
                yield _row(2, found, "gradients", what, case.weight_bytes, limit=0.25, measured=above, unit="B")


def training(compare: Compare, scope: Scope) -> Iterator[Row]:
    """Yield bar 3: a training step, streamed beside naive autograd, and as the library chooses beside dense layers."""
    ours: tuple[Contender, ...] = (layer("stream"), layer("auto"))
    for end in scope.ends:
        for batch in scope.batches:
            for case in scope.cases(last_activation=end, batch=batch):
                everybody = (*ours, NAIVE, DENSE, DENSE_FUSED)
                entries = tuple(Entry(one.name, one, case, "step") for one in everybody)
                found = compare(Wanted(f"bar 3: {case}", entries, memory=("adntn, stream",)))
                above = found.memory("adntn, stream") - 2 * (case.x_bytes + case.y_bytes)
                what = "stream: peak memory above x, dL/dx, y and dL/dy by W"
                yield _row(3, found, "adntn, stream", what, case.weight_bytes, limit=1 / 8, measured=above, unit="B")
                naive = found.seconds(NAIVE.name)
                yield _row(3, found, "adntn, stream", "stream: step by naive autograd's", naive, limit=1.0)
                if batch <= 32:
                    limit = 1.0 if batch == 32 else None
                    dense = found.seconds(DENSE.name)
                    yield _row(3, found, "adntn, auto", "auto: step by the dense layer's, Adam", dense, limit=limit)
                limit = {32: 2.0}.get(batch, 1.25 if batch >= 256 else None)
                fused = found.seconds(DENSE_FUSED.name)
                yield _row(3, found, "adntn, auto", "auto: step by the dense layer's, fused Adam", fused, limit=limit)


def remembering(compare: Compare, scope: Scope) -> Iterator[Row]:
    """Yield bar 4: memory never above the dense layer's, at the largest bond; a small frozen layer as fast as it."""
    largest = replace(scope, bonds=(max(scope.bonds),))
    for shape in scope.shapes:
        for batch in scope.batches:
            for case in largest.cases(shape=shape, batch=batch):
                for task in TRAINING:
                    entries, labels = _entries((layer("auto"), DENSE), case, task), ("adntn, auto", DENSE.name)
                    found = compare(Wanted(f"bar 4, {task}: {case}", entries, time=False, memory=labels))
                    mine, theirs = found.memory("adntn, auto"), found.memory(DENSE.name)
                    what = f"auto, {task}: peak memory by the dense layer's"
                    yield _row(4, found, "adntn, auto", what, theirs, limit=1.0, measured=mine, unit="B")
    frozen = layer("auto", frozen=True)
    for case in scope.cases(shape=(256, 256)):
        found = compare(Wanted(f"bar 4, frozen: {case}", _entries((frozen, DENSE), case, "forward")))
        yield _row(
            4, found, frozen.name, "frozen: forward by the dense layer's", found.seconds(DENSE.name), limit=NOISE
        )


def contracting(compare: Compare, scope: Scope) -> Iterator[Row]:
    """Yield bar 5: contracting x into the cores, beside the dense product and tensorly-torch."""
    ours = layer("contract")
    for case in scope.cases(batch=32):
        found = compare(Wanted(f"bar 5: {case}", _entries((ours, DENSE), case, "forward")))
        yield _row(
            5, found, ours.name, "contract: forward by the dense layer's", found.seconds(DENSE.name), limit=1 / 3
        )
    rivals = (*FACTORIZED, *RECONSTRUCTED)
    for case in scope.cases(batch=32, activation="identity"):
        found = compare(Wanted(f"bar 5, linear: {case}", _entries((ours, DENSE, *rivals), case, "forward")))
        dense = found.seconds(DENSE.name)
        yield _row(5, found, ours.name, "contract, linear: forward by the dense layer's", dense, limit=1 / 3)
        for rival in rivals:
            what = f"contract: forward by {_sized(found, rival)}"
            yield _row(5, found, ours.name, what, found.seconds(rival.name), limit=1.0)


def giant(compare: Compare, scope: Scope) -> Iterator[Row]:
    """Yield bar 6: a layer whose dense weight would not fit runs forward and backward within 2 GiB."""
    budget = 2 * 2**30
    ours = layer("auto", memory_limit=budget)
    for case in scope.cases(shape=scope.giant, batch=8):
        found = compare(Wanted(f"bar 6: {case}", _entries((ours,), case, "backward"), memory=(ours.name,)))
        peak, taken = found.memory(ours.name), found.seconds(ours.name)
        what = "forward and backward: peak memory by 2 GiB"
        yield _row(6, found, ours.name, what, budget, limit=1.0, measured=peak, unit="B")
        yield _row(6, found, ours.name, "forward and backward: time", math.nan, limit=None, measured=taken)


def growing(compare: Compare, scope: Scope) -> Iterator[Row]:
    """Yield bar 7: how cost grows with the number of weights, as the exponent of a power law; and with the batch."""
    ours = generator_on("torch")
    for task in GENERATING:
        for bond in scope.bonds:
            cases = [Case(shape, bond=bond, device=scope.device, dtype=scope.dtype) for shape in scope.sizes]
            entries = tuple(Entry(str(case), ours, case, task) for case in cases)
            found = compare(Wanted(f"bar 7, {task}, bond {bond}", entries))
            exponent = power([math.prod(case.shape) for case in cases], [found.seconds(str(case)) for case in cases])
            sizes = f"{math.prod(scope.sizes[0]):,} to {math.prod(scope.sizes[-1]):,} weights, TTN bond {bond}"
            what = f"{task}: exponent of time by number of weights"
            reason = next((one.reason for one in found.measurements if one.reason), "")
            yield Row(7, sizes, what, exponent, 1.0, NOISE, "", reason)
    mine = layer("auto")
    for case in scope.cases(last_activation="tanh"):
        lines = [replace(case, batch=batch) for batch in scope.batches]
        entries = tuple(
            Entry(f"{one.name}, {line.batch}", one, line, "backward") for line in lines for one in (mine, DENSE)
        )
        found = compare(Wanted(f"bar 7, batch: {case}", entries))
        first, *others = scope.batches
        base, dense = found.seconds(f"{mine.name}, {first}"), found.seconds(f"{DENSE.name}, {first}")
        for batch in others:
            label = f"{mine.name}, {batch}"
            allowed = base + found.seconds(f"{DENSE.name}, {batch}") - dense
            what = f"forward and backward at batch {batch} by batch {first} and what the dense layer's grows by"
            yield _row(7, found, label, what, allowed, limit=NOISE)


def on_device(compare: Compare, scope: Scope) -> Iterator[Row]:
    """Yield bar 9: forward in bfloat16 beside the dense product, and the share of the bandwidth when writing W."""
    for batch in (1, 2, 4, 8, 16, 32, 64):
        for case in scope.cases(dtype="bfloat16", batch=batch, last_activation="tanh"):
            found = compare(
                Wanted(f"bar 9: {case}", _entries((layer("stream"), layer("auto"), DENSE), case, "forward"))
            )
            for one in ("adntn, stream", "adntn, auto"):
                yield _row(9, found, one, f"{one}: forward by the dense layer's", found.seconds(DENSE.name), limit=None)
    task: Task = "weight into a buffer"
    for case in scope.cases():
        entries = (Entry("copy", copy_on("torch"), case, task), Entry("ours", generator_on("torch"), case, task))
        found = compare(Wanted(f"bar 9, bandwidth: {case}", entries))
        share = case.weight_bytes / found.seconds("ours")
        bandwidth = 2 * case.weight_bytes / found.seconds("copy")
        what = "bytes of W written in a second by those that a copy reads and writes"
        yield _row(9, found, "ours", what, bandwidth, limit=None, measured=share, unit="")


BARS: dict[int, Bar] = {
    1: generating,
    2: differentiating,
    3: training,
    4: remembering,
    5: contracting,
    6: giant,
    7: growing,
    9: on_device,
}


def power(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Return the exponent of the power law that fits best; NaN if a time is missing.

    >>> round(power([1, 10, 100], [2, 20, 200]), 6)
    1.0
    """
    if any(math.isnan(time) for time in times):
        return math.nan
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def _entries(contenders: Iterable[Contender], case: Case, task: Task) -> tuple[Entry, ...]:
    return tuple(Entry(one.name, one, case, task) for one in contenders)


def _sized(found: Comparison, rival: Contender) -> str:
    """Return a rival's name with its parameters."""
    parameters = found[rival.name].parameters
    return f"{rival.name}'s" + (f" ({parameters} parameters)" if parameters else "")


def _row(
    bar: int,
    found: Comparison,
    label: str,
    what: str,
    reference: float,
    *,
    limit: float | None,
    measured: float | None = None,
    unit: str = "s",
) -> Row:
    """Return a row about one entry of a comparison: its time, unless another number was measured."""
    one = found[label]
    number = found.seconds(label) if measured is None else measured
    reasons = dict.fromkeys(each.reason for each in found.measurements if each.reason)
    lacking = math.isnan(number) or math.isnan(reference)
    foreseen = found.predictions.get(label)
    predicted = ""
    if foreseen is not None:
        predicted = f"{foreseen.operations / 1e9:.3g} Gop, {size(foreseen.bytes_moved)} moved"
    reason = (one.reason or next(iter(reasons), "")) if lacking else ""
    return Row(bar, str(one.case), what, number, reference, limit, unit, reason, predicted)
