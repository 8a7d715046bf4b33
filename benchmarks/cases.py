"""What is measured: shapes, topologies, bonds and batches, short for a look and in full for results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from adntn.benchmarking import Case
from adntn.benchmarking.contender import Contender, Entry, Task, entries
from adntn.benchmarking.contenders import DENSE, LAYER, MUTABLE, SCHEDULES, copy_on, generator_on, layer
from benchmarks.contenders import EVERYBODY, NAIVE

SHAPES = ((1024, 1024), (4096, 4096), (4096, 25088), (512, 512, 3, 3))
TOPOLOGIES = ("TTN", "AugmentedTTN", "MERA")
BONDS = (2, 4)
SQUARE = (4096, 4096)
ACTIVATIONS_AT_THE_END = ("identity", "tanh")
TASKS: tuple[Task, ...] = ("weight", "weight into a buffer", "gradients", "forward", "backward", "step")

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
        full: all shapes, topologies, bonds and both last activations; otherwise one small case, with tanh and linear,
            and the memory of the step alone.
        device: where.
        dtype: of weights and inputs.
    """
    base = Case(SHAPES[0], device=device, dtype=dtype)
    if full:
        cases = [
            replace(base, shape=shape, topology=topology, bond=bond, last_activation=last)
            for shape in SHAPES
            for topology in TOPOLOGIES
            for bond in BONDS
            for last in ACTIVATIONS_AT_THE_END
        ] + [replace(base, shape=shape, activation="identity", bond=bond) for shape in SHAPES for bond in BONDS]
    else:
        cases = [base, replace(base, activation="identity")]
    tasks: tuple[Task, ...] = TASKS if full else ("weight", "forward", "step")
    for case in cases:
        for task in tasks:
            lines = entries(EVERYBODY, case, task)
            yield Plan("side by side", f"{task}: {case}", lines, memory=full or task == "step")


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
