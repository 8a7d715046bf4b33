"""The page on reliability is what the files of measurements say, and the recorders count what reports hold."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

RESULTS = Path(__file__).parents[1] / "docs" / "results"
JUNIT = '<testsuites><testsuite name="pytest" tests="10" skipped="3" failures="1" errors="1"/></testsuites>'
MUTANTS = """
    adntn.program.path.x__checked__mutmut_1: killed
    adntn.program.path.x__checked__mutmut_2: survived
    adntn.program.path.x__checked__mutmut_3: not checked
    adntn.program.cost.xǁCostǁtimes__mutmut_1: killed
    adntn.program.cost.xǁCostǁtimes__mutmut_2: no tests
    adntn.program.cost.xǁCostǁtimes__mutmut_7: survived
"""


@pytest.fixture
def page() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(RESULTS / "reliability.py")))


@pytest.fixture
def checks() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(RESULTS / "checks.py")))


def test_the_page_is_made_of_the_files_beside_it(page: SimpleNamespace) -> None:
    assert (RESULTS / "reliability.md").read_text("utf-8") == page.page()


def test_a_row_is_a_row_and_what_is_missing_is_left_open(page: SimpleNamespace, tmp_path: Path) -> None:
    results = [{"reader": "a | b", "files": 12345, "ok": True}, {"reader": "c", "files": 0.12345, "why": None}]
    record = {"what": "Readers", "command": "python -m it", "results": results, "versions": {"python": "3.11.7"}}
    (tmp_path / "one.json").write_text(json.dumps(record))
    assert page.page(tmp_path).splitlines()[4:] == [
        "## Readers",
        "",
        "`python -m it`",
        "",
        "| reader | files | ok | why |",
        "|---|---:|---|---:|",
        r"| a \| b | 12,345 | yes |  |",
        "| c | 0.1235 |  |  |",
        "",
        "python 3.11.7.",
    ]


def test_tests_mutants_and_lines_are_counted(checks: SimpleNamespace, tmp_path: Path) -> None:
    report = tmp_path / "oldest.xml"
    report.write_text(JUNIT)
    assert checks.tested(report) == {"passed": 5, "failed": 2, "skipped": 3}
    keys = ("mutants", "killed", "survived", "timeout", "no test runs it", "not run")
    assert [(row["module"], *(row[key] for key in keys)) for row in checks.mutants(MUTANTS)] == [
        ("adntn.program.cost", 3, 1, 1, 0, 1, 0),
        ("adntn.program.path", 3, 1, 1, 0, 0, 1),
    ]
    assert checks.survivors(MUTANTS, {"one": ["path._checked 2"], "two": ["cost.Cost.times 7"]}).splitlines()[2:] == [
        "- one: path._checked 2",
        "- two: cost.Cost.times 7",
        "- not looked into: cost.Cost.times 2",
    ]
    with pytest.raises(ValueError, match=r"reasons for mutants that did not survive: cost.Cost.times 1"):
        checks.survivors(MUTANTS, {"one": ["cost.Cost.times 1"]})
    keys = ("num_statements", "missing_lines", "covered_lines", "num_branches", "missing_branches", "covered_branches")
    counts: list[tuple[str, tuple[int, ...]]] = [
        ("adntn/one.py", (8, 2, 6, 2, 1, 1)),
        ("site-packages/adntn/two.py", (10, 0, 10, 0, 0, 0)),
        ("backends/adntn_torch/one.py", (5, 0, 5, 0, 0, 0)),
        ("backends/adntn_jax/one.py", (4, 4, 0, 0, 0, 0)),
    ]
    covered: dict[str, Any] = {path: {"summary": dict(zip(keys, numbers, strict=True))} for path, numbers in counts}
    rows = {row["package"]: row for row in checks.packages({"files": covered})}
    assert rows["adntn"]["run, %"] == 85.0  # 17 of 20
    assert rows["adntn_torch"]["run, %"] == 100.0
    assert rows["adntn_jax"]["lines not run"] == 4
