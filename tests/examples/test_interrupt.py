"""Ctrl-C, --resume and wrong options: nothing is lost, and what to do is said."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import compress_network
from compress_network import main

SMALL = shlex.split(
    "--network alexnet --width 0.05 --images 60 --test-images 30 --epochs 2 --batch 20 --topologies TTN --bond 2"
    " --dropout 0.1 --threads 1"
)
STEPS = 6
VERSIONS = ["dense", "TTN", "TTN, frozen", "dense, frozen", "small, equal total", "small, equal layers"]


def results(folder: Path) -> list[dict[str, Any]]:
    """Return the results of a finished run but for the seconds."""
    document = json.loads((folder / "results.json").read_text("utf-8"))
    assert document["finished"]
    assert [path.name for path in folder.iterdir() if path.name.startswith((".", "checkpoint"))] == []
    return [{**entry, "seconds": 0.0} for entry in document["results"]]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def interrupt(monkeypatch: pytest.MonkeyPatch, folder: Path, *given: str, call: int, times: int = 1) -> int:
    """Run the command and press Ctrl-C at the given call of the progress bar, of which each version makes 7."""
    calls = iter(range(10_000))
    step = compress_network.Progress.step

    def stepped(self: compress_network.Progress, *what: Any) -> None:
        step(self, *what)
        if next(calls) == call:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(compress_network.Progress, "step", stepped)
        return main([*SMALL, *given, "--output", str(folder)])


@pytest.fixture(scope="module")
def undisturbed(narrow_module: None, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert main([*SMALL, "--output", str(folder)]) == 0
    return results(folder)


@pytest.fixture(scope="module")
def stopped_once(narrow_module: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped in its second version."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        assert interrupt(patch, folder, call=7 + 4) == 130
    return folder


@pytest.fixture
def stopped(stopped_once: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(stopped_once, tmp_path / "copy"))


# Ctrl-C at every place where it may hit


@pytest.mark.parametrize("call", [0, 4, 6, 7, 17, 40])
def test_a_run_interrupted_anywhere_and_resumed_gives_the_numbers_of_an_undisturbed_one(
    tmp_path, monkeypatch, undisturbed, capsys, call
):
    assert interrupt(monkeypatch, tmp_path, call=call) == 130
    assert capsys.readouterr().err.strip().endswith("--resume")
    before = json.loads((tmp_path / "results.json").read_text("utf-8"))
    # After a version's last step its result is still written: the next version is what is stopped.
    assert [entry["version"] for entry in before["results"]] == VERSIONS[: (call + 1) // 7]
    assert main([*SMALL, "--output", str(tmp_path), "--resume"]) == 0
    assert results(tmp_path) == undisturbed
    assert [entry["version"] for entry in results(tmp_path)] == VERSIONS


def test_a_second_ctrl_c_stops_at_once_and_loses_no_whole_epoch(tmp_path, monkeypatch, undisturbed):
    assert interrupt(monkeypatch, tmp_path, call=7 + 5, times=2) == 130
    assert torch.load(tmp_path / "checkpoint.pt")["position"]["step"] == STEPS / 2
    assert interrupt(monkeypatch, tmp_path, "--resume", call=1) == 130
    assert torch.load(tmp_path / "checkpoint.pt")["position"]["step"] == STEPS / 2 + 1
    assert main([*SMALL, "--output", str(tmp_path), "--resume"]) == 0
    assert results(tmp_path) == undisturbed


def test_an_unfinished_run_is_not_overwritten_by_accident(stopped, capsys):
    before = contents(stopped)
    assert main([*SMALL, "--output", str(stopped)]) == 2
    assert "results.json is of an unfinished run: add --resume, or give another --output" in capsys.readouterr().err
    assert contents(stopped) == before


OTHER = {
    "network": ["--network", "vgg16"],
    "topologies": ["--topologies", "MERA"],
    "bond": ["--bond", "3"],
    "activation": ["--activation", "silu"],
    "layout": ["--layout", "split"],
    "layers": ["--layers", "classifier.3"],
    "images": ["--images", "50"],
    "test_images": ["--test-images", "20"],
    "width": ["--width", "0.1"],
    "dropout": ["--dropout", "0.2"],
    "controls": ["--no-controls"],
    "epochs": ["--epochs", "3"],
    "batch": ["--batch", "10"],
    "rate": ["--rate", "0.01"],
    "core_rate": ["--core-rate", "0.01"],
    "autocast": ["--autocast"],
    "seed": ["--seed", "1"],
}


@pytest.mark.parametrize(("name", "given"), OTHER.items(), ids=OTHER.keys())
def test_a_run_is_not_resumed_with_other_settings(stopped, capsys, name, given):
    before = contents(stopped)
    assert main([*SMALL, *given, "--output", str(stopped), "--resume"]) == 2
    assert f"was made with {name}" in capsys.readouterr().err
    assert contents(stopped) == before


def test_a_checkpoint_without_its_results_is_not_taken_into_a_run_with_other_settings(stopped):
    (stopped / "results.json").unlink()
    rest = [*SMALL, "--topologies", "TTN", "--no-controls", "--seed", "1", "--output"]
    assert main([*rest, str(stopped), "--resume"]) == 0
    assert main([*rest, str(stopped / "fresh")]) == 0
    assert results(stopped) == results(stopped / "fresh")


@pytest.mark.parametrize("content", ["", "text", "[]", '{"finished": true}', '{"results": []}'])
@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_file_that_is_not_of_this_program_is_kept_and_named(tmp_path, capsys, content, resume):
    (tmp_path / "results.json").write_text(content)
    assert main([*SMALL, "--output", str(tmp_path), *resume]) == 2
    error = capsys.readouterr().err
    assert "results.json is no results file" in error
    assert "give another --output" in error
    assert contents(tmp_path) == {"results.json": content.encode()}


# Wrong options


WRONG = {
    "an unknown layer": (["--layers", "classifier.0", "classifier.x"], "'classifier.x' matches none of the layers"),
    "an activation that is none": (["--layers", "classifier.1"], "matches none of the layers features.0"),
    "an unknown activation": (["--activation", "tank"], "activation must be one of identity, tanh,"),
    "too few images": (["--images", "9"], "got a limit of 9"),
    "no data": (["--data", "nowhere"], "nowhere: no such folder"),
    "dropout of two": (["--dropout", "2"], "dropout probability has to be between 0 and 1, but got 2.0"),
}


@pytest.mark.usefixtures("narrow_module")
@pytest.mark.parametrize(("given", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_a_user_got_wrong_is_said_before_anything_is_written(tmp_path, capsys, given, message):
    assert main([*SMALL, *given, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("narrow_module")
def test_resuming_nothing_is_said_and_starts_at_the_beginning(tmp_path, capsys):
    assert main([*SMALL, "--output", str(tmp_path), "--resume"]) == 0
    assert "this run starts at the beginning" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "results.json").is_file()


WORDS = {
    "a network": ["--network", "lenet"],
    "a topology": ["--topologies", "PEPS"],
    "a bond of none": ["--bond", "0"],
    "a rate that goes uphill": ["--rate", "-1"],
    "a rate that is no number": ["--core-rate", "nan"],
    "an infinite width": ["--width", "inf"],
    "half an epoch": ["--epochs", "0.5"],
    "a seed below zero": ["--seed", "-1"],
    "a seed of 64 bits": ["--seed", str(2**63)],
    "an abbreviation": ["--resum"],
}


@pytest.mark.parametrize("given", WORDS.values(), ids=WORDS.keys())
def test_words_that_mean_nothing_are_named(tmp_path, capsys, given):
    with pytest.raises(SystemExit) as stop:
        main([*SMALL, *given, "--output", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert given[-1] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("narrow_module")
def test_a_folder_whose_name_looks_like_a_style_is_written_and_named(tmp_path, capsys):
    folder = tmp_path / "[" / "bold]"
    assert main([*SMALL, "--epochs", "1", "--no-controls", "--output", str(folder)]) == 0
    assert "[/bold]" in capsys.readouterr().out.replace("\n", "")
    assert len(results(folder)) == 2


@pytest.mark.usefixtures("narrow_module")
def test_an_output_that_is_a_file_is_kept(tmp_path, capsys):
    path = tmp_path / "file"
    path.write_text("mine")
    assert main([*SMALL, "--output", str(path)]) == 2
    assert str(path) in capsys.readouterr().err
    assert contents(tmp_path) == {"file": b"mine"}
