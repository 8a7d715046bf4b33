"""The versions of a network that are compared: dense, generated, and the controls that a sceptic asks for.

Whatever a version is, it comes out of here as a freshly built network with a fixed start: the same seed gives every
version the same convolutions, and the generated layers start with the standard deviation of the weights they replace.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import nn

import adntn
from adntn_torch import compress, expand
from data import Dataset
from networks import ARCHITECTURES, HIDDEN, HIDDEN_LAYERS, ConvolutionalNetwork, freeze, parameter_count

Kind = Literal["dense", "generated", "frozen generator", "frozen dense", "small: equal total", "small: equal layers"]
SMALL: tuple[Kind, ...] = ("small: equal total", "small: equal layers")
TOPOLOGIES: dict[str, adntn.Topology[Any]] = {
    topology.name: topology for topology in (adntn.TTN, adntn.AugmentedTTN, adntn.MERA, adntn.TensorTrain)
}


@dataclass(frozen=True)
class Version:
    """One version of a network; `options` says how its weights are generated, where they are."""

    name: str
    kind: Kind
    options: adntn.Options | None = None


@dataclass(frozen=True)
class Shape:
    """What a network is built for: images, classes, and the width of its convolutions."""

    network: str
    channels: int
    size: int
    classes: int
    width: float
    dropout: float
    seed: int

    def build(self, hidden: int = HIDDEN) -> ConvolutionalNetwork:
        """Return the dense network with its start drawn from the seed."""
        torch.manual_seed(self.seed)
        return ARCHITECTURES[self.network].build(
            channels=self.channels,
            size=self.size,
            classes=self.classes,
            width=self.width,
            hidden=hidden,
            dropout=self.dropout,
        )

    def build_empty(self, hidden: int = HIDDEN) -> ConvolutionalNetwork:
        """Return the dense network without data, to ask for its shapes and sizes."""
        with torch.device("meta"):
            return self.build(hidden)


@dataclass(frozen=True)
class Replaced:
    """One layer that a version does not store as it is."""

    name: str
    shape: tuple[int, ...]
    topology: str
    before: int
    after: int

    @property
    def ratio(self) -> float | None:
        """How many weights a stored number makes; None where nothing is stored."""
        return self.before / self.after if self.after else None


@dataclass(frozen=True)
class Built:
    """A version ready to be trained."""

    network: nn.Module
    layers: tuple[Replaced, ...]
    dense_parameters: int
    """Parameters of the dense network that this is a version of."""
    parameters: int
    """Numbers that have to be stored, besides the seed."""


def shape_for(network: str, dataset: Dataset, width: float | None, dropout: float, seed: int) -> Shape:
    """Return how to build a network for a data set; without a width, small images get narrow convolutions."""
    if width is None:
        width = 1.0 if dataset.size >= 32 else ARCHITECTURES[network].small_width
    return Shape(network, dataset.channels, dataset.size, len(dataset.classes), width, dropout, seed)


def versions_of(options: dict[str, adntn.Options], *, controls: bool) -> tuple[Version, ...]:
    """Return all versions of a network in the order in which they are trained and shown."""
    trained = tuple(Version(name, "generated", choice) for name, choice in options.items())
    if not controls:
        return (Version("dense", "dense"), *trained)
    frozen = tuple(Version(f"{name}, frozen", "frozen generator", choice) for name, choice in options.items())
    small = tuple(Version(f"small, {kind.removeprefix('small: ')}", kind) for kind in SMALL)
    return (Version("dense", "dense"), *trained, *frozen, Version("dense, frozen", "frozen dense"), *small)


def build(shape: Shape, version: Version, patterns: tuple[str, ...], generated: tuple[adntn.Options, ...]) -> Built:
    """Return a version of a network.

    Args:
        shape: how the network is built.
        version: which version of it.
        patterns: names of the layers that are replaced, as `fnmatch` understands them.
        generated: the options of all generated versions; a small dense network is as large as the largest of them.

    Raises:
        ValueError: if a pattern matches no linear or convolution layer.
    """
    if version.kind in SMALL:
        return _small(shape, version, patterns, generated)
    network = shape.build()
    names, dense = replaceable(network, patterns), parameter_count(network)
    layers: tuple[Replaced, ...] = ()
    if version.options is not None:
        rows = compress(network, dict.fromkeys(patterns, version.options), seed=shape.seed).rows
        layers = tuple(Replaced(row.name, tuple(row.shape), row.topology, row.before, row.after) for row in rows)
    if version.kind == "frozen generator":
        # The cores never change, so their weights are generated here, once, and no gradient is ever taken to them.
        expand(network)
    if version.kind in ("frozen generator", "frozen dense"):
        source = "its start" if version.options is None else f"{version.options} at its start"
        weights = {name: network.get_submodule(name).get_parameter("weight") for name in names}
        layers = tuple(
            Replaced(name, tuple(weight.shape), f"{source}, from the seed", weight.numel(), 0)
            for name, weight in weights.items()
        )
        freeze(network, names)
    return Built(network, layers, dense, parameter_count(network))


def replaceable(network: nn.Module, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the linear and convolution layers that the patterns match.

    Raises:
        ValueError: if a pattern matches none; the message lists the layers there are.
    """
    layers = [n for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise ValueError(f"{pattern!r} matches none of the layers {', '.join(layers)}")
    return tuple(name for name in layers if any(fnmatchcase(name, pattern) for pattern in patterns))


def _small(shape: Shape, version: Version, patterns: tuple[str, ...], generated: tuple[adntn.Options, ...]) -> Built:
    """Return the dense network with hidden layers so narrow that it is as large as the largest compressed version.

    "Equal total" counts the whole network, and so gives the control also what the generated layers' 4,096 biases and
    the last layer's 4,096 inputs cost; "equal layers" counts the weights of the replaced layers alone.
    """
    network = shape.build_empty()
    names, dense = replaceable(network, patterns), parameter_count(network)
    before = {name: network.get_submodule(name).get_parameter("weight") for name in names}
    after = max(sum(options(tuple(weight.shape)).parameters for weight in before.values()) for options in generated)
    if version.kind == "small: equal total":
        target = dense - sum(weight.numel() for weight in before.values()) + after
        hidden = smallest(lambda hidden: _count(shape, hidden, None), target)
    else:
        hidden = smallest(lambda hidden: _count(shape, hidden, names), after)
    small = shape.build(hidden)
    layers = tuple(
        Replaced(name, tuple(weight.shape), f"dense {tuple(kept.shape)}", weight.numel(), kept.numel())
        for name, weight in before.items()
        for kept in (small.get_submodule(name).get_parameter("weight"),)
    )
    return Built(small, layers, dense, parameter_count(small))


def narrows(patterns: tuple[str, ...]) -> bool:
    """Whether narrower hidden layers make the replaced layers smaller: not where only convolutions are replaced."""
    return any(fnmatchcase(name, pattern) for name in HIDDEN_LAYERS for pattern in patterns)


def _count(shape: Shape, hidden: int, names: tuple[str, ...] | None) -> int:
    """Return the parameters of the network, or of the named layers' weights alone, at a size of the hidden layers."""
    network = shape.build_empty(hidden)
    if names is None:
        return parameter_count(network)
    return sum(network.get_submodule(name).get_parameter("weight").numel() for name in names)


def smallest(count: Callable[[int], int], target: int) -> int:
    """Return the smallest hidden size, from 1 to the dense one, at which an increasing count reaches the target."""
    low, high = 1, HIDDEN
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if count(middle) >= target else (middle + 1, high)
    return low
