"""Our adapters as a method of PEFT: importing this registers it.

>>> import adntn, adntn_torch.peft, peft
>>> from torch import nn
>>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
>>> options = adntn.TTN.options(bond=2)
>>> adapted = peft.get_peft_model(model, adntn_torch.peft.AdntnConfig(target_modules=["0"], topology=options))
>>> adapted.get_nb_trainable_parameters()
(80, 8400)

PEFT then does the rest: `save_pretrained`, `PeftModel.from_pretrained` (in a process that has imported this module),
several adapters, `disable_adapter`, `merge_and_unload`, `modules_to_save`. The folders are those of
`adntn_torch.save_adapter`.

PEFT has a public function to register a method, `peft.utils.register_peft_method`, but it takes only names that its
enumeration `PeftType` has, which is closed. `_new_peft_type` adds ours, as PEFT's own source would; once PEFT has an
open enumeration, or one with our name, it has nothing to do.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig, PeftType
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, register_peft_method
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from adntn import Options
from adntn.topologies.layers import DEFAULT_TOPOLOGY
from adntn_torch.adapters.adapt import make_delta
from adntn_torch.adapters.adapted import frozen_weight, is_transposed, kind_of
from adntn_torch.adapters.config import PEFT_TYPE, VERSION, check_version, options_described, settings_in
from adntn_torch.adapters.targets import ADAPTABLE_NAMES, is_layer, weight_problem
from adntn_torch.generated import DELTAS

__all__ = ["AdntnConfig", "AdntnLayer", "AdntnModel"]


def _new_peft_type(name: str) -> PeftType:
    """Return the member of PEFT's enumeration with that name, added if it is not there."""
    if name not in PeftType.__members__:
        member = str.__new__(PeftType, name)
        member._name_, member._value_ = name, name
        PeftType._member_map_[name] = PeftType._value2member_map_[name] = member
        PeftType._member_names_.append(name)
        type.__setattr__(PeftType, name, member)
    return PeftType[name]


@dataclass
class AdntnConfig(PeftConfig):  # type: ignore[misc]
    """The configuration of our adapters for PEFT; see `adntn_torch.adapt`.

    Args:
        target_modules: ends of names, a regular expression or "all-linear"; by default those of PEFT's LoRA.
        exclude_modules: the same, of layers that are not adapted.
        topology: how the deltas are generated: `adntn.TTN.options(bond=4)`, or {"name": "TTN", "bond": 4}.
        topology_pattern: other options for some layers, by their full names.
        scaling: by which deltas are multiplied; LoRA's alpha / r.
        scaling_pattern: other numbers for some layers, by their full names.
        dropout: share of the delta's input that is set to zero in training mode.
        seed: each layer draws its cores from this seed and its own name.
        layers_to_transform, layers_pattern, modules_to_save: as for PEFT's LoRA.
        format_version: of the saved folder.
    """

    target_modules: list[str] | set[str] | str | None = None
    exclude_modules: list[str] | set[str] | str | None = None
    topology: Options | dict[str, Any] = DEFAULT_TOPOLOGY  # type: ignore[assignment]
    topology_pattern: dict[str, Options | dict[str, Any]] = field(default_factory=dict)
    scaling: float = 1.0
    scaling_pattern: dict[str, float] = field(default_factory=dict)
    dropout: float = 0.0
    seed: int = 0
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    format_version: int = VERSION

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType[PEFT_TYPE]
        check_version({"format_version": self.format_version})
        self.topology = _in_plain_values(self.topology)
        self.topology_pattern = {name: _in_plain_values(one) for name, one in self.topology_pattern.items()}
        for name in ("", *self.topology_pattern, *self.scaling_pattern):
            settings_in(vars(self), name)  # so that what is wrong is an error now
        for name in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, name), list):
                setattr(self, name, set(getattr(self, name)))  # as PEFT has them
        if self.layers_to_transform is not None and isinstance(self.target_modules, str):
            raise ValueError("layers_to_transform must be None where target_modules is an expression")
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("layers_pattern must be None where layers_to_transform is")


def _in_plain_values(topology: Options | dict[str, Any]) -> dict[str, Any]:
    if isinstance(topology, dict):
        return topology
    if not isinstance(topology, Options):
        raise TypeError(f"topology must be options such as adntn.TTN.options(bond=4), got {topology!r}")
    return options_described(topology)


class AdntnLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """A layer with deltas, in PEFT's way: wrapped around the layer.

    Attributes:
        base_layer: the frozen layer.
        adntn_delta: the deltas by the adapter's name.
        adntn_original: the frozen weight as it was, while deltas are merged into it; else None.
    """

    adapter_layer_names = (DELTAS,)
    adntn_original: Tensor | None
    # what PEFT's mixin has, for the type checker
    active_adapters: list[str]
    get_base_layer: Callable[[], nn.Module]
    set_adapter: Callable[..., None]

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.adntn_delta = nn.ModuleDict()
        self.merged_adapters: list[str] = []
        self.register_buffer("adntn_original", None, persistent=False)

    def update_layer(self, adapter_name: str, config: AdntnConfig, layer_name: str) -> None:
        """Add a delta, zero at the start."""
        settings = settings_in(vars(config), layer_name)
        seed = zlib.crc32(f"{config.seed}/{layer_name}".encode())
        self.adntn_delta[adapter_name] = make_delta(
            layer_name,
            self.get_base_layer(),
            settings.topology,
            scaling=settings.scaling,
            dropout=settings.dropout,
            seed=seed,
        )
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Return what an adapter adds to the weight, in its shape."""
        weight: Tensor = self.adntn_delta[adapter].weight  # type: ignore[assignment]
        return weight.T if is_transposed(kind_of(self.get_base_layer())) else weight

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the layer's output, with what the active deltas make of x."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        y: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return y
        for name in self.active_adapters:
            if name in self.adntn_delta:
                y = y + self.adntn_delta[name](x).to(y.dtype)
        return y

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Write the weight with deltas over the frozen one, of which a copy is kept for `unmerge`.

        Raises:
            ValueError: if `safe_merge` is asked for, and the merged weight would have NaN or infinite values.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.adntn_delta]
        if not names:
            return
        weight = frozen_weight(self.get_base_layer())
        original = weight.detach().clone() if self.adntn_original is None else self.adntn_original
        total = original
        for name in (*self.merged_adapters, *names):
            total = total + self.get_delta_weight(name)
        if safe_merge and not bool(torch.isfinite(total).all()):
            raise ValueError(f"NaNs or infinite values in the merged weights: the adapters {names} seem to be broken")
        self.adntn_original = original
        weight.copy_(total)
        self.merged_adapters.extend(names)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put the frozen weight back as it was, to the bit."""
        if self.adntn_original is not None:
            frozen_weight(self.get_base_layer()).copy_(self.adntn_original)
            self.adntn_original = None
            self.merged_adapters.clear()

    def __repr__(self) -> str:
        return f"adntn.{super().__repr__()}"


class AdntnModel(BaseTuner):  # type: ignore[misc]
    """Puts our layers into a model; PEFT makes it of an `AdntnConfig`."""

    prefix = "adntn_"
    tuner_layer_cls = AdntnLayer
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    def _create_and_replace(  # noqa: PLR0917  (PEFT's)
        self,
        peft_config: AdntnConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, AdntnLayer):
            target.update_layer(adapter_name, peft_config, current_key)
            return
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        if problem := _why_not_wrapped(base):
            raise ValueError(f"layer {current_key!r} cannot be adapted: {problem}")
        layer = AdntnLayer(target)
        layer.update_layer(adapter_name, peft_config, current_key)
        layer.train(target.training)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        ours = key.replace(f".{DELTAS}.{adapter_name}.layer.cores.", f".{DELTAS}.")
        return ours if ours != key else str(super()._remove_adapter_name_from_key(key, adapter_name))


def _why_not_wrapped(layer: nn.Module) -> str | None:
    if isinstance(layer, nn.MultiheadAttention | NonDynamicallyQuantizableLinear):
        return (
            "torch.nn.MultiheadAttention reads its weights without calling the layers that PEFT wraps;"
            " use adntn_torch.adapt"
        )
    if not is_layer(layer):
        return f"its type is {type(layer).__name__}; adapted can be {ADAPTABLE_NAMES}"
    return weight_problem(layer)


_new_peft_type(PEFT_TYPE)
register_peft_method(name=PEFT_TYPE.lower(), config_cls=AdntnConfig, model_cls=AdntnModel, prefix=AdntnModel.prefix)
