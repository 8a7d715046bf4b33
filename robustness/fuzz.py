"""Feeding readers with files that are almost right, guided by which lines of the library they reach.

A mutated file that reaches a line that none before it has is kept and mutated further. What must not happen is a
finding: an error that is not documented, something that is run, ten seconds without an answer, half a gigabyte.
"""

from __future__ import annotations

import hashlib
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import adntn
from adntn.benchmarking.memory import ProcessMeter
from robustness.mutations import mutated
from robustness.readers import Reader

#: Seconds of the processor after which a reader hangs: on a busy machine the clock says little.
PATIENCE = 10
#: Bytes that a file of kilobytes is not worth.
ABSURD = 2**29
#: What no reader does, by the names of Python's audit events.
FORBIDDEN = (
    *("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "subprocess.Popen", "pty.spawn"),
    *("socket.connect", "socket.bind", "webbrowser.open"),
)
#: The folders of our own code.
OWN = (str(Path(adntn.__file__).parent), str(Path(adntn.__file__).parents[1] / "backends"))
#: Files above this size are not mutated further.
LARGEST_FILE = 2**16
#: Bytes that the files of one reader may take in a corpus.
ROOM = 6_000


class TookForEverError(BaseException):
    """A reader has not answered in time; no `except Exception` of a reader takes it for its own."""


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
        refusal: where it was refused, as "module:line"; empty if it was taken.
        finding: what must not happen, or empty.
    """

    refusal: str = ""
    finding: str = ""


@dataclass
class Tally:
    """What was seen of one reader."""

    seconds: float = 0.0
    executions: int = 0
    refused: int = 0
    refusals: set[str] = field(default_factory=set)
    findings: set[str] = field(default_factory=set)
    pool: list[bytes] = field(default_factory=list)


class Ear:
    """Hears of what readers must not do, from `listen` on, as long as the process lives: hooks cannot be taken back."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.is_open, self._is_hooked = False, False

    def listen(self) -> None:
        """Put the hook in place, once."""
        if not self._is_hooked:
            sys.addaudithook(self._hear)
            self._is_hooked = True

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.is_open and event in FORBIDDEN:
            self.heard.append(event)


EAR = Ear()


def execute(reader: Reader, blob: bytes) -> Outcome:
    """Return what becomes of a file; in the main thread, because of the alarm, and on Linux, which counts memory."""
    EAR.listen()
    EAR.heard.clear()
    meter = ProcessMeter()
    meter.reset_peak()  # what an earlier file took would hide what this one takes
    before = meter.peak()
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), _alarm():
        warnings.simplefilter("ignore")
        try:
            EAR.is_open = True
            reader.read(blob, Path(folder))
        except (Exception, SystemExit, TookForEverError) as error:
            where = _where(error)
            documented = type(error).__name__ in reader.refusals
            outcome = Outcome(where) if documented else Outcome(where, f"{type(error).__name__} at {where}")
        finally:
            EAR.is_open = False
    taken = meter.peak() - before
    if EAR.heard:
        return Outcome(outcome.refusal, f"{EAR.heard[0]} was run")
    if taken > ABSURD:
        return Outcome(outcome.refusal, f"took {taken / 2**20:,.0f} MiB more")
    return outcome


def warm(reader: Reader) -> None:
    """Let a reader import what it needs, which takes seconds, before it is looked at."""
    with tempfile.TemporaryDirectory() as folder:
        reader.read(reader.seeds()[0], Path(folder))


def fuzz(
    readers: Mapping[str, Reader],
    seconds: float,
    seed: int,
    *,
    known: Mapping[str, list[bytes]],
    found: Callable[[str, str, bytes], None],
) -> dict[str, Tally]:
    """Return what was seen of each reader, which all get the same time.

    Args:
        readers: by name.
        seconds: in all.
        seed: of the random numbers.
        known: files to begin from, besides the seeds.
        found: is given each finding as it comes: the reader, what happened, the file.
    """
    random, lines = Random(seed), set[tuple[str, int]]()
    tallies = {name: Tally(pool=[*reader.seeds(), *known.get(name, ())]) for name, reader in readers.items()}

    def feed(name: str, blob: bytes) -> None:
        finding = _count(tallies[name], readers[name], blob, lines)
        if finding:
            found(name, finding, blob)

    for name, reader in readers.items():
        warm(reader)
        for blob in tallies[name].pool:
            feed(name, blob)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        name = min(tallies, key=lambda one: tallies[one].seconds)
        pool, reached = tallies[name].pool, len(lines)
        blob = mutated(random.choice(pool), random, partial(random.choice, pool))
        feed(name, blob)
        if len(lines) > reached and len(blob) <= LARGEST_FILE:
            pool.append(blob)
    return tallies


def rows(tallies: Mapping[str, Tally]) -> list[dict[str, Any]]:
    """Return a row of a table for each reader."""
    made = []
    for name, tally in tallies.items():
        kinds = Counter(finding.partition(" ")[0] for finding in tally.findings)
        hangs = kinds.pop(TookForEverError.__name__, 0)
        memory = kinds.pop("took", 0)
        run = sum("was run" in finding for finding in tally.findings)
        made.append(
            {
                "reader": name,
                "files": tally.executions,
                "refused": tally.refused,
                "places that refuse": len(tally.refusals),
                "taken": tally.executions - tally.refused,
                "undocumented errors": len(tally.findings) - hangs - memory - run,
                "hangs": hangs,
                "absurd memory": memory,
                "ran something": run,
            }
        )
    return made


def _count(tally: Tally, reader: Reader, blob: bytes, lines: set[tuple[str, int]]) -> str:
    """Count what becomes of a file; return the finding, if it is a new one."""
    start = time.process_time()
    with _traced(lines):
        outcome = execute(reader, blob)
    tally.seconds += time.process_time() - start
    tally.executions += 1
    if outcome.refusal:
        tally.refused += 1
        tally.refusals.add(outcome.refusal)
    if not outcome.finding or outcome.finding in tally.findings:
        return ""
    tally.findings.add(outcome.finding)
    return outcome.finding


@contextmanager
def _traced(lines: set[tuple[str, int]]) -> Iterator[None]:
    """Add the lines of our own code that are run."""

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(OWN):
            return None

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "line":
                lines.add((name, frame.f_lineno))
            return line

        return line

    before = sys.gettrace()  # that of a debugger, or of who measures coverage
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise TookForEverError(f"no answer within {PATIENCE} seconds of work")

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _where(error: BaseException) -> str:
    """Return the last line of our own code that an error came through, before it was put into other words."""
    while error.__cause__ is not None:
        error = error.__cause__
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(OWN)]
    if not own:
        return "outside"
    return f"{Path(own[-1].filename).relative_to(Path(adntn.__file__).parents[1])}:{own[-1].lineno}"


def known(corpus: Path, readers: Mapping[str, Reader]) -> dict[str, list[bytes]]:
    """Return the files of a corpus by reader; none where there is no folder."""
    return {name: [path.read_bytes() for path in sorted((corpus / folder_of(name)).glob("*"))] for name in readers}


def keep(blob: bytes, corpus: Path, reader: str) -> Path:
    """Write a file into a corpus, under a name that follows from what is in it; return its path."""
    path = corpus / folder_of(reader) / hashlib.sha256(blob).hexdigest()[:12]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(blob)
    return path


def folder_of(reader: str) -> str:
    """Return the name of a reader's folder.

    >>> folder_of("adapter, lora, config")
    'adapter-lora-config'
    """
    return reader.replace(",", "").replace(" ", "-")


def keep_smallest(tallies: Mapping[str, Tally], readers: Mapping[str, Reader], corpus: Path) -> None:
    """Write, for each reader, small files of its pool refused at different places, as long as there is room."""
    for name, tally in tallies.items():
        seen, size = set[str](), 0
        for blob in sorted(tally.pool, key=len):
            refusal = execute(readers[name], blob).refusal
            if refusal in seen:
                continue
            if (size := size + len(blob)) > ROOM:
                break
            seen.add(refusal)
            keep(blob, corpus, name)
