"""A Flax NNX embedding with a generated table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes

from adntn.backends import Differentiation
from adntn.topologies.layers import DEFAULT_TOPOLOGY, TopologyOptions
from adntn_jax.differentiate import weight
from adntn_jax.engines import JAX
from adntn_jax.gathering import LookupName, gathered, gathers, wrapped
from adntn_jax.nnx.layers import GeneratedLayer


class Embed(GeneratedLayer):
    """`flax.nnx.Embed` with a generated table: the rows of the tokens are made, and no others.

    >>> layer = Embed(30522, 384, rngs=nnx.Rngs(0))
    >>> layer(jnp.asarray([[101, 7592], [2088, 102]])).shape
    (2, 2, 384)

    `attend`, the tied output head, makes the whole table. As in NNX, rows beyond the table are NaN.

    Args:
        num_embeddings, features, dtype, param_dtype, promote_dtype, rngs: as in `flax.nnx.Embed`.
        topology, differentiation, engine: as in `adntn_jax.nnx.Linear`; they concern the table as a whole. Rows are
            differentiated by JAX.
        std: the start's standard deviation; None takes that of `flax.nnx`, 1 / sqrt(features).
        schedule: "gather" makes rows; "materialise" the whole table, which is faster for most of its rows.

    Raises:
        TypeError, ValueError: from NNX, the topology or the options, for what they do not accept.
    """

    dense_kind = nnx.Embed

    num_embeddings: int
    param_dtype: Any

    def __init__(
        self,
        num_embeddings: int,
        features: int,
        *,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        promote_dtype: Callable[..., Any] = dtypes.promote_dtype,
        rngs: nnx.Rngs,
        topology: TopologyOptions = DEFAULT_TOPOLOGY,
        differentiation: Differentiation | None = None,
        engine: str = JAX,
        std: float | None = None,
        schedule: LookupName = "gather",
    ) -> None:
        self.gathers = gathers(schedule, engine)
        arguments = {
            "num_embeddings": num_embeddings,
            "features": features,
            "dtype": dtype,
            "param_dtype": param_dtype,
            "promote_dtype": promote_dtype,
        }
        super().__init__(
            arguments,
            bias_init=nnx.initializers.zeros,
            bias_metadata={},
            rngs=rngs,
            topology=topology,
            differentiation=differentiation,
            engine=engine,
            std=std,
            schedule="materialise",
            memory_limit=None,
        )

    @property
    def embedding(self) -> jax.Array:
        """The generated table, computed anew on every access; differentiable with respect to the cores."""
        return weight(self.generator, self._arrays, self.differentiation, self.engine)

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """Return the rows with these indices, of shape (*inputs.shape, features)."""
        output: jax.Array
        if not self.gathers or out_sharding is not None or not jnp.issubdtype(inputs.dtype, jnp.integer):
            output = self.to_dense()(inputs, out_sharding=out_sharding)  # a wrong number type is NNX's to refuse
            return output
        count = self.num_embeddings
        rows = gathered(self.generator, self._arrays, wrapped(inputs, count))
        if count > 1:
            there = (inputs >= -count) & (inputs < count)
            rows = jnp.where(there[..., None], rows, jnp.nan)
        (output,) = self.promote_dtype((rows,), dtype=self.dtype or self.param_dtype, inexact=False)
        return output

    def attend(self, query: jax.Array, out_sharding: Any = None) -> jax.Array:
        """Return the products of vectors, of shape (..., features), with all rows: (..., num_embeddings)."""
        output: jax.Array = self.to_dense().attend(query, out_sharding=out_sharding)
        return output

    def to_dense(self) -> Any:
        """Return the layer of `flax.nnx` with this table."""
        return self._dense(self.embedding)

    def _weight_shape(self, dense: Any) -> tuple[int, ...]:
        shape: tuple[int, ...] = dense.embedding.shape
        return shape

    def _built(self, kernel_init: Callable[..., Any], bias_init: Callable[..., Any], **changed: Any) -> nnx.Module:
        arguments = {name: getattr(self, name) for name in self.dense_arguments} | changed
        return nnx.Embed(**arguments, embedding_init=kernel_init, rngs=nnx.Rngs(0))
