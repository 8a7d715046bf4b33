"""Draw the three architectures from the networks themselves: `python docs/pictures/architectures.py` writes the PNG.

Nothing here knows how a TTN or a MERA looks: places follow from the legs of each network.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

import adntn
from adntn.network import Leg, Network, Node

matplotlib.use("agg")

COLOURS = {"top": "#c2410c", "isometry": "#1d6fa5", "disentangler": "#3f8f4f"}
INK, PAPER = "#24292f", "#ffffff"
HEIGHT = 1.5  # of one row of tensors
WIDTH = 0.62


@dataclass(frozen=True)
class End:
    """Where the lower end of a leg was last seen."""

    x: float
    y: float


def kind_of(network: Network, node: Node) -> str:
    """Return the colour key of a node."""
    core = network.core[node.core]
    if core.start == "identity":
        return "disentangler"
    return "isometry" if core.inputs else "top"


def leaf_places(network: Network) -> dict[Leg, float]:
    """Return the horizontal place of every leg: leaves side by side, others in the middle of their children."""
    places = {leg: float(number) for number, leg in enumerate(network.levels[-1].output)}
    for level in reversed(network.levels):
        for node in reversed(level.nodes):
            inputs = [node.legs[axis] for axis in network.core[node.core].inputs]
            outputs = [leg for leg in node.legs if leg not in inputs]
            if len(inputs) == len(outputs):
                places.update(zip(inputs, (places[leg] for leg in outputs), strict=True))
            else:
                middle = sum(places[leg] for leg in outputs) / len(outputs)
                places.update(dict.fromkeys(inputs, middle))
    return places


def draw(axes: Axes, network: Network, title: str) -> None:
    """Draw one network, top core above, weight below."""
    places = leaf_places(network)
    ends: dict[Leg, End] = {}
    y = 0.0
    for level in network.levels:
        for wanted in ("top", "isometry", "disentangler"):
            nodes = [node for node in level.nodes if kind_of(network, node) == wanted]
            if not nodes:
                continue
            for node in nodes:
                _draw_node(axes, (network, node), places, ends, y)
            y -= HEIGHT
        if not level.activation.is_identity:
            axes.axhline(y + 0.35 * HEIGHT, color="#b08900", linewidth=1.2, linestyle=(0, (4, 3)), zorder=0)
            axes.text(-0.75, y + 0.35 * HEIGHT + 0.1, f"{level.activation}", color="#8a6a00", fontsize=9)
    for number, leg in enumerate(network.levels[-1].output):
        axes.plot([ends[leg].x, places[leg]], [ends[leg].y, y + 0.1], color=INK, linewidth=1.3, zorder=1)
        dimension, place = network.layout.order[number]
        axes.text(places[leg], y - 0.15, "rc"[dimension] + str(place + 1), ha="center", va="top", fontsize=9, color=INK)
    leaves = len(network.levels[-1].output)
    axes.set_title(f"{title}\n{network.parameters} parameters", fontsize=11, color=INK)
    axes.set_xlim(-0.9, leaves - 0.1)
    axes.set_aspect("equal")
    axes.axis("off")


def _draw_node(
    axes: Axes, where: tuple[Network, Node], places: dict[Leg, float], ends: dict[Leg, End], y: float
) -> None:
    network, node = where
    inputs = [node.legs[axis] for axis in network.core[node.core].inputs]
    outputs = [leg for leg in node.legs if leg not in inputs]
    kind = kind_of(network, node)
    around = [places[leg] for leg in (outputs if kind == "disentangler" else inputs or outputs)]
    middle = sum(around) / len(around)
    wide = max(around) - min(around) + WIDTH if kind != "isometry" else WIDTH
    for leg in inputs:
        x = places[leg] if kind == "disentangler" else middle
        axes.plot([ends[leg].x, x], [ends[leg].y, y], color=INK, linewidth=1.3, zorder=1)
    spread = 0.3 * WIDTH if kind == "isometry" else 0.0
    for number, leg in enumerate(outputs):
        shift = spread * (2 * number - (len(outputs) - 1)) if kind == "isometry" else 0.0
        ends[leg] = End(middle + shift if kind == "isometry" else places[leg], y)
    box = FancyBboxPatch(
        (middle - wide / 2, y - 0.24),
        wide,
        0.48,
        boxstyle="round,pad=0,rounding_size=0.14",
        facecolor=COLOURS[kind],
        edgecolor=PAPER,
        linewidth=1,
        zorder=2,
    )
    axes.add_patch(box)


def main() -> None:
    """Write architectures.png beside this file."""
    figure = Figure(figsize=(12.5, 5.2), facecolor=PAPER)
    columns = figure.subplots(1, 3)
    titles = {"TTN": adntn.TTN, "aTTN (augmented)": adntn.AugmentedTTN, "MERA": adntn.MERA}
    for axes, (title, topology) in zip(columns, titles.items(), strict=True):
        draw(axes, topology((16, 16), bond=2, activation="tanh").network, title)
    for place, (kind, colour) in enumerate(COLOURS.items()):
        figure.text(0.33 + 0.13 * place, 0.035, f"■ {kind}", color=colour, fontsize=11, ha="left")
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(Path(__file__).with_name("architectures.png"), dpi=110)


if __name__ == "__main__":
    main()
