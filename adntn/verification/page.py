"""The result of a verification as one page of HTML: a heat map of all cells, with nothing to load from elsewhere."""

from __future__ import annotations

import math
from html import escape

from adntn.verification.result import Cell, Verification, severity

#: Colours (background, text) by the error in units of the tolerance, from its power of ten upwards; readable by people
#: who do not tell red from green: blue agrees, yellow nearly does not, dark red does not.
COLOURS = (
    (-math.inf, "#1f4e8c", "#ffffff", "below 1/1000"),
    (-3.0, "#4f86c6", "#ffffff", "1/1000 to 1/100"),
    (-2.0, "#93bce3", "#102a43", "1/100 to 1/10"),
    (-1.0, "#d3e5f5", "#102a43", "1/10 to 1/2"),
    (math.log10(0.5), "#f6d55c", "#3b2f00", "1/2 to 1: nearly too far"),
    (0.0, "#a11d2b", "#ffffff", "above 1: disagrees"),
)

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #1c2733; }
h1 { font-size: 1.5rem; margin-bottom: .3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .4rem; }
.verdict { font-size: 1.1rem; padding: .6rem .9rem; border-left: .4rem solid; background: #f4f7fa; }
.agree { border-color: #1f4e8c; } .disagree { border-color: #a11d2b; }
.wide { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 2px; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; padding: .1rem .6rem .1rem .2rem; white-space: nowrap; }
th.topology { vertical-align: top; border-top: 1px solid #9fb3c8; } thead th { vertical-align: bottom; }
th.column { text-align: right; padding: .1rem .5rem; }
tr.first td, tr.first th { border-top: 1px solid #9fb3c8; }
td { padding: .1rem .5rem; text-align: right; white-space: nowrap; border-radius: 2px; }
td.none { color: #9fb3c8; text-align: center; } .wrong { font-weight: 700; }
.legend span { display: inline-block; padding: .1rem .6rem; margin: 0 .2rem .2rem 0; border-radius: 2px; }
.environment th { font-weight: 400; color: #52606d; } .environment td { text-align: left; white-space: normal; }
"""


def page(result: Verification) -> str:
    """Return the page."""
    body = [
        "<h1>Do the backends agree?</h1>",
        _verdict(result),
        _explanation(),
        _legend(),
        _wrong(result),
        *(_heat_map(result, dtype) for dtype in result.dtypes),
        _skipped(result),
        _environment(result),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>adntn verify</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def _verdict(result: Verification) -> str:
    wrong, all_of_them = len(result.disagreements), len(result.cells)
    if wrong:
        return f'<p class="verdict disagree"><b>{wrong:,} of {all_of_them:,} cells disagree.</b></p>'
    worst = result.worst()
    nearest = "" if worst is None else f" Nearest to its tolerance: {escape(str(worst))}."
    return f'<p class="verdict agree"><b>All {all_of_them:,} cells agree.</b>{nearest}</p>'


def _explanation() -> str:
    return (
        "<p>Each number is the larger of two relative errors: of the weight, relative to its norm, and of any core's"
        " gradient, relative to the norm of that core's gradient. They are measured from a reference in double"
        " precision: the weight by definition and the gradients of NumPy's adjoint. The columns <i>reference</i> check"
        " that reference against finite differences and complex steps. Hold the pointer over a cell to read both"
        " errors, the worst core and the tolerance.</p>"
    )


def _legend() -> str:
    swatches = "".join(
        f'<span style="background:{background};color:{text}">{escape(words)}</span>'
        for _, background, text, words in COLOURS
    )
    return f'<p class="legend">Colour: the error in units of the tolerance.<br>{swatches}</p>'


def _wrong(result: Verification) -> str:
    cells = sorted(result.disagreements, key=severity, reverse=True)
    items = "".join(f"<li>{escape(str(cell))}</li>" for cell in cells)
    return f"<h2>What disagrees</h2><ul>{items}</ul>" if cells else ""


def _heat_map(result: Verification, dtype: str) -> str:
    cells = {(cell.topology, cell.activation, cell.column): cell for cell in result.cells if cell.dtype == dtype}
    columns = [column for column in result.columns if any(key[2] == column for key in cells)]
    groups: dict[str, list[str]] = {}
    for topology, activation, _ in cells:
        if activation not in groups.setdefault(topology, []):
            groups[topology].append(activation)
    head = "".join(f'<th class="column" scope="col">{_two_lines(column)}</th>' for column in columns)
    rows = []
    for topology, activations in groups.items():
        for place, activation in enumerate(activations):
            span = f' rowspan="{len(activations)}" scope="rowgroup"'
            name = "" if place else f'<th class="topology"{span}>{escape(topology)}</th>'
            numbers = "".join(_number(cells.get((topology, activation, column))) for column in columns)
            first = "" if place else ' class="first"'
            rows.append(f'<tr{first}>{name}<th scope="row">{escape(activation)}</th>{numbers}</tr>')
    return (
        f'<h2>{escape(dtype)}</h2>\n<div class="wide"><table>\n<thead><tr><th>topology</th><th>activation</th>{head}'
        "</tr></thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody></table></div>"
    )


def _two_lines(column: str) -> str:
    backend, _, differentiation = column.partition(" ")
    return f"{escape(backend)}<br>{escape(differentiation)}"


def _number(cell: Cell | None) -> str:
    if cell is None:
        return '<td class="none">-</td>'
    background, text = colour(cell)
    shown = "failed" if cell.reason else f"{cell.error:.1e}"
    wrong = "" if cell.ok else ' class="wrong"'
    told = cell.reason or (
        f"weight {cell.forward:.1e}; gradient {cell.gradient:.1e} of core {cell.core};"
        f" tolerance {cell.tolerance:.1e}; on {cell.device}"
    )
    return (
        f'<td{wrong} style="background:{background};color:{text}" title="{escape(told)}">'
        f"{shown}{'' if cell.ok else ' &#10007;'}</td>"
    )


def colour(cell: Cell) -> tuple[str, str]:
    """Return the colours of a cell's background and text."""
    far = severity(cell)
    power = -math.inf if far == 0 else math.log10(far)
    if not cell.ok:
        return COLOURS[-1][1:3]
    return next((background, text) for least, background, text, _ in reversed(COLOURS[:-1]) if power >= least)


def _skipped(result: Verification) -> str:
    items = "".join(
        f"<li>{escape(one.dtype)} on {escape(one.backend)}: {escape(one.reason)}</li>" for one in result.skipped
    )
    return f"<h2>Not verified</h2><ul>{items}</ul>" if items else ""


def _environment(result: Verification) -> str:
    facts = (*result.environment, ("seed", str(result.seed)), ("seconds", f"{result.seconds:.1f}"))
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts)
    return f'<h2>Environment</h2><table class="environment">{rows}</table>'
