"""Measure the bars that we set ourselves: `python -m benchmarks.acceptance --bars 1 2 --json bars.json`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from rich.table import Table

from adntn.benchmarking import Comparison, compare
from adntn.benchmarking.case import TOPOLOGIES
from adntn.commands.bench import shape
from adntn.commands.output import console, writable
from benchmarks.bars import BARS, FULL, SHORT, Compare, Row, Scope, Wanted
from benchmarks.document import started, verdict

COLUMNS = ("bar", "case", "what", "measured", "by", "ratio", "at most", "met", "predicted")
MET = {True: "yes", False: "no", None: ""}
#: The bars that need no GPU.
DEFAULT_BARS = (1, 2, 3, 4, 5, 6, 7)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.acceptance", description=__doc__)
    made.add_argument("--bars", type=int, nargs="+", choices=tuple(BARS), default=DEFAULT_BARS)
    made.add_argument("--short", action="store_true", help="a look: small weights, one topology, one bond")
    made.add_argument("--topologies", nargs="+", choices=tuple(TOPOLOGIES), help="only these")
    made.add_argument("--bonds", type=int, nargs="+", help="only these")
    made.add_argument("--batches", type=int, nargs="+", help="only these")
    made.add_argument("--ends", nargs="+", help="only these last activations")
    made.add_argument("--shape", type=shape, help="of the square weights")
    made.add_argument("--device", help="as torch names it (default: cpu)")
    made.add_argument("--dtype", help="of weights and inputs (default: float32)")
    made.add_argument("--threads", type=int, default=2, help="of the libraries (default: 2)")
    made.add_argument("--repeats", type=int, default=7, help="samples of each time (default: 7)")
    made.add_argument("--json", type=writable, metavar="FILE", help="write rows and comparisons, bar by bar")
    return made


def scope_of(arguments: argparse.Namespace) -> Scope:
    """Return what is to be measured.

    >>> scope_of(parser().parse_args(["--short", "--bonds", "4"])).bonds
    (4,)
    """
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name in ("topologies", "bonds", "batches", "ends", "shape", "device", "dtype")
        if (value := getattr(arguments, name)) is not None
    }
    return replace(SHORT if arguments.short else FULL, **given)


def measuring(threads: int, repeats: int, found: list[Comparison]) -> Compare:
    """Return the function that measures what a bar wants, and keeps what it measured in `found`."""

    def measured(wanted: Wanted) -> Comparison:
        found.append(
            compare(
                wanted.title,
                wanted.entries,
                threads=threads,
                repeats=repeats,
                time=wanted.time,
                memory=wanted.memory,
            )
        )
        return found[-1]

    return measured


def cells(row: Row) -> tuple[str, ...]:
    """Return the texts of a row, in the order of COLUMNS."""
    ratio = "" if row.measured != row.measured or row.reference != row.reference else f"{row.ratio:.3g}"
    return (
        str(row.bar),
        row.case,
        row.what + (f" ({row.reason})" if row.reason else ""),
        row.shown(row.measured),
        row.shown(row.reference),
        ratio,
        "" if row.limit is None else f"{row.limit:.3g}",
        MET[row.met],
        row.predicted,
    )


def table(rows: Iterable[Row]) -> Table:
    """Return a table of rows for the terminal."""
    shown = Table(*COLUMNS)
    for row in rows:
        shown.add_row(*cells(row), style={True: None, False: "bold red", None: "dim"}[row.met])
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure bar by bar, print a table after each, and write what there is so far."""
    parsed = parser().parse_args(arguments)
    scope, out = scope_of(parsed), console()
    document = started("benchmarks.acceptance", parsed.threads, scope.device)
    for bar in parsed.bars:
        found: list[Comparison] = []
        rows = list(BARS[bar](measuring(parsed.threads, parsed.repeats, found), scope))
        document = document.with_rows(rows)
        for comparison in found:
            document = document.with_comparison(f"bar {bar}", comparison)
        out.print(table(rows))
        out.print(f"bar {bar}: {verdict(rows)}")
        if parsed.json is not None:
            document.write(parsed.json)


if __name__ == "__main__":
    main()
