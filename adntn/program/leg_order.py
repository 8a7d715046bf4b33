"""In which order the legs of intermediate results lie: so that large tensors are multiplied as they are.

A product of matrices takes the legs that it sums from the front or the back of an operand, and leaves those that it
makes at the front or the back of its result, at no cost. What it must not do is to transpose a large operand first. The
orders are searched from the inputs to the output, along the chain of the largest operands, by a beam: for each
candidate the matrix form of the step tells how many numbers would be transposed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from adntn.network import Leg
from adntn.program.ir import Contract, Tensor
from adntn.program.matrix_form import Legs, matrix_form
from adntn.program.path import Path
from adntn.transposing import Transposition

#: How many partial orders are kept from one step to the next.
BEAM = 12
#: Many small products cost more than one large product, by about this share of a transposition of the result.
MANY_PRODUCTS = 0.25


def contract_along(
    tensors: Sequence[Tensor], path: Path, out: Tensor, batch: Legs, names: Iterator[str]
) -> list[Contract]:
    """Return the steps that contract tensors along a path.

    Args:
        tensors: two or more, each with the batch legs in front.
        path: as opt_einsum has it.
        out: the result; its legs begin with the batch legs.
        batch: the legs that all tensors have.
        names: of the intermediate results.
    """
    lead = len(batch)
    tree = _Tree([tensor.legs[lead:] for tensor in tensors], path, out.legs[lead:])
    _, orders = tree.ordered(tree.root, out.legs[lead:])
    made: dict[int, Tensor] = dict(enumerate(tensors))
    steps = []
    for number, (left, right) in sorted(tree.children.items()):
        made[number] = out if number == tree.root else Tensor(next(names), (*batch, *orders[number]))
        steps.append(Contract(made[number], made[left], made[right]))
    return steps


#: The orders of results, by number: of a tensor, if it is one, and of all that it is made from.
Orders = dict[int, Legs]


@dataclass
class _Tree:
    """A path as a tree of tensors: first those given, then the results of the steps; without batch legs."""

    given: Sequence[Legs]
    path: Path
    out: Legs
    legs: list[Legs] = field(init=False)
    children: dict[int, tuple[int, int]] = field(init=False, default_factory=dict)
    known: dict[tuple[int, Legs], tuple[float, Orders]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.legs = list(self.given)
        left_over = list(range(len(self.given)))
        for pair in self.path:
            one, other = (left_over[place] for place in sorted(pair))
            left_over = [number for place, number in enumerate(left_over) if place not in pair]
            elsewhere = {*self.out, *(leg for number in left_over for leg in self.legs[number])}
            joint = dict.fromkeys((*self.legs[one], *self.legs[other]))
            self.children[len(self.legs)] = one, other
            left_over.append(len(self.legs))
            self.legs.append(tuple(leg for leg in joint if leg in elsewhere))
        self.root = left_over[0]

    def ordered(self, top: int, wanted: Legs) -> tuple[float, Orders]:
        """Return how many numbers are transposed at least to make a tensor in the wanted order, and the orders."""
        if (top, wanted) not in self.known:
            self.known[top, wanted] = self._searched(top, wanted)
        return self.known[top, wanted]

    def _searched(self, top: int, wanted: Legs) -> tuple[float, Orders]:
        chain = [top]  # from the top down, through the larger operands
        while chain[-1] in self.children:
            chain.append(max(self.children[chain[-1]], key=lambda number: _size(self.legs[number])))
        chain.reverse()
        if len(chain) == 1:
            return (0.0 if self.legs[top] == wanted else float(_size(wanted))), {}
        ends = {leg: place for place, number in enumerate(chain) for leg in self.legs[number]}
        beam: list[tuple[float, tuple[Legs, ...]]] = [(0.0, (self.legs[chain[0]],))]
        for place in range(1, len(chain)):
            legs = self.legs[chain[place]]
            found: dict[Legs, tuple[float, tuple[Legs, ...]]] = {}
            for cost, orders in beam:
                for candidate in [wanted] if place == len(chain) - 1 else _candidates(orders[-1], legs, ends, wanted):
                    total = cost + _transposed(orders[-1], candidate)
                    if candidate not in found or total < found[candidate][0]:
                        found[candidate] = total, (*orders, candidate)
            beam = sorted(found.values(), key=lambda one: one[0])[:BEAM]
        cost, orders = beam[0]
        chosen = dict(zip(chain[1:], orders[1:], strict=True))
        for place in range(1, len(chain)):
            side = next(number for number in self.children[chain[place]] if number != chain[place - 1])
            summed, made = _other(orders[place - 1], orders[place])
            more, inside = min((self.ordered(side, both) for both in (summed + made, made + summed)), key=_cost)
            cost += more
            chosen |= inside
        return cost, chosen


def _cost(found: tuple[float, Orders]) -> float:
    return found[0]


def _size(legs: Iterable[Leg]) -> int:
    return math.prod(leg.size for leg in legs)


def _other(before: Legs, after: Legs) -> tuple[Legs, Legs]:
    """Return the legs of the operand that turns one order into another: those that it sums and those that it makes."""
    return tuple(leg for leg in before if leg not in after), tuple(leg for leg in after if leg not in before)


def _candidates(before: Legs, legs: Legs, ends: dict[Leg, int], wanted: Legs) -> list[Legs]:
    """Return orders of a result: what is made stands in front, behind, or where the first summed leg stood."""
    final = {leg: place for place, leg in enumerate(wanted)}
    kept = tuple(leg for leg in before if leg in legs)
    made = sorted((leg for leg in legs if leg not in before), key=lambda leg: final.get(leg, -1))
    soonest_last = tuple(sorted(made, key=lambda leg: -ends[leg]))
    soonest_first = tuple(sorted(made, key=lambda leg: ends[leg]))
    first = next((place for place, leg in enumerate(before) if leg not in legs), len(kept))
    return [
        (*kept, *soonest_last),
        (*soonest_first, *kept),
        (*soonest_last, *kept),
        (*kept[:first], *soonest_last, *kept[first:]),
        (*kept[:first], *soonest_first, *kept[first:]),
    ]


def _transposed(before: Legs, after: Legs) -> float:
    """Return how many numbers of a large operand and of the result are transposed in a step between two orders."""
    form = matrix_form(before, sum(_other(before, after), ()), after)
    own = form.second if form.swap else form.first
    total = _moved(own) + _moved(form.out)
    if form.kind == "sandwich" and form.first.after[1] > 1:
        total += MANY_PRODUCTS * _size(after)
    elif form.kind == "environment":
        total += form.first.after[1] * _size(after)
    return total


def _moved(transposition: Transposition) -> float:
    """Return how many numbers a transposition copies: none, if it exchanges the two axes of a matrix."""
    if transposition.axes is None:
        return 0.0
    turned = [transposition.before[axis] for axis in transposition.axes]
    stays = [size for size in turned if size > 1] == [size for size in transposition.after if size > 1]
    return 0.0 if stays and len(turned) <= 3 else float(math.prod(turned))
