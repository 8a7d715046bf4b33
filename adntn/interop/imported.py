"""What imports share: tensors with labelled legs, checked before anything is built, become a `Custom` generator."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adntn.activations import Activation, activation_of
from adntn.arrays import Array, check_alike, namespace_of
from adntn.generator import Generator
from adntn.network import SCALE
from adntn.topologies.custom import Block, Custom


@dataclass(frozen=True, eq=False)
class Piece:
    """A tensor of another library's network: the name of its core, its array, and the label of each axis."""

    name: str
    array: Array
    legs: tuple[str, ...]

    @property
    def sizes(self) -> tuple[tuple[str, int], ...]:
        """Each leg's label and size."""
        return tuple(zip(self.legs, (int(size) for size in self.array.shape), strict=True))


Groups = tuple[tuple[str, ...], ...]


def output_groups(output: str | Sequence[str | Sequence[str]]) -> Groups:
    """Return the labels of each dimension, given as "a b | c", ["a b", "c"] or [["a", "b"], ["c"]]."""
    groups = output.split("|") if isinstance(output, str) else output
    return tuple(tuple(group.split() if isinstance(group, str) else group) for group in groups)


def custom_generator(
    blocks: Sequence[Sequence[Piece]],
    output: Groups,
    shape: Sequence[int] | None,
    activations: Sequence[str | Activation] | None,
    scale: Array | None,
) -> tuple[Generator, dict[str, Array]]:
    """Return the generator of blocks of tensors, and its cores: the arrays as they are.

    Raises:
        TypeError: if the arrays differ in library, number type or device.
        ValueError: if tensors, legs, output or activations do not fit; the message names tensor and leg.
    """
    if not blocks:
        raise ValueError("networks must hold at least one block, got none")
    maps = _activations(activations, len(blocks))
    scales = [piece for piece in blocks[-1] if piece.name == SCALE and not piece.legs]
    if scales and maps[-1].is_identity:
        if scale is not None or len(scales) > 1:
            raise ValueError(f"the last block has a tensor {SCALE!r}, so no other scale can be given")
        scale = scales[0].array
        blocks = [*blocks[:-1], [piece for piece in blocks[-1] if piece not in scales]]
    cores = _cores(blocks)
    sizes = _checked_sizes(blocks, output)
    check_alike(cores, "tensors")
    cores[SCALE] = _one(next(iter(cores.values()))) if scale is None else scale
    generator = Custom(
        [math.prod(sizes[label] for label in group) for group in output] if shape is None else shape,
        blocks=[
            Block([(piece.name, " ".join(piece.legs)) for piece in block], activation)
            for block, activation in zip(blocks, maps, strict=True)
        ],
        sizes=sizes,
        output=" | ".join(" ".join(group) for group in output),
    )
    generator.check(cores)
    return generator, {name: cores[name] for name in generator.core_shapes}


def _activations(activations: Sequence[str | Activation] | None, count: int) -> tuple[Activation, ...]:
    given = ("identity",) * count if activations is None else activations
    if isinstance(given, str | Activation) or len(given) != count:
        raise ValueError(f"activations must be a sequence with one for each of the {count} blocks, got {activations!r}")
    return tuple(activation_of(activation) for activation in given)


def _one(array: Array) -> Array:
    """Return the number 1 as an array of the same library, number type and device."""
    functions = namespace_of([array])
    return functions.zeros_like(functions.reshape(array, (-1,))[0]) + 1


def _cores(blocks: Sequence[Sequence[Piece]]) -> dict[str, Array]:
    """Return the array of each name."""
    cores: dict[str, Array] = {}
    for number, block in enumerate(blocks):
        if not block:
            raise ValueError(f"block {number} holds no tensor")
        for piece in block:
            if not hasattr(piece.array, "shape") or not hasattr(piece.array, "dtype"):
                raise TypeError(
                    f"tensor {piece.name!r} of block {number} must hold an array, got {type(piece.array).__name__}"
                )
            if piece.name == SCALE:
                raise ValueError(
                    f"tensor {SCALE!r} of block {number} must be the number in front of the weight: without legs, in"
                    " the last block, with no activation after it; rename any other"
                )
            if cores.setdefault(piece.name, piece.array) is not piece.array:
                raise ValueError(f"tensor {piece.name!r} of block {number} has the name of another, different tensor")
    return cores


def _checked_sizes(blocks: Sequence[Sequence[Piece]], output: Groups) -> dict[str, int]:
    """Return the size of every label, having checked that legs fit and that `output` names those that stay open."""
    sizes: dict[str, int] = {}
    state: dict[str, str] = {}
    for number, block in enumerate(blocks):
        state = _through(number, block, state, sizes)
    wanted = Counter(label for group in output for label in group)
    for label, times in wanted.items():
        if times > 1:
            raise ValueError(f"output names the leg {label!r} {times} times")
        if label not in state:
            reason = "is summed over" if label in sizes else "is on no tensor"
            raise ValueError(f"output names the leg {label!r}, which {reason}; the open legs are {', '.join(state)}")
    for label, holder in state.items():
        if label not in wanted:
            raise ValueError(f"{holder} has the open leg {label!r}, which output does not name")
    return sizes


def _through(number: int, block: Sequence[Piece], state: Mapping[str, str], sizes: dict[str, int]) -> dict[str, str]:
    """Return the legs that are open after a block, each with the tensor that holds it; record the sizes."""
    holders = {label: [holder] for label, holder in state.items()}
    for piece in block:
        where = f"tensor {piece.name!r} of block {number}"
        if traced := [label for label, times in Counter(piece.legs).items() if times > 1]:
            raise ValueError(f"{where} is joined to itself by the leg {traced[0]!r}; trace it first")
        for label, size in piece.sizes:
            if not isinstance(label, str) or not label or "|" in label or label.split() != [label]:
                raise ValueError(f'{where} has the leg {label!r}: names of legs must be without spaces and "|"')
            if sizes.setdefault(label, size) != size:
                others = holders.get(label, ["another block"])
                raise ValueError(
                    f"{where} has the leg {label!r} of size {size}, but it is {sizes[label]} in {others[0]}"
                )
            holders.setdefault(label, []).append(where)
            if len(holders[label]) > 2:
                raise ValueError(f"the leg {label!r} joins more than two tensors: {', '.join(holders[label])}")
    return {label: owners[0] for label, owners in holders.items() if len(owners) == 1}
