"""Many linear layers of one shape as one: the experts of a mixture, the heads or the q, k, v of attention."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from adntn import Generator
from adntn.backends import Differentiation
from adntn.topologies.layers import DEFAULT_TOPOLOGY, TopologyOptions, check_no_topology
from adntn_torch.generated import GeneratedLayer
from adntn_torch.layers import Device


class DenseBatchedLinear(nn.Module):
    """The dense layer that `BatchedLinear` stands for: weight (count, out, in), bias (count, out).

    >>> DenseBatchedLinear(4, 16, 8)(torch.zeros(4, 10, 16)).shape
    torch.Size([4, 10, 8])

    Args:
        count: how many linear layers.
        in_features, out_features, bias, device, dtype: of each, as in `torch.nn.Linear`.

    Raises:
        ValueError: if a size is no positive integer.
    """

    bias: Tensor | None

    def __init__(  # noqa: PLR0917 (as in torch.nn.Linear)
        self,
        count: int,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("count", count), ("in_features", in_features), ("out_features", out_features)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be a positive integer, got {size!r}")
        self.count, self.in_features, self.out_features = count, in_features, out_features
        self.weight = nn.Parameter(torch.empty(count, out_features, in_features, device=device, dtype=dtype))
        made = nn.Parameter(torch.empty(count, out_features, device=device, dtype=dtype)) if bias else None
        self.register_parameter("bias", made)
        bound = 1.0 / math.sqrt(in_features)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Return each layer's output, of shape (count, ..., out), for x of shape (count, ..., in)."""
        return batched_linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return what stands between the parentheses when the layer is printed."""
        sizes = f"count={self.count}, in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}, bias={self.bias is not None}"


def batched_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x[g] @ weight[g].T + bias[g] for each g.

    Args:
        x: shape (count, ..., in).
        weight: shape (count, out, in).
        bias: shape (count, out).

    Raises:
        RuntimeError: if x does not fit the weight.
    """
    count, outputs, inputs = weight.shape
    if x.dim() < 2 or x.shape[0] != count or x.shape[-1] != inputs:
        raise RuntimeError(f"x must have the shape ({count}, ..., {inputs}), got {tuple(x.shape)}")
    rows, turned = x.reshape(count, -1, inputs), weight.transpose(1, 2)
    y = torch.bmm(rows, turned) if bias is None else torch.baddbmm(bias[:, None], rows, turned)
    return y.reshape(*x.shape[:-1], outputs)


class BatchedLinear(GeneratedLayer):
    """Many linear layers whose weights one generator makes, with a batch axis on each core.

    >>> import adntn
    >>> experts = BatchedLinear(8, 256, 64, topology=adntn.TTN.options(bond=2), seed=0)
    >>> experts(torch.zeros(8, 10, 256)).shape, experts.weight.shape
    (torch.Size([8, 10, 64]), torch.Size([8, 64, 256]))

    Input (count, ..., in_features), output (count, ..., out_features), weight (count, out_features, in_features).

    Args:
        count: how many: each has cores of its own, all of one topology.
        in_features, out_features, bias, device, dtype: of each, as in `torch.nn.Linear`.
        topology: how one of the weights is generated: options without `batch`.
        differentiation, engine, seed, std: as in `adntn_torch.Linear`.

    Raises:
        TypeError, ValueError, RuntimeError: from the topology, for what it does not accept.
    """

    dense_kind = DenseBatchedLinear
    dense_arguments = ("count", "in_features", "out_features")

    count: int
    in_features: int
    out_features: int

    def __init__(  # noqa: PLR0917 (as in torch.nn.Linear)
        self,
        count: int,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        topology: TopologyOptions = DEFAULT_TOPOLOGY,
        differentiation: Differentiation | None = None,
        engine: str | None = None,
        schedule: str = "auto",
        memory_limit: int | None = None,
        seed: int | None = None,
        std: float | None = None,
    ) -> None:
        check_no_topology(bias=bias)
        if schedule not in {"auto", "materialise"} or memory_limit is not None:
            raise ValueError(
                'schedule must be "auto" or "materialise" and memory_limit None for a BatchedLinear, which makes its'
                f" weights in one piece; got {schedule!r} and {memory_limit!r}"
            )
        super().__init__(
            DenseBatchedLinear(count, in_features, out_features, bias, device="meta", dtype=dtype),
            device=device,
            topology=topology,
            differentiation=differentiation,
            engine=engine,
            schedule="materialise",
            memory_limit=None,
            seed=seed,
            std=std,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return each layer's output, of shape (count, ..., out_features), for x of shape (count, ..., in_features)."""
        return batched_linear(x, *self._weight_and_bias())

    def _generator(self, topology: TopologyOptions, shape: tuple[int, ...]) -> Generator:
        """Return the generator of one weight, with a batch axis."""
        count, *one = shape
        single = super()._generator(topology, tuple(one))
        return replace(single, network=replace(single.network, batch=count))
