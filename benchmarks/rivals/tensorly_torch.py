"""tensorly-torch: `FactorizedLinear` and `FactorizedConv`, and its tensor train of the weight's legs.

Source: https://github.com/tensorly/torch
"""

from __future__ import annotations

from typing import Any, Literal

import tltorch
import torch
from torch import Tensor, nn

from adntn.benchmarking.case import Case
from adntn.benchmarking.contender import Ready, Task
from adntn_torch.benchmark import SEED, dtype_of, layer_ready, synchronised
from benchmarks.rivals.modules import weight_ready
from benchmarks.rivals.sizes import counts, groups, nearest, train_size

Factorization = Literal["BlockTT", "CP", "TT"]
Implementation = Literal["factorized", "reconstructed"]

#: The most factors of a dimension: contracting with x writes one einsum, whose letters end at "z".
MOST_FACTORS = {
    ("BlockTT", "factorized"): 8,
    ("CP", "factorized"): 12,
    ("BlockTT", "reconstructed"): 12,
    ("CP", "reconstructed"): 12,
    ("TT", "reconstructed"): 12,
}


def setup(case: Case, task: Task, *, factorization: Factorization, implementation: Implementation) -> Ready:
    """Return the library's layer: of all splits and ranks the one with parameters nearest to our generator's.

    Raises:
        ValueError: if the library has no such layer.
    """
    torch.manual_seed(SEED)
    if case.is_convolution:
        return _convolution(case, task, factorization, implementation)
    if factorization == "TT":
        return _train(case, task, implementation)
    layer, note = linear(case, factorization, implementation)
    if task in ("weight", "gradients"):
        ready = weight_ready(layer.weight.to_matrix, layer.parameters(), case, task)
        return Ready(ready.call, ready.parameters, note)
    return layer_ready(layer, case, task, note=note)


def linear(case: Case, factorization: Factorization, implementation: Implementation) -> tuple[Any, str]:
    """Return the library's linear layer, and its sizes in words."""
    out, features = case.shape

    def parameters(split: int, rank: int) -> int:
        rows, columns = groups(out, split), groups(features, split)
        if factorization == "CP":
            return rank * (sum(rows) + sum(columns) + 1)
        return train_size([row * column for row, column in zip(rows, columns, strict=True)], rank)

    splits = counts(case.shape, MOST_FACTORS[factorization, implementation])
    split, rank = nearest(splits, parameters, case.generator.parameters)
    rows, columns = groups(out, split), groups(features, split)
    layer = tltorch.FactorizedLinear(
        columns,
        rows,
        bias=False,
        factorization=factorization,
        rank=rank,
        implementation=implementation,
        device=case.device,
        dtype=dtype_of(case),
    )
    return layer, f"rank {rank}, {_shown(rows)} by {_shown(columns)}"


def _train(case: Case, task: Task, implementation: Implementation) -> Ready:
    """Return a tensor train over the rows' factors and then the columns': no layer of the library takes one."""
    if implementation == "factorized":
        raise ValueError("FactorizedLinear takes no tensor train; its weight can only be reconstructed")

    def sizes(split: int) -> tuple[int, ...]:
        return groups(case.shape[0], split) + groups(case.shape[1], split)

    splits = counts(case.shape, MOST_FACTORS["TT", implementation])
    split, rank = nearest(splits, lambda split, rank: train_size(sizes(split), rank), case.generator.parameters)
    ranks = (1, *(rank,) * (2 * split - 1), 1)
    train: Any = tltorch.FactorizedTensor.new(
        sizes(split), rank=ranks, factorization="TT", device=case.device, dtype=dtype_of(case)
    )
    train.normal_(0, case.shape[1] ** -0.5)

    def weight() -> Tensor:
        made: Tensor = train.to_tensor().reshape(case.shape)
        return made

    ready = weight_ready(weight, list(train.parameters()), case, task)
    return Ready(ready.call, ready.parameters, f"rank {rank}, {_shown(sizes(split))}")


def _convolution(case: Case, task: Task, factorization: Factorization, implementation: Implementation) -> Ready:
    """Return the library's convolution, whose four dimensions are not split further."""
    if factorization == "BlockTT":
        raise ValueError("FactorizedConv has no block tensor train")
    out, features, height, width = case.shape
    target = case.generator.parameters
    if factorization == "CP":
        _, rank = nearest([1], lambda _, rank: rank * (sum(case.shape) + 1), target, least_rank=1)
        ranks: Any = rank
    else:
        _, rank = nearest([1], lambda _, rank: train_size((features, height, width, out), rank), target, least_rank=1)
        ranks = (1, rank, rank, rank, 1)
    layer: nn.Module = tltorch.FactorizedConv(
        features,
        out,
        (height, width),
        padding=(height // 2, width // 2),
        factorization=factorization,
        rank=ranks,
        implementation=implementation,
        device=case.device,
        dtype=dtype_of(case),
    )
    weight: Any = layer.weight
    weight.normal_(0, case.generator.fan_in**-0.5)
    note = f"rank {rank}"
    if task in ("weight", "gradients"):
        if task == "gradients":
            raise ValueError("its weight lies in another order of dimensions, which dL/dW would have to follow")
        return Ready(synchronised(torch.no_grad()(weight.to_tensor), case), _count(layer), note)
    return layer_ready(layer, case, task, note=note)


def _count(layer: nn.Module) -> int:
    return sum(one.numel() for one in layer.parameters())


def _shown(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
