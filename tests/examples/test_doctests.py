"""The examples in the docstrings of the examples, which no package's doctests include."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["data", "networks", "planning", "report", "sentence_contenders", "sentences"])
def test_docstrings_show_what_happens(module):
    failed, attempted = doctest.testmod(importlib.import_module(module))
    assert failed == 0
    assert attempted > 0
