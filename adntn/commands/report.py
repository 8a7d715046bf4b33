"""`adntn report`: what the generated weights of a file are worth, and what they cost."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from adntn.arrays import ITEMSIZES
from adntn.commands.output import console, shown_progress, subcommand
from adntn.files import Contents, opened
from adntn.network import SCALE

SUMMARY = "say what the generated weights of a file are: shape, parameters, ratio, bytes, rank, schedule"
EXAMPLES = """examples:
  adntn report small.safetensors
  adntn report small.safetensors --rows 1 --json

The schedule is that of a layer with so many rows of x in training, on this machine (see `adntn calibrate`); weights
that are no matrices, and batches, have none.

exit codes: 0 done, 2 bad input
"""


def add(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = subcommand(subcommands, "report", SUMMARY, EXAMPLES)
    parser.add_argument("file", type=Path, metavar="FILE", help="a file with generated weights")
    parser.add_argument("--rows", type=int, default=32, help="vectors that a weight is multiplied with (default: 32)")
    parser.add_argument("--backend", default="numpy", help="whose calibration is used (default: numpy)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report."""
    with opened(arguments.file) as contents, shown_progress("report") as progress:
        rows = []
        for number, name in enumerate(contents.weights):
            if progress is not None:
                progress(number, len(contents.weights), name)
            rows.append(_row(contents, name, arguments))
        size, others = arguments.file.stat().st_size, len(contents.dense)
    if arguments.json:
        about = {"file": str(arguments.file), "bytes": size, "tensors_not_generated": others, "weights": rows}
        print(json.dumps(about, indent=1))
        return 0
    from rich.table import Table  # noqa: PLC0415  (other commands need not load it)
    from rich.text import Text  # noqa: PLC0415

    table = Table("weight", "shape", "topology", "dtype")
    for title in ("parameters", "ratio", "bytes", "dense", "rank up to"):
        table.add_column(title, justify="right")
    table.add_column("schedule")
    for row in rows:
        shape = " x ".join(map(str, row["shape"]))
        names = Text(row["name"]), shape, Text(row["topology"]), row["dtype"]
        sizes = (f"{row[key]:,}" for key in ("bytes_cores", "bytes_dense"))
        rank = "full" if row["rank_bound"] is None else f"{row['rank_bound']:,}"
        table.add_row(*names, f"{row['parameters']:,}", f"{row['ratio']:,.1f}", *sizes, rank, row["schedule"] or "")
    console().print(table)
    console().print(f"{arguments.file}: {size:,} bytes; {others:,} more tensors are stored as they are", markup=False)
    return 0


def _row(contents: Contents, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    weight = contents.weights[name]
    generator, dtype = weight.generator, contents.tensors[weight.prefix + SCALE].dtype
    has_schedule = len(generator.shape) == 2 and generator.network.batch is None
    rows = arguments.rows if has_schedule else None
    about = generator.report(ITEMSIZES[dtype], rows=rows, backend=arguments.backend)
    return {
        "name": name,
        "shape": generator.shape,
        "topology": weight.topology,
        "dtype": dtype,
        "weights": about.weights,
        "parameters": about.parameters,
        "ratio": about.ratio,
        "bytes_dense": about.weights * ITEMSIZES[dtype],
        "bytes_cores": about.parameters * ITEMSIZES[dtype],
        "padding": about.padding,
        "rank_bound": about.rank_bound,
        "schedule": None if about.choice is None else about.choice.taken.schedule,
    }
