"""To and from `quimb` tensor networks. Indices are joined by name, so blocks of one generator fit one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from adntn.activations import IDENTITY, Activation
from adntn.arrays import Array
from adntn.generator import Generator
from adntn.interop.blocks import ExportedBlock, NamedLevel, check_linear, load, named_levels
from adntn.interop.imported import Piece, custom_generator, output_groups
from adntn.network import BATCH, SCALE

#: Of quimb, which is not imported here.
TensorNetwork = Any


def quimb_blocks(generator: Generator, cores: Mapping[str, Array]) -> tuple[ExportedBlock, ...]:
    """Return the generator's linear blocks as quimb tensor networks, one for each level.

    >>> import adntn
    >>> generator = adntn.TTN((16, 16), leg=2, activation="tanh")
    >>> top, middle, leaves = quimb_blocks(generator, generator.init(0))
    >>> middle.network.num_tensors, middle.inputs, middle.outputs
    (2, ('s0.0', 's0.1'), ('s1.0', 's1.1', 's1.2', 's1.3'))
    >>> state = top.network.contract(output_inds=top.outputs)
    >>> (state | middle.network).contract(output_inds=middle.outputs).shape
    (2, 2, 2, 2)

    Every tensor is tagged with its core's name and its level ("level0" ...): `network.draw(color=["level1"])`. With a
    batch, the index "batch" is on every tensor. The scale is in no block: it multiplies the last state.

    Args:
        generator: whose blocks.
        cores: its cores, which become the tensors' data as they are.

    Raises:
        ImportError: if quimb is not installed.
        KeyError, ValueError, TypeError: if the cores are not the generator's.
    """
    qtn = load("quimb.tensor", "quimb")
    generator.check(cores)
    lead = _lead(generator)
    return tuple(
        ExportedBlock(
            qtn.TensorNetwork(_tensors(qtn, level, number, cores, lead)),
            lead + level.inputs if number > 0 else (),
            lead + level.outputs,
            level.activation,
        )
        for number, level in enumerate(named_levels(generator.network))
    )


def quimb_network(generator: Generator, cores: Mapping[str, Array]) -> ExportedBlock:
    """Return a linear generator as one quimb tensor network, the scale included.

    >>> import adntn, numpy
    >>> generator = adntn.MERA((16, 16), activation="identity")
    >>> cores = generator.init(0, dtype="float64")
    >>> block = quimb_network(generator, cores)
    >>> weight = block.network.contract(output_inds=block.outputs).data.reshape(16, 16)
    >>> numpy.allclose(weight, generator.weight(cores))
    True

    Raises:
        ImportError: if quimb is not installed.
        KeyError, ValueError, TypeError: if the cores are not the generator's, or it is not linear.
    """
    qtn = load("quimb.tensor", "quimb")
    generator.check(cores)
    check_linear(generator, "quimb_blocks")
    lead = _lead(generator)
    levels = named_levels(generator.network)
    tensors = [tensor for number, level in enumerate(levels) for tensor in _tensors(qtn, level, number, cores, lead)]
    scale = qtn.Tensor(cores[SCALE], inds=lead, tags=[SCALE])
    return ExportedBlock(qtn.TensorNetwork([*tensors, scale]), (), lead + levels[-1].outputs, IDENTITY)


def from_quimb(
    networks: TensorNetwork | Sequence[TensorNetwork],
    output: str | Sequence[str | Sequence[str]],
    *,
    shape: Sequence[int] | None = None,
    activations: Sequence[str | Activation] | None = None,
    scale: Array | None = None,
) -> tuple[Generator, dict[str, Array]]:
    """Return a `Custom` generator of a quimb tensor network, or of several with activations between, and its cores.

    >>> import quimb.tensor as qtn
    >>> mera = qtn.MERA.rand(8)
    >>> generator, cores = from_quimb(mera, "k0 k1 k2 k3 | k4 k5 k6 k7")
    >>> generator.weight(cores).shape
    (16, 16)

    An index that two tensors of a network have is summed over, and so is one that a tensor shares with the state that
    the networks before left. A core is named by the first tag that belongs to its array alone, or else "tensor0" ...;
    tensors that so get one name are one shared core. A tensor "scale" without indices becomes the scale.

    Args:
        networks: one for each block; the tensors' arrays become the cores as they are.
        output: the open indices of each of the weight's dimensions, as "k0 k1 | k2 k3" or [["k0", "k1"], ["k2", "k3"]].
        shape: the weight's shape, if it is cropped from the indices' sizes.
        activations: one after each block; none by default.
        scale: the number in front of the weight, an array without axes; 1 by default.

    Raises:
        ImportError: if quimb is not installed.
        TypeError: if something is no tensor network, or the arrays differ in library, number type or device.
        ValueError: if an index dangles, has two sizes, is on one tensor twice or on more than two tensors.
    """
    qtn = load("quimb.tensor", "quimb")
    given = [networks] if isinstance(networks, qtn.TensorNetwork) else list(networks)
    for number, network in enumerate(given):
        if not isinstance(network, qtn.TensorNetwork):
            raise TypeError(f"block {number} must be a quimb TensorNetwork, got {type(network).__name__}")
        if network.exponent:
            raise ValueError(
                f"block {number} holds 10**{network.exponent} outside of its tensors;"
                " call its distribute_exponent() first"
            )
    read = [
        [(tensor.data, tensor) for tensor in network.tensors] for network in given
    ]  # parametrised: a new array each
    names = _names([place for block in read for place in block])
    blocks = [[Piece(next(names), array, tuple(tensor.inds)) for array, tensor in block] for block in read]
    return custom_generator(blocks, output_groups(output), shape, activations, scale)


def _lead(generator: Generator) -> tuple[str, ...]:
    return () if generator.network.batch is None else (BATCH,)


def _tensors(qtn: Any, level: NamedLevel, number: int, cores: Mapping[str, Array], lead: tuple[str, ...]) -> list[Any]:
    return [qtn.Tensor(cores[name], inds=lead + legs, tags=[name, f"level{number}"]) for name, legs in level.places]


def _names(places: Sequence[tuple[Array, Any]]) -> Iterator[str]:
    """Yield each tensor's name: its first tag that stands on tensors of one array only, or else a number."""
    arrays: dict[str, set[int]] = {}
    first: dict[int, int] = {}
    for number, (array, tensor) in enumerate(places):
        first.setdefault(id(array), number)
        for tag in tensor.tags:
            arrays.setdefault(tag, set()).add(id(array))
    for array, tensor in places:
        own = (tag for tag in tensor.tags if len(arrays[tag]) == 1)
        yield next(own, f"tensor{first[id(array)]}")
