"""What is measured: shapes, topologies, bonds and batches, short for a look and in full for results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from adntn.benchmarking import Case
from adntn.benchmarking.contender import TASKS, Contender, Entry, Task, entries
from adntn.benchmarking.contenders import DENSE, LAYER, MUTABLE, SCHEDULES, copy_on, generator_on, layer
from benchmarks.contenders import EVERYBODY, NAIVE

SHAPES = ((1024, 1024), (4096, 4096), (4096, 25088), (512, 512, 3, 3))
TOPOLOGIES = ("TTN", "AugmentedTTN", "MERA")
BONDS = (2, 4)
SQUARE = (4096, 4096)
ACTIVATIONS_AT_THE_END = ("identity", "tanh")
#: Tasks of a look, the last one with memory; and of full results those whose memory differs from the others'.
SHORT_TASKS: tuple[Task, ...] = ("weight", "forward", "step")
LASTING: tuple[Task, ...] = ("gradients", "forward", "step")

#: Weights of 2^16 to 2^28 numbers, square.
SIZES = tuple((2**half, 2**half) for half in range(8, 15))
SCALED_BONDS = (2, 3, 4, 6, 8, 12, 16)
SCALED_BATCHES = (1, 4, 16, 64, 256, 1024, 4096)


@dataclass(frozen=True)
class Plan:
    """One comparison to make.

    Attributes:
        group: to which table or plot it belongs: "side by side", "size", "bond" or "batch".
        title: of the table.
        entries: who does what.
        memory: whether their memory is measured too.
    """

    group: str
    title: str
    entries: tuple[Entry, ...]
    memory: bool = True


def side_by_side(full: bool, device: str = "cpu", dtype: str = "float32") -> Iterator[Plan]:
    """Yield everybody on one case, task by task.

    Args:
        full: all shapes, and on the square one all topologies and bonds and tanh at the end; otherwise one small case
            and the memory of the step alone.
        device: where.
        dtype: of weights and inputs.
    """
    base = Case(SHAPES[0], device=device, dtype=dtype)
    cases = [base, replace(base, activation="identity")]
    if full:
        square = replace(base, shape=SQUARE)
        cases = [replace(base, shape=shape) for shape in SHAPES]
        cases += [replace(square, topology=topology, bond=bond) for topology in TOPOLOGIES for bond in BONDS]
        cases += [replace(square, last_activation="tanh")]
        cases += [replace(base, shape=shape, activation="identity", bond=bond) for shape in SHAPES for bond in BONDS]
    tasks, remembered = (TASKS, LASTING) if full else (SHORT_TASKS, SHORT_TASKS[-1:])
    for case in dict.fromkeys(cases):
        for task in tasks:
            yield Plan("side by side", f"{task}: {case}", entries(EVERYBODY, case, task), task in remembered)


def scaling(full: bool, device: str = "cpu", dtype: str = "float32") -> Iterator[Plan]:
    """Yield what grows: the size of the weight, the bond, the batch.

    Args:
        full: up to the largest, with memory; otherwise the smaller half of each.
        device: where.
        dtype: of weights and inputs.
    """
    base = Case(SQUARE if full else SHAPES[0], device=device, dtype=dtype)
    weights = (*(copy_on(one) for one in MUTABLE), *(generator_on(one) for one in ("numpy", "torch", "jax")), NAIVE)
    layers = (DENSE, *(layer(schedule) for schedule in SCHEDULES), LAYER, NAIVE)
    for shape in SIZES if full else SIZES[:4]:
        case = replace(base, shape=shape)
        yield _plan("size", weights, case, ("weight", "weight into a buffer", "gradients"), full)
        yield _plan("size", layers, case, ("step",), full)
    for bond in SCALED_BONDS if full else SCALED_BONDS[:4]:
        yield _plan("bond", weights, replace(base, bond=bond), ("weight", "gradients"), full)
        yield _plan("bond", layers, replace(base, bond=bond), ("step",), full)
    for batch in SCALED_BATCHES if full else SCALED_BATCHES[:4]:
        yield _plan("batch", layers, replace(base, batch=batch), ("forward", "step"), full)


def _plan(group: str, contenders: tuple[Contender, ...], case: Case, tasks: tuple[Task, ...], memory: bool) -> Plan:
    lines = tuple(
        Entry(f"{one.name}: {task}", one, case, task) for task in tasks for one in contenders if task in one.tasks
    )
    return Plan(group, f"{', '.join(tasks)}: {case}", lines, memory)
