"""TensorKrowch: its matrix product operator as a linear layer.

Its `MPO` takes inputs that are products of vectors; a layer's inputs are not. So x becomes one node with a leg for each
site, which is contracted with site after site, as its users do with data of that kind.

Source: https://github.com/joserapa98/tensorkrowch
"""

from __future__ import annotations

import math
from typing import Any

import tensorkrowch
import torch
from torch import Tensor, nn

from adntn.benchmarking.case import Case
from adntn.benchmarking.contender import Ready, Task
from adntn_torch.benchmark import SEED, dtype_of, layer_ready
from benchmarks.rivals.modules import weight_ready
from benchmarks.rivals.sizes import counts, groups, nearest, train_size

#: The most sites.
MOST_SITES = 12


class Operator(nn.Module):
    """A matrix product operator with about as many parameters as our generator.

    Args:
        case: a linear layer's.

    Attributes:
        rows, columns: the sizes of its sites' output and input legs.
        rank: of all bonds.
        learned: how many numbers it learns. It stores more: fixed vectors at both ends, and zeros that meet them.
    """

    def __init__(self, case: Case) -> None:
        super().__init__()

        def parameters(split: int, rank: int) -> int:
            sites = zip(*(groups(size, split) for size in case.shape), strict=True)
            return train_size([row * column for row, column in sites], rank)

        split, self.rank = nearest(counts(case.shape, MOST_SITES), parameters, case.generator.parameters)
        self.learned = parameters(split, self.rank)
        self.rows, self.columns = groups(case.shape[0], split), groups(case.shape[1], split)
        self.network: Any = tensorkrowch.models.MPO(tensors=self._start(case))
        self._data: Any = None

    def _start(self, case: Case) -> list[Tensor]:
        """Return random sites, of the shapes (left, input, right, output); the outer ones lack the outer bond."""
        torch.manual_seed(SEED)
        last, tensors = len(self.rows) - 1, []
        for site, (row, column) in enumerate(zip(self.rows, self.columns, strict=True)):
            left = () if site == 0 else (self.rank,)
            right = () if site == last else (self.rank,)
            tensor = torch.randn((*left, column, *right, row), device=case.device, dtype=dtype_of(case))
            tensors.append(tensor / (column * self.rank) ** 0.5)
        return tensors

    def weight(self) -> Tensor:
        """Return the matrix (out, in)."""
        state = self.network.left_node
        for site in self.network.mats_env:
            state = state @ site
        state = state @ self.network.right_node
        legs: Tensor = state.tensor
        axes = [*range(1, legs.ndim, 2), *range(0, legs.ndim, 2)]
        return legs.permute(axes).reshape(math.prod(self.rows), math.prod(self.columns))

    def forward(self, x: Tensor) -> Tensor:
        """Return x @ weight.T without the weight."""
        sites = self.network.mats_env
        if self._data is None:
            names = ("batch", *(f"input_{site}" for site in range(len(sites))))
            self._data = tensorkrowch.Node(
                shape=(len(x), *self.columns), axes_names=names, name="x", network=self.network, data=True
            )
            for number, site in enumerate(sites):
                self._data[f"input_{number}"] ^ site["input"]  # the library's way to connect two legs
        self._data.tensor = x.reshape(len(x), *self.columns)
        state = self._data @ (self.network.left_node @ sites[0])
        for site in sites[1:-1]:
            state = state @ site
        state = state @ (sites[-1] @ self.network.right_node)
        made: Tensor = state.tensor.reshape(len(x), -1)
        return made


def setup(case: Case, task: Task) -> Ready:
    """Return the operator.

    Raises:
        ValueError: if the case is a convolution.
    """
    if case.is_convolution:
        raise ValueError("a matrix product operator is a linear layer; a convolution would have to unfold its inputs")
    operator = Operator(case)
    note = f"rank {operator.rank}, {len(operator.rows)} sites"
    if task in ("weight", "gradients"):
        sites = [site.tensor for site in operator.network.mats_env]
        return Ready(weight_ready(operator.weight, sites, case, task).call, operator.learned, note)
    return layer_ready(operator, case, task, parameters=operator.learned, note=note)
