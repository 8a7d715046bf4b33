"""What the README and the guide say is so: code runs, figures stand in the results pages, links lead somewhere."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
#: Pages whose code runs.
GUIDES = (
    "README.md",
    "docs/adapters.md",
    "docs/distributed.md",
    "docs/files.md",
    "docs/fitting.md",
    "docs/layers.md",
    "docs/pictures.md",
    "docs/schedules.md",
    "docs/training.md",
)
#: Code by page and number, and what stands below it as its output ("" for none).
BLOCKS = {
    f"{guide} {number}": block
    for guide in GUIDES
    for number, block in enumerate(
        re.findall(
            r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", (ROOT / guide).read_text(encoding="utf-8"), flags=re.S
        )
    )
}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize(("code", "output"), BLOCKS.values(), ids=BLOCKS.keys())
def test_code_runs_and_prints_what_stands_below_it(code: str, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)  # what torchrun sets, for one process
    for library in re.findall(r"^(?:import|from) (\w+)", code, flags=re.M):
        pytest.importorskip({"adntn_torch": "torch", "adntn_jax": "equinox"}.get(library, library))
    if "from adntn import drawing" in code:
        pytest.importorskip("matplotlib")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "block of code", "exec"), {})
    if output:
        assert without_numbers(printed.getvalue()) == without_numbers(output)
    tables = [line.removeprefix("# ") for line in code.splitlines() if line.startswith("# |")]
    for line in tables:
        assert [cell.strip(" -") for cell in line.split("|")] in [
            [cell.strip(" -") for cell in row.split("|")] for row in printed.getvalue().splitlines()
        ]


def without_numbers(text: str) -> str:
    """Return a text with each number as 0: forecasts are those of the machine at hand."""
    return re.sub(r"\d[\d.,]*\d|\d", "0", text)


def test_measured_rows_are_those_of_the_results_page() -> None:
    measured = README.split("## Measured")[1].split("\n## ")[0]
    page, *_ = re.findall(r"\]\((docs/results/[\w/-]+\.md)\)", measured)
    results = (ROOT / page).read_text(encoding="utf-8").splitlines()
    rows = [line for line in measured.splitlines() if line.startswith("|") and " --- " not in line]
    assert len(rows) >= 8
    assert set(rows) <= set(results)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    prose = "\n".join(line for line in page.read_text(encoding="utf-8").splitlines() if not line.startswith("    "))
    for target in re.findall(r"\]\(([^)#\s]+)[)#]", prose):
        assert target.startswith("http") or (page.parent / target).exists(), target
