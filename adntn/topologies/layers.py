"""What the layers of every framework ask of a topology: the generator of one weight."""

from __future__ import annotations

from collections.abc import Callable

from adntn.generator import Generator
from adntn.topologies.tree import TTN

#: From a weight's shape to its generator: `adntn.TTN.options(bond=4)`, or any function that returns a generator.
TopologyOptions = Callable[[tuple[int, ...]], Generator]

#: What layers take if nothing is said.
DEFAULT_TOPOLOGY: TopologyOptions = TTN.options(bond=4)


def generator_of(topology: TopologyOptions, shape: tuple[int, ...]) -> Generator:
    """Return the generator of a layer's weight.

    >>> generator_of(DEFAULT_TOPOLOGY, (64, 64)).shape
    (64, 64)

    Args:
        topology: the layer's options.
        shape: of the weight.

    Raises:
        TypeError, ValueError: if the options are none, or make something else.
    """
    if not callable(topology):
        raise TypeError(f"topology must be options such as adntn.TTN.options(bond=4), got {topology!r}")
    generator = topology(shape)
    if not isinstance(generator, Generator):
        raise TypeError(
            f"topology must return an adntn.Generator for the shape {shape}, got {type(generator).__name__}"
        )
    if generator.shape != shape:
        raise ValueError(f"topology must generate the shape {shape}, but {topology} generates {generator.shape}")
    return generator
