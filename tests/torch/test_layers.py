"""Generated layers are torch's layers, but for where the weight comes from."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import nn

import adntn
import adntn_torch

KINDS = [
    "Linear",
    *(f"{kind}{axes}d" for kind in ("Conv", "ConvTranspose") for axes in (1, 2, 3)),
    "MultiheadAttention",
]


def test_outputs_and_bias_gradients_are_those_of_the_dense_layer(built):
    layer, dense, x = built
    own, reference = layer(x), dense(x)
    torch.testing.assert_close(own, reference, rtol=1e-12, atol=1e-12)
    own.square().sum().backward()
    reference.square().sum().backward()
    if layer.bias is not None:
        torch.testing.assert_close(layer.bias.grad, dense.bias.grad)


def test_core_gradients_are_the_dense_gradient_times_the_jacobian(built, differentiation):
    layer, dense, x = built
    layer.differentiation = differentiation
    dense(x).square().sum().backward()
    layer(x).square().sum().backward()
    step = 1e-6
    for core in list(layer.cores.values())[:3]:
        direction = torch.randn(core.shape, dtype=core.dtype, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            core.add_(direction, alpha=step)
            above = layer.weight
            core.sub_(direction, alpha=2 * step)
            slope = (above - layer.weight) / (2 * step)
            core.add_(direction, alpha=step)
        expected = float((dense.weight.grad * slope).sum())
        assert float((core.grad * direction).sum()) == pytest.approx(expected, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_signatures_begin_as_torchs_do(kind):
    own = list(inspect.signature(getattr(adntn_torch, kind)).parameters.values())
    dense = list(inspect.signature(getattr(nn, kind)).parameters.values())
    shared = own[: len(dense)]
    assert [(one.name, one.default, one.kind) for one in shared] == [(one.name, one.default, one.kind) for one in dense]
    assert {one.kind for one in own[len(dense) :]} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("Conv2d", {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "groups": 2}),
        ("Conv2d", {"in_channels": 4, "out_channels": 3, "kernel_size": 3, "groups": 2}),
        ("Conv2d", {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": "sane"}),
        ("Conv1d", {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding_mode": "mirror"}),
        ("Conv3d", {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": "same", "stride": 2}),
        ("Linear", {"in_features": -1, "out_features": 4}),
    ],
)
def test_wrong_arguments_get_torchs_own_errors(kind, arguments):
    with pytest.raises(Exception) as expected:  # noqa: PT011 (whatever torch raises)
        getattr(nn, kind)(**arguments)
    with pytest.raises(expected.type) as own:
        getattr(adntn_torch, kind)(**arguments)
    assert str(own.value) == str(expected.value)


@pytest.mark.parametrize("kind", ["Linear", "Conv2d"])
def test_weight_and_bias_start_with_torchs_deviation(kind, topology):
    arguments = (
        {"in_features": 96, "out_features": 400} if kind == "Linear" else {"in_channels": 8, "out_channels": 400}
    )
    kernel = {} if kind == "Linear" else {"kernel_size": 3}
    layer = getattr(adntn_torch, kind)(**arguments, **kernel, topology=topology, seed=1)
    torch.manual_seed(0)
    dense = getattr(nn, kind)(**arguments, **kernel)
    assert float(layer.weight.detach().std()) == pytest.approx(float(dense.weight.detach().std()), rel=0.1)
    bound = 1 / math.sqrt(layer.generator.fan_in)
    assert bound * 0.9 < float(layer.bias.detach().abs().max()) <= bound
    assert float(layer.bias.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_the_scale_is_learned_and_std_sets_the_start():
    layer = adntn_torch.Linear(64, 64, std=0.5, seed=0)
    assert float(layer.weight.detach().std()) == pytest.approx(0.5, rel=0.01)
    layer.weight.sum().backward()
    assert layer.cores["scale"].requires_grad
    assert layer.cores["scale"].grad is not None


def test_torchs_seed_governs_layers_without_one():
    def cores(seed: int | None) -> torch.Tensor:
        torch.manual_seed(7)
        return adntn_torch.Linear(16, 16, seed=seed).cores["top"].detach()

    assert torch.equal(cores(None), cores(None))
    torch.manual_seed(7)
    first, second = (adntn_torch.Linear(16, 16).cores["top"] for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(cores(3), adntn_torch.Linear(16, 16, seed=3).cores["top"])


def test_seeds_give_the_cores_of_every_other_backend():
    layer = adntn_torch.Linear(16, 24, topology=adntn.MERA.options(bond=2), seed=5, std=0.1, dtype=torch.float64)
    expected = adntn.MERA((24, 16), bond=2).init(seed=5, dtype="float64", std=0.1)
    for name, core in expected.items():
        torch.testing.assert_close(layer.cores[name].detach(), torch.from_numpy(core), rtol=0, atol=0)


def test_a_layer_made_without_data_starts_after_it_gets_memory():
    with torch.device("meta"):
        layer = adntn_torch.Conv2d(8, 16, 3)
    assert layer.cores["scale"].is_meta
    assert layer(torch.zeros(1, 8, 5, 5, device="meta")).shape == (1, 16, 3, 3)
    layer.to_empty(device="cpu").reset_parameters(seed=0)
    torch.testing.assert_close(layer.weight, adntn_torch.Conv2d(8, 16, 3, seed=0).weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_numbers_are_computed_in_float32_and_rounded_once(dtype, topology, differentiation):
    short = adntn_torch.Linear(
        16, 12, topology=topology, dtype=dtype, seed=0, differentiation=differentiation, bias=False
    )
    wide = adntn_torch.Linear(16, 12, topology=topology, seed=0, bias=False)
    wide.load_cores({name: core.detach().float() for name, core in short.cores.items()})
    assert torch.equal(short.weight, wide.weight.to(dtype))
    short.weight.sum().backward()
    wide.weight.to(dtype).sum().backward()
    for name, core in short.cores.items():
        assert core.grad.dtype == dtype
        torch.testing.assert_close(core.grad, wide.cores[name].grad.to(dtype), rtol=1e-2, atol=1e-2)


def test_autocast_generates_in_full_precision_and_multiplies_in_short(differentiation):
    layer = adntn_torch.Linear(16, 12, differentiation=differentiation, seed=0)
    expected = layer.weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.weight, expected)
        output = layer(torch.randn(2, 16))
        assert output.dtype == torch.bfloat16
        output.sum().backward()
    assert layer.cores["top"].grad.dtype == torch.float32


def test_complex_layers_agree_with_the_dense_one(differentiation):
    options = {"topology": adntn.TTN.options(bond=2, activation="tanh"), "differentiation": differentiation}
    layer = adntn_torch.Linear(16, 16, dtype=torch.complex128, seed=0, **options)
    dense = nn.Linear(16, 16, dtype=torch.complex128)
    with torch.no_grad():
        dense.weight.copy_(layer.weight)
        dense.bias.copy_(layer.bias)
    x = torch.randn(3, 16, dtype=torch.complex128)
    torch.testing.assert_close(layer(x), dense(x))
    (direct,) = torch.autograd.grad(layer(x).abs().sum(), layer.cores["scale"])
    (weight_bar,) = torch.autograd.grad(dense(x).abs().sum(), dense.weight)
    torch.testing.assert_close(direct, (weight_bar * (layer.weight / layer.cores["scale"]).detach().conj()).sum())


def test_loaded_cores_may_come_from_numpy_and_are_checked_before_they_are_copied():
    layer = adntn_torch.Linear(16, 16, seed=0)
    before = layer.weight.detach()
    good = layer.generator.init(seed=9)
    with pytest.raises(KeyError, match="top"):
        layer.load_cores({name: core for name, core in good.items() if name != "top"})
    with pytest.raises(ValueError, match="top"):
        layer.load_cores({**good, "top": good["top"][..., :1]})
    with pytest.raises(TypeError, match="complex"):
        layer.load_cores(layer.generator.init(seed=9, dtype="complex64"))
    assert torch.equal(layer.weight, before)
    layer.load_cores(good)
    torch.testing.assert_close(layer.weight.detach(), torch.from_numpy(layer.generator.weight(good)))


@pytest.mark.parametrize(
    ("kind", "sizes", "argument"),
    [
        ("Linear", (16, 8), "bias"),
        ("Conv2d", (3, 8, 3), "stride"),
        ("ConvTranspose1d", (3, 8, 3), "stride"),
        ("Embedding", (16, 8), "padding_idx"),
        ("BatchedLinear", (2, 16, 8), "bias"),
        ("MultiheadAttention", (16, 4), "dropout"),
    ],
)
@pytest.mark.parametrize("topology", [adntn.TTN, adntn.TTN.options(bond=2), lambda shape: adntn.TTN(shape, bond=3)])
def test_a_topology_in_the_place_of_another_argument_is_refused(kind, sizes, argument, topology):
    with pytest.raises(TypeError, match=f"{argument} must not be a topology: give it by name, topology="):
        getattr(adntn_torch, kind)(*sizes, topology)


@pytest.mark.parametrize("value", [torch.zeros(8, 16), nn.Parameter(torch.zeros(8, 16)), None], ids=type)
def test_a_generated_weight_cannot_be_replaced(value):
    layer = adntn_torch.Linear(16, 8, seed=0)
    with pytest.raises(AttributeError, match="the weight of Linear is generated: write its cores"):
        layer.weight = value
    assert "weight" not in dict(layer.named_parameters())


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"differentiation": "magic"}, ValueError, "native, adjoint, got 'magic'"),
        ({"differentiation": "magic", "engine": "numpy"}, ValueError, "native, adjoint, got 'magic'"),
        ({"differentiation": "native", "engine": "numpy"}, ValueError, "\"adjoint\" with the engine 'numpy'"),
        ({"topology": "TTN"}, TypeError, "options such as"),
        ({"topology": lambda shape: shape}, TypeError, r"adntn.Generator for the shape \(8, 16\), got tuple"),
        ({"topology": adntn.TTN.options(batch=2)}, ValueError, r"\(8, 16\), but TTN\(batch=2\) generates \(2, 8, 16\)"),
        ({"topology": adntn.TTN.options(bond=0)}, ValueError, "bond must be an integer of at least 1"),
        ({"std": -1.0}, ValueError, "std must be a positive number"),
        ({"seed": -1}, ValueError, "seed must be an integer of at least 0"),
        ({"dtype": torch.complex64, "topology": adntn.TTN.options(activation="relu")}, ValueError, "relu"),
    ],
)
def test_wrong_keywords_are_named(keywords, error, message):
    with pytest.raises(error, match=message):
        adntn_torch.Linear(16, 8, **keywords)


def test_a_printed_layer_says_how_it_is_generated():
    layer = adntn_torch.Conv2d(
        16, 64, 3, padding=1, groups=2, topology=adntn.TTN.options(bond=2), differentiation="native"
    )
    text = repr(nn.Sequential(layer))
    parameters = sum(core.numel() for core in layer.cores.values())
    assert f"parameters={parameters:,}, ratio={64 * 8 * 9 / parameters:,.0f}" in text
    for part in ("in_channels=16", "padding=(1, 1)", "groups=2", "bias=True", "topology=TTN(bond=2)", "'native'"):
        assert part in text
    assert "stride" not in text
    assert text.count("\n") == 2


def test_the_weight_cannot_be_assigned():
    layer = adntn_torch.Linear(8, 8)
    with pytest.raises((AttributeError, KeyError), match="weight"):
        layer.weight = nn.Parameter(torch.zeros(8, 8))
