"""`adntn verify`: do the backends agree?"""

from __future__ import annotations

import argparse
import runpy
from pathlib import Path
from typing import Any

from adntn.activations import ACTIVATIONS
from adntn.arrays import DTYPES
from adntn.commands.output import console, names, shown_progress, subcommand, writable, write_whole
from adntn.verification.cases import TOPOLOGIES
from adntn.verification.result import Verification
from adntn.verify import DEFAULT_DTYPES, verify

SUMMARY = "compare weights and gradients of all backends with a reference in double precision"
EXAMPLES = """examples:
  adntn verify
  adntn verify --backends numpy,torch,jax --json agreement.json --html agreement.html
  adntn verify --backends torch --device cuda:0 --topologies TTN,MERA --dtypes float32,float64
  adntn verify --generator my_network.py:generator --backends numpy,torch

exit codes: 0 all cells agree, 1 some cell disagrees, 2 bad input
"""


def add(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = subcommand(subcommands, "verify", SUMMARY, EXAMPLES)
    one_of = "all by default, of: "
    parser.add_argument("--backends", type=names, metavar="NAMES", help="by default all that `adntn backends` can use")
    parser.add_argument("--topologies", type=names, metavar="NAMES", help=one_of + ", ".join(TOPOLOGIES))
    parser.add_argument("--activations", type=names, metavar="NAMES", help=one_of + ", ".join(ACTIVATIONS))
    parser.add_argument(
        "--dtypes",
        type=names,
        metavar="NAMES",
        default=DEFAULT_DTYPES,
        help=f"of: {', '.join(DTYPES)}; by default {','.join(DEFAULT_DTYPES)}",
    )
    parser.add_argument("--device", help="where all backends but NumPy compute, as `adntn backends` names it")
    parser.add_argument(
        "--generator",
        metavar="FILE[:NAME]",
        help="instead, verify an adntn.Generator of your own, or a dict of several: what the Python file FILE calls"
        " NAME, by default `generator`",
    )
    parser.add_argument("--seed", type=int, default=0, help="of cores and dL/dW (default: 0)")
    parser.add_argument("--json", type=writable, metavar="FILE", help="write every cell as JSON")
    parser.add_argument("--html", type=writable, metavar="FILE", help="write a page with a heat map")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Verify, print the table, write the files; return 0 if all cells agree and 1 if not."""
    with shown_progress("verify") as progress:
        result = verify(
            None if arguments.generator is None else own(arguments.generator),
            backends=arguments.backends,
            topologies=arguments.topologies,
            activations=arguments.activations,
            dtypes=arguments.dtypes,
            device=arguments.device,
            seed=arguments.seed,
            progress=progress,
        )
    _print(result)
    if arguments.json is not None:
        write_whole(arguments.json, result.to_json())
    if arguments.html is not None:
        write_whole(arguments.html, result.to_html())
    return 0 if result.ok else 1


def own(place: str) -> Any:
    """Return what a Python file defines, given as FILE or FILE:NAME.

    Raises:
        ValueError: if the file fails or has nothing of that name.
        OSError: if it cannot be read.
    """
    file, _, name = (place, "", "") if Path(place).is_file() else place.rpartition(":")
    file, name = (file, name or "generator") if file else (place, "generator")
    if not Path(file).is_file():
        raise FileNotFoundError(f"--generator: there is no file {file!r}")
    try:
        defined = runpy.run_path(file)
    except (Exception, SystemExit) as error:  # whatever a user's file does
        raise ValueError(f"--generator: {file} failed with {type(error).__name__}: {error}") from error
    if name not in defined:
        raise ValueError(f"--generator: {file} defines no {name!r}")
    return defined[name]


def _print(result: Verification) -> None:
    out = console()
    out.print(result.table())
    out.print(str(result), markup=False)
