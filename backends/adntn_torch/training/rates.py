"""Learning rates that suit generators: cores and other parameters apart, and rates that rise before they fall.

>>> import adntn, adntn_torch
>>> model = nn.Sequential(adntn_torch.Linear(64, 64, seed=0), nn.ReLU(), nn.Linear(64, 10))
>>> groups = parameter_groups(model, cores={"lr": 3e-3}, others={"lr": 1e-3, "weight_decay": 1e-2})
>>> optimiser = torch.optim.AdamW(groups)
>>> [(group["name"], group["lr"], group["weight_decay"]) for group in optimiser.param_groups]
[('matrices', 0.001, 0.01), ('vectors', 0.001, 0.0), ('cores', 0.003, 0.0)]
>>> schedule = warm_up(optimiser, steps=100)
>>> optimiser.param_groups[2]["lr"] == 3e-3 / 10  # the first of ten steps that rise
True
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from adntn.rates import Decay, rising_steps
from adntn_torch.compress import layers_and_deltas


def parameter_groups(
    model: nn.Module, *, cores: Mapping[str, Any], others: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return the parameters that learn as groups for an optimiser: "matrices", "vectors" and "cores".

    Cores take larger rates than dense weights: there are few of them, and each has a part in many weights. They do not
    decay, unless `cores` says so: a weight is a product of its cores, so that the decay of each would add up over all
    levels, and activations would be driven out of the range that the start was calibrated for. Vectors (biases,
    normalisations) do not decay either, as is usual.

    Args:
        model: with or without generated layers; adapters have cores, too. Parameters that are frozen are left out.
        cores: options of the optimiser for cores, such as {"lr": 3e-3}.
        others: the same for all other parameters; by default the optimiser's own.

    Raises:
        ValueError: if nothing learns.
        TypeError: if options are no mapping.
    """
    for name, options in {"cores": cores, "others": others}.items():
        if options is not None and not isinstance(options, Mapping):
            raise TypeError(f'{name} must be options of the optimiser, such as {{"lr": 0.003}}, got {options!r}')
    generated = {id(core) for layer in layers_and_deltas(model).values() for core in layer.cores.values()}
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not learning:
        raise ValueError("no parameter of the model has requires_grad, so that there is nothing to train")
    rest = [parameter for parameter in learning if id(parameter) not in generated]
    others = {} if others is None else others
    groups: list[dict[str, Any]] = [
        {**others, "params": [one for one in rest if one.ndim > 1], "name": "matrices"},
        {**others, "params": [one for one in rest if one.ndim <= 1], "name": "vectors", "weight_decay": 0.0},
        {
            "weight_decay": 0.0,
            **cores,
            "params": [one for one in learning if id(one) in generated],
            "name": "cores",
        },
    ]
    return [group for group in groups if group["params"]]


def warm_up(optimiser: torch.optim.Optimizer, steps: int, *, share: float = 0.1, decay: Decay = "cosine") -> LambdaLR:
    """Return torch's scheduler by `rate_factor`; call its `step()` after every step of the optimiser.

    A first step of Adam moves every number of every core by the full rate, before it knows the size of their gradients,
    and all levels multiply what they change. The rise is a precaution against that; it is no cure for rates that are
    too high.

    Args:
        optimiser: each group's rate is its highest one.
        steps: how many there will be.
        share: part of these in which the rate rises.
        decay: "cosine", half a wave down to zero at the end, or "constant".

    Raises:
        ValueError: if there is less than one step, or an argument has no such value.
    """
    rising = rising_steps(steps, share, decay)
    return LambdaLR(optimiser, lambda step: rate_factor(step, steps, rising, decay))


def rate_factor(step: int, steps: int, rising: int, decay: Decay = "cosine") -> float:
    """Return the part of the highest rate that a step takes: a straight rise, then `decay`.

    >>> [round(rate_factor(step, 6, 2), 2) for step in range(6)]
    [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]

    Args:
        step: its number, from 0.
        steps: how many there will be.
        rising: in how many of these the rate rises.
        decay: "cosine" or "constant".
    """
    if step < rising:
        return (step + 1) / rising
    if decay == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - rising) / max(1, steps - rising))))
