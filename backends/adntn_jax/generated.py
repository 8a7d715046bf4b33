"""What layers of every JAX library share: number types, cores drawn from a key."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy

from adntn import Generator
from adntn.arrays import place
from adntn_jax.host import call_on_host


def checked_dtype(dtype: Any) -> str:
    """Return the name of a number type; None is JAX's default, float32 or, with x64 enabled, float64.

    Raises:
        ValueError: if JAX does not have it (float64 without x64).
    """
    name = jnp.zeros(()).dtype.name if dtype is None else jnp.dtype(dtype).name
    place(numpy.zeros(()), "jax", name)
    return name


def drawn_cores(generator: Generator, key: jax.Array, dtype: str, std: float) -> dict[str, jax.Array]:
    """Return the cores that `Generator.init` draws, from a seed that a JAX key makes.

    The key may be traced: layers can be built under jit, vmap and eval_shape.
    """
    words = jax.random.bits(key, (2,), "uint32")

    def draw(words: numpy.ndarray) -> dict[str, numpy.ndarray]:
        high, low = words.tolist()
        return generator.init(high << 32 | low, dtype=dtype, std=std)

    if not isinstance(words, jax.core.Tracer):
        return {name: jnp.asarray(core) for name, core in draw(numpy.asarray(words)).items()}
    like = jax.eval_shape(lambda: {name: jnp.zeros(shape, dtype) for name, shape in generator.core_shapes.items()})
    drawn: dict[str, jax.Array] = call_on_host(draw, like, words)
    return drawn
