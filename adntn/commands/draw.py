"""`adntn draw`: the networks of a file as text or pictures, what they cost, weights as images; curves of a training."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from adntn import drawing
from adntn.arrays import ITEMSIZES
from adntn.commands.output import console, subcommand, writable
from adntn.drawing import Drawing
from adntn.drawing.drawing import check_file, painting
from adntn.drawing.records import is_readable
from adntn.files import Contents, opened
from adntn.network import SCALE

SUMMARY = "print the networks of a file level by level, or draw them, their costs, weights, or the curves of a training"
EXAMPLES = """examples:
  adntn draw small.safetensors
  adntn draw small.safetensors --weight classifier.0 --out network.svg
  adntn draw small.safetensors --weight classifier.0 --what costs --out costs.svg
  adntn draw small.safetensors --weight classifier.0 --what weight --out weight.png
  adntn draw metrics.jsonl --out curves.svg

A weight may be named by its layer or by any part of its name that no other has. Curves come from the lines that
adntn_torch.training.run(metrics=...) writes (.jsonl), or from a table of Lightning's CSVLogger (.csv). Pictures need
matplotlib: pip install "adntn[drawing]".

exit codes: 0 done, 2 bad input
"""
KINDS = ("network", "costs", "weight")


def add(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = subcommand(subcommands, "draw", SUMMARY, EXAMPLES)
    parser.add_argument("file", type=Path, metavar="FILE", help="a file with generated weights, or of a training")
    parser.add_argument("--weight", metavar="NAME", help="which weight; by default all, for a picture the only one")
    parser.add_argument("--what", choices=KINDS, default=KINDS[0], help=f"of the weight (default: {KINDS[0]})")
    parser.add_argument("--out", type=writable, metavar="FILE", help="the picture to write: .svg or .png")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print each network under the names of the weights that it makes, or write a picture."""
    is_record = is_readable(arguments.file)
    if is_record and (arguments.weight is not None or arguments.what != KINDS[0]):
        raise ValueError(f"--weight and --what are for files with weights; {arguments.file} is of a training")
    if arguments.out is None:
        if is_record or arguments.what != "network":
            raise ValueError("--out must name the picture to write, such as --out picture.svg")
        return _print(arguments)
    check_file(arguments.out)
    painting()  # better now than after the work
    if is_record:
        drawn = drawing.curves(arguments.file, title=arguments.file.name)
    else:
        with opened(arguments.file) as contents:
            drawn = _drawn(contents, _only(contents.weights, arguments.weight), arguments.what)
    drawn.save(arguments.out)
    console().print(f"{arguments.out}: {drawn!r}", markup=False)
    return 0


def _print(arguments: argparse.Namespace) -> int:
    with opened(arguments.file) as contents:
        names: dict[str, list[str]] = {}
        wanted = None if arguments.weight is None else named(arguments.weight, contents.weights)
        for name, weight in contents.weights.items():
            if wanted in (None, name):
                names.setdefault(str(weight.generator), []).append(name)
    out = console()
    for network, of in names.items():
        out.print("\n".join((*of, network)), markup=False)
    return 0


def _only(weights: Iterable[str], given: str | None) -> str:
    names = list(weights)
    if given is not None:
        return named(given, names)
    if len(names) > 1:
        raise ValueError(f"--weight must name one of {', '.join(names)}: a picture has one")
    return names[0]


def _drawn(contents: Contents, name: str, what: str) -> Drawing:
    weight = contents.weights[name]
    if what == "weight":
        return drawing.weight(weight.generator, contents.cores(name))
    if what == "costs":
        return drawing.costs(weight.generator, itemsize=ITEMSIZES[contents.tensors[weight.prefix + SCALE].dtype])
    return drawing.network(weight.generator)


def named(given: str, names: Iterable[str]) -> str:
    """Return the one name that is meant: by the whole, by its layer, or by a part that no other has.

    >>> named("body.1", ["body.1.weight", "body.11.weight"]), named("head", ["body.weight", "head.out.weight"])
    ('body.1.weight', 'head.out.weight')

    Raises:
        ValueError: if there is none, or more than one.
    """
    known = list(names)
    matches = (
        [name for name in known if name == given],
        [name for name in known if name == f"{given}.weight"],
        [name for name in known if given in name],
    )
    found = next((one for one in matches if one), [])
    if not found:
        raise ValueError(f"--weight must be one of {', '.join(known)}, got {given!r}")
    if len(found) > 1:
        raise ValueError(f"--weight {given!r} could be any of {', '.join(found)}")
    return found[0]
