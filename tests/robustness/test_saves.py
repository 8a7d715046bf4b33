"""A process that is killed while it saves loses nothing of what it had saved."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import adntn
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


def save_bit_by_bit(folder: Path, step: int) -> None:
    """Save weights under their name from the first byte on."""
    (folder / "whole").mkdir(exist_ok=True)
    save_all(folder / "whole", step)
    whole = (folder / "whole" / "weights.safetensors").read_bytes()
    with (folder / "weights.safetensors").open("wb") as file:
        for start in range(0, len(whole), 2**14):
            file.write(whole[start : start + 2**14])
            file.flush()
            time.sleep(1e-3)


def fail(folder: Path, step: int) -> None:
    raise OSError("the disk is full")


def test_a_process_that_fails_is_not_taken_for_one_that_was_killed(tmp_path: Path) -> None:
    with pytest.raises(LostError, match="has failed, or saved nothing"):
        interrupted(tmp_path, 1, save=fail)


def test_a_save_that_is_not_whole_at_once_is_noticed(tmp_path: Path) -> None:
    save_bit_by_bit(tmp_path, 3)
    assert saved(tmp_path)["weights"] == 3
    with pytest.raises((adntn.FormatError, LostError)):
        interrupted(tmp_path, 30, save=save_bit_by_bit)
