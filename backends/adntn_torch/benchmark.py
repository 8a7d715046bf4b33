"""Layers of torch as contenders of `adntn.benchmarking`: dense ones and ours, with Adam."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from adntn.benchmarking.case import Case
from adntn.benchmarking.contender import Ready, Task
from adntn_torch.layers import Conv2d, Linear

#: Of cores, inputs and gradients.
SEED = 0


def dense(case: Case, task: Task, *, fused: bool = False) -> Ready:
    """Return torch's own layer; with `fused`, torch's fused Adam."""
    return layer_ready(dense_layer(case), case, task, fused=fused)


def dense_layer(case: Case) -> nn.Module:
    """Return torch's own layer for a case."""
    out, features, *kernel = case.shape
    placed: dict[str, Any] = {"device": case.device, "dtype": dtype_of(case), "bias": False}
    if kernel:
        return nn.Conv2d(features, out, (kernel[0], kernel[1]), padding="same", **placed)
    return nn.Linear(features, out, **placed)


def generated(case: Case, task: Task, *, frozen: bool = False, **options: Any) -> Ready:
    """Return our layer.

    Args:
        case: for which case.
        task: what it is to do.
        frozen: whether the weight is generated once and kept.
        options: further keywords of the layer, such as `schedule` and `memory_limit`.
    """
    out, features, *kernel = case.shape
    given: dict[str, Any] = {
        "bias": False,
        "topology": case.options,
        "seed": SEED,
        "device": case.device,
        "dtype": dtype_of(case),
    }
    layer: Any = (
        Conv2d(features, out, tuple(kernel), padding="same", **given, **options)
        if kernel
        else Linear(features, out, **given, **options)
    )
    if frozen:
        layer.freeze()
    return layer_ready(layer, case, task, parameters=layer.generator.parameters)


def layer_ready(
    layer: nn.Module, case: Case, task: Task, *, fused: bool = False, parameters: int | None = None, note: str = ""
) -> Ready:
    """Return a layer ready for "forward", "backward" or "step".

    Inputs require their gradient, as they do everywhere but in a network's first layer, and the loss's gradient with
    respect to the outputs is given: what is measured is the layer and nothing else.

    Args:
        layer: any module from inputs to outputs.
        case: what it is given.
        task: what it does.
        fused: whether torch's fused Adam makes the step.
        parameters: how many numbers it learns, if they are no parameters of the module.
        note: of the contender.
    """
    learned = list(layer.parameters())
    count = sum(one.numel() for one in learned) if parameters is None else parameters
    if task == "forward":

        @torch.no_grad()
        def forward() -> Tensor:
            result: Tensor = layer(x)
            return result

        x = inputs(case)
        return Ready(synchronised(forward, case), count, note)
    x, y_bar = inputs(case).requires_grad_(), outputs_bar(case)
    optimiser = torch.optim.Adam(learned, fused=True if fused else None) if task == "step" else None

    def train() -> Tensor:
        """Return the outputs; the gradients are dropped before the next call, as `zero_grad` does."""
        x.grad = None
        layer.zero_grad()
        y: Tensor = layer(x)
        y.backward(y_bar)  # type: ignore[no-untyped-call]
        if optimiser is not None:
            optimiser.step()
        return y.detach()

    return Ready(synchronised(train, case), count, note)


def inputs(case: Case) -> Tensor:
    """Return random inputs."""
    return _normal(case, case.x_shape)


def outputs_bar(case: Case) -> Tensor:
    """Return a random dL/dy."""
    return _normal(case, case.y_shape) / math.prod(case.y_shape)


def dtype_of(case: Case) -> torch.dtype:
    """Return torch's number type."""
    found: torch.dtype = getattr(torch, case.dtype)
    return found


def synchronised(call: Callable[[], object], case: Case) -> Callable[[], object]:
    """Return a call that waits for the GPU, if the case is on one."""
    if not case.device.startswith("cuda"):
        return call

    def waiting() -> object:
        result = call()
        torch.cuda.synchronize(case.device)
        return result

    return waiting


def _normal(case: Case, shape: tuple[int, ...]) -> Tensor:
    torch.manual_seed(SEED)
    return torch.randn(shape, device=case.device, dtype=dtype_of(case))
