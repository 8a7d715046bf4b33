"""What rivals on torch share: a layer around anything that makes a weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from adntn.benchmarking.case import Case
from adntn.benchmarking.contender import Ready, Task
from adntn_torch.benchmark import SEED, dtype_of, layer_ready, synchronised


class MadeWeight(nn.Module):
    """A layer that makes its weight anew in every call, and lets autograd differentiate it.

    Args:
        make: returns the weight.
        learned: the parameters that it is made from.
    """

    def __init__(self, make: Callable[[], Tensor], learned: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self.make = make
        self.learned = nn.ParameterList(learned)

    def forward(self, x: Tensor) -> Tensor:
        """Return x @ weight.T, or the convolution with outputs as large as the inputs."""
        weight = self.make()
        return functional.linear(x, weight) if weight.ndim == 2 else functional.conv2d(x, weight, padding="same")


def weight_ready(make: Callable[[], Tensor], learned: Iterable[nn.Parameter], case: Case, task: Task) -> Ready:
    """Return any task of something that makes a weight from parameters.

    Args:
        make: returns the weight, of the case's shape.
        learned: the parameters.
        case: the case.
        task: the task.
    """
    parameters = list(learned)
    count = sum(one.numel() for one in parameters)
    if task == "weight":
        return Ready(synchronised(torch.no_grad()(make), case), count)
    if task != "gradients":
        return layer_ready(MadeWeight(make, parameters), case, task)
    torch.manual_seed(SEED)
    weight_bar = torch.randn(case.shape, device=case.device, dtype=dtype_of(case))

    def gradients() -> tuple[Tensor, tuple[Tensor, ...]]:
        weight = make()
        return weight.detach(), torch.autograd.grad(weight, parameters, weight_bar)

    return Ready(synchronised(gradients, case), count)
