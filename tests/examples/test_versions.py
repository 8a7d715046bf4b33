"""The versions of a network: each starts from the seed, counts what it stores, and controls are what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import adntn
from adntn_torch import generated_layers
from compress_network import check
from data import Dataset
from networks import HIDDEN_LAYERS
from training import Recipe, Stop, train
from versions import SMALL, TOPOLOGIES, Built, Kind, Shape, Version, build, narrows, replaceable, versions_of

OPTIONS = {"TTN": adntn.TTN.options(bond=2, activation="tanh"), "MERA": adntn.MERA.options(bond=3, activation="silu")}
DENSE, TTN = Version("dense", "dense"), Version("TTN", "generated", OPTIONS["TTN"])
FROZEN = {
    "frozen generator": Version("TTN, frozen", "frozen generator", OPTIONS["TTN"]),
    "frozen dense": Version("dense, frozen", "frozen dense"),
}
PATTERNS = {"hidden layers": HIDDEN_LAYERS, "a convolution too": ("features.9", "classifier.[03]")}


def shape(network: str, seed: int = 4) -> Shape:
    return Shape(network, channels=1, size=8, classes=10, width=0.05, dropout=0.1, seed=seed)


def built(network: str, version: Version, patterns: tuple[str, ...] = HIDDEN_LAYERS) -> Built:
    return build(shape(network), version, patterns, tuple(OPTIONS.values()))


def numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(params=["alexnet", "vgg16"])
def network(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=PATTERNS.values(), ids=PATTERNS.keys())
def patterns(request: pytest.FixtureRequest) -> tuple[str, ...]:
    names: tuple[str, ...] = request.param
    return names


def test_all_versions_are_of_one_plan():
    assert [version.name for version in versions_of(OPTIONS, controls=False)] == ["dense", "TTN", "MERA"]
    kinds = [version.kind for version in versions_of(OPTIONS, controls=True)]
    assert kinds == ["dense", *["generated"] * 2, *["frozen generator"] * 2, "frozen dense", *SMALL]


@pytest.mark.parametrize("layout", ["interleaved", "split"])
@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES.keys())
def test_every_topology_makes_the_hidden_layers_at_full_size(network, topology, layout):
    options = topology.options(bond=2, activation="tanh", layout=layout)
    check(shape(network).build_empty(), HIDDEN_LAYERS, (options,))


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("version", [TTN, *FROZEN.values()], ids=lambda version: version.kind)
def test_a_version_keeps_the_start_of_all_that_it_does_not_replace(network, patterns, version):
    dense = built(network, DENSE).network.state_dict()
    found = built(network, version, patterns).network
    replaced = {f"{name}.weight" for name in replaceable(found, patterns)} if version is not TTN else set()
    replaced |= {f"{name}.weight" for name in generated_layers(found)}
    state = found.state_dict()
    assert len(replaced) == (2 if patterns == HIDDEN_LAYERS else 3)
    kept = dense.keys() - replaced
    assert kept == {name for name in state if ".cores." not in name}
    assert all(torch.equal(dense[name], state[name]) for name in kept)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("version", [DENSE, TTN, *FROZEN.values()], ids=lambda version: version.kind)
def test_counts_are_of_what_is_stored(network, patterns, version):
    found = built(network, version, patterns)
    whole = built(network, DENSE).network
    assert found.dense_parameters == numbers(whole)
    # Stored is the state but for running statistics, which every version has alike.
    statistics = {name for name, _ in whole.named_buffers()}
    state = found.network.state_dict()
    assert found.parameters == sum(value.numel() for name, value in state.items() if name not in statistics)
    for layer in found.layers:
        weight = whole.get_submodule(layer.name).weight
        assert (layer.shape, layer.before) == (tuple(weight.shape), weight.numel())
        prefix = f"{layer.name}.cores."
        assert layer.after == sum(value.numel() for name, value in state.items() if name.startswith(prefix))
    saved = sum(layer.before - layer.after for layer in found.layers)
    assert found.parameters == found.dense_parameters - saved
    assert (saved > 0) == (version is not DENSE)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("kind", FROZEN)
def test_frozen_weights_are_the_start_that_a_seed_gives_and_stay_it(network, patterns, kind, tmp_path: Path):
    frozen = built(network, FROZEN[kind], patterns).network
    twin = built(network, TTN if kind == "frozen generator" else DENSE, patterns).network
    names = replaceable(frozen, patterns)
    start = {name: frozen.get_submodule(name).weight.clone() for name in names}
    assert all(torch.equal(start[name], twin.get_submodule(name).weight) for name in names)
    before = {name: value.clone() for name, value in frozen.named_parameters()}
    images, labels = torch.randn(20, 1, 8, 8), torch.arange(20) % 10
    dataset = Dataset("fake", images, labels, images, labels, tuple("0123456789"))
    recipe = Recipe(epochs=2, batch=10, rate=0.1)
    train(frozen, dataset, recipe, job="a", checkpoint=tmp_path / "c.pt", resume=False, stop=Stop())
    assert all(torch.equal(frozen.get_submodule(name).weight, weight) for name, weight in start.items())
    unchanged = [name for name, value in frozen.named_parameters() if torch.equal(value, before[name])]
    assert unchanged == [], "all the rest is trained"
    assert not frozen.state_dict().keys() & {f"{name}.weight" for name in names}
    again = built(network, FROZEN[kind], patterns).network
    again.load_state_dict(frozen.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(again.eval()(images), frozen.eval()(images)), "the seed and what is stored are enough"


@pytest.mark.parametrize("kind", SMALL)
def test_small_networks_are_the_smallest_that_are_as_large_as_the_largest_compressed_version(network, kind):
    largest = {
        name: [
            options((4096, columns)).parameters for name, columns in zip(HIDDEN_LAYERS, widths(network), strict=True)
        ]
        for name, options in OPTIONS.items()
    }
    weights = max(sum(counts) for counts in largest.values())
    whole = shape(network).build_empty()
    dense = numbers(whole)
    promised = weights if kind == "small: equal layers" else dense - 4096 * sum(widths(network)) + weights
    found = built(network, Version("small", kind))
    hidden = found.network.classifier[0].out_features
    sizes = [size_of(shape(network).build_empty(size), kind) for size in (hidden - 1, hidden)]
    assert sizes[0] < promised <= sizes[1] == size_of(found.network, kind)
    assert found.parameters == numbers(found.network)
    assert found.dense_parameters == dense
    assert [layer.after for layer in found.layers] == [hidden * widths(network)[0], hidden * hidden]
    assert [layer.before for layer in found.layers] == [4096 * columns for columns in widths(network)]


def widths(network: str) -> tuple[int, int]:
    """Return the inputs of the two hidden layers."""
    return {"alexnet": 1024, "vgg16": 512}[network], 4096


def size_of(network: nn.Module, kind: Kind) -> int:
    layers = [network.classifier[0].weight, network.classifier[3].weight]
    return sum(weight.numel() for weight in layers) if kind == "small: equal layers" else numbers(network)


@pytest.mark.parametrize(
    ("names", "narrower"),
    [(HIDDEN_LAYERS, True), (("classifier.*",), True), (("classifier.6",), False), (("features.*",), False)],
)
def test_small_networks_are_compared_only_where_narrow_hidden_layers_save_what_is_replaced(names, narrower):
    assert narrows(names) == narrower


def test_an_unknown_pattern_is_named_with_the_layers_there_are(network):
    with pytest.raises(ValueError, match=r"'classifier\.1' matches none of the layers features\.0, .*classifier\.6"):
        check(shape(network).build_empty(), ("classifier.0", "classifier.1"), ())
