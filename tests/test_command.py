"""The command `adntn`: exit codes, files that are whole or not there, and errors of one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from adntn.cli import main
from adntn.commands.output import write_whole

SMALL = ["verify", "--backends", "numpy", "--topologies", "LowRank,Tucker", "--activations", "tanh"]
MINE = """
import dataclasses, adntn
generator = adntn.TTN((16, 8), bond=2, leg=1)
several = {"low": adntn.LowRank((4, 4)), "high": generator}
tanh = adntn.ACTIVATIONS["tanh"]
slanted = dataclasses.replace(tanh, name="slanted", derivative=lambda xp, y: 1.001 - y * y)
wrong = adntn.TTN((16, 8), bond=2, leg=1, activation=slanted)
number = 3
empty = {}
def failing(xp, z): raise RuntimeError("no such function")
fails = adntn.TTN((16, 8), bond=2, leg=1, activation=adntn.Activation("failing", failing, failing))
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return file


def test_agreement_is_exit_code_0_and_written_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--json", str(tmp_path / "out.json"), "--html", str(tmp_path / "out.html")]
    assert main([*SMALL, *files]) == 0
    out = capsys.readouterr().out
    assert "14 of 14 cells agree" in out
    assert "LowRank" in out
    assert len(json.loads((tmp_path / "out.json").read_text())["cells"]) == 14
    assert (tmp_path / "out.html").read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.html", "out.json"]


def test_disagreement_is_exit_code_1_and_named(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--backends", "numpy", "--generator", f"{mine}:wrong"]) == 1
    out = capsys.readouterr().out
    assert "generator, slanted, float64: reference finite differences" in out
    assert "core '" in out


def test_a_generator_that_fails_in_the_reference_is_exit_code_1_with_the_reason(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "--backends", "numpy", "--generator", f"{mine}:fails", "--dtypes", "float64"]) == 1
    out = capsys.readouterr().out
    assert "0 of 1 cells agree" in out
    assert "generator, failing, float64: reference" in out
    assert "RuntimeError: no such function" in out


@pytest.mark.parametrize(("name", "rows"), [("", ["generator"]), (":several", ["low", "high"])])
def test_a_generator_of_ones_own_is_verified(mine: Path, tmp_path: Path, name: str, rows: list[str]) -> None:
    out = tmp_path / "out.json"
    assert main(["verify", "--backends", "numpy", "--generator", f"{mine}{name}", "--json", str(out)]) == 0
    assert list(dict.fromkeys(cell["topology"] for cell in json.loads(out.read_text())["cells"])) == rows


BAD = {
    "a seed below 0": (["--backends", "numpy", "--seed", "-1"], "seed must be an integer of at least 0, got -1"),
    "topology": (["--topologies", "Mera"], "topologies must be among TTN"),
    "backend": (["--backends", "jxa"], "'jxa' is unknown"),
    "device": (["--backends", "array_api_strict", "--device", "cuda:7"], "device must be one of cpu"),
    "no file": (["--generator", "absent.py"], "there is no file 'absent.py'"),
    "no file, with a name": (["--generator", "absent.py:mine"], "there is no file 'absent.py'"),
    "no name": (["--generator", "{mine}:absent"], "defines no 'absent'"),
    "no generator": (["--generator", "{mine}:number"], "must be an adntn.Generator or a mapping"),
    "a file that fails": (["--generator", "{broken}"], "failed with ZeroDivisionError"),
    "a file that leaves": (["--generator", "{leaving}"], "failed with SystemExit: 0"),
    "both": (["--generator", "{mine}", "--topologies", "TTN"], "generators bring their own"),
    "no generator at all": (["--generator", "{mine}:empty"], "nothing to verify: generators holds no generator"),
    "nothing complex": (
        ["--backends", "numpy", "--dtypes", "complex64", "--activations", "relu", "--topologies", "TTN"],
        "nothing to verify: no complex cores for relu",
    ),
    "a number type that a backend lacks": (
        ["--backends", "array_api_strict", "--dtypes", "bfloat16", "--activations", "tanh"],
        "nothing to verify on array_api_strict: dtype 'bfloat16'",
    ),
}


@pytest.mark.parametrize(("arguments", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_exit_code_2_and_one_line(
    arguments: list[str], words: str, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "array_api_strict" in arguments:
        pytest.importorskip("array_api_strict")
    broken = mine.with_name("broken.py")
    broken.write_text("1 / 0")
    leaving = mine.with_name("leaving.py")
    leaving.write_text("import sys; sys.exit(0)")
    files = {"mine": mine, "broken": broken, "leaving": leaving}
    assert main(["verify", *(argument.format(**files) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("adntn verify: error: ")
    assert words in error
    assert error.count("\n") == 1


UNPARSED = {
    "no command": ([], "COMMAND"),
    "an empty list": (["verify", "--dtypes", ","], "wants names"),
    "a directory that is not there": (["verify", "--json", "absent/out.json"], "directory 'absent' does not exist"),
    "a directory": (["verify", "--html", "."], "'.' is a directory"),
}


@pytest.mark.parametrize(("arguments", "words"), UNPARSED.values(), ids=UNPARSED)
def test_what_cannot_be_parsed_is_exit_code_2_before_any_work(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert words in capsys.readouterr().err


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    file.write_text("before")
    with pytest.raises(UnicodeEncodeError):
        write_whole(file, "long " * 100_000 + "\ud800")  # cannot be encoded
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]
    write_whole(file, "after")
    assert file.read_text() == "after"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("command", [[], ["verify"], ["calibrate"], ["backends"]])
def test_the_help_shows_examples(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([*command, "--help"])
    assert left.value.code == 0
    assert f"examples:\n  adntn {' '.join(command) or 'backends'}" in capsys.readouterr().out


def test_the_module_is_the_command_and_lists_backends() -> None:
    command = [sys.executable, "-m", "adntn", "backends", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = {status["name"]: status for status in json.loads(done.stdout)}
    assert found["numpy"]["usable"] is True
    assert found["torch"]["usable"] is found["torch"]["installed"]


def test_backends_are_listed_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backends"]) == 0
    assert "numpy" in capsys.readouterr().out
