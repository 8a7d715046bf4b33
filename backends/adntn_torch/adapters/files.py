"""An adapter in a folder like PEFT's: `adapter_config.json` and `adapter_model.safetensors`.

PEFT reads what is written here (with `adntn_torch.peft`), and what PEFT writes can be read here, LoRA included. Names
of tensors are PEFT's: base_model.model.<layer>.adntn_delta.<core>.

All of a folder is checked against the model before anything is built: the config, then names, shapes and number types
in the file's header; only then are numbers read. Nothing in a folder is ever taken for a path, or run.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from adntn.atomic import whole_file
from adntn.files import FormatError
from adntn.files.values import Json, named, parsed, shown
from adntn.program.task import ScheduleName
from adntn.topologies.layers import generator_of
from adntn_torch.adapters.adapt import Adaptation, attach_all, check_name, delta_shape, make_delta
from adntn_torch.adapters.adapted import adapted_layers, outer_modules
from adntn_torch.adapters.config import PEFT_TYPE, PREFIX, Part, Stored, check_version, config_of, settings_in
from adntn_torch.adapters.delta import Delta
from adntn_torch.adapters.expressions import takes_long
from adntn_torch.adapters.lora import layer_name, lora_deltas
from adntn_torch.adapters.targets import check_adaptable, closest, meant
from adntn_torch.choose import some
from adntn_torch.generated import DELTAS

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
#: A config is read as a whole; no true one is larger.
LARGEST_CONFIG = 2**24
FLOATING = ("F64", "F32", "F16", "BF16")


def adapter_state_dict(model: nn.Module, name: str = "default") -> dict[str, Tensor]:
    """Return the cores of an adapter, by the names that they have in a file.

    Raises:
        ValueError: if there is no adapter of that name.
    """
    return {
        f"{PREFIX}{layer}.{DELTAS}.{core}": tensor.detach()
        for layer, delta in _deltas(model, name).items()
        for core, tensor in delta.layer.cores.items()
    }


def save_adapter(model: nn.Module, folder: str | os.PathLike[str], name: str = "default") -> None:
    """Write an adapter into a folder, which is made if it is not there; its files are replaced as wholes.

    The folder holds the adapter alone. A warning names what else of the model has `requires_grad`, such as a new head.

    Args:
        model: with the adapter.
        folder: of this adapter alone.
        name: of the adapter; it does not stand in the folder.

    Raises:
        ValueError: if there is no adapter of that name, or an activation is one's own: a folder holds no code.
        OSError: if the folder cannot be written.
    """
    deltas = _deltas(model, name)
    if beside := _trained_beside(model):
        warnings.warn(
            f"the folder holds the adapter alone, but trained are also {some(beside)}: save these yourself, or let PEFT"
            " do so (modules_to_save)",
            stacklevel=2,
        )
    base_model = getattr(model, "name_or_path", None)
    config = config_of(deltas, base_model if isinstance(base_model, str) and base_model else None)
    tensors = {key: tensor.contiguous() for key, tensor in adapter_state_dict(model, name).items()}
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    with whole_file(path / CONFIG_FILE) as partial_config, whole_file(path / WEIGHTS_FILE) as partial_weights:
        partial_config.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(tensors, partial_weights, {"format": "pt"})


def load_adapter(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    name: str = "default",
    trainable: bool = False,
    schedule: ScheduleName = "auto",
    memory_limit: int | None = None,
) -> Adaptation:
    """Add an adapter from a folder: one of `save_adapter`, or of PEFT's, of our method or of LoRA.

    It acts at once, instead of others that did; as after `adapt`, nothing else of the model is trained.

    Args:
        model: as it was when the adapter was made.
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        name: that the adapter gets here.
        trainable: whether its cores are to be trained further.
        schedule, memory_limit: how the deltas meet x, as for `adapt`.

    Raises:
        FormatError: if a file is cut short or damaged, of an unknown version, does not fit the model, or holds what is
            no adapter of these kinds; the model is then as it was.
        ValueError: if a layer cannot be adapted, or the name is taken.
        OSError: if a file is missing or cannot be read.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    check_name(model, name)
    path = Path(folder)
    config = _config(path / CONFIG_FILE)
    with _opened(path / WEIGHTS_FILE) as file:
        shapes = _shapes(file)
        stored = _stored(config, shapes)
        _check_layers(model, config, stored)
        for layer, one in stored.items():
            _check_cores(layer, one, delta_shape(model.get_submodule(layer)))
        deltas = {
            layer: make_delta(
                layer,
                model.get_submodule(layer),
                one.settings.topology,
                scaling=one.settings.scaling,
                dropout=one.settings.dropout,
                schedule=schedule,
                memory_limit=memory_limit,
            )
            for layer, one in stored.items()
        }
        for layer, delta in deltas.items():
            delta.load_cores(_cores(file, stored[layer]))
    return attach_all(model, name, deltas, trainable=trainable)


def _deltas(model: nn.Module, name: str) -> dict[str, Delta]:
    layers = adapted_layers(model)
    found: dict[str, Any] = {key: layer.adntn_delta[name] for key, layer in layers.items() if name in layer.adntn_delta}
    if not found:
        raise ValueError(f"the model has no adapter {name!r}")
    return found


def _trained_beside(model: nn.Module) -> list[str]:
    """Return the names of the parameters that learn and are of no adapter."""
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [name for name in learning if DELTAS not in name.split(".")]


def _config(path: Path) -> dict[str, Json]:
    if not path.is_file():
        raise FileNotFoundError(f"{os.fspath(path.parent)!r} is no folder of an adapter: it lacks {path.name}")
    if path.stat().st_size > LARGEST_CONFIG:
        raise FormatError(f"{path.name} is larger than {LARGEST_CONFIG:,} bytes")
    return named(parsed(path.read_bytes(), path.name), path.name)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        hint = ": pickles (adapter_model.bin) are not read" if path.with_name("adapter_model.bin").exists() else ""
        raise FileNotFoundError(f"{os.fspath(path.parent)!r} lacks {path.name}{hint}")
    try:
        file = safe_open(os.fspath(path), framework="pt")
    except SafetensorError as error:
        raise FormatError(f"{path.name} is no file of safetensors, or is damaged: {error}") from error
    with file:
        yield file


def _shapes(file: Any) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for name in file.keys():  # noqa: SIM118  (no mapping)
        tensor = file.get_slice(name)
        if tensor.get_dtype() not in FLOATING:
            raise FormatError(f"tensor {shown(name)} must be one of {', '.join(FLOATING)}, got {tensor.get_dtype()}")
        shapes[name] = tuple(tensor.get_shape())
    if not shapes:
        raise FormatError(f"{WEIGHTS_FILE} holds no tensor")
    return shapes


def _stored(config: Mapping[str, Json], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Stored]:
    kind = config.get("peft_type")
    if kind == "LORA":
        return lora_deltas(config, shapes)
    if kind != PEFT_TYPE:
        raise FormatError(f"peft_type must be {PEFT_TYPE!r} or 'LORA', got {shown(kind)}")
    check_version(config)
    if config.get("modules_to_save"):
        raise FormatError(f"modules_to_save = {shown(config['modules_to_save'])} needs PEFT: see adntn_torch.peft")
    parts: dict[str, dict[str, Part]] = {}
    for name, shape in shapes.items():
        layer, found, core = name.rpartition(f".{DELTAS}.")
        if not found:
            raise FormatError(f"tensor {shown(name)} is none of an adapter: a name has the part {DELTAS!r}")
        parts.setdefault(layer_name(layer), {})[core] = Part(name, shape)
    return {layer: Stored(settings_in(config, layer), cores) for layer, cores in parts.items()}


def _check_layers(model: nn.Module, config: Mapping[str, Json], stored: Mapping[str, Stored]) -> None:
    """Check that the file's layers are in the model and can be adapted, and are all that the config names.

    An expression that could take for ever to match is not asked.
    """
    modules = outer_modules(model)
    for layer in stored:
        if layer not in modules:
            raise FormatError(
                f"the adapter is for a layer {shown(layer)} that the model does not have; the closest names are"
                f" {closest(layer, [name for name in modules if name])}"
            )
    check_adaptable(model, {layer: modules[layer] for layer in stored})
    targets = config.get("target_modules")
    if any(config.get(key) for key in ("exclude_modules", "layers_to_transform", "modules_to_save")) or not targets:
        return  # the file alone says which
    if not (isinstance(targets, str) or (isinstance(targets, list) and all(isinstance(one, str) for one in targets))):
        raise FormatError(f"target_modules must be names or an expression, got {shown(targets)}")
    if isinstance(targets, str) and takes_long(targets, max(map(len, modules))):
        return
    for layer in meant(model, targets):
        if layer not in stored:
            raise FormatError(f"target_modules mean the layer {layer!r}, of which the file holds nothing")


def _check_cores(layer: str, stored: Stored, shape: tuple[int, ...]) -> None:
    """Check the cores in the file against those of the generator, by their shapes."""
    try:
        generator = generator_of(stored.settings.topology, shape)
    except (TypeError, ValueError) as error:
        raise FormatError(f"the topology does not suit layer {layer!r} of shape {shape}: {error}") from error
    found = {name: part.shape if isinstance(part, Part) else () for name, part in stored.cores.items()}
    expected = generator.core_shapes
    if missing := [name for name in expected if name not in found]:
        raise FormatError(f"layer {layer!r} lacks the core {missing[0]!r} of shape {expected[missing[0]]}")
    if extra := [name for name in found if name not in expected]:
        raise FormatError(f"layer {layer!r} has the core {shown(extra[0])}, which {generator!r} does not have")
    for name, one in expected.items():
        if found[name] != one:
            raise FormatError(f"core {name!r} of layer {layer!r} must have the shape {one}, got {found[name]}")


def _cores(file: Any, stored: Stored) -> dict[str, Tensor]:
    cores = {name: _core(file, part) for name, part in stored.cores.items() if isinstance(part, Part)}
    fixed = {name: torch.tensor(part) for name, part in stored.cores.items() if not isinstance(part, Part)}
    dtype = reduce(torch.promote_types, (core.dtype for core in cores.values()))
    return {name: core.to(dtype) for name, core in (cores | fixed).items()}


def _core(file: Any, part: Part) -> Tensor:
    try:
        tensor: Tensor = file.get_tensor(part.tensor)
    except SafetensorError as error:
        raise FormatError(f"tensor {part.tensor!r} cannot be read: {error}") from error
    return (tensor.T if part.transposed else tensor).reshape(part.shape)
