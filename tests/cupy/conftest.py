"""The matrix of these tests: the same code on NumPy, which runs everywhere, and on CuPy, which needs a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import autoray
import numpy as np
import pytest

import adntn

TOPOLOGIES = {
    "TTN": adntn.TTN.options(bond=2),
    "TTN, padded, gelu": adntn.TTN.options(bond=3, activation="gelu", layout="interleaved"),
    "AugmentedTTN": adntn.AugmentedTTN.options(bond=2, activation="silu", last_activation="relu"),
    "MERA": adntn.MERA.options(bond=2, activation="softplus"),
    "Brickwall": adntn.Brickwall.options(activation="sin"),
    "TensorTrain": adntn.TensorTrain.options(bond=3),
    "LowRank, batch": adntn.LowRank.options(rank=3, batch=2),
    "Tucker": adntn.Tucker.options(rank=2),
}
DTYPES = ("float32", "float64", "complex64", "complex128", "float16")


@dataclass(frozen=True)
class Library:
    """An array library: its name, a device of its, and how NumPy's arrays get there and back."""

    name: str
    device: Any
    array: Callable[[Any], Any]

    def numpy(self, array: Any) -> np.ndarray:
        """An array of the library, and of no other, in NumPy and double precision."""
        assert autoray.infer_backend(array) == self.name
        copied = autoray.to_numpy(array)
        return copied.astype(np.complex128 if copied.dtype.kind == "c" else np.float64)


@pytest.fixture
def cupy() -> Any:
    """The module, on a machine with a GPU; elsewhere the test skips."""
    module = pytest.importorskip("cupy", reason="CuPy is not installed")
    try:
        module.cuda.runtime.getDeviceCount()
    except module.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"CuPy has no GPU: {error}")
    return module


@pytest.fixture(params=["numpy", "cupy"])
def library(request: pytest.FixtureRequest) -> Library:
    if request.param == "numpy":
        return Library("numpy", None, np.asarray)
    module = request.getfixturevalue("cupy")
    return Library("cupy", module.cuda.Device(0), module.asarray)


@pytest.fixture(params=TOPOLOGIES.values(), ids=TOPOLOGIES.keys())
def topology(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def relative_error() -> Callable[[np.ndarray, np.ndarray], float]:
    return _relative_error


@pytest.fixture
def tolerance() -> Callable[[str], float]:
    return _tolerance


def _relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected)) / (float(np.linalg.norm(expected)) or 1.0)


def _tolerance(dtype: str) -> float:
    """Relative to the norm: a few hundred roundings lie on the way to each number."""
    return 500 * float(np.finfo(dtype).eps)
