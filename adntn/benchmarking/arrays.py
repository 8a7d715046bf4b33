"""Contenders on any array library: a generator's weight and gradients, and what copying and tanh alone take."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from adntn.arrays import Array, place
from adntn.backends import Backend, usable_backend
from adntn.benchmarking.case import Case
from adntn.benchmarking.contender import Ready, Task

#: Of cores and of what stands for data.
SEED = 0


def generated(case: Case, task: Task, *, backend: str, differentiation: str = "adjoint") -> Ready:
    """Return the case's generator on a backend, compiled where the library has a compiler.

    Args:
        case: whose weight.
        task: "weight", "weight into a buffer" or "gradients".
        backend: the array library.
        differentiation: "adjoint" or "native".

    Raises:
        ImportError, TypeError, ValueError: if the backend is not there or cannot do the task.
    """
    library = usable_backend(backend)
    generator, device = case.generator, _device(library, case)
    cores = generator.init(SEED, backend=backend, dtype=case.dtype, device=device)
    if task == "gradients":
        weight_bar = _random(case, library)

        def both(cores: Any, weight_bar: Array) -> tuple[Array, dict[str, Array]]:
            weight, pullback = library.vjp(generator, cores, differentiation)
            return weight, pullback(weight_bar)

        compiled = library.compile(both)
        call = _waiting(library, case, lambda: compiled(cores, weight_bar))
    elif task == "weight":
        compiled_weight = library.compile(generator.weight)
        call = _waiting(library, case, lambda: compiled_weight(cores))
    else:
        buffer = _random(case, library)
        into_buffer: Any = generator.weight
        call = _waiting(library, case, lambda: into_buffer(cores, out=buffer))
    return Ready(call, generator.parameters)


def applied(case: Case, task: Task, *, backend: str, **options: Any) -> Ready:
    """Return the case's generator applied to x on a backend, compiled where the library has a compiler.

    Args:
        case: a linear layer's.
        task: "forward"; on JAX also "backward", by its own differentiation.
        backend: the array library.
        options: keywords of `Generator.apply`, such as `schedule`.

    Raises:
        ImportError, TypeError, ValueError: if the backend is not there or cannot do the task.
    """
    library, generator = usable_backend(backend), case.generator
    cores = generator.init(SEED, backend=backend, dtype=case.dtype, device=_device(library, case))
    x = _random(case, library, case.x_shape)
    apply: Any = generator.apply

    def forward(cores: Any, x: Array) -> Array:
        return apply(cores, x, **options)

    if task == "forward":
        compiled = library.compile(forward)
        return Ready(_waiting(library, case, lambda: compiled(cores, x)), generator.parameters)
    y_bar, vjp = _random(case, library, case.y_shape), importlib.import_module(backend).vjp

    def both(cores: Any, x: Array, y_bar: Array) -> tuple[Array, Any]:
        y, pullback = vjp(forward, cores, x)
        return y, pullback(y_bar)

    compiled_both = library.compile(both)
    return Ready(_waiting(library, case, lambda: compiled_both(cores, x, y_bar)), generator.parameters)


def copied(case: Case, task: Task, *, backend: str) -> Ready:
    """Return one copy between buffers of the weight's size.

    Raises:
        ImportError: if the backend is not there.
    """
    library = usable_backend(backend)
    source, target = _random(case, library), _random(case, library)
    if backend == "torch":
        return Ready(_waiting(library, case, lambda: target.copy_(source)))
    module = importlib.import_module(backend)
    return Ready(_waiting(library, case, lambda: module.copyto(target, source)))


def tanh(case: Case, task: Task, *, backend: str) -> Ready:
    """Return one tanh between buffers of the weight's size.

    Raises:
        ImportError: if the backend is not there.
    """
    library = usable_backend(backend)
    source, target = _random(case, library), _random(case, library)
    function = importlib.import_module(backend).tanh
    return Ready(_waiting(library, case, lambda: function(source, out=target)))


def product(case: Case, task: Task, *, backend: str) -> Ready:
    """Return the dense product x @ W.T into a new array: the least that any layer with a weight does.

    Raises:
        ImportError: if the backend is not there.
        ValueError: if the case is a convolution.
    """
    if case.is_convolution:
        raise ValueError("a convolution is no product of two matrices")
    library = usable_backend(backend)
    weight, x = _random(case, library), _random(case, library, case.x_shape)
    compiled = library.compile(lambda x, weight: x @ weight.T)
    return Ready(_waiting(library, case, lambda: compiled(x, weight)), math.prod(case.shape))


def _device(library: Backend, case: Case) -> Any:
    if case.device == "cpu":
        return None
    if library.name == "numpy":
        raise ValueError(f"NumPy computes on the CPU only, the case is on {case.device}")
    return library.device(case.device)


def _random(case: Case, library: Backend, shape: tuple[int, ...] | None = None) -> Array:
    """Return numbers about as large as weights, laid out anew: what is random matters less than what is written."""
    numbers = np.random.default_rng(SEED).standard_normal(shape or case.shape, dtype=np.float32)
    numbers *= 1 / math.sqrt(case.shape[1])
    return place(numbers, library.name, case.dtype, _device(library, case))


def _waiting(library: Backend, case: Case, call: Callable[[], Any]) -> Callable[[], object]:
    """Return a call that returns when its result is there: some libraries return earlier."""
    if library.name == "jax":
        wait: Callable[[Any], Any] = importlib.import_module("jax").block_until_ready
        return lambda: wait(call())
    if library.name == "cupy" or case.device.startswith("cuda"):
        synchronise = importlib.import_module(library.name).cuda
        stop = synchronise.Device().synchronize if library.name == "cupy" else synchronise.synchronize

        def waited() -> object:
            result = call()
            stop()
            return result

        return waited
    return call
