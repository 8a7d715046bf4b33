"""Gauss-Newton steps on the loss of a task: against explicit derivatives, and against what each step promises."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import adntn
import adntn_torch
from adntn_torch.gauss_newton import GaussNewton

TTN = adntn.TTN.options(bond=2, activation="tanh")


def network(differentiation: Any = None, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(
        adntn_torch.Linear(6, 8, topology=TTN, differentiation=differentiation),
        nn.Tanh(),
        adntn_torch.Linear(8, 3, topology=TTN, differentiation=differentiation),
    )
    return model.double()


def data(loss: str) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    inputs = torch.randn(20, 6).double()
    return inputs, torch.randint(3, (20,)) if loss == "cross-entropy" else torch.randn(20, 3).double()


LOSSES = {"mse": nn.functional.mse_loss, "cross-entropy": nn.functional.cross_entropy}


@pytest.mark.parametrize("differentiation", [None, "native"])
@pytest.mark.parametrize("chunk", [None, 7])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_first_step_is_the_one_of_explicit_matrices(loss: Any, chunk: int | None, differentiation: Any) -> None:
    """J and H by torch's reverse mode, row by row, and NumPy's solver."""
    model, (inputs, targets) = network(differentiation), data(loss)
    names = [name for name, _ in model.named_parameters() if "0." in name]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    parameters = [dict(model.named_parameters())[name] for name in names]
    outputs = model(inputs)
    rows = [torch.autograd.grad(one, parameters, retain_graph=True) for one in outputs.flatten()]
    jacobian = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])

    def of_outputs(flat: Tensor) -> Tensor:
        return LOSSES[loss](flat.reshape(outputs.shape), targets)

    flat = outputs.detach().flatten()
    slope, curve = torch.func.grad(of_outputs)(flat), torch.func.hessian(of_outputs)(flat)
    matrix = jacobian.T @ curve @ jacobian
    damped = matrix + 10.0 * torch.diag(matrix.diagonal())
    expected = -torch.linalg.solve(damped, jacobian.T @ slope)

    search = GaussNewton(model, names, loss, damping=10.0, chunk=chunk)
    reached = search.step(inputs, targets)
    after = dict(model.named_parameters())
    moved = torch.cat([(after[name] - before[name]).detach().flatten() for name in names])
    assert torch.linalg.vector_norm(moved - expected) < 1e-10 * torch.linalg.vector_norm(expected)
    assert all(torch.equal(after[name], before[name]) for name in after if name not in names)
    assert reached == pytest.approx(LOSSES[loss](model(inputs), targets).item(), rel=1e-12)
    assert search.damping.value < 10.0, "so short a step gains what was predicted"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_step_lowers_the_loss(loss: Any, dtype: torch.dtype) -> None:
    model, (inputs, targets) = network().to(dtype), data(loss)
    inputs = inputs.to(dtype)
    targets = targets.to(dtype) if targets.is_floating_point() else targets
    search = GaussNewton(model, dict(model.named_parameters()), loss)
    values = [float(LOSSES[loss](model(inputs), targets)), *(search.step(inputs, targets) for _ in range(8))]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.7 * values[0]


def test_the_loss_of_a_network_of_its_own_kind_goes_to_zero() -> None:
    inputs, _ = data("mse")
    targets = network(seed=5)(inputs).detach()
    model = network(seed=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    search = GaussNewton(model, dict(model.named_parameters()))
    losses = [search.step(inputs, targets) for _ in range(20)]
    assert losses[0] < 1e-2
    assert min(losses) < 1e-20


def test_where_nothing_is_lower_the_parameters_stay() -> None:
    model = nn.Linear(2, 1, bias=False).double()
    inputs = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).double()
    targets = torch.tensor([[1.0], [-1.0]]).double()
    with torch.no_grad():
        model.weight.zero_()  # the minimum: whatever is better for one row is worse for the other
    search = GaussNewton(model, ["weight"])
    assert search.step(inputs, targets) == 1.0
    assert model.weight.tolist() == [[0.0, 0.0]]


def test_a_search_goes_on_where_its_state_was_kept() -> None:
    inputs, targets = data("mse")
    one, other = network(), network()
    first = GaussNewton(one, dict(one.named_parameters()))
    for _ in range(3):
        first.step(inputs, targets)
    other.load_state_dict(one.state_dict())
    second = GaussNewton(other, dict(other.named_parameters()))
    second.load_state_dict(first.state_dict())
    assert second.step(inputs, targets) == first.step(inputs, targets)


@pytest.mark.parametrize("differentiation", [None, "native"])
def test_layers_have_forward_derivatives(differentiation: Any) -> None:
    model, (inputs, _) = network(differentiation), data("mse")
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    direction = {name: torch.randn_like(parameter) for name, parameter in parameters.items()}

    def outputs(at: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, at, (inputs,))

    _, along = torch.func.jvp(outputs, (parameters,), (direction,))
    step = 1e-6
    ahead, behind = (
        outputs({name: parameters[name] + sign * step * direction[name] for name in parameters}) for sign in (1, -1)
    )
    assert torch.allclose(along, (ahead - behind) / (2 * step), rtol=1e-7, atol=1e-8)


def test_some_cores_alone_have_forward_derivatives() -> None:
    layer = network()[0]
    frozen = {name: parameter.detach() for name, parameter in layer.named_parameters()}
    (name, *_) = [name for name in frozen if "top" in name]
    inputs, _ = data("mse")

    def outputs(core: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {**frozen, name: core}, (inputs,))

    forward, backward = torch.func.jacfwd(outputs)(frozen[name]), torch.func.jacrev(outputs)(frozen[name])
    assert torch.allclose(forward, backward, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("schedule", ["auto", "materialise", "stream"])
@pytest.mark.parametrize("shape", [(6, 8), (256, 300)])
def test_derivatives_of_forward_derivatives_are_those_of_torch(schedule: Any, shape: tuple[int, int]) -> None:
    layers = [
        adntn_torch.Linear(*shape, bias=False, topology=TTN, seed=0, dtype=torch.float64, **options)
        for options in ({"schedule": schedule}, {"differentiation": "native"})
    ]
    x, scale = torch.randn(3, shape[0], dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    for outer in (torch.func.jacfwd, torch.func.jacrev):
        found, expected = (
            outer(torch.func.jacfwd(partial(loss_of_top, layer, x)))(layer.cores["top"].detach()) for layer in layers
        )
        assert expected.abs().max() > 0
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(layers[0].cores["scale"].detach(), scale)
        y = torch.func.functional_call(layers[0], {"cores.scale": dual}, (x,))
        along = torch.autograd.forward_ad.unpack_dual(y).tangent
        assert torch.allclose(along, 0.5 / layers[0].cores["scale"] * y, rtol=1e-8, atol=1e-10)


def loss_of_top(layer: adntn_torch.Linear, x: Tensor, top: Tensor) -> Tensor:
    return torch.func.functional_call(layer, {"cores.top": top}, (x,)).sin().sum()


def test_a_trial_that_fails_is_taken_back() -> None:
    inputs, targets = data("mse")
    model = network()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    calls = []

    def fail(*_: Any) -> None:
        calls.append(None)
        if not torch._C._are_functorch_transforms_active() and len(calls) > 1:
            raise MemoryError

    model.register_forward_hook(fail)
    with pytest.raises(MemoryError):
        GaussNewton(model, dict(model.named_parameters())).step(inputs, targets)
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())


def test_forward_mode_does_not_reach_into_an_engine() -> None:
    layer = adntn_torch.Linear(6, 8, topology=TTN, engine="numpy")
    search = GaussNewton(layer, [name for name, _ in layer.named_parameters()])
    with pytest.raises(RuntimeError, match="engine"):
        search.step(torch.randn(4, 6), torch.randn(4, 8))


MODEL = network()
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no such loss": ({"loss": "hinge"}, ValueError, "loss must be one of mse, cross-entropy, got 'hinge'"),
    "no such parameter": ({"parameters": ["1.weight"]}, KeyError, "no parameter '1.weight'; it has 0."),
    "tensors for names": (
        {"parameters": list(MODEL.parameters())},
        TypeError,
        "parameters must be names, or a mapping",
    ),
    "another's parameters": (
        {"parameters": dict(network().named_parameters())},
        ValueError,
        "parameters must be the model's own",
    ),
    "no parameters": ({"parameters": []}, ValueError, "at least one parameter"),
    "damping": ({"damping": 0.0}, ValueError, "damping must be a positive number, got 0.0"),
    "damping, NaN": ({"damping": np.nan}, ValueError, "damping must be a positive number, got nan"),
    "chunk": ({"chunk": 0}, ValueError, "chunk must be at least 1, or None, got 0"),
}


@pytest.mark.parametrize(("options", "error", "words"), BAD.values(), ids=BAD)
def test_what_cannot_be_searched_is_named(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        GaussNewton(**{"model": MODEL, "parameters": dict(MODEL.named_parameters()), **options})


def test_complex_parameters_are_refused() -> None:
    model = nn.Linear(2, 2, dtype=torch.complex64)
    with pytest.raises(TypeError, match=r"'weight' must hold real numbers, got torch.complex64"):
        GaussNewton(model, ["weight"])


@pytest.mark.parametrize(
    ("loss", "targets", "words"),
    [
        ("mse", torch.zeros(20), r"shape of the outputs \(20, 3\), got \(20,\)"),
        ("cross-entropy", torch.zeros(20), "integer targets"),
        ("cross-entropy", torch.zeros(20, 3, dtype=torch.int64), r"\(20, 3\) of torch.int64"),
        ("mse", torch.full((20, 3), float("nan")), "finite where a step begins, got nan"),
    ],
)
def test_targets_that_do_not_fit_are_an_error(loss: Any, targets: Tensor, words: str) -> None:
    inputs, _ = data("mse")
    with pytest.raises(ValueError, match=words):
        GaussNewton(MODEL, dict(MODEL.named_parameters()), loss).step(inputs, targets)


@pytest.mark.parametrize("state", [{"damping": -1.0, "growth": 2.0}, {"damping": 1.0, "growth": 1.0}])
def test_a_state_out_of_range_is_refused(state: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="state must have"):
        GaussNewton(MODEL, dict(MODEL.named_parameters())).load_state_dict(state)
