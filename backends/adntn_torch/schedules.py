"""How a layer's weight meets x: in one piece, made again for the backward pass, tile by tile, or not at all.

See `adntn.program.schedule`. Under torch.compile and inside torch.func the weight is always made in one piece, by
functions that torch traces and transforms; the other schedules write in place and are differentiated by the library.

On a GPU linear layers stream through `fused_linear` where x has few rows and Triton is installed: tiles are then made
on chip. Nothing stands in the way of CUDA graphs: which steps run, and on which parts of arrays, depends on shapes
alone, nothing is read back, and all memory comes from torch's allocator. Run a few steps before capturing, as for any
model; the kernels choose their configurations then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from adntn import Generator
from adntn.arrays import dtype_name
from adntn.contracting import contracted, contracted_vjp
from adntn.materialising import materialise, materialise_back
from adntn.network import SCALE
from adntn.program.forecast import part_numbers
from adntn.program.task import Forecast
from adntn.streaming import stream, stream_back
from adntn.tiling import LateScale, Tiling, tiling
from adntn_torch.differentiate import first_derivatives, is_forward_mode, without_autocast
from adntn_torch.factored import Factored, factored
from adntn_torch.fused import DTYPES, fused_linear
from adntn_torch.spares import SPARES

#: The most rows of x for which a weight made on chip is predicted to be faster than tiles in memory (see `fused`).
FUSED_ROWS = 64
#: A layer's product without its bias: (x, weight) -> y, with the weight's rows at axis 1 or, of matrices, the last one.
Product = Callable[[Tensor, Tensor], Tensor]


def is_traced() -> bool:
    """Return whether torch.compile or torch.jit traces, or torch.func transforms, or forward mode is at work."""
    transformed = torch._C._are_functorch_transforms_active() or is_forward_mode()
    return torch.compiler.is_compiling() or torch._C._is_tracing() or transformed


def multiplied_in(tensor: Tensor) -> torch.dtype:
    """Return the number type in which torch multiplies a tensor: autocast, where it is on, has one."""
    kind, own = tensor.device.type, tensor.dtype
    casts = own.is_floating_point and own != torch.float64 and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if casts else own


def recomputed(product: Callable[[Tensor], Tensor], x: Tensor, cores: Mapping[str, Tensor]) -> Tensor:
    """Return product(x), of which nothing but x is kept: it is run again, with the same cores, in the backward pass."""
    versions = [core._version for core in cores.values()]

    def checked(x: Tensor) -> Tensor:
        if [core._version for core in cores.values()] != versions:  # what torch says of tensors that it has saved
            raise RuntimeError(
                "the cores have been modified by an inplace operation since the forward pass;"
                ' schedule="recompute" needs them in the backward pass as they were'
            )
        return product(x)

    result: Tensor = checkpoint(checked, x, use_reentrant=False, preserve_rng_state=False)
    return result


def streamed_linear(
    generator: Generator, taken: Forecast, cores: Mapping[str, Tensor], x: Tensor, bias: Tensor | None
) -> Tensor:
    """Return x @ W.T + bias for x of shape (..., in); neither W nor dL/dW ever exists."""
    _check_features(generator, x)
    form = _form_on_chip(generator, taken, x)
    if form is not None:
        return fused(form, generator, cores, x, bias)
    tiles = tiling(generator.network, generator.paths, taken.plan)
    return _apply(_StreamedLinear, generator, tiles, x, bias=bias, cores=cores)


def _check_features(generator: Generator, x: Tensor) -> None:
    if x.shape[-1:] != generator.shape[1:]:
        raise RuntimeError(f"x must have the shape (..., {generator.shape[1]}), got {tuple(x.shape)}")


def _form_on_chip(generator: Generator, taken: Forecast, x: Tensor) -> Factored | None:
    """Return the factors from which a GPU makes tiles on chip, if it can and needs no more memory than for tiles."""
    if not x.is_cuda or x.numel() > FUSED_ROWS * x.shape[-1] or multiplied_in(x) not in DTYPES or not _has_triton():
        return None
    form = factored(generator)
    # the factors and their adjoints, computed in float32
    return form if form is not None and 2 * form.numbers * torch.float32.itemsize <= taken.bytes else None


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def fused(form: Factored, generator: Generator, cores: Mapping[str, Tensor], x: Tensor, bias: Tensor | None) -> Tensor:
    """Return x @ W.T + bias by `fused_linear`, for the generator's form as two factors."""
    x = x.to(_common_type(x, cores))
    with without_autocast(x):
        _, prepared = generator.prepared(cores)
        front, back = (factor.to(x.dtype) for factor in form.factors(prepared))
        out_features, in_features = generator.shape
        added = None if bias is None else bias.to(x.dtype)
        inside = None if form.scaled else added
        y: Tensor = fused_linear(
            x, front, back, form.activation, inside, out_features=out_features, in_features=in_features
        )
        if not form.scaled:
            return y
        y = y * prepared[SCALE].to(x.dtype)
        return y if added is None else y + added


def materialised_linear(
    generator: Generator, tiles: Tiling, cores: Mapping[str, Tensor], x: Tensor, bias: Tensor | None
) -> Tensor:
    """Return x @ W.T + bias for x of shape (..., in); W is kept for the backward pass, dL/dW is never whole.

    See `adntn.materialising.can_be_kept` for what may come here; nothing of it under autocast.
    """
    _check_features(generator, x)
    return _apply(_MaterialisedLinear, generator, tiles, x, bias=bias, cores=cores)


def contracted_linear(generator: Generator, cores: Mapping[str, Tensor], x: Tensor, bias: Tensor | None) -> Tensor:
    """Return x @ W.T + bias for x of shape (..., in), from x and the cores alone."""
    _check_features(generator, x)
    x = x.to(_common_type(x, cores))
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *cores.values())):
        arrays = (cores[name] for name in cores)
        y: Tensor = _Contracted.apply(generator, tuple(cores), x, *arrays)  # type: ignore[no-untyped-call]
    else:
        with without_autocast(x):
            y = contracted(generator, cores, x.to(cores[SCALE].dtype)).to(x.dtype)
    return y if bias is None else y + bias.to(y.dtype)


def streamed_convolution(
    generator: Generator,
    tiles: Tiling,
    cores: Mapping[str, Tensor],
    x: Tensor,
    bias: Tensor | None,
    *,
    convolve: Product,
) -> Tensor:
    """Return the convolution, made for some output channels and some examples at a time; there is one group only."""
    return _apply(_StreamedConvolution, (generator, convolve), tiles, x, bias=bias, cores=cores)


def _apply(
    function: type[torch.autograd.Function],
    what: Any,
    tiles: Tiling,
    x: Tensor,
    *,
    bias: Tensor | None,
    cores: Mapping[str, Tensor],
) -> Tensor:
    given = what, tiles, tuple(cores), x.to(_common_type(x, cores)), bias, *cores.values()
    result: Tensor = function.apply(*given)  # type: ignore[no-untyped-call]
    return result


def _common_type(x: Tensor, cores: Mapping[str, Tensor]) -> torch.dtype:
    """Return the number type of the product; as torch's own products, ours refuse to mix them."""
    core = cores[SCALE]
    if multiplied_in(x) != multiplied_in(core):
        raise RuntimeError(f"x must be {dtype_name(core)} as the cores are, got {dtype_name(x)}")
    return multiplied_in(x)


class _Streamed(torch.autograd.Function):
    """(what, tiles, names of the cores, x, bias, *cores) -> y; first derivatives only."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        what, tiles, names, x, bias, *cores = inputs
        ctx.what, ctx.tiles, ctx.names = what, tiles, names
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.save_for_backward(x, *cores)


class _StreamedLinear(_Streamed):
    @staticmethod
    def forward(
        generator: Generator, tiles: Tiling, names: Sequence[str], x: Tensor, bias: Tensor | None, *cores: Tensor
    ) -> Tensor:
        _, prepared = generator.prepared(dict(zip(names, cores, strict=True)))
        y = x.new_empty(*x.shape[:-1], generator.shape[0])  # no view, which nobody could write to
        with without_autocast(x):
            stream(tiles, prepared, x.reshape(-1, x.shape[-1]), y.view(-1, generator.shape[0]))
        if bias is not None:
            y += bias
        return y

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, saved: tuple[Tensor, ...], y_bar: Tensor) -> tuple[Any, ...]:
        x, *cores = saved
        _, prepared = ctx.what.prepared(dict(zip(ctx.names, cores, strict=True)))
        rows, rows_bar = x.reshape(-1, x.shape[-1]), y_bar.reshape(-1, y_bar.shape[-1])
        x_bar = torch.zeros_like(rows, dtype=prepared[SCALE].dtype) if ctx.needs_input_grad[3] else None
        with without_autocast(x):
            gradients = stream_back(ctx.tiles, prepared, rows, rows_bar, x_bar)
        bias_bar = rows_bar.sum(0).to(ctx.bias_dtype) if ctx.needs_input_grad[4] else None
        shaped = None if x_bar is None else x_bar.reshape(x.shape).to(x.dtype)
        return None, None, None, shaped, bias_bar, *(gradients[name].to(cores[0].dtype) for name in ctx.names)


class _MaterialisedLinear(torch.autograd.Function):
    """(generator, tiles, names of the cores, x, bias, *cores) -> y; first derivatives only."""

    @staticmethod
    def forward(  # noqa: PLR0917 (torch's order)
        ctx: Any,
        generator: Generator,
        tiles: Tiling,
        names: Sequence[str],
        x: Tensor,
        bias: Tensor | None,
        *cores: Tensor,
    ) -> Tensor:
        _, prepared = generator.prepared(dict(zip(names, cores, strict=True)))
        kept = SPARES.empty(generator.shape, x)
        y = x.new_empty(*x.shape[:-1], generator.shape[0])  # no view, which nobody could write to
        materialise(tiles, prepared, x.reshape(-1, x.shape[-1]), y.view(-1, generator.shape[0]), kept)
        if bias is not None:
            y += bias
        ctx.generator, ctx.tiles, ctx.names = generator, tiles, names
        ctx.save_for_backward(x, kept, *cores)
        return y

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, saved: tuple[Tensor, ...], y_bar: Tensor) -> tuple[Any, ...]:
        x, kept, *cores = saved
        _, prepared = ctx.generator.prepared(dict(zip(ctx.names, cores, strict=True)))
        rows, rows_bar = x.reshape(-1, x.shape[-1]), y_bar.reshape(-1, y_bar.shape[-1])
        x_bar = x.new_empty(rows.shape) if ctx.needs_input_grad[3] else None
        with without_autocast(x):
            gradients = materialise_back(ctx.tiles, prepared, rows, rows_bar, kept=kept, x_bar=x_bar)
        bias_bar = rows_bar.sum(0) if ctx.needs_input_grad[4] else None
        shaped = None if x_bar is None else x_bar.reshape(x.shape)
        return None, None, None, shaped, bias_bar, *(gradients[name] for name in ctx.names)


class _StreamedConvolution(_Streamed):
    @staticmethod
    def forward(
        what: tuple[Generator, Product],
        tiles: Tiling,
        names: Sequence[str],
        x: Tensor,
        bias: Tensor | None,
        *cores: Tensor,
    ) -> Tensor:
        generator, convolve = what
        _, prepared = generator.prepared(dict(zip(names, cores, strict=True)))
        without_data = x.new_empty(generator.shape, device="meta")
        y = x.new_empty(convolve(x.to("meta"), without_data).shape)
        with without_autocast(x):
            for rows, tile in tiles.generate(prepared):
                channels = tiles.as_weight(tile, prepared[SCALE]).to(x.dtype)
                for part in _parts(x, tile):
                    y[part, rows] = convolve(x[part], channels)
        if bias is not None:
            y += bias.reshape(-1, *(1,) * (y.dim() - 2))
        return y

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, saved: tuple[Tensor, ...], y_bar: Tensor) -> tuple[Any, ...]:
        x, *cores = saved
        generator, convolve = ctx.what
        _, prepared = generator.prepared(dict(zip(ctx.names, cores, strict=True)))
        computed = prepared[SCALE].dtype  # sums of many parts lose more in 16 bits
        x_bar = torch.zeros_like(x, dtype=computed) if ctx.needs_input_grad[3] else None
        scale = LateScale(ctx.tiles, prepared)

        def adjoint_of(rows: slice, tile: Tensor) -> Tensor:
            channels = ctx.tiles.as_weight(tile, prepared[SCALE]).detach().to(x.dtype).requires_grad_()
            bar = torch.zeros_like(channels, dtype=computed)
            for part in _parts(x, tile):
                inputs = x[part].detach().requires_grad_(x_bar is not None)
                wanted = [channels] if x_bar is None else [channels, inputs]
                with torch.enable_grad():
                    made = convolve(inputs, channels)
                shares = torch.autograd.grad(made, wanted, y_bar[part, rows])
                bar += shares[0]
                if x_bar is not None:
                    x_bar[part] += shares[1]
            scale.meet(bar, tile)
            return bar

        with without_autocast(x):
            gradients = scale.gradients(ctx.tiles.pull_back(prepared, adjoint_of))
        bias_bar = y_bar.sum((0, *range(2, y_bar.dim()))).to(ctx.bias_dtype) if ctx.needs_input_grad[4] else None
        rounded = None if x_bar is None else x_bar.to(x.dtype)
        return None, None, None, rounded, bias_bar, *(gradients[name].to(cores[0].dtype) for name in ctx.names)


class _Contracted(torch.autograd.Function):
    """(generator, names of the cores, x, *cores) -> x @ W.T, in the cores' number type; first derivatives only.

    Only x and the cores are kept: results in between are made again.
    """

    @staticmethod
    def forward(generator: Generator, names: Sequence[str], x: Tensor, *cores: Tensor) -> Tensor:
        with without_autocast(x):
            y = contracted(generator, dict(zip(names, cores, strict=True)), x.to(cores[0].dtype))
        result = x.new_empty(y.shape)  # no view, which nobody could write to
        return result.copy_(y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.generator, ctx.names, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, saved: tuple[Tensor, ...], y_bar: Tensor) -> tuple[Any, ...]:
        x, *cores = saved
        given = dict(zip(ctx.names, cores, strict=True))
        with without_autocast(y_bar):
            _, pull = contracted_vjp(ctx.generator, given, x.to(cores[0].dtype))
            x_bar, gradients = pull(y_bar.to(cores[0].dtype))
        return None, None, x_bar.to(x.dtype), *gradients.values()


def _parts(x: Tensor, tile: Tensor) -> list[slice]:
    """Return the examples in parts: convolutions copy what they read."""
    step = max(1, part_numbers(tile.numel()) // max(1, x[:1].numel()))
    return [slice(first, first + step) for first in range(0, len(x), step)]
