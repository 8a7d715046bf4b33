"""What CuPy adds to what autoray knows of it: devices."""

from __future__ import annotations

import cupy

from adntn.backends import Backend


def devices() -> tuple[str, ...]:
    """Return the names of the GPUs: "cuda:0", "cuda:1" ...

    Raises:
        cupy.cuda.runtime.CUDARuntimeError: if there is no driver or no GPU.
    """
    return tuple(f"cuda:{number}" for number in range(cupy.cuda.runtime.getDeviceCount()))


def device(name: str) -> cupy.cuda.Device:
    """Return the GPU of that name; without a number, "cuda" is the current one.

    Raises:
        ValueError: if there is none.
    """
    if name == "cuda":
        return cupy.cuda.Device()
    there = devices()
    if name not in there:
        raise ValueError(f"device must be one of {', '.join(there)}, got {name!r}")
    return cupy.cuda.Device(there.index(name))


def device_name(name: str) -> str:
    """Return what a GPU is, such as "NVIDIA H100 80GB HBM3"."""
    properties = cupy.cuda.runtime.getDeviceProperties(device(name).id)
    return str(properties["name"].decode())


BACKEND = Backend("cupy", devices=devices, device=device, device_name=device_name)
