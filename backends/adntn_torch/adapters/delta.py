"""What an adapter adds to one weight: a generated layer without a bias, zero at the start, times a fixed number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from adntn.arrays import SHORT_DTYPES, dtype_name
from adntn.files.values import LARGEST_FLOAT, shown
from adntn.initialise import core_at_zero
from adntn.network import SCALE
from adntn.program.task import ScheduleName
from adntn.topologies.layers import TopologyOptions
from adntn_torch.embedding import Embedding
from adntn_torch.generated import UNLIMITED, GeneratedLayer
from adntn_torch.layers import Linear


class Delta(nn.Module):
    """A generated layer times a number; what it makes of x is added to what a layer makes of x.

    Its parameters are the cores that are trained. The generator's own scale is one of them only where it is what
    makes the start zero (see `adntn.initialise.core_at_zero`); otherwise it would be a second name for a factor of
    another core, and stays fixed, as LoRA's alpha / r does.

    Attributes:
        layer: makes the delta by any schedule, so that its weight need not exist.
        scaling: the number.
        dropout: share of x that is set to zero in training mode.
    """

    def __init__(self, layer: GeneratedLayer, scaling: float = 1.0, dropout: float = 0.0) -> None:
        super().__init__()
        self.layer, self.scaling, self.dropout = layer, checked_scaling(scaling), checked_dropout(dropout)
        self.zero = core_at_zero(layer.generator.network)
        if self.zero != SCALE:
            _fix(layer.cores, SCALE)

    @torch.no_grad()
    def start(self) -> None:
        """Set to zero the core that makes the delta zero and yet learns."""
        self.layer.cores[self.zero].zero_()

    @property
    def weight(self) -> Tensor:
        """The delta itself: what is added to the weight."""
        return self.scaling * self.layer.weight

    @property
    def trained(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters())

    def load_cores(self, cores: Mapping[str, Any]) -> None:
        """Copy all cores, the scale included; see `GeneratedLayer.load_cores`."""
        self.layer.load_cores(cores)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the delta makes of x, the layer's input, in the number type of the cores."""
        if x.is_floating_point():
            x = functional.dropout(x.to(self.layer.cores[SCALE].dtype), self.dropout, self.training)
        y: Tensor = self.scaling * self.layer(x)
        return y

    def extra_repr(self) -> str:
        """Return what stands between the parentheses when the delta is printed."""
        return f"scaling={self.scaling}" + (f", dropout={self.dropout}" if self.dropout else "")


def delta_of(
    dense: nn.Module,
    weight: Tensor,
    kind: type[GeneratedLayer] | None,
    shape: tuple[int, ...],
    topology: TopologyOptions,
    *,
    scaling: float = 1.0,
    dropout: float = 0.0,
    schedule: ScheduleName = "auto",
    memory_limit: int | None = None,
    seed: int | None = 0,
    std: float | None = None,
) -> Delta:
    """Return a delta for a weight, zero at the start.

    Args:
        dense: the layer that owns the weight; `kind` takes its arguments.
        weight: what the delta is added to; 16-bit weights get cores in float32, because steps of training are small.
        kind: the generated layer that takes the layer's input; None for a linear one of that shape.
        shape: of the delta.
        topology: how it is generated.
        scaling, dropout: see `Delta`.
        schedule, memory_limit: as for `adntn_torch.Linear`, but "auto" without a limit takes the fastest.
        seed: of the cores.
        std: the deviation that the delta would have if no core were zero; None takes that of a new layer of torch.nn.

    Raises:
        TypeError, ValueError: if an argument is wrong, or the topology cannot make the weight's shape.
    """
    # What a dense layer holds, the usual limit, is small beside x, and would keep x from going straight into the cores.
    limit = UNLIMITED if memory_limit is None and schedule == "auto" else memory_limit
    usual = 1.0 / math.sqrt(3 * math.prod(shape[1:]))
    settings: dict[str, Any] = {
        "topology": topology,
        "schedule": schedule,
        "memory_limit": limit,
        "seed": seed,
        "std": usual if std is None else std,
    }
    layer: GeneratedLayer
    if kind is None:
        rows, columns = shape
        layer = Linear(columns, rows, bias=False, device=weight.device, dtype=weight.dtype, **settings)
    else:
        layer = kind.from_dense(dense, **settings)
        layer.bias = None
        if isinstance(layer, Embedding):
            layer.padding_idx = None  # the row is one as any other, in LoRA too; what stands in it is masked elsewhere
    if dtype_name(weight) in SHORT_DTYPES:
        layer.float().reset_parameters(seed)
    delta = Delta(layer, scaling, dropout)
    if not weight.is_meta:
        delta.start()
    return delta


def checked_scaling(scaling: float) -> float:
    """Return a number by which a delta is multiplied.

    Raises:
        TypeError, ValueError: if it is no finite number.
    """
    if isinstance(scaling, bool) or not isinstance(scaling, int | float):
        raise TypeError(f"scaling must be a number, got {scaling!r}")
    if not -LARGEST_FLOAT <= scaling <= LARGEST_FLOAT:
        raise ValueError(f"scaling must be finite, got {shown(scaling)}")
    return float(scaling)


def checked_dropout(dropout: float) -> float:
    """Return a share of x.

    Raises:
        TypeError, ValueError: if it is no number from 0 to below 1.
    """
    if isinstance(dropout, bool) or not isinstance(dropout, int | float):
        raise TypeError(f"dropout must be a number, got {dropout!r}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, got {dropout!r}")
    return float(dropout)


def _fix(cores: nn.ParameterDict, name: str) -> None:
    """Make a core a buffer, under the same name: it is saved and moved as ever, and nobody trains it by mistake."""
    value = cores[name].detach()
    delattr(cores, name)
    cores.register_buffer(name, value)
