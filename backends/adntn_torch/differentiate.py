"""The two ways to differentiate a generated weight: torch's automatic differentiation and the library's adjoint.

Either torch or an `Engine` computes the adjoint; with an engine there is no other way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from adntn import Generator
from adntn.backends import Differentiation
from adntn.tiling import Tiling
from adntn_torch.engine import Engine

#: Said where somebody differentiates a gradient.
FIRST_ONLY = (
    "the adjoint gives first derivatives only; for second derivatives (a gradient penalty, torch.func.hessian ...)"
    ' build the layer with differentiation="native" and without an engine'
)


def generate(
    generator: Generator,
    cores: Mapping[str, Tensor],
    differentiation: Differentiation,
    engine: Engine | None = None,
    tiles: Tiling | None = None,
) -> Tensor:
    """Return the weight of shape `generator.shape`, contiguous, differentiable along the path of that name.

    With `tiles` it is made tile by tile and the adjoint makes the tiles again: nothing but the cores is kept. Forward
    mode is left to torch, which has it in every order.

    Autocast does not reach inside: rounding after every level would add up. The weight is cast where it is used.
    """
    if engine is not None and not next(iter(cores.values())).is_meta:
        outside: Tensor = generate_with_engine_outside_torch_compile(engine, cores)
        return outside.contiguous()
    with without_autocast(next(iter(cores.values()))):
        if tiles is not None:
            return _tiled(generator, tiles, cores)
        by_torch = differentiation == "native" or is_forward_mode() or _traced_without_gradients(cores.values())
        if not by_torch:
            weight = _apply(_Adjoint, generator, *(cores[name] for name in generator.core_shapes))[0]
        else:
            weight = generator.weight(cores)
    return weight.contiguous()  # a cropped weight is a view, which matrix products may sum in another order


def _tiled(generator: Generator, tiles: Tiling, cores: Mapping[str, Tensor]) -> Tensor:
    arrays = (cores[name] for name in generator.core_shapes)
    weight: Tensor = _TiledAdjoint.apply(generator, tiles, *arrays)  # type: ignore[no-untyped-call]
    return weight


@torch.compiler.disable  # type: ignore[untyped-decorator]
def generate_with_engine_outside_torch_compile(engine: Engine, cores: Mapping[str, Tensor]) -> Tensor:
    """Return the weight; torch.compile leaves it out, and with fullgraph=True gives up naming this function."""
    return _apply(_EngineAdjoint, engine, *(cores[name] for name in engine.core_shapes))[0]


def prepare(generator: Generator) -> None:
    """Compute everything that a generator caches, once and without data: torch.compile cannot trace the caches.

    (In Python 3.11 a `cached_property` takes a lock, at which torch.compile(fullgraph=True) gives up.)
    """
    cores = {
        name: torch.nn.Parameter(torch.empty(shape, dtype=torch.float32, device="meta"))
        for name, shape in generator.core_shapes.items()
    }
    with torch.no_grad():
        generator.weight(cores)
        weight, residuals = generator.forward(cores)
        generator.pullback(residuals, cores, weight)


def without_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """A context in which autocast is off on the tensor's device."""
    kind = tensor.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def is_forward_mode() -> bool:
    """Return whether torch differentiates in forward mode: `torch.func.jvp`, `jacfwd` or `dual_level`."""
    return not torch.compiler.is_compiling() and torch.autograd.forward_ad._current_level >= 0


def _traced_without_gradients(cores: Iterable[Tensor]) -> bool:
    """Return whether torch.compile traces and no core wants a gradient: then it miscounts a function's arguments."""
    if not torch.compiler.is_dynamo_compiling():
        return False
    return not (torch.is_grad_enabled() and any(core.requires_grad for core in cores))


def _pulled_back(generator: Generator | Engine, weight_bar: Tensor, saved: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return dL/d(core) for every core; `saved` holds the cores, then the residuals."""
    names = tuple(generator.core_shapes)
    cores = dict(zip(names, saved[: len(names)], strict=True))
    with without_autocast(weight_bar):
        gradients = generator.pullback(saved[len(names) :], cores, weight_bar)
    return tuple(gradients[name] for name in names)


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> tuple[Tensor, ...]:
    outputs: tuple[Tensor, ...] = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return outputs


class _Adjoint(torch.autograd.Function):
    """(generator, *cores) -> (weight, *residuals), whose backward is `Generator.pullback`.

    The residuals are outputs because torch.func lets a function save nothing but its inputs and outputs.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(generator: Generator | Engine, *cores: Tensor) -> tuple[Tensor, ...]:
        weight, residuals = generator.forward(dict(zip(generator.core_shapes, cores, strict=True)))
        return weight, *residuals

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        generator, *cores = inputs
        _, *residuals = output
        ctx.generator = generator
        ctx.mark_non_differentiable(*residuals)
        ctx.set_materialize_grads(False)  # no zeros, as large as the weight, for the residuals
        ctx.save_for_backward(*cores, *residuals)

    @staticmethod
    def backward(ctx: Any, *adjoints: Tensor | None) -> tuple[Tensor | None, ...]:
        generator, weight_bar = ctx.generator, adjoints[0]
        if weight_bar is None:
            return None, *(None for _ in generator.core_shapes)
        if torch.compiler.is_dynamo_compiling():  # it refuses second derivatives by itself
            return None, *_pulled_back(generator, weight_bar, ctx.saved_tensors)
        pullback = _EnginePullback if isinstance(generator, Engine) else _Pullback
        return None, *_apply(pullback, generator, weight_bar, *ctx.saved_tensors)


def first_derivatives(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """Make the backward of a function one that writes in place and, differentiated again, says what to do instead.

    It gets the saved tensors as its second argument: checkpointing gives them out once only.
    """

    @wraps(backward)
    def first(ctx: Any, bar: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        with torch.no_grad():
            gradients = backward(ctx, saved, bar)
        if not torch.is_grad_enabled():
            return gradients
        made = [one for one in gradients if one is not None]
        once = iter(_apply(_Once, len(made), *made, bar, *saved))
        return tuple(None if one is None else next(once) for one in gradients)

    return first


class _Once(torch.autograd.Function):
    """(how many gradients, *gradients, *all that they depend on) -> gradients, which cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(gradient.view_as(gradient) for gradient in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *adjoints: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(FIRST_ONLY)


class _TiledAdjoint(torch.autograd.Function):
    """(generator, tiles, *cores) -> weight; first derivatives only."""

    @staticmethod
    def forward(generator: Generator, tiles: Tiling, *cores: Tensor) -> Tensor:
        _, prepared = generator.prepared(dict(zip(generator.core_shapes, cores, strict=True)))
        weight = cores[0].new_empty(generator.shape)
        tiles.write(prepared, weight)
        return weight

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.generator, ctx.tiles, *cores = inputs
        ctx.save_for_backward(*cores)

    @staticmethod
    @first_derivatives
    def backward(ctx: Any, saved: tuple[Tensor, ...], weight_bar: Tensor) -> tuple[Any, ...]:
        cores = dict(zip(ctx.generator.core_shapes, saved, strict=True))
        _, prepared = ctx.generator.prepared(cores)
        with without_autocast(weight_bar):
            gradients = ctx.tiles.pull_back_weight(prepared, weight_bar)
        return None, None, *(gradients[name].to(core.dtype) for name, core in cores.items())


class _Pullback(torch.autograd.Function):
    """(generator, dL/dW, *cores, *residuals) -> dL/d(core) for every core; cannot be differentiated again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(generator: Generator | Engine, weight_bar: Tensor, *saved: Tensor) -> tuple[Tensor, ...]:
        return _pulled_back(generator, weight_bar, saved)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep nothing: there is no second derivative."""

    @staticmethod
    def backward(ctx: Any, *adjoints: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(FIRST_ONLY)


def _no_vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
    raise RuntimeError("torch.func.vmap does not reach into an engine; build the layer without one")


class _EngineAdjoint(_Adjoint):
    """(engine, *cores) -> (weight, *residuals)."""

    generate_vmap_rule = False
    vmap = staticmethod(_no_vmap)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        raise RuntimeError("forward mode does not reach into an engine; build the layer without one")


class _EnginePullback(_Pullback):
    """(engine, dL/dW, *cores, *residuals) -> dL/d(core) for every core."""

    generate_vmap_rule = False
    vmap = staticmethod(_no_vmap)
