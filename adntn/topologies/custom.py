"""Custom: any list of blocks, given by the cores' names and the labels of their legs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from adntn.activations import Activation, activation_of
from adntn.network import Core, Leg, Level, Network, Node
from adntn.shapes import Layout, checked_shape, layout_of
from adntn.topologies.topology import Shape, topology


@dataclass(frozen=True, init=False)
class Block:
    """A linear block of named cores and the activation after it.

    >>> Block({"left": "a r", "right": "b c"}, activation="tanh")
    Block(cores=(('left', ('a', 'r')), ('right', ('b', 'c'))), activation='tanh')

    Attributes:
        cores: the labels of each core's legs, separated by spaces; the order is that of the core's axes. Pairs of name
            and labels, instead of a mapping, let a shared core stand at several places of the block.
        activation: name or `adntn.Activation`.
    """

    cores: tuple[tuple[str, tuple[str, ...]], ...]
    activation: str | Activation

    def __init__(
        self, cores: Mapping[str, str] | Iterable[tuple[str, str]], activation: str | Activation = "identity"
    ) -> None:
        places = cores.items() if isinstance(cores, Mapping) else cores
        object.__setattr__(self, "cores", tuple((name, tuple(labels.split())) for name, labels in places))
        object.__setattr__(self, "activation", activation)


@topology("Custom")
def Custom(  # noqa: N802 (a constructor, named like the others)
    shape: Shape,
    *,
    blocks: Sequence[Block],
    sizes: Sequence[tuple[str, int]] | Mapping[str, int],
    output: str,
    batch: int | None = None,
) -> Network:
    """Return a network of blocks of one's own.

    >>> import adntn
    >>> generator = adntn.Custom(
    ...     (6, 4),
    ...     blocks=[
    ...         adntn.Block({"top": "a b"}, activation="tanh"),
    ...         adntn.Block({"left": "a r1 c1", "right": "b r2 c2"}),
    ...     ],
    ...     sizes={"a": 2, "b": 2, "r1": 2, "r2": 3, "c1": 2, "c2": 2},
    ...     output="r1 r2 | c1 c2",
    ... )
    >>> generator.core_shapes["right"]
    (2, 3, 2)

    Inside a block, a label that two cores share, or a core and the state that the block before left, is summed over;
    the others are the legs of the state that it leaves. A core name that comes again is the same core, shared.

    Args:
        shape: the weight's shape.
        blocks: at least one.
        sizes: the number of values of every label.
        output: the labels of the last state's legs, grouped by "|" into the dimensions of the shape; a group's product
            may be larger than the dimension, which is then cropped.
        batch: generate that many weights along a leading axis.

    Raises:
        ValueError: if labels dangle or do not fit; the message names the block, the core and the label.
    """
    if not blocks:
        raise ValueError("blocks must hold at least one block, got none")
    if isinstance(blocks, Block) or not all(isinstance(block, Block) for block in blocks):
        raise TypeError(f"blocks must be a sequence of adntn.Block, got {blocks!r}")
    values = dict(sizes)
    layout, labels = _layout(shape, output, values)
    cores: dict[str, Core] = {}
    levels: list[Level] = []
    state: tuple[Leg, ...] = ()
    for number, block in enumerate(blocks):
        nodes = []
        known = set(state)
        for name, own in block.cores:
            legs = tuple(_leg(label, values, f"core {name!r} of block {number}") for label in own)
            inputs = tuple(axis for axis, leg in enumerate(legs) if leg in known)
            core = cores.setdefault(name, Core(name, tuple(leg.size for leg in legs), inputs))
            if core.shape != tuple(leg.size for leg in legs):
                raise ValueError(f"core {name!r} has the shape {core.shape}, but in block {number} its legs are {legs}")
            known.update(legs)
            nodes.append(Node(name, legs))
        state = _open(state, nodes)
        if number == len(blocks) - 1:
            state = _ordered(state, labels, values)
        levels.append(Level(tuple(nodes), state, activation_of(block.activation)))
    return Network("Custom", layout, tuple(cores.values()), tuple(levels), batch)


def _layout(shape: Shape, output: str, sizes: Mapping[str, int]) -> tuple[Layout, list[str]]:
    dimensions = checked_shape(shape)
    groups = [group.split() for group in output.split("|")]
    if len(groups) != len(dimensions):
        raise ValueError(f'output must have {len(dimensions)} groups of labels separated by "|", got {output!r}')
    factors = [[_leg(label, sizes, f"output {output!r}").size for label in group] for group in groups]
    for dimension, (size, legs) in enumerate(zip(dimensions, factors, strict=True)):
        if math.prod(legs) < size:
            raise ValueError(
                f"output {output!r} gives dimension {dimension} legs of {legs}: their product must be at least {size}"
            )
    return layout_of(dimensions, factors=factors), [label for group in groups for label in group]


def _leg(label: str, sizes: Mapping[str, int], where: str) -> Leg:
    if label not in sizes:
        raise ValueError(f"sizes lacks the label {label!r} of {where}")
    size = sizes[label]
    if isinstance(size, bool) or not hasattr(size, "__index__") or size < 1:
        raise ValueError(f"the size of label {label!r} must be an integer of at least 1, got {size!r}")
    return Leg(label, size)


def _open(state: tuple[Leg, ...], nodes: Sequence[Node]) -> tuple[Leg, ...]:
    count = Counter([*state, *(leg for node in nodes for leg in node.legs)])
    return tuple(leg for leg, times in count.items() if times == 1)


def _ordered(state: tuple[Leg, ...], labels: Sequence[str], sizes: Mapping[str, int]) -> tuple[Leg, ...]:
    if {leg.label for leg in state} != set(labels) or len(labels) != len(state):
        raise ValueError(
            f"output must name the legs that the last block leaves, {' '.join(map(str, state))}; got {' '.join(labels)}"
        )
    return tuple(Leg(label, sizes[label]) for label in labels)
