"""The notebooks' cells run, and give the outputs that stand below them."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PNG = "iVBORw0KGgo"  #: How every PNG begins, in base 64.


def without_numbers(text: str) -> str:
    """Return a text with each number as 0: rounding differs from machine to machine."""
    return re.sub(r"\d[\d.,]*(e[-+]?\d+)?", "0", text)


def comparable(output: dict[str, Any]) -> tuple[str, ...]:
    """What an output says, without numbers; of an image, that it is one."""
    if output["output_type"] == "stream":
        return (without_numbers("".join(output["text"])),)
    data = output["data"]
    return without_numbers("".join(data["text/plain"])), data.get("image/png", "")[: len(PNG)]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_every_cell_runs_and_gives_what_stands_below_it(file: Path) -> None:
    notebook = json.loads(file.read_text(encoding="utf-8"))
    code = "".join("".join(cell["source"]) + "\n" for cell in notebook["cells"] if cell["cell_type"] == "code")
    needed = {"adntn_torch": "torch", "adntn_jax": "equinox"}
    for library in {"matplotlib", *re.findall(r"^(?:import|from) (\w+)", code, flags=re.M)}:
        pytest.importorskip(needed.get(library, library))
    executed = runpy.run_path(str(FOLDER / "execute.py"))["executed"]
    for number, (cell, outputs) in enumerate(executed(notebook), start=1):
        assert cell["execution_count"] == number
        assert [comparable(one) for one in outputs] == [comparable(one) for one in cell["outputs"]], cell["source"]
        for one in outputs:
            assert one.get("data", {}).get("image/png", PNG).startswith(PNG)


def test_the_notebooks_are_there() -> None:
    assert [file.stem for file in NOTEBOOKS] == ["jax", "torch", "verification"]
