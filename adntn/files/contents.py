"""What a file of safetensors holds beyond its tensors: the header in its metadata, written and read with every check.

The header is JSON under the key `adntn`:

    version     1; a reader knows the versions up to its own
    networks    the generators, spelled out (see `spelling`), each once
    weights     name -> {"network": its number, "prefix": of its cores' tensors, "topology": for people}
    complex128  the tensors that are stored as pairs of float64, for which safetensors has no type
    same        name -> the tensor that stands for it too
    notes       what a framework adds, by its name

Nothing of a tensor is read before names, shapes and number types of all are known to fit the header.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from adntn.arrays import DTYPES, Array
from adntn.atomic import whole_file
from adntn.files.spelling import generator_from, spelled
from adntn.files.values import FormatError, Json, fields, integer, items, named, parsed, shown, text, texts
from adntn.generator import Generator

#: The version of files that are written here, and the latest that can be read.
VERSION = 1
#: The key of the header in a file's metadata.
KEY = "adntn"
#: Our names of the number types, which are NumPy's, by those of safetensors.
TYPES = {
    "BOOL": "bool",
    "BF16": "bfloat16",
    "C64": "complex64",
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True, repr=False)
class Weight:
    """A generated weight in a file; also the topology of a layer that has it, for the one shape that it can make.

    Layers with a batch axis ask for one weight of the batch, as they do of every topology.

    Attributes:
        generator: what generates it.
        prefix: with the name of a core, the name of that core's tensor.
        topology: the options that made the generator, as text.
    """

    generator: Generator
    prefix: str
    topology: str

    def tensors(self) -> dict[str, str]:
        """Return the name of each core's tensor."""
        return {core: self.prefix + core for core in self.generator.core_shapes}

    def __call__(self, shape: tuple[int, ...]) -> Generator:
        """Return the generator, without its batch axis if the shape is that of one weight.

        Raises:
            ValueError: if it makes weights of another shape.
        """
        network = self.generator.network
        if network.batch is not None and shape == self.generator.shape[1:]:
            return replace(self.generator, network=replace(network, batch=None))
        if shape != self.generator.shape:
            raise ValueError(f"the file has a generator of the shape {self.generator.shape}, not of {shape}")
        return self.generator

    def __str__(self) -> str:
        return self.topology

    __repr__ = __str__


@dataclass(frozen=True)
class Kind:
    """Shape and number type of a tensor; printed, as "float32 (4, 4)"."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


@dataclass(frozen=True)
class Contents:
    """What a file holds, all of it checked, and the way to its numbers.

    Attributes:
        weights: the generated weights, by name.
        tensors: every tensor, cores and others, by name.
        same: names of which another tensor is the value too.
        notes: what a framework has added, by its name.
        metadata: what else stands in the file's metadata.
    """

    weights: Mapping[str, Weight]
    tensors: Mapping[str, Kind]
    same: Mapping[str, str]
    notes: Mapping[str, Json]
    metadata: Mapping[str, str]
    _file: Any = field(repr=False)

    @property
    def dense(self) -> tuple[str, ...]:
        """The names of the tensors that are no cores."""
        cores = {tensor for weight in self.weights.values() for tensor in weight.tensors().values()}
        return tuple(name for name in self.tensors if name not in cores)

    def array(self, tensor: str) -> Array:
        """Return a tensor as a NumPy array.

        Raises:
            FormatError: if NumPy does not have its number type, or it cannot be read.
        """
        from safetensors import SafetensorError  # noqa: PLC0415  (importing the library must stay light)

        kind = self.tensors[tensor]
        if kind.dtype not in {*TYPES.values(), *DTYPES}:
            raise FormatError(f"tensor {tensor!r} has the number type {kind.dtype}, which NumPy does not have")
        try:
            array = self._file.get_tensor(tensor)
        except SafetensorError as error:
            raise FormatError(f"tensor {tensor!r} cannot be read: {error}") from error
        return array.view("complex128")[..., 0] if kind.dtype == "complex128" else array

    def cores(self, weight: str) -> dict[str, Array]:
        """Return the cores of a weight as NumPy arrays."""
        return {core: self.array(tensor) for core, tensor in self.weights[weight].tensors().items()}


@contextmanager
def opened(path: str | os.PathLike[str], *, plain: bool = False) -> Iterator[Contents]:
    """Give what a file holds; its tensors can be read while it is open.

    Args:
        path: of a file of safetensors.
        plain: whether it may be one without generated weights.

    Raises:
        FormatError: if it is cut short, damaged, or not what it should be; the message says where.
        OSError: if it cannot be read.
    """
    import ml_dtypes  # noqa: F401, PLC0415  (gives NumPy bfloat16)
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415  (importing the library must stay light)

    if Path(path).is_dir():
        raise IsADirectoryError(f"{os.fspath(path)!r} is a directory")
    try:
        file = safe_open(os.fspath(path), framework="np")
    except SafetensorError as error:
        raise FormatError(f"{os.fspath(path)!r} is no file of safetensors, or is damaged: {error}") from error
    with file:
        try:
            yield _checked(file, plain)
        except FormatError as error:
            raise FormatError(f"{os.fspath(path)!r}: {error}") from error


def write(
    path: str | os.PathLike[str],
    weights: Mapping[str, Weight],
    tensors: Mapping[str, Array],
    *,
    same: Mapping[str, str] | None = None,
    notes: Mapping[str, Json] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a file, as a whole or not at all.

    Args:
        path: replaced, if it is there.
        weights: the generated weights by name; none for a plain file, whose metadata then has no header.
        tensors: NumPy arrays by name, the cores among them.
        same, notes, metadata: as in `Contents`.

    Raises:
        ValueError: if an activation is one's own, or safetensors does not have a number type.
        OSError: if the file cannot be written.
    """
    from safetensors.numpy import save_file  # noqa: PLC0415  (importing the library must stay light)

    written: dict[str, Array] = {}
    pairs: list[str] = []
    for name, array in tensors.items():
        flat = np.asarray(array, order="C")
        if flat.dtype == np.complex128:
            pairs.append(name)
            flat = flat[..., None].view(np.float64)
        if flat.dtype.name not in TYPES.values():
            raise ValueError(f"tensor {name!r} has the number type {flat.dtype}, which safetensors does not have")
        written[name] = flat
    about = dict(metadata or {})
    if weights:
        about[KEY] = json.dumps(_header(weights, pairs, same or {}, notes or {}), separators=(",", ":"))
    elif pairs:
        raise ValueError(f"tensor {pairs[0]!r} has the number type complex128, which safetensors does not have")
    with whole_file(path) as partial:
        save_file(written, partial, about or None)


def _header(
    weights: Mapping[str, Weight], pairs: list[str], same: Mapping[str, str], notes: Mapping[str, Json]
) -> Json:
    numbers: dict[Generator, int] = {}
    for weight in weights.values():
        numbers.setdefault(weight.generator, len(numbers))
    made = {
        "version": VERSION,
        "networks": [spelled(generator) for generator in numbers],
        "weights": {
            name: {"network": numbers[weight.generator], "prefix": weight.prefix, "topology": weight.topology}
            for name, weight in weights.items()
        },
    }
    optional = {"complex128": pairs, "same": dict(same), "notes": dict(notes)}
    return made | {name: value for name, value in optional.items() if value}


def _checked(file: Any, plain: bool) -> Contents:
    metadata = dict(file.metadata() or {})
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    tensors = {
        name: Kind(TYPES.get(one.get_dtype(), one.get_dtype()), tuple(one.get_shape())) for name, one in slices.items()
    }
    if KEY not in metadata:
        if plain:
            return Contents({}, tensors, {}, {}, metadata, file)
        raise FormatError("it holds no generated weights, only plain tensors")
    header = _header_in(metadata.pop(KEY))
    tensors |= {name: _as_complex(name, tensors) for name in texts(header.get("complex128", []), "complex128")}
    generators = [
        generator_from(spelling, f"network {number}")
        for number, spelling in enumerate(items(header["networks"], "the networks"))
    ]
    weights = {name: _weight(name, value, generators) for name, value in named(header["weights"], "weights").items()}
    for name, weight in weights.items():
        _check_cores(name, weight, tensors)
    _check_extra(weights, tensors)
    same = {
        name: text(one, f"what is the same as {name!r}") for name, one in named(header.get("same", {}), "same").items()
    }
    if wrong := [name for name, one in same.items() if one not in tensors or name in tensors]:
        raise FormatError(f"{shown(wrong[0])} must be another name of a tensor that is there")
    return Contents(weights, tensors, same, named(header.get("notes", {}), "notes"), metadata, file)


def _header_in(written: str) -> dict[str, Json]:
    header = named(parsed(written.encode("utf-8"), "its header"), "the header")
    version = integer(header.get("version"), "the version")
    if version > VERSION:
        raise FormatError(f"it has the version {version}; this adntn reads versions up to {VERSION}: update it")
    return fields(header, "the header", ("version", "networks", "weights"), ("complex128", "same", "notes"))


def _as_complex(name: str, tensors: Mapping[str, Kind]) -> Kind:
    kind = tensors.get(name)
    if kind is None or kind.dtype != "float64" or kind.shape[-1:] != (2,):
        raise FormatError(f"tensor {shown(name)} must hold pairs of float64 for complex128, got {kind or 'none'}")
    return Kind("complex128", kind.shape[:-1])


def _weight(name: str, value: Json, generators: list[Generator]) -> Weight:
    given = fields(value, f"weight {name!r}", ("network", "prefix", "topology"))
    number = integer(given["network"], f"the network of {name!r}", least=0)
    if number >= len(generators):
        raise FormatError(f"weight {name!r} is made by network {number}, but there are {len(generators)}")
    prefix, topology = (text(given[key], f"the {key} of {name!r}") for key in ("prefix", "topology"))
    return Weight(generators[number], prefix, topology)


def _check_cores(name: str, weight: Weight, tensors: Mapping[str, Kind]) -> None:
    generator, first = weight.generator, Kind("", ())
    for core, shape in generator.core_shapes.items():
        kind = tensors.get(weight.prefix + core)
        if kind is None:
            raise FormatError(f"weight {name!r} lacks its core {core!r}, the tensor {weight.prefix + core!r}")
        if kind.shape != shape:
            raise FormatError(f"core {core!r} of weight {name!r} must have the shape {shape}, got {kind.shape}")
        if kind.dtype not in DTYPES:
            raise FormatError(f"core {core!r} of weight {name!r} must be one of {', '.join(DTYPES)}, got {kind.dtype}")
        if first.dtype and kind.dtype != first.dtype:
            raise FormatError(f"the cores of weight {name!r} must share a type, got {first.dtype} and {kind.dtype}")
        first = kind
    if first.dtype.startswith("complex"):
        for level in generator.network.levels:
            if not level.activation.holomorphic:
                raise FormatError(f"weight {name!r} has complex cores, for which {level.activation} is not defined")


def _check_extra(weights: Mapping[str, Weight], tensors: Mapping[str, Kind]) -> None:
    cores = {tensor for weight in weights.values() for tensor in weight.tensors().values()}
    prefixes = tuple({weight.prefix for weight in weights.values()})
    if extra := [name for name in tensors if prefixes and name.startswith(prefixes) and name not in cores]:
        raise FormatError(f"tensor {extra[0]!r} is a core that no network has ({len(extra)} in all)")
