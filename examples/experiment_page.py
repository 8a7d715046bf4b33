"""Make a page of tables, plots and sentences from the results of experiments: nothing in it is typed by hand.

    python examples/experiment_page.py docs/results/paper

reads `*.jsonl` in that folder, draws a plot of each experiment beside them, and fills the template
`examples/experiments/page.md.jinja` into `docs/results/paper.md`. Results that the experiments in the template's folder
no longer declare are left out.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from adntn.atomic import whole_file
from experiment import Experiment, Version, read_experiment
from experiment_jobs import MEASURED_IMAGES
from run_experiments import finished

TEMPLATE = Path(__file__).parent / "experiments" / "page.md.jinja"


@dataclass(frozen=True)
class Group:
    """The results of one version, from all its seeds."""

    version: str
    results: tuple[dict[str, Any], ...]

    def values(self, name: str) -> list[float]:
        """Return one number of each result."""
        return [float(result[name]) for result in self.results]

    def known(self, name: str) -> list[float]:
        """Return one number of each result that has it."""
        return [float(result[name]) for result in self.results if result[name] is not None]

    def mean(self, name: str) -> float:
        """Return the mean of a number over the seeds."""
        return statistics.fmean(self.values(name))

    def spread(self, name: str) -> float:
        """Return the standard deviation of a number over the seeds; NaN where there is one."""
        return statistics.stdev(self.values(name)) if len(self.results) > 1 else math.nan

    @property
    def stored(self) -> int:
        """Numbers that are stored for the whole network."""
        return int(self.results[0]["stored"])

    @property
    def stored_in_layers(self) -> int:
        """Numbers that are stored for the replaced layers."""
        return sum(int(layer["after"]) for layer in self.results[0]["layers"])

    @property
    def weights(self) -> int:
        """Weights of the replaced layers."""
        return sum(int(layer["before"]) for layer in self.results[0]["layers"])

    @property
    def ratio(self) -> float:
        """Weights of the replaced layers for each number stored for them; infinite where none is."""
        return self.weights / self.stored_in_layers if self.stored_in_layers else math.inf

    @property
    def whole_ratio(self) -> float:
        """Numbers of the dense network for each that is stored for this one; infinite where none is."""
        return int(self.results[0]["dense_parameters"]) / self.stored if self.stored else math.inf

    @property
    def margin(self) -> float:
        """Spread of the test accuracy; 0 where it is not known."""
        return self.spread("test_accuracy") if len(self.results) > 1 else 0.0

    @property
    def costs(self) -> tuple[str, str]:
        """Seconds of an epoch, the least of all seeds, and MiB, the most; empty where they were not measured."""
        seconds, peaks = min(self.values("seconds_per_epoch")), self.known("peak_memory")
        return f"{seconds:,.1f}" if seconds else "", f"{max(peaks) / 2**20:,.0f}" if peaks else ""


class Experiments:
    """The results of a folder, asked for by the names of experiments and versions: what the template sees."""

    def __init__(self, folder: Path, declared: Path) -> None:
        self.folder = folder
        self._declared = {path.stem: read_experiment(path) for path in sorted(declared.glob("*.toml"))}
        self._results = {path.stem: finished(path) for path in sorted(folder.glob("*.jsonl"))}

    def groups(self, experiment: str) -> list[Group]:
        """Return the versions of an experiment that have results, in the order in which they are declared.

        Raises:
            ValueError: if a result was made from another declaration than the one that is there now.
        """
        declared, found = self._experiment(experiment), []
        for version in declared.versions:
            results = [result for result in self.rows(experiment) if result["version"] == version.name]
            if any(result["declaration"] != declared.declaration(version) for result in results):
                raise ValueError(f"{experiment}: {version.name!r} has results that were made as the file said before")
            if results:
                found.append(Group(version.name, tuple(results)))
        return found

    def named(self, experiment: str, pattern: str, words: Sequence[str]) -> list[str]:
        """Return the words that, put into a pattern, are the names of versions with results."""
        there = {group.version for group in self.groups(experiment)}
        return [word for word in words if pattern.format(word) in there]

    def group(self, experiment: str, version: str) -> Group:
        """Return one version.

        Raises:
            ValueError: if there is no result of it.
        """
        for group in self.groups(experiment):
            if group.version == version:
                return group
        raise ValueError(f"{experiment}: there is no result of {version!r}")

    def conditions(self, experiment: str) -> str:
        """Return how the numbers of an experiment were made: epochs, images, seeds, libraries."""
        results = [result for group in self.groups(experiment) for result in group.results]
        recipe = self._experiment(experiment).recipe
        seeds = sorted({result["seed"] for result in results})
        threads = sorted({result["threads"] for result in results})
        versions = ", ".join(f"{name} {version}" for name, version in results[0]["versions"].items())
        return (
            f"{results[0]['dataset']}. {recipe.epochs} epochs in batches of {recipe.batch}, if a version does not say "
            f"otherwise{'; products in bfloat16' if recipe.autocast else ''}; rates {recipe.rate:g}, of cores "
            f"{recipe.core_rate:g}; seeds {', '.join(map(str, seeds))}; threads: {', '.join(map(str, threads))}; "
            f"{versions}. Training accuracy is that on the first {min(results[0]['images'], MEASURED_IMAGES):,} images."
        )

    def table(self, experiment: str, *, memory: bool = False) -> str:
        """Return a table with a row for each version: seconds are the least of all seeds, memory is the most."""
        heads = ["version", "seeds", "stored in the layers", "ratio", "stored in all", "train", "test", "s per epoch"]
        heads += ["MiB"] if memory else []
        rows = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
        declared = self._experiment(experiment)
        for group in self.groups(experiment):
            layers, (seconds, peak) = group.results[0]["layers"], group.costs
            notes = _not_named(declared.version(group.version))
            notes += ["diverged"] if any(result["diverged"] for result in group.results) else []
            cells = [
                f"{group.version} ({', '.join(notes)})" if notes else group.version,
                str(len(group.results)),
                f"{group.stored_in_layers:,}" if layers else "",
                _ratio(group.ratio) if layers else "",
                f"{group.stored:,}",
                _percent(group, "train_accuracy"),
                _percent(group, "test_accuracy"),
                seconds,
            ]
            rows.append(f"| {' | '.join([*cells, peak] if memory else cells)} |")
        return "\n".join(rows)

    def beside(self, *settings: tuple[str, str, str], costs: bool = False) -> str:
        """Return rows that show versions beside their dense networks.

        Args:
            settings: what is generated, in words, an experiment, and the version; those without results are left out.
            costs: whether seconds of an epoch and MiB stand at the end.
        """
        rows = []
        for words, experiment, version in settings:
            if not self.named(experiment, "{}", [version]):
                continue
            group, dense = self.group(experiment, version), self.group(experiment, "dense")
            cells = [words, f"{group.weights:,}", f"{group.stored_in_layers:,}", _ratio(group.ratio)]
            cells += [_ratio(group.whole_ratio), _percent(dense, "test_accuracy"), _percent(group, "test_accuracy")]
            cells.append(str(len(group.results)))
            cells += [" / ".join(both) for both in zip(group.costs, dense.costs, strict=True)] if costs else []
            rows.append(f"| {' | '.join(cells)} |")
        return "\n".join(rows)

    def lead(self, experiment: str, version: str, others: Sequence[str]) -> str:
        """Return by how many points a version is above the best of others, spreads on both sides taken off."""
        group, rivals = self.group(experiment, version), [self.group(experiment, name) for name in others]
        highest = max(rival.mean("test_accuracy") + rival.margin for rival in rivals)
        return f"{100 * (group.mean('test_accuracy') - group.margin - highest):+.1f}"

    def test(self, experiment: str, version: str) -> str:
        """Return the test accuracy of a version, with the standard deviation over its seeds."""
        return _percent(self.group(experiment, version), "test_accuracy")

    def above(self, experiment: str, version: str, other: str, name: str = "test_accuracy") -> str:
        """Return by how many points a version's accuracy is above another's, such as "+1.2" or "-0.3"."""
        first, second = (self.group(experiment, one).mean(name) for one in (version, other))
        return f"{100 * (first - second):+.1f}"

    def within(self, experiment: str, versions: Sequence[str], points: float) -> Group | None:
        """Return the version of the largest whole ratio that is less than so many points below the dense network."""
        least = self.group(experiment, "dense").mean("test_accuracy") - points / 100
        near = [group for group in self.groups(experiment) if group.version in versions]
        near = [group for group in near if group.mean("test_accuracy") >= least]
        return max(near, key=lambda group: group.whole_ratio, default=None)

    def holds(self, claim: bool, words: str) -> str:
        """Return words that say what the results show.

        Raises:
            ValueError: if they do not, or no longer.
        """
        if not claim:
            raise ValueError(f"the results do not say that {words}")
        return words

    def best(self, experiment: str, versions: Sequence[str]) -> str:
        """Return the best test accuracy of some versions, as `test` shows it."""
        groups = [self.group(experiment, name) for name in versions]
        return _percent(max(groups, key=lambda group: group.mean("test_accuracy")), "test_accuracy")

    def gap(self, experiment: str, version: str) -> str:
        """Return by how many points a version's training accuracy is above its test accuracy."""
        group = self.group(experiment, version)
        return f"{100 * (group.mean('train_accuracy') - group.mean('test_accuracy')):.1f}"

    def ratio(self, experiment: str, version: str, layer: str | None = None) -> str:
        """Return how many weights a stored number makes: in one layer, or in all that are replaced.

        Raises:
            ValueError: if that layer is not replaced.
        """
        group = self.group(experiment, version)
        own = {None: group.ratio, **{one["name"]: one["ratio"] for one in group.results[0]["layers"]}}
        if layer not in own:
            raise ValueError(f"{experiment}: {version!r} does not replace {layer!r}")
        return _ratio(math.inf if own[layer] is None else own[layer])

    def shapes(self, experiment: str, version: str) -> str:
        """Return the shapes of the replaced layers of a version."""
        layers = self.group(experiment, version).results[0]["layers"]
        return " and ".join(" x ".join(map(str, layer["shape"])) for layer in layers)

    def plot(self, experiment: str, title: str) -> str:
        """Draw test accuracy against the numbers stored, beside the results; return the picture for the page."""
        path = self.folder / f"{experiment}.png"
        figure = drawn(self.groups(experiment), title)
        with whole_file(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150)
        return f"![{title}]({self.folder.name}/{path.name})"

    def layer_table(self, network: str) -> str:
        """Return what each layer of an ImageNet network stores, by `measure_layers.py`: ratios of TTN; aTTN; MERA."""
        rows = [row for row in self.rows("imagenet-layers") if row["network"] == network]
        bonds = sorted({row["bond"] for row in rows})
        timed = all("relative" in row for row in rows)
        heads = ["layer", "weights", *(f"ratio, bond {bond}" for bond in bonds)]
        heads += ["W made, in copies of it"] if timed else []
        lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
        for layer in dict.fromkeys(row["layer"] for row in rows):
            these = [row for row in rows if row["layer"] == layer]
            ratios = ["; ".join(f"{row['ratio']:,.0f}" for row in these if row["bond"] == bond) for bond in bonds]
            cells = [f"{layer}, {' x '.join(map(str, these[0]['shape']))}", f"{these[0]['weights']:,}", *ratios]
            if timed:
                times = [row["relative"] for row in these]
                cells.append(f"{min(times):.1f} to {max(times):.1f} ({these[0]['threads']} threads)")
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def fit_table(self) -> str:
        """Return how near generators come to each trained kernel, and to its numbers shuffled, and their ratio."""
        rows = self.rows("imagenet-fits")
        versions = list(dict.fromkeys(row["version"] for row in rows))
        lines = [f"| layer | {' | '.join(versions)} |", f"|---|{'---:|' * len(versions)}"]
        for layer in dict.fromkeys(row["layer"] for row in rows):
            cells = [
                f"{row['relative_error']:.3f} / {row['shuffled_error']:.3f} ({row['ratio']:,.0f})"
                for row in rows
                if row["layer"] == layer
            ]
            lines.append(f"| {layer} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def _experiment(self, name: str) -> Experiment:
        if name not in self._declared:
            raise ValueError(f"there is no experiment {name!r}, but {', '.join(self._declared)}")
        return self._declared[name]

    def rows(self, experiment: str) -> list[dict[str, Any]]:
        """Return the lines of a file: of an experiment, or of another kind, such as "imagenet-layers"."""
        if not self._results.get(experiment):
            raise ValueError(f"{self.folder} has no results of {experiment!r}; there are {', '.join(self._results)}")
        return self._results[experiment]


KINDS = {
    "TTN": "tab:blue",
    "AugmentedTTN": "tab:orange",
    "MERA": "tab:green",
    "Brickwall": "tab:red",
    "tensor train": "tab:purple",
    "low rank": "tab:brown",
    "small dense": "tab:grey",
    "random features": "tab:olive",
    "random projection": "tab:pink",
    "learned projection": "tab:cyan",
    "dense": "black",
}
"""What the names of versions begin with, and their colours."""


def drawn(groups: Sequence[Group], title: str) -> Figure:
    """Return a figure of test accuracies against the numbers stored in all; what stores nothing is left out.

    Generators without activations are hollow.
    """
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    panel = figure.add_subplot(title=title, xlabel="numbers stored for the network", ylabel="test accuracy, %")
    panel.set_xscale("log")
    for kind, colour in KINDS.items():
        these = [group for group in groups if group.version.startswith(kind) and group.stored]
        if these:
            errors = [100 * group.margin for group in these]
            heights = [100 * group.mean("test_accuracy") for group in these]
            across = [group.stored for group in these]
            panel.errorbar(across, heights, yerr=errors, fmt="none", ecolor=colour, capsize=2)
            for one, height, group in zip(across, heights, these, strict=True):
                filled = "full" if "identity" not in group.version else "none"
                panel.plot(one, height, "o", color=colour, markersize=6, fillstyle=filled)
            panel.plot([], [], "o", color=colour, markersize=6, label=kind)
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def _not_named(version: Version) -> list[str]:
    """Return what differs in a version's recipe and is not in its name, in words."""
    numbers = version.name.replace(",", " ").split()
    flat = [
        one
        for key, value in version.recipe.items()
        for one in (value.items() if isinstance(value, Mapping) else [(key.replace("_", " "), value)])
    ]
    return [f"{key} {value:g}" for key, value in flat if f"{value:g}" not in numbers]


def _ratio(value: float) -> str:
    if math.isinf(value):
        return "a seed"
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def _percent(group: Group, name: str) -> str:
    """Return one value, two values, or the mean of more and their standard deviation."""
    if len(group.results) < 3:
        return f"{'; '.join(f'{100 * value:.1f}' for value in group.values(name))} %"
    return f"{100 * group.mean(name):.1f} ± {100 * group.spread(name):.1f} %"


def page(folder: Path, template: Path) -> str:
    """Return the page that a template makes of the results in a folder; pictures are drawn beside them.

    Raises:
        ValueError: if the template asks for results that are not there.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    return environment.get_template(template.name).render(results=Experiments(folder, template.parent))


def main(given: Iterable[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, or 2 where results are missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", type=Path, help="folder with the results; the page is written beside it")
    parser.add_argument("--template", type=Path, default=TEMPLATE, help="default: %(default)s")
    arguments = parser.parse_args(None if given is None else list(given))
    try:
        text = page(arguments.folder, arguments.template)
        with whole_file(arguments.folder.with_suffix(".md")) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except (ValueError, OSError, jinja2.TemplateError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
