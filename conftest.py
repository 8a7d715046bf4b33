"""Doctests that need a library are collected only where it is installed; no test sees the user's calibration."""

import zlib
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

LIBRARIES = {
    "adntn/drawing/painting.py": "matplotlib",
    "adntn/interop/quimb.py": "quimb",
    "adntn/interop/tensornetwork.py": "tensornetwork",
}

collect_ignore = [path for path, library in LIBRARIES.items() if find_spec(library) is None]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare what thins out matrices where another environment runs all of their rows."""
    parser.addoption("--every", type=int, default=1, metavar="N", help="of each parametrised test run one row in N")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep of each test the first row, and of the others one in N as their names have it.

    Every N-th would be the same value of a parameter again and again, wherever N divides the size of a matrix.
    """
    every, seen, kept, others = config.getoption("every"), set[str](), list[pytest.Item](), list[pytest.Item]()
    for item in items:
        test = item.nodeid.partition("[")[0]
        is_kept = test not in seen or zlib.crc32(item.nodeid.encode()) % every == 0
        (kept if is_kept else others).append(item)
        seen.add(test)
    items[:] = kept
    if others:
        config.hook.pytest_deselected(items=others)


@pytest.fixture(autouse=True, scope="session")
def _no_calibration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty directory in place of the user's cache: schedules are then chosen by the defaults."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADNTN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
