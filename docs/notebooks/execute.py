"""Run the cells of notebooks, in this process and without a kernel: `python docs/notebooks/execute.py [FILES]`.

Every cell of code runs, one after another, in one namespace; what it prints, and what it ends with, become its outputs.
The tests do the same and compare. Cells are plain Python, so that nothing of Jupyter is needed to run them.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent

#: A cell, or an output, as it stands in the file.
Json = dict[str, Any]


def executed(notebook: Json) -> Iterator[tuple[Json, list[Json]]]:
    """Run a notebook; yield each cell of code with its outputs."""
    names: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            yield cell, _outputs("".join(cell["source"]), count, names)


def _outputs(source: str, count: int, names: dict[str, Any]) -> list[Json]:
    """Run a cell and return what it prints and the value of its last expression."""
    cell = f"<cell {count}>"
    tree = ast.parse(source, cell)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with redirect_stdout(printed):
        exec(compile(tree, cell, "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), cell, "eval"), names)
    outputs: list[Json] = []
    if text := printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)})
    if value is not None:
        data: Json = {"text/plain": repr(value).splitlines(keepends=True)}
        if hasattr(value, "_repr_png_"):
            data = {"image/png": base64.b64encode(value._repr_png_()).decode(), **data}
        outputs.append({"data": data, "execution_count": count, "metadata": {}, "output_type": "execute_result"})
    return outputs


def main() -> None:
    """Run the named notebooks, or all beside this file, and write their outputs into them."""
    for file in [Path(name) for name in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb")):
        notebook = json.loads(file.read_text(encoding="utf-8"))
        for number, (cell, outputs) in enumerate(executed(notebook), start=1):
            cell["execution_count"], cell["outputs"] = number, outputs
        file.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(file.name)


if __name__ == "__main__":
    main()
