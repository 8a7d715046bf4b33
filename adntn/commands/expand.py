"""`adntn expand`: generated weights of a file, dense again."""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path

from adntn.arrays import ITEMSIZES, Array
from adntn.backends import usable_backend
from adntn.commands.output import add_files, check_files, console, shown_progress, subcommand
from adntn.files import Contents, opened, write
from adntn.files.file import in_library, on_host
from adntn.network import SCALE

SUMMARY = "generate the weights of a compressed file, and write a plain file of safetensors"
EXAMPLES = """examples:
  adntn expand small.safetensors model.safetensors
  adntn expand small.safetensors model.safetensors --backend torch --device cuda:0

exit codes: 0 written, 2 bad input
"""


def add(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = subcommand(subcommands, "expand", SUMMARY, EXAMPLES)
    add_files(parser, "a file with generated weights")
    parser.add_argument("--backend", default="numpy", help="the array library that computes (default: numpy)")
    parser.add_argument("--device", help="where it computes, as `adntn backends` names it")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a line")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Generate, write the file, print its size."""
    check_files(arguments)
    with opened(arguments.input) as contents:
        _check_room(contents, arguments.output)
        tensors: dict[str, Array] = {name: contents.array(name) for name in contents.dense}
        tensors |= {name: tensors[one] for name, one in contents.same.items()}
        if doubled := [name for name in contents.weights if name in tensors]:
            raise ValueError(f"{doubled[0]!r} is a generated weight and also a tensor of the file")
        with shown_progress("expand") as progress:
            for number, name in enumerate(contents.weights):
                if progress is not None:
                    progress(number, len(contents.weights), name)
                tensors[name] = _weight(contents, name, arguments)
        write(arguments.output, {}, tensors, metadata=contents.metadata)
    sizes = {"bytes_before": arguments.input.stat().st_size, "bytes_after": arguments.output.stat().st_size}
    if arguments.json:
        print(json.dumps({"file": str(arguments.output), **sizes, "weights": list(contents.weights)}, indent=1))
    else:
        line = f"{arguments.output}: {sizes['bytes_before']:,} bytes are now {sizes['bytes_after']:,}"
        console().print(line, markup=False)
    return 0


def _check_room(contents: Contents, output: Path) -> None:
    """Raise an OSError if the disk has no room: a file of kilobytes may well stand for more than there is."""
    wanted = 0
    for weight in contents.weights.values():
        itemsize = ITEMSIZES[contents.tensors[weight.prefix + SCALE].dtype]
        wanted += math.prod(weight.generator.shape) * itemsize
    if wanted > (free := shutil.disk_usage(output.parent).free):
        raise OSError(f"the generated weights have {wanted:,} bytes, but the disk has room for {free:,}")


def _weight(contents: Contents, name: str, arguments: argparse.Namespace) -> Array:
    library = usable_backend(arguments.backend)
    generator, cores = contents.weights[name].generator, contents.cores(name)
    with library.precision(cores[SCALE].dtype.name):
        device = None if arguments.device is None else library.placed_on(arguments.device)
        placed = {core: in_library(array, library.name, device) for core, array in cores.items()}
        return on_host(generator.weight(placed))
