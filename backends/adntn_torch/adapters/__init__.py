"""Adapters: generated deltas on the frozen weights of any model, LoRA among them; see docs/adapters.md.

`adapted` says how a layer adds deltas to its weight, `delta` what a delta is, `targets` which layers are meant, `adapt`
does it for a whole model, `files` and `config` keep adapters in folders like PEFT's, `lora` reads PEFT's LoRA.
"""

from adntn_torch.adapters.adapt import (
    Adaptation,
    adapt,
    adapter_names,
    disabled,
    merge,
    remove_adapter,
    set_adapter,
    unload,
    unmerge,
)
from adntn_torch.adapters.adapted import Adapted, adapted_layers
from adntn_torch.adapters.delta import Delta
from adntn_torch.adapters.files import adapter_state_dict, load_adapter, save_adapter
from adntn_torch.adapters.targets import Targets

__all__ = [
    "Adaptation",
    "Adapted",
    "Delta",
    "Targets",
    "adapt",
    "adapted_layers",
    "adapter_names",
    "adapter_state_dict",
    "disabled",
    "load_adapter",
    "merge",
    "remove_adapter",
    "save_adapter",
    "set_adapter",
    "unload",
    "unmerge",
]
