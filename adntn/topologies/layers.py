"""What the layers of every framework ask of a topology: the generator of one weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adntn.generator import Generator
from adntn.topologies.tree import TTN

#: From a weight's shape to its generator: `adntn.TTN.options(bond=4)`, or any function that returns a generator.
TopologyOptions = Callable[[tuple[int, ...]], Generator]

#: What layers take if nothing is said.
DEFAULT_TOPOLOGY: TopologyOptions = TTN.options(bond=4)


def check_no_topology(**arguments: Any) -> None:
    """Check that no other argument of a layer is a topology, as happens by position: most libraries take anything.

    >>> check_no_topology(bias=TTN.options(bond=2))
    Traceback (most recent call last):
    TypeError: bias must not be a topology: give it by name, topology=TTN(bond=2)

    Raises:
        TypeError: if one is a topology, or any other function.
    """
    for name, value in arguments.items():
        if callable(value):
            raise TypeError(f"{name} must not be a topology: give it by name, topology={value!r}")


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
