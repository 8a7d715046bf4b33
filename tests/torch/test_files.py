"""Compressed models in files: nothing is lost, nothing dense is made, and another network is refused by name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from matrix import LAYER_TOPOLOGIES
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import adntn
import adntn_torch
from adntn_torch import adapters, compress, load_compressed, save_compressed

TTN = adntn.TTN.options(bond=2)
MERA = adntn.MERA.options(bond=2)


class Network(nn.Module):
    """Convolutions, normalisation, an embedding tied to the last layer, and buffers of both kinds."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, dtype=dtype), nn.BatchNorm2d(16, dtype=dtype), nn.ReLU()
        )
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True, dtype=dtype)
        self.classifier = nn.ModuleList([nn.Linear(16, 64, dtype=dtype), nn.Linear(64, 32, bias=False, dtype=dtype)])
        self.embedding = nn.Embedding(32, 64, dtype=dtype)
        self.embedding.weight = self.classifier[1].weight
        self.register_buffer("mean", torch.arange(3.0), persistent=True)
        self.register_buffer("steps", torch.arange(16), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x - self.mean.to(x.dtype)[:, None, None]).flatten(2).mT
        x, _ = self.attention(x, x, x)
        x = torch.relu(self.classifier[0](x.mean(1) + self.steps.to(x.dtype)))
        return self.classifier[1](x + self.embedding.weight[3])


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
RULES = {"features.0": TTN, "attention.out_proj": MERA, "classifier.0": TTN}
BATCHED = adntn_torch.DenseBatchedLinear


def compressed(dtype: torch.dtype = torch.float32, build: Callable[..., nn.Module] = Network) -> nn.Module:
    torch.manual_seed(0)
    model = build(dtype)
    compress(model, RULES)
    model.features(torch.randn(4, 3, 8, 8, dtype=dtype))  # statistics of the normalisation
    return model.eval()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return compressed()


@pytest.fixture
def file(model: nn.Module, tmp_path: Path) -> Path:
    save_compressed(model, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def check_same(loaded: nn.Module, model: nn.Module, x: torch.Tensor = IMAGES) -> None:
    state, expected = loaded.state_dict(), model.state_dict()
    assert list(state) == list(expected)
    assert all(state[name].dtype == one.dtype for name, one in expected.items())
    assert all(torch.equal(state[name], one) for name, one in expected.items())
    assert torch.equal(loaded.eval()(x), model(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_model_comes_back_as_it_was(dtype: torch.dtype, tmp_path: Path) -> None:
    model = compressed(dtype)
    save_compressed(model, tmp_path / "file")
    loaded = load_compressed(lambda: Network(dtype), tmp_path / "file")
    check_same(loaded, model, IMAGES.to(dtype))
    assert loaded.embedding.weight is loaded.classifier[1].weight
    assert str(loaded.classifier[0].topology) == "TTN(bond=2)"
    assert loaded.classifier[0].std == model.classifier[0].std
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert not any(tensor.is_meta for tensor in (*loaded.parameters(), *loaded.buffers()))


def test_the_number_types_are_the_files(file: Path, model: nn.Module) -> None:
    check_same(load_compressed(lambda: Network(torch.float64), file), model)


@pytest.mark.parametrize("topology", LAYER_TOPOLOGIES.values(), ids=LAYER_TOPOLOGIES)
@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: nn.Linear(32, 48), (2, 32)),
        (lambda: nn.Conv1d(16, 24, 3), (2, 16, 9)),
        (lambda: nn.Conv2d(16, 24, 3, groups=2), (2, 16, 5, 5)),
        (lambda: nn.Conv3d(8, 12, 3, padding="same"), (1, 8, 3, 3, 3)),
        (lambda: BATCHED(3, 32, 48), (3, 2, 32)),
    ],
    ids=["Linear", "Conv1d", "Conv2d", "Conv3d", "BatchedLinear"],
)
def test_every_layer_and_topology(
    topology: adntn.Options, build: Callable[[], nn.Module], shape: tuple[int, ...], tmp_path: Path
) -> None:
    if topology.topology is adntn.Tucker and len(shape) > 2:
        pytest.skip("Tucker of rank 2 stores more than these weights have")
    model = nn.Sequential(build())
    compress(model, {"0": topology})
    save_compressed(model, tmp_path / "file")
    loaded = load_compressed(lambda: nn.Sequential(build()), tmp_path / "file")
    x = torch.randn(shape)
    assert loaded[0].generator == model[0].generator
    assert torch.equal(loaded(x), model(x))


class Attention(nn.Module):
    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(16, 2, **arguments)

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return self.attend(query, key, value)[0]


@pytest.mark.parametrize("output", [False, True], ids=["dense output", "generated output"])
@pytest.mark.parametrize(
    ("arguments", "joined"),
    [
        ({}, None),
        ({}, False),
        ({"bias": False, "batch_first": True}, None),
        ({"add_bias_kv": True}, None),
        ({"kdim": 8, "vdim": 12}, None),
    ],
    ids=["joined", "three generators", "no bias", "biases of keys", "sizes of keys and values"],
)
def test_attention_is_loaded_into_the_dense_one(
    arguments: dict[str, Any], joined: bool | None, output: bool, tmp_path: Path
) -> None:
    model = Attention(**arguments)
    if output:
        compress(model, {"attend.out_proj": MERA})
    model.attend = adntn_torch.MultiheadAttention.from_dense(model.attend, TTN, joined=joined)
    save_compressed(model, tmp_path / "file")
    dense, in_place = Attention(**arguments), copy.deepcopy(model)
    x = [torch.randn(2, 5, size) for size in (16, model.attend.kdim, model.attend.vdim)]
    for build in (lambda: dense, lambda: in_place):
        loaded = load_compressed(build, tmp_path / "file")
        assert loaded.attend.joined == model.attend.joined
        assert list(loaded.state_dict()) == list(model.state_dict())
        assert torch.equal(loaded(*x), model(*x))


def test_a_layer_of_a_transformer_is_loaded_as_lightning_would(tmp_path: Path) -> None:
    build = lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)  # noqa: E731
    model = build()
    compress(model, {"self_attn": TTN, "linear*": TTN})
    save_compressed(model, tmp_path / "file")
    check_same(load_compressed(build, tmp_path / "file"), model.eval(), torch.randn(2, 5, 16))


class Sizes(TorchDispatchMode):
    """The most numbers that any operation has made on a device that is not "meta"."""

    largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        made = function(*arguments, **(keywords or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, torch.Tensor) and not one.is_meta:
                self.largest = max(self.largest, one.numel())
        return made


def test_nothing_dense_of_the_generated_weights_is_ever_made(tmp_path: Path) -> None:
    build = lambda: nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 4))  # noqa: E731
    model = build()
    compress(model, {"0": TTN})
    with Sizes() as saving:
        save_compressed(model, tmp_path / "file")
    with Sizes() as loading:
        load_compressed(build, tmp_path / "file")
    assert 0 < saving.largest <= 512 * 4
    assert 0 < loading.largest <= 512 * 4
    assert (tmp_path / "file").stat().st_size < 512 * 512


def test_a_file_is_the_state_dict(file: Path, model: nn.Module) -> None:
    stored, state = load_file(file), model.state_dict()
    assert set(stored) == {*state, "steps"} - {"embedding.weight"}
    assert all(torch.equal(stored[name], state[name]) for name in set(stored) & set(state))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_frozen_layers_are_written_without_their_weights_and_frozen_again(
    dtype: torch.dtype | None, tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8)).to(dtype or torch.float32)
    compress(model, {"0": TTN})
    model.eval()[0].freeze(dtype)
    save_compressed(model, tmp_path / "file")
    assert "0.frozen_weight" not in load_file(tmp_path / "file")
    loaded = load_compressed(lambda: nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8)), tmp_path / "file").eval()
    assert loaded[0].frozen_weight.dtype == model[0].frozen_weight.dtype
    x = torch.ones(2, 64, dtype=dtype)
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("merged", [False, True])
def test_adapters_are_loaded_into_an_adapted_model(merged: bool, tmp_path: Path) -> None:
    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.TransformerEncoderLayer(64, 2, 32, batch_first=True))
        compress(model, {"2.linear1": TTN})
        adntn_torch.adapt(model, ["0", "self_attn"], topology=TTN)
        return model

    model, x = build().eval(), torch.randn(2, 5, 64)
    for name, core in model.named_parameters():
        if "adntn_delta" in name:
            nn.init.normal_(core)
    expected = model(x)
    if merged:
        adapters.merge(model)
    save_compressed(model, tmp_path / "file")
    adapted = build()
    adapters.merge(adapted)
    for model_fn in (build, lambda: adapted):
        assert torch.equal(load_compressed(model_fn, tmp_path / "file").eval()(x), expected)


def test_a_layer_that_stands_twice_is_written_once_and_stands_twice_again(tmp_path: Path) -> None:
    def build() -> nn.Module:
        layer = adntn_torch.Linear(64, 64, topology=TTN)
        return nn.Sequential(layer, nn.ReLU(), layer)

    model = build()
    save_compressed(model, tmp_path / "file")
    assert len(load_file(tmp_path / "file")) == len(model[0].cores) + 1
    loaded = load_compressed(build, tmp_path / "file")
    assert loaded[0] is loaded[2]
    check_same(loaded, model, torch.ones(2, 64))


def test_a_model_that_is_a_generated_layer_itself(tmp_path: Path) -> None:
    layer = adntn_torch.Linear(64, 32, topology=TTN)
    save_compressed(layer, tmp_path / "file")
    check_same(
        load_compressed(lambda: adntn_torch.Linear(64, 32, topology=TTN), tmp_path / "file"), layer, torch.ones(64)
    )


def language_model(dense: bool, tied: bool) -> Callable[[], nn.Module]:
    """A function that builds a table, a block that stands twice, and a head."""

    def build() -> nn.Module:
        kinds = (nn.Embedding, nn.Linear) if dense else (adntn_torch.Embedding, adntn_torch.Linear)
        options = {} if dense else {"topology": TTN}
        table, head = kinds[0](64, 32, **options), kinds[1](32, 64, bias=False, **options)
        layers = [kinds[1](32, 32, **options) for _ in range(2)]
        norms = [nn.LayerNorm(32) for _ in range(2)]
        if tied:
            layers[1], norms[1].weight = layers[0], norms[0].weight
            if dense:
                head.weight = table.weight
            else:
                head.tie(table)
        return nn.Sequential(table, layers[0], norms[0], nn.Tanh(), layers[1], norms[1], head)

    return build


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dense", [True, False])
def test_what_is_tied_is_written_once_and_tied_again(dense: bool, tied: bool, tmp_path: Path) -> None:
    model, words = language_model(dense=False, tied=True)().eval(), torch.arange(64)
    save_compressed(model, tmp_path / "file")
    assert len(load_file(tmp_path / "file")) == len(list(model.parameters()))
    loaded = load_compressed(language_model(dense=dense, tied=tied), tmp_path / "file")
    check_same(loaded, model, words)
    assert loaded[6].cores is loaded[0].cores
    for one in (loaded, model):
        optimiser = torch.optim.SGD(one.parameters(), lr=1e-2)
        one(words).square().mean().backward()
        optimiser.step()
    names = dict(model.named_parameters())
    found = dict(loaded.named_parameters())
    assert list(found) == list(names)
    assert all(torch.equal(found[name], names[name]) for name in names)


def test_a_table_whose_padding_is_zero_alone_is_not_tied(tmp_path: Path) -> None:
    table = adntn_torch.Embedding(64, 32, topology=TTN)
    save_compressed(nn.Sequential(table, adntn_torch.Linear(32, 64, topology=TTN).tie(table)), tmp_path / "file")
    with pytest.raises(ValueError, match="another network: a layer cannot be tied to a table with a padding_idx"):
        load_compressed(
            lambda: nn.Sequential(nn.Embedding(64, 32, padding_idx=0), nn.Linear(32, 64)), tmp_path / "file"
        )


class Counting(Network):
    """Has tensors that are no parameters or buffers."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(dtype)
        self.offset = torch.ones(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.offset.sum()


class Reading(Network):
    """Reads a value while it is built, which the device "meta" does not have."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(dtype)
        self.rates = [float(rate) for rate in torch.linspace(0, 1, 3)]


@pytest.mark.parametrize("kind", [Counting, Reading])
def test_a_model_that_cannot_be_built_without_values_is_built_with_them(
    kind: Callable[..., nn.Module], tmp_path: Path
) -> None:
    model = compressed(build=kind)
    save_compressed(model, tmp_path / "file")
    check_same(load_compressed(kind, tmp_path / "file"), model)


def test_buffers_that_the_file_lacks_are_those_of_the_model(file: Path, model: nn.Module) -> None:
    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    del tensors["steps"]
    save_file(tensors, file, metadata)
    check_same(load_compressed(Network, file), model)


def test_options_of_the_layers_are_the_loaders(file: Path) -> None:
    loaded = load_compressed(Network, file, differentiation="native", schedule="materialise")
    assert loaded.classifier[0].differentiation == "native"
    assert loaded.classifier[0].schedule == "materialise"
    limited = load_compressed(Network, file, memory_limit=2**20)
    assert limited.classifier[0].memory_limit == 2**20


def test_what_learns_is_the_builders_and_new_cores_do(file: Path) -> None:
    def build() -> nn.Module:
        model = Network()
        model.features.requires_grad_(False)
        return model

    loaded = load_compressed(build, file)
    still = {name for name, one in loaded.named_parameters() if not one.requires_grad}
    assert still == {"features.0.bias", "features.1.weight", "features.1.bias"}


def test_a_loaded_model_trains_is_copied_and_saved_again(file: Path, model: nn.Module, tmp_path: Path) -> None:
    loaded = copy.deepcopy(load_compressed(Network, file)).eval()
    loaded(IMAGES).square().sum().backward()
    assert all(core.grad is not None for core in loaded.classifier[0].cores.values())
    save_compressed(loaded, tmp_path / "again")
    check_same(load_compressed(Network, tmp_path / "again"), model)
    assert type(adntn_torch.expand(loaded).classifier[0]) is nn.Linear


def test_other_libraries_read_the_same_weights(file: Path, model: nn.Module) -> None:
    for name, (generator, cores) in adntn.load(file).items():
        layer = model.get_submodule(name.removesuffix(".weight"))
        expected = layer.weight.detach().double()
        found = torch.from_numpy(generator.weight(cores)).double()
        assert float((found - expected).norm() / expected.norm()) < 500 * torch.finfo(torch.float32).eps


def test_as_many_layers_as_the_file_has_are_wanted(tmp_path: Path) -> None:
    save_compressed(nn.Sequential(adntn_torch.BatchedLinear(3, 32, 32, topology=TTN)), tmp_path / "file")
    with pytest.raises(ValueError, match=r"in the file .*0.cores.top is \(3, .*\), not \(4, "):
        load_compressed(lambda: nn.Sequential(BATCHED(4, 32, 32)), tmp_path / "file")


def test_attention_of_another_size_is_refused(tmp_path: Path) -> None:
    model = Attention()
    compress(model, {"attend": TTN})
    save_compressed(model, tmp_path / "file")
    with pytest.raises(ValueError, match=r"another network: layer 'attend' .* embed_dim, 16; got 8"):
        load_compressed(lambda: Attention(kdim=8), tmp_path / "file")
    with pytest.raises(ValueError, match=r"another network: layer 'attend' .* shape \(3, 16, 16\), not of \(8, 8\)"):
        load_compressed(lambda: nn.ModuleDict({"attend": nn.MultiheadAttention(8, 2)}), tmp_path / "file")


# bad input


def smaller() -> Iterator[tuple[str, Callable[[], nn.Module], str]]:
    class Wider(Network):
        def __init__(self) -> None:
            super().__init__()
            self.features[1] = nn.BatchNorm2d(8)
            self.attention.out_proj = nn.Linear(16, 16)

    class Lacking(Network):
        def __init__(self) -> None:
            super().__init__()
            del self.features[1], self.mean

    class More(Network):
        def __init__(self) -> None:
            super().__init__()
            self.more = nn.Linear(2, 2)

    class Untied(Network):
        def __init__(self) -> None:
            super().__init__()
            self.features[0].bias = self.features[1].bias

    class Other(Network):
        def __init__(self) -> None:
            super().__init__()
            self.classifier[0] = nn.Linear(16, 128)

    yield "shapes", Wider, r"in the file .*features.1.weight is \(16,\), not \(8,\)"
    yield "a layer less", Lacking, r"the model lacks .*'features.1.weight' ... \(6 in all\)"
    yield "a layer more", More, "the file lacks 'more.weight', 'more.bias'"
    yield "tied", Untied, "shares one tensor where the file has different ones: 'features.0.bias'"
    yield "another shape of a generated weight", Other, r"'classifier.0' .* shape \(64, 16\), not of \(128, 16\)"
    yield "another model", lambda: nn.Sequential(nn.Linear(2, 2)), "lacks the generated layers 'features.0', "
    yield (
        "generated otherwise",
        lambda: compressed_otherwise({"classifier.0": MERA}),
        r"'classifier.0' of the model is generated in another way, by MERA\(bond=2\)",
    )
    yield (
        "more is generated",
        lambda: compressed_otherwise({"attention.out_proj": MERA, "classifier.1": TTN}, untied=True),
        "the model generates the layers 'classifier.1', which the file has not",
    )


def compressed_otherwise(rules: Any, untied: bool = False) -> nn.Module:
    model = Network()
    if untied:
        model.embedding = nn.Embedding(32, 64)
    compress(model, rules)
    return model


@pytest.mark.parametrize(("build", "words"), [case[1:] for case in smaller()], ids=[case[0] for case in smaller()])
def test_a_checkpoint_of_another_network_is_refused_with_names(
    build: Callable[[], nn.Module], words: str, file: Path
) -> None:
    with pytest.raises(ValueError, match=words) as raised:
        load_compressed(build, file)
    assert "is of another network" in str(raised.value)


class Stateful(Network):
    def get_extra_state(self) -> torch.Tensor:
        return torch.ones(3)

    def set_extra_state(self, state: torch.Tensor) -> None: ...


def quantized() -> nn.Module:
    model = compressed()
    model.register_buffer("table", torch.ones(3).to(torch.float8_e4m3fn))
    return model


def lazy() -> nn.Module:
    return nn.Sequential(adntn_torch.Linear(8, 8), nn.LazyLinear(3))


CANNOT_BE_SAVED = {
    "nothing generated": (Network, "must have generated layers"),
    "without values": (lambda: adntn_torch.Linear(16, 16, device="meta"), "has no values yet"),
    "lazy": (lazy, "'1.weight' has no values yet"),
    "a number type of torch alone": (quantized, "buffer 'table' cannot be written"),
    "state of another kind": (lambda: compressed(build=Stateful), "no parameter or buffer: '_extra_state'"),
}


@pytest.mark.parametrize(("build", "words"), CANNOT_BE_SAVED.values(), ids=CANNOT_BE_SAVED)
def test_what_cannot_be_saved_is_named(build: Callable[[], nn.Module], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        save_compressed(build(), tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_a_generated_weight_that_no_layer_could_have_is_named(tmp_path: Path) -> None:
    generator = TTN((64, 32))
    adntn.save(tmp_path / "file", {"attention.in_proj_weight": (generator, generator.init())})
    with pytest.raises(ValueError, match=r"the model lacks the generated layers 'attention\.in_proj_weight'"):
        load_compressed(Network, tmp_path / "file")


@pytest.mark.parametrize(
    ("model_fn", "words"), [(nn.Linear(2, 2), "a function that builds"), (lambda: 3, "must return a torch.nn.Module")]
)
def test_what_builds_no_model_is_refused(model_fn: Any, words: str, file: Path) -> None:
    with pytest.raises(TypeError, match=words):
        load_compressed(model_fn, file)


@pytest.mark.parametrize("size", [0, 100, -1])
def test_a_file_that_is_cut_short_is_refused(size: int, file: Path) -> None:
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(adntn.FormatError, match="is damaged"):
        load_compressed(Network, file)


NOTES = {
    "no object": (3, "notes of torch must be an object"),
    "a layer's are none": ({"features.0": 3}, "notes on 'features.0' must be an object"),
    "a number that is none": ({"features.0": {"std": "1"}}, "deviation of 'features.0' must be a number, got '1'"),
    "no number type": ({"features.0": {"frozen": "load"}}, "must be frozen in one of float32, .*, got 'load'"),
    "something else": ({"features.0": {"code": "1"}}, "unknown field 'code'"),
}


@pytest.mark.parametrize(("notes", "words"), NOTES.values(), ids=NOTES)
def test_wrong_notes_are_refused(notes: Any, words: str, file: Path) -> None:
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    header = json.loads(metadata["adntn"]) | {"notes": {"torch": notes}}
    save_file(load_file(file), file, metadata | {"adntn": json.dumps(header)})
    with pytest.raises(adntn.FormatError, match=words):
        load_compressed(Network, file)


def test_a_file_without_generated_weights_is_refused(tmp_path: Path) -> None:
    save_file(Network().features.state_dict(), tmp_path / "file")
    with pytest.raises(adntn.FormatError, match="no generated weights"):
        load_compressed(Network, tmp_path / "file")
