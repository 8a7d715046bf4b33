"""The two paths of differentiation, against finite differences, torch's AD of hand-written einsums, and torch.func."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

import adntn
import adntn_torch


def layer_of(topology: adntn_torch.TopologyOptions, differentiation: str) -> adntn_torch.Linear:
    torch.manual_seed(0)  # of the bias
    return adntn_torch.Linear(18, 10, topology=topology, differentiation=differentiation, seed=0, dtype=torch.float64)


def squares(layer: torch.nn.Module):
    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(layer, parameters, (x,)).sin().square().sum()

    return loss


def gradients(layer: torch.nn.Module, x: Tensor) -> dict[str, Tensor]:
    layer.zero_grad()
    layer(x).sin().square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 18, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_gradients_agree_with_finite_differences(topology, differentiation):
    generator = topology((6, 5))
    names = list(generator.core_shapes)
    layer = adntn_torch.Linear(5, 6, bias=False, topology=topology, differentiation=differentiation)

    def weight(*cores: Tensor) -> Tensor:
        named = {f"cores.{name}": core for name, core in zip(names, cores, strict=True)}
        return functional_call(layer, named, (torch.eye(5, dtype=torch.float64),))

    start = generator.init(seed=0, backend="torch", dtype="float64", std=1.0)
    cores = [start[name].requires_grad_() for name in names]
    assert torch.autograd.gradcheck(weight, cores, fast_mode=True)


def test_the_paths_agree(topology, x):
    one, other = (gradients(layer_of(topology, path), x) for path in adntn_torch.DIFFERENTIATIONS)
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        assert float((gradient - other[name]).norm()) <= 1e-9 * float(gradient.norm()) + 1e-13


def test_weight_and_gradients_are_those_of_an_einsum_written_out(differentiation):
    layer = adntn_torch.Linear(
        16,
        16,
        bias=False,
        dtype=torch.float64,
        topology=adntn.TTN.options(bond=2, activation="tanh", layout="split"),
        differentiation=differentiation,
        seed=3,
    )
    cores = {name: core.detach().clone().requires_grad_() for name, core in layer.cores.items()}
    first = [cores[f"level1/isometry{place}"] for place in range(2)]
    second = [cores[f"level2/isometry{place}"] for place in range(4)]
    state = torch.tanh(torch.einsum("ab,acd,bef->cdef", cores["top"], *first))
    leaves = torch.einsum("abcd,aef,bgh,cij,dkl->efghijkl", state, *second)
    expected = cores["scale"] * leaves.reshape(16, 16)
    torch.testing.assert_close(layer.weight, expected, rtol=1e-12, atol=1e-14)
    weight_bar = torch.randn(16, 16, dtype=torch.float64)
    expected.backward(weight_bar)
    layer.weight.backward(weight_bar)
    for name, core in cores.items():
        torch.testing.assert_close(layer.cores[name].grad, core.grad, rtol=1e-11, atol=1e-13)


def test_functional_gradients_are_those_of_backward(topology, differentiation, x):
    layer = layer_of(topology, differentiation)
    parameters = {name: parameter.detach() for name, parameter in layer.named_parameters()}
    functional = grad(squares(layer))(parameters, x)
    for name, gradient in gradients(layer, x).items():
        torch.testing.assert_close(functional[name], gradient)


def test_gradients_of_each_example_sum_to_the_batchs(topology, differentiation, x):
    layer = layer_of(topology, differentiation)
    parameters = {name: parameter.detach() for name, parameter in layer.named_parameters()}
    each = vmap(grad(squares(layer)), in_dims=(None, 0))(parameters, x)
    for name, gradient in gradients(layer, x).items():
        assert each[name].shape == (4, *gradient.shape)
        torch.testing.assert_close(each[name].sum(0), gradient)


def test_an_ensemble_of_cores_is_differentiated_at_once(differentiation, x):
    layers = [layer_of(adntn.MERA.options(bond=2), differentiation) for _ in range(3)]
    for seed, layer in enumerate(layers):
        layer.reset_parameters(seed=seed)
    stacked, _ = torch.func.stack_module_state(layers)
    together = vmap(grad(squares(layers[0])), in_dims=(0, None))(stacked, x)
    for place, layer in enumerate(layers):
        for name, gradient in gradients(layer, x).items():
            torch.testing.assert_close(together[name][place], gradient)


def test_second_derivatives_come_from_the_native_path_alone(x):
    options = adntn.TTN.options(bond=2)
    layer = layer_of(options, "native")
    cores = list(layer.cores.values())
    (first,) = torch.autograd.grad(layer(x).square().sum(), cores[0], create_graph=True)
    assert first.sum().requires_grad
    layer = layer_of(options, "adjoint")
    cores = list(layer.cores.values())
    (first,) = torch.autograd.grad(layer(x).square().sum(), cores[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r'first derivatives only.*differentiation="native"'):
        first.sum().backward()


def test_frozen_cores_get_no_gradient(differentiation, x):
    layer = layer_of(adntn.TTN.options(bond=2), differentiation)
    layer.cores["top"].requires_grad_(False)
    layer(x).sum().backward()
    assert layer.cores["top"].grad is None
    assert layer.cores["scale"].grad is not None
    with torch.no_grad():
        assert not layer(x).requires_grad
