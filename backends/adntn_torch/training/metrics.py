"""Metrics as lines of JSON: one object a line, appended whole, and taken back when a run is resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adntn.atomic import whole_file


def append_line(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    r"""Append an object as one line, in one write.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
    >>> append_line(path, {"step": 1, "loss": 0.5})
    >>> path.read_text()
    '{"step": 1, "loss": 0.5}\n'

    Raises:
        ValueError: if a number is not finite, for which JSON has no word.
        OSError: if the file cannot be written.
    """
    line = json.dumps(dict(record), allow_nan=False) + "\n"
    with open(path, "ab", buffering=0) as file:
        file.write(line.encode())


def keep_lines(path: str | os.PathLike[str], count: int) -> None:
    """Drop all but the first lines, and a line that was cut short; a file that is not there stays so.

    Raises:
        OSError: if the file cannot be read or written.
    """
    if not Path(path).exists():
        return
    with open(path, "rb") as file:
        lines = file.readlines()
    with whole_file(path) as partial:
        partial.write_bytes(b"".join(line for line in lines[:count] if line.endswith(b"\n")))
