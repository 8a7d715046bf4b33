"""The examples in the docstrings of the benchmarks, which no package's doctests include."""

from __future__ import annotations

import doctest
import importlib

import pytest

NEEDED = {"benchmarks.rivals.naive": "torch"}
MODULES = (
    "benchmarks.acceptance",
    "benchmarks.bars",
    "benchmarks.contenders",
    "benchmarks.rivals.naive",
    "benchmarks.rivals.sizes",
)


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_show_what_happens(module: str) -> None:
    if module in NEEDED:
        pytest.importorskip(NEEDED[module])
    failed, attempted = doctest.testmod(importlib.import_module(module))
    assert failed == 0
    assert attempted > 0
