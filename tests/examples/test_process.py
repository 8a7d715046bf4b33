"""The command as a process of its own, with hidden layers of full size, stopped by a real Ctrl-C."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import compress_network

ROOT = Path(compress_network.__file__).parents[1]
COMMAND = shlex.split(
    "--network alexnet --width 0.05 --images 20 --test-images 10 --epochs 2 --batch 20 --topologies TTN --bond 2"
    " --no-controls --threads 1 --output"
)


def test_a_process_stopped_by_ctrl_c_says_how_to_go_on_and_ends_with_the_numbers_of_an_undisturbed_one(
    tmp_path, monkeypatch
):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    folder, whole = tmp_path / "a folder", tmp_path / "whole"
    script = [sys.executable, "examples/compress_network.py", *COMMAND, str(folder)]
    with subprocess.Popen(script, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: (folder / "checkpoint.pt").exists() or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    message, again = errors.strip().splitlines()
    assert message == f"Stopped; what is done is kept in {folder}. To go on:"
    assert {"results.json", "checkpoint.pt"} <= {path.name for path in folder.iterdir()}
    document = json.loads((folder / "results.json").read_text("utf-8"))
    assert not document["finished"]
    assert len(document["results"]) < 2

    python, *rest = shlex.split(again)
    assert python == "python"
    subprocess.run([sys.executable, *rest], cwd=ROOT, env=environment, check=True, timeout=240)
    monkeypatch.setattr(compress_network, "keep_freed_memory", lambda: None)
    assert compress_network.main([*COMMAND, str(whole)]) == 0
    assert results(folder) == results(whole)
    assert [entry["version"] for entry in results(folder)] == ["dense", "TTN"]
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}
    for name in ("alexnet-TTN.safetensors", "alexnet-TTN.cores.safetensors"):
        found, wanted = load_file(folder / name), load_file(whole / name)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def results(folder: Path) -> list[dict[str, Any]]:
    """Return the results of a finished run but for the seconds."""
    document = json.loads((folder / "results.json").read_text("utf-8"))
    assert document["finished"]
    return [{**entry, "seconds": 0.0} for entry in document["results"]]


def wait_for(happened: Callable[[], bool]) -> None:
    """Wait for something that happens within two minutes."""
    end = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)
