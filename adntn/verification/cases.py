"""Which generators are verified: every topology with every activation, small enough that all of it takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from adntn.activations import ACTIVATIONS
from adntn.generator import Generator
from adntn.topologies import MERA, TTN, AugmentedTTN, Block, Brickwall, Custom, LowRank, Options, TensorTrain, Tucker

#: The weights' shape: not square, and with a dimension (11) that is padded and cropped wherever legs are factorised.
SHAPE = (16, 11)

_BLOCKS = (("top", "a b", "loop", "b c"), ("left", "a r x", "shared", "x c y z"), ("shared", "y z p q", "leaf", "q k"))
_SIZES = (("a", 2), ("b", 3), ("c", 2), ("x", 3), ("y", 3), ("z", 2), ("p", 3), ("q", 2), ("r", 6), ("k", 11))


def _custom(f: str) -> Options:
    """A loop, a core shared by two blocks, and a leaf that no other topology has."""
    blocks = [Block({one: own, other: its}, activation=f) for one, own, other, its in _BLOCKS]
    return Custom.options(blocks=blocks, sizes=_SIZES, output="r p | k")


#: From an activation to options, for each topology; together they use sharing, batches, both layouts and all borders.
TOPOLOGIES: Mapping[str, Callable[[str], Options]] = {
    "TTN": lambda f: TTN.options(bond=2, leg=1, activation=f, last_activation=f),
    "AugmentedTTN": lambda f: AugmentedTTN.options(bond=2, leg=1, activation=f, mixing_activation=f),
    "MERA": lambda f: MERA.options(bond=2, leg=1, border="periodic", activation=f, mixing_activation=f, batch=2),
    "Brickwall": lambda f: Brickwall.options(depth=2, activation=f, share="level"),
    "TensorTrain": lambda f: TensorTrain.options(depth=2, bond=(3, 2), activation=f),
    "LowRank": lambda f: LowRank.options(rank=3, last_activation=f, batch=2),
    "Tucker": lambda f: Tucker.options(rank=(4, 3), activation=f, last_activation=f),
    "Custom": _custom,
}


@dataclass(frozen=True)
class Case:
    """A generator to verify, and what it is called in the result.

    Attributes:
        topology: its row, or the user's own name of it.
        activation: the activations in it; "identity" if there is no other.
        generator: what is verified.
    """

    topology: str
    activation: str
    generator: Generator

    @property
    def holomorphic(self) -> bool:
        """Whether it takes complex cores."""
        return all(level.activation.holomorphic for level in self.generator.network.levels)

    def takes(self, dtype: str) -> bool:
        """Whether its cores can have that number type."""
        return self.holomorphic or not dtype.startswith("complex")

    def __str__(self) -> str:
        return f"{self.topology}, {self.activation}"


def cases_of(topologies: Sequence[str] | None = None, activations: Sequence[str] | None = None) -> tuple[Case, ...]:
    """Return a case for each of the named topologies with each of the named activations; None for all.

    >>> [str(case) for case in cases_of(["TTN", "MERA"], ["tanh"])]
    ['TTN, tanh', 'MERA, tanh']

    Raises:
        ValueError: if a name is unknown; the message lists those that there are.
    """
    rows = chosen(topologies, TOPOLOGIES, "topologies")
    names = chosen(activations, ACTIVATIONS, "activations")
    return tuple(Case(row, name, TOPOLOGIES[row](name)(SHAPE)) for row in rows for name in names)


def own_cases(generators: Generator | Mapping[str, Generator]) -> tuple[Case, ...]:
    """Return a case for each of a user's own generators.

    Raises:
        TypeError: if one is no generator.
    """
    named = {"generator": generators} if isinstance(generators, Generator) else generators
    if not isinstance(named, Mapping):
        raise TypeError(f"generators must be an adntn.Generator or a mapping of names to them, got {named!r}")
    if wrong := [name for name, own in named.items() if not isinstance(own, Generator)]:
        kind = type(named[wrong[0]]).__name__
        raise TypeError(f"generator {wrong[0]!r} must be an adntn.Generator, got {kind}")
    return tuple(Case(name, _activations(own), own) for name, own in named.items())


def chosen(names: Sequence[str] | None, known: Mapping[str, object] | Sequence[str], what: str) -> tuple[str, ...]:
    """Return the names without repetition; all that are known for None.

    Raises:
        ValueError: if one is unknown, or none is given.
    """
    if names is None:
        return tuple(known)
    if isinstance(names, str) or not names:
        raise ValueError(f"{what} must be a sequence of at least one of {', '.join(known)}; got {names!r}")
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{what} must be among {', '.join(known)}; got {unknown[0]!r}")
    return tuple(dict.fromkeys(names))


def _activations(generator: Generator) -> str:
    used = dict.fromkeys(
        str(level.activation) for level in generator.network.levels if not level.activation.is_identity
    )
    return "+".join(used) or "identity"
