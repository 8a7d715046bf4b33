"""Doctests that need a library are collected only where it is installed; no test sees the user's calibration."""

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

LIBRARIES = {"adntn/interop/quimb.py": "quimb", "adntn/interop/tensornetwork.py": "tensornetwork"}

collect_ignore = [path for path, library in LIBRARIES.items() if find_spec(library) is None]


@pytest.fixture(autouse=True, scope="session")
def _no_calibration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty directory in place of the user's cache: schedules are then chosen by the defaults."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADNTN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
