"""`adntn draw`: which weight is meant, what is written, what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import adntn
from adntn.cli import main
from adntn.commands.draw import named

WEIGHTS = {
    "body.0.weight": adntn.TTN((32, 24), bond=2),
    "body.10.weight": adntn.MERA((16, 8, 3, 3), bond=2),
    "head.weight": adntn.LowRank((16, 16), rank=2),
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    file = tmp_path / "small.safetensors"
    adntn.save(file, {name: (generator, generator.init()) for name, generator in WEIGHTS.items()})
    return file


MEANT = {
    "the whole name": ("body.0.weight", "body.0.weight"),
    "a layer": ("body.0", "body.0.weight"),
    "a part of a name": ("ody.1", "body.10.weight"),
    "the start of a name": ("he", "head.weight"),
}


@pytest.mark.parametrize(("given", "name"), MEANT.values(), ids=MEANT)
def test_a_weight_is_named_by_what_no_other_has(
    given: str, name: str, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["draw", str(small), "--weight", given]) == 0
    assert capsys.readouterr().out == f"{name}\n{WEIGHTS[name]}\n"


def test_a_name_or_a_layer_goes_before_a_part_of_a_name() -> None:
    assert named("a", ["a.b", "a", "a.weight"]) == "a"
    assert named("a", ["a.b", "b.a", "a.weight"]) == "a.weight"


PICTURES = {
    "network": ([], "<network: LowRank: 16 x 16 from 65 parameters>"),
    "costs": (["--what", "costs"], "<costs: LowRank: 16 x 16 from 65 parameters>"),
    "weight": (["--what", "weight"], "<weight: LowRank: 16 x 16 from 65 parameters>"),
}


@pytest.mark.parametrize(("options", "words"), PICTURES.values(), ids=PICTURES)
def test_pictures_are_written(
    options: list[str], words: str, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    assert main(["draw", str(small), "--weight", "head", "--out", str(tmp_path / "picture.svg"), *options]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'picture.svg'}: {words}\n"
    assert "<svg" in (tmp_path / "picture.svg").read_text()


def test_curves_of_a_training_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    lines = (json.dumps({"stage": "task", "step": step, "loss": 1 / step}) + "\n" for step in range(1, 9))
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    assert main(["draw", str(tmp_path / "metrics.jsonl"), "--out", str(tmp_path / "curves.png")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'curves.png'}: <curves: metrics.jsonl>\n"
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


BAD = {
    "no such weight": (["--weight", "tail"], "must be one of body.0.weight, body.10.weight, head.weight, got 'tail'"),
    "two weights": (["--weight", "body"], "'body' could be any of body.0.weight, body.10.weight"),
    "a picture of all": (["--out", "a.svg"], "--weight must name one of body.0.weight, body.10.weight, head.weight"),
    "no file for a picture": (["--what", "weight"], "--out must name the picture to write"),
    "another kind of file": (["--weight", "head", "--out", "a.pdf"], "file must end in .svg or .png, got 'a.pdf'"),
}


@pytest.mark.parametrize(("options", "words"), BAD.values(), ids=BAD)
def test_what_cannot_be_drawn_is_exit_code_2_and_one_line(
    options: list[str], words: str, small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "a.svg" in options:
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(small.parent)
    assert main(["draw", str(small), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("adntn draw: error: ")
    assert words in error
    assert error.count("\n") == 1
    assert [file.name for file in small.parent.iterdir()] == [small.name]


@pytest.mark.parametrize("options", [["--weight", "head"], ["--what", "costs"]])
def test_a_training_has_no_weights_to_choose_from(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2}\n')
    assert main(["draw", str(tmp_path / "metrics.jsonl"), "--out", str(tmp_path / "a.svg"), *options]) == 2
    assert "--weight and --what are for files with weights" in capsys.readouterr().err
    assert not (tmp_path / "a.svg").exists()


def test_without_matplotlib_nothing_is_begun(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["draw", str(small), "--weight", "head", "--out", str(tmp_path / "a.svg")]) == 2
    assert 'pip install "adntn[drawing]"' in capsys.readouterr().err
