"""Doctests that need a library are collected only where it is installed; no test sees the user's calibration."""

from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

LIBRARIES = {"adntn/interop/quimb.py": "quimb", "adntn/interop/tensornetwork.py": "tensornetwork"}

collect_ignore = [path for path, library in LIBRARIES.items() if find_spec(library) is None]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare what thins out matrices where another environment runs all of their rows."""
    parser.addoption("--every", type=int, default=1, metavar="N", help="of each parametrised test run every N-th row")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep of each test the first row and every N-th after it; N prime to the sizes of matrices meets every value."""
    seen, kept, others = Counter[str](), list[pytest.Item](), list[pytest.Item]()
    for item in items:
        test = item.nodeid.partition("[")[0]
        (others if seen[test] % config.getoption("every") else kept).append(item)
        seen[test] += 1
    items[:] = kept
    config.hook.pytest_deselected(items=others)


@pytest.fixture(autouse=True, scope="session")
def _no_calibration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty directory in place of the user's cache: schedules are then chosen by the defaults."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADNTN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
