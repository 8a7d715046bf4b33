"""quimb and cotengra: our own network, if it is linear, contracted along a path that cotengra's search finds.

Sources: https://github.com/jcmgray/quimb, https://github.com/jcmgray/cotengra
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cotengra
import quimb.tensor as qtn
import torch
from torch import Tensor, nn

import adntn
from adntn.benchmarking.case import Case
from adntn.benchmarking.contender import Ready, Task
from adntn_torch.benchmark import SEED, layer_ready
from benchmarks.rivals.modules import weight_ready

#: How many trees the search tries; it runs once, before anything is measured.
TREES = 32
#: The index of x that counts the inputs.
BATCH = "x"


class Contracted(nn.Module):
    """A linear generator contracted with x along one path, without the weight.

    Args:
        generator: without activations and padding.
        cores: its cores, as parameters.
        batch: how many inputs; 0 to make the weight itself.
    """

    def __init__(self, generator: adntn.Generator, cores: Mapping[str, nn.Parameter], batch: int) -> None:
        super().__init__()
        self.cores = nn.ParameterList(cores.values())
        block = adntn.interop.quimb_network(generator, cores)
        rows, columns = adntn.interop.output_legs(generator)
        sizes = generator.network.layout.factors[1]
        tensors = list(block.network.tensors)
        self.arrays = [tensor.data for tensor in tensors]
        outputs = (*rows, *columns)
        self.x_shape: tuple[int, ...] = ()
        if batch:
            outputs, self.x_shape = (BATCH, *rows), (batch, *sizes)
            tensors.append(qtn.Tensor(torch.empty(self.x_shape, device="meta"), (BATCH, *columns)))
        network: Any = qtn.TensorNetwork(tensors)
        search = cotengra.HyperOptimizer(
            methods=["greedy"], max_repeats=TREES, minimize="combo", parallel=False, progbar=False
        )
        self.tree: Any = network.contraction_tree(optimize=search, output_inds=outputs)
        self.shape = generator.shape

    def weight(self) -> Tensor:
        """Return the weight."""
        made: Tensor = self.tree.contract(self.arrays)
        return made.reshape(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Return x @ weight.T."""
        made: Tensor = self.tree.contract([*self.arrays, x.reshape(self.x_shape)])
        return made.reshape(len(x), -1)


def setup(case: Case, task: Task) -> Ready:
    """Return our linear generator in quimb's hands.

    Raises:
        ValueError: if the case is not linear, is a convolution or has padding.
    """
    generator = case.generator
    if case.is_convolution:
        raise ValueError("x and a convolution's kernel are no tensor network; x would have to be unfolded")
    if generator.network.layout.padding:
        raise ValueError("cropping stands outside of a tensor network, and this weight is padded")
    start = generator.init(SEED, backend="torch", dtype=case.dtype, device=torch.device(case.device))
    cores = {name: nn.Parameter(core) for name, core in start.items()}
    note = f"cotengra's best of {TREES} paths"
    if task in ("weight", "gradients"):
        made = Contracted(generator, cores, 0)
        ready = weight_ready(made.weight, cores.values(), case, task)
        return Ready(ready.call, ready.parameters, note)
    return layer_ready(Contracted(generator, cores, case.batch), case, task, note=note)
