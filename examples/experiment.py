"""An experiment as its file declares it: one network, one data set, one recipe, many versions, several seeds.

A file is TOML. What it may hold is what `Experiment`, `Version` and `training.Recipe` have as fields; anything else is
an error that names it. `each` makes a version for every combination of its lists:

    [[versions]]
    name = "{topology}, bond {bond}"
    generate = { "classifier.[03]" = "{topology},bond={bond},activation=tanh" }
    each = { topology = ["TTN", "MERA"], bond = [2, 4] }
"""

from __future__ import annotations

import argparse
import itertools
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import adntn
from adntn.commands.rules import rule
from networks import FEATURES, HIDDEN, NETWORKS
from training import Recipe

DATA = ("digits", "cifar-10", "cifar-10 features")
"""Data sets: scikit-learn's digits, CIFAR-10, and CIFAR-10 as ImageNet's VGG-16 convolutions see it."""
SIZES: dict[str, float] = {"hidden": HIDDEN, "width": 1.0, "features": FEATURES}
"""What makes a network narrower: the size of its hidden layers, the factor of its convolutions, the last one's size."""


@dataclass(frozen=True)
class Version:
    """One version of the network: what is stored, and how it begins.

    Without any option it is the dense network.
    """

    name: str
    generate: Mapping[str, str] = field(default_factory=dict)
    """Patterns of layers, and how their weights are generated, such as "TTN,bond=4,activation=tanh"."""
    frozen: bool | tuple[str, ...] = False
    """Patterns of dense layers that stay at their random start; true: the generated ones stay at theirs."""
    as_large_as: str = ""
    """The version that has as many parameters; this one is dense, and narrower in `narrow`."""
    network: Mapping[str, Any] = field(default_factory=dict)
    """Options of the network in place of, or besides, those of the experiment."""
    narrow: tuple[str, ...] = ()
    """Which sizes of the network become smaller, by one factor: hidden, width, features."""
    after: str = ""
    """The dense version whose trained weights this one begins with."""
    fit: int = 0
    """Steps of L-BFGS that fit the cores to those weights before anything else is trained."""
    teacher: str = ""
    """The dense version whose softened outputs this one learns beside the labels."""
    keep: float = 1.0
    """Part of the weights, the largest, that is kept in the layers of `prune`."""
    prune: tuple[str, ...] = ()
    int8: bool = False
    """Whether the linear layers are rounded to 8 bits after training, by torch's dynamic quantisation."""
    seeded: bool = False
    """Whether generated weights, zero at first, are added to dense ones at their random start, kept as a seed."""
    copies: int = 1
    """How many generators are summed in each generated weight."""
    std: float | None = None
    """Standard deviation of the generated weights at the start; None is that of the dense ones."""
    seeds: tuple[int, ...] | None = None
    """If it is not trained from all seeds of the experiment."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the experiment's recipe."""

    @property
    def rules(self) -> dict[str, adntn.Options]:
        """The options of each pattern in `generate`.

        Raises:
            ValueError: if a text names no topology, or options that it does not have.
        """
        try:
            rules = {pattern: rule(f"{pattern}={made}").options for pattern, made in self.generate.items()}
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"version {self.name!r}, generate: {error}") from None
        return {pattern: options for pattern, options in rules.items() if options is not None}

    @property
    def needs(self) -> tuple[str, ...]:
        """Versions that must have been trained before."""
        return tuple(dict.fromkeys(name for name in (self.after, self.teacher) if name))


@dataclass(frozen=True)
class Experiment:
    """All versions of a network that are trained in the same way."""

    name: str
    title: str
    data: str
    network: Mapping[str, Any]
    """Its name among `networks.NETWORKS`, and the options that it is built with."""
    versions: tuple[Version, ...]
    seeds: tuple[int, ...] = (0,)
    images: int | None = None
    """Training images, spread over the classes; None is all."""
    test_images: int | None = None
    held_out: int = 0
    """How many training images are tested on in place of the test images, and not trained on: to choose by."""
    recipe: Recipe = field(default_factory=Recipe)

    def version(self, name: str) -> Version:
        """Return the version of this name.

        Raises:
            ValueError: if there is none.
        """
        for version in self.versions:
            if version.name == name:
                return version
        names = ", ".join(repr(version.name) for version in self.versions)
        raise ValueError(f"{self.name}: there is no version {name!r}, but {names}")

    def recipe_for(self, version: Version, seed: int) -> Recipe:
        """Return how a version is trained from a seed."""
        return replace(self.recipe, **version.recipe, seed=seed)

    def jobs(self) -> Iterator[tuple[Version, int]]:
        """Yield each version and seed; those that others need come first, and all versions of a seed together."""
        ordered = sorted(self.versions, key=lambda version: bool(version.needs))
        seeds = dict.fromkeys(itertools.chain(self.seeds, *(version.seeds or () for version in self.versions)))
        for seed in seeds:
            yield from ((version, seed) for version in ordered if seed in (version.seeds or self.seeds))

    def declaration(self, version: Version) -> dict[str, Any]:
        """Return all that decides the numbers of a version, but for the seed, as JSON keeps it."""
        recipe = asdict(replace(self.recipe, **version.recipe))
        recipe.pop("seed")
        if not recipe["core_rates"]:
            recipe.pop("core_rates")
        options = {one.name: getattr(version, one.name) for one in fields(Version) if one.name not in LEFT_OUT}
        given = {name: plain(value) for name, value in options.items() if value != DEFAULTS[name]}
        return {
            "data": self.data,
            "images": self.images,
            "test_images": self.test_images,
            **({"held_out": self.held_out} if self.held_out else {}),
            "network": dict(self.network),
            "recipe": recipe,
            "version": given,
            **{
                name: self.declaration(self.version(other))
                for name in ("as_large_as", "after", "teacher")
                if (other := getattr(version, name))
            },
        }


Made = TypeVar("Made", Recipe, Version, Experiment)
LEFT_OUT = ("name", "seeds", "recipe", "as_large_as", "after", "teacher")
"""Fields of a version that do not decide its numbers, or stand in its declaration by what they mean."""
DEFAULTS = {one.name: getattr(Version(""), one.name) for one in fields(Version)}


def read_experiment(path: Path) -> Experiment:
    """Return the experiment that a file declares; its name is the file's.

    Raises:
        ValueError: if the file is no TOML, or something in it is unknown, missing, or does not fit the rest.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML file: {error}") from None
    try:
        versions = tuple(version for entry in document.pop("versions", ()) for version in _expanded(entry))
        recipe = _made(Recipe, document.pop("recipe", {}), "recipe")
        experiment = _made(
            Experiment, {"name": path.stem, **document, "versions": versions, "recipe": recipe}, "experiment"
        )
        _check(experiment)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: {error}") from None
    return experiment


def place(name: str, seed: int) -> str:
    """Return the name of a job's files.

    >>> place("TTN, bond 4", 0)
    'TTN-bond-4.0'
    """
    words = "".join(letter if letter.isalnum() or letter in ".%" else " " for letter in name).split()
    return f"{'-'.join(words)}.{seed}"


def plain(value: Any) -> Any:
    """Return a value as JSON gives it back."""
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return {name: plain(one) for name, one in value.items()} if isinstance(value, Mapping) else value


def _expanded(entry: dict[str, Any]) -> Iterator[Version]:
    """Yield a version for each combination of the lists under `each`."""
    entry = dict(entry)
    each: dict[str, list[Any]] = entry.pop("each", {})
    for values in itertools.product(*each.values()):
        yield _made(Version, _filled(entry, dict(zip(each, values, strict=True))), "version")


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    """Return a declaration with {names} replaced by values; a text that is one {name} becomes the value itself."""
    if isinstance(value, str):
        alone = value.removeprefix("{").removesuffix("}")
        if value == f"{{{alone}}}" and alone in values:
            return values[alone]
        try:
            return value.format(**values)
        except (KeyError, IndexError) as error:
            raise ValueError(f"version: {value!r} has {{{error.args[0]}}}, which each does not list") from None
    if isinstance(value, list):
        return [_filled(one, values) for one in value]
    if isinstance(value, dict):
        return {_filled(name, values): _filled(one, values) for name, one in value.items()}
    return value


def _made(kind: type[Made], entry: Mapping[str, Any], what: str) -> Made:
    """Return a value of a frozen dataclass from a table, or say which key it does not know."""
    known = {one.name for one in fields(kind)}
    if unknown := [key for key in entry if key not in known]:
        raise ValueError(f"{what}: unknown {unknown[0]!r}; known are {', '.join(sorted(known))}")
    for one in fields(kind):
        if one.name in entry and not _is_alike(entry[one.name], one.default):
            raise ValueError(f"{what}: {one.name} must be like {one.default!r}, got {entry[one.name]!r}")
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    return kind(**given)


def _is_alike(value: Any, default: Any) -> bool:
    """Return whether a value is of the kind of a default; any value is where there is none, or None."""
    if isinstance(default, bool):
        return isinstance(value, bool | list)  # all, or those of a list
    if isinstance(default, int | float):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole or (isinstance(default, float) and isinstance(value, float))
    if isinstance(default, tuple):
        return isinstance(value, list | tuple)
    return not isinstance(default, str) or isinstance(value, str)


def _check(experiment: Experiment) -> None:
    """Raise what is wrong in an experiment before anything is trained."""
    if experiment.data not in DATA:
        raise ValueError(f"data must be one of {', '.join(map(repr, DATA))}, got {experiment.data!r}")
    if (network := experiment.network.get("name")) not in NETWORKS:
        raise ValueError(f"network: name must be one of {', '.join(NETWORKS)}, got {network!r}")
    if experiment.held_out < 0 or experiment.held_out >= (experiment.images or math.inf):
        raise ValueError(
            f"held_out must not be negative, and less than images ({experiment.images}), got {experiment.held_out}"
        )
    files = [place(version.name, 0) for version in experiment.versions]
    for version, file in zip(experiment.versions, files, strict=True):
        if files.count(file) > 1:
            raise ValueError(f"two versions have the name {version.name!r}, or names whose files are the same")
    for version in experiment.versions:
        _check_options(experiment, version)
        _check_others(experiment, version)


def _check_others(experiment: Experiment, version: Version) -> None:
    """Raise what is wrong between a version and those that it refers to."""
    for name in version.needs:
        other = experiment.version(name)
        if other != Version(name, seeds=other.seeds, recipe=other.recipe):
            raise ValueError(f"version {version.name!r} begins after {name!r}, which is not the dense network")
        if missing := set(version.seeds or experiment.seeds) - set(other.seeds or experiment.seeds):
            raise ValueError(f"version {version.name!r} wants seed {min(missing)}, from which {name!r} is not trained")
    if version.as_large_as and experiment.version(version.as_large_as).as_large_as:
        raise ValueError(f"version {version.name!r} is as large as {version.as_large_as!r}, which is so itself")
    if version.as_large_as and (version.generate or version.needs or version.prune or version.int8):
        raise ValueError(f"version {version.name!r} is as large as another, and dense: it can be frozen, no more")
    if version.after and version.frozen:
        raise ValueError(f"version {version.name!r}: what begins after another has no random start to be frozen at")


def _check_options(experiment: Experiment, version: Version) -> None:
    """Raise what is wrong within a version."""
    _ = version.rules  # raises what is wrong
    _made(Recipe, version.recipe, f"version {version.name!r}, recipe")
    if version.frozen is True and not version.generate:
        raise ValueError(f"version {version.name!r}: frozen = true needs generate, or name the layers to freeze")
    if version.seeds == ():
        raise ValueError(
            f"version {version.name!r}: seeds must not be empty; leave it away for those of the experiment"
        )
    if unknown := [size for size in version.narrow if size not in SIZES]:
        raise ValueError(f"version {version.name!r}: narrow knows {', '.join(SIZES)}, got {unknown[0]!r}")
    if bool(version.as_large_as) != bool(version.narrow):
        raise ValueError(f"version {version.name!r}: as_large_as and narrow go together")
    if bool(version.prune) != (version.keep < 1) or not 0 < version.keep <= 1:
        raise ValueError(f"version {version.name!r}: prune needs a keep between 0 and 1, got {version.keep}")
    if version.fit and not version.after:
        raise ValueError(f"version {version.name!r}: fit needs after, the version whose weights are fitted")
