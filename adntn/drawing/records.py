"""What a training has recorded, as curves: the lines of `adntn_torch.training`, of Lightning's CSVLogger, of a Trainer.

Every record is a mapping with a step and numbers of any name. Names that measure alike share a panel.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

#: What says where a record stands, and is no curve.
PLACES = ("stage", "epoch", "step")
#: Panels by the words that names of their curves contain; the first that fits is taken.
PANELS = {
    "loss": ("loss", "objective"),
    "validation": ("valid", "accuracy", "error_rate"),
    "relative error": ("relative_error",),
    "rates": ("rate", "lr"),
    "gradient norm": ("norm",),
}
OTHERS = "others"
#: Files that can be read, by their ending.
READABLE = (".jsonl", ".csv")


@dataclass(frozen=True)
class Curve:
    """Numbers against steps.

    Attributes:
        name: of the numbers.
        points: (step, number), in the order of the record.
    """

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Panel:
    """Curves that share an axis, logarithmic if all numbers are positive and span a factor of ten."""

    name: str
    curves: tuple[Curve, ...]

    @property
    def is_logarithmic(self) -> bool:
        """Whether the axis should be logarithmic."""
        values = [value for curve in self.curves for _, value in curve.points]
        return min(values) > 0 and max(values) >= 10 * min(values)


@dataclass(frozen=True)
class CurvesPicture:
    """The curves of a training.

    Attributes:
        title: of the picture.
        panels: below one another, over the same steps.
        stages: (name, first step, last step).
    """

    title: str
    panels: tuple[Panel, ...]
    stages: tuple[tuple[str, float, float], ...]


def curves_picture(title: str, records: Iterable[Mapping[str, Any]]) -> CurvesPicture:
    """Return the curves of a record.

    >>> lines = [{"stage": "task", "step": 1, "loss": 2.0}, {"stage": "task", "step": 2, "loss": 0.1}]
    >>> picture = curves_picture("digits", lines)
    >>> picture.panels[0].curves, picture.panels[0].is_logarithmic, picture.stages
    ((Curve(name='loss', points=((1.0, 2.0), (2.0, 0.1))),), True, (('task', 1.0, 2.0),))

    Args:
        title: of the picture.
        records: each with a "step", and numbers by name; what is no number, or not finite, is passed over.

    Raises:
        ValueError: if there is no number that belongs to a step.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    stages: dict[str, list[float]] = {}
    for record in records:
        step = _number(record.get("step"))
        if step is None:
            continue
        if isinstance(stage := record.get("stage"), str):
            stages.setdefault(stage, []).append(step)
        for name, value in _numbers(record):
            points.setdefault(name, []).append((step, value))
    panels: dict[str, list[Curve]] = {}
    for name, own in points.items():
        panel = _panel(name)
        if panel != OTHERS or len({value for _, value in own}) > 1:  # counts and ratios that stay are no curves
            panels.setdefault(panel, []).append(Curve(name, tuple(own)))
    if not panels:
        raise ValueError('records hold no curve: none has a "step" and a finite number')
    ordered = [Panel(name, tuple(panels[name])) for name in (*PANELS, OTHERS) if name in panels]
    return CurvesPicture(title, tuple(ordered), _spans(stages))


def read_records(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the records in a file: lines of JSON (.jsonl), or a table (.csv).

    A last line of JSON that was cut short, as by a run that was killed, is passed over.

    Raises:
        OSError: if it cannot be read.
        ValueError: if its ending is another, or a line is no record; the message names it.
    """
    file = Path(path)
    if not is_readable(file):
        raise ValueError(f"records are read from files that end in {' or '.join(READABLE)}, got {str(file)!r}")
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix.lower() == ".csv":
            return [_row(row) for row in csv.DictReader(text.splitlines())]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{str(file)!r} is no text of records: {error}") from error
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n") and not _is_json(lines[-1]):
        lines.pop()
    return [_record(file, number, line) for number, line in enumerate(lines, start=1)]


def is_readable(path: Path) -> bool:
    """Return whether a file is one of records, by its ending."""
    return path.suffix.lower() in READABLE


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _record(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"line {number} of {str(file)!r} is no JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"line {number} of {str(file)!r} must be an object of JSON, got {line.strip()[:40]!r}")
    return record


def _row(row: Mapping[str | None, Any]) -> dict[str, Any]:
    """Return a row of a table with numbers in place of texts that are numbers; cells without a text or name are not."""
    record: dict[str, Any] = {}
    for name, cell in row.items():
        if name is None:  # cells beyond the table's head
            continue
        try:
            record[name] = float(cell or "")
        except ValueError:
            if cell:
                record[name] = cell
    return record


def _numbers(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a record by name: of a mapping inside as name/key, of a layer as name/layer."""
    layer = record.get("layer")
    for name, value in record.items():
        if name in PLACES:
            continue
        if isinstance(value, Mapping):
            named = {f"{name}/{key}": one for key, one in value.items()}
        else:
            named = {f"{name}/{layer}" if isinstance(layer, str) else name: value}
        for full, one in named.items():
            if (number := _number(one)) is not None:
                yield full, number


def _number(value: Any) -> float | None:
    """Return a finite number, of Python or as an array without axes; None for everything else."""
    kind = str(value.dtype).removeprefix("torch.") if getattr(value, "shape", None) == () else ""
    is_array = kind.startswith(("float", "bfloat", "int", "uint"))
    if isinstance(value, bool) or not (is_array or isinstance(value, int | float)):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer that no float holds
        return None
    return number if math.isfinite(number) else None


def _panel(name: str) -> str:
    return next((panel for panel, words in PANELS.items() if any(word in name for word in words)), OTHERS)


def _spans(stages: Mapping[str, list[float]]) -> tuple[tuple[str, float, float], ...]:
    """Return where each stage begins and ends: at the step with which the one before has ended."""
    firsts = sorted((min(steps), max(steps), name) for name, steps in stages.items())
    starts = [firsts[0][0], *(before[1] for before, _ in pairwise(firsts))] if firsts else []
    return tuple((name, start, last) for start, (_, last, name) in zip(starts, firsts, strict=True))


def label_rows(stages: Iterable[tuple[str, float, float]], letters: float) -> list[int]:
    """Return on which line above the panels the name of each stage stands, so that none covers another.

    >>> label_rows([("fit", 0, 0), ("distil", 0, 50), ("fine-tune", 50, 100)], letters=40)
    [0, 1, 0]

    Args:
        stages: (name, first step, last step), in order.
        letters: how many letters a line has across all steps.
    """
    stages = list(stages)
    across = max((last for _, _, last in stages), default=0) - min((first for _, first, _ in stages), default=0)
    ends: list[float] = []
    rows = []
    for name, first, _ in stages:
        row = next((row for row, end in enumerate(ends) if end <= first), len(ends))
        ends[row : row + 1] = [first + (len(name) + 2) * (across or 1) / letters]
        rows.append(row)
    return rows
