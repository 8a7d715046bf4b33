"""What the pages say is so: code runs, what it prints stands below it, figures are those of results, links lead on."""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
#: Pages whose blocks of code run, each for itself.
GUIDES = (
    "README.md",
    "docs/adapters.md",
    "docs/backends.md",
    "docs/distributed.md",
    "docs/files.md",
    "docs/fitting.md",
    "docs/generators.md",
    "docs/index.md",
    "docs/interop.md",
    "docs/jax.md",
    "docs/layers.md",
    "docs/pictures.md",
    "docs/schedules.md",
    "docs/topologies.md",
    "docs/training.md",
    "docs/words.md",
)
#: Pages whose blocks of code are one program.
PROGRAMS = ("docs/compressing.md", "docs/mathematics.md", "docs/tutorial.md")
#: Pages that show what their own machine forecasts, or what chance decides.
ROUGH = (
    "README.md",
    "docs/adapters.md",
    "docs/distributed.md",
    "docs/files.md",
    "docs/schedules.md",
    "docs/training.md",
)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Where libraries are looked for that are imported by another name.
LIBRARIES = {"adntn_torch": "torch", "adntn_jax": "equinox"}


def blocks_of(page: str) -> list[tuple[str, str]]:
    """Return a page's code, block by block, and what stands below each as its output ("" for nothing)."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", text, flags=re.S)


BLOCKS = {f"{page} {number}": (page, [block]) for page in GUIDES for number, block in enumerate(blocks_of(page))}
BLOCKS |= {page: (page, blocks_of(page)) for page in PROGRAMS}


@pytest.mark.parametrize(("page", "blocks"), BLOCKS.values(), ids=BLOCKS.keys())
def test_code_runs_and_prints_what_stands_below_it(
    page: str, blocks: Sequence[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)  # what torchrun sets, for one process
    program = "\n".join(code for code, _ in blocks)
    for library in re.findall(r"^(?:import|from) (\w+)", program, flags=re.M):
        pytest.importorskip(LIBRARIES.get(library, library))
    for library in re.findall(r'"(torch|jax|dask)"', program):  # the name of a backend
        pytest.importorskip(library)
    if "from adntn import drawing" in program:
        pytest.importorskip("matplotlib")
    names: dict[str, Any] = {}
    for code, output in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, f"a block of {page}", "exec"), names)
        if output:
            check_printed(printed.getvalue(), output, numbers=page not in ROUGH)
        check_tables(code, printed.getvalue())


def check_printed(printed: str, shown: str, *, numbers: bool) -> None:
    """Check that a page shows what was printed: counts exactly, numbers with a point within a twentieth.

    Of training, other processors make other last digits, and so other accuracies.
    """
    printed, shown = (re.sub(r" +$", "", text, flags=re.M) for text in (printed, shown))
    assert without_numbers(printed) == without_numbers(shown)
    for one, other in zip(*(re.findall(NUMBER, text) for text in (printed, shown)), strict=True):
        if numbers and one != other:
            assert "." in one, (one, other)
            assert math.isclose(*(float(text.replace(",", "")) for text in (one, other)), rel_tol=0.05, abs_tol=0.05)


def check_tables(code: str, printed: str) -> None:
    """Check that the rows of a table in comments are among those that were printed."""
    rows = [[cell.strip(" -") for cell in row.split("|")] for row in printed.splitlines()]
    for line in code.splitlines():
        if line.startswith("# |"):
            assert [cell.strip(" -") for cell in line.removeprefix("# ").split("|")] in rows, line


#: A number in a text, with its commas and its point.
NUMBER = r"\d[\d.,]*\d|\d"


def without_numbers(text: str) -> str:
    """Return a text with each number as 0: forecasts are those of the machine at hand."""
    return re.sub(NUMBER, "0", text)


def test_measured_rows_are_those_of_the_results_page() -> None:
    measured = README.split("## Measured")[1].split("\n## ")[0]
    page, *_ = re.findall(r"\]\((docs/results/[\w/-]+\.md)\)", measured)
    results = (ROOT / page).read_text(encoding="utf-8").splitlines()
    head, _, *rows = [line for line in measured.splitlines() if line.startswith("|")]
    assert len(rows) >= 6
    for row in (head, *rows):  # the first columns
        assert any(line.startswith(row) for line in results), row


def test_figures_of_the_comparison_are_those_of_results_pages() -> None:
    text = (ROOT / "docs/comparison.md").read_text(encoding="utf-8")
    for part in re.split(r"\n\n|\n- ", text):
        figures = set(re.findall(r"\d[\d.]* (?:ms|%|seconds)", part))
        pages = re.findall(r"\]\((results/[\w/-]+\.md)[)#]", part)
        results = "\n".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in pages)
        found = set(re.findall(r"\d[\d.]* (?:ms|%)", results)) | {
            f"{cell.strip()} seconds" for cell in re.findall(r"(?<=\|) \d+ (?=\|)", results)
        }
        assert figures <= found, part


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    prose = "\n".join(line for line in page.read_text(encoding="utf-8").splitlines() if not line.startswith("    "))
    for target in re.findall(r"\]\(([^)#\s]+)[)#]", prose):
        assert target.startswith("http") or (page.parent / target).exists(), target
