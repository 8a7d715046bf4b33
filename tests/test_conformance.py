"""Every array library that is installed runs through the suite that third parties run their backends through."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from adntn.testing import BackendConformance


def needs(library: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(library) is None, reason=f"{library} is not installed")


class TestNumPy(BackendConformance):
    backend = "numpy"


@needs("array_api_strict")
class TestArrayAPIStrict(BackendConformance):
    """A library without a plug-in: it works through autoray and the explicit adjoint alone."""

    backend = "array_api_strict"


@needs("dask")
class TestDask(BackendConformance):
    """Another one, whose arrays are computed late and in chunks."""

    backend = "dask"


@needs("torch")
class TestTorch(BackendConformance):
    backend = "torch"


@needs("jax")
class TestJAX(BackendConformance):
    backend = "jax"
