"""`adntn calibrate`: how fast is this machine? What is measured is kept, for schedules to be chosen by."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from adntn.arrays import DTYPES
from adntn.backends import Backend
from adntn.commands.output import console, names, shown_progress, subcommand, write_whole
from adntn.machine import DIRECTORY, Machine, cache_file, forget, key, processor, processors, read, text
from adntn.measure import measure
from adntn.verification.cases import chosen
from adntn.verify import chosen_backends, usable_backends

SUMMARY = "measure how fast this machine computes and moves numbers, and keep it for the choice of schedules"
EXAMPLES = """examples:
  adntn calibrate
  adntn calibrate --backends numpy,torch --dtypes float32,float64
  adntn calibrate --backends torch --devices cpu,cuda:0
  adntn calibrate --show

Run it while the machine does nothing else, and with the number of threads (OMP_NUM_THREADS) that you will use.
It is kept in the user's cache directory, or in the directory that ADNTN_CACHE names, beside what was measured before
on other devices or with other versions.

exit codes: 0 all measured, 1 something could not be measured, 2 bad input
"""


def add(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = subcommand(subcommands, "calibrate", SUMMARY, EXAMPLES)
    parser.add_argument("--backends", type=names, metavar="NAMES", help="by default all that `adntn backends` can use")
    parser.add_argument(
        "--devices",
        type=names,
        metavar="NAMES",
        help="as `adntn backends` names them; by default one of each kind that a backend has",
    )
    parser.add_argument(
        "--dtypes",
        type=names,
        metavar="NAMES",
        default=("float32",),
        help=f"of: {', '.join(DTYPES)}; by default float32",
    )
    parser.add_argument("--show", action="store_true", help="measure nothing: print what is kept, and where")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure, keep, print; return 0 if all was measured and 1 if not."""
    file = cache_file()
    if arguments.show:
        _print(_kept(file), {}, file, as_json=arguments.json)
        return 0
    dtypes = chosen(arguments.dtypes, DTYPES, "dtypes")
    libraries = usable_backends() if arguments.backends is None else chosen_backends(arguments.backends)
    wanted = [(*where, dtype) for where in _places(libraries, arguments.devices) for dtype in dtypes]
    _prepare(file)
    if load := _load():
        console(stderr=True).print(f"the machine is busy ({load}): measure again when it is not", markup=False)
    measured, failed = _measured(wanted)
    if measured:
        _keep(measured, file)
    _print(measured, failed, file, as_json=arguments.json)
    return 1 if failed else 0


def _places(libraries: Sequence[Backend], devices: Sequence[str] | None) -> Iterator[tuple[str, str]]:
    """Yield the names of backends and of devices on which to measure.

    Raises:
        ValueError: if no backend has a device of that name, or a backend has none of the devices.
    """
    if devices is None:
        for library in libraries:
            kinds = {processor(library.name, device): device for device in reversed(library.devices())}
            yield from ((library.name, device) for device in reversed(kinds.values()))
        return
    lacks = {(library.name, device): _lack(library, device) for library in libraries for device in devices}
    for device in devices:
        if all(lacks[library.name, device] for library in libraries):
            raise ValueError("; ".join(lacks[library.name, device] for library in libraries))
    for library in libraries:
        if all(lacks[library.name, device] for device in devices):
            raise ValueError(lacks[library.name, devices[0]])
    yield from (place for place, reason in lacks.items() if not reason)


def _lack(library: Backend, device: str) -> str:
    """Return why a backend does not have a device; "" if it does."""
    try:
        library.placed_on(device)
    except ValueError as error:
        return str(error)
    return ""


def _measured(wanted: Sequence[tuple[str, str, str]]) -> tuple[dict[str, Machine], dict[str, str]]:
    """Return what was measured, and why the rest was not; for each backend, device and number type."""
    measured: dict[str, Machine] = {}
    failed: dict[str, str] = {}
    with shown_progress("calibrate") as progress:
        for number, (backend, device, dtype) in enumerate(wanted):
            name = key(backend, dtype, device)
            if progress is not None:
                progress(number, len(wanted), name)
            try:
                measured[name] = measure(backend, dtype, device)
            except Exception as error:  # whatever a library does: the others are still of use
                failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return measured, failed


def _load() -> str:
    """Return by how much other programs keep the processors busy; "" where they do not, or the system does not tell."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0  # not on Windows
    return f"load {load:.1f} on {processors()} processors" if load > processors() / 2 else ""


def _prepare(file: Path) -> None:
    """Check that the file can be written: better now than after the work.

    Raises:
        OSError: if not.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(file, str(error)) from error
    if file.is_dir():
        raise _unwritable(file, "it is a directory")
    if not os.access(file.parent, os.W_OK | os.X_OK):
        raise _unwritable(file, "no permission to write in its directory")


def _unwritable(file: Path, reason: str) -> OSError:
    return OSError(f"{file} cannot be written: {reason}; set {DIRECTORY} to a directory that can")


def _keep(measured: Mapping[str, Machine], file: Path) -> None:
    """Write what was measured beside what was before; a file that cannot be used is replaced.

    Raises:
        OSError: if the file cannot be written.
    """
    try:
        before = read(file)
    except (OSError, ValueError):
        before = {}
    try:
        write_whole(file, text({**before, **measured}))
    except OSError as error:
        raise _unwritable(file, str(error)) from error
    forget()


def _kept(file: Path) -> dict[str, Machine]:
    try:
        return read(file)
    except ValueError as error:
        raise ValueError(f"{file} cannot be used: {error}; `adntn calibrate` renews it") from error


def _print(measured: Mapping[str, Machine], failed: Mapping[str, str], file: Path, *, as_json: bool) -> None:
    if as_json:
        machines = {name: asdict(one) for name, one in measured.items()}
        print(json.dumps({"file": str(file), "machines": machines, "failed": failed}, indent=1))
        return
    from rich.table import Table  # noqa: PLC0415  (other commands need not load it)

    heads = ("backend", "dtype", "processor", "operations/s", "bytes/s", "in cache", "call", "tanh/s", "cache")
    table = Table(*heads)
    for name, one in measured.items():
        speeds = (f"{speed:.2g}" for speed in (one.operations, one.bandwidth, one.cached_bandwidth))
        rest = (f"{1e6 * one.overhead:.2g} us", f"{one.tanh:.2g}", f"{one.cache_bytes // 1024} KiB")
        table.add_row(*name.split(" | "), *speeds, *rest)
    out = console()
    if measured:
        out.print(table, markup=False)
    for name, reason in failed.items():
        out.print(f"{name}: not measured: {reason}", markup=False)
    out.print(f"kept in {file}" if measured else f"nothing is kept in {file}", markup=False)
