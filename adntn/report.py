"""What a generator is worth and what it costs, in numbers that a person can read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from adntn.network import Leg, Level, Network
from adntn.program.adjoint import Adjoint
from adntn.program.cost import Cost, cost
from adntn.program.ir import Program
from adntn.program.schedule import Choice


@dataclass(frozen=True)
class Report:
    """Numbers about a generator; printed, a table.

    Attributes:
        topology: the constructor's name.
        shape: the weight's shape, without the batch axis.
        weights: how many numbers are generated.
        parameters: how many are stored.
        ratio: weights / parameters.
        padding: share of the generated numbers that is cropped away, 0 to 1.
        activations: the names of the pointwise maps, level by level; empty if the weight is linear in every core.
        rank_bound: no weight has a larger rank, as a matrix (first dimension, all others); None if it can be full.
        forward: cost of the weight.
        forward_and_backward: cost of the weight and the gradient of every core.
        choice: the schedule of a layer, why, and what the others and a dense layer would cost; None if no rows were
            given.
    """

    topology: str
    shape: tuple[int, ...]
    weights: int
    parameters: int
    ratio: float
    padding: float
    activations: tuple[str, ...]
    rank_bound: int | None
    forward: Cost
    forward_and_backward: Cost
    choice: Choice | None = None

    def __str__(self) -> str:
        rows = [
            ("topology", self.topology),
            ("shape", " x ".join(map(str, self.shape))),
            ("weights", f"{self.weights:,}"),
            ("parameters", f"{self.parameters:,}"),
            ("ratio", f"{self.ratio:,.0f} weights for each parameter"),
            ("padding", f"{self.padding:.2%} of the generated numbers are cropped away" if self.padding else "none"),
            ("activations", ", ".join(self.activations) or "none: an ordinary, multilinear tensor network"),
            ("rank of the weight", "can be full" if self.rank_bound is None else f"at most {self.rank_bound:,}"),
            ("generate: operations", f"{self.forward.operations:,}"),
            ("generate: bytes moved", f"{self.forward.bytes_moved:,}"),
            ("generate: peak bytes", f"{self.forward.peak_bytes:,}"),
            ("with gradients: operations", f"{self.forward_and_backward.operations:,}"),
            ("with gradients: bytes moved", f"{self.forward_and_backward.bytes_moved:,}"),
            ("with gradients: peak bytes", f"{self.forward_and_backward.peak_bytes:,}"),
        ]
        if self.choice is not None:
            rows.append(("schedule", f"{self.choice.taken.schedule}, {self.choice.reason}"))
            rows += [(f"  {name}", cost) for name, cost in self.choice.costs.items()]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def report(network: Network, program: Program, adjoint: Adjoint, itemsize: int, choice: Choice | None = None) -> Report:
    """Return the report of a network, its programs and the schedule of a layer."""
    weights = network.layout.size * (network.batch or 1)
    bound = rank_bound(network)
    full = min(network.layout.shape[0], network.layout.size // network.layout.shape[0])
    both = Program(
        program.inputs,
        adjoint.forward.steps + adjoint.backward.steps,
        (adjoint.forward.outputs[0], *adjoint.backward.outputs),
    )
    seed_bytes = adjoint.seeds[0].size * itemsize
    together = cost(both, itemsize)
    return Report(
        topology=network.topology,
        shape=network.layout.shape,
        weights=weights,
        parameters=network.parameters,
        ratio=weights / network.parameters,
        padding=network.layout.padding,
        activations=tuple(level.activation.name for level in network.levels if not level.activation.is_identity),
        rank_bound=bound if bound < full else None,
        forward=cost(program, itemsize),
        forward_and_backward=together.holding(seed_bytes),
        choice=choice,
    )


def rank_bound(network: Network) -> int:
    """Return an upper bound of the rank of the weight as a matrix (first dimension, all others).

    The levels after the last activation are one linear network on top of some state. The rank is at most the product of
    the legs in any cut of that network between the rows and the columns; this is the least such product.
    """
    first = network.first_linear_level
    if first == len(network.levels):
        return network.layout.size
    joints = _joints(network, first)
    tensors = {name for ends in joints.values() for name in ends} | {"rows", "columns"}
    number_of = {name: number for number, name in enumerate(sorted(tensors))}
    # capacities are logarithms in millionths, because maximum_flow wants integers; the cut is then exact
    matrix = np.zeros((len(number_of), len(number_of)), dtype=np.int64)
    for (_, leg), (one, other) in joints.items():
        capacity = max(1, round(1e6 * math.log2(leg.size)))
        matrix[number_of[one], number_of[other]] += capacity
        matrix[number_of[other], number_of[one]] += capacity
    capacities = csr_array(np.minimum(matrix, 2**31 - 1).astype(np.int32))
    flow = maximum_flow(capacities, number_of["rows"], number_of["columns"]).flow
    residual = csr_array(capacities - flow)
    residual.eliminate_zeros()
    reached = set(breadth_first_order(residual, number_of["rows"], return_predecessors=False).tolist())
    cut = [
        leg for (_, leg), (one, other) in joints.items() if (number_of[one] in reached) != (number_of[other] in reached)
    ]
    return math.prod(leg.size for leg in cut)


def _joints(network: Network, first: int) -> dict[tuple[int, Leg], tuple[str, str]]:
    """Return the two ends of every leg of the levels from `first` on: tensors, "rows" or "columns"."""
    holder: dict[Leg, str] = {}
    if first > 0:
        holder = dict.fromkeys(network.levels[first - 1].output, "state")
    joints: dict[tuple[int, Leg], tuple[str, str]] = {}
    for number, level in enumerate(network.levels[first:], start=first):
        holder = _through(level, number, holder, joints)
    for (dimension, _), leg in zip(network.layout.order, network.levels[-1].output, strict=True):
        joints[len(network.levels), leg] = (holder[leg], "rows" if dimension == 0 else "columns")
    return joints


def _through(
    level: Level, number: int, holder: dict[Leg, str], joints: dict[tuple[int, Leg], tuple[str, str]]
) -> dict[Leg, str]:
    """Record the joints inside a level; return which tensor holds each leg after it."""
    holder = dict(holder)
    for place, node in enumerate(level.nodes):
        name = f"level{number}/node{place}"
        for leg in node.legs:
            if leg in holder:
                joints[number, leg] = (holder.pop(leg), name)
            else:
                holder[leg] = name
    return holder
