"""A process that is killed while it saves loses nothing of what it had saved."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustness import saves
from robustness.saves import LostError, interrupted, save_all, saved


def test_what_was_saved_is_there_after_a_kill(tmp_path: Path) -> None:
    row = interrupted(tmp_path, 8, seed=1)
    assert row["steps saved"] > 0


def test_a_file_of_two_steps_is_noticed(tmp_path: Path) -> None:
    save_all(tmp_path, 3)
    assert saved(tmp_path) == {"checkpoint": 3, "weights": 3, "adapter": 3}
    with pytest.raises(LostError, match="different steps"):
        saves._step_of([saves.torch.ones(2), saves.torch.zeros(2)])


def test_a_save_that_is_not_whole_at_once_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(folder: Path, step: int) -> None:
        with (folder / "weights.safetensors").open("wb") as file:
            for byte in bytes(2000):
                file.write(bytes([byte]))
                file.flush()

    monkeypatch.setattr(saves, "save_all", slowly)
    with pytest.raises(ValueError, match="no file of safetensors"):
        interrupted(tmp_path, 30)
