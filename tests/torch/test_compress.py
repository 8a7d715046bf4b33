"""compress and expand: what they replace, what they keep, and that all or nothing happens."""

from __future__ import annotations

import copy
import dataclasses
import io

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn.utils import parametrizations, prune

import adntn
import adntn_torch
from adntn_torch import above, compress, expand, generated_layers, load_compressed, save_compressed
from adntn_torch.training import parameter_groups

TTN = adntn.TTN.options(bond=2)
MERA = adntn.MERA.options(bond=2)


class Network(nn.Module):
    """Convolutions, one of them depthwise, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, groups=2, padding_mode="reflect"),
        )
        self.depthwise = nn.Conv2d(32, 32, 3, padding="same", groups=32)
        self.classifier = nn.ModuleList([nn.Linear(32, 64), nn.Linear(64, 10, bias=False)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.depthwise(self.features(x)).mean((-1, -2))
        return self.classifier[1](torch.relu(self.classifier[0](x)))


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> Network:
    torch.manual_seed(0)
    return Network()


def kinds(model: nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in model.named_modules()}


RULES = {
    "names": ({"features.3": MERA, "classifier.0": TTN}, ["features.3", "classifier.0"]),
    "a pattern passes over what is no layer": ({"features.*": TTN}, ["features.0", "features.3"]),
    "the first match decides": ({"*.0": None, "features.*": TTN, "cl*": MERA}, ["features.3", "classifier.1"]),
    "a size": (above(1_000, TTN), ["features.3", "classifier.0"]),
    "a function": (lambda name, module: TTN if name.endswith("r.1") else None, ["classifier.1"]),
}


@pytest.mark.parametrize(("rules", "names"), RULES.values(), ids=RULES.keys())
def test_rules_choose_layers(model, rules, names):
    before = kinds(model)
    compression = compress(model, rules)
    assert [row.name for row in compression.rows] == names
    assert list(generated_layers(model)) == names
    after = kinds(model)
    assert {name for name in before if before[name] is not after[name]} == set(names)
    assert model(IMAGES).shape == (2, 10)


def test_replacements_keep_all_but_the_weight(model):
    model.double().eval()
    model.features.train()
    biases = {name: parameter for name, parameter in model.named_parameters() if name.endswith("bias")}
    deviation = float(model.features[3].weight.detach().std(correction=0))
    compress(model, {"features.3": MERA, "classifier.*": TTN}, differentiation="adjoint")
    layer = model.features[3]
    assert all(dict(model.named_parameters())[name] is bias for name, bias in biases.items())
    assert (layer.stride, layer.padding, layer.groups, layer.padding_mode) == ((2, 2), (1, 1), 2, "reflect")
    assert {core.dtype for core in layer.cores.values()} == {torch.float64}
    assert (layer.training, model.classifier[0].training) == (True, False)
    assert model.classifier[1].bias is None
    assert layer.differentiation == "adjoint"
    assert float(layer.weight.detach().std(correction=0)) == pytest.approx(deviation, rel=1e-6)


def test_compressing_draws_nothing_from_torchs_generator_unless_asked(model):
    state = torch.get_rng_state()
    twin, other = copy.deepcopy(model), copy.deepcopy(model)
    compress(model, {"classifier.*": TTN})
    compress(twin, above(0, TTN))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model.classifier[0].weight, twin.classifier[0].weight), "cores depend on the layer's name alone"
    compress(other, {"classifier.*": TTN}, seed=1)
    assert not torch.equal(model.classifier[0].weight, other.classifier[0].weight)
    compress(model, {"features.0": TTN}, seed=None)
    assert not torch.equal(torch.get_rng_state(), state)


def test_layers_of_one_shape_start_differently():
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    compress(model, {"*": TTN}, std=0.1)
    assert not torch.equal(model[0].weight, model[1].weight)
    assert float(model[1].weight.detach().std()) == pytest.approx(0.1, rel=0.01)


def test_counts_are_those_of_the_parameters(model):
    before = sum(parameter.numel() for parameter in model.parameters())
    weights = {"features.3": model.features[3].weight.numel(), "classifier.0": model.classifier[0].weight.numel()}
    compression = compress(model, {"features.3": MERA, "classifier.0": TTN})
    assert compression.before == before
    assert compression.after == sum(parameter.numel() for parameter in model.parameters())
    for row in compression.rows:
        layer = generated_layers(model)[row.name]
        assert row.shape == tuple(layer.weight.shape)
        assert (row.before, row.after) == (weights[row.name], sum(core.numel() for core in layer.cores.values()))
        assert row.ratio == row.before / row.after
    assert compression.ratio == compression.before / compression.after
    with pytest.raises(dataclasses.FrozenInstanceError):
        compression.rows[0].before = 1


def test_the_result_prints_as_a_table_with_and_without_a_terminal(model):
    compression = compress(model, {"features.3": MERA, "classifier.0": TTN})
    screen = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    screen.print(compression)
    for text in (str(compression), screen.file.getvalue()):
        for part in (
            "features.3",
            "32 x 8 x 3 x 3",
            "MERA(bond=2)",
            "64 x 32",
            "whole network",
            f"{compression.after:,}",
        ):
            assert part in text
    narrow = Console(file=io.StringIO(), width=70, color_system=None)
    narrow.print(compression.table())
    assert "…" not in narrow.file.getvalue()
    assert str(compression).isascii()
    assert len({len(line) for line in str(compression).splitlines()}) == 1


def test_expanded_networks_give_bit_equal_outputs(model, topology, differentiation):
    compress(model, above(400, topology), differentiation=differentiation)
    model.eval()
    images = torch.randn(4, 3, 8, 8).to(memory_format=torch.channels_last)
    with torch.no_grad():
        inferred, cropped = model(images), model(images[..., 1:])
    trained = model(images)
    biases = {name: parameter for name, parameter in model.named_parameters() if name.endswith("bias")}
    assert expand(model) is model
    assert not generated_layers(model)
    assert kinds(model) == kinds(Network())
    with torch.no_grad():
        assert torch.equal(model(images), inferred)
        assert torch.equal(model(images[..., 1:]), cropped)
    assert torch.equal(model(images), trained)
    assert all(dict(model.named_parameters())[name] is bias for name, bias in biases.items())
    Network().load_state_dict(model.state_dict(), strict=True)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(30,), (3, 30), (2, 3, 30), (2, 2, 3, 30)])
def test_expanded_linear_layers_give_bit_equal_outputs_for_inputs_of_any_rank(shape, bias):
    layer = adntn_torch.Linear(30, 23, bias, topology=TTN)
    dense = expand(layer)
    assert type(dense) is nn.Linear
    for x in (torch.randn(shape), torch.randn(*shape[:-1], 60)[..., ::2]):
        assert torch.equal(dense(x), layer(x))
        with torch.no_grad():
            assert torch.equal(dense(x), layer(x))


def test_a_generated_layer_used_twice_is_expanded_into_one():
    layer = adntn_torch.Linear(8, 8, topology=TTN)
    model = expand(nn.Sequential(layer, nn.ReLU(), layer))
    assert model[0] is model[2]


def test_attention_is_compressed_with_its_output_layer():
    attention = nn.MultiheadAttention(16, 2, batch_first=True)
    compress(attention, {"out_proj": TTN})
    x = torch.randn(1, 3, 16)
    output, _ = attention(x, x, x)
    output.sum().backward()
    assert attention.out_proj.cores["scale"].grad is not None
    expand(attention)
    assert torch.equal(attention(x, x, x)[0], output)


def with_(change):
    """Return a network after a change to it."""

    def build() -> Network:
        model = Network()
        change(model)
        return model

    return build


def tie(model: Network) -> None:
    model.other = nn.Linear(32, 64)
    model.other.weight = model.classifier[0].weight


def spoil(model: Network) -> None:
    with torch.no_grad():
        model.classifier[1].weight[3, 4] = float("nan")


class OwnLinear(nn.Linear):
    pass


REFUSED = {
    "a name that is not there": (Network, {"clasifier.0": TTN}, "'clasifier.0' matches no layer.*'classifier.0'"),
    "a parameter": (Network, {"classifier.0.weight": TTN}, "is a parameter; name its layer, 'classifier.0'"),
    "a pattern without a layer": (Network, {"features.[12]": TTN}, "matches only 'BatchNorm2d', 'ReLU'"),
    "another kind": (Network, {"features.1": TTN}, "'features.1' cannot be compressed: its type is BatchNorm2d"),
    "a container": (Network, {"features": TTN}, "'features' cannot be compressed: its type is Sequential"),
    "depthwise": (Network, {"depthwise": TTN}, "'depthwise'.*depthwise"),
    "tied weights": (with_(tie), {"classifier.0": TTN}, "'classifier.0'.*tied to 'other.weight'"),
    "one module twice": (
        with_(lambda model: setattr(model, "again", model.classifier[0])),
        {"again": TTN},
        "same module is also 'classifier.0'",
    ),
    "weight_norm": (
        with_(lambda model: parametrizations.weight_norm(model.classifier[0])),
        {"classifier.*": TTN},
        "'classifier.0'.*parametrized",
    ),
    "old weight_norm": (
        with_(lambda model: model.classifier[0].register_forward_pre_hook(lambda module, args: None)),
        {"classifier.0": TTN},
        "forward pre hooks that would be lost",
    ),
    "forward hooks": (
        with_(lambda model: model.classifier[0].register_forward_hook(lambda module, args, output: None)),
        {"classifier.0": TTN},
        "forward hooks that would be lost",
    ),
    "gradient hooks": (
        with_(lambda model: model.classifier[0].weight.register_hook(lambda gradient: None)),
        {"classifier.0": TTN},
        "gradient hooks",
    ),
    "buffers of its own": (
        with_(lambda model: model.classifier[0].register_buffer("mask", torch.ones(1))),
        {"classifier.0": TTN},
        "'mask'",
    ),
    "a replaced forward": (
        with_(lambda model: setattr(model.classifier[0], "forward", lambda x: x)),
        {"classifier.0": TTN},
        "forward was replaced",
    ),
    "a subclass": (
        with_(lambda model: setattr(model, "own", OwnLinear(8, 8))),
        {"own": TTN},
        "its type is OwnLinear",
    ),
    "generated already": (
        with_(lambda model: compress(model, {"classifier.1": TTN})),
        {"classifier.*": TTN},
        r"'classifier.1'.*generated already, by TTN\(bond=2\)",
    ),
    "NaN in a weight": (with_(spoil), {"classifier.*": TTN}, "'classifier.1'.*NaN"),
    "a constant weight": (
        with_(lambda model: nn.init.zeros_(model.classifier[1].weight)),
        {"classifier.1": TTN},
        "constant",
    ),
    "more numbers than weights": (
        with_(lambda model: setattr(model, "tiny", nn.Linear(4, 4))),
        {"tiny": adntn.TTN.options(bond=4)},
        r"'tiny' cannot be compressed: TTN\(bond=4\) stores 17 numbers for 16 weights",
    ),
    "options for another rank": (
        Network,
        {"classifier.0": TTN, "features.3": adntn.TTN.options(factors=((8, 8), (4, 8)))},
        "'features.3' cannot be compressed: factors",
    ),
    "the model itself": (lambda: nn.Linear(8, 8), {"": TTN}, "the model itself.*Linear.from_dense"),
    "the model itself, by a rule": (lambda: nn.Conv2d(8, 8, 3), above(0, TTN), "the model itself.*Conv2d.from_dense"),
    "nothing chosen": (Network, above(10**9, TTN), "choose none of the 5 layers"),
    "lazy parameters": (
        with_(lambda model: setattr(model, "lazy", nn.LazyLinear(8))),
        {"classifier.0": TTN},
        "lazy.weight.*run the model on one batch first",
    ),
}


@pytest.mark.parametrize(("build", "rules", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_compressed_is_named_and_the_model_stays_as_it_was(build, rules, message):
    model = build()
    modules = dict(model.named_modules(remove_duplicate=False))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    with pytest.raises(ValueError, match=message):
        compress(model, rules)
    now = dict(model.named_modules(remove_duplicate=False))
    assert now.keys() == modules.keys()
    assert all(now[name] is module for name, module in modules.items())
    assert all(dict(model.named_parameters(remove_duplicate=False))[name] is one for name, one in parameters.items())


def test_a_swap_that_fails_half_way_is_taken_back(model):
    class Stubborn(nn.Sequential):
        def __setattr__(self, name: str, value: object) -> None:
            if isinstance(value, adntn_torch.GeneratedLayer):
                raise RuntimeError("no")
            super().__setattr__(name, value)

    model.tail = Stubborn(nn.Linear(8, 8))
    before = dict(model.named_modules())
    with pytest.raises(RuntimeError, match="no"):
        compress(model, {"classifier.0": TTN, "tail.0": TTN})
    assert dict(model.named_modules()) == before


def test_layers_with_hooks_are_not_expanded(model):
    compress(model, {"classifier.*": TTN})
    model.classifier[1].register_forward_hook(lambda module, args, output: None)
    with pytest.raises(ValueError, match=r"'classifier.1' cannot be expanded.*forward hooks"):
        expand(model)
    assert len(generated_layers(model)) == 2


def test_options_alone_do_not_say_which_layers(model):
    with pytest.raises(TypeError, match=r"which layers, such as \{'name': TTN\(bond=2\)\} or above"):
        compress(model, TTN)


def test_a_name_with_brackets_is_a_name():
    model = nn.ModuleDict({"a[0]": nn.Linear(16, 16)})
    compress(model, {"a[0]": TTN})
    assert list(generated_layers(model)) == ["a[0]"]


def test_core_names_that_torch_keeps_for_itself_are_named():
    blocks = [adntn.Block({"values": "r b", "right": "b c"})]
    options = adntn.Custom.options(blocks=blocks, sizes={"r": 8, "c": 8, "b": 2}, output="r | c")
    with pytest.raises(ValueError, match="core name 'values'"):
        adntn_torch.Linear(8, 8, topology=options)


@pytest.mark.parametrize("rules", [TTN.arguments, 5, None])
def test_rules_of_another_type_are_refused(model, rules):
    with pytest.raises(TypeError, match="rules must be"):
        compress(model, rules)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_the_older_weight_norm_and_pruning_are_refused(model):
    nn.utils.weight_norm(model.classifier[0])
    prune.l1_unstructured(model.classifier[1], "weight", amount=0.5)
    for name in ("classifier.0", "classifier.1"):
        with pytest.raises(ValueError, match=f"'{name}'.*would be lost"):
            compress(model, {name: TTN})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda model: compress(model, {"classifier.0": TTN}, memory_limit="1GB"), TypeError, "^memory_limit must be"),
        (
            lambda model: compress(model, {"classifier.0": TTN}, schedule="strem"),
            ValueError,
            "^schedule must be one of",
        ),
        (lambda model: compress(model, above(TTN, 1000)), TypeError, "parameters must be an integer.*TTN"),
        (lambda model: save_compressed("model", model), TypeError, "model must be a torch.nn.Module, got str"),
        (lambda model: load_compressed("model", Network), TypeError, "model_fn must be a function.*got 'model'"),
        (
            lambda model: parameter_groups(model, cores=0.1),
            TypeError,
            "cores must be options of the optimiser.*got 0.1",
        ),
    ],
)
def test_arguments_that_are_mixed_up_are_named(call, error, message):
    model = Network()
    before = model.classifier[0]
    with pytest.raises(error, match=message):
        call(model)
    assert model.classifier[0] is before
