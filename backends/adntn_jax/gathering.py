"""Rows of a weight under JAX: what `adntn.gathering` does, with a loop over the slabs of many tokens.

JAX differentiates it, in every mode and order; where there are several slabs, the backward pass makes those again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from adntn import Generator
from adntn.gathering import gathered as looked_up
from adntn.gathering import slabs_of
from adntn.program.contract import LARGEST
from adntn_jax.engines import JAX

#: How rows come to be: looked up one by one, or from the whole table.
LookupName = Literal["gather", "materialise"]


def gathers(schedule: LookupName, engine: str) -> bool:
    """Return whether an embedding makes the rows of its tokens for themselves.

    Raises:
        ValueError: if there is no such schedule, or another engine than JAX is to make rows.
    """
    if schedule not in get_args(LookupName):
        raise ValueError(f"schedule must be one of {', '.join(get_args(LookupName))}, got {schedule!r}")
    if schedule == "gather" and engine != JAX:
        raise ValueError(f'schedule must be "materialise" with the engine {engine!r}, got "gather"')
    return schedule == "gather"


def gathered(
    generator: Generator, cores: Mapping[str, jax.Array], indices: jax.Array, largest: int = LARGEST
) -> jax.Array:
    """Return rows of the weight, of shape (*indices.shape, ...); the indices must be those of rows.

    >>> import adntn
    >>> generator = adntn.TTN((1000, 64), bond=4)
    >>> cores, indices = generator.init(backend="jax"), jnp.asarray([[1, 999], [7, 7]])
    >>> bool(jnp.allclose(gathered(generator, cores, indices), generator.weight(cores)[indices], atol=1e-6))
    True

    It may be jitted, mapped, scanned and sharded, and differentiated in every mode.

    Args:
        generator: of one weight.
        cores: JAX arrays by name, checked.
        indices: integers of any shape.
        largest: tokens are taken in slabs, for which no result in between holds more numbers than that.
    """
    tokens = math.prod(indices.shape)
    slabs = slabs_of(generator.network, tokens, generator.paths, largest)
    given = dict(cores)
    if len(slabs.parts) == 1:
        made: jax.Array = looked_up(generator, given, indices, slabs)
        return made
    _, _, size = slabs.parts[0]
    one = slabs_of(generator.network, size, generator.paths, largest)
    padded = jnp.pad(indices.reshape(-1), (0, len(slabs.parts) * size - tokens)).reshape(-1, size)
    again = jax.checkpoint(lambda part: looked_up(generator, given, part, one), prevent_cse=False)
    rows: jax.Array = jax.lax.map(again, padded)
    columns = generator.network.layout.shape[1:]
    return rows.reshape(-1, *columns)[:tokens].reshape(*indices.shape, *columns)


def wrapped(indices: jax.Array, rows: int) -> jax.Array:
    """Return indices as JAX takes them: negative ones count from the end, those beyond are the nearest row's.

    >>> wrapped(jnp.asarray([-1, 3, 12, -12]), 10).tolist()
    [9, 3, 9, 0]
    """
    return jnp.clip(jnp.where(indices < 0, indices + rows, indices), 0, rows - 1)
