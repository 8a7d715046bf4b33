"""One cell: the same weight and gradients on some backend, by some path, and how far they are from the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import autoray
import numpy as np
from numpy.typing import NDArray

from adntn.arrays import SHORT_DTYPES, Array, as_dtype, dtype_name, place
from adntn.backends import Backend
from adntn.generator import Generator
from adntn.verification.reference import Reference


@dataclass(frozen=True)
class Errors:
    """How far a weight and gradients are from the reference, relative to its norms.

    Attributes:
        forward: |W - W_reference| / |W_reference|.
        gradient: the largest |gradient - reference| / |reference| of any core.
        core: the core that has it.
    """

    forward: float
    gradient: float
    core: str


@dataclass(frozen=True)
class Way:
    """Where and how something is computed.

    Attributes:
        backend: the array library.
        device: one of the backend's names; None for its default.
        differentiation: "adjoint" or "native".
    """

    backend: Backend
    device: str | None = None
    differentiation: str = "adjoint"

    def __str__(self) -> str:
        return f"{self.backend.name} {self.differentiation}"

    @property
    def shown_device(self) -> str:
        """The device by name; "default" where the backend has several and none was named."""
        there = self.backend.devices()
        return self.device or (there[0] if len(there) == 1 else "default")

    @property
    def place(self) -> Any:
        """The device, as the library takes it."""
        return None if self.device is None else self.backend.device(self.device)


def errors(generator: Generator, made: Reference, way: Way, dtype: str) -> Errors:
    """Return how far the weight and the gradients that are computed in that way are from the reference.

    Raises:
        ValueError: if a result has not the shape of the reference.
        Exception: whatever the library raises.
    """
    backend = way.backend

    def weight_and_gradients(cores: Mapping[str, Array], weight_bar: Array) -> tuple[Array, dict[str, Array]]:
        weight, pullback = backend.vjp(generator, cores, way.differentiation)
        return weight, pullback(weight_bar)

    with backend.precision(dtype), backend.full_precision():
        cores = {name: place(core, backend.name, dtype, way.place) for name, core in made.cores.items()}
        weight_bar = place(made.weight_bar, backend.name, dtype, way.place)
        weight, gradients = backend.compile_once(weight_and_gradients)(cores, weight_bar)
        found = in_double(weight)
        gradients = {name: in_double(gradient) for name, gradient in gradients.items()}
    forward = difference(found, made.weight, float(np.linalg.norm(made.weight)) or 1.0)
    return Errors(forward, *worst(gradient_errors(gradients, made)))


def lack(way: Way, dtype: str) -> str:
    """Return why the library has not that number type there; "" if it has it."""
    try:
        with way.backend.precision(dtype):
            place(np.ones(()), way.backend.name, dtype, way.place)
    except ValueError as error:
        return str(error)
    return ""


def gradient_errors(gradients: Mapping[str, NDArray[Any]], made: Reference) -> dict[str, float]:
    """Return the relative error of every core's gradient.

    Raises:
        KeyError, ValueError: if a gradient is missing or has a wrong shape.
    """
    return {name: difference(gradients[name], right, made.sizes[name]) for name, right in made.gradients.items()}


def worst(found: Mapping[str, float]) -> tuple[float, str]:
    """Return the largest error and its name; NaN is larger than any number."""
    name = max(found, key=lambda own: float("inf") if np.isnan(found[own]) else found[own])
    return found[name], name


def difference(found: NDArray[Any], expected: NDArray[Any], size: float) -> float:
    """Return |found - expected| / size.

    Raises:
        ValueError: if the shapes differ.
    """
    if found.shape != expected.shape:
        raise ValueError(f"a result has the shape {found.shape} instead of {expected.shape}")
    return float(np.linalg.norm(found - expected)) / size


def in_double(array: Array) -> NDArray[Any]:
    """Return an array of any library as a NumPy array in double precision."""
    if dtype_name(array) in SHORT_DTYPES:
        array = as_dtype(array, "float32")  # NumPy itself has no bfloat16
    own = np.asarray(autoray.to_numpy(array))
    return own.astype(np.complex128 if own.dtype.kind == "c" else np.float64)
