"""`pytest --every N` leaves the first row of every test, and rows with every value of every parameter of large ones."""

from __future__ import annotations

import itertools
import runpy
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

CONFTEST = Path(__file__).parents[1] / "conftest.py"
VALUES = range(7), range(49)
ROWS = [f"tests/test_it.py::test_it[{first}-{second}]" for first, second in itertools.product(*VALUES)]


def kept(names: Sequence[str], every: int) -> list[str]:
    """The names of the tests that are left, of which the others have been told to be none."""
    items, dropped = [SimpleNamespace(nodeid=name) for name in names], list[SimpleNamespace]()

    def deselected(items: list[SimpleNamespace]) -> None:
        dropped.extend(items)

    config = SimpleNamespace(getoption=lambda name: every, hook=SimpleNamespace(pytest_deselected=deselected))
    runpy.run_path(str(CONFTEST))["pytest_collection_modifyitems"](config, items)
    assert sorted(one.nodeid for one in [*items, *dropped]) == sorted(names)
    return [one.nodeid for one in items]


def test_without_it_all_rows_are_left():
    assert kept(ROWS, 1) == ROWS


def test_every_value_is_met_where_n_divides_the_matrix():
    left = kept(ROWS, 7)
    assert left[0] == ROWS[0]
    assert len(ROWS) / 14 < len(left) < len(ROWS) / 4
    assert {name.partition("[")[2].partition("-")[0] for name in left} == {str(value) for value in VALUES[0]}
    assert left == kept(ROWS, 7)


def test_every_test_has_a_row():
    names = [f"tests/test_it.py::test_{number}[row]" for number in range(20)] + ["tests/test_it.py::test_plain"]
    assert kept(names, 29) == names
