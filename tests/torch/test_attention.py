"""Attention with generated projections is torch's attention with these weights put in."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adntn
import adntn_torch
from adntn_torch import compress, expand, generated_layers

TTN = adntn.TTN.options(bond=2)
#: Arguments of the layer, and of a call with a query of length 5 and keys of length 7, or of self-attention.
BUILT: dict[str, dict[str, Any]] = {
    "joined": {},
    "three generators": {"joined": False},
    "batch first, no bias": {"batch_first": True, "bias": False},
    "sizes of keys and values": {"kdim": 6, "vdim": 10},
    "biases of keys, zero attention": {"add_bias_kv": True, "add_zero_attn": True},
}
CAUSAL = torch.ones(5, 7, dtype=torch.bool).triu(3)
PADDING = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])
CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "masks": {"attn_mask": CAUSAL, "key_padding_mask": PADDING},
    "weights of each head": {"average_attn_weights": False},
    "no weights": {"need_weights": False},
}


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def inputs(layer: Any) -> tuple[Tensor, Tensor, Tensor]:
    made = random(2, 5, 12), random(2, 7, layer.kdim), random(2, 7, layer.vdim)
    return made if layer.batch_first else tuple(one.transpose(0, 1) for one in made)


def pair(**arguments: Any) -> tuple[adntn_torch.MultiheadAttention, nn.MultiheadAttention]:
    """A generated layer in double precision, and torch's with its weights and biases copied in."""
    layer = adntn_torch.MultiheadAttention(12, 4, topology=TTN, seed=0, dtype=torch.float64, **arguments)
    with torch.no_grad():
        for name in ("in_proj_bias", "bias_k", "bias_v"):
            if getattr(layer, name) is not None:
                getattr(layer, name).normal_()
    arguments.pop("joined", None)
    dense = nn.MultiheadAttention(12, 4, dtype=torch.float64, **arguments)
    weights = {name: getattr(layer, name) for name in ("in_proj_bias", "bias_k", "bias_v")}
    weights |= {"out_proj.weight": layer.out_proj.weight, "out_proj.bias": layer.out_proj.bias}
    if dense._qkv_same_embed_dim:
        weights["in_proj_weight"] = layer.in_proj_weight
    else:
        projections = zip("qkv", layer.projections, strict=True)
        weights |= {f"{name}_proj_weight": one.weight for name, one in projections}
    dense.load_state_dict({name: one.detach() for name, one in weights.items() if one is not None})
    return layer, dense


@pytest.mark.parametrize("arguments", BUILT.values(), ids=BUILT.keys())
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_gradients_are_torchs(arguments: dict[str, Any], call: dict[str, Any], training: bool) -> None:
    layer, dense = (one.train(training) for one in pair(**arguments))
    given = inputs(layer)
    (own, own_weights), (expected, weights) = layer(*given, **call), dense(*given, **call)
    torch.testing.assert_close(own, expected, rtol=1e-12, atol=1e-12)
    assert (own_weights is None) == (weights is None)
    if weights is not None:
        torch.testing.assert_close(own_weights, weights, rtol=1e-12, atol=1e-12)
    own.sin().sum().backward()
    expected.sin().sum().backward()
    bars = dense.in_proj_weight.grad if dense._qkv_same_embed_dim else None
    stacked = (
        bars.reshape(3, 12, 12) if bars is not None else [getattr(dense, f"{name}_proj_weight").grad for name in "qkv"]
    )
    whole = [stacked] if layer.in_proj is not None else list(stacked)
    for projection, bar in zip(layer.projections, whole, strict=True):
        cores = {name: core.detach().requires_grad_() for name, core in projection.cores.items()}
        gradients = torch.autograd.grad(projection.generator.weight(cores), list(cores.values()), bar)
        for core, gradient in zip(projection.cores.values(), gradients, strict=True):
            torch.testing.assert_close(core.grad, gradient, rtol=1e-9, atol=1e-10)


def test_sequences_without_a_batch_and_wrong_inputs_are_torchs() -> None:
    layer, dense = pair()
    x = random(5, 12)
    torch.testing.assert_close(layer(x, x, x), dense(x, x, x))
    with pytest.raises(AssertionError) as expected:
        dense(random(5, 2, 11), x[:, None], x[:, None])
    with pytest.raises(AssertionError) as own:
        layer(random(5, 2, 11), x[:, None], x[:, None])
    assert str(own.value) == str(expected.value)


def test_joined_projections_must_have_one_shape() -> None:
    with pytest.raises(ValueError, match="joined needs kdim and vdim to be embed_dim, 12; got 6"):
        adntn_torch.MultiheadAttention(12, 4, kdim=6, joined=True)
    with pytest.raises(AssertionError, match="divisible"):
        adntn_torch.MultiheadAttention(12, 5)


def test_projections_may_have_topologies_of_their_own() -> None:
    own = {"q_proj": TTN, "k_proj": adntn.LowRank.options(rank=2), "v_proj": TTN, "out_proj": TTN}
    layer = adntn_torch.MultiheadAttention(12, 4, topology=own)
    assert [one.topology for one in (*layer.projections, layer.out_proj)] == list(own.values())
    with pytest.raises(ValueError, match="topology must have options for in_proj, out_proj, got q_proj, "):
        adntn_torch.MultiheadAttention(12, 4, topology=own, joined=True)
    with pytest.raises(ValueError, match="for q_proj, k_proj, v_proj, out_proj, got v_proj"):
        adntn_torch.MultiheadAttention(12, 4, topology={"v_proj": TTN})


def test_the_weights_start_as_torchs() -> None:
    layer, dense = (kind(64, 4) for kind in (adntn_torch.MultiheadAttention, nn.MultiheadAttention))
    assert float(layer.in_proj_weight.detach().std()) == pytest.approx(
        float(dense.in_proj_weight.detach().std()), rel=0.1
    )
    assert not layer.in_proj_bias.any()
    assert not layer.out_proj.bias.any()


def test_state_dicts_copies_and_frozen_weights() -> None:
    layer, _ = pair(batch_first=True)
    other, _ = pair(batch_first=True)
    other.in_proj.reset_parameters(seed=5)
    x = random(2, 5, 12)
    expected = layer.eval()(x, x, x)[0].detach()
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    for twin in (
        other.eval(),
        copy.deepcopy(layer),
        copy.deepcopy(layer).freeze(),
        copy.deepcopy(layer).freeze().unfreeze(),
    ):
        torch.testing.assert_close(twin(x, x, x)[0], expected, rtol=1e-12, atol=1e-12)


def test_compiled_attention_has_no_graph_break() -> None:
    torch.compiler.reset()
    layer, _ = pair(batch_first=True)
    x = random(2, 5, 12)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, x, x)[0], layer(x, x, x)[0])


class Encoder(nn.Module):
    """A table and two layers of torch's own transformer."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.table = nn.Embedding(100, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0, dtype=torch.float64, **options)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, indices: Tensor) -> Tensor:
        return self.encoder(self.table(indices).double())


@pytest.mark.parametrize("options", [{}, {"norm_first": True, "activation": "gelu"}, {"bias": False}])
def test_transformer_layers_are_compressed_and_expanded(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, indices = Encoder(**options), torch.tensor([[1, 2, 3, 99], [4, 4, 0, 1]])
    kinds, names = [type(one) for one in model.modules()], list(model.state_dict())
    rows = compress(model, {"*.self_attn*": TTN, "*.linear?": TTN, "table": TTN}).rows
    assert [row.name for row in rows[:4]] == [
        "table",
        "encoder.layers.0.self_attn",
        "encoder.layers.0.self_attn.out_proj",
        "encoder.layers.0.linear1",
    ]
    assert rows[1].shape == (3, 16, 16)
    assert "encoder.layers.1.self_attn.in_proj" in generated_layers(model)
    model(indices).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    expected = model(indices).detach()
    with torch.no_grad():  # torch's fast path
        torch.testing.assert_close(model.eval()(indices), expected, rtol=1e-10, atol=1e-10)
    assert expand(model) is model
    assert list(model.state_dict()) == names or set(model.state_dict()) == set(names)
    assert [type(one) for one in model.modules() if not isinstance(one, nn.Linear)] == [
        kind for kind in kinds if not issubclass(kind, nn.Linear)
    ]
    torch.testing.assert_close(model(indices), expected, rtol=1e-10, atol=1e-10)


def test_attention_that_is_the_model_or_has_three_shapes_is_expanded_too() -> None:
    layer = adntn_torch.MultiheadAttention(12, 4, kdim=6, topology=TTN, seed=0, dtype=torch.float64)
    given = inputs(layer)
    expected = layer(*given)[0].detach()
    dense = expand(layer)
    assert type(dense) is nn.MultiheadAttention
    assert not generated_layers(dense)
    torch.testing.assert_close(dense(*given)[0], expected, rtol=1e-12, atol=1e-12)
    model = nn.ModuleList([dense])
    row = compress(model, {"0": TTN}).rows[0]
    assert row.shape == (12, 12 + 6 + 12)
    assert row.after == sum(core.numel() for one in model[0].projections for core in one.cores.values())


def test_a_rule_by_size_counts_the_projections() -> None:
    model = nn.ModuleList([nn.MultiheadAttention(16, 2)])
    assert [row.name for row in compress(model, adntn_torch.above(700, TTN)).rows] == ["0"]
