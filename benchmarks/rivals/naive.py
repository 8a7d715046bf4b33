"""The paper's formulas as one would write them down: level by level, core by core, differentiated by torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

import adntn
from adntn.benchmarking.case import Case
from adntn.benchmarking.contender import Ready, Task
from adntn_torch.benchmark import SEED
from benchmarks.rivals.modules import weight_ready

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda z: z,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
}


def weight(network: adntn.Network, cores: Mapping[str, Tensor]) -> Tensor:
    """Return the weight: each core is contracted with the whole state, and the activation follows each level.

    >>> import adntn
    >>> generator = adntn.TTN((16, 8), bond=2)
    >>> weight(generator.network, generator.init(0, backend="torch")).shape
    torch.Size([16, 8])

    Args:
        network: of a generator without a batch.
        cores: its cores.

    Raises:
        KeyError: if an activation is not written down here.
    """
    state, labels = torch.ones((), dtype=cores["scale"].dtype, device=cores["scale"].device), list[str]()
    for level in network.levels:
        for node in level.nodes:
            own = [leg.label for leg in node.legs]
            joint = [label for label in own if label in labels]
            places = [labels.index(label) for label in joint], [own.index(label) for label in joint]
            state = torch.tensordot(state, cores[node.core], dims=places)
            labels = [label for label in (*labels, *own) if label not in joint]
        output = [leg.label for leg in level.output]
        state = state.permute([labels.index(label) for label in output])
        state, labels = ACTIVATIONS[level.activation.name](state), output
    layout = network.layout
    in_weight = sorted(range(len(labels)), key=lambda place: layout.order[place])
    padded = state.permute(in_weight).reshape(layout.padded_shape)
    return cores["scale"] * padded[tuple(slice(length) for length in layout.shape)]


def setup(case: Case, task: Task) -> Ready:
    """Return the naive generator of the case, started as ours is."""
    generator = case.generator
    start = generator.init(SEED, backend="torch", dtype=case.dtype, device=torch.device(case.device))
    cores = {name: nn.Parameter(core) for name, core in start.items()}
    return weight_ready(lambda: weight(generator.network, cores), cores.values(), case, task)
