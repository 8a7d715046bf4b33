"""Array libraries by name: which are there, whether they work, and what each adds to what autoray knows of it.

Any array library that autoray can call runs programs and our adjoint. A *backend* adds the rest: devices, the library's
own differentiation, double precision. Packages offer one as an entry point of the group `adntn.backends`, whose name is
autoray's name of the library and whose value is a `Backend`; those in this distribution are found in the same way.
NumPy is always there.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any, Literal, get_args

import numpy as np

from adntn.arrays import DOUBLE_DTYPES, Array, did_you_mean, namespace, place
from adntn.generator import Generator
from adntn.machine import processors

#: The group of entry points.
GROUP = "adntn.backends"

#: The two paths of differentiation: the framework's own and the library's adjoint.
Differentiation = Literal["native", "adjoint"]
DIFFERENTIATIONS: tuple[str, ...] = get_args(Differentiation)

#: From a generator and its cores to the weight and its pullback, as `Generator.vjp` returns them.
VectorJacobianProduct = Callable[[Generator, Mapping[str, Array]], tuple[Array, Callable[[Array], dict[str, Array]]]]


def _one_device() -> tuple[str, ...]:
    return ("cpu",)


def _as_named(name: str) -> Any:
    return name


def _threads() -> int:
    """Return what the variables say that libraries of linear algebra heed; all processors where they say nothing."""
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "")
        if value.isdecimal() and int(value) > 0:
            return int(value)
    return processors()


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
        full_precision: a context in which it multiplies float32 in float32: GPUs may round the factors to fewer bits
            (TF32). Verification computes in it; everywhere else the user's own setting governs, in training too.
        device_name: from one of the names of devices to what the device is: "NVIDIA H100" ...
        threads: returns with how many threads it computes on a CPU.
        compile: from a pure function of arrays, tuples and mappings of arrays to the same function, compiled; the
            function itself where the library has no compiler.
        compile_once: the same for a function that runs once, with the least time for compiling; verification computes
            through it, so that a library that compiles every step on its own need not do so.
    """

    name: str
    devices: Callable[[], tuple[str, ...]] = _one_device
    device: Callable[[str], Any] = _as_named
    native_vjp: VectorJacobianProduct | None = None
    double_precision: Callable[[], AbstractContextManager[Any]] = nullcontext
    full_precision: Callable[[], AbstractContextManager[Any]] = nullcontext
    device_name: Callable[[str], str] = str
    threads: Callable[[], int] = _threads
    compile: Callable[[Callable[..., Any]], Callable[..., Any]] = _as_it_is
    compile_once: Callable[[Callable[..., Any]], Callable[..., Any]] = _as_it_is

    @property
    def differentiations(self) -> tuple[str, ...]:
        """The paths of differentiation: "adjoint", the library's of ours, and "native" where there is one."""
        return ("adjoint",) if self.native_vjp is None else ("adjoint", "native")

    def precision(self, dtype: str) -> AbstractContextManager[Any]:
        """Return the context in which the library has that number type."""
        return self.double_precision() if dtype in DOUBLE_DTYPES else nullcontext()

    def placed_on(self, device: str) -> Any:
        """Return what `Generator.init(device=...)` takes for the device of that name; None for the default device.

        It may go by another name than in `devices`: JAX calls "cuda:0" what it lists as "gpu:0".

        Raises:
            ValueError: if there is no such device, or arrays cannot lie on it.
        """
        there = self.devices()
        try:
            placed_on = self.device(device)
            place(np.ones(()), self.name, "float32", placed_on)
        except Exception as error:  # whatever a library raises for a name that it does not know
            raise ValueError(
                f"device must be one of {', '.join(there)} on {self.name}, got {device!r}: {_in_words(error)}"
            ) from error
        if placed_on is None and device not in there:
            raise ValueError(f"device must be one of {', '.join(there)} on {self.name}, got {device!r}")
        return placed_on

    def vjp(
        self, generator: Generator, cores: Mapping[str, Array], differentiation: str = "adjoint"
    ) -> tuple[Array, Callable[[Array], dict[str, Array]]]:
        """Return the weight and its pullback along the named path of differentiation.

        Raises:
            ValueError: if the backend has no such path.
            KeyError, ValueError, TypeError: if the cores are not the generator's, or dL/dW does not fit them.
        """
        if differentiation not in self.differentiations:
            raise ValueError(
                f"differentiation must be one of {', '.join(self.differentiations)} on {self.name},"
                f" got {differentiation!r}"
            )
        if differentiation != "native" or self.native_vjp is None:
            return generator.vjp(cores)
        generator.check(cores)
        weight, pullback = self.native_vjp(generator, cores)

        def checked(weight_bar: Array) -> dict[str, Array]:
            generator.check_weight_bar(weight_bar, cores)
            return pullback(weight_bar)

        return weight, checked


def checked_differentiation(differentiation: str | None, engine: str | None = None) -> Differentiation:
    """Return the path that a name means in a framework; None is "native", or "adjoint" with an engine.

    >>> checked_differentiation(None), checked_differentiation(None, engine="numpy")
    ('native', 'adjoint')

    Args:
        differentiation: the name of a path, or None.
        engine: the array library that computes in the framework's place; None if the framework itself does.

    Raises:
        ValueError: if there is no path of that name, or the engine leaves no choice of it.
    """
    if differentiation is None:
        return "native" if engine is None else "adjoint"
    if differentiation == "adjoint":
        return "adjoint"
    if differentiation != "native":
        raise ValueError(f"differentiation must be one of {', '.join(DIFFERENTIATIONS)}, got {differentiation!r}")
    if engine is not None:
        raise ValueError(
            f'differentiation must be "adjoint" with the engine {engine!r}, got "native": no framework differentiates'
            " what another library computes"
        )
    return "native"


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


def backend(name: str) -> Backend:
    """Return the backend of that name: a plug-in's, or a plain one for any other array library that is installed.

    >>> import adntn
    >>> adntn.backend("numpy").differentiations
    ('adjoint',)

    Args:
        name: the array library, as autoray names it: "numpy", "torch", "jax", "cupy", "dask" ...

    Raises:
        ImportError: if the library is not installed (with the command that installs it), is no array library, or if its
            plug-in is broken.
        TypeError: if the name is no string.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a backend must be a string, got {name!r}")
    if name == NUMPY.name:
        return NUMPY
    entries = _entries()
    if name in entries:
        return _loaded(entries[name])
    if not name.isidentifier() or not _is_installed(name):
        known = [NUMPY.name, *entries]
        raise ImportError(
            f"backend {name!r} is unknown{did_you_mean(name, known)}: no plug-in and no installed library has that"
            f" name; there are {', '.join(known)}, and any installed array library that autoray knows"
        )
    try:
        namespace(name, is_complex=False)
    except Exception as error:
        raise ImportError(f"backend {name!r} cannot be used: {_in_words(error)}") from error
    return Backend(name, device=NUMPY.device)


def usable_backend(name: str) -> Backend:
    """Return the backend of that name, which has a device here.

    >>> usable_backend("numpy").name
    'numpy'

    Raises:
        ImportError: as `backend`; or if the library does not work here, with its own reason.
        TypeError: if the name is no string.
    """
    found = backend(name)
    try:
        if not found.devices():
            raise RuntimeError("it has no device here")
    except Exception as error:  # whatever a plug-in or its library does
        raise ImportError(f"backend {name!r} cannot be used: {_in_words(error)}") from error
    return found


def backends() -> tuple[Status, ...]:
    """Return the status of NumPy and of every plug-in, by name; a broken one is reported and does no harm to others.

    >>> import adntn
    >>> [status.name for status in adntn.backends() if status.usable][0]
    'numpy'
    """
    return tuple(_status(name) for name in (NUMPY.name, *_entries()))


def _entries() -> dict[str, EntryPoint]:
    """Return the plug-ins by name; of two with one name the first on the path, as for modules."""
    entries: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        entries.setdefault(entry.name, entry)
    return {name: entries[name] for name in sorted(entries) if name != NUMPY.name}


def _loaded(entry: EntryPoint) -> Backend:
    if not _is_installed(entry.name):
        raise ImportError(f"backend {entry.name!r} is not installed; try: {_installation(entry)}")
    try:
        loaded = entry.load()
        if not isinstance(loaded, Backend):
            raise TypeError(f"{entry.value} must be an adntn.Backend, got {type(loaded).__name__}")
        if loaded.name != entry.name:
            raise ValueError(f"{entry.value} must be named {entry.name!r} as its entry point, got {loaded.name!r}")
    except Exception as error:  # whatever a plug-in does at its import
        package = "" if entry.dist is None else f" of the package {entry.dist.name}"
        raise ImportError(f"the plug-in of backend {entry.name!r}{package} is broken: {_in_words(error)}") from error
    return loaded


def _status(name: str) -> Status:
    installed = _is_installed(name)
    try:
        devices = usable_backend(name).devices()
    except Exception as error:  # whatever a plug-in or its library does
        return Status(name, installed, usable=False, reason=_in_words(error))
    return Status(name, installed, usable=True, devices=devices, version=version_of(name))


def version_of(name: str) -> str:
    """Return the version of an installed library; empty if it has none."""
    return str(getattr(importlib.import_module(name), "__version__", ""))


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _installation(entry: EntryPoint) -> str:
    """Return the command that installs the library: by the extra of that name, if the plug-in's package has one."""
    extras = [] if entry.dist is None else entry.dist.metadata.get_all("Provides-Extra") or []
    if entry.dist is not None and entry.name in extras:
        return f'pip install "{entry.dist.name}[{entry.name}]"'
    return f"pip install {entry.name}"


def _in_words(error: Exception) -> str:
    """Return an error on one line; those that are raised here already say what happened."""
    words = " ".join(str(error).split())
    return words if isinstance(error, ImportError) and words else f"{type(error).__name__}: {words}"
