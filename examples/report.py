"""What a comparison found: its results as values, JSON, a table, a Markdown page and a plot."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from adntn.atomic import whole_file
from networks import ARCHITECTURES
from versions import Replaced

COLUMNS = ("version", "ratio by layer", "network", "parameters", "train", "test", "seconds")
LEGEND = (
    "Ratios say how many weights one stored number makes, in each replaced layer and in the whole network; train and "
    "test are accuracies. Frozen weights stay at their random start, which one seed regenerates, so that nothing is "
    "stored for them. The small dense networks have narrower hidden layers: as many parameters in the whole network as "
    'the largest compressed version ("equal total"), or as many weights in the replaced layers ("equal layers").'
)
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")


@dataclass(frozen=True)
class Result:
    """What training one version of one network gave."""

    network: str
    version: str
    kind: str
    layers: tuple[Replaced, ...]
    dense_parameters: int
    parameters: int
    train_accuracy: float
    test_accuracy: float
    seconds: float
    losses: tuple[float, ...]
    diverged: bool

    @property
    def ratio(self) -> float:
        """Parameters of the dense network for each one that is stored here."""
        return self.dense_parameters / self.parameters

    @property
    def replaced_ratio(self) -> float | None:
        """Weights of the replaced layers for each number stored for them; None where none is stored."""
        before, after = sum(layer.before for layer in self.layers), sum(layer.after for layer in self.layers)
        return before / after if after else None

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        accuracies = tuple(f"{100 * value:.1f} %" for value in (self.train_accuracy, self.test_accuracy))
        return (
            self.version + (" (diverged)" if self.diverged else ""),
            _layer_ratios(self.layers),
            f"{self.ratio:,.1f}",
            f"{self.parameters:,}",
            *accuracies,
            f"{self.seconds:,.0f}",
        )

    def to_json(self) -> dict[str, Any]:
        """Return every number, with the ratios that are computed from others."""
        layers = [{**asdict(layer), "ratio": layer.ratio} for layer in self.layers]
        return {**asdict(self), "layers": layers, "ratio": self.ratio, "replaced_ratio": self.replaced_ratio}

    @staticmethod
    def from_json(entry: dict[str, Any]) -> Result:
        """Return the result that `to_json` wrote."""
        layers = tuple(
            Replaced(layer["name"], tuple(layer["shape"]), layer["topology"], layer["before"], layer["after"])
            for layer in entry["layers"]
        )
        names = ("network", "version", "kind", "dense_parameters", "parameters", "train_accuracy", "test_accuracy")
        rest = {name: entry[name] for name in (*names, "seconds", "diverged")}
        return Result(**rest, layers=layers, losses=tuple(entry["losses"]))


def _layer_ratios(layers: tuple[Replaced, ...]) -> str:
    """Return the ratio of each replaced layer in order, or their range where they are many."""
    if not layers:
        return "dense"
    ratios = [layer.ratio for layer in layers]
    known = [ratio for ratio in ratios if ratio is not None]
    if len(known) < len(ratios):
        return "a seed"
    if len(known) > 3:
        return f"{min(known):,.0f} to {max(known):,.0f}"
    return "; ".join(f"{ratio:,.0f}" for ratio in known)


def heading(results: Sequence[Result]) -> str:
    """Return what stands over the table of one network: its name and the layers that are replaced."""
    layers = max((result.layers for result in results), key=len)
    shown = ", ".join(f"{layer.name} ({' x '.join(map(str, layer.shape))})" for layer in layers[:3])
    more = f" and {len(layers) - 3} more" if len(layers) > 3 else ""
    return f"{ARCHITECTURES[results[0].network].name}; replaced: {shown}{more}"


def by_network(results: Iterable[Result]) -> list[list[Result]]:
    """Return the results of each network."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.network, []).append(result)
    return list(groups.values())


def tables(results: Iterable[Result]) -> list[Table]:
    """Return a table of each network for the terminal."""
    return [_table(group) for group in by_network(results)]


def _table(results: Sequence[Result]) -> Table:
    shown = Table(title=heading(results))
    for number, column in enumerate(COLUMNS):
        shown.add_column(column, justify="left" if number == 0 else "right")
    for result in results:
        shown.add_row(*result.cells, style="bold" if result.kind == "generated" else None)
    return shown


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a document, whole or not at all, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def markdown(document: dict[str, Any]) -> str:
    """Return the page for a results document: how it was made, and the table."""
    results = [Result.from_json(entry) for entry in document["results"]]
    settings = document["settings"]
    recipe = settings["recipe"]
    lines = [
        f"# Accuracy beside compression: {document['data']}",
        "",
        f"Made by `{document['command']}`",
        f"({recipe['epochs']} epochs of {document['images']:,} images in batches of {recipe['batch']}, "
        f"{'products in bfloat16, ' if recipe['autocast'] else ''}seed {recipe['seed']}, "
        f"threads: {document['threads']}, {document['seconds']:,.0f} seconds of training in all; "
        + ", ".join(f"{name} {version}" for name, version in document["versions"].items())
        + ").",
        f"Generators: bond {settings['bond']}, {settings['activation']} between the levels, {settings['layout']} legs.",
    ]
    for group in by_network(results):
        lines += ["", f"## {heading(group)}", ""]
        lines += ["| " + " | ".join(COLUMNS) + " |", "| --- |" + " ---: |" * (len(COLUMNS) - 1)]
        lines += ["| " + " | ".join(result.cells) + " |" for result in group]
    lines += ["", LEGEND, "", "![Accuracy against ratio](accuracy_against_ratio.png)", ""]
    return "\n".join(lines)


def plot(document: dict[str, Any], path: Path) -> None:
    """Draw test accuracy against the ratio of the replaced layers, one panel for each network."""
    results = [Result.from_json(entry) for entry in document["results"]]
    groups = by_network(results)
    figure = Figure(figsize=(1.5 + 5.5 * len(groups), 5.0), layout="constrained")
    panels = figure.subplots(1, len(groups), squeeze=False)
    for panel, group in zip(panels[0], groups, strict=True):
        _draw(panel, group)
        panel.set_title(ARCHITECTURES[group[0].network].name)
    panels[0][0].set_ylabel("test accuracy, %")
    figure.suptitle(document["data"], fontsize="medium")
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _draw(panel: Any, results: list[Result]) -> None:
    """Draw one network's panel: trained versions filled, frozen ones hollow at the ratio of their trained twins."""
    generated = [result.version for result in results if result.kind == "generated"]
    colours = dict(zip(generated, COLOURS * len(generated), strict=False))
    ratios = {result.version: result.replaced_ratio for result in results}
    right = max((ratio for ratio in ratios.values() if ratio is not None), default=1.0)
    marks: list[tuple[float, float, str, str]] = []
    for result in results:
        twin = result.version.split(",")[0]
        height = 100 * result.test_accuracy
        colour = colours.get(twin, "black" if "frozen" not in result.kind else "dimgrey")
        if result.kind in ("dense", "frozen dense"):
            panel.axhline(height, color=colour, linewidth=1, linestyle="-" if result.kind == "dense" else ":")
            marks.append((right, height, result.version, colour))
            continue
        across = ratios[twin] if result.kind == "frozen generator" else ratios[result.version]
        hollow = result.kind == "frozen generator"
        panel.plot(
            across,
            height,
            "o" if colour != "black" else "s",
            markersize=7,
            color=colour,
            mfc="white" if hollow else colour,
        )
        marks.append((across or right, height, result.version, colour))
    panel.set_xscale("log")
    lowest, highest = min(mark[1] for mark in marks), max(mark[1] for mark in marks)
    margin = max(1.0, 0.08 * (highest - lowest))
    panel.set_ylim(lowest - margin, highest + margin)
    panel.set_xlim(None, right * 1.3)
    panel.set_xlabel("weights for each stored number, in the replaced layers")
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    _label(panel, marks, spacing=(highest - lowest + 2 * margin) / 17)


def _label(panel: Any, marks: list[tuple[float, float, str, str]], spacing: float) -> None:
    """Write the marks' names in a column on the right, none over another, each joined to its mark by a thin line."""
    ordered = sorted(marks, key=lambda mark: mark[1])
    bottom, top = panel.get_ylim()
    for (across, height, name, colour), place in zip(
        ordered, spread([mark[1] for mark in ordered], spacing, bottom, top), strict=True
    ):
        panel.annotate(
            f"{name} {height:.1f}",
            xy=(across, height),
            xytext=(1.02, (place - bottom) / (top - bottom)),
            textcoords="axes fraction",
            color=colour,
            fontsize="small",
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.4},
            annotation_clip=False,
        )


def spread(heights: list[float], spacing: float, bottom: float, top: float) -> list[float]:
    """Return increasing heights moved as little as needed to be `spacing` apart, between bottom and top if they fit.

    >>> spread([1.0, 1.0, 5.0], 1.0, 0.0, 6.0)
    [1.0, 2.0, 5.0]
    """
    places: list[float] = []
    for height in heights:
        places.append(max(height, places[-1] + spacing if places else bottom))
    ceiling = max(top, bottom + spacing * (len(heights) - 1))
    for number in reversed(range(len(places))):
        places[number] = min(places[number], ceiling)
        ceiling = places[number] - spacing
    return places
