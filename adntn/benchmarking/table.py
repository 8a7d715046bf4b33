"""Comparisons as tables of ratios: for the terminal, and in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from adntn.benchmarking.comparison import Comparison, Measurement, Prediction

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("who", "parameters", "time", "ratio", "quartiles", "memory", "ratio ", "kept", "predicted", "note")
LEGEND = (
    "Times are medians of interleaved samples; memory is the peak above what there was before the contender was built,"
    " inputs and outputs included. `kept` stays in the process when all is dropped: workspace of libraries. Ratios are"
    " to the first line that has a number: above 1 is slower, or more memory. Predictions are those of"
    " `generator.report()` for generating the weight (and its gradients), without the product with x."
)


def seconds(value: float) -> str:
    """Return a time with its unit, three digits.

    >>> seconds(0.00321), seconds(25.0)
    ('3.21 ms', '25 s')
    """
    if not math.isfinite(value):
        return ""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value / size < 999.5 else f"{value / size:,.0f} {unit}"
    return f"{value / 1e-9:.3g} ns"


def size(value: float) -> str:
    """Return a number of bytes in MiB.

    >>> size(3 * 2**20)
    '3.0 MiB'
    """
    return f"{value / 2**20:,.1f} MiB" if math.isfinite(value) else ""


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return a row of texts for each measurement, in the order of COLUMNS."""
    found = comparison.measurements
    time = next((one.seconds for one in found if one.seconds is not None), None)
    memory = next((one.memory.total for one in found if one.memory is not None and one.memory.total > 0), None)
    return [_row(one, comparison.predictions.get(one.label), time, memory) for one in found]


def _row(one: Measurement, predicted: Prediction | None, time: float | None, memory: int | None) -> tuple[str, ...]:
    taken = one.memory
    return (
        one.label,
        f"{one.parameters:,}" if one.parameters else "",
        "" if one.seconds is None else seconds(one.seconds),
        "" if one.seconds is None or time is None else f"{one.seconds / time:.3g}",
        "" if one.spread is None else f"{seconds(one.spread[0])} to {seconds(one.spread[1])}",
        "" if taken is None else size(taken.total),
        "" if taken is None or memory is None else f"{taken.total / memory:.3g}",
        "" if taken is None else size(taken.kept),
        "" if predicted is None else foreseen(predicted),
        one.reason or one.note,
    )


def foreseen(predicted: Prediction) -> str:
    """Return a prediction in short.

    >>> foreseen(Prediction(2_500_000_000, 3 * 2**20, 2**20))
    '2.5 Gop, 3.0 MiB moved, peak 1.0 MiB'
    """
    operations = predicted.operations / 1e9
    return f"{operations:.3g} Gop, {size(predicted.bytes_moved)} moved, peak {size(predicted.peak_bytes)}"


def table(comparison: Comparison) -> Table:
    """Return a table for the terminal, without columns that are empty."""
    from rich.table import Table  # noqa: PLC0415 (what only computes need not load it)

    columns, texts = _shown(rows(comparison))
    shown = Table(title=comparison.title, title_justify="left")
    for column in columns:
        shown.add_column(column.strip(), justify="left" if column in ("who", "note") else "right")
    for row in texts:
        shown.add_row(*row)
    return shown


def markdown(comparison: Comparison) -> str:
    """Return a table in Markdown under a heading, without columns that are empty."""
    columns, texts = _shown(rows(comparison))
    return "\n".join([f"### {comparison.title}", "", *markdown_table(columns, texts), ""])


def markdown_table(columns: Sequence[str], texts: Sequence[Sequence[str]]) -> list[str]:
    r"""Return the lines of a table.

    >>> markdown_table(["a", "b"], [["1", "x|y"]])
    ['| a | b |', '| --- | --- |', '| 1 | x\\|y |']
    """
    lines = [columns, ["---"] * len(columns), *texts]
    return ["| " + " | ".join(text.strip().replace("|", r"\|") for text in line) + " |" for line in lines]


def _shown(texts: Sequence[tuple[str, ...]]) -> tuple[list[str], list[list[str]]]:
    """Return the columns that have a text anywhere, and the rows of these."""
    places = [place for place in range(len(COLUMNS)) if any(row[place] for row in texts)]
    return [COLUMNS[place] for place in places], [[row[place] for place in places] for row in texts]
