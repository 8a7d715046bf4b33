"""Equinox attention with generated projections."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax

from adntn.backends import Differentiation
from adntn.program.task import ScheduleName
from adntn.topologies.layers import DEFAULT_TOPOLOGY, TopologyOptions
from adntn_jax.engines import JAX
from adntn_jax.equinox.layers import Linear


class MultiheadAttention(eqx.nn.MultiheadAttention):
    """`equinox.nn.MultiheadAttention` with generated projections, each a `Linear`.

    >>> attention = MultiheadAttention(4, 64, key=jax.random.key(0))
    >>> x = jax.numpy.ones((10, 64))
    >>> attention(x, x, x).shape
    (10, 64)

    Args:
        num_heads ... dtype, key: as in `equinox.nn.MultiheadAttention`.
        topology, differentiation, engine, schedule, memory_limit: as in `Linear`, for each of the four projections.

    Raises:
        TypeError, ValueError: from Equinox, the topology or the options, for what they do not accept.
    """

    def __init__(  # noqa: PLR0917 (Equinox's signature)
        self,
        num_heads: int,
        query_size: int,
        key_size: int | None = None,
        value_size: int | None = None,
        output_size: int | None = None,
        qk_size: int | None = None,
        vo_size: int | None = None,
        use_query_bias: bool = False,
        use_key_bias: bool = False,
        use_value_bias: bool = False,
        use_output_bias: bool = False,
        dropout_p: float = 0.0,
        inference: bool = False,
        dtype: Any = None,
        *,
        key: jax.Array,
        topology: TopologyOptions = DEFAULT_TOPOLOGY,
        differentiation: Differentiation | None = None,
        engine: str = JAX,
        schedule: ScheduleName = "auto",
        memory_limit: int | None = None,
    ) -> None:
        sizes = num_heads, query_size, key_size, value_size, output_size, qk_size, vo_size
        biases = use_query_bias, use_key_bias, use_value_bias, use_output_bias
        dense: Any = eqx.filter_eval_shape(
            lambda key: eqx.nn.MultiheadAttention(*sizes, *biases, dropout_p, inference, dtype, key=key), key
        )
        for field in dataclasses.fields(eqx.nn.MultiheadAttention):
            setattr(self, field.name, getattr(dense, field.name))
        names = ("query_proj", "key_proj", "value_proj", "output_proj")
        for name, own_key in zip(names, jax.random.split(key, 4), strict=True):
            like = getattr(dense, name)
            layer: Any = Linear(
                like.in_features,
                like.out_features,
                like.use_bias,
                dtype,
                key=own_key,
                topology=topology,
                differentiation=differentiation,
                engine=engine,
                schedule=schedule,
                memory_limit=memory_limit,
            )
            setattr(self, name, layer)

    def to_dense(self) -> eqx.nn.MultiheadAttention:
        """Return Equinox's attention with these weights and biases."""
        arguments = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(eqx.nn.MultiheadAttention)
            if field.name.endswith(("_size", "_bias")) or field.name == "num_heads"
        }
        dense = eqx.filter_eval_shape(lambda key: eqx.nn.MultiheadAttention(**arguments, key=key), jax.random.key(0))
        projections: tuple[Any, ...] = (self.query_proj, self.key_proj, self.value_proj, self.output_proj)

        def where(attention: eqx.nn.MultiheadAttention) -> tuple[Any, ...]:
            names = attention.query_proj, attention.key_proj, attention.value_proj, attention.output_proj
            return (*names, attention.dropout)

        made: eqx.nn.MultiheadAttention = eqx.tree_at(
            where, dense, (*(projection.to_dense() for projection in projections), self.dropout)
        )
        return made
