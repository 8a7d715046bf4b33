"""Which layers of a model an adapter is for: by what PEFT users write, or by the rules of `compress`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from adntn import Options
from adntn.arrays import dtype_name
from adntn.topologies.layers import TopologyOptions
from adntn_torch.adapters.adapted import is_transposed, kind_of, outer_modules, weight_name
from adntn_torch.choose import Rule, some
from adntn_torch.generated import GeneratedLayer

#: Ends of names, a regular expression or "all-linear", as PEFT's `target_modules`; or rules as for `compress`.
Targets = Sequence[str] | str | Mapping[str, TopologyOptions | None] | Rule

ALL_LINEAR = "all-linear"
ADAPTABLE = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Embedding,
    nn.MultiheadAttention,
)
ADAPTABLE_NAMES = (
    "torch.nn.Linear, Conv1d to Conv3d, ConvTranspose1d to 3d, Embedding, MultiheadAttention, their subclasses, and"
    " transformers' Conv1D"
)


@dataclass(frozen=True)
class Target:
    """A layer whose weight is to get a delta.

    Attributes:
        name: the layer's name in the model.
        module: the layer.
        topology: how the delta is generated.
    """

    name: str
    module: nn.Module
    topology: TopologyOptions


def targeted(model: nn.Module, targets: Targets, topology: TopologyOptions) -> list[Target]:
    """Return the layers that are meant, in the model's order, all of which can be adapted.

    Args:
        model: where they are.
        targets: see `adapt`.
        topology: for all of them, unless `targets` are rules, which name the options themselves.

    Raises:
        TypeError: if the model or the targets are none.
        ValueError: if a name or a pattern matches nothing, or a layer that was named cannot be adapted.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    modules = _inner(model)
    if isinstance(targets, Mapping):
        found = _by_rules(modules, targets)
    elif isinstance(targets, Options):
        raise TypeError(f"targets must say which layers, such as ['query', 'value'] or {{'*.query': {targets}}}")
    elif isinstance(targets, str | Sequence):
        found = [Target(name, modules[name], topology) for name in named(model, targets)]
    elif callable(targets):
        answers = ((name, module, targets(name, module)) for name, module in modules.items())
        found = [Target(name, module, options) for name, module, options in answers if options is not None]
    else:
        raise TypeError(f"targets must be names, a regular expression, rules or a function, got {targets!r}")
    if not found:
        raise ValueError(f"targets choose none of the layers of this model: {some(_layers(modules))}")
    check_adaptable(model, {target.name: target.module for target in found})
    return found


def named(model: nn.Module, targets: Sequence[str] | str) -> list[str]:
    """Return the names of the layers that `target_modules` of PEFT mean, in the model's order.

    Raises:
        TypeError: if an entry is no string.
        ValueError: if one of them matches no layer that could be adapted.
    """
    modules = _inner(model)
    if isinstance(targets, str):
        if targets != ALL_LINEAR:
            _check_matches(targets, modules, _expression(targets))
        return meant(model, targets)
    for pattern in targets:
        _check_matches(pattern, modules)
    exact = [name for name in modules if name in targets]
    wanted = {*exact, *meant(model, targets)}
    return [name for name in modules if name in wanted]


def meant(model: nn.Module, targets: Sequence[str] | str) -> list[str]:
    """Return the names of the layers that could be adapted and are meant; entries may match nothing, as in PEFT.

    Raises:
        ValueError: if one string is no regular expression.
    """
    layers = {name: module for name, module in _inner(model).items() if is_layer(module)}
    if targets == ALL_LINEAR:
        head = _output_embeddings(model)
        return [name for name, module in layers.items() if _is_linear(module) and module is not head]
    if isinstance(targets, str):
        return list(filter(_expression(targets), layers))
    return [name for name in layers if any(_means(pattern, name) for pattern in targets)]


def check_adaptable(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Check that layers can be adapted.

    Raises:
        ValueError: naming the layer and the reason.
    """
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    for name, layer in layers.items():
        problem = _problem(layer) or _shared(name, layer, owners)
        if problem:
            raise ValueError(f"layer {name!r} cannot be adapted: {problem}")


def is_layer(module: nn.Module) -> bool:
    """Return whether a pattern means this module; what stands beside layers (containers, norms) it passes over."""
    return isinstance(module, (*ADAPTABLE, GeneratedLayer)) or is_transposed(kind_of(module))


def closest(name: str, names: Sequence[str]) -> str:
    """Return the names that are most like one that is not there, to be shown in an error."""
    return some(difflib.get_close_matches(name, names, n=3, cutoff=0.0))


def _inner(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules below the model itself."""
    return {name: module for name, module in outer_modules(model).items() if name}


def _layers(modules: Mapping[str, nn.Module]) -> list[str]:
    return [name for name, module in modules.items() if is_layer(module)]


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or is_transposed(kind_of(module))


def _expression(expression: str) -> Callable[[str], bool]:
    try:
        matches = re.compile(expression).fullmatch
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(
            f"targets must be a regular expression if they are one string, got {expression!r}: {error}"
        ) from None
    return lambda name: matches(name) is not None


def _output_embeddings(model: nn.Module) -> nn.Module | None:
    """Return the head of a language model, which "all-linear" leaves out, as in PEFT; transformers' models know it."""
    ask = getattr(model, "get_output_embeddings", None)
    try:
        head: nn.Module | None = None if ask is None else ask()
    except NotImplementedError:
        head = None
    return head


def _by_rules(modules: Mapping[str, nn.Module], rules: Mapping[str, TopologyOptions | None]) -> list[Target]:
    for pattern in rules:
        _check_matches(pattern, modules)
    found = []
    for name, module in modules.items():
        first = next((pattern for pattern in rules if _means(pattern, name)), None)
        options = None if first is None else rules[first]
        if options is not None and (first == name or is_layer(module)):
            found.append(Target(name, module, options))
    return found


def _means(pattern: str, name: str) -> bool:
    """Return whether a pattern means a name: the name, its end after a dot, or a pattern with *, ? and [...]."""
    return name == pattern or name.endswith(f".{pattern}") or fnmatchcase(name, pattern)


def _check_matches(
    pattern: str, modules: Mapping[str, nn.Module], matches: Callable[[str], bool] | None = None
) -> None:
    if not isinstance(pattern, str):
        raise TypeError(f"targets must be names or patterns, got {pattern!r} among them")
    matching = [name for name in modules if (matches(name) if matches else _means(pattern, name))]
    if not matching:
        layers = _layers(modules)
        raise ValueError(f"target {pattern!r} matches no layer; the closest names are {closest(pattern, layers)}")
    if pattern not in modules and not any(is_layer(modules[name]) for name in matching):
        kinds = sorted({type(modules[name]).__name__ for name in matching})
        raise ValueError(f"target {pattern!r} matches only {some(kinds)}; adapted can be {ADAPTABLE_NAMES}")


def _problem(module: nn.Module) -> str | None:
    if isinstance(module, GeneratedLayer):
        return f"it is generated already, by {module.topology}"
    if not is_layer(module):
        return f"its type is {type(module).__name__}; adapted can be {ADAPTABLE_NAMES}"
    if parametrize.is_parametrized(module):
        return "it is parametrized (torch.nn.utils.parametrize); remove the parametrization first"
    if "forward" in vars(module):
        return (
            "its forward was replaced (accelerate does so to offload layers): adapt it first, or use adntn_torch.peft"
        )
    if getattr(module, "max_norm", None):
        return "it has max_norm, which changes the weight in place"
    return weight_problem(module)


def weight_problem(module: nn.Module) -> str | None:
    """Return why nothing can be added to the weight of a layer; None if it can."""
    name = weight_name(kind_of(module))
    weight = module._parameters.get(name)
    if weight is None:
        return f"it has no parameter {name!r} (weight_norm, pruning, or attention with kdim or vdim)"
    if is_lazy(weight):
        return "its weight has no shape yet: run the model on one batch first"
    if not weight.is_floating_point():
        return f"its weight is {dtype_name(weight)}; deltas are for real floating-point weights"
    if weight.is_meta:
        return "its weight is on the device 'meta' and has no values; load the model first"
    if isinstance(module, nn.Linear) and tuple(weight.shape) != (module.out_features, module.in_features):
        return f"its weight has the shape {tuple(weight.shape)} of some packed format"
    return None


def _shared(name: str, module: nn.Module, owners: Mapping[int, Sequence[str]]) -> str | None:
    """Return where else the weight is."""
    weight = weight_name(kind_of(module))
    others = [one for one in owners[id(module._parameters[weight])] if one != f"{name}.{weight}"]
    return f"its weight is shared with {some(others)}, which would go without the delta" if others else None
