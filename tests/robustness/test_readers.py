"""Readers of files refuse what is wrong with the errors that they document, and do nothing else."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from robustness import fuzz
from robustness.fuzz import execute, known
from robustness.mutations import mutated
from robustness.readers import READERS, Reader

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is counted by Linux")
CORPUS = Path(__file__).parent / "corpus"
#: Files that are made anew in each run, besides those that are kept.
MADE = 10


@pytest.fixture(params=READERS)
def name(request: pytest.FixtureRequest) -> str:
    """Each reader's name, which has imported what it needs; those without their library skip."""
    found: str = request.param
    if not READERS[found].is_usable:
        pytest.skip(f"needs {', '.join(READERS[found].needs)}")
    fuzz.warm(READERS[found])
    return found


def test_files_that_a_library_writes_are_taken(name: str) -> None:
    seeds = READERS[name].seeds()
    outcomes = [execute(READERS[name], blob) for blob in seeds]
    assert not any(outcome.finding for outcome in outcomes), outcomes
    assert not outcomes[0].refusal


def test_files_that_were_found_to_reach_every_refusal_are_still_refused_in_words(name: str) -> None:
    outcomes = [execute(READERS[name], blob) for blob in known(CORPUS, READERS)[name]]
    assert not any(outcome.finding for outcome in outcomes), outcomes


def test_files_that_are_almost_right_are_refused_in_words_or_taken(name: str) -> None:
    reader, random = READERS[name], Random(0)
    pool = [*reader.seeds(), *known(CORPUS, READERS)[name]]
    for _ in range(MADE):
        blob = mutated(random.choice(pool), random, lambda: random.choice(pool))
        assert not execute(reader, blob).finding, blob


def test_the_corpus_is_there_and_small() -> None:
    sizes = [path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()]
    assert len(sizes) > 50
    assert sum(sizes) < 100_000
    assert {folder.name for folder in CORPUS.iterdir()} <= {fuzz.folder_of(name) for name in READERS}


# what the fuzzer itself notices


def test_memory_is_noticed_whatever_was_taken_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "ABSURD", 2**26)
    found = [execute(Reader(grows, (), list), b"").finding for _ in range(2)]
    assert all("MiB more" in finding for finding in found), found


def crashes(blob: bytes, folder: Path) -> None:
    raise KeyError("not documented")


def hangs(blob: bytes, folder: Path) -> None:
    while True:
        pass


def grows(blob: bytes, folder: Path) -> None:
    with mmap.mmap(-1, 2 * fuzz.ABSURD) as taken:  # from the system: an allocator may have kept as much from before
        for page in range(0, len(taken), mmap.PAGESIZE):
            taken[page] = 1


def runs(blob: bytes, folder: Path) -> None:
    os.system("true")


def refuses(blob: bytes, folder: Path) -> None:
    raise OSError("documented")


NOTICED: dict[str, tuple[Callable[[bytes, Path], None], str]] = {
    "an error": (crashes, "KeyError at outside"),
    "a hang": (hangs, "TookForEverError"),
    "memory": (grows, "MiB more"),
    "a command": (runs, "os.system was run"),
    "a refusal": (refuses, ""),
}


@pytest.mark.parametrize(("read", "words"), NOTICED.values(), ids=NOTICED)
def test_what_must_not_happen_is_noticed(
    read: Callable[[bytes, Path], None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "PATIENCE", 0.2)
    monkeypatch.setattr(fuzz, "ABSURD", 2**26)
    found = execute(Reader(read, ("OSError",), list), b"").finding
    assert words in found
    assert bool(words) == bool(found)
