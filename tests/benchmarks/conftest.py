"""The benchmarks are a folder of the repository, on the path here; what needs a library is left out without it."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from adntn.benchmarking import Case

NEEDED = {"test_rivals.py": "torch", "test_bars.py": "matplotlib", "test_second_order.py": "sklearn"}
collect_ignore = [name for name, library in NEEDED.items() if find_spec(library) is None]

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))


@pytest.fixture
def case() -> Case:
    """A small linear layer."""
    return Case((24, 16), bond=2, batch=3)
