"""Verify all backends that work here and write the page beside this file: `python docs/results/verification.py`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import adntn
from adntn.verification.result import COMPLEX_STEP, FINITE_DIFFERENCES, Cell, Verification, severity

DOUBLE = ("float64", "complex128")
WITHOUT_GPU = """No GPU was at hand when this page was made: CuPy, torch on CUDA and JAX on CUDA are not in it, and
that they agree there is not shown. On a machine with one:

    pip install "adntn[torch,jax,cupy]" "jax[cuda12]"
    adntn verify --backends numpy,cupy,torch,jax --device cuda:0 --json verification.json --html verification.html
"""


def table(result: Verification) -> str:
    """Return the worst relative error over all activations: a row for each topology and number type."""
    rows = ["| topology | dtype | " + " | ".join(result.columns) + " |", "|---|---|" + "---:|" * len(result.columns)]
    for topology in dict.fromkeys(cell.topology for cell in result.cells):
        for dtype in result.dtypes:
            own = [cell for cell in result.cells if (cell.topology, cell.dtype) == (topology, dtype)]
            worst = (
                max((c for c in own if c.column == column), key=severity, default=None) for column in result.columns
            )
            texts = ("" if cell is None else f"{cell.error:.1e}{'' if cell.ok else ' (!)'}" for cell in worst)
            rows.append(f"| {topology} | {dtype} | {' | '.join(texts)} |")
    return "\n".join(rows)


def _worst(cells: Iterable[Cell]) -> str:
    cell = max(cells, key=severity, default=None)
    return "" if cell is None else f"{cell.error:.1e}{'' if cell.ok else ' (!)'}"


def page(result: Verification) -> str:
    """Return the page."""
    checks = (FINITE_DIFFERENCES, COMPLEX_STEP)
    double = [cell for cell in result.cells if cell.dtype in DOUBLE and cell.differentiation not in checks]
    worst = max(cell.gradient for cell in double)
    agreeing = sum(cell.ok for cell in result.cells)
    environment = "; ".join(f"{name}: {value}" for name, value in result.environment)
    on_gpu = any("cuda" in value or "gpu" in value for _, value in result.environment)
    return f"""# Do the backends agree?

Made by `python docs/results/verification.py`, which runs what `adntn verify` runs, in {result.seconds:,.0f} seconds.
{environment}.

{agreeing:,} of {len(result.cells):,} cells agree. A cell is one topology, activation, number type, backend and path of
differentiation: the weight and the gradient of every core against a reference in double precision, relative to the norm
of each. The largest gradient error of a backend in double precision is {worst:.1e}. The reference itself is compared
with finite differences and, for holomorphic activations, with complex steps. Below, the worst error over activations.

{table(result)}

## GPU

{"The devices are named above." if on_gpu else WITHOUT_GPU.strip()}
"""


def main() -> None:
    """Write verification.md beside this file."""
    Path(__file__).with_suffix(".md").write_text(page(adntn.verify()), encoding="utf-8")


if __name__ == "__main__":
    main()
