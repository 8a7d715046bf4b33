"""Adapters: zero at the start, exact wherever weights are used, restored to the bit, and what they are not for."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from matrix import LAYER_TOPOLOGIES
from torch import nn
from torch.nn.utils import parametrizations, prune

import adntn
import adntn_torch
from adntn.verification.tolerance import EPSILON
from adntn_torch import adapt, adapters
from adntn_torch.training import dense_weights
from adntn_torch.training.monitoring import compression_summary, core_gradient_norm

TTN = adntn.TTN.options(bond=2)
LORA = adntn.LowRank.options(rank=2)
#: Starts that need the scale, or some care: see `adntn.initialise.core_at_zero`.
STARTS = LAYER_TOPOLOGIES | {
    "TTN, relu on the weight": adntn.TTN.options(bond=2, last_activation="relu"),
    "TTN, sigmoid on the weight": adntn.TTN.options(bond=2, last_activation="sigmoid"),
    "TTN, all shared": adntn.TTN.options(bond=2, leg=1, share="all"),
    "MERA, shared in levels": adntn.MERA.options(bond=2, share="level"),
}


class Model(nn.Module):
    """Every kind of layer that can be adapted, called and read in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
        self.heads = nn.ModuleDict({"query": nn.Linear(16, 16), "value": nn.Linear(16, 16, bias=False)})
        self.norm = nn.LayerNorm(16)
        self.convolution = nn.Conv1d(16, 8, 3, padding=1)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.block(self.words(words))
        x = self.norm(self.heads["query"](x) * self.heads["value"](x))
        return self.convolution(x.transpose(1, 2))


LAYERS = [
    "words",
    "block.self_attn",
    "block.self_attn.out_proj",
    "block.linear1",
    "block.linear2",
    "heads.query",
    "heads.value",
    "convolution",
]
WORDS = torch.randint(0, 20, (3, 7), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model().double().requires_grad_(False)  # torch rounds otherwise where weights are trained


def shaken(model: nn.Module, name: str = "default") -> nn.Module:
    """The model, with an adapter that is no longer zero."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in adapters.adapted_layers(model).values():
            if name in layer.adntn_delta:
                for core in layer.adntn_delta[name].parameters():
                    core.add_(0.3 * torch.randn(core.shape, generator=random, dtype=core.dtype))
    return model


def by_hand(model: nn.Module, *names: str) -> nn.Module:
    """A plain model whose weights have the deltas added, made from the generators alone."""
    plain = copy.deepcopy(model)
    adapters.unload(plain)
    with torch.no_grad():
        for key, layer in adapters.adapted_layers(model).items():
            for name in names:
                delta = layer.adntn_delta[name]
                cores = {core: value.detach().numpy() for core, value in delta.layer.cores.items()}
                weight = torch.from_numpy(delta.layer.generator.weight(cores))
                weights = dict(plain.get_submodule(key).named_parameters(recurse=False))
                weights.get("weight", weights.get("in_proj_weight")).add_(delta.scaling * weight)
    return plain


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


# the start


@pytest.mark.parametrize("topology", STARTS.values(), ids=STARTS.keys())
def test_the_start_changes_no_bit_and_learns(model, topology):
    before = model(WORDS)
    adapt(model, ["query", "convolution", "linear2", "out_proj"], topology=topology)
    assert torch.equal(model(WORDS), before)
    cores = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(cores, lr=1e-3)
    losses = []
    for _ in range(3):
        loss = model(WORDS).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[2] < losses[1] < losses[0]
    moved = [bool(core.grad.any()) for core in cores]
    assert all(moved), "after the first step every core has a gradient"


def test_only_cores_are_trained_and_counted(model):
    adaptation = adapt(model, LAYERS, topology=TTN)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert all(".adntn_delta.default." in name for name in trained)
    assert adaptation.trained == sum(value.numel() for value in trained.values())
    assert adaptation.parameters == sum(value.numel() for value in model.parameters())
    assert [row.name for row in adaptation.rows] == LAYERS
    assert f"{adaptation.trained:,} trained parameters" in str(adaptation)


def test_the_start_depends_on_the_seed_and_the_layer_alone(model):
    others = [copy.deepcopy(model) for _ in range(2)]
    state = torch.get_rng_state()
    adapt(model, LAYERS, topology=TTN)
    adapt(others[0], ["query"], topology=TTN)
    adapt(others[1], ["query"], topology=TTN, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    tops = [one.heads["query"].adntn_delta["default"].layer.cores["top"] for one in (model, *others)]
    assert torch.equal(tops[0], tops[1])
    assert not torch.equal(tops[0], tops[2])
    assert not torch.equal(tops[0], model.heads["value"].adntn_delta["default"].layer.cores["top"])


# what is computed


@pytest.mark.parametrize("schedule", ["auto", "materialise", "recompute", "stream", "contract"])
@pytest.mark.usefixtures("_small_cache")
def test_every_schedule_adds_the_delta(schedule):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(96, 80), nn.Tanh(), nn.Linear(80, 4)).double()
    adapt(model, ["0"], topology=TTN, schedule=schedule, scaling=2.0)
    shaken(model)
    x = torch.randn(5, 96, dtype=torch.float64, requires_grad=True)
    expected = by_hand(model, "default")(x)
    (bar,) = torch.autograd.grad(expected.square().sum(), x)
    found = model(x)
    (found_bar,) = torch.autograd.grad(found.square().sum(), x)
    assert error(found, expected) < 500 * EPSILON["float64"]
    assert error(found_bar, bar) < 500 * EPSILON["float64"]


def test_deltas_are_added_wherever_weights_are_used(model, built):
    adapt(model, LAYERS, topology=TTN, scaling=-1.5)
    shaken(model)
    expected = by_hand(model, "default")
    assert error(model(WORDS), expected(WORDS)) < 1e4 * EPSILON["float64"]
    with torch.no_grad():  # torch's fast path of transformers reads weights instead of calling layers
        assert error(model.eval()(WORDS), expected.eval()(WORDS)) < 1e4 * EPSILON["float64"]
    assert error(model.heads["query"].weight, expected.heads["query"].weight) < 500 * EPSILON["float64"]
    _, dense, x = built  # convolutions of all kinds
    if isinstance(dense, adntn_torch.DenseBatchedLinear):
        pytest.skip("batched layers are not adapted")
    wrapped = nn.Sequential(dense)
    adapt(wrapped, ["0"], topology=TTN)
    shaken(wrapped)
    assert error(wrapped(x), by_hand(wrapped, "default")(x)) < 1e4 * EPSILON["float64"]


class Doubled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def test_subclasses_compute_with_the_weight_that_has_the_delta():
    model = nn.Sequential(Doubled(8, 8)).double()
    adapt(model, ["0"], topology=TTN)
    shaken(model)
    assert isinstance(model[0], Doubled)
    x = torch.randn(3, 8, dtype=torch.float64)
    assert error(model(x), by_hand(model, "default")(x)) < 500 * EPSILON["float64"]


def test_16_bit_weights_get_cores_in_float32(model):
    model.to(torch.bfloat16)
    before = model(WORDS)
    adapt(model, LAYERS, topology=TTN)
    assert {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {torch.float32}
    assert torch.equal(model(WORDS), before)
    shaken(model)
    after = model(WORDS)
    assert after.dtype == torch.bfloat16
    assert not torch.equal(after, before)
    after.float().sum().backward()


def test_dropout_is_for_training(model):
    adapt(model, ["query"], topology=TTN, dropout=0.5)
    shaken(model)
    x = torch.ones(4, 16, dtype=torch.float64)
    layer = model.heads["query"]
    assert not torch.equal(layer(x), layer(x))
    model.eval()
    assert error(layer(x), by_hand(model, "default").heads["query"](x)) < 500 * EPSILON["float64"]
    with pytest.raises(ValueError, match=r"'block.self_attn'.*dropout must be 0 for a MultiheadAttention"):
        adapt(model, ["self_attn"], name="other", dropout=0.1)


# a module among others


def test_models_are_copied_pickled_and_called_functionally(model):
    adapt(model, LAYERS, topology=TTN)
    expected = shaken(model)(WORDS)
    assert torch.equal(copy.deepcopy(model)(WORDS), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(WORDS), expected)
    functional = torch.func.functional_call(model, dict(model.named_parameters()), (WORDS,))
    assert error(functional, expected) < 1e4 * EPSILON["float64"]


def test_models_are_compiled_in_one_graph(model):
    adapt(model, ["self_attn", "linear1", "query", "convolution"], topology=LORA)
    expected = shaken(model)(WORDS)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = compiled(WORDS)
    assert error(found, expected) < 1e4 * EPSILON["float64"]
    found.sum().backward()
    assert all(value.grad is not None for value in model.parameters() if value.requires_grad)


def test_state_dicts_keep_the_names_of_the_model_and_load_into_a_twin(model):
    twin, names = copy.deepcopy(model), set(model.state_dict())
    adapt(model, LAYERS, topology=TTN)
    adapt(twin, LAYERS, topology=TTN, seed=5)
    assert names < set(model.state_dict())
    shaken(model)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(WORDS), model(WORDS))


# merged


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_unmerging_restores_every_bit_however_often(model, dtype):
    model.to(dtype)
    adapt(model, LAYERS, topology=TTN)
    shaken(model)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    expected = model(WORDS)
    for _ in range(10):
        adapters.merge(model)
        merged = model(WORDS)
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
        adapters.unmerge(model)
    assert error(merged.double(), expected.double()) < 100 * EPSILON[str(dtype).removeprefix("torch.")]
    assert torch.equal(model(WORDS), expected)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_merged_weights_are_plain_ones(model):
    adapt(model, LAYERS, topology=TTN)
    expected = by_hand(shaken(model), "default")
    adapters.merge(model)
    weight = model.heads["query"].weight
    assert weight is dict(model.named_parameters())["heads.query.weight"]
    assert error(weight, expected.heads["query"].weight) < 10 * EPSILON["float64"]


def test_training_while_merged_warns(model, recwarn):
    adapt(model, LAYERS, topology=TTN)
    adapters.merge(model)
    with torch.no_grad():
        model(WORDS)
    model.eval()(WORDS)
    assert not [one for one in recwarn if "merged" in str(one.message)]
    with pytest.warns(UserWarning, match=r"a merged Linear runs in training mode, .* unmerge\(\) to train") as caught:
        model.train()(WORDS)
    named = {str(one.message).split()[2] for one in caught if "merged" in str(one.message)}
    assert named == {"Embedding", "Linear", "NonDynamicallyQuantizableLinear", "MultiheadAttention", "Conv1d"}
    adapters.unmerge(model)
    recwarn.clear()
    model(WORDS).sum().backward()
    assert not [one for one in recwarn if "merged" in str(one.message)]


def test_what_is_loaded_while_merged_is_the_frozen_weight(model):
    plain = copy.deepcopy(model)
    adapt(model, LAYERS, topology=TTN)
    shaken(model)
    expected = model(WORDS)
    adapters.merge(model)
    model.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(model(WORDS), expected)


def test_what_is_not_finite_is_not_merged(model):
    adapt(model, LAYERS, topology=TTN)
    weights = {name: value.clone() for name, value in model.named_parameters()}
    with torch.no_grad():
        model.convolution.adntn_delta["default"].layer.cores["top"].fill_(float("nan"))
    with pytest.raises(ValueError, match="must be finite, but those of a Conv1d"):
        adapters.merge(model)
    with pytest.raises(ValueError, match="no adapter of this model is merged"):
        adapters.unmerge(model)
    for name, value in model.named_parameters():
        assert torch.equal(value, weights[name]) or name.startswith("convolution.adntn_delta")


WHILE_MERGED = {
    "adapt": lambda model: adapt(model, ["query"], name="b"),
    "set_adapter": lambda model: adapters.set_adapter(model, "default"),
    "remove_adapter": lambda model: adapters.remove_adapter(model, "default"),
    "merge": adapters.merge,
    "unload": adapters.unload,
    "disabled": lambda model: adapters.disabled(model).__enter__(),
}


@pytest.mark.parametrize("action", WHILE_MERGED.values(), ids=WHILE_MERGED.keys())
def test_nothing_is_switched_while_merged(model, action):
    adapt(model, ["value"], topology=TTN)
    adapters.merge(model)
    with pytest.raises(ValueError, match="unmerge them first"):
        action(model)


# several


def test_adapters_are_switched_added_up_disabled_and_removed(model):
    before = model(WORDS)
    adapt(model, ["query", "convolution"], topology=TTN, name="a")
    adapt(model, ["value", "convolution"], topology=LORA, name="b", scaling=0.5)
    shaken(shaken(model, "a"), "b")
    assert adapters.adapter_names(model) == ["a", "b"]
    found = {}
    for names in ("a", "b", ("a", "b"), ()):
        adapters.set_adapter(model, names)
        active = (names,) if isinstance(names, str) else names
        found[names] = model(WORDS)
        trained = {name.split(".adntn_delta.")[1][0] for name, one in model.named_parameters() if one.requires_grad}
        assert trained == set(active)
    assert torch.equal(found[()], before)
    assert len({float(one.sum().detach()) for one in found.values()}) == 4
    adapters.set_adapter(model, "a", trainable=False)
    assert not any(one.requires_grad for one in model.parameters())
    with adapters.disabled(model):
        assert torch.equal(model(WORDS), before)
        assert model.heads["query"].weight is dict(model.named_parameters())["heads.query.weight"]
    assert error(model(WORDS), found["a"]) < 100 * EPSILON["float64"]  # other schedules where nothing learns
    adapters.remove_adapter(model, "b")
    adapters.set_adapter(model, "a")
    assert torch.equal(model(WORDS), found["a"])
    assert type(model.heads["value"]) is nn.Linear
    with pytest.raises(ValueError, match="no adapter 'b'; it has 'a'"):
        adapters.set_adapter(model, "b")


def test_two_adapters_sum(model):
    adapt(model, ["query"], topology=TTN, name="a")
    adapt(model, ["query"], topology=LORA, name="b")
    shaken(shaken(model, "a"), "b")
    adapters.set_adapter(model, ["a", "b"])
    expected = by_hand(model, "a", "b")(WORDS)
    assert error(model(WORDS), expected) < 1e4 * EPSILON["float64"]
    adapters.merge(model)
    assert error(model(WORDS), expected) < 1e4 * EPSILON["float64"]


@pytest.mark.parametrize(("merged", "before_that"), [(False, False), (True, False), (True, True)])
def test_an_unloaded_model_is_made_of_what_it_was_made_of(model, merged, before_that):
    types = {name: type(module) for name, module in model.named_modules()}
    parameters = dict(model.named_parameters())
    before = model(WORDS)
    adapt(model, LAYERS, topology=TTN)
    expected = shaken(model)(WORDS)
    if before_that:
        adapters.merge(model)
    assert adapters.unload(model, merged=merged) is model
    assert {name: type(module) for name, module in model.named_modules()} == types
    assert all(value is parameters[name] for name, value in model.named_parameters())
    assert error(model(WORDS), expected if merged else before) < 1e4 * EPSILON["float64"]
    assert model.state_dict().keys() == parameters.keys()
    with pytest.raises(ValueError, match="has no adapters"):
        adapters.unload(model, merged=merged)


def test_adapters_are_no_generated_layers_and_stay_where_these_are_expanded():
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16)).double()
    model, x = copy.deepcopy(dense), torch.randn(3, 16, dtype=torch.float64)
    adntn_torch.compress(model, {"2": TTN})
    alone = compression_summary(model)
    adapt(model, ["0"], topology=TTN)
    shaken(model)
    assert list(adntn_torch.generated_layers(model)) == ["2"]
    assert compression_summary(model) == alone
    assert list(dense_weights(model, dense)) == ["2"]
    model(x).square().sum().backward()
    gradients = [value.grad for value in model.parameters() if value.grad is not None]
    assert torch.equal(core_gradient_norm(model), nn.utils.get_total_norm(gradients))
    expected, learning = model(x), [name for name, value in model.named_parameters() if value.requires_grad]
    adntn_torch.expand(model)
    assert type(model[2]) is nn.Linear
    assert error(model(x), expected) < 500 * EPSILON["float64"]
    assert [name for name, value in model.named_parameters() if value.requires_grad and "adntn" in name] == learning
    adapters.unload(model)
    assert torch.equal(model[0](x), dense[0](x))


# which layers

ATTENTION = ["block.self_attn.out_proj", "block.linear1", "block.linear2", "heads.query", "heads.value"]
TARGETS = {
    "ends of names": (["query", "linear1"], ["block.linear1", "heads.query"]),
    "names": (["heads.value", "words"], ["words", "heads.value"]),
    "patterns": (["block.linear?"], ["block.linear1", "block.linear2"]),
    "an expression": (r"heads\..*", ["heads.query", "heads.value"]),
    "all linear": ("all-linear", ATTENTION),
    "rules": ({"heads.query": None, "heads.*": TTN, "linear1": LORA}, ["block.linear1", "heads.value"]),
    "a function": (lambda name, module: TTN if isinstance(module, nn.Conv1d) else None, ["convolution"]),
}


@pytest.mark.parametrize(("targets", "names"), TARGETS.values(), ids=TARGETS.keys())
def test_targets_are_what_users_of_peft_and_of_compress_write(model, targets, names):
    assert [row.name for row in adapt(model, targets, topology=TTN).rows] == names
    assert list(adapters.adapted_layers(model)) == names
    assert [row.name for row in adapt(model, targets, topology=LORA, name="again").rows] == names


def with_(change):
    def build() -> nn.Module:
        model = Model()
        change(model)
        return model

    return build


def tie(model: Model) -> None:
    model.head = nn.Linear(16, 20, bias=False)
    model.head.weight = model.words.weight


INTEGERS = nn.Parameter(torch.zeros(16, 16, dtype=torch.int8), requires_grad=False)
REFUSED = {
    "nothing by that name": (Model, ["qeury"], "'qeury' matches no layer; the closest names are 'heads.query'"),
    "nothing by that expression": (Model, r"decoder\..*", "matches no layer"),
    "no expression": (Model, "heads.(", "regular expression"),
    "one of several": (Model, ["query", "key"], "'key' matches no layer"),
    "only what is no layer": (Model, ["norm?", "n*m"], "'norm\\?' matches no layer"),
    "a norm, by a pattern": (Model, ["n*m"], "matches only 'LayerNorm'"),
    "a norm, by its name": (Model, ["norm"], "'norm' cannot be adapted: its type is LayerNorm"),
    "rules that choose nothing": (Model, {"query": None}, "choose none of the layers.*'words'"),
    "shared weights": (with_(tie), ["words"], "'words'.*shared with 'head.weight'"),
    "one module twice": (
        with_(lambda model: setattr(model, "again", model.heads["query"])),
        ["again"],
        "shared with 'heads.query.weight'",
    ),
    "parametrized": (
        with_(lambda model: parametrizations.weight_norm(model.heads["query"])),
        ["query"],
        "'heads.query'.*parametrized",
    ),
    "generated": (
        with_(lambda model: adntn_torch.compress(model, {"heads.query": TTN})),
        ["query"],
        r"'heads.query'.*generated already, by TTN\(bond=2\)",
    ),
    "a replaced forward": (
        with_(lambda model: setattr(model.heads["query"], "forward", lambda x: x)),
        ["query"],
        "forward was replaced",
    ),
    "integers": (
        with_(lambda model: setattr(model.heads["query"], "weight", INTEGERS)),
        ["query"],
        "'heads.query'.*int8",
    ),
    "no shape yet": (with_(lambda model: setattr(model, "lazy", nn.LazyLinear(4))), ["lazy"], "run the model on one"),
    "no data": (lambda: Model().to("meta"), ["query"], "on the device 'meta'"),
    "separate projections": (
        with_(lambda model: setattr(model, "cross", nn.MultiheadAttention(16, 2, kdim=8))),
        ["cross"],
        "no parameter 'in_proj_weight'",
    ),
    "max_norm": (
        with_(lambda model: setattr(model, "normed", nn.Embedding(4, 4, max_norm=1.0))),
        ["normed"],
        "max_norm",
    ),
    "options of another shape": (
        Model,
        {"query": adntn.TTN.options(factors=((2, 2), (4, 4)))},
        "'heads.query' cannot be adapted: factors",
    ),
    "pruned": (
        with_(lambda model: prune.identity(model.heads["query"], "weight")),
        ["query"],
        "no parameter 'weight'",
    ),
}


@pytest.mark.parametrize(("build", "targets", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_adapted_is_named_and_the_model_stays_as_it_was(build, targets, message):
    model = build()
    types = {name: type(module) for name, module in model.named_modules()}
    learning = {name: value.requires_grad for name, value in model.named_parameters()}
    with pytest.raises(ValueError, match=message):
        adapt(model, targets, topology=TTN)
    assert {name: type(module) for name, module in model.named_modules()} == types
    assert {name: value.requires_grad for name, value in model.named_parameters()} == learning


WRONG = {
    "options alone": ({"targets": TTN}, TypeError, r"which layers, such as \['query'"),
    "no strings": ({"targets": [3]}, TypeError, "got 3"),
    "no targets": ({"targets": None}, TypeError, "targets must be"),
    "scaling": ({"scaling": float("inf")}, ValueError, "scaling must be finite"),
    "dropout": ({"dropout": 1.0}, ValueError, "dropout must be at least 0 and below 1"),
    "a path as a name": ({"name": "../other"}, ValueError, "dots or slashes"),
    "no name": ({"name": ""}, ValueError, "must not be empty"),
    "a name of torch's": ({"name": "keys"}, ValueError, "taken by torch.nn.ModuleDict"),
}


@pytest.mark.parametrize(("arguments", "kind", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_arguments_are_named(model, arguments, kind, message):
    with pytest.raises(kind, match=message):
        adapt(model, **({"targets": ["query"]} | arguments))


def test_all_linear_passes_over_what_is_generated(model):
    adntn_torch.compress(model, {"heads.query": TTN})
    assert [row.name for row in adapt(model, "all-linear", topology=TTN).rows] == [
        name for name in ATTENTION if name != "heads.query"
    ]


def test_a_name_is_taken_once(model):
    adapt(model, ["query"])
    with pytest.raises(ValueError, match="an adapter 'default' already"):
        adapt(model, ["value"])
