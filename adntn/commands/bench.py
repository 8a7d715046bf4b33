"""`adntn bench`: what do generated weights cost here, beside dense ones?"""

from __future__ import annotations

import argparse
import json
from fnmatch import fnmatchcase

from adntn.benchmarking.case import ITEMSIZES, TOPOLOGIES, Case
from adntn.benchmarking.comparison import Comparison, compare
from adntn.benchmarking.contender import TASKS, Contender, Task, entries
from adntn.benchmarking.contenders import CONTENDERS
from adntn.benchmarking.machine import cores, machine, versions
from adntn.benchmarking.table import LEGEND, table
from adntn.commands.output import console, names, subcommand, writable, write_whole

SUMMARY = "measure time and peak memory of generated weights and layers beside dense ones, in one run"
EXAMPLES = """examples:
  adntn bench
  adntn bench --shape 4096x25088 --topology MERA --bond 4 --batch 256 --tasks step
  adntn bench --tasks "weight,weight into a buffer" --contenders "copy*,*numpy" --json bench.json
"""
LIBRARIES = ("adntn", "numpy", "torch", "jax", "jaxlib", "cupy-cuda12x")
DEFAULT_TASKS: tuple[Task, ...] = ("weight", "gradients", "forward", "step")


def add(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = subcommand(subcommands, "bench", SUMMARY, EXAMPLES)
    parser.add_argument("--shape", type=shape, default=(1024, 1024), help="of the weight (default: 1024x1024)")
    parser.add_argument("--topology", choices=tuple(TOPOLOGIES), default="TTN", help="(default: TTN)")
    parser.add_argument("--bond", type=int, default=2, help="(default: 2)")
    parser.add_argument("--batch", type=int, default=32, help="inputs of the layers (default: 32)")
    parser.add_argument("--activation", default="tanh", help="between the levels (default: tanh)")
    parser.add_argument("--last-activation", default="identity", help="after the last level (default: identity)")
    parser.add_argument("--dtype", choices=tuple(ITEMSIZES), default="float32", help="(default: float32)")
    parser.add_argument("--device", default="cpu", help="as torch names it (default: cpu)")
    parser.add_argument("--tasks", type=names, metavar="NAMES", default=DEFAULT_TASKS, help=f"of: {', '.join(TASKS)}")
    parser.add_argument("--contenders", type=names, metavar="PATTERNS", help="whose names match, such as 'adntn*'")
    parser.add_argument("--threads", type=int, default=cores(), help="of the libraries (default: all cores)")
    parser.add_argument("--repeats", type=int, default=7, help="samples of each time (default: 7)")
    parser.add_argument("--no-memory", action="store_true", help="measure times only")
    parser.add_argument("--json", type=writable, metavar="FILE", help="write all numbers as JSON")
    parser.set_defaults(run=run)


def shape(text: str) -> tuple[int, ...]:
    """Return the sizes in a text such as 4096x4096 or 512x512x3x3.

    >>> shape("512x512x3x3")
    (512, 512, 3, 3)

    Raises:
        argparse.ArgumentTypeError: if there are none.
    """
    try:
        return tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"wants sizes such as 4096x4096, got {text!r}") from None


def chosen(patterns: tuple[str, ...] | None, contenders: tuple[Contender, ...]) -> tuple[Contender, ...]:
    """Return the contenders whose names match a pattern; all of them without patterns.

    Raises:
        ValueError: if a pattern matches none.
    """
    for pattern in patterns or ():
        if not any(fnmatchcase(one.name, pattern) for one in contenders):
            known = "; ".join(one.name for one in contenders)
            raise ValueError(f"contenders: {pattern!r} matches none of: {known}")
    return tuple(
        one for one in contenders if patterns is None or any(fnmatchcase(one.name, pattern) for pattern in patterns)
    )


def run(arguments: argparse.Namespace) -> int:
    """Compare task by task, print the tables, write the file; return 0."""
    if unknown := [task for task in arguments.tasks if task not in TASKS]:
        raise ValueError(f"tasks must be among {', '.join(TASKS)}, got {unknown[0]!r}")
    for name in ("threads", "repeats"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(arguments, name)}")
    fields = ("shape", "topology", "bond", "batch", "activation", "last_activation", "dtype", "device")
    case = Case(**{name: getattr(arguments, name) for name in fields})
    case.generator  # noqa: B018 (wrong options are an error before any work)
    contenders = chosen(arguments.contenders, CONTENDERS)
    facts = {**machine(arguments.threads), **versions(LIBRARIES)}
    out, found = console(), list[Comparison]()
    out.print(", ".join(f"{name} {value}" for name, value in facts.items()), markup=False)
    for task in arguments.tasks:
        if lines := entries(contenders, case, task):
            found.append(
                compare(
                    f"{task}: {case}",
                    lines,
                    threads=arguments.threads,
                    repeats=arguments.repeats,
                    memory=() if arguments.no_memory else None,
                )
            )
            out.print(table(found[-1]))
    out.print(LEGEND, markup=False)
    if arguments.json is not None:
        document = {"environment": facts, "comparisons": [one.to_json() for one in found]}
        write_whole(arguments.json, json.dumps(document, indent=1) + "\n")
    return 0
