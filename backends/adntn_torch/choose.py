"""Which layers of a model the rules of `compress` choose, and why a chosen one may not be replaced."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from adntn import Options
from adntn.topologies.layers import TopologyOptions
from adntn_torch.attention import MultiheadAttention, attention_weights
from adntn_torch.batched import BatchedLinear, DenseBatchedLinear
from adntn_torch.embedding import Embedding
from adntn_torch.generated import GeneratedLayer, parameters_of
from adntn_torch.layers import Conv1d, Conv2d, Conv3d, Linear
from adntn_torch.transposed import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d

#: From a layer's name and the layer to its options, or to None for a layer that stays dense.
Rule = Callable[[str, nn.Module], TopologyOptions | None]

#: What stands for each kind of layer. Subclasses are no such kind: what they add would be lost.
KINDS: dict[type[nn.Module], type[GeneratedLayer] | type[MultiheadAttention]] = {
    nn.Linear: Linear,
    NonDynamicallyQuantizableLinear: Linear,  # the output of torch.nn.MultiheadAttention; nothing but another name
    nn.Conv1d: Conv1d,
    nn.Conv2d: Conv2d,
    nn.Conv3d: Conv3d,
    nn.ConvTranspose1d: ConvTranspose1d,
    nn.ConvTranspose2d: ConvTranspose2d,
    nn.ConvTranspose3d: ConvTranspose3d,
    nn.Embedding: Embedding,
    nn.MultiheadAttention: MultiheadAttention,
    DenseBatchedLinear: BatchedLinear,
}
KIND_NAMES = "torch.nn.Linear, Conv1d to Conv3d, ConvTranspose1d to 3d, Embedding and MultiheadAttention"
#: Parameters and children of attention; `out_proj` is a layer of its own, which stays.
ATTENTION = {f"{name}_proj_weight" for name in ("in", "q", "k", "v")} | {"in_proj_bias", "bias_k", "bias_v"}


@dataclass(frozen=True)
class Choice:
    """A layer to replace."""

    name: str
    module: nn.Module
    topology: TopologyOptions


def above(parameters: int, topology: TopologyOptions) -> Rule:
    """Return the rule "every layer with more weights than this", for `compress`.

    It passes over layers that cannot be compressed for what they are: other kinds, and depthwise convolutions.

    Raises:
        TypeError: if `parameters` is no integer.
    """
    if not hasattr(parameters, "__index__") or isinstance(parameters, bool):
        raise TypeError(f"parameters must be an integer, such as 100_000, got {parameters!r}")

    def rule(name: str, module: nn.Module) -> TopologyOptions | None:
        if type(module) not in KINDS or is_depthwise(module):
            return None
        return topology if sum(weight.numel() for weight in weights_of(module)) > parameters else None

    return rule


def generated_kind(module: nn.Module) -> type[GeneratedLayer] | type[MultiheadAttention]:
    """Return the class that stands for a dense layer."""
    return KINDS[type(module)]


def weights_of(module: nn.Module) -> list[Tensor]:
    """Return the weights of a layer that are generated where it is replaced."""
    return attention_weights(module) if isinstance(module, nn.MultiheadAttention) else [parameters_of(module)[0]]


def is_depthwise(module: nn.Module) -> bool:
    """Return whether a convolution has as many groups as channels: a tiny kernel for each, nothing to gain."""
    groups = getattr(module, "groups", 1)
    return bool(groups > 1 and groups == getattr(module, "in_channels", None))


def chosen(model: nn.Module, rules: Mapping[str, TopologyOptions | None] | Rule) -> list[Choice]:
    """Return the layers that the rules choose, in the model's order, all of which can be replaced.

    Raises:
        TypeError: if the model or the rules are none.
        ValueError: if a name matches nothing, nothing is chosen, or a chosen layer cannot be replaced.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    modules = dict(model.named_modules(remove_duplicate=False))
    if isinstance(rules, Mapping):
        choices = list(_by_name(modules, rules))
    elif isinstance(rules, Options):
        raise TypeError(f"rules must say which layers, such as {{'name': {rules}}} or above(100_000, {rules})")
    elif callable(rules):
        answers = ((name, module, rules(name, module)) for name, module in modules.items())
        choices = [Choice(name, module, topology) for name, module, topology in answers if topology is not None]
    else:
        raise TypeError(f"rules must be a mapping from names to options, or a function, got {type(rules).__name__}")
    if not choices:
        layers = [name for name, module in modules.items() if type(module) in KINDS]
        raise ValueError(f"the rules choose none of the {len(layers)} layers of this model: {some(layers)}")
    for choice in choices:
        _check(choice.name, choice.module, model, modules)
    return choices


def check_expandable(name: str, module: nn.Module) -> None:
    """Raise a ValueError if something hangs on a generated layer that its dense layer would lack."""
    is_attention = isinstance(module, MultiheadAttention)
    children = {"in_proj", "q_proj", "k_proj", "v_proj", "out_proj"} if is_attention else {"cores"}
    if loss := _would_be_lost(module, {"bias", "frozen_weight"} | (ATTENTION if is_attention else set()), children):
        raise ValueError(f"layer {name!r} cannot be expanded: {loss}")


def _by_name(modules: Mapping[str, nn.Module], rules: Mapping[str, TopologyOptions | None]) -> Iterator[Choice]:
    for pattern in rules:
        _check_matches(pattern, modules)
    for name, module in modules.items():
        first = next((pattern for pattern in rules if _matches(name, pattern)), None)
        topology = None if first is None else rules[first]
        if topology is not None and (first == name or _is_layer(module)):
            yield Choice(name, module, topology)


def _matches(name: str, pattern: str) -> bool:
    """Return whether a pattern means a name: also one that has brackets itself, given as it is."""
    return name == pattern or fnmatchcase(name, pattern)


def _is_layer(module: nn.Module) -> bool:
    """Return whether a pattern means this module; what stands beside layers (activations, pooling) it passes over."""
    return (
        type(module) in KINDS
        or isinstance(module, GeneratedLayer | MultiheadAttention)
        or _is_parametrized_layer(module)
    )


def _is_parametrized_layer(module: nn.Module) -> bool:
    return bool(parametrize.is_parametrized(module)) and type(module).__base__ in KINDS


def _check_matches(pattern: str, modules: Mapping[str, nn.Module]) -> None:
    if not isinstance(pattern, str):
        raise TypeError(f"rules must have names as keys, got {pattern!r}")
    matching = [name for name in modules if _matches(name, pattern)]
    if not matching:
        layers = [name for name, module in modules.items() if type(module) in KINDS]
        closest = difflib.get_close_matches(pattern, layers, n=3, cutoff=0.0)
        if (layer := pattern.removesuffix(".weight")) in modules:
            raise ValueError(f"{pattern!r} is a parameter; name its layer, {layer!r}")
        raise ValueError(f"{pattern!r} matches no layer; the closest names are {some(closest)}")
    if pattern not in modules and not any(_is_layer(modules[name]) for name in matching):
        kinds = sorted({type(modules[name]).__name__ for name in matching})
        raise ValueError(f"{pattern!r} matches only {some(kinds)}; compressed can be {KIND_NAMES}")


def some(names: Sequence[str]) -> str:
    """Return names as they stand in an error: the first few, and how many there are."""
    return shortened([*map(repr, names)]) if names else "(there is none)"


def shortened(entries: Sequence[str], between: str = ", ") -> str:
    """Return the first few entries, and how many there are."""
    return between.join(entries[:5]) + (f" ... ({len(entries)} in all)" if len(entries) > 5 else "")


def _check(name: str, module: nn.Module, model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Raise a ValueError if a chosen layer cannot be replaced."""
    if problem := _problem(name, module, model, modules):
        raise ValueError(f"layer {name!r} cannot be compressed: {problem}")


def _problem(name: str, module: nn.Module, model: nn.Module, modules: Mapping[str, nn.Module]) -> str | None:
    if isinstance(module, GeneratedLayer | MultiheadAttention):
        return f"it is generated already, by {module.topology}"
    if _is_parametrized_layer(module):
        return "it is parametrized (torch.nn.utils.parametrize); remove the parametrization first"
    if type(module) not in KINDS:
        return f"its type is {type(module).__name__}; compressed can be {KIND_NAMES}"
    if module is model:
        return (
            "it is the model itself, which cannot be replaced in place; wrap it, torch.nn.Sequential(model), or take"
            f" adntn_torch.{KINDS[type(module)].__name__}.from_dense(model, options)"
        )
    is_attention = isinstance(module, nn.MultiheadAttention)
    parameters, children = (ATTENTION, {"out_proj"}) if is_attention else ({"weight", "bias"}, set[str]())
    return (
        _would_be_lost(module, parameters, children)
        or _unlike_a_table(module)
        or _tied(name, module, model, modules)
        or (
            f"it is depthwise (groups = in_channels = {module.groups}): nothing to gain"
            if is_depthwise(module)
            else None
        )
    )


def _unlike_a_table(module: nn.Module) -> str | None:
    """Return what an embedding does with its stored table that a generated one cannot."""
    if not isinstance(module, nn.Embedding):
        return None
    if module.max_norm is not None:
        return f"max_norm={module.max_norm} changes its stored table with every lookup"
    names = [name for name in ("sparse", "scale_grad_by_freq") if getattr(module, name)]
    return f"{names[0]}=True concerns the gradient of stored rows, of which there are none" if names else None


def _would_be_lost(module: nn.Module, parameters: set[str], children: set[str]) -> str | None:
    """Return what hangs on a module that its replacement would lack."""
    if parametrize.is_parametrized(module):
        return "it is parametrized (torch.nn.utils.parametrize); remove the parametrization first"
    for kind, hooks in vars(module).items():
        if kind.endswith("_hooks") and hooks:
            return (
                f"it has {kind.strip('_').replace('_', ' ')} that would be lost (weight_norm, pruning ...); remove them"
            )
    extra = {*module._parameters, *module._buffers, *module._modules} - parameters - children
    if extra:
        return f"it has parameters, buffers or modules of its own that would be lost: {some(sorted(extra))}"
    if "forward" in vars(module):
        return "its forward was replaced, which would be lost"
    weight = module._parameters.get("weight")
    if weight is not None and (weight._backward_hooks or getattr(weight, "_post_accumulate_grad_hooks", None)):
        return "its weight has gradient hooks that would be lost; remove them"
    return None


def _tied(name: str, module: nn.Module, model: nn.Module, modules: Mapping[str, nn.Module]) -> str | None:
    """Return where else the weight is, if the layer shares it."""
    twins = [other for other, candidate in modules.items() if candidate is module and other != name]
    if twins:
        return f"the same module is also {some(twins)}; replacing it here would untie them"
    weights = {id(weight) for weight in weights_of(module)}
    everywhere = [(other, parameter) for other, parameter in model.named_parameters(remove_duplicate=False)]
    owners = [other for other, one in everywhere if id(one) in weights and other.rpartition(".")[0] != name]
    return f"its weight is tied to {some(owners)}; replacing it would untie them" if owners else None
