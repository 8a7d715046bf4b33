"""Programs: what is computed, as immutable values of two kinds of step. Printed, they read as formulas.

`Contract` joins two tensors over the legs that they share and the result lacks; `Pointwise` maps numbers one by one.
Which shapes and transposes a contraction takes is its matrix form (`matrix_form`); `run` runs programs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from adntn.activations import Activation, Map
from adntn.network import Leg
from adntn.program.matrix_form import MatrixForm, matrix_form

#: Kinds of pointwise maps.
Kind = Literal["map", "adjoint", "tangent", "add"]


@dataclass(frozen=True)
class Tensor:
    """A named value and the leg that each of its axes is; a core used twice is one name with two sets of legs."""

    name: str
    legs: tuple[Leg, ...]
    size: int = field(init=False, repr=False, compare=False)  #: number of elements

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", math.prod(leg.size for leg in self.legs))

    def __str__(self) -> str:
        return f"{self.name}[{' '.join(map(str, self.legs))}]"


@dataclass(frozen=True)
class Contract:
    """out = sum of left * right over the legs that both have and out lacks; a factor may be conjugated first."""

    out: Tensor
    left: Tensor
    right: Tensor
    conjugate: tuple[bool, bool] = (False, False)
    form: MatrixForm = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "form", matrix_form(self.left.legs, self.right.legs, self.out.legs))

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The tensors that the step reads."""
        return self.left, self.right

    def renamed(self, old: str, new: str) -> Contract:
        """Return the step reading `new` where it read `old`."""
        left, right = (Tensor(new, tensor.legs) if tensor.name == old else tensor for tensor in self.inputs)
        return Contract(self.out, left, right, self.conjugate)

    @property
    def summed(self) -> tuple[Leg, ...]:
        """The legs that are summed over."""
        return tuple(leg for leg in self.left.legs if leg not in self.out.legs)

    def __str__(self) -> str:
        left, right = (
            f"conj({tensor})" if conjugate else str(tensor)
            for tensor, conjugate in zip(self.inputs, self.conjugate, strict=True)
        )
        over = f"sum_{{{' '.join(map(str, self.summed))}}} " if self.summed else ""
        return f"{self.out} = {over}{left} {right}"


@dataclass(frozen=True)
class Pointwise:
    """A map of numbers, one by one.

    Kinds: "map" is f(first input); "adjoint" is first input * conj(f'(second input)), the second being what f' is
    written from; "tangent" is first input * f'(second input), for each value of a leg that only the first may have;
    "add" is the sum of both inputs.
    """

    kind: Kind
    out: Tensor
    inputs: tuple[Tensor, ...]
    activation: Activation | None = None
    repeats: tuple[int, int, int] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "repeats", _repeats(self.inputs[0].legs, self.inputs[-1].legs))

    @property
    def overwrite(self) -> Map | None:
        """How the map is written over its argument, where it can be."""
        return None if self.activation is None or self.kind != "map" else self.activation.overwrite

    def renamed(self, old: str, new: str) -> Pointwise:
        """Return the step reading `new` where it read `old`."""
        inputs = tuple(Tensor(new, tensor.legs) if tensor.name == old else tensor for tensor in self.inputs)
        return Pointwise(self.kind, self.out, inputs, self.activation)

    def __str__(self) -> str:
        first, *rest = (tensor.name for tensor in self.inputs)
        if self.kind == "map":
            return f"{self.out} = {self.activation}({first})"
        kept = "y" if self.activation is not None and self.activation.derivative_of == "output" else "z"
        if self.kind == "adjoint":
            return f"{self.out} = {first} * conj({self.activation}'({kept} = {rest[0]}))"
        if self.kind == "tangent":
            return f"{self.out} = {first} * {self.activation}'({kept} = {rest[0]})"
        return f"{self.out} = {first} + {rest[0]}"


def _repeats(first: tuple[Leg, ...], last: tuple[Leg, ...]) -> tuple[int, int, int] | None:
    """Return how many values the legs before, of and after the leg have that only `first` has; None without it."""
    if len(first) == len(last):
        return None
    place = next((place for place, leg in enumerate(last) if leg != first[place]), len(last))
    before, count, after = (
        math.prod(leg.size for leg in part) for part in (first[:place], first[place : place + 1], first[place + 1 :])
    )
    return before, count, after


Step = Contract | Pointwise


@dataclass(frozen=True)
class Program:
    """Steps from named inputs to named outputs, in order.

    Attributes:
        inputs: the tensors that must be given.
        steps: each reads inputs or earlier results and makes one new tensor.
        outputs: what is returned.
    """

    inputs: tuple[Tensor, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Tensor, ...]

    @cached_property
    def input_names(self) -> frozenset[str]:
        """The names of the inputs."""
        return frozenset(tensor.name for tensor in self.inputs)

    @cached_property
    def releases(self) -> tuple[tuple[str, ...], ...]:
        """For each step, the names that nobody reads after it."""
        needed = {tensor.name for tensor in self.outputs}
        releases: list[tuple[str, ...]] = []
        for step in reversed(self.steps):
            names = dict.fromkeys([*(tensor.name for tensor in step.inputs), step.out.name])
            releases.append(tuple(name for name in names if name not in needed))
            needed.update(names)
        return tuple(reversed(releases))

    def returning(self, outputs: Iterable[Tensor]) -> Program:
        """Return the steps that other outputs need, and these outputs."""
        outputs = tuple(outputs)
        needed = {tensor.name for tensor in outputs}
        steps: list[Step] = []
        for step in reversed(self.steps):
            if step.out.name in needed:
                steps.append(step)
                needed.update(tensor.name for tensor in step.inputs)
        return Program(self.inputs, tuple(reversed(steps)), outputs)

    def __str__(self) -> str:
        lines = [str(step) for step in self.steps]
        return "\n".join([*lines, f"return {', '.join(tensor.name for tensor in self.outputs)}"])
