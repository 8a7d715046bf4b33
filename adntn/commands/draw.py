"""`adntn draw`: the networks of a file, level by level, as text."""

from __future__ import annotations

import argparse
from pathlib import Path

from adntn.commands.output import console, subcommand
from adntn.files import opened

SUMMARY = "print the networks of a file, level by level"
EXAMPLES = """examples:
  adntn draw small.safetensors
  adntn draw small.safetensors --weight classifier.0.weight

exit codes: 0 done, 2 bad input
"""


def add(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = subcommand(subcommands, "draw", SUMMARY, EXAMPLES)
    parser.add_argument("file", type=Path, metavar="FILE", help="a file with generated weights")
    parser.add_argument("--weight", metavar="NAME", help="of the weight to draw; by default all")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print each network under the names of the weights that it makes."""
    with opened(arguments.file) as contents:
        names: dict[str, list[str]] = {}
        for name, weight in contents.weights.items():
            if arguments.weight in (None, name):
                names.setdefault(str(weight.generator), []).append(name)
        if not names:
            known = ", ".join(contents.weights)
            raise ValueError(f"--weight must be one of {known}, got {arguments.weight!r}")
    out = console()
    for drawn, of in names.items():
        out.print("\n".join((*of, drawn)), markup=False)
    return 0
