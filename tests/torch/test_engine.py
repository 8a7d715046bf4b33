"""An engine inside a torch model: the same numbers as torch's own, the same life of a module, memory shared."""

from __future__ import annotations

import copy
import importlib.util
import io
import pickle
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from helpers import needs, relative_error, tolerance
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

import adntn
import adntn_torch
from adntn.arrays import dtype_name
from adntn.backends import Backend
from adntn_torch import engine as engines

ENGINES = ("numpy", "jax", "cupy")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
COMPLEX = (torch.complex64, torch.complex128)
TTN = adntn.TTN.options(bond=2)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine that works here and shares the CPU's memory, or is told to be silent about copies."""
    name = str(request.param)
    needs(name)
    return name


@pytest.fixture(autouse=True)
def _copies_are_announced_elsewhere(request: pytest.FixtureRequest) -> None:
    if "cupy" in request.node.name:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            engines.shares_memory("cupy", torch.device("cpu"))


def assert_near(found: Tensor, expected: Tensor, what: str = "") -> None:
    assert found.dtype == expected.dtype
    assert relative_error(found, expected) <= tolerance(dtype_name(found)), what


def pair(topology: Any, dtype: torch.dtype, engine: str) -> tuple[adntn_torch.Linear, adntn_torch.Linear]:
    """A layer by torch and its copy by the engine."""
    layers = []
    for name in (None, engine):
        torch.manual_seed(0)  # of the bias
        layers.append(adntn_torch.Linear(30, 23, topology=topology, seed=0, dtype=dtype, engine=name))
    return layers[0], layers[1]


def differentiated(layer: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    layer.zero_grad()
    output = layer(x)
    (output * output.conj()).real.float().sum().backward()
    return output.detach(), {name: parameter.grad for name, parameter in layer.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_and_gradients_are_those_of_torch(topology: Any, dtype: torch.dtype, engine: str) -> None:
    own, engined = pair(topology, dtype, engine)
    x = torch.randn(5, 30, generator=torch.Generator().manual_seed(0)).to(dtype)
    (expected, gradients), (found, engine_gradients) = (differentiated(layer, x) for layer in (own, engined))
    assert_near(found, expected)
    assert gradients.keys() == engine_gradients.keys()
    for name, gradient in gradients.items():
        assert_near(engine_gradients[name], gradient, what=name)


@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("options", [TTN, adntn.MERA.options(bond=2), adntn.LowRank.options(rank=2)])
def test_complex_gradients_follow_torchs_convention(options: Any, dtype: torch.dtype, engine: str) -> None:
    own, engined = pair(options, dtype, engine)
    x = torch.randn(5, 30, dtype=dtype, generator=torch.Generator().manual_seed(0))
    (expected, gradients), (found, engine_gradients) = (differentiated(layer, x) for layer in (own, engined))
    assert_near(found, expected)
    for name, gradient in gradients.items():
        assert_near(engine_gradients[name], gradient, what=name)


def test_layers_of_every_kind_take_an_engine(built: Any, engine: str) -> None:
    layer, dense, x = built
    arguments = {name: getattr(layer, name) for name in layer.dense_arguments}
    if layer.has_bias:
        arguments["bias"] = layer.bias is not None
    engined = type(layer)(**arguments, dtype=torch.float64, engine=engine)
    engined.load_state_dict(layer.state_dict())
    assert_near(engined(x), dense(x))
    assert f"engine='{engine}'" in repr(engined)


class Strange(nn.Module):
    """Weights used in ways that hand back gradients of every layout: expanded, transposed, conjugated, sliced."""

    def __init__(self, engine: str | None) -> None:
        super().__init__()
        self.layer = adntn_torch.Linear(12, 8, topology=TTN, seed=0, dtype=torch.complex128, engine=engine)

    def forward(self) -> Tensor:
        weight = self.layer.weight
        return (weight.sum() + weight.mT.conj()[2:5].prod() + weight.imag[1].sum()).abs()


def test_gradients_of_every_layout_come_in(engine: str) -> None:
    results = []
    for name in (None, engine):
        model = Strange(name)
        model().backward()
        results.append({name: core.grad for name, core in model.layer.cores.items()})
    for name, gradient in results[0].items():
        assert_near(results[1][name], gradient, what=name)


def network(engine: str | None, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)).to(dtype)
    adntn_torch.compress(model, {"0": TTN, "3": adntn.MERA.options(bond=2)}, engine=engine)
    return model


IMAGES = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_trains_to_the_same_losses(engine: str, dtype: torch.dtype) -> None:
    labels = torch.arange(8)
    losses: dict[str | None, list[float]] = {}
    for name in (None, engine):
        model = network(name, dtype)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        losses[name] = []
        for _ in range(30):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(model(IMAGES.to(dtype)), labels)
            loss.backward()
            optimiser.step()
            losses[name].append(loss.item())
    assert losses[None][-1] < 0.6 * losses[None][0]
    # roundings of each step are carried on by the next
    np.testing.assert_allclose(losses[engine], losses[None], rtol=30 * tolerance(str(dtype).removeprefix("torch.")))


def pickled(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, saved])
def test_copies_are_equal_and_independent(copied: Callable[[nn.Module], nn.Module], engine: str) -> None:
    model = network(engine)
    expected = model(IMAGES)
    twin = copied(model)
    assert torch.equal(twin(IMAGES), expected)
    with torch.no_grad():
        twin[0].cores["scale"].mul_(2)
    assert torch.equal(model(IMAGES), expected)
    assert not torch.equal(twin(IMAGES), expected)


def test_state_dicts_are_those_of_torchs_layers(engine: str) -> None:
    own, engined = network(None), network(engine)
    assert own.state_dict().keys() == engined.state_dict().keys()
    with torch.no_grad():
        own[3].cores["scale"].mul_(2)
    engined.load_state_dict(own.state_dict(), strict=True)
    assert_near(engined(IMAGES), own(IMAGES))


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_change_as_in_torch(dtype: torch.dtype, engine: str) -> None:
    x = IMAGES.to(dtype)
    (expected, gradients), (found, engine_gradients) = (
        differentiated(network(name).to(dtype), x) for name in (None, engine)
    )
    assert_near(found, expected)
    for name, gradient in gradients.items():
        assert_near(engine_gradients[name], gradient, what=name)


def test_a_layer_may_be_on_the_device_meta(engine: str) -> None:
    layer = adntn_torch.Linear(12, 8, topology=TTN, device="meta", engine=engine)
    assert layer.weight.shape == (8, 12)
    assert layer.weight.is_meta


def test_frozen_cores_get_no_gradient(engine: str) -> None:
    layer = adntn_torch.Linear(12, 8, topology=TTN, engine=engine)
    layer.cores["top"].requires_grad_(False)
    layer(torch.ones(12)).sum().backward()
    assert layer.cores["top"].grad is None
    assert layer.cores["scale"].grad is not None
    with torch.no_grad():
        assert not layer.weight.requires_grad


def test_equal_generators_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def compile(function: Any) -> Any:
        compiled.append(function.__name__)
        return function

    monkeypatch.setattr(engines, "usable_backend", lambda name: Backend(name, compile=compile))
    engines.engine.cache_clear()
    try:
        model = nn.Sequential(*(adntn_torch.Linear(9, 9, topology=TTN, engine="numpy") for _ in range(3)))
        for _ in range(2):
            model(torch.ones(9)).sum().backward()
            copy.deepcopy(model)(torch.ones(9)).sum().backward()
    finally:
        engines.engine.cache_clear()
    assert sorted(compiled) == ["forward", "pullback"]


@pytest.mark.parametrize("last", ["identity", "tanh"])
def test_a_write_into_the_weight_is_seen_or_does_no_harm(last: str, engine: str) -> None:
    """With an activation on the weight, NumPy's weight is the very memory that the backward pass reads."""
    options = adntn.TTN.options(bond=2, last_activation=last)
    layers = [adntn_torch.Linear(8, 8, bias=False, topology=options, seed=0, engine=name) for name in (None, engine)]
    layers[0].weight.mul(2).sum().backward()
    try:
        layers[1].weight.mul_(2).sum().backward()
    except RuntimeError as error:
        assert "modified" in str(error)  # noqa: PT017 (torch may also allow it, if nothing reads that memory)
        return
    for name, core in layers[0].cores.items():
        assert_near(layers[1].cores[name].grad, core.grad, what=name)


def test_memory_is_shared_with_the_engine(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library gets and gives lies where torch's tensors lie, unless a warning said otherwise."""
    if not engines.shares_memory(engine, torch.device("cpu")):
        pytest.skip(f"{engine} does not reach the CPU's memory")
    layer = adntn_torch.Linear(16, 16, topology=TTN, engine=engine)
    inner = layer._engine
    seen: dict[str, int] = {}

    def forward(cores: dict[str, Any]) -> Any:
        seen.update({name: address(core) for name, core in cores.items()})
        weight, residuals = inner.generator.forward(cores)
        seen["weight"] = address(weight)
        return weight, residuals

    monkeypatch.setitem(vars(inner), "_forward", forward)
    weight = layer.weight
    for name, core in layer.cores.items():
        assert seen[name] == core.data_ptr()
    assert seen["weight"] == weight.data_ptr()


def address(array: Any) -> int:
    return array.ctypes.data if isinstance(array, np.ndarray) else array.unsafe_buffer_pointer()


def test_copies_through_the_host_give_the_same_and_are_announced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    own, engined = pair(TTN, torch.float32, "numpy")
    engines.shares_memory.cache_clear()

    def refuse(array: Any) -> Any:
        raise BufferError("no way")

    monkeypatch.setattr(np, "from_dlpack", refuse)
    monkeypatch.setattr("autoray.get_lib_fn", lambda backend, name: getattr(np, name))
    x = torch.randn(5, 30)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (expected, gradients), (found, engine_gradients) = (differentiated(layer, x) for layer in (own, engined))
    engines.shares_memory.cache_clear()
    (message,) = (str(one.message) for one in caught)
    assert "'numpy' cannot share memory with parameters on 'cpu' (no way): every step copies" in message
    assert_near(found, expected)
    for name, gradient in gradients.items():
        assert_near(engine_gradients[name], gradient, what=name)


def test_what_comes_back_through_the_host_may_be_written_to(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX's arrays are read-only on the host, of which torch warns."""
    monkeypatch.setattr(engines, "shares_memory", lambda name, device: False)
    own, engined = pair(TTN, torch.float32, engine)
    x = torch.randn(5, 30, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (expected, gradients), (found, engine_gradients) = (differentiated(layer, x) for layer in (own, engined))
        engined.weight.detach().zero_()
    assert_near(found, expected)
    for name, gradient in gradients.items():
        assert_near(engine_gradients[name], gradient, what=name)


def test_tensors_that_are_not_aligned_are_copied_and_announced_once(engine: str) -> None:
    own, engined = pair(TTN, torch.float32, engine)
    for core in engined.parameters():
        flat = torch.empty(core.numel() + 1)
        core.data = flat[1:].view(core.shape).copy_(core.data)
    engines.announce_unaligned.cache_clear()
    x = torch.randn(5, 30, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            (expected, gradients), (found, engine_gradients) = (differentiated(layer, x) for layer in (own, engined))
    messages = [str(one.message) for one in caught if "start at no multiple" in str(one.message)]
    assert len(messages) == (engine == "jax")
    assert all("'jax'" in message and "multiple of 64 bytes" in message for message in messages)
    assert_near(found, expected)
    for name, gradient in gradients.items():
        assert_near(engine_gradients[name], gradient, what=name)


def test_double_precision_does_not_need_jaxs_switch() -> None:
    jax = pytest.importorskip("jax")
    assert not jax.config.jax_enable_x64
    layer = adntn_torch.Linear(12, 8, topology=TTN, seed=0, dtype=torch.float64, engine="jax")
    layer.weight.sum().backward()
    assert layer.weight.dtype == layer.cores["top"].grad.dtype == torch.float64
    assert not jax.config.jax_enable_x64


def test_a_library_that_silently_rounds_is_refused() -> None:
    """JAX, were it not for the backend's context in which it has float64."""
    pytest.importorskip("jax")
    plain = engines.Engine(adntn.TTN((8, 12)), Backend("jax"))
    cores = plain.generator.init(0, backend="torch", dtype="float64")
    with pytest.raises(ValueError, match=r"'float64' was asked of jax, which gave 'float32'.*jax_enable_x64"):
        plain.forward(cores)


@pytest.mark.parametrize("name", [name for name in ENGINES if importlib.util.find_spec(name) is None])
def test_an_engine_that_is_not_installed_is_named_with_its_extra(name: str) -> None:
    with pytest.raises(ImportError, match=rf"adntn\[{name}\]"):
        adntn_torch.Linear(8, 8, topology=TTN, engine=name)


def test_an_engine_without_a_device_is_refused_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> tuple[str, ...]:
        raise RuntimeError("no driver")

    monkeypatch.setattr(import_module("adntn.backends"), "NUMPY", Backend("numpy", devices=no_driver))
    engines.engine.cache_clear()
    with pytest.raises(ImportError, match="'numpy' cannot be used: RuntimeError: no driver"):
        adntn_torch.Linear(8, 8, topology=TTN, engine="numpy")


def test_a_model_is_left_as_it_was_if_an_engine_is_none() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    dense = model[0]
    with pytest.raises(ImportError, match="no_such_engine"):
        adntn_torch.compress(model, {"0": TTN}, engine="no_such_engine")
    assert model[0] is dense


def test_the_engine_torch_is_torch_itself() -> None:
    layer = adntn_torch.Linear(8, 8, topology=TTN, engine="torch")
    assert layer.engine is None
    assert layer.differentiation == adntn_torch.Linear(8, 8, topology=TTN).differentiation == "adjoint"
    assert adntn_torch.Linear(8, 8, topology=TTN, engine="numpy").differentiation == "adjoint"


def test_functional_gradients_are_those_of_backward(engine: str) -> None:
    layer = adntn_torch.Linear(12, 8, topology=TTN, dtype=torch.float64, engine=engine)
    x = torch.randn(5, 12, dtype=torch.float64)
    _, expected = differentiated(layer, x)

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return functional_call(layer, parameters, (x,)).square().float().sum()

    for name, gradient in grad(loss)({name: one.detach() for name, one in layer.named_parameters()}).items():
        assert_near(gradient, expected[name], what=name)


def test_what_an_engine_cannot_do_is_refused_with_what_to_do(engine: str) -> None:
    layer = adntn_torch.Linear(12, 8, topology=TTN, engine=engine)
    parameters = {name: parameter.detach() for name, parameter in layer.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(layer, parameters, (x,)).square().sum()

    with pytest.raises(RuntimeError, match="vmap does not reach into an engine"):
        vmap(grad(loss), in_dims=(None, 0))(parameters, torch.ones(3, 12))
    stacked = {name: torch.stack([one, one]) for name, one in parameters.items()}
    with pytest.raises(RuntimeError, match="vmap does not reach into an engine"):
        vmap(loss, in_dims=(0, None))(stacked, torch.ones(12))
    with pytest.raises(RuntimeError, match="forward mode does not reach into an engine"):
        jvp(lambda cores: loss(cores, torch.ones(12)), (parameters,), (parameters,))
    (first,) = torch.autograd.grad(layer(torch.ones(12)).square().sum(), layer.cores["top"], create_graph=True)
    with pytest.raises(RuntimeError, match=r"first derivatives only.*without an engine"):
        first.sum().backward()


def test_torch_compile_leaves_the_engine_out(engine: str) -> None:
    layer = adntn_torch.Linear(12, 8, topology=TTN, engine=engine)
    x = torch.randn(5, 12)
    expected, gradients = differentiated(layer, x)
    found, compiled_gradients = differentiated(torch.compile(layer, backend="aot_eager"), x)
    assert_near(found, expected)
    for name, gradient in gradients.items():
        assert_near(compiled_gradients[f"_orig_mod.{name}"], gradient, what=name)
    torch.compiler.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="generate_with_engine_outside_torch_compile"):
        torch.compile(layer, backend="aot_eager", fullgraph=True)(x)
