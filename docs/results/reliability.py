"""Make the page beside this file of the measurements in the folder beside it: `python docs/results/reliability.py`.

A measurement is a JSON file: {"what": a sentence, "command": what was run, "results": [{...}, ...], "versions": {...}},
and "notes": [...], if there is more to say. Whoever measures writes it; nothing of the page is typed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_suffix("")
HEAD = """# How reliable is it?

Made by `python docs/results/reliability.py` of what the commands below wrote to `docs/results/reliability/`.
"""


def shown(value: Any) -> str:
    r"""Return a value as a cell of a table.

    >>> [shown(value) for value in (True, None, 12166, 0.98765432, ["a", "b"], "x | y")]
    ['yes', '', '12,166', '0.9877', 'a, b', 'x \\| y']
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return "" if value is None else " ".join(str(value).replace("|", "\\|").split())


def table(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table: a row for each result, a column for each of their keys."""
    rows = list(results)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    ends = ("---" if any(isinstance(row.get(key), bool | list | str) for row in rows) else "---:" for key in columns)
    head = [f"| {' | '.join(columns)} |", f"|{'|'.join(ends)}|"]
    return head + [f"| {' | '.join(shown(row.get(key)) for key in columns)} |" for row in rows]


def section(measured: Mapping[str, Any]) -> str:
    """Return what one file says."""
    parts = [f"## {measured['what']}", f"`{measured['command']}`", "\n".join(table(measured["results"]))]
    parts += measured.get("notes", [])
    parts.append("; ".join(f"{name} {version}" for name, version in measured["versions"].items()) + ".")
    return "\n\n".join(parts)


def page(folder: Path = FOLDER) -> str:
    """Return the page of all files in a folder, by their names."""
    found = (json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json")))
    return "\n".join([HEAD, *(f"{section(one)}\n" for one in found)])


def main() -> None:
    """Write reliability.md beside this file."""
    Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
