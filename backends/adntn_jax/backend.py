"""What JAX adds to what autoray knows of it: devices, its own differentiation, double precision, jit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from adntn import Generator
from adntn.backends import Backend


def devices() -> tuple[str, ...]:
    """Return the names of this process's devices, such as "cpu:0" or "gpu:1"."""
    return tuple(f"{device.platform}:{device.id}" for device in jax.local_devices())


def device(name: str) -> jax.Device:
    """Return the device of that name; without a number, such as "cpu" or "cuda", the platform's first one.

    >>> device("cpu").platform
    'cpu'

    Raises:
        ValueError: if there is none.
    """
    platform, _, number = name.partition(":")
    try:
        there = jax.local_devices(backend=platform) if platform else []
    except RuntimeError:  # JAX does not have the platform
        there = []
    chosen = [one for one in there if number in {"", str(one.id)}]
    if not chosen:
        raise ValueError(f"device must be one of {', '.join(devices())}, got {name!r}")
    return chosen[0]


def native_vjp(
    generator: Generator, cores: Mapping[str, jax.Array]
) -> tuple[jax.Array, Callable[[jax.Array], dict[str, jax.Array]]]:
    """Return the weight and its pullback by `jax.vjp`, gradients with respect to the conjugate.

    JAX's own are with respect to the number itself: the conjugate, on the way in and on the way out.
    """
    weight, pullback = jax.vjp(generator.weight, dict(cores))

    def conjugate_pullback(weight_bar: jax.Array) -> dict[str, jax.Array]:
        (gradients,) = pullback(jnp.conj(weight_bar))
        return {name: jnp.conj(gradient) for name, gradient in gradients.items()}

    return weight, conjugate_pullback


def device_name(name: str) -> str:
    """Return what a device is, such as "NVIDIA H100 80GB HBM3"."""
    return str(device(name).device_kind)


#: Less work for LLVM, on CPUs; what XLA does to the program before is the same. By the names of XLA, which may change.
QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


@cache
def _known(options: tuple[tuple[str, Any], ...]) -> bool:
    """Return whether this version of XLA has these options."""
    try:
        jax.jit(jnp.negative, compiler_options=dict(options))(0.0)
    except jax.errors.JaxRuntimeError:
        return False
    return True


def compile_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the jitted function, compiled with less optimisation on a CPU, where compiling takes longer than running.

    >>> float(compile_once(jnp.sin)(0.0))
    0.0
    """
    quick = jax.default_backend() == "cpu" and _known(tuple(QUICK.items()))
    return jax.jit(function, compiler_options=QUICK if quick else None)


BACKEND = Backend(
    "jax",
    devices=devices,
    device=device,
    native_vjp=native_vjp,
    double_precision=lambda: jax.enable_x64(True),
    full_precision=lambda: jax.default_matmul_precision("highest"),
    device_name=device_name,
    compile=jax.jit,
    compile_once=compile_once,
)
