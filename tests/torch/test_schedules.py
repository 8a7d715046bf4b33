"""Every schedule of a layer is the same function: that of torch's dense layer with the generated weight."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import reference_weight, relative_error, tolerance
from matrix import LAYER_TOPOLOGIES
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import adntn
import adntn_torch
from adntn.generator import TILED
from adntn.machine import DEFAULT
from adntn.verification.tolerance import EPSILON

SCHEDULES = ("auto", "materialise", "recompute", "stream")
#: Those that torch differentiates through functions of the library that write in place, or run twice.
IN_PLACE = ("recompute", "stream")
TANH = adntn.TTN.options(bond=2, activation="tanh", last_activation="tanh")
MERA = adntn.MERA.options(bond=2, mixing_activation="tanh")

#: The class, its arguments, and the shape of an input: weights of fewer and of more numbers than are made in one piece.
LARGE: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "Linear": ("Linear", {"in_features": 250, "out_features": 300}, (2, 3, 250)),
    "Conv1d": ("Conv1d", {"in_channels": 96, "out_channels": 140, "kernel_size": 5}, (2, 96, 9)),
    "Conv2d": (
        "Conv2d",
        {"in_channels": 64, "out_channels": 120, "kernel_size": 3, "stride": (2, 1), "padding": 1},
        (3, 64, 5, 4),
    ),
    "Conv2d, groups": (
        "Conv2d",
        {"in_channels": 128, "out_channels": 120, "kernel_size": 3, "groups": 2},
        (2, 128, 3, 4),
    ),
    "Conv2d, circular": (
        "Conv2d",
        {"in_channels": 64, "out_channels": 120, "kernel_size": 3, "padding": 1, "padding_mode": "circular"},
        (64, 4, 4),
    ),
    "Conv3d": (
        "Conv3d",
        {"in_channels": 32, "out_channels": 100, "kernel_size": (2, 3, 4), "bias": False},
        (1, 32, 3, 4, 5),
    ),
}


@pytest.fixture(autouse=True)
def _small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine for which tiles are cut out of small weights too."""
    for module in ("adntn_torch.generated", "adntn.generator"):
        monkeypatch.setattr(f"{module}.machine", lambda *asked: replace(DEFAULT, cache_bytes=2**14))


@pytest.fixture(params=SCHEDULES)
def schedule(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=IN_PLACE)
def in_place(request: pytest.FixtureRequest) -> str:
    return request.param


def linear(schedule: str, inputs: int = 256, outputs: int = 300, **keywords: Any) -> adntn_torch.Linear:
    """A layer whose weight, with these sizes, is made in tiles."""
    torch.manual_seed(0)  # of the bias
    given = {"topology": TANH, "seed": 0, "dtype": torch.float64} | keywords
    return adntn_torch.Linear(inputs, outputs, schedule=schedule, **given)


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def tiles(layer: adntn_torch.GeneratedLayer, rows: int = 6) -> float:
    """How many tiles the layer's weight is cut into."""
    return layer.generator.shape[0] / layer.choice(rows).taken.plan.tile_rows


def differentiated(layer: nn.Module, x: Tensor, run: Callable[[Tensor], Tensor] | None = None) -> dict[str, Tensor]:
    """The output and all gradients of a loss that is not linear in it."""
    layer.zero_grad()
    x = x.detach().requires_grad_()
    y = (layer if run is None else run)(x)
    y.sin().sum().backward()
    gradients = {name: one.grad.clone() for name, one in layer.named_parameters() if one.grad is not None}
    return {"y": y.detach(), "x": x.grad, **gradients}


def dense(layer: adntn_torch.GeneratedLayer, x: Tensor) -> dict[str, Tensor]:
    """The same by torch's own layer, whose weight einsum made; its gradient goes into the cores by torch's own AD."""
    kind = getattr(nn, type(layer).__name__)
    arguments = {name: getattr(layer, name) for name in layer.dense_arguments}
    twin = kind(**arguments, bias=layer.bias is not None, dtype=torch.float64)
    cores = {name: core.detach().double().requires_grad_() for name, core in layer.cores.items()}
    arrays = {name: core.detach().numpy() for name, core in cores.items()}
    with torch.no_grad():
        twin.weight.copy_(torch.from_numpy(reference_weight(layer.generator, arrays)))
        if layer.bias is not None:
            twin.bias.copy_(layer.bias)
    found = differentiated(twin, x.double())
    bars = torch.autograd.grad(layer.generator.weight(cores), list(cores.values()), found.pop("weight"))
    return found | {f"cores.{name}": bar for name, bar in zip(cores, bars, strict=True)}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], within: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape, name
        assert relative_error(found[name].double(), tensor.double()) <= within, name


def test_every_schedule_is_the_dense_layer(
    built: tuple[adntn_torch.GeneratedLayer, nn.Module, Tensor], schedule: str
) -> None:
    layer, _, x = built
    layer.schedule = schedule if layer.streams or schedule != "stream" else "recompute"
    assert_close(differentiated(layer, x), dense(layer, x), tolerance("float64"))


@pytest.mark.parametrize("schedule", ["auto", *IN_PLACE])
@pytest.mark.parametrize("kind", LARGE)
def test_every_schedule_of_a_large_layer_is_the_dense_layer(kind: str, schedule: str) -> None:
    name, arguments, shape = LARGE[kind]
    if schedule == "stream" and "groups" in arguments:
        pytest.skip("convolutions with groups do not stream, which a test of errors shows")
    torch.manual_seed(0)
    layer = getattr(adntn_torch, name)(**arguments, topology=MERA, schedule=schedule, seed=0, dtype=torch.float64)
    assert layer.generator.network.layout.size > TILED
    assert tiles(layer) > 2
    x = random(*shape)
    assert_close(differentiated(layer, x), dense(layer, x), tolerance("float64"))


@pytest.mark.parametrize("schedule", ["auto", *IN_PLACE])
@pytest.mark.parametrize("kind", ["Linear", "Conv2d"])
def test_every_topology_has_every_schedule(topology: adntn.Options, kind: str, schedule: str) -> None:
    name, arguments, shape = LARGE[kind]
    torch.manual_seed(0)
    layer = getattr(adntn_torch, name)(**arguments, topology=topology, schedule=schedule, seed=0, dtype=torch.float64)
    x = random(*shape)
    assert_close(differentiated(layer, x), dense(layer, x), tolerance("float64"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["Linear", "Conv2d"])
def test_every_number_type_has_every_schedule(kind: str, dtype: str, schedule: str) -> None:
    name, arguments, shape = LARGE[kind]
    own = getattr(torch, dtype)
    layer = getattr(adntn_torch, name)(**arguments, topology=TANH, schedule=schedule, seed=0, dtype=own)
    x = random(*shape, dtype=own)
    found = differentiated(layer, x)
    assert {tensor.dtype for tensor in found.values()} == {own}
    within = tolerance(dtype) if dtype == "float32" else 8 * EPSILON[dtype]  # rounded: weight, product, loss, gradient
    assert_close(found, dense(layer, x), within)


def test_complex_layers_have_every_schedule(schedule: str) -> None:
    layers = [linear(one, dtype=torch.complex128) for one in ("materialise", schedule)]
    x = random(3, 256, dtype=torch.complex128)

    def outputs(layer: nn.Module) -> dict[str, Tensor]:
        return differentiated(layer, x, lambda x: torch.view_as_real(layer(x)))

    assert_close(outputs(layers[1]), outputs(layers[0]), tolerance("complex128"))


@pytest.mark.parametrize("kind", ["Linear", "Conv2d"])
def test_autocast_multiplies_in_short_numbers_in_every_schedule(kind: str, schedule: str) -> None:
    name, arguments, shape = LARGE[kind]
    layer = getattr(adntn_torch, name)(**arguments, topology=TANH, schedule=schedule, seed=0)

    def run(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = layer(x)
        assert y.dtype == torch.bfloat16
        return y.float()

    x = random(*shape, dtype=torch.float32)
    found = differentiated(layer, x, run)
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert_close(found, dense(layer, x), 8 * EPSILON["bfloat16"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x.half()).dtype == torch.bfloat16


@pytest.mark.parametrize("batch", [(), (0,), (1,), (2, 0, 3), (2, 1, 2)], ids=str)
def test_x_may_have_any_batch(batch: tuple[int, ...], schedule: str) -> None:
    layer = linear(schedule)
    x = random(*batch, 256)
    assert_close(differentiated(layer, x), dense(layer, x), tolerance("float64"))


def test_an_empty_batch_of_images_gives_zero_gradients(schedule: str) -> None:
    layer = adntn_torch.Conv2d(64, 120, 3, stride=2, topology=TANH, schedule=schedule, seed=0)
    found = differentiated(layer, torch.zeros(0, 64, 9, 7))
    assert found["y"].shape == (0, 120, 4, 3)
    assert found["x"].shape == (0, 64, 9, 7)
    assert {f"cores.{name}" for name in layer.cores} <= found.keys()
    assert not any(tensor.any() for tensor in found.values())


def test_what_is_frozen_or_not_asked_for_gets_no_gradient(schedule: str) -> None:
    layer, x = linear(schedule), random(4, 256)
    every = differentiated(layer, x)
    layer(x).sin().sum().backward()
    assert x.grad is None
    for frozen in ("bias", "cores.top", "cores.scale"):
        layer.get_parameter(frozen).requires_grad_(False)
        found = differentiated(layer, x)
        assert frozen not in found
        assert_close(found, {name: tensor for name, tensor in every.items() if name in found}, 0)
    layer.requires_grad_(False)
    assert differentiated(layer, x).keys() == {"y", "x"}
    assert not layer(x).requires_grad


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_inference_has_the_same_outputs(context: Callable[[], Any], schedule: str) -> None:
    layer, x = linear(schedule), random(4, 256)
    expected = layer(x)
    with context():
        y = layer(x)
    assert not y.requires_grad
    assert relative_error(y.detach(), expected.detach()) <= tolerance("float64")


def test_second_derivatives_are_refused_in_words(schedule: str) -> None:
    layer, x = linear(schedule), random(4, 256).requires_grad_()
    (first,) = torch.autograd.grad(layer(x).square().sum(), layer.cores["top"], create_graph=True)
    with pytest.raises(RuntimeError, match=r'first derivatives only.*differentiation="native"'):
        first.sum().backward()


def test_gradients_add_up_over_backward_passes(schedule: str) -> None:
    layer, one, other = linear(schedule), random(4, 256), random(3, 256, seed=1)
    parts = [differentiated(layer, x) for x in (one, other)]
    layer.zero_grad()
    for x in (one, other):
        layer(x).sin().sum().backward()
    for name, parameter in layer.named_parameters():
        assert relative_error(parameter.grad, parts[0][name] + parts[1][name]) <= tolerance("float64")


def test_one_graph_can_be_gone_back_through_twice(schedule: str) -> None:
    layer, x = linear(schedule), random(4, 256)
    loss = layer(x).sin().sum()
    cores = list(layer.cores.values())
    first = torch.autograd.grad(loss, cores, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(loss, cores)))


@pytest.mark.parametrize("reentrant", [True, False])
def test_layers_can_be_checkpointed(reentrant: bool, schedule: str) -> None:
    layer, x = linear(schedule), random(4, 256)
    found = differentiated(layer, x, lambda x: checkpoint(layer, x, use_reentrant=reentrant))
    assert_close(found, differentiated(layer, x), 0)


def test_cores_changed_between_the_passes_are_noticed(schedule: str) -> None:
    layer, x = linear(schedule), random(4, 256)
    loss = layer(x).sin().sum()
    with torch.no_grad():
        layer.cores["top"].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("kind", ["Linear", "Conv2d"])
def test_x_of_another_number_type_is_refused_as_torch_does(kind: str, schedule: str) -> None:
    name, arguments, shape = LARGE[kind]
    layer = getattr(adntn_torch, name)(**arguments, topology=TANH, schedule=schedule, seed=0)
    with pytest.raises(RuntimeError, match=r"(float|Float|double|Double)"):
        layer(random(*shape))


def test_functional_transforms_work_with_every_schedule(schedule: str) -> None:
    layer, x = linear(schedule), random(3, 256)
    parameters = {name: parameter.detach() for name, parameter in layer.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(layer, parameters, (x,)).sin().sum()

    expected = differentiated(layer, x)
    each = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for name, gradient in grad(loss)(parameters, x).items():
        assert relative_error(gradient, expected[name]) <= tolerance("float64")
        assert relative_error(each[name].sum(0), expected[name]) <= tolerance("float64")
    called = functional_call(layer, parameters, (x,))
    assert relative_error(called.detach(), expected["y"]) <= tolerance("float64")


def test_torch_compile_needs_no_graph_break(schedule: str) -> None:
    torch.compiler.reset()
    layer, x = linear(schedule), random(3, 256)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_close(differentiated(layer, x, compiled), differentiated(layer, x), tolerance("float64"))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize("frozen", [False, True])
def test_copies_keep_schedule_and_limit(copied: Callable[[Any], Any], frozen: bool, schedule: str) -> None:
    layer, x = linear(schedule, memory_limit=10**8), random(3, 256)
    expected = differentiated(layer, x)
    layer.freeze() if frozen else layer(x)
    twin = copied(layer)
    assert (twin.schedule, twin.memory_limit) == (schedule, 10**8)
    assert torch.equal(twin.eval()(x), layer.eval()(x))
    assert_close(differentiated(twin.unfreeze(), x), expected, 0)


def test_state_dicts_do_not_depend_on_the_schedule(schedule: str) -> None:
    source, target = linear("materialise"), linear(schedule, seed=1)
    assert source.state_dict().keys() == target.state_dict().keys()
    target.load_state_dict(source.state_dict())
    x = random(3, 256)
    assert relative_error(target(x).detach(), source(x).detach()) <= tolerance("float64")


class Allocations(TorchDispatchMode):
    """The bytes of all that torch's functions return, and of what of it is still there."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[StorageWeakRef, int]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and not tensor.is_meta:
                storage = tensor.untyped_storage()
                self.made.append((StorageWeakRef(storage), storage.nbytes()))
        return made

    @property
    def largest(self) -> int:
        return max(size for _, size in self.made)

    @property
    def held(self) -> int:
        return max(size for storage, size in self.made if not storage.expired())


#: Those whose states before the last block are small; with an activation in front of disentanglers they are not.
BOUNDED: dict[str, adntn.Options] = {
    "TTN": adntn.TTN.options(bond=2),
    "TTN, activation on the weight": TANH,
    "TTN, shared, gelu": LAYER_TOPOLOGIES["TTN, shared, gelu"],
    "AugmentedTTN": adntn.AugmentedTTN.options(bond=2, last_activation="tanh"),
    "MERA": adntn.MERA.options(bond=4),
    **{name: LAYER_TOPOLOGIES[name] for name in ("TensorTrain", "LowRank", "Tucker")},
}


@pytest.mark.parametrize("topology", BOUNDED.values(), ids=BOUNDED)
@pytest.mark.parametrize("kind", ["Linear", "Conv2d"])
def test_nothing_as_large_as_half_of_a_streamed_weight_is_ever_made(topology: adntn.Options, kind: str) -> None:
    sizes = (1024, 1024) if kind == "Linear" else (256, 480, 3)
    layer = getattr(adntn_torch, kind)(*sizes, topology=topology, schedule="stream", seed=0)
    weight = 4 * layer.generator.network.layout.size
    x = random(8, 1024, dtype=torch.float32) if kind == "Linear" else random(2, 256, 4, 4, dtype=torch.float32)
    with Allocations() as allocations:
        y = layer(x.requires_grad_())
        y.sum().backward()
    assert allocations.largest < weight / 2
    layer.schedule = "materialise"
    with Allocations() as allocations:
        layer(x)
    assert allocations.largest >= weight


@pytest.mark.parametrize("kind", ["Linear", "Conv2d"])
def test_streamed_layers_save_x_and_the_cores_alone(kind: str) -> None:
    name, arguments, shape = LARGE[kind]
    layer = getattr(adntn_torch, name)(**arguments, topology=TANH, schedule="stream", seed=0)
    saved: list[Tensor] = []
    x = random(*shape, dtype=torch.float32).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda saved: saved):
        layer(x)
    expected = [x, *layer.cores.values()]
    assert sorted(tensor.data_ptr() for tensor in saved) == sorted(tensor.data_ptr() for tensor in expected)


@pytest.mark.parametrize(("schedule", "holds"), [("materialise", True), ("recompute", False), ("stream", False)])
def test_only_a_materialised_weight_is_held_between_the_passes(schedule: str, holds: bool) -> None:
    layer = linear(schedule, dtype=torch.float32)
    x = random(4, 256, dtype=torch.float32).requires_grad_()
    with Allocations() as allocations:
        y = layer(x)
    assert (allocations.held >= 4 * 256 * 300) == holds
    y.sum().backward()


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


@pytest.mark.parametrize("limited", ["materialise", "recompute", "stream", "auto"])
def test_a_limit_too_small_names_the_least_that_works(limited: str) -> None:
    layer, x = linear(limited, memory_limit=1000), random(4, 256)
    with pytest.raises(ValueError, match=r"memory_limit=1,000 bytes is too little .*the least that works is ") as error:
        layer(x)
    least = int(str(error.value).rpartition("works is ")[2].partition(" ")[0].replace(",", ""))
    layer.memory_limit = least
    layer(x).sum().backward()
    layer.memory_limit = least - 1
    with pytest.raises(ValueError, match=f"the least that works is {least:,}"):
        layer(x)


def test_a_small_limit_makes_auto_stream() -> None:
    layer = linear("auto", memory_limit=linear("materialise").choice(4).taken.bytes // 2)
    assert layer.choice(4).taken.schedule == "stream"
    assert str(layer.choice(4)).startswith("stream, the fastest predicted within the limit of")
    x = random(4, 256)
    assert_close(differentiated(layer, x), dense(layer, x), tolerance("float64"))


@pytest.mark.parametrize(
    ("keywords", "reason"),
    [
        ({"differentiation": "native"}, "materialise, as torch differentiates it"),
        ({"engine": "numpy"}, "materialise, as the engine 'numpy' makes it"),
        ({"schedule": "stream"}, "stream, as asked for"),
        ({}, "materialise, as all of less than 65,536 weights"),
    ],
)
def test_the_choice_is_what_happens_and_says_why(keywords: dict[str, Any], reason: str) -> None:
    layer = adntn_torch.Linear(64, 64, seed=0, **keywords)
    assert str(layer.choice(4)).startswith(reason)


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"schedule": "tiles"}, ValueError, "materialise, recompute, stream, contract, got 'tiles'"),
        ({"schedule": "stream", "differentiation": "native"}, ValueError, r"differentiation='native', got 'stream'"),
        ({"schedule": "recompute", "differentiation": "native"}, ValueError, "differentiation='native', got 'rec"),
        ({"schedule": "stream", "engine": "numpy"}, ValueError, "engine='numpy', got 'stream'"),
        ({"schedule": "recompute", "engine": "numpy"}, ValueError, "engine='numpy', got 'recompute'"),
        ({"memory_limit": 10**6, "differentiation": "native"}, ValueError, "memory_limit must be None with diff"),
        ({"memory_limit": 10**6, "engine": "numpy"}, ValueError, "memory_limit must be None with engine='numpy'"),
        ({"memory_limit": 0}, ValueError, "memory_limit must be a positive number of bytes, or None, got 0"),
        ({"memory_limit": 1e6}, TypeError, "memory_limit must be an integer number of bytes, or None, got 1000000.0"),
        ({"memory_limit": True}, TypeError, "memory_limit must be an integer .* got True"),
    ],
)
def test_what_does_not_go_together_is_named(keywords: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        adntn_torch.Linear(16, 8, **keywords)


def test_convolutions_with_groups_do_not_stream() -> None:
    with pytest.raises(ValueError, match=r'schedule must not be "stream" for a convolution with groups; "recompute"'):
        adntn_torch.Conv2d(4, 8, 3, groups=2, schedule="stream")
    grouped = adntn_torch.Conv2d(4, 8, 3, groups=2, memory_limit=10**6)
    assert "stream" not in {one.schedule for one in grouped.choice(4).forecasts}
