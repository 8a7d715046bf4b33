"""The two factors that `fused_linear` reads, made from the cores and differentiated by torch.

The last step of a tree-like generator joins the state, with most cores of the last level in it, and the few other cores
multiplied out: W[(rh rl), (ch cl)] = f(sum_s front[rh, ch, s] back[rl, s, cl]). The network is cut once, at
the bonds s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from adntn.activations import ACTIVATIONS
from adntn.arrays import namespace_of
from adntn.generator import Generator
from adntn.network import SCALE, Leg, Network
from adntn.program.forecast import GROUP_INPUTS
from adntn.program.ir import Contract, Program
from adntn.program.lower import Sweep, lower
from adntn.program.run import run

Legs = tuple[Leg, ...]

#: High rows that fill a tile of tensor cores, and the longest bond that is worth its products.
FULL_TILE, LONGEST_BOND = 16, 128


@dataclass(frozen=True)
class Factored:
    """A weight as f(front back), and perhaps a scale behind f.

    Attributes:
        program: from the cores to the front and the back, each with its elements in the order of its legs.
        high: legs of the front that are rows, and columns, of the weight: the first ones.
        low: the other rows and columns, in the order in which they count them.
        bond: legs that are summed.
        activation: the name of f.
        scaled: whether the scale multiplies f(front back); else it is in the factors.
    """

    program: Program
    high: tuple[Legs, Legs]
    low: tuple[Legs, Legs]
    bond: Legs
    activation: str
    scaled: bool

    @property
    def high_rows(self) -> int:
        """RH, the rows that the front makes."""
        return _size(self.high[0])

    @property
    def length(self) -> int:
        """K, over which the factors are summed."""
        return _size(self.bond)

    @property
    def numbers(self) -> int:
        """How many numbers the factors have, and the largest result on the way to them."""
        names = {tensor.name for tensor in self.program.outputs}
        others = (step.out.size for step in self.program.steps if step.out.name not in names)
        return sum(tensor.size for tensor in self.program.outputs) + max(others, default=0)

    def factors(self, cores: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the front of shape (RH, CH, K) and the back of shape (RL, K, CL), differentiable by torch.

        Args:
            cores: checked, of the number type to compute in.
        """
        first, second = run(self.program, cores, namespace_of(cores.values()))
        front, back = self.program.outputs
        (high_rows, high_columns), (low_rows, low_columns) = self.high, self.low
        return (
            _in_order(first, front.legs, high_rows, high_columns, self.bond),
            _in_order(second, back.legs, low_rows, self.bond, low_columns),
        )


@lru_cache(maxsize=256)
def factored(generator: Generator) -> Factored | None:
    """Return the best of the ways to write a generator's weight as two factors; None where there is none.

    There is none with a batch axis, for weights that are no matrices, for activations that are not the library's, and
    where every cut goes through more than `LONGEST_BOND` values or makes factors as large as the weight.

    >>> import adntn
    >>> form = factored(adntn.TTN((256, 256), bond=4, last_activation="tanh"))
    >>> form.high_rows, form.length, form.activation, form.scaled
    (16, 16, 'tanh', True)
    """
    network = generator.network
    last = network.levels[-1].activation
    if network.batch is not None or len(network.layout.shape) != 2 or ACTIVATIONS.get(last.name) != last:
        return None
    rows = len(network.layout.factors[0])
    sweeps = (Sweep(looped, group_input) for looped in range(1, rows + 1) for group_input in GROUP_INPUTS)
    forms = [form for sweep in sweeps if (form := _cut(network, lower(network, generator.paths, sweep))) is not None]
    size = network.layout.size
    worth = [form for form in forms if form.length <= LONGEST_BOND and form.numbers < size]

    def rank(form: Factored) -> tuple[bool, bool, int, int]:
        return form.high_rows < FULL_TILE, 8 * form.numbers > size, form.length, form.numbers

    return min(worth, key=rank, default=None)


def _cut(network: Network, program: Program) -> Factored | None:
    """Return the factors that the last contraction of a program joins, if nothing but f and the scale comes after."""
    steps = list(program.steps)
    scaled = _is_scale(steps[-1]) and len(steps) > 1
    if scaled:
        steps.pop()
    if not network.levels[-1].activation.is_identity:
        steps.pop()
    product = steps[-1] if steps else None
    if not isinstance(product, Contract) or _is_scale(product):
        return None
    rows, columns = (_legs(network, dimension) for dimension in (0, 1))
    front, back = product.inputs
    if rows[0] in back.legs:
        front, back = back, front
    high = _first_in(rows, front.legs), _first_in(columns, front.legs)
    low = rows[len(high[0]) :], columns[len(high[1]) :]
    if any(leg in front.legs for leg in (*low[0], *low[1])):
        return None
    return Factored(
        Program(program.inputs, tuple(steps[:-1]), ()).returning((front, back)),
        high,
        low,
        product.summed,
        network.levels[-1].activation.name,
        scaled,
    )


def _is_scale(step: object) -> bool:
    return isinstance(step, Contract) and SCALE in {tensor.name for tensor in step.inputs}


def _legs(network: Network, dimension: int) -> Legs:
    """Return the legs of a dimension of the weight, in the order in which they count it."""
    legs = sorted(zip(network.layout.order, network.levels[-1].output, strict=True), key=lambda pair: pair[0])
    return tuple(leg for (own, _), leg in legs if own == dimension)


def _first_in(legs: Legs, those: Legs) -> Legs:
    """Return the first legs, as long as they are among those."""
    count = next((place for place, leg in enumerate(legs) if leg not in those), len(legs))
    return legs[:count]


def _size(legs: Sequence[Leg]) -> int:
    return math.prod(leg.size for leg in legs)


def _in_order(tensor: Tensor, legs: Legs, *axes: Legs) -> Tensor:
    """Return a tensor of these legs with one axis for each group of them."""
    wanted = [legs.index(leg) for group in axes for leg in group]
    return tensor.reshape([leg.size for leg in legs]).permute(wanted).reshape([_size(group) for group in axes])
