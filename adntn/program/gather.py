"""The program that looks rows of a weight up without making the others (an embedding's).

A row fixes the legs that count the rows. Of a core with such legs each token reads one piece, by number; of a state
that passes such legs on, too. Selecting commutes with a pointwise map, so that the selection goes back through the
levels for as long as that makes fewer numbers: beyond, a state is made once, for all tokens. The rest is steps of the
two kinds that all programs are made of, with one leg more: the token's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from adntn.arrays import Array
from adntn.machine import Machine
from adntn.network import SCALE, Leg, Network
from adntn.program.adjoint import Adjoint, adjoint
from adntn.program.contract import LARGEST, joined, resized
from adntn.program.ir import Contract, Pointwise, Program, Step, Tensor
from adntn.program.lower import batch_legs, core_legs, lower, lower_levels, row_legs
from adntn.program.path import Paths, quick_path
from adntn.program.seconds import STEP, program_seconds
from adntn.shapes import Assembly, Layout
from adntn.transposing import Transposition, transposition


@dataclass(frozen=True)
class Digit:
    """A digit of a row's number: (number // place) % size; it counts pieces in steps of `stride`."""

    place: int
    size: int
    stride: int = 1


@dataclass(frozen=True)
class Selection:
    """What each token reads of a tensor: one of its pieces.

    Attributes:
        source: a core, or a result of the head.
        tensor: its name and legs for the tokens: the token's leg, then the legs that a piece has.
        cut: from the source to (pieces, size of a piece), behind the batch axis.
        join: the reverse.
        digits: those digits of the row's number that together number the piece.
    """

    source: Tensor
    tensor: Tensor
    cut: Transposition
    join: Transposition
    digits: tuple[Digit, ...]

    def numbers(self, rows: Array) -> Array:
        """Return the number of the piece that each row reads."""
        parts = [rows // digit.place % digit.size * digit.stride for digit in self.digits]
        return sum(parts[1:], parts[0]) if parts else rows * 0


@dataclass(frozen=True)
class Lookup:
    """The rows of so many tokens.

    Attributes:
        head: what is made once, from the cores and the scale.
        selections: what each token reads of cores and of the head's results.
        tail: from these, and from what all tokens read alike, to the rows.
        assembly: from the tail's result to the rows of the weight.
    """

    head: Program
    selections: tuple[Selection, ...]
    tail: Program
    assembly: Assembly

    @cached_property
    def head_adjoint(self) -> Adjoint:
        """The adjoint of the head."""
        return adjoint(self.head)

    @cached_property
    def tail_adjoint(self) -> Adjoint:
        """The adjoint of the tail."""
        return adjoint(self.tail)

    @property
    def largest(self) -> int:
        """The size of the largest result that is made for the tokens."""
        made = [step.out.size for step in self.tail.steps]
        return max([*made, *(selection.tensor.size for selection in self.selections)])

    def __str__(self) -> str:
        lines = [str(step) for step in self.head.steps]
        for selection in self.selections:
            digits = " + ".join(f"{digit.stride} (row // {digit.place} % {digit.size})" for digit in selection.digits)
            lines.append(f"{selection.tensor} = piece {digits or 0} of {selection.source}")
        return "\n".join([*lines, str(self.tail)])


@lru_cache(maxsize=256)
def lookup(network: Network, tokens: int, paths: Paths = (), like: int | None = None) -> Lookup:
    """Return how the rows of `tokens` tokens are made; numbers between two powers of two share their search.

    Args:
        network: of a weight, the rows of which are looked up.
        tokens: how many, at least 1.
        paths: contraction paths of the levels that are made once, None where the order is chosen here.
        like: the number of tokens to plan for, by default the same; all that are planned alike share the head.
    """
    likely = 1 << ((like or tokens) - 1).bit_length()
    planned = _planned(network, likely, paths)
    if likely == tokens:
        return planned
    (old,) = {selection.tensor.legs[len(batch_legs(network))] for selection in planned.selections}
    new = Leg(old.label, tokens)

    def changed(selection: Selection) -> Selection:
        legs = tuple(new if leg == old else leg for leg in selection.tensor.legs)
        return replace(selection, tensor=Tensor(selection.tensor.name, legs))

    tail = resized(planned.tail, old, new)
    return Lookup(planned.head, tuple(map(changed, planned.selections)), tail, _assembly(network, tail, new))


@lru_cache(maxsize=256)
def slab_tokens(network: Network, tokens: int, largest: int, paths: Paths = ()) -> int:
    """Return how many tokens may be looked up together so that nothing made for them holds more than `largest` numbers.

    Slabs are as even as can be; a single token may need more than `largest`.
    """
    slab = tokens
    while slab > 1 and lookup(network, slab, paths).largest > largest:
        slab = math.ceil(tokens / math.ceil(tokens / max(1, slab // 2)))
    return slab


@lru_cache(maxsize=4096)
def is_worth_it(network: Network, tokens: int, paths: Paths, machine: Machine, itemsize: int) -> bool:
    """Return whether looking so many tokens up is predicted to take less time than making the weight.

    Of the backward passes the same is true: each takes a few times as long as what it reverses.
    """
    slab = slab_tokens(network, tokens, LARGEST, paths)
    plan, slabs = lookup(network, slab, paths), math.ceil(tokens / slab)
    whole = program_seconds(lower(network, paths), machine, itemsize)
    head, tail = (program_seconds(program, machine, itemsize) for program in (plan.head, plan.tail))
    return head + slabs * (tail + STEP * len(plan.selections)) < whole


@lru_cache(maxsize=256)
def _planned(network: Network, tokens: int, paths: Paths) -> Lookup:
    plan = _Plan(network, tokens, paths)
    rows = row_legs(network)
    places = [math.prod(leg.size for leg in rows[number + 1 :]) for number in range(len(rows))]
    output = network.levels[-1].output
    digits = {output.index(leg): Digit(place, leg.size) for leg, place in zip(rows, places, strict=True)}
    result = plan.block(len(network.levels), digits)
    if not network.levels[-1].activation.is_identity:
        scaled = Tensor(f"scaled {result.name}", result.legs)
        plan.steps.append(Contract(scaled, result, plan.scale))
        result = scaled
    return plan.finished(result)


class _Plan:
    """A lookup while it is planned: collects the steps, in order, and what tokens read."""

    def __init__(self, network: Network, tokens: int, paths: Paths) -> None:
        self.network, self.batch = network, batch_legs(network)
        self.token = Leg(_token_label(network), tokens)
        self.levels = lower_levels(network, paths)
        self.scale = Tensor(SCALE, self.batch)
        self.steps: list[Step] = []
        self.selections: list[Selection] = []

    def block(self, stop: int, digits: Mapping[int, Digit]) -> Tensor:
        """Return the state before level `stop`, for the tokens, and add the steps that make it.

        Args:
            stop: the number of the level after the block: the levels after the last activation before this state.
            digits: the legs of the state that a row fixes, by their place.
        """
        levels = self.network.levels
        first = stop - 1
        while first > 0 and levels[first - 1].activation.is_identity:
            first -= 1
        state = levels[first - 1].output if first else ()
        nodes, after = joined(state, levels[first:stop])
        fixed = {after[place]: digit for place, digit in digits.items()}
        factors = [Tensor(core, (*self.batch, *legs)) for core, legs in nodes]
        if state and not self._goes_on(state, fixed):
            self.steps += [step for level in self.levels[:first] for step in level.steps]
            factors.insert(0, self.levels[first - 1].state)
        if stop == len(levels) and levels[-1].activation.is_identity:
            self._scale(factors)
        is_cut = [any(leg in fixed for leg in factor.legs) for factor in factors]
        if not digits:  # one row in all: some factor gets the token's leg
            is_cut[0] = True
        factors = [self._selected(one, fixed) if cut else one for one, cut in zip(factors, is_cut, strict=True)]
        if state and self._goes_on(state, fixed):
            inside = {place: fixed[leg] for place, leg in enumerate(state) if leg in fixed}
            factors.insert(0, self.block(first, inside))
        made = self._contracted(factors, self._output(after, fixed, stop), first, stop)
        name_of = dict(zip(after, levels[stop - 1].output, strict=True))
        return Tensor(made.name, tuple(name_of.get(leg, leg) for leg in made.legs))

    def _goes_on(self, state: Sequence[Leg], fixed: Mapping[Leg, Digit]) -> bool:
        """Return whether a state has fewer numbers when it is made for the tokens, and not as a whole."""
        kept = math.prod(leg.size for leg in state if leg not in fixed)
        return any(leg in fixed for leg in state) and self.token.size * kept < math.prod(leg.size for leg in state)

    def _scale(self, factors: list[Tensor]) -> None:
        """Multiply the scale into the smallest factor."""
        place = min(range(len(factors)), key=lambda place: factors[place].size)
        smallest = factors[place]
        factors[place] = Tensor(f"scaled {smallest.name}", smallest.legs)
        self.steps.append(Contract(factors[place], smallest, self.scale))

    def _output(self, after: Sequence[Leg], fixed: Mapping[Leg, Digit], stop: int) -> tuple[Leg, ...]:
        """Return the legs that are left, the last state's in the order in which they lie in the weight."""
        if stop == len(self.network.levels):
            ranks = dict(zip(after, self.network.layout.rank_in_weight, strict=True))
            after = sorted(after, key=ranks.__getitem__)
        return tuple(leg for leg in after if leg not in fixed)

    def _selected(self, source: Tensor, fixed: Mapping[Leg, Digit]) -> Tensor:
        """Return what each token reads of a factor."""
        lead = len(self.batch)
        legs = source.legs[lead:]
        chosen = sorted((leg for leg in legs if leg in fixed), key=lambda leg: -fixed[leg].place)
        kept = [leg for leg in legs if leg not in fixed]
        goes_to = {leg: place for place, leg in enumerate((*self.batch, *chosen, *kept))}
        moved = tuple(goes_to)
        sizes = tuple(leg.size for leg in self.batch)
        pieces, size = (math.prod(leg.size for leg in group) for group in (chosen, kept))
        tensor = Tensor(f"{source.name} (read {len(self.selections)})", (*self.batch, self.token, *kept))
        cut = transposition(
            [leg.size for leg in source.legs], [goes_to[leg] for leg in source.legs], (*sizes, pieces, size)
        )
        back = [source.legs.index(leg) for leg in moved]
        join = transposition([leg.size for leg in moved], back, tuple(leg.size for leg in source.legs))
        self.selections.append(Selection(source, tensor, cut, join, _together([fixed[leg] for leg in chosen])))
        return tensor

    def _contracted(self, factors: list[Tensor], output: tuple[Leg, ...], first: int, stop: int) -> Tensor:
        """Return the state that factors make, its activation applied."""
        order = {leg: place for place, leg in enumerate(output)}
        lead = len(self.batch)
        left_over = list(factors)
        path = quick_path([tensor.legs[lead:] for tensor in factors], (self.token, *output), self.token)
        for number, pair in enumerate(path):
            left, right = (left_over[place] for place in sorted(pair))
            left_over = [tensor for place, tensor in enumerate(left_over) if place not in pair]
            elsewhere = {*output, *(leg for tensor in left_over for leg in tensor.legs)} - {*self.batch, self.token}
            joint = dict.fromkeys((*left.legs, *right.legs))
            free = sorted((leg for leg in joint if leg in elsewhere), key=lambda leg: order.get(leg, len(order)))
            token = (self.token,) if self.token in joint else ()
            name = f"Z{stop - 1}" if not left_over else f"level{first}/part{number}"
            made = Tensor(name, (*self.batch, *token, *free))
            self.steps.append(Contract(made, left, right))
            left_over.append(made)
        (block,) = left_over
        activation = self.network.levels[stop - 1].activation
        if activation.is_identity:
            return block
        state = Tensor(f"X{stop - 1}", block.legs)
        self.steps.append(Pointwise("map", state, (block,), activation))
        return state

    def finished(self, result: Tensor) -> Lookup:
        """Return the lookup: what no token has a part in is made once."""
        late = {selection.tensor.name for selection in self.selections}
        for step in self.steps:
            if late.intersection(tensor.name for tensor in step.inputs):
                late.add(step.out.name)
        cores = [Tensor(name, core_legs(self.network, name)) for name in self.network.core]
        inputs = {tensor.name: tensor for tensor in (*cores, self.scale)}
        early = {step.out.name: step.out for step in self.steps if step.out.name not in late}
        after = tuple(step for step in self.steps if step.out.name in late)
        read = dict.fromkeys(tensor.name for step in after for tensor in step.inputs if tensor.name not in late)
        wanted = dict.fromkeys((*read, *(selection.source.name for selection in self.selections)))
        head = Program(tuple(inputs.values()), tuple(self.steps), ()).returning(
            early[name] for name in wanted if name in early
        )
        direct = [{**inputs, **early}[name] for name in read]
        selected = [selection.tensor for selection in self.selections]
        tail = Program((*direct, *selected), after, (result,))
        return Lookup(head, tuple(self.selections), tail, _assembly(self.network, tail, self.token))


def _token_label(network: Network) -> str:
    """Return a label that no leg has, nor gets by primes."""
    used = {leg.label.rstrip("'") for level in network.levels for node in level.nodes for leg in node.legs}
    label = "token"
    while label in used:
        label += "_"
    return label


def _together(digits: Sequence[Digit]) -> tuple[Digit, ...]:
    """Return digits, from the first of a number to the last, with neighbours as one, and how they count pieces."""
    merged: list[Digit] = []
    for digit in digits:
        if merged and merged[-1].place == digit.place * digit.size:
            merged[-1] = Digit(digit.place, merged[-1].size * digit.size)
        else:
            merged.append(digit)
    strides = [math.prod(digit.size for digit in merged[number + 1 :]) for number in range(len(merged))]
    return tuple(replace(digit, stride=stride) for digit, stride in zip(merged, strides, strict=True))


def _assembly(network: Network, tail: Program, token: Leg) -> Assembly:
    """Return how the tail's result becomes rows: of a weight with as many rows as there are tokens."""
    layout, lead = network.layout, len(batch_legs(network))
    order = ((0, 0), *(leg for leg in layout.order if leg[0] != 0))
    rows = Layout((token.size, *layout.shape[1:]), ((token.size,), *layout.factors[1:]), order)
    legs = dict(zip(network.levels[-1].output, layout.order, strict=True))
    axes = [order.index(legs.get(leg, (0, 0))) for leg in tail.outputs[0].legs[lead:]]
    return rows.assembly(axes, network.batch)
