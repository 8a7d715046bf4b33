"""The table of bytes communicated, from made-up measurements."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from benchmarks import communication
from benchmarks.communication import Row, main, measured, page, table
from benchmarks.spread import Sent, sent


def test_a_row_shows_both_networks_and_how_they_compare() -> None:
    dense, compressed = Sent(1000, 2, 4000, 3000, 1e-7), Sent(10, 1, 40, 40, 3e-7)
    row = Row("torch", 4, "DDP", dense, compressed)
    assert table([row]).splitlines()[-1] == "| torch | 4 | DDP | 4,000 | 40 | 100.0 | 3,000 | 40 | 3e-07 |"
    text = page([row], "the command")
    assert "Made by `the command`" in text
    assert "10 numbers with biases in place of 1,000" in text


def test_losses_are_compared_relative_to_those_of_one_process() -> None:
    assert sent(7, [1, 5, 2], [2.0, 1.0], [2.0, 1.25]) == Sent(7, 3, 8, 5, 0.2)


def test_a_failing_process_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(command: Any, **options: Any) -> Any:
        return subprocess.CompletedProcess(command, 1, "no", " device")

    monkeypatch.setattr(communication.subprocess, "run", failing)
    with pytest.raises(RuntimeError, match=r"benchmarks.spread_torch .* failed:\nno device"):
        measured("torch", 2)
    with pytest.raises(SystemExit):
        main(["--libraries", "cupy"])
