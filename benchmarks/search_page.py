"""What a comparison of searches found: its runs, tables, page and plot."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from adntn.benchmarking.machine import versions
from adntn.benchmarking.table import markdown_table

COLOURS = {"Adam": "tab:blue", "L-BFGS": "tab:orange", "Levenberg-Marquardt": "tab:green"}


@dataclass(frozen=True)
class Run:
    """One search: its points are (seconds, lowest loss so far)."""

    problem: str
    method: str
    seed: int
    rate: float | None
    points: tuple[tuple[float, float], ...]
    accuracy: float

    def at(self, seconds: float) -> float:
        """Return the lowest loss after so many seconds."""
        return [loss for when, loss in self.points if when <= seconds or when == self.points[0][0]][-1]


@dataclass(frozen=True)
class Subject:
    """What searches are compared on.

    Attributes:
        name: its heading.
        measure: what is to become small.
        about: a sentence.
    """

    name: str
    measure: str
    about: str


def of_method(runs: Sequence[Run], problem: str, method: str) -> list[Run]:
    """Return the runs of all seeds."""
    return [one for one in runs if (one.problem, one.method) == (problem, method)]


def rows(runs: Sequence[Run], problem: Subject, budget: float) -> list[list[str]]:
    """Return the table of a problem: medians over the seeds."""
    made = []
    for method in COLOURS:
        own = of_method(runs, problem.name, method)
        name = f"{method}, learning rate {own[0].rate:g}" if own[0].rate is not None else method
        losses = [f"{statistics.median(one.at(part * budget) for one in own):.3g}" for part in (0.1, 0.3, 1)]
        spread = f"{min(one.points[-1][1] for one in own):.3g} to {max(one.points[-1][1] for one in own):.3g}"
        accuracy = statistics.median(one.accuracy for one in own)
        shown = [] if math.isnan(accuracy) else [f"{accuracy:.1%}"]
        made.append([name, *losses, spread, *shown])
    return made


def page(runs: Sequence[Run], every: Sequence[Subject], budget: float, seeds: int, rates: Sequence[float]) -> str:
    """Return the page in Markdown."""
    made_with = ", ".join(f"{name} {number}" for name, number in versions(["adntn", "numpy", "scipy", "torch"]).items())
    command = f"python -m benchmarks.second_order --out docs/results --seeds {seeds} --budget {budget:g}"
    tried = ", ".join(f"{rate:g}" for rate in rates)
    lines = [
        "# Second order against Adam",
        "",
        f"By `{command}`; one thread of a CPU; {made_with}. Every method gets {budget:g} processor seconds from each"
        f" start. Numbers are the lowest value so far, medians over {seeds} starts, and the range over these at the"
        f" end. Adam's learning rate is the best of {tried} for the first start, and falls to zero in a line; the"
        " others have nothing to tune.",
        "",
        "![loss against seconds](second-order.png)",
    ]
    for problem in every:
        extra = ["other images recognised"] if problem.name == "task" else []
        columns = ["method"]
        columns += [f"{problem.measure} after {part * budget:g} s" for part in (0.1, 0.3, 1)]
        lines += ["", f"## {problem.name}", "", f"{problem.about}.", ""]
        lines += markdown_table([*columns, "range at the end", *extra], rows(runs, problem, budget))
    return "\n".join(lines).rstrip() + "\n"


def draw(runs: Sequence[Run], every: Sequence[Subject], budget: float, path: Path) -> None:
    """Draw each problem's medians in a panel, with all runs behind them."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    grid = np.geomspace(budget / 200, budget, 200)
    panels: Any = figure.subplots(2, 2).flat
    for panel, problem in zip(panels, every, strict=True):
        for method, colour in COLOURS.items():
            lines = [[one.at(when) for when in grid] for one in of_method(runs, problem.name, method)]
            for line in lines:
                panel.plot(grid, line, color=colour, alpha=0.25, linewidth=0.8)
            panel.plot(grid, np.median(lines, axis=0), color=colour, label=method)
        panel.set(xscale="log", yscale="log", xlabel="processor seconds", ylabel=problem.measure, title=problem.name)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False)
    figure.savefig(path, dpi=150)


def thinned(points: Sequence[tuple[float, float]], most: int = 100) -> list[tuple[float, float]]:
    """Return about so many points, evenly from the first to the last, in few digits."""
    places = np.unique(np.linspace(0, len(points) - 1, most).round().astype(int))
    return [(round(points[place][0], 3), float(f"{points[place][1]:.5g}")) for place in places]
