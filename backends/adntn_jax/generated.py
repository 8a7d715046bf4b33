"""What layers of every JAX library share: the generator that options mean, number types, cores drawn from a key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy

import adntn
from adntn import Generator
from adntn.arrays import place
from adntn_jax.host import call_on_host

#: From a weight's shape to its generator: `adntn.TTN.options(bond=4)`, or any function that returns a generator.
TopologyOptions = Callable[[tuple[int, ...]], Generator]

#: What layers take if nothing is said.
DEFAULT_TOPOLOGY: TopologyOptions = adntn.TTN.options(bond=4)


def generator_of(topology: TopologyOptions, shape: tuple[int, ...]) -> Generator:
    """Return the generator of a layer's weight.

    Raises:
        TypeError, ValueError: if the options are none, or make something else.
    """
    if not callable(topology):
        raise TypeError(f"topology must be options such as adntn.TTN.options(bond=4), got {topology!r}")
    generator = topology(shape)
    if not isinstance(generator, Generator):
        raise TypeError(
            f"topology must return an adntn.Generator for the shape {shape}, got {type(generator).__name__}"
        )
    if generator.shape != shape:
        raise ValueError(f"topology must generate the shape {shape}, but {topology} generates {generator.shape}")
    return generator


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
