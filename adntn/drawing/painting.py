"""Pictures painted with matplotlib. It is imported here and nowhere else, and this module when something is painted."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure, FigureBase
from matplotlib.patches import FancyBboxPatch, Patch, PathPatch, Polygon
from matplotlib.path import Path
from PIL import Image  # which matplotlib brings

from adntn.drawing.arrangement import MARGIN
from adntn.drawing.levels import Box, Line, NetworkPicture
from adntn.drawing.palette import (
    ACTIVATION,
    CURVES,
    DIMENSIONS,
    INK,
    KINDS,
    NEGATIVE,
    PALE_INK,
    PAPER,
    POSITIVE,
    RULE,
    ZERO,
)
from adntn.drawing.records import CurvesPicture, Panel, label_rows
from adntn.drawing.sample import WeightPicture
from adntn.drawing.steps import CostsPicture, StepCost, quantity

Picture = NetworkPicture | CostsPicture | WeightPicture | CurvesPicture

#: Inches for each unit of a network's picture.
UNIT = 0.42
#: Half of the width of a bridge's end, in units.
PAD = 0.2
#: Inches for the title, and for the legend of a network.
TITLE, LEGEND = 0.45, 0.35
#: Inches from panel to panel of curves, across the steps, and left of them.
PANEL, CURVES_WIDTH, LEFT_OF_CURVES = 1.6, 4.7, 0.75
#: So many curves of a panel are named.
MOST_NAMED = 8
#: Of a PNG whose colours are few.
FEW_COLOURS = 128
#: Points of texts.
SMALL, NORMAL, LARGE = 7.5, 9.0, 11.0
#: The same file each time: matplotlib would name parts of an SVG at random. Letters are drawn, so that every viewer has
#: them.
SETTINGS = {"svg.hashsalt": "adntn", "svg.fonttype": "path", "figure.facecolor": PAPER, "savefig.facecolor": PAPER}


@contextmanager
def own_style() -> Iterator[None]:
    """Paint in the library's own style, whatever the user's is; also while a file is written."""
    with style.context(["default", SETTINGS]):
        yield


def figure_of(picture: Picture) -> Figure:
    """Return a figure with a picture, of the picture's own size."""
    with own_style():
        figure = Figure(figsize=size_of(picture))
        paint(picture, figure)
    return figure


def size_of(picture: Picture) -> tuple[float, float]:
    """Return the width and the height of a picture in inches."""
    if isinstance(picture, NetworkPicture):
        width, height = UNIT * (picture.right - picture.left), UNIT * (picture.top - picture.bottom)
        return max(width, 0.09 * len(picture.title) + 0.4), height + TITLE + LEGEND
    if isinstance(picture, CostsPicture):
        return 10.5, 0.22 * (len(picture.steps) + 1) + 1.0
    if isinstance(picture, WeightPicture):
        rows, columns = picture.values.shape
        return 5.9, min(max(4.0 * rows / columns, 0.5), 8.0) + 1.0
    letters = max(len(curve.name) for panel in picture.panels for curve in panel.curves)
    above = 0.5 + 0.15 * len({*_stage_rows(picture)})
    return LEFT_OF_CURVES + CURVES_WIDTH + 0.6 + 0.07 * letters, above + PANEL * len(picture.panels)


def in_few_colours(png: bytes) -> bytes:
    """Return a PNG with a palette in place of its colours, which takes a third of the bytes and looks the same."""
    data = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:  # the method that keeps colours which few points have
        image.convert("RGB").quantize(FEW_COLOURS, Image.Quantize.MAXCOVERAGE).save(data, "png", optimize=True)
    return data.getvalue()


def paint(picture: Picture, figure: FigureBase) -> None:
    """Paint a picture into a figure, or a part of one, of about its size."""
    painters: dict[type, Callable[[Any, FigureBase], None]] = {
        NetworkPicture: _paint_network,
        CostsPicture: _paint_costs,
        WeightPicture: _paint_weight,
        CurvesPicture: _paint_curves,
    }
    painters[type(picture)](picture, figure)


# networks


def _paint_network(picture: NetworkPicture, figure: FigureBase) -> None:
    _, height = size_of(picture)
    axes = figure.add_axes((0.0, LEGEND / height, 1.0, 1 - (TITLE + LEGEND) / height))
    axes.set_xlim(picture.left, picture.right)
    axes.set_ylim(picture.bottom, picture.top)
    axes.set_aspect("equal", adjustable="box")
    axes.axis("off")
    left, right = min(box.left for box in picture.boxes) - 0.2, max(box.right for box in picture.boxes) + 0.2
    for y in picture.activations:
        axes.plot((left, right), (y, y), color=ACTIVATION, lw=1.1, ls=(0, (4, 3)))
    for line in picture.lines:
        _paint_line(axes, line)
    for box in picture.boxes:
        _paint_box(axes, box)
    for group in picture.groups:
        ends = [group.left + 0.1, group.right - 0.1]
        axes.plot(ends, [group.y, group.y], color=DIMENSIONS[group.dimension], lw=5, solid_capstyle="round", zorder=4)
    for words in picture.words:
        colour = {"activation": ACTIVATION, "state": PALE_INK}.get(words.role, INK)
        axes.text(
            words.x,
            words.y,
            "\n".join(words.lines),
            ha=words.align,
            va="center",
            color=colour,
            fontsize=NORMAL,
            linespacing=1.25,
        )
    figure.text(0.5, 1 - 0.5 * TITLE / height, picture.title, ha="center", va="center", fontsize=LARGE, color=INK)
    _paint_legend(picture, figure)


def _paint_line(axes: Axes, line: Line) -> None:
    colour = INK if line.dimension is None else DIMENSIONS[line.dimension]
    width = min(0.9 + 0.35 * (line.size.bit_length() - 1), 5.0)
    *straight, last = line.points
    if line.dimension is None:
        straight.append(last)
    axes.plot(*zip(*straight, strict=True), color=INK if line.end is not None else colour, lw=width, zorder=2)
    if line.dimension is not None:  # gathered along a curve that begins and ends upright
        (x, y), (to_x, to_y) = straight[-1], last
        half = (y + to_y) / 2
        way = Path([(x, y), (x, half), (to_x, half), (to_x, to_y)], [Path.MOVETO, *[Path.CURVE4] * 3])
        axes.add_patch(PathPatch(way, fill=False, edgecolor=colour, lw=width, zorder=1))


def _paint_box(axes: Axes, box: Box) -> None:
    colour = KINDS[box.kind]
    if box.is_bridge:  # its ends alone, joined by a line that other legs pass
        middle = (box.bottom + box.top) / 2
        axes.plot([box.left + PAD, box.right - PAD], [middle, middle], color=colour, lw=2, zorder=1)
        for lane in {*box.entering, *box.leaving}:
            axes.add_patch(_bar(lane - PAD, lane + PAD, box, colour))
    elif box.kind == "isometry" and box.entering:
        left, right = min(box.entering) - MARGIN, max(box.entering) + MARGIN
        corners = [(left, box.top), (right, box.top), (box.right, box.bottom), (box.left, box.bottom)]
        axes.add_patch(Polygon(corners, facecolor=colour, edgecolor=PAPER, lw=1, joinstyle="round", zorder=3))
    else:
        axes.add_patch(_bar(box.left, box.right, box, colour))


def _bar(left: float, right: float, box: Box, colour: str) -> FancyBboxPatch:
    shape = "round,pad=0,rounding_size=0.12"
    size = right - left, box.top - box.bottom
    return FancyBboxPatch((left, box.bottom), *size, boxstyle=shape, facecolor=colour, edgecolor=PAPER, lw=1, zorder=3)


def _paint_legend(picture: NetworkPicture, figure: FigureBase) -> None:
    _, height = size_of(picture)
    figure.legend(
        handles=[Patch(facecolor=KINDS[kind], label=kind) for kind in picture.kinds],
        loc="center",
        bbox_to_anchor=(0.5, 0.5 * LEGEND / height),
        ncols=len(picture.kinds),
        frameon=False,
        fontsize=NORMAL,
        labelcolor=INK,
        handlelength=1.0,
    )


# costs


def _paint_costs(picture: CostsPicture, figure: FigureBase) -> None:
    _, height = size_of(picture)
    panels: dict[str, Callable[[StepCost], str]] = {
        "operations": lambda one: quantity(one.operations, ""),
        "bytes_moved": lambda one: quantity(one.bytes_moved, "B"),
        "seconds": lambda one: quantity(one.seconds, "s"),
    }
    places = range(len(picture.steps))
    bottom, top = 0.2 / height, 1 - 0.8 / height
    for number, (name, text) in enumerate(panels.items()):
        axes = figure.add_axes((0.31 + 0.232 * number, bottom, 0.16, top - bottom))
        values = [float(getattr(one, name)) for one in picture.steps]
        axes.barh(places, values, color=(KINDS["top"], KINDS["isometry"], KINDS["disentangler"])[number], height=0.62)
        for place, one in enumerate(picture.steps):
            axes.text(values[place] + 0.02 * max(values), place, text(one), va="center", fontsize=SMALL, color=INK)
        title = f"{name.replace('_', ' ')}: {text(picture.total)}"
        axes.set_title(title, fontsize=NORMAL, color=INK, loc="left")
        axes.set_ylim(len(picture.steps) - 0.4, -0.6)
        axes.set_yticks(places, [_shortened(one.step) for one in picture.steps] if number == 0 else [])
        axes.tick_params(axis="y", labelsize=SMALL, labelcolor=INK, length=0)
        axes.set_xticks([])
        _thin(axes, "left")
    figure.text(0.02, 1 - 0.25 / height, picture.title, va="center", fontsize=LARGE, color=INK)


def _shortened(text: str, most: int = 46) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _thin(axes: Axes, *kept: str) -> None:
    for side, spine in axes.spines.items():
        spine.set_visible(side in kept)
        spine.set_color(RULE)


# weights


def _paint_weight(picture: WeightPicture, figure: FigureBase) -> None:
    width, height = size_of(picture)
    axes = figure.add_axes((0.7 / width, 0.45 / height, 4.0 / width, 1 - 1.0 / height))
    colours = LinearSegmentedColormap.from_list("weights", [NEGATIVE, ZERO, POSITIVE])
    shown = axes.imshow(
        picture.values, cmap=colours, vmin=-picture.limit, vmax=picture.limit, aspect="auto", interpolation="nearest"
    )
    axes.set_xlabel("columns", fontsize=SMALL, color=INK)
    axes.set_xticks(*_ends(picture.columns.tolist()))
    if (weights := len(picture.values) // len(picture.rows)) == 1:
        axes.set_ylabel("rows", fontsize=SMALL, color=INK)
        axes.set_yticks(*_ends(picture.rows.tolist()))
    else:
        axes.set_ylabel(f"rows of {weights} weights", fontsize=SMALL, color=INK)
        axes.set_yticks([])
    axes.tick_params(labelsize=SMALL, labelcolor=INK, color=RULE)
    bar_axes = figure.add_axes((4.8 / width, 0.45 / height, 0.12 / width, 1 - 1.0 / height))
    bar = figure.colorbar(shown, cax=bar_axes, extend="both")
    bar.ax.tick_params(labelsize=SMALL, labelcolor=INK, color=RULE)
    figure.text(0.5, 1 - 0.28 / height, picture.title, ha="center", va="center", fontsize=NORMAL, color=INK)


def _ends(numbers: Sequence[int]) -> tuple[list[int], list[str]]:
    """Return where the first and the last number stand on an axis, and their texts."""
    places = [0, len(numbers) - 1] if len(numbers) > 1 else [0]
    return places, [f"{numbers[place]:,}" for place in places]


# curves


def _paint_curves(picture: CurvesPicture, figure: FigureBase) -> None:
    width, height = size_of(picture)
    first: Axes | None = None
    for number, panel in enumerate(picture.panels):
        bottom = 0.45 + PANEL * (len(picture.panels) - 1 - number)
        axes = figure.add_axes(
            (LEFT_OF_CURVES / width, bottom / height, CURVES_WIDTH / width, 1.3 / height), sharex=first
        )
        first = first or axes
        _paint_panel(axes, panel)
        for _, start, _ in picture.stages[1:]:
            axes.axvline(start, color=PALE_INK, lw=0.8, ls=(0, (2, 2)))
        axes.tick_params(labelbottom=number == len(picture.panels) - 1)
    axes.set_xlabel("step", fontsize=SMALL, color=INK)
    top = first or axes
    for (name, start, _), row in zip(picture.stages, _stage_rows(picture), strict=True):
        above = 1.04 + 0.11 * row
        top.text(start, above, f" {name}", fontsize=SMALL, color=PALE_INK, transform=top.get_xaxis_transform())
    figure.text(LEFT_OF_CURVES / width, 1 - 0.2 / height, picture.title, va="center", fontsize=LARGE, color=INK)


def _stage_rows(picture: CurvesPicture) -> list[int]:
    return label_rows(picture.stages, letters=CURVES_WIDTH / 0.07)


def _paint_panel(axes: Axes, panel: Panel) -> None:
    for number, curve in enumerate(panel.curves):
        name = curve.name if number < MOST_NAMED else "_"  # which legends leave out
        if number == MOST_NAMED:
            name = f"and {len(panel.curves) - MOST_NAMED} others"
        marker, colour = "o" if len(curve.points) < 40 else "", CURVES[number % len(CURVES)]
        axes.plot(*zip(*curve.points, strict=True), color=colour, lw=1.2, marker=marker, markersize=3, label=name)
    if panel.is_logarithmic:
        axes.set_yscale("log")
    axes.set_ylabel(panel.name, fontsize=SMALL, color=INK)
    axes.tick_params(labelsize=SMALL, labelcolor=INK, color=RULE)
    axes.grid(color=RULE, lw=0.5)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, fontsize=SMALL, labelcolor=INK)
    _thin(axes, "left", "bottom")
