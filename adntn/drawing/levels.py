"""A network as a picture: what stands where, in units of the distance between two legs of the weight, y upwards.

From the top core down to the weight, whose legs are gathered into its rows and columns. Nothing here paints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from adntn.drawing.arrangement import MARGIN, Arrangement, Edge, Kind, Place, arrange
from adntn.network import Level, Network

Point = tuple[float, float]
Align = Literal["left", "center", "right"]

#: From row to row, and what a row's core takes of it.
ROW, CORE = 1.0, 0.46
#: Between legs that join the same two cores of a chain.
PARALLEL = 0.1
#: What an activation adds to the distance of two levels.
ACTIVATION = 0.7
#: Of the part in which legs are gathered into dimensions: at least, and for each leg.
GATHERING, GATHERING_PER_LEG = 1.1, 0.07
#: Of letters, about, and of lines of text.
LETTER, LINE = 0.185, 0.42
#: Of a dimension's bar.
BAR = 0.22
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Box:
    """A core at one of its places.

    Attributes:
        core: its name.
        kind: what it does there.
        left, right, bottom, top: its ends.
        entering: where legs enter it from above.
        leaving: where legs leave it below.
        is_bridge: whether legs of others run past it between its ends, so that only its legs are marked.
    """

    core: str
    kind: Kind
    left: float
    right: float
    bottom: float
    top: float
    entering: tuple[float, ...]
    leaving: tuple[float, ...]
    is_bridge: bool


@dataclass(frozen=True)
class Line:
    """A leg, from the core that makes it to the core or the dimension of the weight that it ends on.

    Attributes:
        label: of the leg.
        size: number of its values.
        points: the way.
        start: number of the box that makes it.
        end: number of the box that it ends on; None for the weight.
        dimension: of the weight, if it ends there.
    """

    label: str
    size: int
    points: tuple[Point, ...]
    start: int
    end: int | None
    dimension: int | None = None


@dataclass(frozen=True)
class Words:
    """A text at a point: its lines stand below one another, centred at the point's height.

    Attributes:
        x, y: the point.
        lines: the text.
        align: which end of the text is at x.
        role: what it is about.
    """

    x: float
    y: float
    lines: tuple[str, ...]
    align: Align
    role: Literal["level", "state", "activation", "size", "dimension"]


@dataclass(frozen=True)
class Group:
    """A dimension of the weight below the legs that it is made of."""

    dimension: int
    left: float
    right: float
    y: float


@dataclass(frozen=True)
class NetworkPicture:
    """A network, level by level.

    Attributes:
        title: what it makes from what.
        boxes: every core at every place.
        lines: every leg.
        activations: heights at which one stands.
        groups: the dimensions of the weight.
        words: all texts but the title and the legend.
        left, right, bottom, top: what all of it takes.
    """

    title: str
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    activations: tuple[float, ...]
    groups: tuple[Group, ...]
    words: tuple[Words, ...]
    left: float
    right: float
    bottom: float
    top: float

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of cores that are there."""
        return tuple(dict.fromkeys(box.kind for box in self.boxes))


def network_picture(network: Network) -> NetworkPicture:
    """Return the picture of a network.

    >>> import adntn
    >>> picture = network_picture(adntn.TTN((16, 16), bond=2).network)
    >>> [box.core for box in picture.boxes][:3], [line.label for line in picture.lines][:2]
    (['top', 'level1/isometry0', 'level1/isometry1'], ['s0.0', 's0.1'])
    >>> picture.words[0].lines
    ('level 0', '4 parameters')
    """
    arrangement = arrange(network)
    heights = _heights(network, arrangement)
    boxes = tuple(
        _box(place, heights.rows[place.row], arrangement.is_bridge(number))
        for number, place in enumerate(arrangement.places)
    )
    groups = _groups(network, heights.weight - _gathering(network))
    lines = tuple(_line(edge, boxes, arrangement.edges) for edge in arrangement.edges if edge.end is not None)
    lines += _gathered(network, [edge for edge in arrangement.edges if edge.end is None], boxes, heights.weight, groups)
    left = min(*(box.left for box in boxes), *(group.left for group in groups), -0.5) - 0.3
    right = max(*(box.right for box in boxes), *(group.right for group in groups)) + 0.3
    words = (
        *_level_words(network, heights, left, right),
        *_weight_words(network, arrangement, heights.weight, groups, left),
    )
    return NetworkPicture(
        str(network).partition("\n")[0],
        boxes,
        lines,
        tuple(y for y in heights.activations if y is not None),
        groups,
        words,
        min(_start(one) for one in words) - 0.2,
        max(_end(one) for one in words) + 0.2,
        min(one.y - LINE * len(one.lines) / 2 for one in words),
        CORE,
    )


@dataclass(frozen=True)
class _Heights:
    """The middle of every row; for each level its first row's, its activation's (or None) and its end; the weight's."""

    rows: tuple[float, ...]
    levels: tuple[float, ...]
    activations: tuple[float | None, ...]
    ends: tuple[float, ...]
    weight: float


def _heights(network: Network, arrangement: Arrangement) -> _Heights:
    in_level = [{place.row for place in arrangement.places if place.level == n} for n in range(len(network.levels))]
    rows, levels, activations, ends = list[float](), list[float](), list[float | None](), list[float]()
    y = 0.0
    for level, own in zip(network.levels, in_level, strict=True):
        levels.append(y)
        rows += [y - ROW * place for place in range(len(own))]
        y -= ROW * max(len(own), 1)
        if level.activation.is_identity:
            activations.append(None)
        else:
            y -= ACTIVATION
            activations.append(y + (ROW - CORE / 2 + ACTIVATION) / 2 - CORE / 4)
        ends.append(y + ROW / 2)
    return _Heights(tuple(rows), tuple(levels), tuple(activations), tuple(ends), y + (ROW - CORE) / 2)


def _box(place: Place, y: float, is_bridge: bool) -> Box:
    ends = (place.left, place.right, y - CORE / 2, y + CORE / 2)
    return Box(place.node.core, place.kind, *ends, place.inputs, place.outputs, is_bridge)


def _line(edge: Edge, boxes: Sequence[Box], edges: Sequence[Edge]) -> Line:
    """Return a leg between two cores: straight down, or in a chain from side to side."""
    start, end = boxes[edge.start], boxes[edge.end or 0]
    if edge.lane is not None:
        points: tuple[Point, ...] = ((edge.lane, start.bottom), (edge.lane, end.top))
        return Line(edge.leg.label, edge.leg.size, points, edge.start, edge.end)
    left, right = sorted((start, end), key=lambda box: box.left)
    alike = [other.leg for other in edges if (other.start, other.end) == (edge.start, edge.end)]
    shift = PARALLEL * (alike.index(edge.leg) - (len(alike) - 1) / 2)
    y = (left.bottom + left.top) / 2 + shift
    if left.top == right.top and not any(left.right < box.left < right.left for box in boxes if box.top == left.top):
        points = ((left.right, y), (right.left, y))
    else:  # others stand between them
        over = max(left.top, right.top) + (ROW - CORE) / 2 + shift
        one, other = left.right - MARGIN / 2 - shift, right.left + MARGIN / 2 + shift
        points = ((one, left.top), (one, over), (other, over), (other, right.top))
    points = points if left is start else points[::-1]
    return Line(edge.leg.label, edge.leg.size, points, edge.start, edge.end)


def _gathering(network: Network) -> float:
    return max(GATHERING, GATHERING_PER_LEG * len(network.levels[-1].output))


def _groups(network: Network, y: float) -> tuple[Group, ...]:
    """Return the dimensions side by side: as wide as legs and texts, around the middle."""
    widths = [
        max(len(legs), LETTER * max(map(len, _dimension_lines(network, dimension))) + 0.4, 1.0)
        for dimension, legs in enumerate(network.layout.factors)
    ]
    left = (len(network.layout.order) - 1) / 2 - (sum(widths) + 0.5 * (len(widths) - 1)) / 2
    groups = []
    for dimension, width in enumerate(widths):
        groups.append(Group(dimension, left, left + width, y))
        left += width + 0.5
    return tuple(groups)


def _gathered(
    network: Network, edges: Sequence[Edge], boxes: Sequence[Box], y: float, groups: Sequence[Group]
) -> tuple[Line, ...]:
    """Return the weight's legs: down to below the last row, and from there to their places in their dimensions."""
    lines = []
    for edge, (dimension, place) in zip(edges, network.layout.order, strict=True):
        group, count = groups[dimension], len(network.layout.factors[dimension])
        step = (group.right - group.left) / count
        lane = 0.0 if edge.lane is None else edge.lane
        points = ((lane, boxes[edge.start].bottom), (lane, y), (group.left + step * (place + 0.5), group.y))
        lines.append(Line(edge.leg.label, edge.leg.size, points, edge.start, None, dimension))
    return tuple(lines)


def _level_words(network: Network, heights: _Heights, left: float, right: float) -> list[Words]:
    words = []
    seen: set[str] = set()
    for number, level in enumerate(network.levels):
        new = {node.core for node in level.nodes} - seen
        seen |= new
        numbers = sum(network.core[name].size for name in new) * (network.batch or 1)
        shared = "" if new or not level.nodes else "shared"
        words.append(
            Words(
                left,
                heights.levels[number],
                (f"level {number}", shared or _count(numbers, "parameter")),
                "right",
                "level",
            )
        )
        if (y := heights.activations[number]) is not None:
            words.append(Words(left, y, (str(level.activation),), "right", "activation"))
        words.append(Words(right, heights.ends[number], _state_lines(network, level), "left", "state"))
    return words


def _state_lines(network: Network, level: Level) -> tuple[str, str]:
    sizes = [leg.size for leg in level.output]
    least, most = min(sizes, default=1), max(sizes, default=1)
    of = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    size = math.prod(sizes) * (network.batch or 1)
    return f"{_count(len(sizes), 'leg')} of {of}", _count(size, "number")


def _weight_words(
    network: Network, arrangement: Arrangement, y: float, groups: Sequence[Group], left: float
) -> list[Words]:
    below = groups[0].y - BAR - LINE * 1.2
    words = [
        Words((group.left + group.right) / 2, below, _dimension_lines(network, group.dimension), "center", "dimension")
        for group in groups
    ]
    scale = ("scale", _count(network.batch or 1, "parameter"))
    return [*words, Words(left, (y + groups[0].y) / 2, scale, "right", "level")]


def _dimension_lines(network: Network, dimension: int) -> tuple[str, str]:
    layout = network.layout
    size, padded = layout.shape[dimension], layout.padded_shape[dimension]
    name = ("rows", "columns")[dimension] if len(layout.shape) == 2 else f"dimension {dimension}"
    cropped = "" if size == padded else f" of {padded:,}"
    product = _product(layout.factors[dimension])
    return name, f"{size:,}{cropped}" + ("" if product == str(padded) else f" = {product}")


def _product(sizes: Sequence[int]) -> str:
    """Return a product of sizes as a short text.

    >>> _product((2, 2, 2, 7)), _product((16,)), _product(())
    ('2³·7', '16', '1')
    """
    runs = [(size, len(list(run))) for size, run in groupby(sizes)]
    return "·".join(f"{size}{str(times).translate(SUPERSCRIPTS) if times > 1 else ''}" for size, times in runs) or "1"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _start(words: Words) -> float:
    width = LETTER * max(map(len, words.lines))
    return words.x - {"left": 0.0, "center": width / 2, "right": width}[words.align]


def _end(words: Words) -> float:
    return _start(words) + LETTER * max(map(len, words.lines))
