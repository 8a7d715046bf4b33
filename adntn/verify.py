"""Do all backends compute the same? `verify` compares them with a reference that is itself checked."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adntn.arrays import DTYPES
from adntn.backends import NUMPY, Backend, backend, backends, version_of
from adntn.generator import Generator
from adntn.verification.cases import Case, cases_of, chosen, own_cases
from adntn.verification.compare import Way, errors, lack, worst
from adntn.verification.reference import (
    FINITE_DIFFERENCE_TOLERANCE,
    Reference,
    complex_step_errors,
    finite_difference_errors,
    reference,
)
from adntn.verification.result import COMPLEX_STEP, FINITE_DIFFERENCES, REFERENCE, Cell, Skipped, Verification
from adntn.verification.tolerance import depth, tolerance

#: What is verified if nothing is said.
DEFAULT_DTYPES = ("float32", "float64", "complex64", "complex128")

#: Called with the number of cases done, the number of all, and the case that comes next.
Progress = Callable[[int, int, str], None]


def verify(
    generators: Generator | Mapping[str, Generator] | None = None,
    *,
    backends: Sequence[str] | None = None,
    topologies: Sequence[str] | None = None,
    activations: Sequence[str] | None = None,
    dtypes: Sequence[str] = DEFAULT_DTYPES,
    device: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Verification:
    """Return whether backends agree: weight and every core's gradient, on every path of differentiation.

    >>> import adntn
    >>> result = adntn.verify(adntn.TTN((8, 8), bond=2, leg=1), backends=["numpy"], dtypes=["float64"])
    >>> result.ok, [cell.differentiation for cell in result.cells]
    (True, ['finite differences', 'complex step', 'adjoint'])

    The reference is the weight by definition (contracted by opt_einsum) and the gradients of NumPy's adjoint in double
    precision; these are themselves compared with finite differences and, for real cores and holomorphic activations,
    complex steps. Errors are relative to the norm of the weight or of the core's gradient; what they may be follows
    from the number type's epsilon and the depth of the program (`adntn.verification.tolerance`).

    Args:
        generators: one's own, alone or by name; by default every topology with every activation, at a small shape.
        backends: names, as for `adntn.backend`; all that are usable here by default.
        topologies, activations: some of the names, see `adntn.verification.cases`; only without `generators`.
        dtypes: of the cores. Complex ones are left out where an activation has no complex derivative.
        device: for all backends but NumPy; each one's default if None.
        seed: of cores and dL/dW.
        progress: called before each case, and at the end.

    Raises:
        ImportError: if a backend cannot be used.
        TypeError, ValueError: if a name is unknown, a backend does not have the device, or there is nothing to compare
            on one of the named backends.
    """
    started = time.perf_counter()
    if generators is not None and (topologies is not None or activations is not None):
        raise ValueError("topologies and activations choose among the cases of adntn; generators bring their own")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0, got {seed!r}")
    cases = cases_of(topologies, activations) if generators is None else own_cases(generators)
    types = _taken(cases, chosen(dtypes, DTYPES, "dtypes"))
    ways = _ways(usable_backends() if backends is None else chosen_backends(backends), device)
    lacks = {(way.backend.name, dtype): lack(way, dtype) for way in ways for dtype in types}
    _check_not_idle(lacks, each=backends is not None)
    task = _Task(ways, types, {key for key, reason in lacks.items() if reason}, seed)
    cells: list[Cell] = []
    for number, case in enumerate(cases):
        if progress is not None:
            progress(number, len(cases), str(case))
        cells += task.cells(case)
    if progress is not None:
        progress(len(cases), len(cases), "")
    skipped = tuple(Skipped(name, dtype, reason) for (name, dtype), reason in lacks.items() if reason)
    return Verification(tuple(cells), skipped, _environment(ways), seed, time.perf_counter() - started)


def chosen_backends(names: Sequence[str]) -> tuple[Backend, ...]:
    """Return the backends of these names, each once.

    Raises:
        ImportError: if one cannot be used.
        ValueError: if there is no name.
    """
    if isinstance(names, str) or not names:
        raise ValueError(f'backends must be a sequence of at least one name, such as ["numpy"]; got {names!r}')
    return tuple(backend(name) for name in dict.fromkeys(names))


@dataclass(frozen=True)
class _Task:
    """What is done with every case."""

    ways: tuple[Way, ...]
    dtypes: tuple[str, ...]
    lacking: set[tuple[str, str]]
    seed: int

    def cells(self, case: Case) -> Iterator[Cell]:
        """Yield the cells of one case: first those that check the reference."""
        for double, dtypes in (("float64", self._real), ("complex128", self._complex)):
            if not dtypes or not case.takes(double):
                continue
            try:
                made = reference(case.generator, is_complex=double == "complex128", seed=self.seed)
                checks = tuple(self._checks(case, made, double))
            except Exception as error:  # whatever a user's activation does
                named = (case.topology, case.activation, double, REFERENCE, "cpu", FINITE_DIFFERENCES)
                yield _failed(named, FINITE_DIFFERENCE_TOLERANCE, error)
                continue
            yield from checks
            for dtype in dtypes:
                for way in self.ways:
                    if (way.backend.name, dtype) not in self.lacking:
                        yield _cell(case, made, way, dtype)

    @property
    def _real(self) -> tuple[str, ...]:
        return tuple(dtype for dtype in self.dtypes if not dtype.startswith("complex"))

    @property
    def _complex(self) -> tuple[str, ...]:
        return tuple(dtype for dtype in self.dtypes if dtype.startswith("complex"))

    def _checks(self, case: Case, made: Reference, dtype: str) -> Iterator[Cell]:
        """Yield the cells that compare the reference's gradients with differences of the weight by definition."""
        found = finite_difference_errors(case.generator, made, self.seed)
        yield _check(case, dtype, FINITE_DIFFERENCES, found, FINITE_DIFFERENCE_TOLERANCE)
        if dtype == "float64" and case.holomorphic:
            found = complex_step_errors(case.generator, made, self.seed)
            yield _check(case, dtype, COMPLEX_STEP, found, tolerance(dtype, depth(case.generator), made.condition))


def _check(case: Case, dtype: str, method: str, found: Mapping[str, float], allowed: float) -> Cell:
    error, core = worst(found)
    return Cell(case.topology, case.activation, dtype, REFERENCE, "cpu", method, 0.0, error, core, allowed)


def _cell(case: Case, made: Reference, way: Way, dtype: str) -> Cell:
    named = (case.topology, case.activation, dtype, way.backend.name, way.shown_device, way.differentiation)
    allowed = tolerance(dtype, depth(case.generator), made.condition)
    try:
        found = errors(case.generator, made, way, dtype)
    except Exception as error:  # whatever the library does: the other cells are still of use
        return _failed(named, allowed, error)
    return Cell(*named, found.forward, found.gradient, found.core, allowed)


def _failed(named: tuple[str, str, str, str, str, str], allowed: float, error: Exception) -> Cell:
    words = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Cell(*named, float("inf"), float("inf"), "", allowed, words)


def _taken(cases: Sequence[Case], dtypes: Sequence[str]) -> tuple[str, ...]:
    """Return the number types that any of the cases takes.

    Raises:
        ValueError: if there is none.
    """
    if not cases:
        raise ValueError("nothing to verify: generators holds no generator")
    taken = tuple(dtype for dtype in dtypes if any(case.takes(dtype) for case in cases))
    if not taken:
        activations = ", ".join(dict.fromkeys(case.activation for case in cases))
        raise ValueError(f"nothing to verify: no complex cores for {activations}, but dtypes are {', '.join(dtypes)}")
    return taken


def _check_not_idle(lacks: Mapping[tuple[str, str], str], *, each: bool) -> None:
    """Check that each backend, or else any, has one of the number types.

    Args:
        lacks: for each backend and number type why it is not there, "" where it is.
        each: whether each backend was asked for.

    Raises:
        ValueError: with the reasons.
    """
    names = dict.fromkeys(name for name, _ in lacks)
    idle = [name for name in names if all(reason for (own, _), reason in lacks.items() if own == name)]
    if idle and (each or len(idle) == len(names)):
        reasons = "; ".join(reason for (name, _), reason in lacks.items() if name == idle[0])
        raise ValueError(f"nothing to verify on {idle[0]}: {reasons}")


def usable_backends() -> tuple[Backend, ...]:
    """Return NumPy and all plug-ins that can be used here."""
    return tuple(backend(status.name) for status in backends() if status.usable)


def _ways(libraries: Sequence[Backend], device: str | None) -> tuple[Way, ...]:
    """Return every path of differentiation of every backend.

    Raises:
        ImportError: if a backend does not work.
        ValueError: if a backend does not have the device.
    """
    ways: list[Way] = []
    for library in libraries:
        try:
            library.devices()
        except Exception as error:  # whatever a library does without its driver
            raise ImportError(f"backend {library.name!r} cannot be used: {error}") from error
        where = None if library == NUMPY else device
        if where is not None:
            library.placed_on(where)
        ways += [Way(library, where, path) for path in library.differentiations]
    return tuple(ways)


def _described(library: Backend, device: str) -> str:
    name = library.device_name(device)
    return device if device.startswith(name) else f"{device} ({name})"


def _environment(ways: Sequence[Way]) -> tuple[tuple[str, str], ...]:
    """Return versions and devices."""
    from adntn import __version__  # noqa: PLC0415  (the package is only then complete)

    own = {"adntn": __version__, "python": platform.python_version(), "numpy": np.__version__}
    libraries = {}
    for way in ways:
        name = way.backend.name
        libraries[name] = version_of(name)
        libraries[f"{name}: devices"] = ", ".join(_described(way.backend, device) for device in way.backend.devices())
    return (*{**own, **libraries, "machine": platform.machine(), "system": platform.system()}.items(),)
