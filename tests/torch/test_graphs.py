"""CUDA graphs: a step of training is captured once and replayed; nothing in it may depend on data or on the host."""

from __future__ import annotations

import pytest
import torch
from helpers import relative_error, tolerance
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import adntn
import adntn_torch

OPTIONS = adntn.MERA.options(bond=2, last_activation="tanh")
SCHEDULES = ("materialise", "recompute", "stream")
KINDS = ("Linear", "Conv2d")


def layer_and_input(kind: str, schedule: str, rows: int) -> tuple[adntn_torch.GeneratedLayer, Tensor]:
    """A layer with tiles, and an input with so many rows or examples."""
    keywords = {"topology": OPTIONS, "schedule": schedule, "seed": 0}
    if kind == "Linear":
        return adntn_torch.Linear(512, 512, **keywords), torch.randn(rows, 512)
    return adntn_torch.Conv2d(64, 128, 3, padding=1, **keywords), torch.randn(rows, 64, 4, 4)


@pytest.mark.filterwarnings("error:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_depend_on_no_numbers(kind: str, schedule: str) -> None:
    """Fake tensors have shapes and no numbers: to look at one is an error."""
    real, _ = layer_and_input(kind, schedule, 2)
    with FakeTensorMode():
        for name, core in real.cores.items():
            real.cores[name] = nn.Parameter(torch.empty(core.shape))
        real.bias = nn.Parameter(torch.empty(real.bias.shape))
        x = torch.empty((128, 512) if kind == "Linear" else (2, 64, 4, 4))
        real(x).sum().backward()
    assert all(core.grad.shape == core.shape for core in real.cores.values())


class Reads(TorchDispatchMode):
    """Counts what would wait for a GPU, or copy from it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        if any(part in name for part in ("_local_scalar_dense", "nonzero", "is_nonzero", "aten.equal", "lift_fresh")):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_read_nothing_back(kind: str, schedule: str) -> None:
    layer, x = layer_and_input(kind, schedule, 128)
    with Reads() as reads:
        layer(x).sum().backward()
    assert not reads.found
    with Reads() as reads:
        float(x.sum())
    assert reads.found


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: CUDA graphs are captured there alone")
@pytest.mark.parametrize("rows", [16, 128], ids=["on chip", "in tiles"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_captured_step_gives_the_same_when_it_is_replayed(kind: str, schedule: str, rows: int) -> None:
    layer, given = layer_and_input(kind, schedule, rows)
    layer.cuda()
    x = torch.zeros_like(given, device="cuda")

    def step() -> None:
        layer.zero_grad(set_to_none=True)
        layer(x).sin().sum().backward()

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # as torch asks for before capturing
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    layer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        layer(x).sin().sum().backward()
    x.copy_(given)
    graph.replay()
    found = {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}
    step()
    for name, parameter in layer.named_parameters():
        assert relative_error(found[name].cpu(), parameter.grad.cpu()) <= tolerance("float32"), name
