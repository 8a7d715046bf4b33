"""Measure the roofline of a machine (`adntn.machine`) with the functions that programs are made of."""

from __future__ import annotations

import operator
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from adntn.arrays import DTYPES, Array, Namespace, namespace, place
from adntn.backends import Backend, usable_backend
from adntn.machine import Machine

#: Arrays that may stay in a cache: powers of two, in bytes.
CACHED = tuple(2**power for power in range(17, 26))
#: An array that does not, in bytes.
LARGE = 2**27
#: A copy at this share of the best speed is still one in the cache: the next level of memory is slower than that.
HOLDS = 0.5
#: Sizes of matrices. The first whose product takes so long, in seconds, is the last one timed: by then it is large.
MATRICES = (256, 512, 1024, 2048, 4096)
LONG = 0.05
#: Calls in a chain whose time is mostly overhead, and the size of their matrices.
CHAIN, TINY = 32, 8
#: One sample: enough calls to last this long, in seconds, if there is time.
SAMPLE = 2e-3
#: Timings in all, among which the time is divided.
TIMINGS = 3 + len(CACHED) + len(MATRICES)


def measure(backend: str = "numpy", dtype: str = "float32", device: str | None = None, seconds: float = 3.0) -> Machine:
    """Return the roofline of this machine, for a number type of an array library on a device.

    Functions run as users run them: compiled where the library compiles (`Backend.compile`), and in its precision of
    products, after a warm-up.

    Args:
        backend: the array library, as for `adntn.backend`.
        dtype: of the arrays.
        device: by name; the library's default if None.
        seconds: about how long to measure; what cannot be timed in its share of that takes longer.

    Raises:
        ImportError: if the backend cannot be used.
        ValueError: if it has no such number type or device, or there is no time to measure.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be above 0, got {seconds!r}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    library = usable_backend(backend)
    with library.precision(dtype):
        functions = namespace(backend, dtype.startswith("complex"))
        placed_on = None if device is None else library.placed_on(device)
        bench = _Bench(library, functions, dtype, placed_on, seconds / TIMINGS)
        bandwidth = bench.copied(LARGE)
        cached = {size: bench.copied(size) for size in CACHED}
        cache_bytes = max(size for size, speed in cached.items() if speed >= HOLDS * max(cached.values()))
        return Machine(
            operations=bench.operations(),
            bandwidth=bandwidth,
            cached_bandwidth=max(cached[cache_bytes], bandwidth),
            overhead=bench.overhead(),
            tanh=bench.tanh(cache_bytes),
            cache_bytes=cache_bytes,
        )


@dataclass(frozen=True)
class _Bench:
    """One array library, number type and device; `budget` is in seconds, for each timing."""

    library: Backend
    functions: Namespace
    dtype: str
    device: Any
    budget: float

    def copied(self, size: int) -> float:
        """Return the bytes per second, read and written, of copying an array of that many bytes.

        Arrays that cannot be written to (JAX's) become new ones, as they do in every program there.
        """
        source, target = self._vector(size), self._vector(size)

        def copy(array: Array) -> Array:
            target[...] = array
            return array

        try:
            copy(source)
            step = copy
        except TypeError:
            step = self.library.compile(operator.neg)
        return 2 * size / self._seconds(step, source)

    def operations(self) -> float:
        """Return the operations per second of the product of two large matrices."""
        best = 0.0
        for size in MATRICES:
            seconds = self._multiplied(self.functions.matmul, size)
            best = max(best, 2 * size**3 / seconds)
            if seconds > LONG:
                break
        return best

    def overhead(self) -> float:
        """Return the seconds of one product among many of small matrices."""
        matmul = self.functions.matmul

        def chain(array: Array, factor: Array) -> Array:
            for _ in range(CHAIN):
                array = matmul(array, factor)
            return array

        return self._multiplied(chain, TINY) / CHAIN

    def tanh(self, size: int) -> float:
        """Return the numbers per second of tanh of an array of that many bytes."""
        vector = self._vector(size)
        return int(vector.shape[0]) / self._seconds(self.library.compile(self.functions.tanh), vector)

    def _multiplied(self, function: Callable[[Array, Array], Array], size: int) -> float:
        """Return the seconds of a function of a matrix and a factor: the identity, under which nothing grows."""
        compiled, factor = self.library.compile(function), self._placed(np.eye(size, dtype="float32"))
        return self._seconds(lambda array: compiled(array, factor), factor)

    def _vector(self, size: int) -> Array:
        """Return a vector of that many bytes, of ones: system memory that was never written to reads too fast."""
        bits = int(re.sub(r"\D", "", self.dtype))
        return self._placed(np.ones(8 * size // bits, dtype="float32"))

    def _placed(self, array: Array) -> Array:
        return place(array, self.library.name, self.dtype, self.device)

    def _seconds(self, step: Callable[[Array], Array], start: Array) -> float:
        """Return the time of one step, the least of several samples: what disturbs one only makes it longer.

        A median would not do: where threads share a processor with another program, most samples may wait for it.
        Each step takes the result of the last, so that no library runs them at once.
        """

        def elapsed(repeats: int) -> float:
            result = start
            began = time.perf_counter()
            for _ in range(repeats):
                result = step(result)
            _wait(result)
            return time.perf_counter() - began

        elapsed(1)  # compiles, allocates, wakes threads
        repeats = 1
        while min(elapsed(repeats) for _ in range(3)) < min(SAMPLE, self.budget):
            repeats *= 2
        until = time.perf_counter() + self.budget
        samples = [elapsed(repeats) for _ in range(3)]
        while time.perf_counter() < until:
            samples.append(elapsed(repeats))
        return min(samples) / repeats


def _wait(array: Array) -> None:
    """Wait until an array is computed, and with it all that was asked for before."""
    wait = getattr(array, "block_until_ready", None)  # JAX, where taking an element compiles
    if wait is None:
        bool(array[(0,) * len(array.shape)] == 0)
    else:
        wait()
