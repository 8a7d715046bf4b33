"""Models of Equinox and Flax NNX with generated layers in files: cores, and all other arrays; see `adntn.files`.

Both are pytrees; the arrays in a file have the names of the paths to them.

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

import jax
import jax.numpy as jnp

from adntn.arrays import Array
from adntn.files import Weight, opened, write
from adntn.files.file import CORES, WEIGHT, in_library, on_host
from adntn.generator import Generator

Model = TypeVar("Model")

#: So many names stand in an error.
NAMED = 5


def save_compressed(model: Any, path: str | os.PathLike[str]) -> None:
    """Write the arrays of a model, cores in place of generated weights; as a whole or not at all.

    Args:
        model: a pytree, such as a module of Equinox or Flax NNX, with generated layers. Keys of random generators in
            it are not written.
        path: of a file of safetensors; replaced, if it is there.

    Raises:
        ValueError: if there is no generated layer, or an activation of one's own.
        OSError: if the file cannot be written.
    """
    weights = {
        f"{name}{WEIGHT}": Weight(layer.generator, f"{name}{CORES}", str(layer.topology))
        for name, layer in _layers(model)
    }
    if not weights:
        raise ValueError("model must have generated layers (see adntn_jax.equinox and adntn_jax.nnx)")
    write(path, weights, {name: on_host(array) for name, array in _arrays(model)})


def load_compressed(model_fn: Callable[[], Model], path: str | os.PathLike[str]) -> Model:
    """Return a model with the arrays of a file; all else, and keys of random generators, are as `model_fn` makes them.

    Args:
        model_fn: builds the model with its generated layers; it is traced only, so that no array is made but keys.
        path: of a file that `save_compressed` has written.

    Raises:
        FormatError: if the file is cut short, damaged, of a later version, or no compressed model.
        ValueError: if it is of another network; the message names layers, arrays and shapes. Or if JAX does not have a
            number type (float64, unless that is enabled).
        OSError: if the file cannot be read.
    """
    skeleton = _skeleton(model_fn)
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
    drawn = iter(jax.jit(lambda: [leaf for leaf in jax.tree.leaves(model_fn()) if _is_key(leaf)])())
    leaves, structure = jax.tree_util.tree_flatten_with_path(skeleton)
    filled = [
        next(drawn) if _is_key(leaf) else loaded[_name(keys)] if _is_array(leaf) else leaf for keys, leaf in leaves
    ]
    model: Model = jax.tree.unflatten(structure, filled)
    return model


def _skeleton(model_fn: Callable[[], Model]) -> Model:
    """Return the model with shapes in place of arrays."""
    traced: dict[str, Any] = {}

    def arrays() -> list[Array]:
        leaves, traced["structure"] = jax.tree.flatten(model_fn())
        traced["others"] = [None if _is_array(leaf) else leaf for leaf in leaves]
        return [leaf for leaf in leaves if _is_array(leaf)]

    shapes = iter(jax.eval_shape(arrays))
    model: Model = jax.tree.unflatten(
        traced["structure"], [next(shapes) if leaf is None else leaf for leaf in traced["others"]]
    )
    return model


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield each generated layer with what names inside it start with."""
    for keys, node in jax.tree_util.tree_flatten_with_path(model, is_leaf=_is_layer)[0]:
        if _is_layer(node):
            yield (f"{_name(keys)}." if keys else ""), node


def _arrays(model: Any) -> Iterator[tuple[str, Array]]:
    """Yield each array, but for keys, with its name."""
    for keys, leaf in jax.tree_util.tree_flatten_with_path(model)[0]:
        if _is_array(leaf) and not _is_key(leaf):
            yield _name(keys), leaf


def _is_layer(node: Any) -> bool:
    """Return whether a node is a layer of Equinox or NNX that generates its weight; neither has to be imported."""
    return isinstance(getattr(node, "generator", None), Generator) and hasattr(node, "cores")


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)


def _is_key(leaf: Any) -> bool:
    return _is_array(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _name(keys: tuple[Any, ...]) -> str:
    """Return the path to an array; the variables of NNX have theirs as their `value`."""
    return jax.tree_util.keystr(keys, simple=True, separator=".").removesuffix(".value")
