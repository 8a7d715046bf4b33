"""`adntn backends`: which array libraries are here, and whether they work."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from adntn.backends import backends
from adntn.commands.output import console, subcommand

EXAMPLES = """examples:
  adntn backends
  adntn backends --json
"""


def add(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = subcommand(subcommands, "backends", "list backends: installed, usable, devices, why not", EXAMPLES)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the status of every backend; that one is not usable is no failure."""
    from rich.table import Table  # noqa: PLC0415  (other commands need not load it)

    found = backends()
    if arguments.json:
        print(json.dumps([asdict(status) for status in found], indent=1))
        return 0
    table = Table("backend", "version", "installed", "usable", "devices", "why not")
    for status in found:
        answers = ("yes" if answer else "no" for answer in (status.installed, status.usable))
        table.add_row(status.name, status.version, *answers, ", ".join(status.devices), status.reason)
    console().print(table, markup=False)
    return 0
