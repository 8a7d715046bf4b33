"""Generated layers live the life of a torch module: saved, moved, copied, pickled, compiled, sent to workers."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from worked import Features

import adntn
import adntn_torch

MERA = adntn.MERA.options(bond=2)


def network(differentiation: str = "native", seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)  # of the biases
    return nn.Sequential(
        adntn_torch.Conv2d(3, 8, 3, padding=1, topology=MERA, differentiation=differentiation, seed=seed),
        nn.ReLU(),
        nn.Flatten(),
        adntn_torch.Linear(8 * 16, 10, topology=MERA, differentiation=differentiation, seed=seed + 1),
    )


IMAGES = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_state_dicts_have_readable_names_and_round_trip_strictly():
    source, target = network(seed=0), network(seed=10)
    assert not torch.equal(source(IMAGES), target(IMAGES))
    state = source.state_dict()
    assert {"0.cores.top", "0.cores.scale", "0.cores.level1/isometry0", "3.bias"} <= set(state)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    target.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert torch.equal(source(IMAGES), target(IMAGES))


def test_state_dicts_of_another_topology_or_of_dense_layers_are_refused():
    for other in (adntn_torch.Linear(8, 8, topology=adntn.TTN.options(bond=3)), nn.Linear(8, 8)):
        with pytest.raises(RuntimeError, match="cores"):
            adntn_torch.Linear(8, 8, topology=adntn.TensorTrain.options(bond=2)).load_state_dict(other.state_dict())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes_change_as_in_torch(dtype):
    model = network().to(dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    output = model(IMAGES.to(dtype))
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), network()(IMAGES), rtol=0.05, atol=0.05)
    assert network().half()[0].weight.dtype == torch.float16
    assert network().bfloat16()[3].weight.dtype == torch.bfloat16


def test_double_precision_gives_the_same_function():
    model = network()
    expected = model(IMAGES)
    torch.testing.assert_close(copy.deepcopy(model).double()(IMAGES.double()).float(), expected, rtol=1e-4, atol=1e-5)


def test_devices_change_as_in_torch():
    layer = network()[3].to("meta")
    assert {parameter.device.type for parameter in layer.parameters()} == {"meta"}
    assert layer(torch.empty(2, 128, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_equal_and_independent(copied, differentiation):
    model = network(differentiation)
    twin = copied(model)
    expected = model(IMAGES)
    assert torch.equal(twin(IMAGES), expected)
    twin(IMAGES).sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        twin[0].cores["scale"] *= 2
    assert torch.equal(model(IMAGES), expected)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_layers_work_in_data_loader_workers(start):
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {start}")
    data = Features(adntn_torch.Linear(16, 8, seed=0))
    loader = DataLoader(data, batch_size=2, num_workers=2 if start == "fork" else 1, multiprocessing_context=start)
    assert torch.equal(torch.cat(list(loader)), torch.stack([data[place] for place in range(4)]))


def test_optimisers_train_through_the_generator(differentiation):
    layer = adntn_torch.Linear(16, 16, differentiation=differentiation, seed=0, bias=False)
    target = adntn_torch.Linear(16, 16, seed=1, bias=False).weight.detach()
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.03)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (layer.weight - target).square().sum()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


COMPILED = {
    "TTN, padded": adntn.TTN.options(bond=2),
    "MERA, gelu": adntn.MERA.options(bond=2, activation="gelu"),
    "Tucker": adntn.Tucker.options(rank=2),
}


@pytest.mark.parametrize("options", COMPILED.values(), ids=COMPILED.keys())
def test_compiled_layers_have_no_graph_break_and_the_same_gradients(options, differentiation):
    torch.compiler.reset()
    layer = adntn_torch.Linear(18, 11, topology=options, differentiation=differentiation, seed=0)
    x = torch.randn(3, 18)
    layer(x).square().sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}
    layer.zero_grad()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    compiled(x).square().sum().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


def test_compiled_layers_run_without_gradients_in_short_numbers_and_after_copies(differentiation):
    torch.compiler.reset()
    layer = copy.deepcopy(adntn_torch.Linear(8, 6, differentiation=differentiation, seed=0)).bfloat16()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 8, dtype=torch.bfloat16)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), layer(x))
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    torch.testing.assert_close(compiled(x), layer(x))


BY_DEFAULT = """
import torch, adntn, adntn_torch
layer = adntn_torch.Conv2d(2, 4, 3, topology=adntn.LowRank.options(rank=2), seed=0)
x = torch.randn(1, 2, 5, 5)
torch.testing.assert_close(torch.compile(layer, fullgraph=True)(x), layer(x), rtol=1e-4, atol=1e-5)
"""


def test_the_default_compiler_gives_the_same_output():
    # in a process of its own: it imports setuptools, which refuses where something has imported distutils before
    done = subprocess.run([sys.executable, "-c", BY_DEFAULT], capture_output=True, text=True, check=False)
    if "InvalidCxxCompiler" in done.stderr:
        pytest.skip("the default compiler needs a C++ compiler")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("schedule", ["materialise", "recompute", "stream", "contract"])
def test_one_layer_serves_eight_threads_at_once(schedule):
    layer = adntn_torch.Linear(64, 96, topology=MERA, schedule=schedule, seed=0)
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    together = threading.Barrier(8)

    def step(_):
        together.wait()
        found = []
        for _ in range(5):
            own = x.clone().requires_grad_()
            y = layer(own)
            found.append([y.detach(), *torch.autograd.grad(y.square().sum(), [own, *layer.parameters()])])
        return found

    with ThreadPoolExecutor(8) as pool:
        results = [one for found in pool.map(step, range(8)) for one in found]
    assert all(all(map(torch.equal, one, results[0])) for one in results)
