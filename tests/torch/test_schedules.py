"""Every schedule of a layer is the same function: that of torch's dense layer with the generated weight."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import relative_error, tolerance
from matrix import LAYER_TOPOLOGIES
from scheduled import LARGE, LINEAR_AT_LAST, TANH, assert_close, dense, differentiated, linear, random
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import adntn
import adntn_torch
from adntn.generator import TILED
from adntn.program.contract import why_not_contract
from adntn.verification.tolerance import EPSILON
from adntn_torch.spares import SPARES

#: Those that torch differentiates through functions of the library that write in place, or run twice.
IN_PLACE = ("recompute", "stream")
#: For tests of linear layers alone, which have all of them.
OF_LINEAR = pytest.mark.parametrize("schedule", ["auto", "materialise", *IN_PLACE, "contract"])
MERA = adntn.MERA.options(bond=2, mixing_activation="tanh")

pytestmark = pytest.mark.usefixtures("_small_cache")


def tiles(layer: adntn_torch.GeneratedLayer, rows: int = 6) -> float:
    """How many tiles the layer's weight is cut into."""
    return layer.generator.shape[0] / layer.choice(rows).taken.plan.tile_rows


def test_every_schedule_is_the_dense_layer(
    built: tuple[adntn_torch.GeneratedLayer, nn.Module, Tensor], schedule: str
) -> None:
    layer, _, x = built
    if isinstance(layer, adntn_torch.BatchedLinear | adntn_torch.Embedding):
        pytest.skip("it has schedules of its own, which its own tests try")
    layer.schedule = schedule if layer.streams or schedule != "stream" else "recompute"
    assert_close(differentiated(layer, x), dense(layer, x), tolerance("float64"))


@pytest.mark.parametrize("schedule", ["auto", "materialise", *IN_PLACE])
@pytest.mark.parametrize("kind", LARGE)
def test_every_schedule_of_a_large_layer_is_the_dense_layer(kind: str, schedule: str) -> None:
    name, arguments, shape = LARGE[kind]
    if schedule == "stream" and "groups" in arguments:
        pytest.skip("convolutions with groups do not stream; another test shows their error")
    torch.manual_seed(0)
    layer = getattr(adntn_torch, name)(**arguments, topology=MERA, schedule=schedule, seed=0, dtype=torch.float64)
    assert layer.generator.network.layout.size > TILED
    assert tiles(layer) > 2
    x = random(*shape)
    assert_close(differentiated(layer, x), dense(layer, x), tolerance("float64"))


@pytest.mark.parametrize("schedule", ["auto", "materialise", *IN_PLACE])
@pytest.mark.parametrize("kind", ["Linear", "Conv2d"])
def test_every_topology_has_every_schedule(topology: adntn.Options, kind: str, schedule: str) -> None:
    name, arguments, shape = LARGE[kind]
    torch.manual_seed(0)
    layer = getattr(adntn_torch, name)(**arguments, topology=topology, schedule=schedule, seed=0, dtype=torch.float64)
    x = random(*shape)
    assert_close(differentiated(layer, x), dense(layer, x), tolerance("float64"))


def test_every_topology_without_an_activation_on_its_weight_can_be_contracted(topology: adntn.Options) -> None:
    if reason := why_not_contract(topology((300, 256)).network):
        pytest.skip(f"contracting {reason}")
    layer, x = linear("contract", topology=topology), random(2, 3, 256)
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


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("kind", LARGE)
def test_reports_of_generators_are_of_layers(kind: str, dtype: str, training: bool) -> None:
    name, arguments, _ = LARGE[kind]
    own = getattr(torch, dtype)
    layer = getattr(adntn_torch, name)(**arguments, topology=LINEAR_AT_LAST, schedule="recompute", dtype=own)
    for rows in (1, 33, 5000):
        report = layer.generator.report(
            own.itemsize, rows=rows, training=training, schedule="recompute", backend="torch"
        )
        assert report.choice is not None
        assert report.choice.taken == layer.choice(rows, training).taken
    if kind == "Linear":
        layer.schedule = "auto"
        for rows in (1, 33, 5000):
            report = layer.generator.report(own.itemsize, rows=rows, training=training, backend="torch")
            assert report.choice == layer.choice(rows, training)


def test_complex_layers_have_every_schedule(schedule: str) -> None:
    # no tanh on the weight: of so many numbers some come near a pole, and roundings would count some thousand times
    topology = adntn.TTN.options(bond=4, activation="sin")
    layers = [linear(one, dtype=torch.complex128, topology=topology) for one in ("materialise", schedule)]
    x = random(3, 256, dtype=torch.complex128) / 16

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


@OF_LINEAR
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


@OF_LINEAR
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


@OF_LINEAR
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_inference_has_the_same_outputs(context: Callable[[], Any], schedule: str) -> None:
    layer, x = linear(schedule), random(4, 256)
    expected = layer(x)
    with context():
        y = layer(x)
    assert not y.requires_grad
    assert relative_error(y.detach(), expected.detach()) <= tolerance("float64")


@OF_LINEAR
def test_second_derivatives_are_refused_in_words(schedule: str) -> None:
    layer, x = linear(schedule), random(4, 256).requires_grad_()
    (first,) = torch.autograd.grad(layer(x).square().sum(), layer.cores["top"], create_graph=True)
    with pytest.raises(RuntimeError, match=r'first derivatives only.*differentiation="native"'):
        first.sum().backward()


@OF_LINEAR
def test_outputs_can_be_written_in_place(schedule: str) -> None:
    layer, x = linear(schedule), random(4, 256)
    found = differentiated(layer, x, lambda x: torch.relu_(layer(x)))
    assert_close(found, differentiated(layer, x, lambda x: torch.relu(layer(x))), 0)


@OF_LINEAR
def test_gradients_add_up_over_backward_passes(schedule: str) -> None:
    layer, one, other = linear(schedule), random(4, 256), random(3, 256, seed=1)
    parts = [differentiated(layer, x) for x in (one, other)]
    layer.zero_grad()
    for x in (one, other):
        layer(x).sin().sum().backward()
    for name, parameter in layer.named_parameters():
        assert relative_error(parameter.grad, parts[0][name] + parts[1][name]) <= tolerance("float64")


@OF_LINEAR
def test_one_graph_can_be_gone_back_through_twice(schedule: str) -> None:
    layer, x = linear(schedule), random(4, 256)
    loss = layer(x).sin().sum()
    cores = list(layer.cores.values())
    first = torch.autograd.grad(loss, cores, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(loss, cores)))


@OF_LINEAR
@pytest.mark.parametrize("reentrant", [True, False])
def test_layers_can_be_checkpointed(reentrant: bool, schedule: str) -> None:
    layer, x = linear(schedule), random(4, 256)
    found = differentiated(layer, x, lambda x: checkpoint(layer, x, use_reentrant=reentrant))
    # reentrant, the first pass is one without gradients, for which other tiles may be chosen
    assert_close(found, differentiated(layer, x), tolerance("float64") if reentrant else 0)


@OF_LINEAR
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


@pytest.mark.parametrize(
    ("kind", "shape"), [("Linear", ()), ("Linear", (4, 7)), ("Conv2d", (2, 7, 9, 9)), ("Conv2d", (64,))]
)
def test_x_of_another_shape_is_refused(kind: str, shape: tuple[int, ...], schedule: str) -> None:
    name, arguments, _ = LARGE[kind]
    layer = getattr(adntn_torch, name)(**arguments, topology=TANH, schedule=schedule, seed=0)
    ours = kind == "Linear" and schedule != "recompute"  # else it is torch that refuses
    words = re.escape(f"x must have the shape (..., 250), got {shape}") if ours else None
    with pytest.raises(RuntimeError, match=words):
        layer(torch.zeros(shape))


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


@pytest.mark.parametrize("kind", ["Linear", "Conv2d"])
def test_parameters_put_in_for_one_call_get_its_gradients(kind: str, schedule: str) -> None:
    name, arguments, shape = LARGE[kind]
    torch.manual_seed(0)
    layer, twin = (
        getattr(adntn_torch, name)(**arguments, topology=TANH, schedule=schedule, seed=seed, dtype=torch.float64)
        for seed in (0, 1)
    )
    given = {name: parameter.detach().clone().requires_grad_() for name, parameter in twin.named_parameters()}
    x = random(*shape).requires_grad_()
    y = functional_call(layer, given, (x,))
    gradients = torch.autograd.grad(y.sin().sum(), [x, *given.values()])
    found = {"y": y.detach(), **dict(zip(("x", *given), gradients, strict=True))}
    assert_close(found, differentiated(twin, x), 0)


def test_torch_compile_needs_no_graph_break(schedule: str) -> None:
    torch.compiler.reset()
    layer, x = linear(schedule), random(3, 256)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_close(differentiated(layer, x, compiled), differentiated(layer, x), tolerance("float64"))


@OF_LINEAR
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_torch_jit_traces_every_schedule_as_it_traces_a_weight(schedule: str) -> None:
    layer, x = linear(schedule), random(3, 256)
    traced = torch.jit.trace(layer, x, check_trace=False)
    assert relative_error(traced(2 * x).detach(), layer(2 * x).detach()) <= tolerance("float64")


def test_rows_of_another_length_are_refused_where_x_is_contracted() -> None:
    with pytest.raises(RuntimeError, match=r"x must have the shape \(\.\.\., 256\), got \(4, 7\)"):
        linear("contract")(random(4, 7))


@OF_LINEAR
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


class Peak(Allocations):
    """The most bytes that torch's functions have made and that are there at once, beside tensors of the caller's."""

    def __init__(self, *others: Tensor) -> None:
        super().__init__()
        self.others = {tensor.untyped_storage()._cdata for tensor in others}
        self.there: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = super().__torch_dispatch__(function, types, args, kwargs)
        new = {one.cdata: (one, size) for one, size in self.made if one.cdata not in self.there.keys() | self.others}
        self.made.clear()
        if new:
            self.there = {key: own for key, own in (self.there | new).items() if not own[0].expired()}
            self.peak = max(self.peak, sum(size for _, size in self.there.values()))
        return made


#: The class, its arguments, and the shape of an input: of 2^18 weights, and few other numbers.
LIMITED: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], int]] = {
    "Linear": ("Linear", (512, 512), (8, 512), 8),
    "small Linear": ("Linear", (128, 256), (8, 128), 8),
    "Conv2d": ("Conv2d", (128, 128, 4), (1, 128, 4, 4), 16),
    "ConvTranspose2d": ("ConvTranspose2d", (128, 128, 4), (1, 128, 1, 1), 1),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("schedule", ["materialise", *IN_PLACE])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", LIMITED)
def test_no_layer_holds_more_than_its_limit(kind: str, dtype: str, schedule: str, training: bool) -> None:
    if (kind, schedule) == ("ConvTranspose2d", "stream"):
        pytest.skip("transposed convolutions do not stream")
    name, sizes, shape, rows = LIMITED[kind]
    own = getattr(torch, dtype)
    layer = getattr(adntn_torch, name)(*sizes, topology=TANH, schedule=schedule, memory_limit=1, seed=0, dtype=own)
    with pytest.raises(ValueError, match="the least that works is ") as error:
        layer.choice(rows, training)
    layer.memory_limit = int(str(error.value).rpartition("works is ")[2].partition(" ")[0].replace(",", ""))
    x = random(*shape, dtype=own).requires_grad_(training)
    with torch.set_grad_enabled(training), Peak(x, *layer.parameters()) as held:
        y = layer(x)
        if training:
            y.sum().backward()
    theirs = [y, *((y, x.grad, *(one.grad for one in layer.parameters())) if training else ())]  # y_bar is as y is
    assert held.peak <= layer.memory_limit + sum(tensor.nbytes for tensor in theirs)


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


@pytest.mark.parametrize("topology", BOUNDED.values(), ids=BOUNDED)
def test_a_materialised_linear_layer_makes_its_weight_once_and_never_its_gradient(
    topology: adntn.Options,
) -> None:
    layer = adntn_torch.Linear(1024, 2048, topology=topology, schedule="materialise", seed=0)
    weight = 4 * layer.generator.network.layout.size
    with Allocations() as allocations:
        layer(random(8, 1024, dtype=torch.float32).requires_grad_()).sum().backward()
    assert len({storage.cdata for storage, size in allocations.made if size > weight / 2}) == 1
    assert allocations.held < weight / 2  # its memory waits for the next step
    with Allocations() as again:
        layer(random(8, 1024, dtype=torch.float32).requires_grad_()).sum().backward()
    assert again.largest >= weight


def test_the_memory_of_a_weight_is_used_again_but_not_while_its_graph_lives() -> None:
    layer, x = linear("materialise"), random(4, 256).requires_grad_()
    size = 8 * layer.generator.network.layout.size
    SPARES.clear()
    first, second = layer(x), layer(2 * x)
    (once,) = torch.autograd.grad(first.sin().sum(), x, retain_graph=True)
    third = layer(3 * x)
    (again,) = torch.autograd.grad(first.sin().sum(), x)
    assert torch.equal(once, again)
    for y in (second, third):
        y.sum().backward()
    del first, second, third, y
    assert SPARES.bytes == 3 * size  # as many as were in use at the same time
    for _ in range(2):
        with Allocations() as allocations:
            layer(x).sum().backward()
        assert SPARES.bytes == size  # as many as were in use in the last pass
    places = {storage.cdata for storage, made in allocations.made if made == size}
    assert len(places) == 1
    for one in (lambda: layer(x), lambda: layer(2 * x)):  # made again in the backward pass, one after the other
        checkpoint(one, use_reentrant=False).sum().backward()
    assert SPARES.bytes == size
    layer.freeze()
    assert SPARES.bytes == 0


def test_memory_comes_back_to_whoever_needs_that_size_next() -> None:
    layers = [linear("materialise", seed=seed) for seed in (0, 1)]
    SPARES.clear()
    for layer in layers:
        layer(random(4, 256)).sum().backward()
    assert SPARES.bytes == 8 * layers[0].generator.network.layout.size


@pytest.mark.parametrize("kind", ["Linear", "Conv2d"])
def test_cores_may_lie_in_memory_in_any_order(kind: str, schedule: str) -> None:
    name, arguments, shape = LARGE[kind]
    topology = adntn.TTN.options(bond=4, arity=3, last_activation="tanh" if schedule != "contract" else "identity")
    layer = getattr(adntn_torch, name)(**arguments, topology=topology, schedule=schedule, seed=0, dtype=torch.float64)
    x = random(*shape)
    expected = differentiated(layer, x)
    for core in layer.cores.values():
        turned = tuple(reversed(range(core.dim())))
        core.data = core.data.permute(turned).contiguous().permute(turned)
    assert any(not core.is_contiguous() for core in layer.cores.values())
    assert_close(differentiated(layer, x), expected, tolerance("float64"))


@pytest.mark.parametrize("kind", ["Linear", "Conv2d"])
def test_a_backward_pass_inside_autocast_is_that_of_the_forward_pass(kind: str, schedule: str) -> None:
    name, arguments, shape = LARGE[kind]
    layer = getattr(adntn_torch, name)(**arguments, topology=TANH, schedule=schedule, seed=0)
    x = random(*shape, dtype=torch.float32).requires_grad_()
    loss = layer(x).sin().sum()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss.backward()
    found = {"x": x.grad, **{name: one.grad for name, one in layer.named_parameters()}}
    expected = differentiated(layer, x)
    expected.pop("y")
    ours = kind == "Linear" and schedule != "recompute"  # torch runs its own backward passes as autocast says
    assert_close(found, expected, tolerance("float32") if ours else 8 * EPSILON["bfloat16"])


def test_streamed_convolutions_add_up_in_double_the_bits() -> None:
    errors = {}
    for schedule in ("materialise", "stream"):
        torch.manual_seed(0)
        layer = adntn_torch.Conv2d(64, 256, 3, topology=TANH, schedule=schedule, seed=0, dtype=torch.bfloat16)
        x = random(4, 64, 9, 9, dtype=torch.bfloat16)
        expected, found = dense(layer, x)["x"], differentiated(layer, x)["x"]
        errors[schedule] = relative_error(found.double(), expected)
    assert errors["stream"] < 2 * errors["materialise"]  # each share is rounded once


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


@pytest.mark.parametrize("rows", [-1, 1.5, "32"])
def test_a_choice_is_for_a_number_of_rows(rows: Any) -> None:
    with pytest.raises(ValueError, match=f"rows must be an integer, and not negative, got {rows!r}"):
        linear("auto").choice(rows)


def test_what_is_set_later_is_checked_when_x_arrives() -> None:
    layer, x = linear("auto"), random(4, 256)
    layer.schedule = "strem"
    with pytest.raises(ValueError, match=r"schedule must be one of auto, .*got 'strem'"):
        layer(x)
    layer.schedule, layer.memory_limit = "auto", -5
    with pytest.raises(ValueError, match="memory_limit must be a positive number of bytes, or None, got -5"):
        layer(x)


def test_convolutions_with_groups_do_not_stream() -> None:
    with pytest.raises(ValueError, match=r'schedule must not be "stream" for a convolution with groups; "recompute"'):
        adntn_torch.Conv2d(4, 8, 3, groups=2, schedule="stream")
    with pytest.raises(ValueError, match=r'schedule must not be "stream" for a transposed convolution; "recompute"'):
        adntn_torch.ConvTranspose2d(4, 8, 3, schedule="stream")
    grouped = adntn_torch.Conv2d(4, 8, 3, groups=2, memory_limit=10**6)
    assert "stream" not in {one.schedule for one in grouped.choice(4).forecasts}


@pytest.mark.parametrize(("channels", "size"), [(64, 32), (128, 16), (256, 8), (512, 4)])
def test_a_convolution_is_materialised_and_streamed_in_a_few_parts(channels, size, monkeypatch):
    topology = adntn.TTN.options(bond=16, activation="tanh")
    layer = adntn_torch.Conv2d(channels, channels, 3, padding=1, topology=topology, seed=0)
    choice = layer.choice(rows=100 * size**2)
    assert choice.taken.schedule == "materialise"
    # a dense one holds weight and gradient, and both once more as its library lays them out; or little in all
    assert choice.taken.bytes <= max(4 * 4 * 9 * channels**2, 2**22)

    calls = []

    def counted(*given):
        calls.append(given)
        return nn.functional.conv2d(*given)

    layer.schedule = "stream"
    monkeypatch.setattr(adntn_torch.Conv2d, "convolve", staticmethod(counted))
    layer(torch.zeros(100, channels, size, size)).sum().backward()
    assert len(calls) < 1_100  # not one for each example and tile: each takes about a millisecond beyond its operations
