"""Generated layers in many processes, by torch's own engines: cores are sent where dense layers send weights.

Under DistributedDataParallel a generated layer needs nothing: its parameters are its cores and its bias. FSDP2 refuses
parameters without axes, such as the scale, and would cut cores that are too small to be cut: `replicate_cores` keeps
them whole in every process. For tensor parallelism `ColwiseGenerated` and `RowwiseGenerated` stand in a plan where
`ColwiseParallel` and `RowwiseParallel` would for a dense layer: each process generates its own rows, or columns.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ParallelStyle

from adntn import Generator
from adntn.parts import Parts
from adntn_torch.adapters.adapted import Adapted
from adntn_torch.differentiate import prepare
from adntn_torch.generated import GeneratedLayer
from adntn_torch.layers import Linear

Layouts = tuple[Placement, ...]


def replicate_cores(model: nn.Module, mesh: DeviceMesh | None = None) -> set[nn.Parameter]:
    """Keep all cores of a model whole in every process, with gradients averaged over the processes, and return them.

    For FSDP2, which shards the rest of the model and is told to leave the cores alone:

        fully_shard(model, ignored_params=replicate_cores(model))

    Call it once, before the first `fully_shard`, and give what it returns to each. The cores become DTensors, as the
    other parameters do under FSDP2, so that optimisers and the clipping of gradients take them together; every process
    gets those of the first. A layer's backward pass sends its cores' gradients in one message.

    Args:
        model: with generated layers of any kind, on their device.
        mesh: the processes, in one dimension, as for `fully_shard`; all of them by default.

    Raises:
        ValueError: if the model has no generated layer, or an adapted one, whose weight FSDP2 cannot read; a layer is
            spread over processes already, or the mesh has more than one dimension.
        RuntimeError: if no process group has been initialised.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, GeneratedLayer)}
    if not layers:
        raise ValueError(f"model has no generated layer: {type(model).__name__}")
    for name, module in model.named_modules():
        if isinstance(module, Adapted):
            raise ValueError(
                f"layer {name!r} is adapted: FSDP2 reads weights, and its weight is a sum; DistributedDataParallel"
                " trains adapters, and costs their cores alone, too"
            )
    for name, layer in layers.items():
        if layer.spread is not None:
            raise ValueError(f"layer {name!r} is spread over processes already: {layer}")
    if not dist.is_initialized():
        raise RuntimeError(
            "no process group: start the program with torchrun and call torch.distributed.init_process_group() first"
        )
    if mesh is None:
        mesh = init_device_mesh(next(iter(layers.values())).cores["scale"].device.type, (dist.get_world_size(),))
    _check_mesh(mesh)
    cores: dict[nn.Parameter, None] = {}
    for layer in layers.values():
        for core, value in layer.cores.named_parameters():
            if not isinstance(value, DTensor):  # those of a tied layer are already
                placed = distribute_tensor(value.detach(), mesh, [Replicate()])
                layer.cores[core] = nn.Parameter(placed, requires_grad=value.requires_grad)
            cores[layer.cores[core]] = None
        layer.spread = _Spread(mesh, layer.generator, None)
    return set(cores)


class _GeneratedStyle(ParallelStyle):
    """What both styles share: how x comes in, what each process makes of it, and how y goes out."""

    #: Which dimension of the weight is divided.
    dimension: ClassVar[int]
    #: How the bias lies.
    bias: ClassVar[Placement]
    #: How x must lie, and how dL/dx then does, if not as x.
    needed: ClassVar[Placement]
    x_bar: ClassVar[Layouts | None] = None
    #: How x and y lie outside, unless the plan says something else.
    usual_input: ClassVar[Placement]
    usual_output: ClassVar[Placement]

    def __init__(
        self,
        *,
        input_layouts: Placement | None = None,
        output_layouts: Placement | None = None,
        use_local_output: bool = True,
    ) -> None:
        super().__init__()
        self.input_layouts: Layouts = (input_layouts or self.usual_input,)
        self.output_layouts: Layouts = (output_layouts or self.usual_output,)
        self.use_local_output = use_local_output

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        _check_mesh(device_mesh)
        layer, count = self._checked(module), device_mesh.size()
        try:
            parts = layer.generator.parts(count, self.dimension)
        except ValueError as error:
            raise ValueError(f"{layer} cannot be shared by {count} processes: {error}") from error
        prepare(parts.generator)
        layer.unfreeze()
        prepare_input: Any = self._prepare_input  # whose types torch declares without results
        prepare_output: Any = self._prepare_output
        distribute_module(layer, device_mesh, self._place_bias, prepare_input, prepare_output)
        layer.spread = _Spread(device_mesh, layer.generator, parts)
        return layer

    def _checked(self, module: nn.Module) -> Linear:
        if not isinstance(module, Linear):
            raise TypeError(
                f"{type(self).__name__} is for adntn_torch.Linear, got {module}; torch's ColwiseParallel and"
                " RowwiseParallel are for dense layers"
            )
        if module.spread is not None:
            raise ValueError(f"the layer is spread over processes already: {module}")
        if module.engine is not None:
            raise ValueError(f"engine must be None for a tensor-parallel layer, got {module.engine!r}: {module}")
        return module

    def _place_bias(self, name: str, module: nn.Module, mesh: DeviceMesh) -> None:
        """Place the bias; all other parameters, the cores, are then replicated by `distribute_module`."""
        if isinstance(module, Linear) and module.bias is not None:
            placed = distribute_tensor(module.bias.detach(), mesh, [self.bias], src_data_rank=self.src_data_rank)
            module.bias = nn.Parameter(placed, requires_grad=module.bias.requires_grad)

    def _prepare_input(self, module: nn.Module, inputs: tuple[Any, ...], mesh: DeviceMesh) -> Tensor:
        x = inputs[0]
        if not isinstance(x, DTensor):
            x = DTensor.from_local(x, mesh, self.input_layouts, run_check=False)
        return x.redistribute(placements=(self.needed,)).to_local(grad_placements=self.x_bar)

    def _prepare_output(self, module: nn.Module, y: Tensor, mesh: DeviceMesh) -> Tensor:
        whole = self._combined(y, cast(Linear, module).bias, mesh)
        return whole.to_local() if self.use_local_output else whole

    @abstractmethod
    def _combined(self, y: Tensor, bias: nn.Parameter | None, mesh: DeviceMesh) -> DTensor:
        """Return the layer's output as the plan wants it, of what each process has made."""

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(input_layouts={self.input_layouts}, output_layouts={self.output_layouts},"
            f" use_local_output={self.use_local_output})"
        )


class ColwiseGenerated(_GeneratedStyle):
    """`ColwiseParallel` for `adntn_torch.Linear`: each process generates its own output features, the rows of W.

    In a plan it stands where `ColwiseParallel` would, and takes the same arguments:

        mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
        parallelize_module(model, mesh, {"up": ColwiseGenerated(), "down": RowwiseGenerated()})

    Any schedule makes the rows. No weight is ever sent: the cores are whole in every process, and their gradients, sums
    over the processes, are sent in one message for each layer, a few hundred numbers. A schedule and a memory limit
    are each process's own.

    Args:
        input_layouts: how x lies; by default whole in every process.
        output_layouts: how y is wanted; by default each process keeps its own features, `Shard(-1)`.
        use_local_output: whether y is a plain tensor, and no DTensor.

    Raises:
        TypeError: when the plan is applied, if the layer is no generated linear one.
        ValueError: then, if the number of processes does not divide the rows into equal parts (see `Generator.parts`),
            the mesh has more than one dimension, the layer has an engine or is spread over processes already.
    """

    dimension = 0
    bias = Shard(0)
    needed, x_bar = Replicate(), (Partial(),)
    usual_input, usual_output = Replicate(), Shard(-1)

    def _combined(self, y: Tensor, bias: nn.Parameter | None, mesh: DeviceMesh) -> DTensor:
        own: Any = DTensor.from_local(y, mesh, (Shard(-1),), run_check=False)
        whole: DTensor = (own if bias is None else own + bias).redistribute(placements=self.output_layouts)
        return whole


class RowwiseGenerated(_GeneratedStyle):
    """`RowwiseParallel` for `adntn_torch.Linear`: each process generates the columns of W for its own input features.

    Args, Raises: as for `ColwiseGenerated`, with columns in place of rows; by default each process has its own
        features of x, `Shard(-1)`, and all get the whole y, `Replicate()`.
    """

    dimension = 1
    bias = Replicate()
    needed = Shard(-1)
    usual_input, usual_output = Shard(-1), Replicate()

    def _combined(self, y: Tensor, bias: nn.Parameter | None, mesh: DeviceMesh) -> DTensor:
        terms = DTensor.from_local(y, mesh, (Partial(),), run_check=False)
        whole = terms.redistribute(placements=self.output_layouts)
        if bias is None:
            return whole
        # its gradient, of which each process may have a term only, is summed on the way back through `from_local`
        added = DTensor.from_local(cast(DTensor, bias).to_local(), mesh, (Replicate(),), run_check=False)
        return cast(DTensor, whole + added)


@dataclass(frozen=True)
class _Spread:
    """A layer's cores, whole in every process of a mesh, for a weight of which each process may make a part.

    Attributes:
        mesh: the processes, in one dimension.
        whole: the generator of the whole weight.
        parts: the parts that the processes make; None where each makes the whole.
    """

    mesh: DeviceMesh
    whole: Generator
    parts: Parts | None

    @property
    def generator(self) -> Generator:
        """Of what this process makes."""
        return self.whole if self.parts is None else self.parts.generator

    @property
    def adds_bias(self) -> bool:
        """Whether the layer adds its bias itself; for parts, the styles do."""
        return self.parts is None

    def cores(self, cores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the cores that `generator` takes; their gradients come from all processes, in one message."""
        local = {name: core.to_local() if isinstance(core, DTensor) else core for name, core in cores.items()}
        learned = {name: core for name, core in local.items() if core.requires_grad}
        if learned:
            joined = torch.cat([core.reshape(-1) for core in learned.values()])
            # parts of a weight add up to its gradient; of batches, as everywhere in data parallelism, the mean is taken
            divisor = self.mesh.size() if self.parts is None else 1
            flat: Tensor = _SummedGradient.apply(joined, self.mesh.get_group(), divisor)  # type: ignore[no-untyped-call]
            pieces = torch.split(flat, [core.numel() for core in learned.values()])
            local |= {name: piece.view(local[name].shape) for name, piece in zip(learned, pieces, strict=True)}
        return local if self.parts is None else self.parts.cores(local, self.mesh.get_local_rank())

    def copy(self, value: Tensor, core: Tensor) -> None:
        """Copy the first process's value into a core, in every process."""
        if isinstance(core, DTensor):
            core.copy_(distribute_tensor(value.to(core.device, core.dtype), core.device_mesh, core.placements))
        else:
            core.copy_(value)

    def __str__(self) -> str:
        count = self.mesh.size()
        if self.parts is None:
            return f"cores in {count} processes"
        return f"part {self.mesh.get_local_rank() + 1} of {count} of the {('rows', 'columns')[self.parts.dimension]}"


class _SummedGradient(torch.autograd.Function):
    """(tensor, group of processes, divisor) -> the tensor, whose gradient is summed over the processes, and divided."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup, divisor: int) -> Tensor:
        ctx.group, ctx.divisor = group, divisor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, bar: Tensor) -> tuple[Tensor, None, None]:
        total = bar.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total / ctx.divisor, None, None


def _check_mesh(mesh: DeviceMesh) -> None:
    if not isinstance(mesh, DeviceMesh) or mesh.ndim != 1:
        raise ValueError(f'mesh must be a DeviceMesh of one dimension, such as mesh["tp"] of a larger one, got {mesh}')
