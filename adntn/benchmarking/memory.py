"""Peak memory of a call: of the process on Linux, of torch's allocator on a GPU.

Meant for fresh processes: what an allocator kept from earlier work would hide what a call takes.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Call = Callable[[], object]

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
#: What the kernel takes as: forget the peak.
RESET_PEAK = "5"


@dataclass(frozen=True)
class Memory:
    """Bytes that something takes.

    Attributes:
        held: what stays between calls: parameters, inputs, optimiser state, buffers of its own.
        above: the most that a call takes above that, results included.
        kept: what stays when all of it is dropped, after the first time: workspace of libraries, and whatever else a
            process keeps. It is in neither of the others, so a contender that hides its memory there shows here.
    """

    held: int
    above: int
    kept: int = 0

    @property
    def total(self) -> int:
        """`held` and `above`: the peak above what was there before it was built, in a process that is warm."""
        return self.held + self.above


class Meter(Protocol):
    """Where memory is counted."""

    def now(self) -> int:
        """Return the bytes in use, after freed ones were given back."""

    def reset_peak(self) -> None:
        """Forget the peak so far."""

    def peak(self) -> int:
        """Return the most bytes in use since then."""


class ProcessMeter:
    """The process's resident memory, as the Linux kernel counts it.

    Raises:
        OSError: if the kernel does not let its peak be reset.
    """

    def __init__(self) -> None:
        if not (STATUS.exists() and CLEAR_REFS.exists()):
            raise OSError("peak memory of a process is measured on Linux only, through /proc/self/clear_refs")

    def now(self) -> int:
        """Return the resident bytes."""
        gc.collect()
        _give_back_freed()
        return _status("VmRSS")

    def reset_peak(self) -> None:
        """Set the peak to what is resident."""
        CLEAR_REFS.write_text(RESET_PEAK, encoding="ascii")

    def peak(self) -> int:
        """Return the most resident bytes since the reset."""
        return _status("VmHWM")


class CudaMeter:
    """The bytes of a GPU that torch's allocator has handed out."""

    def __init__(self, device: str) -> None:
        self._cuda, self._device = importlib.import_module("torch").cuda, device

    def now(self) -> int:
        """Return the bytes handed out."""
        gc.collect()
        self._cuda.synchronize(self._device)
        return int(self._cuda.memory_allocated(self._device))

    def reset_peak(self) -> None:
        """Set the peak to what is handed out."""
        self._cuda.reset_peak_memory_stats(self._device)

    def peak(self) -> int:
        """Return the most bytes handed out since the reset."""
        self._cuda.synchronize(self._device)
        return int(self._cuda.max_memory_allocated(self._device))


def meter_of(device: str) -> Meter:
    """Return the meter of a device, "cpu" or torch's name of a GPU.

    Raises:
        OSError: if memory cannot be measured there.
    """
    return CudaMeter(device) if device.startswith("cuda") else ProcessMeter()


def measure(build: Callable[[], Call], meter: Meter) -> Memory:
    """Return what a call takes, in a process that has built and called the same before.

    The first call after building makes what stays between calls; the second one is measured.

    Args:
        build: builds everything the call needs, and returns the call.
        meter: where memory is counted.
    """
    cold = meter.now()
    build()()
    warm = meter.now()
    call = build()
    call()
    held = meter.now()
    meter.reset_peak()
    result = call()
    above = meter.peak() - held
    del result
    return Memory(max(0, held - warm), max(0, above), max(0, warm - cold))


def _status(field: str) -> int:
    """Return a field of the process's status in bytes."""
    for line in STATUS.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise OSError(f"{STATUS} has no {field}")


def _give_back_freed() -> None:
    """Ask glibc to return freed memory to the system; other C libraries have no such call and need none."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
