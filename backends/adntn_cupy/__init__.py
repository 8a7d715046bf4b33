"""Generators on CuPy: the backend by name. Everything else is the core's.

CuPy computes on its current device and stream and takes memory from its pool, and so do generators:

    device = adntn.backend("cupy").device("cuda:1")
    cores = generator.init(backend="cupy", device=device)
    with device, stream:
        weight, pullback = generator.vjp(cores)

Activations, forward and derivative, run as one kernel each (`cupy.fuse`, which the core looks for in each library).
Nothing is copied to the host: `adntn.Adam` trains cores where they are, `adntn.fit` brings only the cores to SciPy.
"""

from adntn_cupy.backend import BACKEND

__all__ = ["BACKEND"]
