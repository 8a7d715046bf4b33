"""Transposed convolutions with generated weights; signatures as in `torch.nn`, then keywords of our own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from adntn.backends import Differentiation
from adntn.program.task import ScheduleName
from adntn.topologies.layers import DEFAULT_TOPOLOGY, TopologyOptions, check_no_topology
from adntn_torch.generated import GeneratedLayer
from adntn_torch.layers import Device, PaddingMode, Sizes


class _TransposedConvolution(GeneratedLayer):
    """What transposed convolutions over one, two and three axes share."""

    dense_arguments = (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "output_padding",
        "groups",
        "dilation",
        "padding_mode",
    )
    not_streamed = "a transposed convolution"
    convolve: ClassVar[Callable[..., Tensor]]

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int
    dilation: tuple[int, ...]
    padding_mode: str

    def __init__(  # noqa: PLR0917 (torch's signature)
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Sizes = 1,
        padding_mode: PaddingMode = "zeros",
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        topology: TopologyOptions = DEFAULT_TOPOLOGY,
        differentiation: Differentiation | None = None,
        engine: str | None = None,
        schedule: ScheduleName = "auto",
        memory_limit: int | None = None,
        seed: int | None = None,
        std: float | None = None,
    ) -> None:
        check_no_topology(stride=stride, padding=padding, output_padding=output_padding, groups=groups, bias=bias)
        build: Any = self.dense_kind
        dense = build(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            groups,
            bias,
            dilation,
            padding_mode,
            device="meta",
            dtype=dtype,
        )
        super().__init__(
            dense,
            device=device,
            topology=topology,
            differentiation=differentiation,
            engine=engine,
            schedule=schedule,
            memory_limit=memory_limit,
            seed=seed,
            std=std,
        )

    @property
    def streams(self) -> bool:
        """Rows of the weight are input channels, all of which every output needs."""
        return False

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Return the transposed convolution, of shape (N, out_channels, ...), for x of shape (N, in_channels, ...).

        Args:
            x: the input; N may lack.
            output_size: of the output, where the stride leaves a choice: its last axes, or all.
        """
        kind: Any = self.dense_kind
        extra = kind._output_padding(
            self,
            x,
            output_size,
            self.stride,
            self.padding,
            self.kernel_size,
            len(self.kernel_size),
            self.dilation,
        )

        def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return self.convolve(x, weight, bias, self.stride, self.padding, extra, self.groups, self.dilation)

        choice = self._scheduled(x, x.numel() // self.in_channels)
        if choice is None:
            return product(x, *self._weight_and_bias())
        if choice.taken.schedule == "recompute":
            return self._recomputed(product, x, choice.taken.plan)
        return product(x, *self._weight_and_bias(choice.taken.plan))


class ConvTranspose1d(_TransposedConvolution):
    """`torch.nn.ConvTranspose1d` with a generated weight of shape (in_channels, out_channels / groups, width).

    >>> ConvTranspose1d(16, 32, 4, stride=2, padding=1, seed=0)(torch.zeros(1, 16, 10)).shape
    torch.Size([1, 32, 20])

    Arguments are those of `torch.nn.ConvTranspose1d`, then those of `adntn_torch.Linear` after `dtype`.
    """

    dense_kind = nn.ConvTranspose1d
    convolve = staticmethod(functional.conv_transpose1d)


class ConvTranspose2d(_TransposedConvolution):
    """`torch.nn.ConvTranspose2d` with a generated weight of shape (in_channels, out_channels / groups, height, width).

    >>> layer = ConvTranspose2d(16, 32, 3, stride=2, padding=1, seed=0)
    >>> layer(torch.zeros(1, 16, 5, 5), output_size=(10, 10)).shape
    torch.Size([1, 32, 10, 10])

    Arguments are those of `torch.nn.ConvTranspose2d`, then those of `adntn_torch.Linear` after `dtype`.
    """

    dense_kind = nn.ConvTranspose2d
    convolve = staticmethod(functional.conv_transpose2d)


class ConvTranspose3d(_TransposedConvolution):
    """`torch.nn.ConvTranspose3d` with a generated weight of shape (in_channels, out_channels / groups, d, h, w).

    >>> ConvTranspose3d(4, 8, 2, stride=2, seed=0)(torch.zeros(1, 4, 2, 3, 3)).shape
    torch.Size([1, 8, 4, 6, 6])

    Arguments are those of `torch.nn.ConvTranspose3d`, then those of `adntn_torch.Linear` after `dtype`.
    """

    dense_kind = nn.ConvTranspose3d
    convolve = staticmethod(functional.conv_transpose3d)
