"""What a result was measured with: the processor, how many of its cores, and versions; never whose machine it was."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

#: The environment variables by which array libraries take their number of threads.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def cores() -> int:
    """Return how many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """Return the versions of those distributions that are installed.

    >>> list(versions(["numpy", "no-such-distribution"]))
    ['numpy']
    """
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine(threads: int) -> dict[str, str]:
    """Return what to print above a result."""
    return {
        "processor": processor(),
        "cores": str(cores()),
        "threads": str(threads),
        "idle threads": os.environ.get("OMP_WAIT_POLICY", "passive").lower(),
        "system": platform.system(),
        "python": platform.python_version(),
    }
