"""PEFT's LoRA as what it is here: the linear network of one block, `adntn.LowRank`, with its scale fixed.

PEFT stores A of shape (r, in) and B of shape (out, r) and adds (alpha / r) * B @ A: `right` and `left`, and the
scaling. Convolutions keep the kernel in A; for an embedding, whose weight is (B @ A).T, both change places.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import adntn
from adntn.files import FormatError
from adntn.files.values import Json, shown
from adntn.network import SCALE
from adntn_torch.adapters.config import PREFIX, Part, Settings, Stored, pattern_in
from adntn_torch.adapters.delta import checked_dropout, checked_scaling
from adntn_torch.adapters.expressions import takes_long

#: What stands for A and B at the end of PEFT's names.
SUFFIXES = {".lora_A.weight": "A", ".lora_B.weight": "B", ".lora_embedding_A": "A", ".lora_embedding_B": "B"}
#: Options by which PEFT adds something else than (alpha / r) * B @ A to the weights that the model has.
OTHERWISE = (
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)
#: Starts that take a part of the base weights away, which the file does not hold.
MUTATING_STARTS = ("pissa", "olora", "loftq", "corda", "lora_ga")


def lora_deltas(config: Mapping[str, Json], tensors: Mapping[str, tuple[int, ...]]) -> dict[str, Stored]:
    """Return what PEFT's LoRA stores, by layer.

    Args:
        config: of PEFT.
        tensors: the shape of each tensor of the file.

    Raises:
        FormatError: if the config asks for more than LoRA, or matrices are missing or do not join.
    """
    _check_plain(config)
    names: dict[str, dict[str, str]] = {}
    for name in tensors:
        suffix = next((one for one in SUFFIXES if name.endswith(one)), None)
        if suffix is None:
            raise FormatError(f"tensor {shown(name)} is none of LoRA's: {', '.join(SUFFIXES)}")
        names.setdefault(name.removesuffix(suffix), {})[SUFFIXES[suffix]] = name
    stored = {}
    for layer, of_layer in names.items():
        if missing := {"A", "B"} - set(of_layer):
            raise FormatError(f"layer {layer!r} lacks lora_{min(missing)}")
        stored[layer_name(layer)] = _stored(config, layer_name(layer), of_layer, tensors)
    return stored


def _stored(
    config: Mapping[str, Json], layer: str, names: Mapping[str, str], tensors: Mapping[str, tuple[int, ...]]
) -> Stored:
    a, b = tensors[names["A"]], tensors[names["B"]]
    if len(a) < 2 or len(b) < 2 or b[1] != a[0] or math.prod(b[2:]) != 1 or not math.prod(a + b):
        raise FormatError(f"layer {layer!r} has lora_A of shape {a} and lora_B of shape {b}: they do not join")
    rank = a[0]
    expected = _of(config, "rank_pattern", layer, config.get("r"))
    if expected != rank:
        raise FormatError(f"layer {layer!r} has rank {rank}, but the config says {shown(expected)}")
    if names["A"].endswith("lora_embedding_A"):
        left, right = Part(names["A"], (a[1], rank), True), Part(names["B"], (rank, b[0]), True)
        dropout = 0.0  # PEFT has none there
    else:
        left, right = Part(names["B"], (b[0], rank)), Part(names["A"], a)
        dropout = config.get("lora_dropout", 0.0)
    try:
        alpha = checked_scaling(_of(config, "alpha_pattern", layer, config.get("lora_alpha")))
        checked_dropout(dropout)
    except (TypeError, ValueError) as error:
        raise FormatError(f"{error} for {layer!r}") from None
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    settings = Settings(adntn.LowRank.options(rank=rank), scaling, dropout)
    return Stored(settings, {"left": left, "right": right, SCALE: 1.0})


def layer_name(stored: str) -> str:
    """Return a layer's name in the model, from PEFT's in a file.

    >>> layer_name("base_model.model.encoder.attention.base_layer.out_proj")
    'encoder.attention.out_proj'
    """
    return stored.removeprefix(PREFIX).replace(".base_layer.", ".")


def _of(config: Mapping[str, Json], pattern: str, layer: str, usual: Json) -> Any:
    """Return what PEFT's patterns say of a layer: regular expressions for the end of its name."""
    for key, value in pattern_in(config, pattern).items():
        expression = rf"(.*\.)?({key})$"
        try:
            if takes_long(expression, len(layer)):
                raise FormatError(f"{pattern} has the key {shown(key)}, which could take for ever to match")
            if re.match(expression, layer):
                return value
        except (re.error, OverflowError, RecursionError) as error:
            raise FormatError(f"{pattern} has the key {shown(key)}, which is no regular expression: {error}") from None
    return usual


def _check_plain(config: Mapping[str, Json]) -> None:
    if asked := [key for key in OTHERWISE if config.get(key)]:
        raise FormatError(f"{asked[0]} = {shown(config[asked[0]])} is more than LoRA: load it with PEFT")
    if config.get("bias", "none") != "none":
        raise FormatError(f"bias = {shown(config['bias'])} trains biases too: load it with PEFT")
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.startswith(MUTATING_STARTS):
        raise FormatError(f"init_lora_weights = {shown(start)} changes the base weights: load it with PEFT")
