"""Adapters in folders: written as wholes, read only where all of it fits, PEFT's LoRA among them."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matrix import LAYER_TOPOLOGIES
from safetensors.torch import load_file, save_file
from torch import nn

import adntn
from adntn.files import FormatError
from adntn.verification.tolerance import EPSILON
from adntn_torch import adapt, load_adapter, save_adapter
from adntn_torch.adapters import adapter_state_dict
from adntn_torch.adapters.expressions import takes_long

TTN = adntn.TTN.options(bond=2)
CUSTOM = adntn.Custom.options(
    blocks=[adntn.Block({"one": "a b"}, activation="tanh"), adntn.Block({"left": "a r", "right": "b c"})],
    sizes={"a": 2, "b": 3, "r": 16, "c": 16},
    output="r | c",
)
OPTIONS = LAYER_TOPOLOGIES | {
    "many options": adntn.TTN.options(bond=(2, 3), factors=((2,) * 4,) * 2, activation=["gelu"], layout="split"),
    "the library's activation": adntn.TTN.options(activation=adntn.ACTIVATIONS["sin"]),
    "Custom": CUSTOM,
    "a function": lambda shape: adntn.TTN(shape, bond=3),
}
X = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = {"query": nn.Linear(16, 16), "words": nn.Linear(16, 16, bias=False), "other": nn.Linear(16, 4)}
    return nn.Sequential(nn.ModuleDict(layers)["query"], nn.Tanh(), layers["words"], layers["other"])


def adapted(topology: Any = TTN, **options: Any) -> nn.Module:
    """A network with an adapter that is no longer zero."""
    model = network()
    adapt(model, ["0", "2"], topology=topology, **options)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(0.2 * torch.randn(value.shape, generator=random))
    return model


@torch.no_grad()
@pytest.mark.parametrize("topology", OPTIONS.values(), ids=OPTIONS.keys())
def test_an_adapter_is_the_same_after_a_folder(tmp_path, topology):
    model = adapted(topology, scaling=0.7, dropout=0.1).eval()
    save_adapter(model, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    again = network().eval()
    adaptation = load_adapter(again, tmp_path, name="again")
    assert torch.equal(again(X), model(X))
    assert not any(value.requires_grad for value in again.parameters())
    assert [row.name for row in adaptation.rows] == ["0", "2"]
    assert [row.shape for row in adaptation.rows] == [(16, 16), (16, 16)]
    second = tmp_path / "second"
    save_adapter(again, second, "again")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (second / name).read_bytes() == (tmp_path / name).read_bytes()


@torch.no_grad()
def test_what_was_trained_beside_an_adapter_is_named(tmp_path, recwarn):
    model = adapted()
    adapt(model, ["3"], topology=TTN, name="other")
    save_adapter(model, tmp_path)
    assert not recwarn.list
    model[3].bias.requires_grad_(True)
    with pytest.warns(UserWarning, match=r"the adapter alone, but trained are also '3\.bias': save"):
        save_adapter(model, tmp_path)


def test_layers_of_one_adapter_may_differ(tmp_path):
    model = network()
    adapt(model, {"0": TTN, "2": adntn.LowRank.options(rank=2), "3": TTN})
    save_adapter(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["topology"] == {"name": "TTN", "bond": 2}
    assert config["topology_pattern"] == {"2": {"name": "LowRank", "rank": 2}}
    again = network()
    load_adapter(again, tmp_path)
    assert torch.equal(again(X), model(X))


def test_what_is_loaded_can_be_trained_further(tmp_path):
    model = adapted()
    save_adapter(model, tmp_path)
    again = network()
    adaptation = load_adapter(again, tmp_path, trainable=True)
    again(X).sum().backward()
    model(X).sum().backward()
    gradients = [[value.grad for value in one.parameters() if value.requires_grad] for one in (model, again)]
    assert adaptation.trained == sum(one.numel() for one in gradients[1])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_keys_are_those_that_users_of_peft_know(tmp_path):
    model = adapted()
    model.name_or_path = "somebody/some-model"
    save_adapter(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "ADNTN"
    assert config["target_modules"] == ["0", "2"]
    assert config["base_model_name_or_path"] == "somebody/some-model"
    assert {"inference_mode", "modules_to_save", "task_type", "revision"} <= set(config)
    names = load_file(tmp_path / "adapter_model.safetensors")
    assert names.keys() == adapter_state_dict(model).keys()
    assert all(name.startswith("base_model.model.") for name in names)


@torch.no_grad()
def test_another_process_makes_the_same(tmp_path):
    model = adapted()
    save_adapter(model, tmp_path / "adapter")
    torch.save({"state": network().state_dict(), "x": X}, tmp_path / "base.pt")
    code = f"""
import torch
from torch import nn
from adntn_torch import adapters, load_adapter

given = torch.load({str(tmp_path / "base.pt")!r})
model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16, bias=False), nn.Linear(16, 4))
model.load_state_dict(given["state"])
load_adapter(model, {str(tmp_path / "adapter")!r})
torch.set_grad_enabled(False)
acting = model(given["x"])
adapters.unload(model, merged=True)
torch.save({{"acting": acting, "merged": model(given["x"])}}, {str(tmp_path / "y.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    found, expected = torch.load(tmp_path / "y.pt"), model(X)
    assert torch.equal(found["acting"], expected)
    error = float((found["merged"] - expected).norm() / expected.norm())
    assert error < 100 * EPSILON["float32"]


def test_a_folder_stays_as_it_was_if_writing_fails(tmp_path, monkeypatch):
    save_adapter(adapted(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def broken(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("adntn_torch.adapters.files.save_file", broken)
    with pytest.raises(OSError, match="no space"):
        save_adapter(adapted(scaling=3.0), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_ones_own_code_is_not_written(tmp_path):
    own = adntn.Activation("own", lambda xp, z: z * z, lambda xp, z: 2 * z)
    model = adapted(adntn.TTN.options(bond=2, leg=1, activation=own))
    with pytest.raises(ValueError, match="'own' is one of your own"):
        save_adapter(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="no adapter 'b'"):
        save_adapter(model, tmp_path / "new", "b")


# bad folders

Change = Callable[[Path], None]


def in_config(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def in_tensors(edit: Callable[[dict[str, torch.Tensor]], Any]) -> Change:
    def change(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        edit(tensors)
        save_file(tensors, path)

    return change


def text(content: str) -> Change:
    return lambda folder: (folder / "adapter_config.json").write_text(content) and None


def cut(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def absurd(folder: Path) -> None:
    """A header that promises 2^60 numbers."""
    header = {"base_model.model.0.adntn_delta.top": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]}}
    written = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(len(written).to_bytes(8, "little") + written)


FIRST = "base_model.model.0.adntn_delta."


def renamed(old: str, new: str) -> Change:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(old)]:
            tensors[name.replace(old, new)] = tensors.pop(name)

    return in_tensors(edit)


BAD: dict[str, tuple[Change, str]] = {
    "no JSON": (text("{"), "adapter_config.json is no JSON"),
    "no object": (text("[]"), "must be an object, got a list"),
    "nested without end": (text("[" * 100_000), "nested too deep|no JSON"),
    "another method": (in_config(peft_type="LOKR"), "peft_type must be 'ADNTN' or 'LORA', got 'LOKR'"),
    "no method": (in_config(peft_type=None), "peft_type must be"),
    "a later version": (in_config(format_version=2), "format_version is 2; this adntn reads versions up to 1"),
    "no version": (in_config(format_version=None), "format_version must be"),
    "modules to save": (in_config(modules_to_save=["head"]), "needs PEFT"),
    "an unknown topology": (in_config(topology={"name": "os.system"}), "must be one of .*TTN.*got 'os.system'"),
    "no topology": (in_config(topology=None), "topology of '0' must be an object"),
    "an unknown option": (in_config(topology={"name": "TTN", "bonds": 2}), "TTN: .*bonds"),
    "an impossible option": (in_config(topology={"name": "TTN", "bond": 0}), "'0' of shape.*bond must be"),
    "an absurd option": (in_config(topology={"name": "Brickwall", "depth": 5000}), "absurd option 5000"),
    "an absurd bond": (in_config(topology={"name": "TTN", "bond": [2, 10**9]}), "absurd option 1000000000"),
    "code as an option": (in_config(topology={"name": "TTN", "bond": {"a": 1}}), "an object among its options"),
    "another bond": (in_config(topology={"name": "TTN", "bond": 3}), "core 'top' of layer '0' must have the shape"),
    "no number as scaling": (in_config(scaling="2"), "scaling must be a number, got '2' of '0'"),
    "an infinite scaling": (in_config(scaling=float("nan")), "scaling must be finite"),
    "a scaling that no float holds": (in_config(scaling=10**400), "scaling must be finite, got 1000"),
    "an expression nested without end": (in_config(target_modules="(" * 2000), "must be a regular expression"),
    "an expression of endless repetitions": (in_config(target_modules=f"a{{{2**40}}}"), "must be a regular expression"),
    "a topology for no layer": (in_config(topology_pattern=[]), "topology_pattern must be an object, got a list"),
    "more layers in the config": (in_config(target_modules=["0", "2", "3"]), "mean the layer '3', of which"),
    "no layers in the config": (in_config(target_modules=5), "target_modules must be names"),
    "cut short": (cut, "adapter_model.safetensors is no file of safetensors, or is damaged"),
    "absurd sizes": (absurd, "is no file of safetensors, or is damaged"),
    "no tensors": (in_tensors(dict.clear), "holds no tensor"),
    "a missing core": (in_tensors(lambda one: one.pop(FIRST + "top")), "layer '0' lacks the core 'top' of shape"),
    "a missing scale": (in_tensors(lambda one: one.pop(FIRST + "scale")), "lacks the core 'scale'"),
    "a missing layer": (
        in_tensors(lambda one: [one.pop(name) for name in list(one) if name.startswith(FIRST)]),
        "mean the layer '0', of which the file holds nothing",
    ),
    "an extra core": (
        in_tensors(lambda one: one.update({FIRST + "more": torch.ones(2)})),
        "layer '0' has the core 'more'",
    ),
    "a wrong shape": (
        in_tensors(lambda one: one.update({FIRST + "top": torch.ones(3)})),
        r"core 'top' of layer '0' must have the shape \(2, 2\), got \(3,\)",
    ),
    "integers": (
        in_tensors(lambda one: one.update({FIRST + "top": torch.ones(2, 2, dtype=torch.int64)})),
        "must be one of F64.*got I64",
    ),
    "a layer that is not there": (renamed("base_model.model.0.", "base_model.model.9."), "'9' that the model does not"),
    "a path as a layer": (renamed("base_model.model.0.", "base_model.model.../../0."), "that the model does not have"),
    "another layer": (renamed("base_model.model.0.", "base_model.model.1."), "'1' cannot be adapted: its type is Tanh"),
    "no adapter's tensor": (in_tensors(lambda one: one.update(head=torch.ones(2))), "'head' is none of an adapter"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_folder_is_refused_and_the_model_stays_as_it_was(tmp_path, change, message):
    save_adapter(adapted(), tmp_path)
    change(tmp_path)
    model = network()
    types, expected = [type(module) for module in model.modules()], model(X)
    with pytest.raises(ValueError, match=message):
        load_adapter(model, tmp_path)
    assert [type(module) for module in model.modules()] == types
    assert all(value.requires_grad for value in model.parameters())
    assert torch.equal(model(X), expected)


def test_nothing_is_allocated_before_all_is_checked(tmp_path, monkeypatch):
    save_adapter(adapted(), tmp_path)
    in_tensors(lambda one: one.update({"base_model.model.2.adntn_delta.top": torch.ones(3)}))(tmp_path)
    monkeypatch.setattr("adntn_torch.adapters.files.make_delta", lambda *arguments, **keywords: pytest.fail("built"))
    with pytest.raises(FormatError, match="core 'top' of layer '2'"):
        load_adapter(network(), tmp_path)


EXPRESSIONS = {
    "names": (r"model\.layers\.\d+\.(q|v)_proj", False),
    "PEFT's own": (".*decoder.*(SelfAttention|EncDecAttention).*(q|v)$", False),
    "a set with brackets": (r"[(a+)+]*x", False),
    "lazy": (".*?(?:text|vision).*?(?:attn|mlp).*?", False),
    "layers by number": (rf"layers\.({'|'.join(map(str, range(48)))})\.(q|v)_proj", False),
    "a repeated repetition": ("(a+)+b", True),
    "a repetition behind a space": ("(?x: (a+) +b)", True),
    "a repeated choice": ("(a|a)*b", True),
    "a counted group": ("(a*){9}b", True),
    "many repetitions": (".*a" * 20, True),
    "many options": ("a?" * 40 + "a" * 40, True),
    "many alternatives": (r"(.|\w)" * 40 + "b", True),
    "more repetitions than can be counted": ("a+" * 10**6, True),
    "what came before": (r"(a*)\1\1b", True),
}


@pytest.mark.parametrize(("expression", "answer"), EXPRESSIONS.values(), ids=EXPRESSIONS.keys())
def test_expressions_that_could_take_for_ever_are_known(expression, answer):
    assert takes_long(expression, 60) == answer


def test_an_expression_that_takes_for_ever_is_not_asked_for_layers(tmp_path):
    save_adapter(adapted(), tmp_path)
    in_config(target_modules="(.*)*x")(tmp_path)
    model = nn.Sequential(*network(), *(nn.Identity() for _ in range(3)))
    model.add_module("a" * 200, nn.Linear(2, 2))
    assert [row.name for row in load_adapter(model, tmp_path).rows] == ["0", "2"]


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks adapter_config.json"):
        load_adapter(network(), tmp_path)
    save_adapter(adapted(), tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(FileNotFoundError, match=r"lacks adapter_model.safetensors: pickles .* are not read"):
        load_adapter(network(), tmp_path)


# PEFT's LoRA


def lora_folder(folder: Path, **config: Any) -> dict[str, torch.Tensor]:
    """A folder as PEFT writes it, for two layers."""
    random = torch.Generator().manual_seed(2)
    tensors = {}
    for layer in ("0", "2"):
        for matrix, shape in (("A", (3, 16)), ("B", (16, 3))):
            tensors[f"base_model.model.{layer}.lora_{matrix}.weight"] = torch.randn(shape, generator=random)
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    plain = {"peft_type": "LORA", "r": 3, "lora_alpha": 12, "target_modules": ["0", "2"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(plain | config))
    return tensors


SCALINGS = {
    "alpha / r": ({}, {"0": 4.0, "2": 4.0}),
    "alpha / sqrt(r)": ({"use_rslora": True}, {"0": 12 / 3**0.5, "2": 12 / 3**0.5}),
    "alpha of a layer": ({"alpha_pattern": {"2": 6}}, {"0": 4.0, "2": 2.0}),
}


@pytest.mark.parametrize(("config", "scalings"), SCALINGS.values(), ids=SCALINGS.keys())
def test_low_rank_is_lora(tmp_path, config, scalings):
    tensors = lora_folder(tmp_path, **config)
    model, plain = network().double(), network().double()
    load_adapter(model, tmp_path, trainable=True)
    with torch.no_grad():
        for layer, scaling in scalings.items():
            a, b = (tensors[f"base_model.model.{layer}.lora_{matrix}.weight"].double() for matrix in "AB")
            plain.get_submodule(layer).weight += scaling * b @ a
    x = X.double()
    with torch.no_grad():
        assert float((model(x) - plain(x)).norm() / plain(x).norm()) < 100 * EPSILON["float64"]
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert sum(value.numel() for value in trained.values()) == sum(tensor.numel() for tensor in tensors.values())


MORE_THAN_LORA = {
    "DoRA": ({"use_dora": True}, "use_dora = True is more than LoRA"),
    "biases": ({"bias": "all"}, "bias = 'all' trains biases too"),
    "a start that takes from the weights": ({"init_lora_weights": "pissa_niter_4"}, "changes the base weights"),
    "modules to save": ({"modules_to_save": ["3"]}, "modules_to_save"),
    "another rank": ({"r": 4}, "layer '0' has rank 3, but the config says 4"),
    "no alpha": ({"lora_alpha": None}, "scaling must be a number, got None for '0'"),
    "no expression": ({"rank_pattern": {"(": 3}}, "no regular expression"),
    "an expression that takes for ever": ({"rank_pattern": {"(0*)*x": 3}}, r"'\(0\*\)\*x', which could take for ever"),
}


@pytest.mark.parametrize(("config", "message"), MORE_THAN_LORA.values(), ids=MORE_THAN_LORA.keys())
def test_what_is_more_or_less_than_lora_is_refused(tmp_path, config, message):
    lora_folder(tmp_path, **config)
    with pytest.raises(FormatError, match=message):
        load_adapter(network(), tmp_path)


def test_matrices_of_lora_that_do_not_join_are_named(tmp_path):
    name = "base_model.model.0.lora_A.weight"
    for edit, message in (
        (lambda one: one.pop(name), "layer 'base_model.model.0' lacks lora_A"),
        (lambda one: one.update({name: torch.ones(4, 16)}), "do not join"),
        (lambda one: one.update({name: torch.ones(3, 8)}), "core 'right' of layer '0' must have the shape"),
        (lambda one: one.update({"base_model.model.0.lora_magnitude_vector": torch.ones(3)}), "none of LoRA's"),
    ):
        lora_folder(tmp_path)
        in_tensors(edit)(tmp_path)
        with pytest.raises(FormatError, match=message):
            load_adapter(network(), tmp_path)


@torch.no_grad()
def test_an_adapter_of_lora_is_saved_as_ours(tmp_path):
    lora_folder(tmp_path / "lora")
    model = network()
    load_adapter(model, tmp_path / "lora")
    save_adapter(model, tmp_path / "ours")
    again = copy.deepcopy(network())
    load_adapter(again, tmp_path / "ours")
    assert torch.equal(again(X), model(X))
