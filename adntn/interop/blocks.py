"""What exports share: the blocks of a generator with a name for every leg, which other libraries join by name."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from adntn.activations import Activation
from adntn.generator import Generator
from adntn.network import BATCH, Level, Network


@dataclass(frozen=True, eq=False)
class ExportedBlock:
    """A linear block as another library's network; its cores are the caller's own arrays.

    Attributes:
        network: a `quimb.tensor.TensorNetwork`, or a tuple of `tensornetwork` nodes.
        inputs: names of the legs of the state before the block, in the order of its axes; empty for the first block.
        outputs: names of the legs of the state after it. Those of the last block are in row-major order of the weight,
            so that the weight is the scale times the last state, reshaped and cropped. A leg in both `inputs` and
            `outputs` that is on no tensor passes by the block.
        activation: the pointwise map after the block.
    """

    network: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    activation: Activation


@dataclass(frozen=True)
class NamedLevel:
    """A level whose legs have names that are unique in the whole generator.

    Attributes:
        places: a core's name and the names of its legs, for each place of the level.
        inputs: names of the legs of the state before.
        outputs: names of the legs of the state after.
        activation: the pointwise map after the level.
    """

    places: tuple[tuple[str, tuple[str, ...]], ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    activation: Activation


def output_legs(generator: Generator) -> tuple[tuple[str, ...], ...]:
    """Return the names of the legs of each of the weight's dimensions, as exports name them and imports want them.

    >>> import adntn
    >>> adntn.interop.output_legs(adntn.TTN((4, 6), leg=2))
    (('s1.0', 's1.2'), ('s1.1', 's1.3'))
    """
    names = iter(named_levels(generator.network)[-1].outputs)
    return tuple(tuple(next(names) for _ in legs) for legs in generator.network.layout.factors)


def named_levels(network: Network) -> tuple[NamedLevel, ...]:
    """Return the levels with names for the legs: their labels, with the level's number where a label comes again."""
    taken = set() if network.batch is None else {BATCH}
    state: dict[str, str] = {}
    levels = []
    for number, level in enumerate(network.levels):
        names = dict(state)
        for label in _new_labels(level, state):
            name = label if label not in taken else f"{label}@{number}"
            while name in taken:
                name += "'"
            taken.add(name)
            names[label] = name
        places = tuple((node.core, tuple(names[leg.label] for leg in node.legs)) for node in level.nodes)
        after = {leg.label: names[leg.label] for leg in level.output}
        levels.append(NamedLevel(places, tuple(state.values()), tuple(after.values()), level.activation))
        state = after
    in_weight = sorted(zip(network.layout.rank_in_weight, state.values(), strict=True))
    last = levels[-1]
    levels[-1] = NamedLevel(last.places, last.inputs, tuple(name for _, name in in_weight), last.activation)
    return tuple(levels)


def _new_labels(level: Level, state: dict[str, str]) -> list[str]:
    labels = dict.fromkeys(leg.label for node in level.nodes for leg in node.legs)
    return [label for label in labels if label not in state]


def check_linear(generator: Generator, instead: str) -> None:
    """Check that no level has an activation.

    Raises:
        ValueError: naming the level, and what to call instead.
    """
    for number, level in enumerate(generator.network.levels):
        if not level.activation.is_identity:
            raise ValueError(
                f"only a linear generator is one network, but level {number} ends with {level.activation};"
                f" use {instead}"
            )


def load(module: str, library: str) -> Any:
    """Return another library's module.

    Raises:
        ImportError: if it is not installed, saying what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'{library} cannot be imported ({error}); try: pip install "adntn[{library}]"') from error
