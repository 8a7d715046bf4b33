"""What a run has found, as a flat file of JSON: what was done, by which command, rows of results, versions."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adntn.benchmarking.machine import versions
from adntn.commands.output import write_whole

DISTRIBUTIONS = ("adntn", "numpy", "torch", "jax", "safetensors", "equinox", "peft", "quimb")


def write_record(path: Path, what: str, command: str, results: Sequence[Mapping[str, Any]]) -> None:
    """Write what was found, whole or not at all.

    Args:
        path: of the file.
        what: a sentence for those who read the page.
        command: which makes it again.
        results: rows of a table, all with the same keys.
    """
    made = {
        "what": what,
        "command": command,
        "results": [dict(row) for row in results],
        "versions": {"python": platform.python_version(), **versions(DISTRIBUTIONS)},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(made, indent=1) + "\n")
