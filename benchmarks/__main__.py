"""Measure everybody side by side, and how costs grow: `python -m benchmarks`, in a few minutes; `--full` in hours."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from adntn.benchmarking import compare
from adntn.benchmarking.table import LEGEND, table
from adntn.commands.output import console, writable
from benchmarks.cases import scaling, side_by_side
from benchmarks.document import started
from benchmarks.table import write

PARTS = {"side-by-side": side_by_side, "scaling": scaling}


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare plan by plan, print each table, and write what there is so far."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true", help="every shape, topology, bond and batch")
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=("side-by-side",))
    parser.add_argument("--match", default="", metavar="TEXT", help="only tables whose title has this text")
    parser.add_argument("--device", default="cpu", help="as torch names it (default: cpu)")
    parser.add_argument("--dtype", default="float32", help="of weights and inputs (default: float32)")
    parser.add_argument("--threads", type=int, default=2, help="of the libraries (default: 2)")
    parser.add_argument("--repeats", type=int, default=7, help="samples of each time (default: 7)")
    parser.add_argument("--json", type=writable, metavar="FILE", help="write all numbers, table by table")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write a page with plots at the end")
    parsed = parser.parse_args(arguments)
    document, out = started("benchmarks", parsed.threads, parsed.device), console()
    plans = chain.from_iterable(PARTS[part](parsed.full, parsed.device, parsed.dtype) for part in parsed.parts)
    for plan in plans:
        if parsed.match not in plan.title:
            continue
        memory = None if plan.memory else ()
        found = compare(plan.title, plan.entries, threads=parsed.threads, repeats=parsed.repeats, memory=memory)
        document = document.with_comparison(plan.group, found)
        out.print(table(found))
        if parsed.json is not None:
            document.write(parsed.json)
    out.print(LEGEND, markup=False)
    if parsed.out is not None:
        write([document], parsed.out)


if __name__ == "__main__":
    main()
