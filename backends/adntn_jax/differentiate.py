"""The generated weight in JAX, and who differentiates it: JAX itself ("native") or the library's adjoint."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp

from adntn import Generator
from adntn.backends import Differentiation, checked_differentiation
from adntn_jax import engines

Cores = dict[str, jax.Array]


def weight(
    generator: Generator,
    cores: Mapping[str, jax.Array],
    differentiation: Differentiation | None = None,
    engine: str = engines.JAX,
) -> jax.Array:
    """Return the weight of shape `generator.shape`, differentiable along the path of that name.

    >>> import adntn
    >>> generator = adntn.MERA((16, 16), bond=2)
    >>> cores = generator.init(backend="jax")
    >>> native = jax.grad(lambda cores: weight(generator, cores).sum())(cores)
    >>> hosted = jax.grad(lambda cores: weight(generator, cores, engine="numpy").sum())(cores)
    >>> bool(jnp.allclose(native["top"], hosted["top"], rtol=1e-4))
    True

    It may be jitted, mapped (vmap), scanned and sharded. As `jax.grad` has it, gradients of complex cores are with
    respect to the number itself: the conjugate of those that `Generator.vjp` returns.

    Args:
        generator: closed over, or a static argument of jit.
        cores: JAX arrays by name.
        differentiation: "native", JAX's own, in every mode and order; "adjoint", the library's, in reverse mode. None
            takes "native" where the engine is JAX and "adjoint" elsewhere.
        engine: who computes. "jax", or another array library ("numpy", "torch" ...): it is called from the compiled
            program, with copies of the arrays both ways, once for each example under vmap; first derivatives only.

    Raises:
        KeyError, ValueError, TypeError: if cores are not the generator's, or an option is unknown.
        ImportError: if the engine is not installed, or does not work here.
    """
    if path_of(differentiation, engine) == "native":
        return engines.weight(generator, engine, dict(cores))
    generator.check(cores)  # here, because an error inside a callback is hard to read
    return _with_adjoint(generator, engine, dict(cores))


def path_of(differentiation: str | None, engine: str) -> Differentiation:
    """Return the path that two options mean.

    Raises:
        ValueError: if there is none of that name, or the engine does not have it.
        ImportError: if the engine is not installed, or does not work here.
    """
    engines.check(engine)
    return checked_differentiation(differentiation, None if engine == engines.JAX else engine)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _with_adjoint(generator: Generator, engine: str, cores: Cores) -> jax.Array:
    return engines.weight(generator, engine, cores)


def _forward(generator: Generator, engine: str, cores: Cores) -> tuple[jax.Array, tuple[tuple[jax.Array, ...], Cores]]:
    weight, residuals = engines.forward(generator, engine, cores)
    return weight, (residuals, cores)


def _backward(
    generator: Generator, engine: str, kept: tuple[tuple[jax.Array, ...], Cores], weight_bar: jax.Array
) -> tuple[Cores]:
    residuals, cores = kept
    gradients = engines.pullback(generator, engine, residuals, cores, jnp.conj(weight_bar))
    return ({name: jnp.conj(gradient) for name, gradient in gradients.items()},)


_with_adjoint.defvjp(_forward, _backward)
