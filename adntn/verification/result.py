"""What a verification found: one cell for each comparison, as values, as a table for the terminal, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

#: In which number types are shown.
DTYPE_ORDER = ("float64", "float32", "complex128", "complex64", "float16", "bfloat16")
#: The differentiations that check the reference itself.
FINITE_DIFFERENCES, COMPLEX_STEP = "finite differences", "complex step"
#: What stands in the place of a backend in those cells.
REFERENCE = "reference"


@dataclass(frozen=True)
class Cell:
    """One comparison with the reference.

    Attributes:
        topology, activation, dtype, backend, device: what was computed, and where.
        differentiation: "adjoint" or "native"; "finite differences" and "complex step" check the reference's gradients.
        forward: relative error of the weight.
        gradient: the largest relative error of a core's gradient, relative to the norm of that core's gradient.
        core: the core that has it.
        tolerance: the largest error that counts as agreement.
        reason: the exception that stood in the way; empty if none did.
    """

    topology: str
    activation: str
    dtype: str
    backend: str
    device: str
    differentiation: str
    forward: float
    gradient: float
    core: str
    tolerance: float
    reason: str = ""

    @property
    def error(self) -> float:
        """The larger of both errors; NaN if one is."""
        return math.nan if math.isnan(self.forward + self.gradient) else max(self.forward, self.gradient)

    @property
    def ok(self) -> bool:
        """Whether the error is within the tolerance."""
        return not self.reason and self.error <= self.tolerance

    @property
    def column(self) -> str:
        """Where it stands in a table: backend and differentiation."""
        return f"{self.backend} {self.differentiation}"

    def __str__(self) -> str:
        where = f"{self.topology}, {self.activation}, {self.dtype}: {self.column} on {self.device}"
        if self.reason:
            return f"{where}: {self.reason}"
        found = f"core {self.core!r} has a gradient with the relative error {self.gradient:.1e}"
        if self.error == self.forward:
            found = f"the weight has the relative error {self.forward:.1e}"
        return f"{where}: {found}, tolerance {self.tolerance:.1e}"


@dataclass(frozen=True)
class Skipped:
    """What could not be verified on a backend, and why: a number type that it does not have."""

    backend: str
    dtype: str
    reason: str


@dataclass(frozen=True)
class Verification:
    """The result of `adntn.verify`.

    Attributes:
        cells: every comparison.
        skipped: number types that a backend does not have.
        environment: versions, devices and the processor, as names and values.
        seed: of cores and dL/dW.
        seconds: that it took.
    """

    cells: tuple[Cell, ...]
    skipped: tuple[Skipped, ...]
    environment: tuple[tuple[str, str], ...]
    seed: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every cell agrees, at least one of a backend among them."""
        return all(cell.ok for cell in self.cells) and any(cell.backend != REFERENCE for cell in self.cells)

    @property
    def disagreements(self) -> tuple[Cell, ...]:
        """The cells that do not agree."""
        return tuple(cell for cell in self.cells if not cell.ok)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a table, in order: every backend with every differentiation."""
        return tuple(dict.fromkeys(cell.column for cell in self.cells))

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The number types, from the longest."""
        return tuple(sorted({cell.dtype for cell in self.cells}, key=DTYPE_ORDER.index))

    def worst(self, chosen: Callable[[Cell], bool] = lambda cell: True) -> Cell | None:
        """Return the cell nearest to, or farthest beyond, its tolerance among those chosen; None if there is none."""
        return max(filter(chosen, self.cells), key=severity, default=None)

    def table(self) -> Table:
        """Return the worst relative error of every topology and number type, with all activations, for each column."""
        from rich.markup import escape  # noqa: PLC0415  (importing adntn must stay light)
        from rich.table import Table  # noqa: PLC0415

        table = Table(title="worst relative error of the weight and of any core's gradient", title_justify="left")
        table.add_column("topology")
        table.add_column("dtype")
        for column in self.columns:
            table.add_column(escape(column), justify="right")
        known = {(cell.topology, cell.dtype) for cell in self.cells}
        topologies = dict.fromkeys(cell.topology for cell in self.cells)
        rows = [(topology, dtype) for topology in topologies for dtype in self.dtypes if (topology, dtype) in known]
        for place, (topology, dtype) in enumerate(rows):
            own = [cell for cell in self.cells if (cell.topology, cell.dtype) == (topology, dtype)]
            texts = [
                _styled(max((c for c in own if c.column == column), key=severity, default=None))
                for column in self.columns
            ]
            last = place + 1 == len(rows) or rows[place + 1][0] != topology
            first = place == 0 or rows[place - 1][0] != topology
            table.add_row(escape(topology) if first else "", dtype, *texts, end_section=last)
        return table

    def to_json(self) -> str:
        """Return everything as JSON; an error that is no number is null."""
        worst = self.worst()
        content = {
            "ok": self.ok,
            "seed": self.seed,
            "seconds": round(self.seconds, 3),
            "environment": dict(self.environment),
            "worst": None if worst is None else _as_json(worst),
            "cells": [_as_json(cell) for cell in self.cells],
            "skipped": [asdict(skipped) for skipped in self.skipped],
        }
        return json.dumps(content, indent=1, allow_nan=False)

    def to_html(self) -> str:
        """Return a page of its own with a heat map of all cells, for people."""
        from adntn.verification.page import page  # noqa: PLC0415  (it shows values that are defined here)

        return page(self)

    def __str__(self) -> str:
        wrong = self.disagreements
        lines = [f"{len(self.cells) - len(wrong):,} of {len(self.cells):,} cells agree ({self.seconds:.1f} s)"]
        worst = self.worst()
        if worst is not None and not wrong:
            lines.append(f"nearest to its tolerance: {worst}")
        lines += _shortened([str(cell) for cell in sorted(wrong, key=severity, reverse=True)])
        lines += [f"not verified: {one.dtype} on {one.backend} ({one.reason})" for one in self.skipped]
        return "\n".join(lines)


def severity(cell: Cell) -> float:
    """Return the error in units of the tolerance; infinite where there is no number."""
    return math.inf if cell.reason or math.isnan(cell.error) else cell.error / cell.tolerance


def _as_json(cell: Cell) -> dict[str, Any]:
    numbers = {name: value if math.isfinite(value) else None for name, value in _numbers(cell)}
    return {**asdict(cell), **numbers, "ok": cell.ok}


def _numbers(cell: Cell) -> Iterable[tuple[str, float]]:
    return ("forward", cell.forward), ("gradient", cell.gradient), ("tolerance", cell.tolerance)


def _styled(cell: Cell | None) -> str:
    if cell is None:
        return "[dim]-[/dim]"
    shown = "failed" if cell.reason else f"{cell.error:.1e}"
    return shown if cell.ok else f"[bold red]{shown} ![/bold red]"


def _shortened(lines: list[str], most: int = 20) -> list[str]:
    return lines if len(lines) <= most else [*lines[:most], f"... and {len(lines) - most} more"]
