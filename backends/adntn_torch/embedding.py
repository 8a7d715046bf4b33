"""An embedding whose table is generated: the rows of the tokens at hand are made, and no others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NoReturn, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from adntn import Generator
from adntn.backends import Differentiation
from adntn.gathering import gathered, gathered_vjp
from adntn.machine import machine_of
from adntn.network import SCALE
from adntn.program.gather import is_worth_it
from adntn.program.schedule import checked_schedule, rounded
from adntn.tiling import Plan
from adntn.topologies.layers import DEFAULT_TOPOLOGY, TopologyOptions, check_no_topology
from adntn_torch.differentiate import first_derivatives, without_autocast
from adntn_torch.gather_op import gather_rows, registered
from adntn_torch.generated import GeneratedLayer
from adntn_torch.layers import Device
from adntn_torch.schedules import is_traced

#: How rows come to be: looked up one by one, or from the whole table.
LookupName = Literal["auto", "gather", "materialise"]


class Embedding(GeneratedLayer):
    """`torch.nn.Embedding` with a generated table: looking up a few tokens makes their rows, and no others.

    >>> import adntn
    >>> layer = Embedding(30522, 384, topology=adntn.TTN.options(bond=4), seed=0)
    >>> layer(torch.tensor([[101, 7592], [2088, 102]])).shape
    torch.Size([2, 2, 384])

    Input: integers of any shape (...); output (..., embedding_dim). Weight (num_embeddings, embedding_dim). The row
    `padding_idx` is zero and gives no gradient. Not there: `max_norm`, which changes the stored table with every
    lookup, and `sparse` and `scale_grad_by_freq`, which concern the gradient of a stored row.

    Args:
        num_embeddings, embedding_dim, padding_idx, device, dtype: as in `torch.nn.Embedding`.
        topology, differentiation, engine, seed: as in `adntn_torch.Linear`; an engine makes the whole table.
        schedule: "gather" makes the rows of the tokens, "materialise" the whole table; "auto" what is predicted to be
            faster.
        memory_limit: bytes; a larger table (with its gradient) is then not made by "auto".
        std: the start's standard deviation; None takes that of `torch.nn`, 1.

    Raises:
        TypeError, ValueError, RuntimeError, AssertionError: from torch or the topology, for what they do not accept.
    """

    dense_kind = nn.Embedding
    dense_arguments = ("num_embeddings", "embedding_dim", "padding_idx")
    has_bias: ClassVar[bool] = False

    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        topology: TopologyOptions = DEFAULT_TOPOLOGY,
        differentiation: Differentiation | None = None,
        engine: str | None = None,
        schedule: LookupName = "auto",
        memory_limit: int | None = None,
        seed: int | None = None,
        std: float | None = None,
    ) -> None:
        check_no_topology(padding_idx=padding_idx)
        dense = nn.Embedding(num_embeddings, embedding_dim, padding_idx, device="meta", dtype=dtype)
        given: Any = schedule
        super().__init__(
            dense,
            device=device,
            topology=topology,
            differentiation=differentiation,
            engine=engine,
            schedule=given,
            memory_limit=memory_limit,
            seed=seed,
            std=std,
        )
        self._key = registered(self.generator)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make an unpickled layer known in this process too."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._key = registered(self.generator)

    def forward(self, indices: Tensor) -> Tensor:
        """Return the rows of the table, of shape (*indices.shape, embedding_dim)."""
        if not self._gathers(indices):
            return functional.embedding(indices, self.weight, self.padding_idx)
        cores = self._cores_here()
        self._check(indices)
        if torch.compiler.is_compiling():
            rows: Tensor = gather_rows(indices, list(cores.values()), self._key)
        else:
            with without_autocast(cores[SCALE]):
                rows = _looked_up(self.generator, self.differentiation, cores, indices)
        if self.padding_idx is None:
            return rows
        return rows.masked_fill((indices == self.padding_idx)[..., None], 0)

    def _gathers(self, indices: Tensor) -> bool:
        """Return whether the rows of these tokens are made for themselves."""
        schedule, scale = str(self.schedule), self.cores[SCALE]
        if self.frozen_weight is not None or self.engine is not None or schedule == "materialise":
            return False
        # what is faster cannot be asked while torch compiles; what holds less is known
        if schedule == "gather" or torch.compiler.is_compiling():
            return True
        table = math.prod(self.generator.shape) * scale.element_size() * (2 if torch.is_grad_enabled() else 1)
        if self.memory_limit is not None and table > self.memory_limit:
            return True
        if scale.is_meta:
            return False
        network, paths = self.generator.network, self.generator.paths
        return is_worth_it(network, rounded(indices.numel()), paths, machine_of(scale), scale.element_size())

    def _check(self, indices: Tensor) -> None:
        """Raise what torch raises for indices that are no rows; on a GPU, as torch, when the work is done."""
        if indices.dtype not in {torch.int32, torch.int64}:
            raise RuntimeError(f"indices must be int32 or int64, as torch.nn.Embedding has them, got {indices.dtype}")
        if indices.is_meta or not indices.numel() or torch._C._are_functorch_transforms_active():
            return
        there = ((indices >= 0) & (indices < self.num_embeddings)).all()
        if torch.compiler.is_compiling() or indices.is_cuda:
            torch._assert_async(there)
        elif not there:
            raise IndexError(f"indices must be from 0 to {self.num_embeddings - 1}, the last row of the table")

    def _generated(self, plan: Plan | None = None) -> Tensor:
        table = super()._generated(plan)
        if self.padding_idx is None:
            return table
        return table.index_fill(0, torch.tensor([self.padding_idx], device=table.device), 0)

    def _usual_deviation(self) -> float:
        return 1.0

    @staticmethod
    def _named_schedule(schedule: Any, memory_limit: int | None) -> Any:
        checked_schedule("auto", memory_limit)
        if schedule not in get_args(LookupName):
            raise ValueError(f"schedule must be one of {', '.join(get_args(LookupName))}, got {schedule!r}")
        return schedule

    def _check_schedule(self) -> None:
        if str(self.schedule) == "gather" and self.engine is not None:
            raise ValueError(f'schedule must be "auto" or "materialise" with engine={self.engine!r}, got "gather"')

    def choice(self, rows: int, training: bool = True) -> NoReturn:
        """Not for embeddings: they have two schedules of their own.

        Raises:
            TypeError: always.
        """
        raise TypeError("an Embedding has no forecast of schedules: it gathers rows, or makes the whole table")


def _looked_up(
    generator: Generator, differentiation: Differentiation, cores: dict[str, Tensor], indices: Tensor
) -> Tensor:
    """Return the rows, differentiable along the path of that name."""
    learned = torch.is_grad_enabled() and any(core.requires_grad for core in cores.values())
    if differentiation == "native" or not learned or is_traced():  # torch.func differentiates and maps by itself
        made: Tensor = gathered(generator, cores, indices)
        return made
    arrays = (cores[name] for name in generator.core_shapes)
    rows: Tensor = _Gathered.apply(generator, indices, *arrays)  # type: ignore[no-untyped-call]
    return rows


class _Gathered(torch.autograd.Function):
    """(generator, indices, *cores) -> rows; keeps the cores alone, and makes the rest again. First derivatives only."""

    @staticmethod
    def forward(generator: Generator, indices: Tensor, *cores: Tensor) -> Tensor:
        given = dict(zip(generator.core_shapes, cores, strict=True))
        rows: Tensor = gathered(generator, given, indices).clone()  # no view, which nobody could write to
        return rows

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.generator, indices, *cores = inputs
        ctx.save_for_backward(indices, *cores)

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, saved: Sequence[Tensor], rows_bar: Tensor) -> tuple[Any, ...]:
        indices, *cores = saved
        given = dict(zip(ctx.generator.core_shapes, cores, strict=True))
        with without_autocast(rows_bar):
            _, pull_back = gathered_vjp(ctx.generator, given, indices)
            gradients = pull_back(rows_bar)
        return None, None, *(gradients[name] for name in given)
