"""A Flax NNX transposed convolution with a generated kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes

from adntn.backends import Differentiation
from adntn.program.task import ScheduleName
from adntn.topologies.layers import DEFAULT_TOPOLOGY, TopologyOptions
from adntn_jax.engines import JAX
from adntn_jax.nnx.layers import NO_METADATA, GeneratedLayer


class ConvTranspose(GeneratedLayer):
    """`flax.nnx.ConvTranspose` with a generated kernel of shape (*kernel_size, in_features, out_features).

    >>> layer = ConvTranspose(16, 32, (2, 2), strides=(2, 2), rngs=nnx.Rngs(0))
    >>> layer(jnp.zeros((1, 8, 8, 16))).shape
    (1, 16, 16, 32)

    Arguments are those of `flax.nnx.ConvTranspose` without `kernel_init` and `kernel_metadata`, then those of
    `adntn_jax.nnx.Linear` after `bias_metadata`; the kernel is materialised or recomputed, not streamed.
    """

    dense_kind = nnx.ConvTranspose

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] | None = None,
        *,
        padding: Any = "SAME",
        kernel_dilation: int | Sequence[int] | None = None,
        use_bias: bool = True,
        mask: jax.Array | None = None,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: Any = None,
        bias_init: Callable[..., jax.Array] = nnx.initializers.zeros_init(),  # noqa: B008 (NNX's default)
        transpose_kernel: bool = False,
        promote_dtype: Callable[..., Any] = dtypes.promote_dtype,
        preferred_element_type: Any = None,
        rngs: nnx.Rngs,
        bias_metadata: Mapping[str, Any] = NO_METADATA,
        topology: TopologyOptions = DEFAULT_TOPOLOGY,
        differentiation: Differentiation | None = None,
        engine: str = JAX,
        std: float | None = None,
        schedule: ScheduleName = "auto",
        memory_limit: int | None = None,
    ) -> None:
        arguments = {
            "in_features": in_features,
            "out_features": out_features,
            "kernel_size": kernel_size,
            "strides": strides,
            "padding": padding,
            "kernel_dilation": kernel_dilation,
            "use_bias": use_bias,
            "mask": mask,
            "dtype": dtype,
            "param_dtype": param_dtype,
            "precision": precision,
            "transpose_kernel": transpose_kernel,
            "promote_dtype": promote_dtype,
            "preferred_element_type": preferred_element_type,
        }
        super().__init__(
            arguments,
            bias_init=bias_init,
            bias_metadata=bias_metadata,
            rngs=rngs,
            topology=topology,
            differentiation=differentiation,
            engine=engine,
            std=std,
            schedule=schedule,
            memory_limit=memory_limit,
        )

    def _output(self, dense: Any, inputs: jax.Array, out_sharding: Any) -> jax.Array:
        output: jax.Array = dense(inputs)
        return output

    @property
    def _has_independent_rows(self) -> bool:
        return False  # with a transposed kernel they are inputs
