"""Generated weights into a file and out of it: what users call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import autoray

from adntn.arrays import Array, as_dtype, detached, dtype_name, place
from adntn.files.contents import Weight, opened, write
from adntn.generator import Generator

#: What a generated layer's weight and cores are called inside it, in all frameworks.
WEIGHT, CORES = "weight", "cores."


def save(path: str | os.PathLike[str], weights: Mapping[str, tuple[Generator, Mapping[str, Array]]]) -> None:
    """Write generators and their cores into a file of safetensors, as a whole or not at all.

    >>> import adntn, pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "weights.safetensors"
    >>> generator = adntn.TTN((4096, 4096), bond=4)
    >>> adntn.save(path, {"first": (generator, generator.init(seed=0))})
    >>> loaded, cores = adntn.load(path)["first"]
    >>> loaded == generator, path.stat().st_size < 6_000
    (True, True)

    The generator is spelled out, so that the file does not depend on how topologies are built. Weights that share
    cores (the same arrays) are written once, and share them again when they are loaded.

    Args:
        path: replaced, if it is there.
        weights: generators and cores by name; cores are arrays of any library.

    Raises:
        ValueError: if an activation is one of your own: a file holds no code. Or if names of tensors would collide.
        KeyError, TypeError, ValueError: if cores are not the generator's.
        OSError: if the file cannot be written.
    """
    tensors: dict[str, Array] = {}
    made: dict[str, Weight] = {}
    prefixes: dict[tuple[Generator, tuple[int, ...]], str] = {}
    if not isinstance(weights, Mapping):
        raise TypeError(f"weights must be a mapping from names to (generator, cores), got {type(weights).__name__}")
    if not weights:
        raise ValueError("weights must hold at least one weight, got none")
    for name, weight_of in weights.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"the name of a weight must be a string that is not empty, got {name!r}")
        pair = weight_of if isinstance(weight_of, tuple | list) else (weight_of,)
        if len(pair) != 2 or not isinstance(pair[0], Generator):
            raise TypeError(
                f"weight {name!r} must be (generator, cores), got {', '.join(type(one).__name__ for one in pair)}"
            )
        generator, cores = pair
        generator.check(cores)
        own = generator, tuple(id(cores[core]) for core in generator.core_shapes)
        weight = Weight(generator, prefixes.setdefault(own, prefix_of(name)), generator.network.topology)
        made[name] = weight
        if weight.prefix != prefix_of(name):
            continue
        for core, tensor in weight.tensors().items():
            if tensor in tensors:
                raise ValueError(f"weights must not share names of tensors, but {tensor!r} is also one of {name!r}")
            tensors[tensor] = on_host(cores[core])
    write(path, made, tensors)


def load(
    path: str | os.PathLike[str], backend: str = "numpy", device: Any = None
) -> dict[str, tuple[Generator, dict[str, Array]]]:
    """Return the generators of a file with their cores, by name, as arrays of any library.

    All is checked before the first number is read, and nothing in a file is ever run. Tensors beside the cores, such as
    `adntn_torch.save_compressed` writes, are passed over.

    Args:
        path: of a file that `save`, `adntn compress` or a framework's `save_compressed` has written.
        backend: the array library, as autoray names it.
        device: passed on to the library.

    Raises:
        FormatError: if the file is cut short, damaged, of a later version, or holds no generated weights.
        OSError: if it cannot be read.
        ImportError, ValueError: if the library is not installed, or does not have the number type or the device.
    """
    placed: dict[str, dict[str, Array]] = {}
    loaded: dict[str, tuple[Generator, dict[str, Array]]] = {}
    with opened(path) as contents:
        for name, weight in contents.weights.items():
            if weight.prefix not in placed:
                cores = contents.cores(name)
                placed[weight.prefix] = {core: in_library(array, backend, device) for core, array in cores.items()}
            loaded[name] = weight.generator, placed[weight.prefix]
    return loaded


def prefix_of(weight: str) -> str:
    """Return what the names of a weight's cores start with: as in the state dicts of layers.

    >>> prefix_of("encoder.0.weight"), prefix_of("first")
    ('encoder.0.cores.', 'first.cores.')
    """
    return f"{weight.removesuffix(f'.{WEIGHT}')}.{CORES}"


def on_host(array: Array) -> Array:
    """Return an array of any library as NumPy's, of the same number type."""
    import ml_dtypes  # noqa: PLC0415  (importing the library must stay light)

    array = detached(array)
    if hasattr(array, "resolve_conj"):  # torch conjugates and negates lazily, which NumPy does not know
        array = array.resolve_conj().resolve_neg()
    if dtype_name(array) == "bfloat16":
        return autoray.to_numpy(as_dtype(array, "float32")).astype(ml_dtypes.bfloat16)
    return autoray.to_numpy(array)


def in_library(array: Array, backend: str, device: Any = None) -> Array:
    """Return a NumPy array of floating-point numbers as one of another library, of the same number type."""
    dtype = dtype_name(array)
    return place(as_dtype(array, "float32") if dtype == "bfloat16" else array, backend, dtype, device)
