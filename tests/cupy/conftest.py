"""The matrix of these tests: the same code on NumPy, which runs everywhere, and on CuPy, which needs a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import autoray
import numpy as np
import pytest
from helpers import needs

from adntn.verification.compare import in_double


@dataclass(frozen=True)
class Library:
    """An array library: its name, a device of its, and how NumPy's arrays get there and back."""

    name: str
    device: Any
    array: Callable[[Any], Any]

    def numpy(self, array: Any) -> np.ndarray:
        """An array of the library, and of no other, in NumPy and double precision."""
        assert autoray.infer_backend(array) == self.name
        return in_double(array)


@pytest.fixture
def cupy() -> Any:
    """The module, on a machine with a GPU; elsewhere the test skips."""
    needs("cupy")
    return import_module("cupy")


@pytest.fixture(params=["numpy", "cupy"])
def library(request: pytest.FixtureRequest) -> Library:
    if request.param == "numpy":
        return Library("numpy", None, np.asarray)
    module = request.getfixturevalue("cupy")
    return Library("cupy", module.cuda.Device(0), module.asarray)
