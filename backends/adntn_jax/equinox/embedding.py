"""An Equinox embedding with a generated table."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from adntn.backends import Differentiation
from adntn.topologies.layers import DEFAULT_TOPOLOGY, TopologyOptions
from adntn_jax.engines import JAX
from adntn_jax.equinox.layers import GeneratedLayer
from adntn_jax.gathering import LookupName, gathered, gathers, wrapped


class Embedding(GeneratedLayer):
    """`equinox.nn.Embedding` with a generated table: the rows of the tokens are made, and no others.

    >>> layer = Embedding(30522, 384, key=jax.random.key(0))
    >>> jax.vmap(layer)(jnp.asarray([101, 7592])).shape, layer(jnp.asarray([[101], [102]])).shape
    ((2, 384), (2, 1, 384))

    Beside one index, which Equinox takes, it takes any number: many are looked up some at a time, where `jax.vmap`
    holds what is made for all of them. Indices beyond the table are taken as Equinox takes them: as the nearest row.

    Args:
        num_embeddings, embedding_size, dtype, key: as in `equinox.nn.Embedding`.
        topology, differentiation, engine: as in `Linear`; they concern the table as a whole. Rows are differentiated by
            JAX.
        std: the start's standard deviation; None takes that of `equinox.nn`, 1.
        schedule: "gather" makes rows; "materialise" the whole table, which is faster for most of its rows.

    Raises:
        TypeError, ValueError: from Equinox, the topology or the options, for what they do not accept.
    """

    dense_kind = eqx.nn.Embedding
    dense_arguments = ("num_embeddings", "embedding_size")

    num_embeddings: int = eqx.field(static=True)
    embedding_size: int = eqx.field(static=True)
    gathers: bool = eqx.field(static=True)

    def __init__(
        self,
        num_embeddings: int,
        embedding_size: int,
        dtype: Any = None,
        *,
        key: jax.Array,
        topology: TopologyOptions = DEFAULT_TOPOLOGY,
        differentiation: Differentiation | None = None,
        engine: str = JAX,
        std: float | None = None,
        schedule: LookupName = "gather",
    ) -> None:
        self.gathers = gathers(schedule, engine)
        super().__init__(
            {"num_embeddings": num_embeddings, "embedding_size": embedding_size},
            dtype=dtype,
            key=key,
            topology=topology,
            differentiation=differentiation,
            engine=engine,
            std=1.0 if std is None else std,
            schedule="materialise",
            memory_limit=None,
        )

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """Return the rows with these indices, of shape (*x.shape, embedding_size)."""
        indices = jnp.asarray(x)
        if not jnp.issubdtype(indices.dtype, jnp.integer):
            raise TypeError(f"indices must be integers, got {indices.dtype.name}")
        if not self.gathers:
            table: jax.Array = self.weight[indices]
            return table
        return gathered(self.generator, self.cores, wrapped(indices, self.num_embeddings))

    def _dense(self, weight: jax.Array) -> Any:
        return eqx.nn.Embedding(weight=weight)
