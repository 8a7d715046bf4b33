"""Array libraries by name: which are there, whether they work, and what each adds to what autoray knows of it.

Any array library that autoray can call runs programs and our adjoint. A *backend* adds the rest: devices, the library's
own differentiation, double precision. Packages offer one as an entry point of the group `adntn.backends`, whose name is
autoray's name of the library and whose value is a `Backend`; those in this distribution are found in the same way.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from adntn.arrays import Array
from adntn.generator import Generator

#: The group of entry points.
GROUP = "adntn.backends"

#: From a generator and its cores to the weight and its pullback, as `Generator.vjp` returns them.
VectorJacobianProduct = Callable[[Generator, Mapping[str, Array]], tuple[Array, Callable[[Array], dict[str, Array]]]]


def _one_device() -> tuple[str, ...]:
    return ("cpu",)


def _as_named(name: str) -> Any:
    return name


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


@dataclass(frozen=True)
class Backend:
    """An array library, and what autoray cannot know of it.

    >>> import adntn
    >>> adntn.backend("numpy").devices()
    ('cpu',)

    Attributes:
        name: the array library, as autoray names it: "numpy", "torch", "jax", "cupy" ...
        devices: returns the names of the devices that are there; raises any exception if the library does not work.
        device: from one of these names to what `Generator.init(device=...)` takes; None for the default device.
        native_vjp: like `Generator.vjp`, by the library's own automatic differentiation; None if it has none. Gradients
            of complex cores are with respect to the conjugate, as those of `Generator.vjp`.
        double_precision: a context in which the library has float64 and complex128.
        compile: from a pure function of arrays, tuples and mappings of arrays to the same function, compiled; the
            function itself where the library has no compiler.
    """

    name: str
    devices: Callable[[], tuple[str, ...]] = _one_device
    device: Callable[[str], Any] = _as_named
    native_vjp: VectorJacobianProduct | None = None
    double_precision: Callable[[], AbstractContextManager[Any]] = nullcontext
    compile: Callable[[Callable[..., Any]], Callable[..., Any]] = _as_it_is

    @property
    def differentiations(self) -> tuple[str, ...]:
        """The paths of differentiation: "adjoint", the library's of ours, and "native" where there is one."""
        return ("adjoint",) if self.native_vjp is None else ("adjoint", "native")

    def vjp(
        self, generator: Generator, cores: Mapping[str, Array], differentiation: str = "adjoint"
    ) -> tuple[Array, Callable[[Array], dict[str, Array]]]:
        """Return the weight and its pullback along the named path of differentiation.

        Raises:
            ValueError: if the backend has no such path.
        """
        if differentiation not in self.differentiations:
            raise ValueError(
                f"differentiation must be one of {', '.join(self.differentiations)} on {self.name},"
                f" got {differentiation!r}"
            )
        if differentiation == "native" and self.native_vjp is not None:
            return self.native_vjp(generator, cores)
        return generator.vjp(cores)


@dataclass(frozen=True)
class Status:
    """Whether a backend can be used here.

    Attributes:
        name: of the backend.
        installed: whether its array library is installed.
        usable: whether it works.
        devices: those that it can compute on; empty if it is not usable.
        reason: why it is not usable, with what to do; empty if it is.
        version: of its array library; empty if that is not known.
    """

    name: str
    installed: bool
    usable: bool
    devices: tuple[str, ...] = ()
    reason: str = ""
    version: str = ""


NUMPY = Backend("numpy", device=lambda name: None)
