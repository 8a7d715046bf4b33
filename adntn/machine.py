"""The roofline of a machine: how fast an array library computes and moves numbers here.

`machine` answers from what `adntn calibrate` has measured and kept in a file (`adntn.measure` measures), else with
defaults; it never measures by itself. Schedules need ratios more than numbers, so the defaults are good enough to run.
"""

from __future__ import annotations

import json
import math
import os
import platform
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adntn.arrays import SHORT_DTYPES, Array, backend_of, dtype_name
from adntn.files.values import LARGEST_FLOAT

if TYPE_CHECKING:
    from adntn.backends import Backend

#: The environment variable that names the directory of the file, instead of the user's cache directory.
DIRECTORY = "ADNTN_CACHE"
FILE = "machine.json"
#: Arrays that take so many times the cache's size lie in memory.
BEYOND_CACHES = 8
#: Of the file's format.
VERSION = 1


@dataclass(frozen=True)
class Machine:
    """How fast one array library is on one processor, with one number type.

    >>> slow = Machine(
    ...     operations=1e9, bandwidth=1e9, cached_bandwidth=4e9, overhead=1e-6, tanh=1e8, cache_bytes=2**20
    ... )
    >>> round(slow.seconds(operations=1e6, bytes_moved=2e6), 6)  # bound by arithmetic
    0.001001
    >>> round(slow.seconds(operations=1e6, bytes_moved=2e7), 6)  # bound by memory
    0.020001

    Attributes:
        operations: multiplications and additions per second of a large matrix product, as `adntn.program.cost` counts
            them: those of complex numbers count once.
        bandwidth: bytes per second, read and written together, of a large copy into memory that is held.
        cached_bandwidth: the same for arrays of `cache_bytes`, which stay in the cache.
        overhead: seconds that a call of an array function takes, however small the arrays.
        tanh: numbers per second of a pointwise tanh of an array of `cache_bytes`.
        cache_bytes: the largest array, of powers of two from 128 KiB to 32 MiB, that is still copied at the speed of
            the cache: what a tile should fit into.

    Raises:
        ValueError: if one of them is not a positive, finite number.
    """

    operations: float
    bandwidth: float
    cached_bandwidth: float
    overhead: float
    tanh: float
    cache_bytes: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            kinds = (int,) if field.name == "cache_bytes" else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value <= LARGEST_FLOAT:
                wanted = "integer" if field.name == "cache_bytes" else "finite number"
                raise ValueError(f"{field.name} must be a positive {wanted}, got {value!r}")

    def seconds(self, operations: float, bytes_moved: float, share: float = 1.0) -> float:
        """Return the time that the roofline predicts for one call: of arithmetic or of memory, whichever is longer.

        Args:
            operations: of matrix products.
            bytes_moved: read and written; all that the call's arrays take.
            share: of the bandwidth, what the call reaches.
        """
        memory = bytes_moved / (share * self.bandwidth_of(bytes_moved))
        return max(operations / self.operations, memory) + self.overhead

    def bandwidth_of(self, size: float) -> float:
        """Return the bytes per second at which arrays that take so many bytes, all together, are read and written.

        Between the cache and memory there are larger, slower caches: the logarithm of the speed falls with that of the
        size, from the cache's at `cache_bytes` to memory's at `BEYOND_CACHES` times as many.
        """
        way = math.log(max(size, 1) / self.cache_bytes) / math.log(BEYOND_CACHES)
        beyond = min(max(way, 0.0), 1.0)
        return math.exp((1 - beyond) * math.log(self.cached_bandwidth) + beyond * math.log(self.bandwidth))


#: Where nothing has been measured: a server's processor with two cores, and an NVIDIA H100.
DEFAULT = Machine(
    operations=3e11, bandwidth=2.5e10, cached_bandwidth=7e10, overhead=1e-6, tanh=5e9, cache_bytes=2 * 1024 * 1024
)
DEFAULT_GPU = Machine(
    operations=5e13, bandwidth=2e12, cached_bandwidth=5e12, overhead=8e-6, tanh=1e12, cache_bytes=16 * 1024 * 1024
)


def machine(backend: str, dtype: str = "float32", device: Any = None) -> Machine:
    """Return what `adntn calibrate` has measured here, for a number type on a device; else defaults.

    A file that cannot be used is ignored, with one warning. The file is read once in a process.

    Args:
        backend: the array library, as for `adntn.backend`.
        dtype: of the arrays.
        device: by name or as the library's own value, as `Generator.init` takes it; None for the library's default.

    Raises:
        ImportError: if there is no such backend.
    """
    kept = _kept(cache_file()).get(key(backend, dtype, device))
    if kept is not None:
        return kept
    return DEFAULT if _is_cpu(_device_of(_library(backend), device)) else DEFAULT_GPU


def machine_of(array: Array) -> Machine:
    """Return the machine for an array's library and device, in the number type in which its numbers are computed."""
    dtype = dtype_name(array)
    computed = "float32" if dtype in SHORT_DTYPES else dtype
    return machine(backend_of(array), computed, getattr(array, "device", None))


def key(backend: str, dtype: str, device: Any = None) -> str:
    """Return under which name a measurement is kept: all that it depends on and that is cheap to ask.

    The library and its version, the number type, and the `processor`.

    Raises:
        ImportError: if there is no such backend.
    """
    from adntn.backends import version_of  # noqa: PLC0415  (backends know generators, whose programs know machines)

    where = processor(backend, device)  # which says what is wrong with the name, if anything is
    return " | ".join((f"{backend} {version_of(backend)}".strip(), dtype, where))


def processor(backend: str, device: Any = None) -> str:
    """Return what a device is.

    Of a GPU that is its name, so that equal ones share a measurement. Of a CPU it is its name, its instruction set, how
    many threads the library takes and how many processors this process may use: one file then serves machines that
    share a home directory, and runs with other settings of OMP_NUM_THREADS.

    Raises:
        ImportError: if there is no such backend.
    """
    library = _library(backend)
    where = _device_of(library, device)
    if not _is_cpu(where):
        return _gpu(library, where)
    return f"{_cpu()}, {platform.machine()}, {library.threads()} threads on {processors()} processors"


def processors() -> int:
    """Return how many processors this process may use."""
    own = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(own(0)) if own else os.cpu_count() or 1


def cache_file() -> Path:
    """Return the file that `adntn calibrate` writes: in $ADNTN_CACHE if that is set, else in the user's cache."""
    directory = os.environ.get(DIRECTORY)
    if directory:
        return Path(directory) / FILE
    return _user_cache() / FILE


def read(file: Path) -> dict[str, Machine]:
    """Return the measurements in a file by their `key`; none if there is no file.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not what `text` writes, as a whole.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict) or found.get("version") != VERSION or not isinstance(found.get("machines"), dict):
        raise ValueError(f"it holds no machines of version {VERSION}")
    return {name: _machine(name, numbers) for name, numbers in found["machines"].items()}


def text(machines: Mapping[str, Machine]) -> str:
    """Return the text of a file with these measurements, each under its `key`."""
    numbers = {name: asdict(machines[name]) for name in sorted(machines)}
    return json.dumps({"version": VERSION, "machines": numbers}, indent=1) + "\n"


def forget() -> None:
    """Read the file anew when a machine is next asked for."""
    _kept.cache_clear()


def _machine(name: str, numbers: Any) -> Machine:
    try:
        return Machine(**numbers)
    except (TypeError, ValueError) as error:  # no mapping, a field too many or too few; a number that cannot be
        raise ValueError(f"{name!r} is no machine: {error}") from error


@lru_cache
def _kept(file: Path) -> dict[str, Machine]:
    """Return what is in the file; nothing, with a warning, if it cannot be used: no model may fail for it."""
    try:
        return read(file)
    except (OSError, ValueError) as error:
        words = " ".join(str(error).split())
        warnings.warn(
            f"the calibration in {file} is ignored: {words}; the command `adntn calibrate` renews it", stacklevel=3
        )
        return {}


@cache
def _user_cache() -> Path:
    from platformdirs import user_cache_dir  # noqa: PLC0415  (where no schedule is chosen, none is needed)

    return Path(user_cache_dir("adntn", appauthor=False))


@cache
def _library(name: str) -> Backend:
    from adntn.backends import backend  # noqa: PLC0415  (as above)

    return backend(name)


def _device_of(library: Backend, device: Any) -> str:
    """Return the name of a device, given by name or as the library's own value; of the library's default for None.

    One that the library does not list is named as it prints.
    """
    if isinstance(device, str):
        return device
    try:
        there = library.devices()
        if device is None:
            return there[0]
        return next((name for name in there if library.device(name) == device), str(device))
    except Exception:  # whatever a library raises without its driver: then the name must do
        return str(device or "cpu")


def _is_cpu(device: str) -> bool:
    return "cpu" in device.lower()  # JAX's own devices print as TFRT_CPU_0


@cache
def _gpu(library: Backend, device: str) -> str:
    try:
        return library.device_name(device)
    except Exception:  # whatever a library raises for a name that is not its own
        return device


@cache
def _cpu() -> str:
    """Return the name of the CPU, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()  # Linux
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or "CPU"  # asking the platform starts a process
