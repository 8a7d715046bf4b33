"""Calls from a compiled JAX program to a function of NumPy arrays on the host.

`jax.enable_x64(True)` as a context reaches only the thread that entered it, and JAX may call back from another, where
it would round float64 to float32. So 64-bit numbers travel as pairs of 32-bit words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy

from adntn.arrays import DOUBLE_DTYPES


def call_on_host(function: Callable[..., Any], like: Any, *arguments: Any) -> Any:
    """Return the function's results; under vmap it is called once for each example.

    >>> call_on_host(numpy.cumsum, jnp.zeros(3), jnp.ones(3))
    Array([1., 2., 3.], dtype=float32)

    Args:
        function: from trees of NumPy arrays to one; it must not call JAX.
        like: shapes and number types of the results.
        arguments: trees of JAX arrays.
    """
    given = jax.eval_shape(lambda *arrays: arrays, *arguments)

    def on_words(*words: Any) -> Any:
        return jax.tree.map(_to_words, function(*jax.tree.map(_from_words, words, given)))

    shapes = jax.eval_shape(lambda tree: jax.tree.map(_sent, tree), like)
    words = jax.pure_callback(on_words, shapes, *jax.tree.map(_sent, arguments), vmap_method="sequential")
    return jax.tree.map(_received, words, like)


def _sent(array: jax.Array) -> jax.Array:
    """Return an array to hand to the host: a 64-bit one as words along a last axis."""
    if array.dtype.name not in DOUBLE_DTYPES:
        return array
    parts = jnp.stack([array.real, array.imag], -1) if array.dtype == "complex128" else array[..., None]
    words: jax.Array = jax.lax.bitcast_convert_type(parts, jnp.uint32)
    return words.reshape(*array.shape, -1)


def _received(words: jax.Array, like: Any) -> jax.Array:
    """Return the array that the host made, which `_to_words` sent."""
    if like.dtype.name not in DOUBLE_DTYPES:
        return words
    parts: jax.Array = jax.lax.bitcast_convert_type(words.reshape(*like.shape, -1, 2), jnp.float64)
    return jax.lax.complex(parts[..., 0], parts[..., 1]) if like.dtype == "complex128" else parts[..., 0]


def _to_words(array: numpy.ndarray) -> numpy.ndarray:
    if array.dtype.name not in DOUBLE_DTYPES:
        return array
    return numpy.ascontiguousarray(array).reshape(*array.shape, 1).view(numpy.uint32)


def _from_words(words: Any, like: Any) -> numpy.ndarray:
    array = numpy.array(words)  # a copy: JAX's arrays may not be written to, which torch cannot express
    return array.view(like.dtype).reshape(like.shape) if like.dtype.name in DOUBLE_DTYPES else array
