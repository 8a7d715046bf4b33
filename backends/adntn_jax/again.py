"""Results that are made again in the backward pass, so that nothing of them is kept until then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from adntn.network import SCALE


def made_again(function: Callable[[Any, Any], jax.Array], cores: dict[str, jax.Array], x: Any) -> jax.Array:
    """Return function(cores, x), of which the backward pass keeps the arguments and nothing else.

    >>> cores = {"scale": jnp.ones(()), "matrix": jnp.ones((2, 3))}
    >>> made_again(lambda cores, x: jnp.tanh(cores["matrix"] @ x), cores, jnp.zeros(3))
    Array([0., 0.], dtype=float32)

    `jax.checkpoint` alone would keep more on a CPU: there XLA drops its barriers, finds that what is to be made again
    has been made before, and keeps that. It does not look into the branches of a conditional of which it cannot know
    that one is never taken. On an accelerator, which heeds barriers, a condition would have the host wait for it.
    """
    if jax.default_backend() != "cpu":
        kept: Callable[..., jax.Array] = jax.checkpoint(function)
        return kept(cores, x)
    like = jax.eval_shape(function, cores, x)

    def not_a_number(cores: dict[str, jax.Array], x: Any) -> jax.Array:
        return jnp.broadcast_to(any_number((cores, x)).astype(like.dtype), like.shape)

    scale = cores[SCALE].ravel()[0]
    there = scale == scale  # noqa: PLR0124 (true of all numbers)
    output: jax.Array = jax.lax.cond(there, jax.checkpoint(function, prevent_cse=False), not_a_number, cores, x)
    return output


def any_number(arrays: Any) -> jax.Array:
    """Return a number that varies over the devices of `jax.shard_map` as what is made from the arrays does."""
    first, *others = (array.ravel()[0] for array in jax.tree.leaves(jax.lax.stop_gradient(arrays)))
    total: jax.Array = sum(others, first)
    return total
