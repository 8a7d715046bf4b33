"""Dense weights as what generated layers are to become: from a dense network, as relative errors, and fits of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from adntn_torch.choose import some
from adntn_torch.compress import generated_layers
from adntn_torch.fit import fit
from adntn_torch.generated import GeneratedLayer


def dense_weights(model: nn.Module, dense: nn.Module) -> dict[str, Tensor]:
    """Return, for each generated layer of a model, the weight of the same layer in the dense network it came from.

    >>> import adntn, adntn_torch, copy
    >>> dense = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> model = copy.deepcopy(dense)
    >>> compression = adntn_torch.compress(model, {"0": adntn.TTN.options(bond=2)})
    >>> {name: weight.shape for name, weight in dense_weights(model, dense).items()}
    {'0': torch.Size([32, 64])}

    Raises:
        ValueError: if the model generates nothing, or the dense network has no such layer, or one of another shape.
    """
    layers = distinct_layers(model)
    if not layers:
        raise ValueError("model has no generated layers (see compress), so that there is nothing to fit")
    return {name: _dense_weight(dense, name, layer.generator.shape) for name, layer in layers.items()}


def fit_layers(
    model: nn.Module,
    targets: Mapping[str, Tensor],
    *,
    adam: int = 0,
    lbfgs: int = 100,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, float]:
    """Fit generated layers to weights by `adntn_torch.fit`, one after another; return each one's relative error.

    Args:
        model: its cores are changed in place.
        targets: a weight for each layer by name, such as `dense_weights` returns.
        adam, lbfgs: numbers of steps for each layer, as in `adntn_torch.fit`.
        progress: called after each layer with its name and error.

    Raises:
        ValueError: if there is no target, one is for no generated layer, of another shape, or zero.
    """
    errors: dict[str, float] = {}
    for name, layer in check_targets(model, targets).items():
        scale = layer.cores["scale"]
        found = fit(layer.generator, targets[name].to(scale.device, scale.dtype), adam=adam, lbfgs=lbfgs)
        layer.load_cores(found.cores)
        errors[name] = found.error
        if progress is not None:
            progress(name, found.error)
    return errors


@torch.no_grad()
def relative_errors(model: nn.Module, targets: Mapping[str, Tensor]) -> dict[str, float]:
    """Return |W - target| / |target| of each generated layer that has a target.

    Raises:
        ValueError: as `fit_layers` does.
    """
    layers = check_targets(model, targets)
    return {name: math.sqrt(float(relative_error(layer.weight, targets[name]))) for name, layer in layers.items()}


def relative_error(value: Tensor, target: Tensor) -> Tensor:
    """Return |value - target|^2 / |target|^2, in float32 at least; of a target that is zero, by the smallest number."""
    wide = torch.promote_types(torch.promote_types(value.dtype, target.dtype), torch.float32)
    value, target = value.to(wide), target.to(value.device, wide)
    size = target.abs().square().sum().clamp_min(torch.finfo(wide).tiny)
    return (value - target).abs().square().sum() / size


def distinct_layers(model: nn.Module) -> dict[str, GeneratedLayer]:
    """Return the generated layers, each by its first name."""
    first: dict[int, str] = {}
    layers = generated_layers(model)
    for name, layer in layers.items():
        first.setdefault(id(layer.cores), name)
    return {name: layers[name] for name in first.values()}


def check_targets(model: nn.Module, targets: Mapping[str, Tensor]) -> dict[str, GeneratedLayer]:
    """Return the layers that have a target, after all that could be wrong with these."""
    layers = generated_layers(model)
    if not layers:
        raise ValueError("model has no generated layers (see compress), so that there is nothing to fit")
    if not targets:
        raise ValueError("targets must have a weight for at least one generated layer, such as dense_weights returns")
    if unknown := [name for name in targets if name not in layers]:
        raise ValueError(f"targets has weights for {some(unknown)}; generated are {some([*layers])}")
    for name, target in targets.items():
        if tuple(target.shape) != (shape := layers[name].generator.shape):
            raise ValueError(f"the target of layer {name!r} must have shape {shape}, got {tuple(target.shape)}")
        if not bool((target != 0).any()):
            raise ValueError(f"the target of layer {name!r} must not be all zero: its relative error is undefined")
    return {name: layers[name] for name in targets}


def _dense_weight(dense: nn.Module, name: str, shape: tuple[int, ...]) -> Tensor:
    parent, _, child = name.rpartition(".")
    modules = dict(dense.named_modules(remove_duplicate=False))
    if isinstance(attention := modules.get(parent), nn.MultiheadAttention) and child != "out_proj":
        weight = _projection(attention, child)
    else:
        weight = getattr(modules.get(name), "weight", None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"the dense network has no layer {name!r} with a weight, as the model has")
    if weight.numel() != math.prod(shape):
        raise ValueError(f"layer {name!r} generates {shape}, the dense network's weight has {tuple(weight.shape)}")
    return weight.detach().reshape(shape)


def _projection(attention: nn.MultiheadAttention, name: str) -> Tensor | None:
    """Return the weight of torch's attention that stands for a projection of ours."""
    if name == "in_proj":
        return attention.in_proj_weight
    if attention.in_proj_weight is None:
        return getattr(attention, f"{name}_weight", None)
    return dict(zip(("q_proj", "k_proj", "v_proj"), attention.in_proj_weight.chunk(3), strict=True)).get(name)
