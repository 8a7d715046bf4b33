"""Linear and convolution layers with generated weights; signatures as in `torch.nn`, then keywords of our own.

The dense layer is built once without data: torch itself checks the arguments, so that its errors are ours. No class
here is a subclass of the dense one: there `weight` is a parameter, which code may assign; here it is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from adntn.arrays import dtype_name
from adntn.backends import Differentiation
from adntn.materialising import can_be_kept
from adntn.program.task import ScheduleName
from adntn.tiling import Plan, tiling
from adntn.topologies.layers import DEFAULT_TOPOLOGY, TopologyOptions, check_no_topology
from adntn_torch.generated import GeneratedLayer
from adntn_torch.schedules import (
    contracted_linear,
    materialised_linear,
    multiplied_in,
    streamed_convolution,
    streamed_linear,
)

Device = torch.device | str | int | None
Sizes = int | tuple[int, ...]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


class Linear(GeneratedLayer):
    """`torch.nn.Linear` with a generated weight.

    >>> import adntn
    >>> layer = Linear(256, 64, topology=adntn.MERA.options(bond=2), seed=0)
    >>> layer(torch.zeros(3, 256)).shape
    torch.Size([3, 64])

    Input (..., in_features), output (..., out_features), weight (out_features, in_features).

    Args:
        in_features, out_features, bias, device, dtype: as in `torch.nn.Linear`.
        topology: how the weight is generated, such as `adntn.TTN.options(bond=4)`.
        differentiation: "adjoint", the library's (first derivatives), which None takes too; or "native", torch's
            automatic differentiation of the weight as a whole.
        engine: the array library that computes the weight and its adjoint, "jax", "cupy" or "numpy" ...; None or
            "torch" for torch itself. The cores stay parameters of torch, and share memory with the engine's arrays.
        schedule: how the weight meets x: "materialise", "recompute", "stream", "contract" (see
            `adntn.program.schedule`), or "auto", the fastest that is predicted for each number of rows. Under
            torch.compile and torch.func the weight is always materialised.
        memory_limit: bytes that may be held beyond cores, x, y and their gradients, or an error says how many it takes;
            None allows what a dense layer takes: the weight and its gradient.
        seed: of the cores; None draws one from torch's generator.
        std: the start's standard deviation; None takes that of `torch.nn`, 1 / sqrt(3 fan in).

    Raises:
        TypeError, ValueError, RuntimeError: from torch or the topology, for what they do not accept.
        ImportError: if the engine is not installed, or does not work here.
    """

    dense_kind = nn.Linear
    dense_arguments = ("in_features", "out_features")

    in_features: int
    out_features: int

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
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
        check_no_topology(bias=bias)
        dense = nn.Linear(in_features, out_features, bias, device="meta", dtype=dtype)
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

    def forward(self, x: Tensor) -> Tensor:
        """Return x @ weight.T + bias, of shape (..., out_features), for x of shape (..., in_features)."""
        if self.frozen_weight is not None:
            return functional.linear(x, *self._weight_and_bias())
        choice = self._scheduled(x, math.prod(x.shape[:-1]))
        plan = None if choice is None else choice.taken.plan
        if choice is None or choice.taken.schedule == "materialise":
            y = self._with_kept_weight(x, plan)
            return functional.linear(x, *self._weight_and_bias(plan)) if y is None else y
        if choice.taken.schedule == "recompute":
            return self._recomputed(functional.linear, x, choice.taken.plan)
        generator, cores = self._generator_here, self._cores_here()
        if choice.taken.schedule == "contract":
            return contracted_linear(generator, cores, x, self._bias_here)
        return streamed_linear(generator, choice.taken, cores, x, self._bias_here)

    def _with_kept_weight(self, x: Tensor, plan: Plan | None) -> Tensor | None:
        """Return the output where the weight is made in tiles and kept for the backward pass; else None."""
        tiles = self._tiles(plan)
        if tiles is None or not (self._learns() and self._keeps() and multiplied_in(x) == x.dtype):
            return None
        return materialised_linear(self._generator_here, tiles, self._cores_here(), x, self._bias_here)

    def _keeps(self) -> bool:
        scale = self.cores["scale"]
        return can_be_kept(self.generator.network, dtype_name(scale)) and multiplied_in(scale) == scale.dtype


class _Convolution(GeneratedLayer):
    """What convolutions over one, two and three axes share."""

    dense_arguments = (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
    )
    convolve: ClassVar[Callable[..., Tensor]]

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str

    def __init__(  # noqa: PLR0917 (torch's signature)
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: str | Sizes = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
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
        check_no_topology(stride=stride, padding=padding, dilation=dilation, groups=groups, bias=bias)
        dense: Any = self.dense_kind(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
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
        self._border: list[int] = list(dense._reversed_padding_repeated_twice)

    @property
    def streams(self) -> bool:
        """Whether output channels can be computed for themselves: with groups each also has its own inputs."""
        return self.groups == 1

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution, of shape (N, out_channels, ...), for x of shape (N, in_channels, ...); N may lack."""
        padding: str | Sizes = self.padding
        if self.padding_mode != "zeros":
            x, padding = functional.pad(x, self._border, mode=self.padding_mode), 0
        choice = self._scheduled(x, x.numel() // self.in_channels)
        settings = self.stride, padding, self.dilation, self.groups
        if choice is None or choice.taken.schedule == "materialise":
            plan = None if choice is None else choice.taken.plan
            return self.convolve(x, *self._weight_and_bias(plan), *settings)
        if choice.taken.schedule == "recompute":
            return self._recomputed(lambda *given: self.convolve(*given, *settings), x, choice.taken.plan)
        tiles = tiling(self.generator.network, self.generator.paths, choice.taken.plan)
        examples = x[None] if x.dim() == len(self.kernel_size) + 1 else x
        y = streamed_convolution(
            self.generator,
            tiles,
            self._cores_here(),
            examples,
            self.bias,
            convolve=lambda x, w: self.convolve(x, w, None, *settings),
        )
        return y if examples is x else y[0]


class Conv1d(_Convolution):
    """`torch.nn.Conv1d` with a generated weight of shape (out_channels, in_channels / groups, width).

    >>> Conv1d(16, 32, 5, padding="same", seed=0)(torch.zeros(1, 16, 100)).shape
    torch.Size([1, 32, 100])

    Arguments are those of `torch.nn.Conv1d`, then those of `adntn_torch.Linear` after `dtype`.
    """

    dense_kind = nn.Conv1d
    convolve = staticmethod(functional.conv1d)


class Conv2d(_Convolution):
    """`torch.nn.Conv2d` with a generated weight of shape (out_channels, in_channels / groups, height, width).

    >>> Conv2d(16, 32, 3, stride=2, padding=1, groups=2, seed=0)(torch.zeros(1, 16, 8, 8)).shape
    torch.Size([1, 32, 4, 4])

    Arguments are those of `torch.nn.Conv2d`, then those of `adntn_torch.Linear` after `dtype`.
    """

    dense_kind = nn.Conv2d
    convolve = staticmethod(functional.conv2d)


class Conv3d(_Convolution):
    """`torch.nn.Conv3d` with a generated weight of shape (out_channels, in_channels / groups, depth, height, width).

    >>> Conv3d(4, 8, (1, 3, 3), padding=(0, 1, 1), seed=0)(torch.zeros(1, 4, 2, 8, 8)).shape
    torch.Size([1, 8, 2, 8, 8])

    Arguments are those of `torch.nn.Conv3d`, then those of `adntn_torch.Linear` after `dtype`.
    """

    dense_kind = nn.Conv3d
    convolve = staticmethod(functional.conv3d)
