"""Pictures of what grows: time and memory against the size of the weight, the bond and the batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from adntn.benchmarking import Case, Comparison, Measurement

Across = Callable[[Case], float]
ACROSS: dict[str, tuple[str, Across]] = {
    "size": ("number of weights", lambda case: math.prod(case.shape)),
    "bond": ("bond dimension", lambda case: case.bond),
    "batch": ("batch", lambda case: case.batch),
}
Curves = dict[str, list[tuple[float, float]]]


def curves(comparisons: Iterable[Comparison], group: str, task: str, up: Callable[[Measurement], float]) -> Curves:
    """Return the points of each contender, in the order of what grows.

    Args:
        comparisons: of one group.
        group: "size", "bond" or "batch".
        task: whose measurements.
        up: from a measurement to the number; NaN where there is none.
    """
    _, across = ACROSS[group]
    found: Curves = {}
    for comparison in comparisons:
        for one in comparison.measurements:
            if one.task == task and not math.isnan(height := up(one)):
                found.setdefault(one.contender, []).append((across(one.case), height))
    return {name: sorted(points) for name, points in found.items()}


def milliseconds(one: Measurement) -> float:
    """Return a measurement's time in milliseconds."""
    return math.nan if one.seconds is None else 1000 * one.seconds


def mebibytes(one: Measurement) -> float:
    """Return a measurement's memory in MiB."""
    return math.nan if one.memory is None else max(one.memory.total, 1) / 2**20


def draw(comparisons: list[Comparison], group: str, folder: Path) -> list[str]:
    """Draw one picture for each task of a group, as SVG and PNG; return their names without the ending."""
    tasks = dict.fromkeys(one.task for comparison in comparisons for one in comparison.measurements)
    names = []
    for task in tasks:
        panels = [("ms", curves(comparisons, group, task, milliseconds))]
        panels += [("MiB", curves(comparisons, group, task, mebibytes))]
        if drawn := [panel for panel in panels if panel[1]]:
            name = f"{group}_{task.replace(' ', '_')}"
            figure = _figure(task, group, drawn)
            for ending in ("svg", "png"):
                figure.savefig(folder / f"{name}.{ending}", dpi=150)
            names.append(name)
    return names


def _figure(task: str, group: str, panels: list[tuple[str, Curves]]) -> Figure:
    figure = Figure(figsize=(1.0 + 6.0 * len(panels), 4.8), layout="constrained")
    axes: Any = figure.subplots(1, len(panels), squeeze=False)[0]
    for panel, (unit, lines) in zip(axes, panels, strict=True):
        for name, points in lines.items():
            style = "--" if name.startswith(("copy", "tanh", "dense")) else "-"
            panel.plot(*zip(*points, strict=True), style, marker="o", markersize=3, label=name)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xlabel(ACROSS[group][0])
        panel.set_ylabel(unit)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize="small", frameon=False)
    figure.suptitle(f"{task}: {'time and peak memory' if len(panels) > 1 else 'time'}", fontsize="medium")
    return figure
