"""The file of results: what was measured, with what, by which command."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adntn.benchmarking import Comparison
from adntn.benchmarking.machine import machine, versions
from adntn.commands.output import write_whole
from benchmarks.bars import Row

DISTRIBUTIONS = (
    "adntn",
    "numpy",
    "torch",
    "jax",
    "jaxlib",
    "triton",
    "tensorly",
    "tensorly-torch",
    "tensorkrowch",
    "quimb",
    "cotengra",
    "opt_einsum",
)


@dataclass(frozen=True)
class Document:
    """Results of one command.

    Attributes:
        command: what made it.
        environment: processor, cores, threads and versions.
        comparisons: each with the group it belongs to.
        rows: of the bars.
    """

    command: str
    environment: dict[str, str]
    comparisons: tuple[tuple[str, Comparison], ...] = ()
    rows: tuple[Row, ...] = ()

    def with_comparison(self, group: str, comparison: Comparison) -> Document:
        """Return the document with one more comparison."""
        return replace(self, comparisons=(*self.comparisons, (group, comparison)))

    def with_rows(self, rows: Iterable[Row]) -> Document:
        """Return the document with more rows."""
        return replace(self, rows=(*self.rows, *rows))

    def write(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_whole(path, json.dumps(self.to_json(), indent=1) + "\n")

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "command": self.command,
            "environment": self.environment,
            "comparisons": [{"group": group, **one.to_json()} for group, one in self.comparisons],
            "rows": [row.to_json() for row in self.rows],
        }

    @staticmethod
    def from_json(given: dict[str, Any]) -> Document:
        """Return the document that `to_json` wrote."""
        return Document(
            given["command"],
            given["environment"],
            tuple((one["group"], Comparison.from_json(one)) for one in given["comparisons"]),
            tuple(map(Row.from_json, given["rows"])),
        )

    @staticmethod
    def read(path: Path) -> Document:
        """Return the document in a file."""
        return Document.from_json(json.loads(path.read_text(encoding="utf-8")))


def started(module: str, threads: int, device: str) -> Document:
    """Return an empty document for this process's command, which names no files.

    Args:
        module: that is run.
        threads: of the libraries.
        device: where.
    """
    environment = {**machine(threads), **versions(DISTRIBUTIONS)}
    if device != "cpu":
        import torch  # noqa: PLC0415 (a process that measures nothing itself need not load it)

        environment["device"] = torch.cuda.get_device_name(device)
    return Document(" ".join(["python -m", module, *_without_files(sys.argv[1:])]), environment)


def _without_files(arguments: list[str]) -> list[str]:
    """Return arguments without the options that name files or folders."""
    kept, skip = [], False
    for argument in arguments:
        if skip or argument in ("--json", "--out"):
            skip = not skip
        elif not argument.startswith(("--json=", "--out=")):
            kept.append(argument)
    return kept


def verdict(rows: Iterable[Row]) -> str:
    """Return in a line how many rows meet their bar."""
    judged = [row for row in rows if row.limit is not None]
    met, missed = (sum(row.met is answer for row in judged) for answer in (True, False))
    worst = max((row.ratio / row.limit for row in judged if row.met is False and row.limit), default=math.nan)
    far = "" if math.isnan(worst) else f" (the farthest by a factor of {worst:.3g})"
    return f"{met} of {len(judged)} meet the bar, {missed} miss it{far}, {len(judged) - met - missed} have no number"
