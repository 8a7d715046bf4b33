"""Another array library computes the weight and its adjoint inside a torch model; the cores stay torch's parameters.

Tensors and arrays share memory (DLPack) where both libraries reach the device. Where they do not, such as parameters on
the CPU and CuPy, everything is copied through the host, and a warning says so, once: an attribute would go unread.
JAX also copies tensors that start at no multiple of 64 bytes (slices of a flat one); another warning says that, once.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import autoray
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from adntn import Generator
from adntn.arrays import SHORT_DTYPES, Array, check_dtype, dtype_name, place
from adntn.backends import Backend, usable_backend

#: Where torch's own allocations start, a multiple of so many bytes; libraries may copy what starts elsewhere.
ALIGNMENT = 64


@dataclass(frozen=True, eq=False)
class Engine:
    """A generator whose `forward` and `pullback` another library computes, compiled where it can: tensors in and out.

    16-bit tensors are exchanged as float32, in which they are computed anyway: not every library has bfloat16.
    """

    generator: Generator
    backend: Backend

    @property
    def core_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every core, by name."""
        return self.generator.core_shapes

    def forward(self, cores: Mapping[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the weight and the intermediate results that `pullback` needs."""
        first = next(iter(cores.values()))
        with self._computing(first) as shared:
            weight, residuals = self._forward(self._arrays(cores, shared))
            kept = tuple(_tensor(residual, shared, first.device) for residual in residuals)
            return _as_view(_tensor(weight, shared, first.device), kept).to(first.dtype), kept

    def pullback(
        self, residuals: tuple[Tensor, ...], cores: Mapping[str, Tensor], weight_bar: Tensor
    ) -> dict[str, Tensor]:
        """Return dL/d(core) for every core, given `forward`'s residuals and dL/dW."""
        first = next(iter(cores.values()))
        with self._computing(first) as shared:
            gradients = self._pullback(
                tuple(self._array(residual, shared) for residual in residuals),
                self._arrays(cores, shared),
                self._array(weight_bar, shared),
            )
            return {name: _tensor(one, shared, first.device).to(first.dtype) for name, one in gradients.items()}

    @cached_property
    def _forward(self) -> Any:
        return self.backend.compile(self.generator.forward)

    @cached_property
    def _pullback(self) -> Any:
        return self.backend.compile(self.generator.pullback)

    @contextmanager
    def _computing(self, tensor: Tensor) -> Iterator[bool]:
        """The tensor's precision and device are the library's; gives whether memory is shared."""
        with (
            self.backend.precision(dtype_name(tensor)),
            torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext(),
        ):
            yield shares_memory(self.backend.name, tensor.device)

    def _arrays(self, tensors: Mapping[str, Tensor], shared: bool) -> dict[str, Array]:
        return {name: self._array(tensor, shared) for name, tensor in tensors.items()}

    def _array(self, tensor: Tensor, shared: bool) -> Array:
        tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
        tensor = tensor.float() if dtype_name(tensor) in SHORT_DTYPES else tensor
        if not shared:
            return place(tensor.cpu().numpy(), self.backend.name, dtype_name(tensor))
        array = autoray.get_lib_fn(self.backend.name, "from_dlpack")(tensor)
        check_dtype(array, dtype_name(tensor))
        if tensor.data_ptr() % ALIGNMENT and from_dlpack(array).data_ptr() != tensor.data_ptr():
            announce_unaligned(self.backend.name)
        return array

    def __reduce__(self) -> tuple[Any, ...]:  # what is compiled cannot be copied or pickled, but found again
        return engine, (self.generator, self.backend.name)


@lru_cache(maxsize=256)
def engine(generator: Generator, name: str) -> Engine:
    """Return a library's engine for a generator: one for all equal generators, so that each is compiled once.

    Raises:
        ImportError: if the library is not installed, or does not work here.
    """
    return Engine(generator, usable_backend(name))


@lru_cache(maxsize=256)
def shares_memory(name: str, device: torch.device) -> bool:
    """Return whether a library and torch can read each other's arrays on a device; warn, once, if they cannot."""
    try:
        probe = autoray.get_lib_fn(name, "from_dlpack")(torch.zeros(1, device=device))
        shared = from_dlpack(probe).device == torch.zeros(1, device=device).device
    except Exception as error:  # every library raises its own
        shared, reason = False, f" ({' '.join(str(error).split())})"
    else:
        reason = ""
    if not shared:
        warnings.warn(
            f"the engine {name!r} cannot share memory with parameters on {str(device)!r}{reason}: every step copies"
            " cores, weight and intermediate results through the host",
            stacklevel=2,
        )
    return shared


@lru_cache(maxsize=256)
def announce_unaligned(name: str) -> None:
    """Warn, once, that a library copies tensors that are not aligned."""
    warnings.warn(
        f"the engine {name!r} cannot share memory with parameters that start at no multiple of {ALIGNMENT} bytes, such"
        " as slices of a flat tensor: every step copies these",
        stacklevel=2,
    )


def _tensor(array: Array, shared: bool, device: torch.device) -> Tensor:
    if shared:
        return from_dlpack(array)
    on_host = autoray.to_numpy(array)
    return torch.from_numpy(on_host if on_host.flags.writeable else on_host.copy()).to(device)


def _as_view(weight: Tensor, residuals: tuple[Tensor, ...]) -> Tensor:
    """Return the weight as a view of the residual that has its memory, if one has: torch then sees writes to both."""
    for residual in residuals:
        if residual.data_ptr() == weight.data_ptr() and residual.dtype == weight.dtype:
            return residual.as_strided(weight.shape, weight.stride())
    return weight
