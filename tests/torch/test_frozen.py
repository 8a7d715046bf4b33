"""Layers that keep their weight for inference."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from helpers import relative_error, tolerance
from scheduled import LARGE, TANH, assert_close, differentiated, linear, random
from torch import nn

import adntn_torch
from adntn.verification.tolerance import EPSILON

pytestmark = pytest.mark.usefixtures("_small_cache")


@pytest.fixture
def frozen(schedule: str) -> adntn_torch.Linear:
    return linear(schedule).eval().freeze()


def test_frozen_layers_have_the_same_outputs_and_gradients_of_x(schedule: str) -> None:
    layer, x = linear(schedule).eval(), random(4, 256)
    expected = differentiated(layer, x)
    found = differentiated(layer.freeze(), x)
    assert found.keys() == {"y", "x", "bias"}
    assert_close(found, {name: expected[name] for name in found}, tolerance("float64"))
    assert layer.weight is layer.frozen_weight
    assert_close(differentiated(layer.unfreeze(), x), expected, 0)


@pytest.mark.parametrize("kind", ["Linear", "Conv2d"])
def test_a_weight_can_be_kept_in_another_number_type(kind: str) -> None:
    name, arguments, shape = LARGE[kind]
    layer = getattr(adntn_torch, name)(**arguments, topology=TANH, seed=0).eval()
    x = random(*shape, dtype=torch.float32)
    y = layer.freeze(torch.bfloat16)(x.bfloat16())
    assert layer.frozen_weight.dtype == y.dtype == torch.bfloat16
    assert layer.bias.dtype == torch.float32
    assert relative_error(y.detach().float(), layer.unfreeze()(x).detach()) <= 4 * EPSILON["bfloat16"]


def test_a_kept_weight_is_no_part_of_the_state(frozen: adntn_torch.Linear) -> None:
    assert frozen.state_dict().keys() == frozen.unfreeze().state_dict().keys()


def test_a_kept_weight_follows_new_cores(frozen: adntn_torch.Linear) -> None:
    other, x = linear("materialise", seed=1), random(3, 256)
    with torch.no_grad():
        other.bias.copy_(frozen.bias)
    expected = other(x).detach()
    frozen.load_cores(dict(other.cores.items()))
    assert frozen.frozen_weight is not None
    assert relative_error(frozen(x).detach(), expected) <= tolerance("float64")
    before = frozen.frozen_weight
    frozen.reset_parameters(seed=2)
    assert not torch.equal(frozen.frozen_weight, before)
    assert torch.equal(frozen.frozen_weight, linear(frozen.schedule, seed=2).weight)
    frozen.load_state_dict(other.state_dict())
    assert frozen.frozen_weight is None
    assert relative_error(frozen(x).detach(), expected) <= tolerance("float64")


def test_a_kept_weight_moves_with_the_layer(frozen: adntn_torch.Linear) -> None:
    x = random(3, 256)
    expected = frozen(x).detach()
    single = frozen.to(torch.float32)
    assert relative_error(single(x.float()).detach().double(), expected) <= tolerance("float32")
    assert frozen.to("meta")(x.to("meta", torch.float32)).shape == (3, 300)


def test_a_weight_kept_in_inference_mode_serves_outside(schedule: str) -> None:
    layer, x = linear(schedule).eval(), random(3, 256)
    with torch.inference_mode():
        layer.freeze()
    differentiated(layer, x)


def test_a_frozen_layer_says_so(frozen: adntn_torch.Linear) -> None:
    assert repr(frozen).endswith("frozen)")
    assert "frozen" not in repr(frozen.unfreeze())


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_frozen_layers_become_dense_ones_with_a_weight_of_their_own(
    frozen: adntn_torch.Linear, dtype: torch.dtype | None
) -> None:
    x = random(3, 256)
    expected = linear("materialise")(x).detach()
    for made in (frozen.freeze(dtype).to_dense(), adntn_torch.expand(nn.Sequential(frozen))[0]):
        assert type(made) is nn.Linear
        assert made.bias is frozen.bias
        assert relative_error(made(x).detach(), expected) <= tolerance("float64")
        with torch.no_grad():
            made.weight.zero_()
    assert frozen.frozen_weight.any()


def test_a_frozen_layer_in_training_warns_that_it_learns_nothing(frozen: adntn_torch.Linear) -> None:
    x = random(3, 256)
    with pytest.warns(UserWarning, match=r"frozen Linear.*unfreeze\(\) it"):
        frozen.train()(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.no_grad():
            frozen(x)
        frozen.eval()(x)
        frozen.train().cores.requires_grad_(False)
        frozen(x)


@pytest.mark.parametrize(("dtype", "got"), [("bfloat16", "'bfloat16'"), (torch.int8, "torch.int8")])
def test_a_weight_is_not_kept_in_what_is_no_number_type_for_it(dtype: Any, got: str) -> None:
    layer = linear("auto")
    with pytest.raises(TypeError, match=f"dtype must be a floating-point type such as torch.bfloat16.*{got}"):
        layer.freeze(dtype)
    assert layer.frozen_weight is None
