"""The comparison of second order with Adam: in a moment, everything is written; what it says is what was run."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.search_page import COLOURS
from benchmarks.second_order import main


def test_page_numbers_and_plot_are_written(tmp_path: Path) -> None:
    main(["--seeds", "1", "--budget", "0.01", "--out", str(tmp_path)])
    runs = json.loads((tmp_path / "second-order.json").read_text())
    assert {run["method"] for run in runs} == {*COLOURS}
    for run in runs:
        losses = [loss for _, loss in run["points"]]
        assert losses == sorted(losses, reverse=True)
    page = (tmp_path / "second-order.md").read_text()
    assert all(f"\n## {name}\n" in page for name in {run["problem"] for run in runs})
    assert (tmp_path / "second-order.png").stat().st_size > 10_000
