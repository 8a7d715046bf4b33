"""Our method in PEFT's hands, and PEFT's LoRA in ours."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from torch import nn  # noqa: E402

import adntn  # noqa: E402
from adntn.verification.tolerance import EPSILON  # noqa: E402
from adntn_torch import adapters, load_adapter, save_adapter  # noqa: E402
from adntn_torch.peft import AdntnConfig, AdntnLayer  # noqa: E402

TTN = adntn.TTN.options(bond=2)
#: Trained and frozen deltas take other schedules, which round differently.
NEAR = 100 * EPSILON["float32"]
WORDS = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(0))
BERT = ["query", "value", "dense", "word_embeddings"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def bert(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = transformers.BertConfig(**SIZES, vocab_size=50, max_position_embeddings=16)
    return transformers.BertModel(config).eval().requires_grad_(False)


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50, n_positions=16, **ends)
    return transformers.GPT2Model(config).eval().requires_grad_(False)


def output(model: nn.Module) -> Any:
    return model(input_ids=WORDS)[0]


def train(model: nn.Module, steps: int = 4) -> list[float]:
    """Losses of a few steps, at which every output is to be small."""
    optimiser = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = output(model)[..., :3].square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def error(found: Any, expected: Any) -> float:
    return float((found - expected).norm() / expected.norm())


def adapted(build: Callable[[], nn.Module] = bert, targets: Any = BERT, **options: Any) -> Any:
    config = AdntnConfig(**({"target_modules": targets, "topology": TTN} | options))
    return peft.get_peft_model(build(), config)


def test_the_start_changes_no_bit_and_only_cores_are_trained():
    base = output(bert())
    model = adapted()
    assert torch.equal(output(model), base)
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    assert trained
    assert all(".adntn_delta.default.layer.cores." in name for name in trained)
    assert not any(name.endswith("scale") for name in trained)
    losses = train(model)
    assert losses[-1] < losses[0]
    with model.disable_adapter():
        assert torch.equal(output(model), base)


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
@pytest.mark.parametrize(("build", "targets"), [(bert, BERT), (gpt2, ["c_attn", "c_proj", "wte"])])
def test_folders_are_read_by_peft_and_by_us(tmp_path, build, targets):
    model = adapted(build, targets, scaling=0.5)
    train(model)
    expected = output(model)
    model.save_pretrained(tmp_path / "peft", save_embedding_layers=False)
    again = peft.PeftModel.from_pretrained(build(), tmp_path / "peft")
    assert error(output(again), expected) < NEAR
    ours = build()
    load_adapter(ours, tmp_path / "peft")
    assert error(output(ours), expected) < NEAR
    save_adapter(ours, tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(build(), tmp_path / "ours")
    assert error(output(again), expected) < NEAR
    empty = peft.PeftModel.from_pretrained(build(), tmp_path / "ours", low_cpu_mem_usage=True)
    assert error(output(empty), expected) < NEAR


def test_another_process_loads_and_merges(tmp_path):
    model = adapted(targets=["query", "dense"])
    train(model)
    expected = output(model)
    model.save_pretrained(tmp_path / "adapter")
    bert().save_pretrained(tmp_path / "base")
    torch.save(WORDS, tmp_path / "words.pt")
    code = f"""
import torch, transformers, peft, adntn_torch.peft

base = transformers.BertModel.from_pretrained({str(tmp_path / "base")!r})
model = peft.PeftModel.from_pretrained(base, {str(tmp_path / "adapter")!r}).eval()
words = torch.load({str(tmp_path / "words.pt")!r})
acting = model(input_ids=words)[0]
plain = model.merge_and_unload()
assert not any("adntn" in name for name in plain.state_dict())
torch.save((acting, plain(input_ids=words)[0]), {str(tmp_path / "y.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    acting, merged = torch.load(tmp_path / "y.pt")
    assert error(acting, expected) < NEAR
    assert error(merged, expected) < NEAR


def test_unmerging_restores_every_bit():
    model = adapted()
    train(model)
    model.add_adapter("b", AdntnConfig(target_modules=["query"], topology=adntn.LowRank.options(rank=2)))
    model.set_adapter("b")
    train(model)
    model.base_model.set_adapter(["default", "b"])
    expected = output(model)
    layers = [module for module in model.modules() if isinstance(module, AdntnLayer)]
    before = [layer.weight.clone() for layer in layers]
    for _ in range(5):
        model.merge_adapter(safe_merge=True)
        assert error(output(model), expected) < NEAR
        model.unmerge_adapter()
        assert all(torch.equal(layer.weight, weight) for layer, weight in zip(layers, before, strict=True))
    assert torch.equal(output(model), expected)


def test_several_adapters_are_switched_and_deleted():
    model = adapted()
    base = output(bert())
    train(model)
    first = output(model)
    model.add_adapter("b", AdntnConfig(target_modules=["query"], topology=adntn.LowRank.options(rank=2)))
    model.set_adapter("b")
    assert torch.equal(output(model), base)
    assert all(".b." in name for name, value in model.named_parameters() if value.requires_grad)
    model.set_adapter("default")
    assert torch.equal(output(model), first)
    model.delete_adapter("b")
    assert not any(".adntn_delta.b." in name for name in model.state_dict())


def test_modules_to_save_are_peft_s(tmp_path):
    config = transformers.BertConfig(**SIZES, vocab_size=50, max_position_embeddings=16, num_labels=3)

    def build() -> nn.Module:
        torch.manual_seed(0)
        return transformers.BertForSequenceClassification(config).eval()

    model = peft.get_peft_model(build(), AdntnConfig(target_modules=["query"], topology=TTN, task_type="SEQ_CLS"))
    assert any("classifier" in name for name, value in model.named_parameters() if value.requires_grad)
    train(model)
    model.save_pretrained(tmp_path)
    assert error(output(peft.PeftModel.from_pretrained(build(), tmp_path)), output(model)) < NEAR
    with pytest.raises(ValueError, match="modules_to_save"):
        load_adapter(build(), tmp_path)


def test_rules_of_single_layers_and_other_configs_of_peft_are_kept(tmp_path):
    special = "encoder.layer.1.attention.self.query"
    model = adapted(
        targets=["query", "value"],
        topology={"name": "TTN", "bond": 2},
        topology_pattern={special: adntn.LowRank.options(rank=1)},
        scaling_pattern={special: 3.0},
        exclude_modules=["layer.0.attention.self.value"],
    )
    layers = {name: module for name, module in model.base_model.model.named_modules() if isinstance(module, AdntnLayer)}
    assert len(layers) == 3
    assert layers[special].adntn_delta["default"].scaling == 3.0
    assert layers[special].adntn_delta["default"].layer.generator.network.topology == "LowRank"
    train(model)
    model.save_pretrained(tmp_path)
    ours = bert()
    load_adapter(ours, tmp_path)
    assert error(output(ours), output(model)) < NEAR


def test_layers_to_transform_are_peft_s():
    model = adapted(targets=["query"], layers_to_transform=[1])
    assert [name for name, module in model.named_modules() if isinstance(module, AdntnLayer)] == [
        "base_model.model.encoder.layer.1.attention.self.query"
    ]


def test_default_targets_are_those_of_peft_s_lora():
    model = adapted(targets=None)
    assert model.peft_config["default"].target_modules == {"query", "value"}


BAD_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "bond": ({"topology": {"name": "TTN", "bonds": 2}}, "TTN: .*bonds"),
    "topology": ({"topology": {"name": "TNT"}}, "topology must be one of .*got 'TNT'"),
    "version": ({"format_version": 9}, "format_version is 9"),
    "dropout": ({"dropout": 2.0}, "dropout must be"),
    "pattern": ({"topology_pattern": {"query": {"bond": 2}}}, "the name in topology of 'query'"),
    "layers": ({"layers_to_transform": 1, "target_modules": ".*"}, "layers_to_transform must be None"),
    "layers' pattern": ({"layers_pattern": "layer"}, "layers_pattern must be None"),
    "Custom": (
        {"topology": adntn.Custom.options(blocks=[], sizes={}, output="")},
        "topology must be one of .* got Custom",
    ),
}


@pytest.mark.parametrize(("options", "message"), BAD_CONFIGS.values(), ids=BAD_CONFIGS.keys())
def test_bad_configs_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        AdntnConfig(**options)
    with pytest.raises(TypeError, match="topology must be options"):
        AdntnConfig(topology=adntn.TTN)


def test_what_peft_would_pass_over_in_silence_is_refused():
    model = nn.Sequential(nn.TransformerEncoderLayer(16, 2, 32), nn.LayerNorm(16))
    for targets, message in ((["out_proj"], "use adntn_torch.adapt"), (["self_attn"], "use adntn_torch.adapt")):
        with pytest.raises(ValueError, match=message):
            peft.get_peft_model(copy.deepcopy(model), AdntnConfig(target_modules=targets))
    with pytest.raises(ValueError, match="'1' cannot be adapted: its type is LayerNorm"):
        peft.get_peft_model(copy.deepcopy(model), AdntnConfig(target_modules=["1"]))


# LoRA of PEFT

LORA: dict[str, tuple[Callable[[], nn.Module], list[str], dict[str, Any]]] = {
    "BERT": (bert, BERT, {"lora_alpha": 10}),
    "BERT, patterns": (bert, ["query", "dense"], {"rank_pattern": {"query": 3}, "alpha_pattern": {"dense": 5}}),
    "GPT-2": (gpt2, ["c_attn", "c_proj"], {"use_rslora": True, "fan_in_fan_out": True}),
}


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
@pytest.mark.parametrize(("build", "targets", "options"), LORA.values(), ids=LORA.keys())
def test_low_rank_is_peft_s_lora_before_while_and_after_training(tmp_path, build, targets, options):
    torch.manual_seed(1)
    theirs = peft.get_peft_model(build(), peft.LoraConfig(r=4, target_modules=targets, **options)).eval()
    theirs.save_pretrained(tmp_path / "start", save_embedding_layers=False)
    ours = build()
    adaptation = load_adapter(ours, tmp_path / "start", trainable=True)
    assert adaptation.trained == theirs.get_nb_trainable_parameters()[0]
    assert torch.equal(output(ours), output(build()))
    losses = train(theirs, 5)
    assert train(ours, 5) == pytest.approx(losses, rel=1e4 * EPSILON["float32"])
    theirs.save_pretrained(tmp_path / "trained", save_embedding_layers=False)
    loaded = build()
    load_adapter(loaded, tmp_path / "trained")
    assert error(output(loaded), output(theirs)) < NEAR
    adapters.merge(loaded)
    assert error(output(loaded), output(theirs.merge_and_unload())) < NEAR


def test_lora_of_convolutions(tmp_path):
    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.Conv2d(8, 4, (1, 3)))

    images = torch.randn(2, 3, 9, 9)
    config = peft.LoraConfig(r=2, target_modules=["0", "1"], init_lora_weights=False)
    theirs = peft.get_peft_model(build(), config)
    theirs.save_pretrained(tmp_path)
    ours = build()
    load_adapter(ours, tmp_path)
    assert error(ours(images), theirs(images)) < NEAR
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LORA"
