"""Compressed models in files: cores, and all parameters and buffers that are not generated; see `adntn.files`.

A file says what the weights are, in the names of the model's state dict. How they are computed (engine, schedule) is
for the one who loads it to say.
"""

from __future__ import annotations

import copy
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from adntn.arrays import DTYPES
from adntn.backends import Differentiation
from adntn.files import Contents, FormatError, Weight, opened, write
from adntn.files.file import CORES, WEIGHT, in_library, on_host
from adntn.files.values import fields, named, shown
from adntn.program.task import ScheduleName
from adntn_torch.adapters.adapted import Adapted, adapted_layers, unmerge_layer, weight_name
from adntn_torch.attention import PROJECTIONS
from adntn_torch.choose import shortened, some
from adntn_torch.compress import compress, layers_and_deltas
from adntn_torch.generated import GeneratedLayer

Model = TypeVar("Model", bound=nn.Module)

#: Under this name stands in a file what only torch wants to know.
NOTES = "torch"


def save_compressed(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a compressed model: the cores, and its other parameters and buffers; as a whole or not at all.

    Nothing dense of the generated weights is made or written, also where a layer is frozen. Adapted layers write the
    weight without deltas and the cores, merged or not, as in a state dict. Tensors that several names share are written
    once. `adntn.load` gives the generated weights to any other array library.

    Args:
        model: with generated layers, such as `compress` leaves it.
        path: of a file of safetensors; replaced, if it is there.

    Raises:
        ValueError: if the model has no generated layer, an activation of one's own, parameters without values or spread
            over processes, or state that is no tensor.
        TypeError: if it is no module.
        OSError: if the file cannot be written.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    layers = layers_and_deltas(model)
    if not layers:
        raise ValueError("model must have generated layers (see compress); safetensors.torch.save_model writes others")
    weights: dict[str, Weight] = {}
    tensors: dict[str, Any] = {}
    notes: dict[str, Any] = {}
    first: dict[tuple[int, ...], str] = {}  # by what tied layers share
    for name, layer in layers.items():
        owner = first.setdefault(tuple(map(id, layer.cores.values())), name)
        weights[_inside(name) + WEIGHT] = Weight(layer.generator, _inside(owner) + CORES, str(layer.topology))
        notes[name] = {"std": layer.std}
        if layer.frozen_weight is not None:
            notes[name]["frozen"] = str(layer.frozen_weight.dtype).removeprefix("torch.")
        if owner == name:
            named_cores = {_inside(name) + CORES + core: value for core, value in layer.cores.items()}
            tensors |= {core: _values(core, value) for core, value in named_cores.items()}
    same: dict[str, str] = {}
    owners: dict[int, str] = {}
    cores = {id(core) for layer in layers.values() for core in layer.cores.values()}
    state = dict(_state(model)) | _frozen_weights(model)
    for name, tensor in state.items():
        if id(tensor) in cores:
            continue
        owner = owners.setdefault(id(tensor), name)
        if owner == name:
            tensors[name] = _values(name, tensor)
        else:
            same[name] = owner
    if other := [name for name in model.state_dict() if name not in state]:
        raise ValueError(f"the model has state of its own that is no parameter or buffer: {some(other)}")
    write(path, weights, tensors, same=same, notes={NOTES: notes}, metadata={"format": "pt"})


def load_compressed(
    model_fn: Callable[[], Model],
    path: str | os.PathLike[str],
    *,
    device: torch.device | str | int | None = None,
    differentiation: Differentiation | None = None,
    engine: str | None = None,
    schedule: ScheduleName = "auto",
    memory_limit: int | None = None,
) -> Model:
    """Return a model with the generated layers, the parameters and the buffers of a file.

    >>> import adntn, adntn_torch, pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> model_fn = lambda: nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))
    >>> model = model_fn()
    >>> compression = adntn_torch.compress(model, {"0": adntn.TTN.options(bond=4)})
    >>> save_compressed(model, path)
    >>> loaded = load_compressed(model_fn, path)
    >>> loaded[0].topology, torch.equal(loaded(torch.ones(1, 1024)), model(torch.ones(1, 1024)))
    (TTN(bond=4), True)

    The model is built on the device "meta", so that no dense weight is ever allocated. Where `model_fn` cannot be run
    there, or keeps tensors that are no parameters or buffers, it is built as it is. Which parameters learn
    (`requires_grad`) is not in a file: it is as `model_fn` leaves it, and cores in place of a dense weight learn.

    Args:
        model_fn: builds the model, dense or with the generated layers in place.
        path: of a file that `save_compressed`, or `adntn compress`, has written.
        device: of what is loaded; None for the CPU.
        differentiation, engine, schedule, memory_limit: of the layers that are replaced, as in `compress`.

    Raises:
        FormatError: if the file is cut short, damaged, of a later version, or no compressed model.
        ValueError: if it is of another network; the message names layers, parameters and shapes.
        TypeError: if `model_fn` is no function, or builds no module.
        OSError: if the file cannot be read.
    """
    if not callable(model_fn):
        raise TypeError(f"model_fn must be a function that builds the model, got {model_fn!r}")
    with opened(path) as contents:
        notes = _notes(contents)
        model = _built(model_fn, contents)
        layers = {_layer_of(name): weight for name, weight in contents.weights.items()}
        options = {
            "differentiation": differentiation,
            "engine": engine,
            "schedule": schedule,
            "memory_limit": memory_limit,
        }
        for adapted in adapted_layers(model).values():
            unmerge_layer(adapted)  # as for a state dict: what is loaded is the frozen weight
        try:
            _replace(model, layers, options)
            _tie(model, layers)
            _check_alike(model, contents)
        except ValueError as error:
            if isinstance(error, FormatError):
                raise
            raise ValueError(f"{os.fspath(path)!r} is of another network: {error}") from error
        _fill(model, contents, torch.device("cpu" if device is None else device))
        _remember(model, notes)
    return model


def _values(name: str, tensor: Tensor) -> Any:
    if nn.parameter.is_lazy(tensor) or tensor.is_meta:
        raise ValueError(f"parameter or buffer {name!r} has no values yet")
    if hasattr(tensor, "full_tensor"):  # a DTensor
        raise ValueError(
            f"parameter or buffer {name!r} is spread over processes: gather the state dict (full_tensor(), or torch's"
            " get_model_state_dict with full_state_dict=True), load it into a model of one process, and save that"
        )
    try:
        return on_host(tensor)
    except (RuntimeError, TypeError) as error:  # sparse, quantized ...
        raise ValueError(f"parameter or buffer {name!r} cannot be written: {error}") from error


def _state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter and buffer with each of its names, but for the weights that layers keep beside them."""
    kept = {id(module.frozen_weight) for module in model.modules() if isinstance(module, GeneratedLayer)}
    kept |= {id(module.adntn_original) for module in model.modules() if isinstance(module, Adapted)}
    yield from model.named_parameters(remove_duplicate=False)
    yield from ((name, one) for name, one in model.named_buffers(remove_duplicate=False) if id(one) not in kept)


def _frozen_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return what stands in a state dict for the weights that adapters are merged into."""
    return {
        _inside(name) + weight_name(layer.adntn_kind): layer.adntn_original
        for name, layer in adapted_layers(model).items()
        if layer.adntn_original is not None
    }


def _built(model_fn: Callable[[], Model], contents: Contents) -> Model:
    """Return the model, on the device "meta" if nothing is lost there."""
    if isinstance(model_fn, nn.Module) or not callable(model_fn):
        raise TypeError(f"model_fn must be a function that builds the model, got {type(model_fn).__name__}")
    try:
        with torch.device("meta"):
            model: Any = model_fn()
    except Exception:  # whatever it does with values, which are not there
        model = model_fn()
    if not isinstance(model, nn.Module):
        raise TypeError(f"model_fn must return a torch.nn.Module, got {type(model).__name__}")
    stored = {*contents.tensors, *contents.same}
    lost = any(name not in stored and tensor.is_meta for name, tensor in _not_persistent(model))
    if lost or any(_is_meta(value) for module in model.modules() for value in vars(module).values()):
        model = model_fn()
    built: Model = model
    return built


def _is_meta(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_meta


def _not_persistent(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the buffers that are not in the state dict."""
    persistent = set(model.state_dict())
    yield from ((name, tensor) for name, tensor in model.named_buffers() if name not in persistent)


def _replace(model: nn.Module, layers: Mapping[str, Weight], options: Mapping[str, Any]) -> None:
    """Put the file's generated layers in place of the dense ones."""
    modules = dict(model.named_modules(remove_duplicate=False))
    lacking: list[str] = []
    rules: dict[str, Any] = {}
    for name, weight in layers.items():
        path, _, child = name.rpartition(".")
        module = modules.get(name)
        if module is None and child in PROJECTIONS and isinstance(modules.get(path), nn.MultiheadAttention):
            rules.setdefault(path, {})[child] = weight  # layers that torch's attention does not have, but ours
        elif module is None:
            lacking.append(name)
        elif not isinstance(module, GeneratedLayer):
            rules[name] = weight
        elif module.generator != weight.generator:
            raise ValueError(f"layer {name!r} of the model is generated in another way, by {module.topology}")
    if lacking:
        raise ValueError(f"the model lacks the generated layers {some(lacking)}")
    if extra := [name for name in layers_and_deltas(model) if name not in layers]:
        raise ValueError(f"the model generates the layers {some(extra)}, which the file has not")
    if rules:
        _part(model, rules, layers)
        compress(model, rules, std=1.0, **options)


def _part(model: nn.Module, rules: Iterable[str], layers: Mapping[str, Weight]) -> None:
    """Part dense layers that share weights, or are one, where the file's share cores: these are tied afterwards."""
    uses = Counter(weight.prefix for weight in layers.values())
    sharing = [layer for layer, weight in layers.items() if uses[weight.prefix] > 1]
    for name in rules:
        if any(f"{layer}.".startswith(f"{name}.") for layer in sharing):
            path, _, child = name.rpartition(".")
            setattr(model.get_submodule(path), child, copy.deepcopy(model.get_submodule(name)))


def _tie(model: nn.Module, layers: Mapping[str, Weight]) -> None:
    """Let layers share their cores that do so in the file."""
    first: dict[str, GeneratedLayer] = {}
    for name, layer in layers_and_deltas(model).items():
        other = first.setdefault(layers[name].prefix, layer)
        if layer.cores is not other.cores:
            layer.tie(other)


def _check_alike(model: nn.Module, contents: Contents) -> None:
    """Raise a ValueError if the model's parameters and buffers are not those of the file."""
    wanted, stored = dict(_state(model)), _stored(contents)
    found = {id(tensor): stored[name] for name, tensor in wanted.items() if name in stored}
    optional = {name for name, _ in _not_persistent(model)}
    problems = []
    if missing := [name for name, one in wanted.items() if id(one) not in found and name not in optional]:
        problems.append(f"the file lacks {some(missing)}")
    if unexpected := [name for name in stored if name not in wanted]:
        problems.append(f"the model lacks {some(unexpected)}")
    both = {
        name: (contents.tensors[stored[name]].shape, tuple(wanted[name].shape)) for name in stored if name in wanted
    }
    if other := [f"{name} is {there}, not {here}" for name, (there, here) in both.items() if there != here]:
        problems.append(f"in the file {shortened(other, '; ')}")
    if untied := [
        name
        for name, tensor in wanted.items()
        if name in stored and not _equal(contents, stored[name], found[id(tensor)])
    ]:
        problems.append(f"the model shares one tensor where the file has different ones: {some(untied)}")
    if problems:
        raise ValueError("; ".join(problems))


def _equal(contents: Contents, one: str, other: str) -> bool:
    return one == other or bool((contents.array(one) == contents.array(other)).all())


def _stored(contents: Contents) -> dict[str, str]:
    """Return which tensor of the file stands for each name of a parameter or buffer."""
    cores = {
        f"{_inside(_layer_of(name))}{CORES}{core}": tensor
        for name, weight in contents.weights.items()
        for core, tensor in weight.tensors().items()
    }
    return {name: name for name in contents.dense} | dict(contents.same) | cores


def _fill(model: nn.Module, contents: Contents, device: Any) -> None:
    """Put the file's tensors in place of the model's; what is one tensor in the model or in the file stays one."""
    stored, placed = _stored(contents), dict[int, Tensor]()
    made: dict[tuple[str, bool], Tensor] = {}
    for name, old in _state(model):
        if name in stored and id(old) not in placed:
            kind = stored[name], isinstance(old, nn.Parameter)
            if kind not in made:
                new = in_library(contents.array(stored[name]), "torch", device)
                made[kind] = nn.Parameter(new, requires_grad=old.requires_grad) if kind[1] else new
            placed[id(old)] = made[kind]
    for module in model.modules():
        states: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for own in states:
            for name, tensor in own.items():
                if tensor is not None and id(tensor) in placed:
                    own[name] = placed[id(tensor)]


def _notes(contents: Contents) -> dict[str, tuple[float | None, torch.dtype | None]]:
    """Return what a file says of layers beside their cores: the deviation at the start, and whether frozen, in what."""
    notes = {}
    for name, value in named(contents.notes.get(NOTES, {}), "the notes of torch").items():
        own = fields(value, f"the notes on {name!r}", (), ("std", "frozen"))
        std, frozen = own.get("std"), own.get("frozen")
        if std is not None and not (isinstance(std, float) and math.isfinite(std)):
            raise FormatError(f"the deviation of {name!r} must be a number, got {shown(std)}")
        if frozen is not None and frozen not in DTYPES:
            raise FormatError(f"{name!r} must be frozen in one of {', '.join(DTYPES)}, got {shown(frozen)}")
        notes[name] = std, None if frozen is None else getattr(torch, frozen)
    return notes


def _remember(model: nn.Module, notes: Mapping[str, tuple[float | None, torch.dtype | None]]) -> None:
    for name, layer in layers_and_deltas(model).items():
        std, frozen = notes.get(name, (None, None))
        layer.std = layer.std if std is None else std
        if frozen is not None:
            layer.freeze(frozen)


def _layer_of(weight: str) -> str:
    """Return the name of the layer that has a weight; the weight's own, if no layer could have it."""
    return "" if weight == WEIGHT else weight.removesuffix(f".{WEIGHT}")


def _inside(path: str) -> str:
    return f"{path}." if path else ""
