"""To and from `tensornetwork` (the distribution tensornetwork-ng): nodes joined by edges, open edges with names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any

from adntn.activations import IDENTITY, Activation
from adntn.arrays import Array, backend_of
from adntn.generator import Generator
from adntn.interop.blocks import ExportedBlock, NamedLevel, check_linear, load, named_levels
from adntn.interop.imported import Piece, custom_generator, output_groups
from adntn.network import SCALE

#: Of tensornetwork, which is not imported here.
TNode = Any
TEdge = Any
#: What tensornetwork calls the array libraries.
BACKENDS = {"numpy": "numpy", "torch": "pytorch", "jax": "jax"}
#: Names of nodes and edges to which nobody gave one.
UNNAMED = ("__unnamed_node__", "__unnamed_edge__")


def tensornetwork_blocks(generator: Generator, cores: Mapping[str, Array]) -> tuple[ExportedBlock, ...]:
    """Return the generator's linear blocks as nodes of tensornetwork, joined inside each level.

    >>> import adntn, tensornetwork
    >>> generator = adntn.TTN((16, 16), leg=2, activation="tanh")
    >>> top, middle, leaves = tensornetwork_blocks(generator, generator.init(0))
    >>> edges = open_edges(middle.network)
    >>> list(edges)
    ['s0.0', 's1.0', 's1.1', 's0.1', 's1.2', 's1.3']
    >>> for name, edge in open_edges(top.network).items():
    ...     _ = edge ^ edges.pop(name)
    >>> state = tensornetwork.contractors.auto([*top.network, *middle.network], [edges[leg] for leg in middle.outputs])
    >>> state.tensor.shape
    (2, 2, 2, 2)

    Nodes have the names of their cores, edges and axes those of the legs. The scale is in no block: it multiplies the
    last state.

    Args:
        generator: whose blocks; one without a batch.
        cores: its cores, which become the nodes' tensors as they are.

    Raises:
        ImportError: if tensornetwork is not installed.
        KeyError, TypeError: if the cores are not the generator's.
        ValueError: if the generator has a batch, or tensornetwork does not know the array library.
    """
    tn, backend = _prepared(generator, cores)
    return tuple(
        ExportedBlock(_joined(tn, _nodes(tn, level, cores, backend)), level.inputs, level.outputs, level.activation)
        for level in named_levels(generator.network)
    )


def tensornetwork_network(generator: Generator, cores: Mapping[str, Array]) -> ExportedBlock:
    """Return a linear generator as the nodes of one network of tensornetwork, the scale included.

    >>> import adntn, numpy, tensornetwork
    >>> generator = adntn.MERA((16, 16), activation="identity")
    >>> cores = generator.init(0, dtype="float64")
    >>> block = tensornetwork_network(generator, cores)
    >>> edges = open_edges(block.network)
    >>> state = tensornetwork.contractors.auto(block.network, [edges[leg] for leg in block.outputs])
    >>> numpy.allclose(state.tensor.reshape(16, 16), generator.weight(cores))
    True

    Raises:
        ImportError: if tensornetwork is not installed.
        KeyError, TypeError: if the cores are not the generator's.
        ValueError: if the generator has a batch or is not linear, or tensornetwork does not know the array library.
    """
    tn, backend = _prepared(generator, cores)
    check_linear(generator, "tensornetwork_blocks")
    levels = named_levels(generator.network)
    nodes = [node for level in levels for node in _nodes(tn, level, cores, backend)]
    scale = tn.Node(cores[SCALE], name=SCALE, backend=backend)
    return ExportedBlock(_joined(tn, [*nodes, scale]), (), levels[-1].outputs, IDENTITY)


def open_edges(nodes: Iterable[TNode]) -> dict[str, TEdge]:
    """Return the dangling edges of nodes by name, in the order of the nodes and their axes."""
    return {edge.name: edge for node in nodes for edge in node.edges if edge.is_dangling()}


def from_tensornetwork(
    nodes: Iterable[TNode] | Sequence[Iterable[TNode]],
    output: str | Sequence[str | TEdge | Sequence[str | TEdge]],
    *,
    shape: Sequence[int] | None = None,
    activations: Sequence[str | Activation] | None = None,
    scale: Array | None = None,
) -> tuple[Generator, dict[str, Array]]:
    """Return a `Custom` generator of nodes of tensornetwork, with activations between blocks of them, and its cores.

    >>> import numpy, tensornetwork
    >>> left, right = (tensornetwork.Node(numpy.ones((4, 2)), name=name) for name in ("left", "right"))
    >>> bond = left[1] ^ right[1]
    >>> generator, cores = from_tensornetwork([left, right], output=[left[0], right[0]])
    >>> generator.shape, generator.core_shapes
    ((4, 4), {'left': (4, 2), 'right': (4, 2), 'scale': ()})

    An edge between nodes of different blocks is a leg of the states between them; so are dangling edges of different
    blocks that have one name. Nodes of one name that hold one array are one shared core. A node "scale" without edges
    becomes the scale.

    Args:
        nodes: of one block, or for each block; their tensors become the cores as they are.
        output: the open edges of each of the weight's dimensions, themselves or by name: [[a, b], [c]] or "a b | c". An
            edge without a name has that of its node and axis, such as "left.0".
        shape: the weight's shape, if it is cropped from the edges' sizes.
        activations: one after each block; none by default.
        scale: the number in front of the weight, an array without axes; 1 by default.

    Raises:
        ImportError: if tensornetwork is not installed.
        TypeError: if something is no node, or the tensors differ in library, number type or device.
        ValueError: if an edge dangles, leads to other nodes, joins a node to itself or joins more than two nodes, or if
            nodes of one name hold different tensors.
    """
    tn = load("tensornetwork", "tensornetwork")
    blocks = _blocks(tn, nodes)
    names = _names(blocks)
    labels = _labels(blocks, names)
    pieces = [
        [Piece(names[node], node.tensor, tuple(labels[edge] for edge in node.edges)) for node in block]
        for block in blocks
    ]
    return custom_generator(pieces, _output(output, labels), shape, activations, scale)


def _prepared(generator: Generator, cores: Mapping[str, Array]) -> tuple[Any, str]:
    """Return the module and its name for the cores' library."""
    tn = load("tensornetwork", "tensornetwork")
    generator.check(cores)
    if generator.network.batch is not None:
        raise ValueError(
            f"tensornetwork joins an edge to two nodes only, but the batch axis of {generator.network.batch} weights is"
            " on every core; use quimb, or a generator without batch for each weight"
        )
    backend = backend_of(cores[SCALE])
    if backend not in BACKENDS:
        raise ValueError(f"tensornetwork knows arrays of {', '.join(BACKENDS)}, but the cores are of {backend}")
    return tn, BACKENDS[backend]


def _nodes(tn: Any, level: NamedLevel, cores: Mapping[str, Array], backend: str) -> list[TNode]:
    nodes = []
    for name, legs in level.places:
        node = tn.Node(cores[name], name=name, axis_names=list(legs), backend=backend)
        for leg in legs:
            node[leg].name = leg
        nodes.append(node)
    return nodes


def _joined(tn: Any, nodes: list[TNode]) -> tuple[TNode, ...]:
    """Connect the dangling edges that have one name."""
    loose: dict[str, TEdge] = {}
    for node in nodes:
        for edge in list(node.edges):
            if edge.name in loose:
                tn.connect(loose.pop(edge.name), edge, name=edge.name)
            else:
                loose[edge.name] = edge
    return tuple(nodes)


def _blocks(tn: Any, nodes: Iterable[Any]) -> list[list[TNode]]:
    """Return the nodes of each block, each of them a node that has no other place."""
    given = list(nodes)
    if all(isinstance(item, tn.AbstractNode) for item in given):
        given = [given]
    blocks = [list(block) if isinstance(block, Iterable) else [block] for block in given]
    every = [(number, node) for number, block in enumerate(blocks) for node in block]
    for number, node in every:
        if not isinstance(node, tn.AbstractNode):
            raise TypeError(f"block {number} must hold tensornetwork nodes, got {type(node).__name__}")
        if isinstance(node, tn.CopyNode):
            raise ValueError(f"node {node.name!r} of block {number} is a copy node, which joins more than two tensors")
    if twice := [node for node, times in Counter(node for _, node in every).items() if times > 1]:
        raise ValueError(f"node {twice[0].name!r} is given twice")
    return blocks


def _names(blocks: list[list[TNode]]) -> dict[TNode, str]:
    """Return the nodes' own names, numbers where they have none."""
    nodes = [node for block in blocks for node in block]
    return {node: f"node{place}" if node.name in UNNAMED else node.name for place, node in enumerate(nodes)}


def _labels(blocks: list[list[TNode]], names: Mapping[TNode, str]) -> dict[TEdge, str]:
    """Return a label for every edge: unique, except that dangling edges of different blocks may share a name."""
    labels: dict[TEdge, str] = {}
    for number, block in enumerate(blocks):
        here: dict[str, str] = {}
        for node in block:
            for axis, edge in enumerate(node.edges):
                where = f"node {names[node]!r} of block {number}"
                _check_edge(edge, names, f"{where}: edge {edge.name!r} of axis {axis}")
                if edge.is_dangling():
                    label = f"{names[node]}.{node.axis_names[axis]}" if edge.name in UNNAMED else edge.name
                    if label in here:
                        raise ValueError(f"{where} has a dangling edge {label!r}, and so has node {here[label]!r}")
                    here[label], labels[edge] = names[node], label
    taken = set(labels.values())
    free = (label for place in count() if (label := f"bond{place}") not in taken)
    for block in blocks:
        for edge in (edge for node in block for edge in node.edges if edge not in labels):
            labels[edge] = next(free) if edge.name in UNNAMED or edge.name in taken else edge.name
            taken.add(labels[edge])
    return labels


def _check_edge(edge: TEdge, names: Mapping[TNode, str], where: str) -> None:
    if edge.is_trace():
        raise ValueError(f"{where} joins the node to itself; contract it first")
    for node in edge.get_nodes():
        if node is not None and node not in names:
            raise ValueError(f"{where} leads to node {node.name!r}, which is not among the nodes given")


def _output(output: Any, labels: Mapping[TEdge, str]) -> tuple[tuple[str, ...], ...]:
    """Return the labels of each dimension, with edges replaced by their labels."""
    if isinstance(output, str):
        return output_groups(output)

    def label(item: Any) -> str:
        if not isinstance(item, str) and item not in labels:
            raise ValueError(f"output names the edge {item}, which no node has")
        return item if isinstance(item, str) else labels[item]

    groups = [group if isinstance(group, str | Sequence) else [group] for group in output]
    return output_groups([group if isinstance(group, str) else [label(item) for item in group] for group in groups])
