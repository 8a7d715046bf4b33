"""Many linear layers of one generator are as many linear layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import adntn
import adntn_torch
from adntn_torch import compress, expand

TTN = adntn.TTN.options(bond=2)


def test_each_layer_is_a_linear_layer_with_cores_of_its_own() -> None:
    layer = adntn_torch.BatchedLinear(3, 10, 7, topology=TTN, dtype=torch.float64, seed=0)
    x = torch.randn(3, 4, 10, dtype=torch.float64)
    y = layer(x)
    for number in range(3):
        one = adntn_torch.Linear(10, 7, topology=TTN, dtype=torch.float64)
        one.load_cores({name: core.detach()[number] for name, core in layer.cores.items()})
        one.bias.data.copy_(layer.bias[number])
        torch.testing.assert_close(y[number], one(x[number]), rtol=1e-12, atol=1e-12)


def test_batched_layers_are_compressed_expanded_and_compiled() -> None:
    torch.compiler.reset()
    model = nn.Sequential(adntn_torch.DenseBatchedLinear(4, 32, 16))
    x = torch.randn(4, 3, 32)
    row = compress(model, {"0": TTN}, schedule="stream").rows[0]
    assert row.shape == (4, 16, 32)
    y = model(x)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), y)
    torch.testing.assert_close(model.eval()(x), y)
    assert torch.equal(expand(model)(x), y)
    assert type(model[0]) is adntn_torch.DenseBatchedLinear


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 4, 4), ValueError, "count must be a positive integer, got 0"),
        ((2, 4, 2.5), ValueError, "out_features must be a positive integer, got 2.5"),
    ],
)
def test_wrong_sizes_are_named(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        adntn_torch.BatchedLinear(*arguments)


def test_wrong_inputs_and_schedules_are_named() -> None:
    layer = adntn_torch.BatchedLinear(3, 10, 7)
    with pytest.raises(RuntimeError, match=r"x must have the shape \(3, ..., 10\), got \(2, 10\)"):
        layer(torch.zeros(2, 10))
    with pytest.raises(ValueError, match="in one piece; got 'stream'"):
        adntn_torch.BatchedLinear(3, 10, 7, schedule="stream")


def test_transposed_convolutions_take_an_output_size() -> None:
    layer = adntn_torch.ConvTranspose2d(4, 6, 3, stride=2, dtype=torch.float64, seed=0)
    dense, x = layer.to_dense(), torch.randn(2, 4, 5, 5, dtype=torch.float64)
    for size in ((12, 11), (2, 6, 12, 12)):
        torch.testing.assert_close(layer(x, output_size=size), dense(x, output_size=size), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="output size"):
        layer(x, output_size=(40, 40))
    with pytest.raises(ValueError, match='must not be "stream"'):
        adntn_torch.ConvTranspose2d(4, 6, 3, schedule="stream")


def test_transposed_convolutions_are_compressed_expanded_and_compiled() -> None:
    torch.compiler.reset()
    model = nn.Sequential(nn.ConvTranspose1d(16, 32, 4, stride=2, padding=1))
    compress(model, {"0": TTN}, schedule="recompute")
    x = torch.randn(1, 16, 8)
    y = model(x)
    y.sum().backward()
    assert model[0].cores["top"].grad is not None
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), y)
    assert torch.equal(expand(model)(x), y)
