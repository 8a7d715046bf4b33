"""Write results as a page with tables and plots: `python -m benchmarks.table FILE... --out docs/results/speed`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from adntn.benchmarking.table import LEGEND, markdown, markdown_table
from adntn.commands.output import write_whole
from benchmarks.acceptance import COLUMNS, cells
from benchmarks.document import Document, verdict
from benchmarks.plots import ACROSS, draw


def page(documents: Sequence[Document], pictures: Sequence[str]) -> str:
    """Return the page of several documents in Markdown.

    Args:
        documents: what was measured.
        pictures: names of the plots beside the page, without the ending.
    """
    lines = ["# Time and memory, side by side", ""]
    for one in documents:
        facts = ", ".join(f"{name} {value}" for name, value in one.environment.items())
        lines += [f"Made by `{one.command}`: {facts}.", ""]
    lines += [LEGEND, ""]
    rows = [row for one in documents for row in one.rows]
    if rows:
        lines += ["## The bars", "", f"{verdict(rows)}. A ratio meets its bar if it is at most the number given.", ""]
    for bar in sorted({row.bar for row in rows}):
        own = [row for row in rows if row.bar == bar]
        lines += [f"### Bar {bar}: {verdict(own)}", ""]
        lines += [*markdown_table(COLUMNS[1:], [cells(row)[1:] for row in own]), ""]
    if pictures:
        lines += ["## What grows", ""]
        lines += [line for name in pictures for line in (f"![{name.replace('_', ' ')}]({name}.svg)", "")]
    compared = [one for document in documents for group, one in document.comparisons if group == "side by side"]
    if compared:
        lines += ["## Side by side", "", *map(markdown, compared)]
    return "\n".join(lines).rstrip() + "\n"


def latest(documents: Sequence[Document]) -> list[Document]:
    """Return the documents without the rows that a later one has measured again; those that nothing is left of go."""
    seen: set[tuple[int, str, str]] = set()
    kept: list[Document] = []
    for one in reversed(documents):
        rows = tuple(row for row in one.rows if (row.bar, row.case, row.what) not in seen)
        seen.update((row.bar, row.case, row.what) for row in rows)
        if rows or one.comparisons or not one.rows:
            kept.append(replace(one, rows=rows))
    return kept[::-1]


def write(documents: Sequence[Document], folder: Path) -> None:
    """Write results.json, results.md and the plots into a folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures: list[str] = []
    for group in ACROSS:
        own = [one for document in documents for name, one in document.comparisons if name == group]
        pictures += draw(own, group, folder)
    written = ",\n".join(json.dumps(one.to_json()) for one in documents)
    write_whole(folder / "results.json", f"[{written}]\n")
    write_whole(folder / "results.md", page(documents, pictures))


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the files and write the folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    parser.add_argument(
        "files", nargs="+", type=Path, help="written by `benchmarks` or `benchmarks.acceptance`, the latest last"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for the page and the plots")
    parsed = parser.parse_args(arguments)
    write(latest([Document.read(file) for file in parsed.files]), parsed.out)


if __name__ == "__main__":
    main()
