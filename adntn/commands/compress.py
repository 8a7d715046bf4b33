"""`adntn compress`: generators fitted to the weights of a file."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from adntn.arrays import Array
from adntn.backends import usable_backend
from adntn.commands.output import add_files, check_files, console, shown_progress, subcommand
from adntn.commands.rules import Rule, chosen, rule
from adntn.files import Contents, Weight, opened, write
from adntn.files.file import in_library, on_host, prefix_of
from adntn.fit import METHODS, Fit, Progress, fit
from adntn.generator import Generator
from adntn.topologies import BY_NAME, Options

SUMMARY = "fit generators to weights of a safetensors file, and write their cores in place of the weights"
EXAMPLES = """examples:
  adntn compress model.safetensors small.safetensors --rule 'classifier.*=TTN,bond=4'
  adntn compress model.safetensors small.safetensors --rule 'head=dense' --rule '*=MERA,bond=2,activation=silu'
  adntn compress model.safetensors small.safetensors --rule '*.query=LowRank,rank=8' --backend torch --device cuda:0

A pattern (with *, ? and [...]) means whole names, with or without ".weight" at the end; the first rule that matches
decides. What no rule matches is copied. adntn_torch.load_compressed builds a model from the file, adntn.load reads it
into any array library.

A trained weight is hardly compressible by a factor of thousands: relative errors near 1 say that nothing of it is left,
and that the network has to be trained again.

exit codes: 0 written, 2 bad input
"""


@dataclass(frozen=True)
class Row:
    """A weight that is now generated, and its relative error."""

    name: str
    shape: tuple[int, ...]
    topology: str
    before: int
    after: int
    error: float

    @property
    def ratio(self) -> float:
        """How many weights each parameter generates."""
        return self.before / self.after


def add(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = subcommand(subcommands, "compress", SUMMARY, EXAMPLES)
    add_files(parser, "a file of safetensors")
    parser.add_argument(
        "--rule",
        type=rule,
        action="append",
        required=True,
        dest="rules",
        metavar="PATTERN=TOPOLOGY,...",
        help=f"which weights, and how: a topology of {', '.join(BY_NAME)} and its options, or PATTERN=dense; again"
        " for further ones",
    )
    parser.add_argument("--method", choices=METHODS, default=METHODS[0], help=f"of the fits (default: {METHODS[0]})")
    parser.add_argument("--iterations", type=int, default=200, help="at most, for each (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the starts that are drawn (default: 0)")
    parser.add_argument("--backend", default="numpy", help="the array library that computes (default: numpy)")
    parser.add_argument("--device", help="where it computes, as `adntn backends` names it")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Fit, write the file, print what was done."""
    check_files(arguments)
    if arguments.iterations < 0 or arguments.seed < 0:
        raise ValueError(f"--iterations and --seed must be at least 0, got {arguments.iterations} and {arguments.seed}")
    with opened(arguments.input, plain=True) as contents:
        generators = _generators(contents, arguments.rules)
        weights, rows = dict(contents.weights), list[Row]()
        tensors: dict[str, Array] = {}
        with shown_progress("compress") as progress:
            for number, (name, (generator, options)) in enumerate(generators.items()):

                def show(iteration: int, error: float, number: int = number, name: str = name) -> None:
                    if progress is not None:
                        so_far = f"{name}, iteration {iteration}: {error:.3g}" if iteration else name
                        progress(number, len(generators), so_far)

                show(0, math.nan)
                found = _fitted(contents, name, generator, arguments, show)
                weights[name] = Weight(generator, prefix_of(name), str(options))
                tensors |= {tensor: found.cores[core] for core, tensor in weights[name].tensors().items()}
                sizes = math.prod(generator.shape), generator.parameters
                rows.append(Row(name, generator.shape, str(options), *sizes, found.error))
        tensors |= {name: contents.array(name) for name in contents.tensors if name not in generators}
        about = {"same": contents.same, "notes": contents.notes, "metadata": contents.metadata}
        write(arguments.output, weights, tensors, **about)
    _print(rows, arguments)
    return 0


def _generators(contents: Contents, rules: list[Rule]) -> dict[str, tuple[Generator, Options]]:
    """Return the generator of each chosen weight: whatever is wrong is an error before any work."""
    dense = {name: contents.tensors[name] for name in contents.dense}
    made: dict[str, tuple[Generator, Options]] = {}
    for name, options in chosen(dense, rules).items():
        try:
            generator = options(dense[name].shape)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name!r} cannot be compressed: {error}") from error
        stored, count = generator.parameters, math.prod(dense[name].shape)
        if generator.shape != dense[name].shape:
            raise ValueError(f"{name!r} cannot be compressed: {options} makes the shape {generator.shape}")
        if stored >= count:
            raise ValueError(
                f"{name!r} cannot be compressed: {options} stores {stored:,} numbers for {count:,} weights"
            )
        made[name] = generator, options
    if shared := [name for name in made if name in contents.same.values()]:
        others = [name for name, one in contents.same.items() if one == shared[0]]
        raise ValueError(f"{shared[0]!r} cannot be compressed: it is shared with {', '.join(others)}")
    if taken := [name for name in made if any(one.startswith(prefix_of(name)) for one in contents.tensors)]:
        raise ValueError(f"{taken[0]!r} cannot be compressed: the file has cores of that name already")
    return made


def _fitted(
    contents: Contents, name: str, generator: Generator, arguments: argparse.Namespace, progress: Progress
) -> Fit:
    """Return the fit, with its cores as NumPy arrays."""
    library = usable_backend(arguments.backend)
    with library.precision("float64"):  # in which the fit computes
        device = None if arguments.device is None else library.placed_on(arguments.device)
        try:
            weight = in_library(contents.array(name), library.name, device)
            search = {"iterations": arguments.iterations, "method": arguments.method, "progress": progress}
            found = fit(generator, weight, seed=arguments.seed, **search)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name!r} cannot be compressed: {error}") from error
        return Fit({core: on_host(array) for core, array in found.cores.items()}, found.error, found.history)


def _print(rows: list[Row], arguments: argparse.Namespace) -> None:
    sizes = {"bytes_before": arguments.input.stat().st_size, "bytes_after": arguments.output.stat().st_size}
    if arguments.json:
        weights: list[Mapping[str, object]] = [asdict(row) | {"ratio": row.ratio} for row in rows]
        print(json.dumps({"file": str(arguments.output), **sizes, "weights": weights}, indent=1))
        return
    from rich.table import Table  # noqa: PLC0415  (other commands need not load it)
    from rich.text import Text  # noqa: PLC0415

    table = Table("weight", "shape", "topology")
    for title in ("weights", "parameters", "ratio", "relative error"):
        table.add_column(title, justify="right")
    for row in rows:
        numbers = (f"{row.before:,}", f"{row.after:,}", f"{row.ratio:,.1f}", f"{row.error:.3g}")
        table.add_row(Text(row.name), " x ".join(map(str, row.shape)), Text(row.topology), *numbers)
    console().print(table)
    sizes_text = f"{sizes['bytes_before']:,} bytes are now {sizes['bytes_after']:,}"
    console().print(f"{arguments.output}: {sizes_text}", markup=False)
