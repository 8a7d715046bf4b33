"""Which schedule a layer takes: what its options mean together, and the choice for so many rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from adntn import Generator
from adntn.arrays import ITEMSIZES, SHORT_DTYPES
from adntn.generator import TILED
from adntn.machine import machine
from adntn.program.contract import check_contracts
from adntn.program.schedule import Choice, checked_schedule, choose
from adntn.program.task import ScheduleName, Task
from adntn_jax.engines import JAX

#: Numbers that Adam, with which networks are trained in JAX, keeps for each of a dense layer's.
MOMENTS = 2


@dataclass(frozen=True)
class Scheduling:
    """How a layer chooses its schedule.

    Attributes:
        generator: of its weight.
        schedule: "auto", or the one to take.
        memory_limit: bytes that may be held beyond cores, x, y and their gradients. None lets "auto" take what a dense
            layer does that is trained with Adam: loops over tiles cost more time under JAX than memory is worth.
        streams: whether some rows of the weight are the weight of a layer with fewer outputs.
        contracts: whether the layer's product is the usual one.
    """

    generator: Generator = field(repr=False)
    schedule: ScheduleName
    memory_limit: int | None
    streams: bool
    contracts: bool

    def choice(self, rows: int, dtype: str, training: bool) -> Choice:
        """Return which schedule is taken, and why.

        Raises:
            ValueError: if nothing fits into the memory limit; the error names the least that would.
        """
        generator, computed = self.generator, "float32" if dtype in SHORT_DTYPES else dtype
        task = Task(
            generator.network,
            generator.paths,
            rows,
            training,
            ITEMSIZES[computed],
            self.streams,
            self.contracts,
            compiled=True,
            moments=MOMENTS,
        )
        return choose(task, machine(JAX, computed), self.schedule, self.memory_limit)

    def taken(self, rows: int, dtype: str) -> Choice | None:
        """Return the choice for a call; None where the weight is made in one piece whatever memory that takes.

        A layer does not know whether it will be differentiated: it takes what it would in training.
        """
        small = self.schedule == "auto" and math.prod(self.generator.shape) < TILED
        if self.memory_limit is None and (small or self.schedule == "materialise"):
            return None
        return self.choice(max(rows, 1), dtype, training=True)


def scheduling(
    generator: Generator,
    schedule: str,
    memory_limit: int | None,
    differentiation: str | None,
    engine: str,
    *,
    streams: bool = True,
    contracts: bool = True,
) -> Scheduling:
    """Return how a layer with these options chooses its schedule.

    Where JAX is asked to differentiate, or an engine computes, the weight is made in one piece.

    Raises:
        ValueError, TypeError: if there is no such schedule or memory, or the options do not go together.
    """
    name = checked_schedule(schedule, memory_limit)
    whole = engine != JAX or differentiation == "native"
    if whole and name not in {"auto", "materialise"}:
        other = f"the engine {engine!r}" if engine != JAX else 'differentiation="native"'
        raise ValueError(f'schedule must be "auto" or "materialise" with {other}, got {schedule!r}')
    if name == "stream" and not streams:
        raise ValueError(
            'schedule must not be "stream" for a convolution with groups or a mask; "recompute" is the next best'
        )
    if name == "contract":
        check_contracts(generator.network)
        if not contracts:
            raise ValueError(
                'schedule must not be "contract" with a dot_general, precision or preferred_element_type of one\'s own:'
                " there is no product with the weight that they could apply to"
            )
    return Scheduling(generator, "materialise" if whole else name, memory_limit, streams, contracts)
