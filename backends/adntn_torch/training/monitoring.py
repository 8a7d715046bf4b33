"""What is worth watching while cores learn: how few they are, and how long their gradient is."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from adntn_torch.compress import layers_and_deltas
from adntn_torch.training.fitting import distinct_layers


def compression_summary(model: nn.Module) -> dict[str, float]:
    """Return how many weights are generated, the numbers that generate them, and the ratio of both.

    >>> import adntn, adntn_torch
    >>> compression_summary(adntn_torch.Linear(64, 64, topology=adntn.TTN.options(bond=2)))["generated_weights"]
    4096

    Raises:
        ValueError: if the model has no generated layers.
    """
    generators = [layer.generator for layer in distinct_layers(model).values()]
    if not generators:
        raise ValueError("model has no generated layers (see compress), so that there is nothing to watch")
    weights = sum(math.prod(one.shape) for one in generators)
    cores = sum(one.parameters for one in generators)
    return {"generated_weights": weights, "core_parameters": cores, "ratio": weights / cores}


def core_gradient_norm(model: nn.Module) -> Tensor:
    """Return the length of the gradient of all cores together, 0 where there is none; it stays on its device."""
    cores = {id(core): core for layer in layers_and_deltas(model).values() for core in layer.cores.values()}
    gradients = [core.grad for core in cores.values() if core.grad is not None]
    if not gradients:
        return torch.zeros(())
    return nn.utils.get_total_norm(gradients)
