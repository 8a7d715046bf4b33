"""The command `adntn bench`: it measures what an installation has, and says early what it does not understand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from adntn.cli import main

ROOT = Path(__file__).parents[2]
SMALL = ["bench", "--shape", "24x16", "--repeats", "1", "--threads", "1", "--contenders", "adntn on numpy"]


def test_it_prints_tables_and_writes_all_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    assert main([*SMALL, "--tasks", "weight,gradients,step", "--no-memory", "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "weight: 24 x 16, TTN bond 2" in out
    assert "step:" not in out  # NumPy has no layers
    written = json.loads(file.read_text())
    assert [one["title"].split(":")[0] for one in written["comparisons"]] == ["weight", "gradients"]
    assert written["environment"]["threads"] == "1"
    (weight,) = written["comparisons"][0]["measurements"]
    assert weight["seconds"] > 0
    assert weight["memory"] is None


BAD = {
    "task": (["--tasks", "wait"], "tasks must be among weight, "),
    "contender": (["--contenders", "sparse*"], "'sparse*' matches none of: dense; "),
    "bond": (["--bond", "0"], "bond must be an integer of at least 1, got 0"),
    "batch": (["--batch", "0"], "batch must be at least 1, got 0"),
    "shape": (["--shape", "7"], "shape must be (out, in)"),
    "threads": (["--threads", "0"], "threads must be at least 1, got 0"),
    "repeats": (["--repeats", "-1"], "repeats must be at least 1, got -1"),
    "activation": (["--activation", "tanhh"], "activation must be one of"),
}


@pytest.mark.parametrize(("arguments", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_exit_code_2_and_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("adntn bench: error: ")
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--shape", "4096*4096"], ["--topology", "Tree"], ["--json", "absent/out.json"]])
def test_what_cannot_be_parsed_is_exit_code_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["bench", *arguments])
    assert left.value.code == 2


def test_the_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    assert "examples:\n  adntn bench" in capsys.readouterr().out


def test_what_only_prints_imports_no_framework_and_no_rival() -> None:
    program = "import sys, benchmarks.cases, benchmarks.bars, adntn.commands.bench; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stdout.split())
    assert not loaded & {"torch", "jax", "tltorch", "tensorly", "tensorkrowch", "quimb", "cotengra"}
