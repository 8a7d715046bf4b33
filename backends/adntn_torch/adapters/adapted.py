"""Layers that add deltas to a frozen weight: the same objects, whose class alone has changed.

Why not otherwise:

- A wrapper around the layer (as in PEFT) renames its weights in every state dict, and code that reads `layer.weight`,
  such as `torch.nn.MultiheadAttention` of its output layer, silently goes without the adapter.
- A forward hook keeps the names, but is passed over where weights are read, too.
- A parametrization (torch.nn.utils.parametrize) is exact wherever weights are read, but renames them, and makes the
  delta in full for every use.

Here `weight` is a property: whoever reads it gets the weight with the deltas. The dense layers themselves, which are
called with x, add what the deltas make of x to their own product instead, so that a delta need not exist. Parameters
keep their names, and stay the same objects; state dicts hold the frozen weight, merged or not. Changing an object's
class is what parametrizations and FSDP2 do, too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from adntn_torch.adapters.delta import Delta
from adntn_torch.generated import DELTAS
from adntn_torch.schedules import is_traced


def _linear(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    return functional.linear(x, weight, layer.bias)  # type: ignore[arg-type]


def _convolution(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    y: Tensor = layer._conv_forward(x, weight, layer.bias)  # type: ignore[operator]
    return y


def _embedding(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    given = layer.padding_idx, layer.max_norm, layer.norm_type, layer.scale_grad_by_freq, layer.sparse
    return functional.embedding(x, weight, *given)  # type: ignore[arg-type]


def _transformers_conv1d(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    return torch.addmm(layer.bias, rows, weight).view(*x.shape[:-1], weight.shape[1])  # type: ignore[arg-type]


#: How a layer meets x with a weight. Subclasses, and layers whose weight others read, take the weight with the deltas.
PRODUCTS: dict[type[nn.Module], Callable[[nn.Module, Tensor, Tensor], Tensor]] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Conv3d: _convolution,
    nn.Embedding: _embedding,
}


def product_of(kind: type[nn.Module]) -> Callable[[nn.Module, Tensor, Tensor], Tensor] | None:
    """Return how a layer of exactly that class meets x with a weight; None where it is to read the weight itself."""
    return _transformers_conv1d if _is_transformers_conv1d(kind) else PRODUCTS.get(kind)


def is_transposed(kind: type[nn.Module]) -> bool:
    """Return whether the weight has the shape (in, out): the linear layer of GPT-2 and its kin."""
    return any(_is_transformers_conv1d(one) for one in kind.__mro__)


def _is_transformers_conv1d(kind: type) -> bool:
    return (kind.__module__, kind.__name__) == ("transformers.pytorch_utils", "Conv1D")  # without importing it


class Adapted(nn.Module):
    """What is mixed into the class of an adapted layer; see `adapted_kind`.

    Attributes:
        adntn_kind: the class of the layer without adapters.
        adntn_delta: the deltas by the adapter's name.
        adntn_active: the adapters that act.
        adntn_original: the frozen weight as it was, while the deltas are merged into it; else None.
    """

    adntn_kind: ClassVar[type[nn.Module]]
    adntn_delta: nn.ModuleDict
    adntn_active: tuple[str, ...]
    adntn_original: Tensor | None

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.adntn_original is not None:
            destination[prefix + weight_name(self.adntn_kind)] = self.adntn_original

    def _load_from_state_dict(self, *arguments: Any, **keywords: Any) -> None:
        unmerge_layer(self)  # what is loaded is the frozen weight, and perhaps other cores
        super()._load_from_state_dict(*arguments, **keywords)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _new, (self.adntn_kind,), object.__getstate__(self)  # the class itself is made at run time


def _new(kind: type[nn.Module]) -> nn.Module:
    return object.__new__(adapted_kind(kind))  # type: ignore[arg-type]


@cache
def adapted_kind(kind: type[nn.Module]) -> type[Adapted]:
    """Return the class of the adapted layers of a kind, a subclass of it."""
    body: dict[str, Any] = {
        "adntn_kind": kind,
        "__doc__": f"`{kind.__name__}` with deltas.",
        "__module__": __name__,
        weight_name(kind): property(effective_weight),
    }
    product = product_of(kind)
    if product is not None:

        def forward(self: Adapted, input: Tensor) -> Tensor:
            y = product(self, input, frozen_weight(self))
            for delta in acting(self):
                y = y + delta(input).to(y.dtype)
            return y

        body["forward"] = forward
    return type(f"Adapted{kind.__name__}", (Adapted, kind), body)


def effective_weight(layer: Adapted) -> Tensor:
    """Return the weight with the deltas that act: the frozen parameter itself, where there are none."""
    weight = frozen_weight(layer)
    total: Tensor = weight
    for delta in acting(layer):
        added = delta.weight.T if is_transposed(layer.adntn_kind) else delta.weight
        total = total + added  # 16-bit weights are added in the cores' float32, and rounded once
    return total.to(weight.dtype)


def frozen_weight(layer: nn.Module) -> nn.Parameter:
    """Return the parameter that deltas are added to."""
    weight = layer._parameters[weight_name(kind_of(layer))]
    if weight is None:
        raise AttributeError(f"{type(layer).__name__} has no weight any more")
    return weight


def weight_name(kind: type[nn.Module]) -> str:
    """Return the name of the parameter that deltas are added to."""
    return "in_proj_weight" if issubclass(kind, nn.MultiheadAttention) else "weight"


def kind_of(layer: nn.Module) -> type[nn.Module]:
    """Return a layer's class, without adapters."""
    return layer.adntn_kind if isinstance(layer, Adapted) else type(layer)


def acting(layer: Adapted) -> Iterator[Delta]:
    """Yield the deltas that are to be added now: none while they are merged, which is no time to train them."""
    if layer.adntn_original is None:
        for name in layer.adntn_active:
            yield layer.adntn_delta[name]  # type: ignore[misc]
    elif layer.training and not is_traced() and _learns(layer):
        warnings.warn(
            f"a merged {layer.adntn_kind.__name__} runs in training mode, but its adapters learn nothing: unmerge() to"
            " train them; to run it as it is, use eval() or torch.no_grad()",
            stacklevel=3,
        )


def _learns(layer: Adapted) -> bool:
    return torch.is_grad_enabled() and any(core.requires_grad for core in layer.adntn_delta.parameters())


def attach(layer: nn.Module, name: str, delta: Delta) -> None:
    """Give a layer a delta, which does not act yet."""
    if not isinstance(layer, Adapted):
        layer.__class__ = adapted_kind(type(layer))  # type: ignore[arg-type]
        layer.add_module(DELTAS, nn.ModuleDict())
        layer.adntn_active = ()  # type: ignore[assignment]
        layer.register_buffer("adntn_original", None, persistent=False)
    layer.get_submodule(DELTAS).add_module(name, delta.train(layer.training))


def detach(layer: Adapted, name: str) -> None:
    """Take a delta from a layer; without any, the layer is again what it was."""
    layer.adntn_active = tuple(one for one in layer.adntn_active if one != name)
    del layer.adntn_delta[name]
    if not layer.adntn_delta:
        del layer.adntn_delta, layer.adntn_active, layer.adntn_original
        layer.__class__ = layer.adntn_kind  # type: ignore[assignment]


@torch.no_grad()
def merge_layer(layer: Adapted) -> None:
    """Write the weight with the deltas that act over the frozen one, of which a copy is kept.

    Raises:
        ValueError: if the weight would have NaN or infinite values; nothing has been written then.
    """
    weight, merged = frozen_weight(layer), effective_weight(layer)
    if not bool(torch.isfinite(merged).all()):
        raise ValueError(f"merged weights must be finite, but those of a {kind_of(layer).__name__} are not")
    layer.adntn_original = weight.detach().clone()
    weight.copy_(merged)


@torch.no_grad()
def unmerge_layer(layer: Adapted) -> None:
    """Put the frozen weight back as it was, to the bit; nothing if it is not merged."""
    if layer.adntn_original is not None:
        frozen_weight(layer).copy_(layer.adntn_original)
        layer.adntn_original = None


def adapted_layers(model: nn.Module) -> dict[str, Adapted]:
    """Return every adapted layer of a model by its name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Adapted)}


def outer_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of a model by name, without what adapters have added."""
    every = model.named_modules(remove_duplicate=False)
    return {name: module for name, module in every if DELTAS not in name.split(".")}
