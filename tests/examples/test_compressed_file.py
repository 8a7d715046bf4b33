"""The page on files: what it measures is so, on a small network."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import adntn

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


def test_files_are_small_and_hold_the_same_network_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import compressed_file  # noqa: PLC0415  (on the path only while tests run)
    from networks import alexnet  # noqa: PLC0415

    monkeypatch.setattr(compressed_file, "LIBRARIES", ("numpy", "torch"))  # JAX compiles every step of each layer
    every, linear = compressed_file.VERSIONS, {"classifier.*": adntn.TTN.options(bond=4)}
    monkeypatch.setattr(compressed_file, "VERSIONS", dict.fromkeys(every, linear))
    text = compressed_file.page(lambda: alexnet(size=8, classes=10, hidden=256).eval(), 8, tmp_path)
    assert "every tensor bit by bit: yes" in text
    sizes = [float(number) for number in re.findall(r"\| ([\d.]+) \|$", text, flags=re.M)]
    assert sizes[0] == 1
    assert min(sizes[1:]) == 1 < sizes[2]
    differences = [float(number) for number in re.findall(r"\| ([\d.]+e-\d+) \|$", text, flags=re.M)]
    assert len(differences) >= 4
    assert max(differences) < 1e-5
