"""Who computes a weight and its adjoint inside a JAX program: JAX, or another array library in a callback on the host.

Each function here is one of `Generator`'s, given the name of the engine.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import autoray
import jax
import numpy

from adntn import Generator
from adntn.arrays import SHORT_DTYPES, dtype_name, place
from adntn.backends import Backend, usable_backend
from adntn.network import SCALE
from adntn_jax.host import call_on_host

JAX = "jax"

Cores = dict[str, jax.Array]
Residuals = tuple[jax.Array, ...]


def check(engine: str) -> None:
    """Check that an engine is there.

    Raises:
        ValueError: if the name is none.
        ImportError: if it is not installed, or does not work here.
    """
    if not isinstance(engine, str) or not engine:
        raise ValueError(f'engine must be the name of an array library such as "jax" or "numpy", got {engine!r}')
    if engine != JAX:
        _backend(engine)


def weight(generator: Generator, engine: str, cores: Cores) -> jax.Array:
    """Return the weight."""
    made: jax.Array
    if engine == JAX:
        made = generator.weight(cores)
        return made
    dtype, wide = _wide(cores)

    backend = _backend(engine)

    def on_host(cores: Cores) -> Any:
        with backend.precision(wide[SCALE].dtype.name):
            return _taken_back(generator.weight(_handed_over(cores, engine)))

    made = call_on_host(on_host, jax.eval_shape(generator.weight, wide), wide)
    return made.astype(dtype)


def forward(generator: Generator, engine: str, cores: Cores) -> tuple[jax.Array, Residuals]:
    """Return the weight and what `pullback` needs."""
    if engine == JAX:
        return generator.forward(cores)
    dtype, wide = _wide(cores)

    backend = _backend(engine)

    def on_host(cores: Cores) -> Any:
        with backend.precision(wide[SCALE].dtype.name):
            return _taken_back(generator.forward(_handed_over(cores, engine)))

    weight, residuals = call_on_host(on_host, jax.eval_shape(generator.forward, wide), wide)
    return weight.astype(dtype), residuals


def pullback(generator: Generator, engine: str, residuals: Residuals, cores: Cores, weight_bar: jax.Array) -> Cores:
    """Return dL/d(core) for every core, with respect to the conjugate."""
    if engine == JAX:
        return generator.pullback(residuals, cores, weight_bar)
    dtype, wide = _wide(cores)

    backend = _backend(engine)

    def on_host(residuals: Residuals, cores: Cores, weight_bar: jax.Array) -> Any:
        with backend.precision(wide[SCALE].dtype.name):
            return _taken_back(generator.pullback(*_handed_over((residuals, cores, weight_bar), engine)))

    made = call_on_host(on_host, jax.eval_shape(dict, wide), residuals, wide, weight_bar.astype(wide[SCALE].dtype))
    return {name: gradient.astype(dtype) for name, gradient in made.items()}


@cache
def _backend(engine: str) -> Backend:
    return usable_backend(engine)


def _wide(cores: Cores) -> tuple[Any, Cores]:
    """Return the cores' number type, and the cores with 16-bit numbers as float32: NumPy can hand over no bfloat16."""
    dtype = cores[SCALE].dtype
    if dtype.name not in SHORT_DTYPES:
        return dtype, cores
    return dtype, {name: core.astype("float32") for name, core in cores.items()}


def _handed_over(arrays: Any, engine: str) -> Any:
    return jax.tree.map(lambda array: place(array, engine, dtype_name(array)), arrays)


def _taken_back(arrays: Any) -> Any:
    return jax.tree.map(lambda array: numpy.asarray(autoray.to_numpy(array)), arrays)
