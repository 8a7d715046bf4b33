"""Equinox models with generated layers in files: cores, and all other arrays; see `adntn.files`.

>>> import adntn, equinox, jax, pathlib, tempfile
>>> from adntn_jax.equinox import Linear
>>> path = pathlib.Path(tempfile.mkdtemp()) / "model.safetensors"
>>> def build():
...     first = Linear(64, 64, key=jax.random.key(0), topology=adntn.TTN.options(bond=2))
...     return equinox.nn.Sequential([first, equinox.nn.Linear(64, 4, key=jax.random.key(1))])
>>> save_compressed(build(), path)
>>> load_compressed(build, path)(jax.numpy.ones(64)).shape, list(adntn.load(path))
((4,), ['layers.0.weight'])
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

from adntn.arrays import Array
from adntn.files import Weight, opened, write
from adntn.files.file import in_library, on_host
from adntn_jax.equinox import GeneratedLayer

Model = TypeVar("Model")

#: What a generated layer's weight and cores are called inside it.
WEIGHT, CORES = "weight", "cores."
#: So many names stand in an error.
NAMED = 5


def save_compressed(model: Any, path: str | os.PathLike[str]) -> None:
    """Write the arrays of a model, cores in place of generated weights; as a whole or not at all.

    Args:
        model: a pytree, such as an Equinox module, with generated layers.
        path: of a file of safetensors; replaced, if it is there.

    Raises:
        ValueError: if there is no generated layer, an activation of one's own, or an array that no file can hold, such
            as the key of a random generator.
        OSError: if the file cannot be written.
    """
    weights = {
        f"{name}{WEIGHT}": Weight(layer.generator, f"{name}{CORES}", str(layer.topology))
        for name, layer in _layers(model)
    }
    if not weights:
        raise ValueError("model must have generated layers (see adntn_jax.equinox)")
    arrays = dict(_arrays(model))
    if keys := [name for name, array in arrays.items() if jnp.issubdtype(array.dtype, jax.dtypes.prng_key)]:
        raise ValueError(f"{keys[0]!r} is the key of a random generator, which no file can hold; take it out first")
    write(path, weights, {name: on_host(array) for name, array in arrays.items()})


def load_compressed(model_fn: Callable[[], Model], path: str | os.PathLike[str]) -> Model:
    """Return a model with the arrays of a file; all else is as `model_fn` makes it.

    Args:
        model_fn: builds the model with its generated layers; it is traced only, so that no array is made.
        path: of a file that `save_compressed` has written.

    Raises:
        FormatError: if the file is cut short, damaged, of a later version, or no compressed model.
        ValueError: if it is of another network; the message names layers, arrays and shapes. Or if JAX does not have a
            number type (float64, unless that is enabled).
        OSError: if the file cannot be read.
    """
    skeleton = eqx.filter_eval_shape(model_fn)
    with opened(path) as contents:
        generators = {name: weight.generator for name, weight in contents.weights.items()}
        own = {f"{name}{WEIGHT}": layer.generator for name, layer in _layers(skeleton)}
        shapes = {name: array.shape for name, array in _arrays(skeleton)}
        stored = {name: kind.shape for name, kind in contents.tensors.items()}
        problems = [
            f"{what} {', '.join(map(repr, names[:NAMED]))}"
            for what, names in (
                ("generated in another way are", [name for name in own if own[name] != generators.get(name)]),
                ("the file generates, and the model does not,", [name for name in generators if name not in own]),
                ("the file lacks", [name for name in shapes if name not in stored]),
                ("the model lacks", [name for name in stored if name not in shapes]),
                ("other shapes have", [name for name in shapes if stored.get(name, shapes[name]) != shapes[name]]),
            )
            if names
        ]
        if problems:
            raise ValueError(f"{os.fspath(path)!r} is of another network: {'; '.join(problems)}")
        loaded = {name: in_library(contents.array(name), "jax") for name in shapes}
    leaves, structure = jax.tree_util.tree_flatten_with_path(skeleton)
    filled = [loaded[_name(keys)] if _is_array(leaf) else leaf for keys, leaf in leaves]
    model: Model = jax.tree_util.tree_unflatten(structure, filled)
    return model


def _layers(model: Any) -> Iterator[tuple[str, GeneratedLayer]]:
    """Yield each generated layer with what names inside it start with."""
    is_layer = lambda node: isinstance(node, GeneratedLayer)  # noqa: E731
    for keys, node in jax.tree_util.tree_flatten_with_path(model, is_leaf=is_layer)[0]:
        if isinstance(node, GeneratedLayer):
            yield (f"{_name(keys)}." if keys else ""), node


def _arrays(model: Any) -> Iterator[tuple[str, Array]]:
    for keys, leaf in jax.tree_util.tree_flatten_with_path(model)[0]:
        if _is_array(leaf):
            yield _name(keys), leaf


def _is_array(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _name(keys: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator=".")
