"""What all topologies share: constructors that can be called now or kept as options for later."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec

from adntn.activations import Activation, activation_of
from adntn.generator import Generator
from adntn.network import Network

P = ParamSpec("P")
Shape = Sequence[int]


class Topology(Generic[P]):
    """A constructor of generators: `topology(shape, **options)`, or `topology.options(...)` to build later.

    >>> import adntn
    >>> options = adntn.TTN.options(bond=4)
    >>> options((64, 64)) == adntn.TTN((64, 64), bond=4)
    True
    """

    def __init__(self, name: str, build: Callable[Concatenate[Shape, P], Network]) -> None:
        self.name = name
        self.build = build
        update_wrapper(self, build)
        self.__name__ = self.__qualname__ = name

    def __call__(self, shape: Shape, *args: P.args, **kwargs: P.kwargs) -> Generator:
        """Return the generator of a weight of that shape.

        Raises:
            TypeError: if an option is unknown.
        """
        return self.options(*args, **kwargs)(shape)

    def options(self, *args: P.args, **kwargs: P.kwargs) -> Options:
        """Return the options without a shape: a value to keep, compare, print, pickle, and call with a shape.

        Raises:
            TypeError: if an option is unknown.
        """
        parameters = list(inspect.signature(self.build).parameters.values())[1:]
        try:
            bound = inspect.Signature(parameters).bind(*args, **kwargs)
        except TypeError as error:
            names = ", ".join(parameter.name for parameter in parameters)
            raise TypeError(f"{self.name}: {error}; its options are {names}") from None
        return Options(self, tuple((name, _frozen(value)) for name, value in bound.arguments.items()))

    def __repr__(self) -> str:
        return f"adntn.{self.name}"

    def __reduce__(self) -> str:
        return self.name  # pickled as the name it has in its module


@dataclass(frozen=True)
class Options:
    """A topology with its options, waiting for a shape."""

    topology: Topology[Any]
    arguments: tuple[tuple[str, Any], ...]

    def __call__(self, shape: Shape) -> Generator:
        """Return the generator of a weight of that shape."""
        plain: Callable[..., Network] = self.topology.build
        return Generator(plain(shape, **dict(self.arguments)))

    def __str__(self) -> str:
        return f"{self.topology.name}({', '.join(f'{name}={_shown(value)}' for name, value in self.arguments)})"

    __repr__ = __str__


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, Activation) else repr(value)


def _frozen(value: Any) -> Any:
    """Return lists, mappings and what NumPy makes as tuples and numbers: immutable, hashable, equal if alike."""
    if isinstance(value, Mapping):
        value = tuple(value.items())
    elif hasattr(value, "tolist"):
        value = value.tolist()
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


def topology(name: str) -> Callable[[Callable[Concatenate[Shape, P], Network]], Topology[P]]:
    """Make a public constructor of a function from a shape and options to a network."""
    return lambda build: Topology(name, build)


def per_level(value: Any, count: int, what: str) -> tuple[Any, ...]:
    """Return one value for each of `count` levels: the given sequence, or the given value for all.

    Raises:
        ValueError: if a sequence has another length.
    """
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != count:
            raise ValueError(f"{what} must be one value or a sequence of {count} (one per level), got {len(value)}")
        return tuple(value)
    return (value,) * count


def bonds_per_level(bond: int | Sequence[int], count: int, what: str = "bond") -> tuple[int, ...]:
    """Return the bond dimension of each level, checked.

    Raises:
        ValueError: if one is below 1; where each level has its own, naming the level.
    """
    bonds = per_level(bond, count, what)
    for level, size in enumerate(bonds):
        if isinstance(size, bool) or not hasattr(size, "__index__") or size < 1:
            place = "" if size is bond else f" at level {level}"
            raise ValueError(f"{what} must be an integer of at least 1, got {size!r}{place}")
    return tuple(size.__index__() for size in bonds)


def activations_per_level(
    activation: str | Activation | Sequence[str | Activation], last_activation: str | Activation, count: int
) -> tuple[Activation, ...]:
    """Return the activation of each of `count` levels: `activation` after all but the last, `last_activation` there."""
    last = activation_of(last_activation)
    if count == 0:
        per_level(activation, 0, "activation")
        return ()
    before: Iterable[Any] = per_level(activation, count - 1, "activation (of the levels before the last)")
    checked = tuple(activation_of(one) for one in before)
    if isinstance(activation, str) or not isinstance(activation, Sequence):
        activation_of(activation)  # also where no level takes it: a misspelt name is an error at once
    return (*checked, last)


def choice(value: Any, allowed: Sequence[Any], what: str) -> Any:
    """Return the value if it is one of those allowed.

    Raises:
        ValueError: naming what is allowed.
    """
    if value not in allowed:
        raise ValueError(f"{what} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value


def count_of(value: Any, what: str, least: int = 1) -> int:
    """Return an integer of at least `least`.

    Raises:
        ValueError: if it is none.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
        raise ValueError(f"{what} must be an integer of at least {least}, got {value!r}")
    number: int = value.__index__()
    return number
