"""Equinox transposed convolutions with generated weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax

from adntn.backends import Differentiation
from adntn.program.task import ScheduleName
from adntn.topologies.layers import DEFAULT_TOPOLOGY, TopologyOptions
from adntn_jax.engines import JAX
from adntn_jax.equinox.layers import GeneratedLayer, Padding, Sizes


class _TransposedConvolution(GeneratedLayer):
    """What transposed convolutions over one, two and three axes share."""

    dense_arguments = (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "output_padding",
        "dilation",
        "groups",
        "use_bias",
        "padding_mode",
    )

    in_channels: int = eqx.field(static=True)
    out_channels: int = eqx.field(static=True)
    kernel_size: tuple[int, ...] = eqx.field(static=True)
    stride: tuple[int, ...] = eqx.field(static=True)
    padding: str | tuple[tuple[int, int], ...] = eqx.field(static=True)
    output_padding: tuple[int, ...] = eqx.field(static=True)
    dilation: tuple[int, ...] = eqx.field(static=True)
    groups: int = eqx.field(static=True)
    use_bias: bool = eqx.field(static=True)
    padding_mode: str = eqx.field(static=True)

    def __init__(  # noqa: PLR0917 (Equinox's signature)
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        output_padding: int | Sequence[int] = 0,
        padding: Padding = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        use_bias: bool = True,
        padding_mode: str = "ZEROS",
        dtype: Any = None,
        *,
        key: jax.Array,
        topology: TopologyOptions = DEFAULT_TOPOLOGY,
        differentiation: Differentiation | None = None,
        engine: str = JAX,
        std: float | None = None,
        schedule: ScheduleName = "auto",
        memory_limit: int | None = None,
    ) -> None:
        arguments = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "output_padding": output_padding,
            "dilation": dilation,
            "groups": groups,
            "use_bias": use_bias,
            "padding_mode": padding_mode,
        }
        super().__init__(
            arguments,
            dtype=dtype,
            key=key,
            topology=topology,
            differentiation=differentiation,
            engine=engine,
            std=std,
            schedule=schedule,
            memory_limit=memory_limit,
        )


class ConvTranspose1d(_TransposedConvolution):
    """`equinox.nn.ConvTranspose1d` with a generated weight of shape (out_channels, in_channels / groups, width).

    >>> ConvTranspose1d(16, 32, 4, stride=2, padding=1, key=jax.random.key(0))(jax.numpy.zeros((16, 10))).shape
    (32, 20)

    Arguments are those of `equinox.nn.ConvTranspose1d`, then those of `Linear` after `key`.
    """

    dense_kind = eqx.nn.ConvTranspose1d


class ConvTranspose2d(_TransposedConvolution):
    """`equinox.nn.ConvTranspose2d` with a generated weight of shape (out_channels, in_channels / groups, h, w).

    >>> ConvTranspose2d(16, 32, 2, stride=2, key=jax.random.key(0))(jax.numpy.zeros((16, 4, 4))).shape
    (32, 8, 8)

    Arguments are those of `equinox.nn.ConvTranspose2d`, then those of `Linear` after `key`.
    """

    dense_kind = eqx.nn.ConvTranspose2d


class ConvTranspose3d(_TransposedConvolution):
    """`equinox.nn.ConvTranspose3d` with a generated weight of shape (out_channels, in_channels / groups, d, h, w).

    >>> ConvTranspose3d(4, 8, 2, stride=2, key=jax.random.key(0))(jax.numpy.zeros((4, 2, 3, 3))).shape
    (8, 4, 6, 6)

    Arguments are those of `equinox.nn.ConvTranspose3d`, then those of `Linear` after `key`.
    """

    dense_kind = eqx.nn.ConvTranspose3d
