"""A weight as two factors, and the layer whose weight is made on chip from them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import ACTIVATIONS, generic_cores, reference_weight, relative_error, tolerance
from matrix import LAYER_TOPOLOGIES
from torch import Tensor

import adntn
import adntn_torch
from adntn.verification.tolerance import EPSILON
from adntn_torch import schedules
from adntn_torch.factored import LONGEST_BOND, Factored, factored
from adntn_torch.schedules import fused

MODULE = "adntn_torch.fused_kernels"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
#: Topologies that are cut at a few bonds; of each, weights with and without an activation behind the last block.
CUT: dict[str, adntn.Options] = {
    f"{topology.__name__}, bond {bond}, {last}": topology.options(bond=bond, last_activation=last)
    for topology in (adntn.TTN, adntn.AugmentedTTN, adntn.MERA)
    for bond in (2, 4)
    for last in ("identity", "tanh")
}
#: With padding, without, and with rows and columns of different legs.
SHAPES = [(256, 256), (250, 243), (64, 1024)]


@pytest.fixture
def _kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels that run here, by Triton's interpreter or on a GPU; afterwards those that were there before."""
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.setenv("TRITON_INTERPRET", "0" if DEVICE == "cuda" else "1")
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    importlib.import_module(MODULE)
    yield
    sys.modules.pop(MODULE)


def form_of(generator: adntn.Generator) -> Factored:
    form = factored(generator)
    assert form is not None
    return form


def multiplied_out(form: Factored, generator: adntn.Generator, cores: dict[str, Tensor]) -> Any:
    """The weight by its definition, on NumPy."""
    front, back = form.factors(cores)
    assert front.shape[2] == back.shape[1] == form.length <= LONGEST_BOND
    z = torch.einsum("ius,jsv->ijuv", front, back).detach().numpy()
    weight = ACTIVATIONS[form.activation](z.reshape(z.shape[0] * z.shape[1], -1))
    rows, columns = generator.shape
    return weight[:rows, :columns] * (cores["scale"].item() if form.scaled else 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("options", CUT.values(), ids=CUT.keys())
def test_factors_multiply_out_to_the_weight(options: adntn.Options, shape: tuple[int, int]) -> None:
    generator = options(shape)
    cores = generic_cores(generator)
    form = form_of(generator)
    tensors = {name: torch.from_numpy(core) for name, core in cores.items()}
    found = multiplied_out(form, generator, tensors)
    assert relative_error(found, reference_weight(generator, cores)) <= tolerance("float64")


@pytest.mark.parametrize("name", ["TTN", "TTN, shared, gelu", "TensorTrain", "LowRank"])
def test_other_topologies_are_cut_too(name: str) -> None:
    generator = LAYER_TOPOLOGIES[name]((210, 256))
    form = form_of(generator)
    cores = generic_cores(generator)
    found = multiplied_out(form, generator, {name: torch.from_numpy(core) for name, core in cores.items()})
    assert relative_error(found, reference_weight(generator, cores)) <= tolerance("float64")


@pytest.mark.parametrize("options", CUT.values(), ids=CUT.keys())
def test_factors_of_large_weights_fill_tiles_and_are_small(options: adntn.Options) -> None:
    form = form_of(options((4096, 4096)))
    assert form.high_rows >= 16
    assert form.numbers <= 4096 * 4096 / 3


@pytest.mark.parametrize("options", CUT.values(), ids=CUT.keys())
def test_gradients_of_the_factors_are_those_of_the_weight(options: adntn.Options) -> None:
    generator = options((128, 256))
    form = form_of(generator)
    cores = {name: torch.from_numpy(core).requires_grad_() for name, core in generic_cores(generator).items()}
    front, back = form.factors(cores)
    weight = torch.einsum("ius,jsv->ijuv", front, back).reshape(128, 256)
    weight = torch.tanh(weight) * cores["scale"] if form.scaled else weight
    bar = torch.from_numpy(reference_weight(generator, generic_cores(generator, seed=1)))
    expected = torch.autograd.grad(generator.weight(cores), list(cores.values()), bar)
    for found, own in zip(torch.autograd.grad(weight, list(cores.values()), bar), expected, strict=True):
        assert relative_error(found, own) <= tolerance("float64")


CUBE = adntn.Activation("cube", lambda xp, z: z * z * z, lambda xp, z: 3 * z * z)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        (adntn.TTN.options(bond=2, batch=3), (64, 64)),
        (adntn.TTN.options(bond=2), (64, 64, 3)),
        (adntn.TTN.options(bond=2, last_activation=CUBE), (64, 64)),
        (adntn.LowRank.options(rank=200), (1024, 1024)),
        (adntn.Brickwall.options(depth=2), (256, 256)),
    ],
    ids=["batch", "no matrix", "own activation", "long bond", "large state"],
)
def test_other_weights_have_no_such_form(options: adntn.Options, shape: tuple[int, ...]) -> None:
    assert factored(options(shape)) is None


def results(layer: adntn_torch.Linear, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The output, and the gradients of its square: sums in which little cancels."""
    parameters = dict(layer.named_parameters())
    gradients = torch.autograd.grad(y.square().sum(), [x, *parameters.values()])
    return {"y": y.detach(), **dict(zip(("x", *parameters), gradients, strict=True))}


#: Of each option once in float32; the other number types, and no bias, with one of them.
FUSED = [
    *((name, "float32", True) for name in CUT),
    ("TTN, bond 2, identity", "bfloat16", True),
    ("MERA, bond 2, tanh", "bfloat16", True),
    ("TTN, bond 2, tanh", "float16", False),
    ("TTN, bond 4, identity", "float32", False),
]


@pytest.mark.usefixtures("_kernels")
@pytest.mark.parametrize(("row", "dtype", "bias"), FUSED)
def test_a_fused_layer_is_the_plain_one(row: str, dtype: str, bias: bool) -> None:
    options = CUT[row]
    layer = adntn_torch.Linear(128, 127, bias, topology=options, seed=0, device=DEVICE)
    form = form_of(layer.generator)
    short = getattr(torch, dtype)
    exact = adntn_torch.Linear(layer.in_features, layer.out_features, bias, topology=options, dtype=torch.float64)
    layer.to(short)
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(2, 2, layer.in_features, generator=torch.Generator().manual_seed(0)).to(DEVICE, short)
    x.requires_grad_()
    wide = x.detach().cpu().double().requires_grad_()
    found = results(layer, x, fused(form, layer.generator, dict(layer.cores.items()), x, layer.bias))
    for name, expected in results(exact, wide, exact(wide)).items():
        assert found[name].dtype == short, name
        # in 16 bits the factors, the weight, the product, the scale, the loss and their adjoints are rounded
        within = tolerance(dtype) if dtype == "float32" else 16 * EPSILON[dtype]
        assert relative_error(found[name].cpu().double(), expected) <= within, name


@pytest.mark.usefixtures("_kernels")
def test_autocast_multiplies_in_short_numbers_on_chip() -> None:
    layer = adntn_torch.Linear(64, 64, topology=CUT["TTN, bond 2, tanh"], seed=0, device=DEVICE)
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        y = fused(form_of(layer.generator), layer.generator, dict(layer.cores.items()), x, layer.bias)
    assert y.dtype == torch.bfloat16
    assert relative_error(y.detach().float(), layer(x).detach()) <= 16 * EPSILON["bfloat16"]
    y.sum().backward()
    assert layer.cores["top"].grad.dtype == torch.float32


def pretended(rows: int, dtype: torch.dtype = torch.float32, columns: int = 4096, is_cuda: bool = True) -> Any:
    """What the choice asks of an x, on a GPU that need not be here."""
    x = torch.empty(rows, columns, dtype=dtype, device="meta")
    return SimpleNamespace(is_cuda=is_cuda, numel=x.numel, shape=x.shape, dtype=dtype, device=torch.device("cpu"))


def test_few_rows_on_a_gpu_are_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "_has_triton", lambda: True)
    layer = adntn_torch.Linear(4096, 4096, topology=CUT["TTN, bond 2, tanh"], schedule="stream", device="meta")
    taken = SimpleNamespace(bytes=2**24)
    chosen = {
        name: schedules._form_on_chip(layer.generator, found, x) is not None
        for name, found, x in (
            ("few rows", taken, pretended(64)),
            ("short", taken, pretended(1, torch.bfloat16)),
            ("many rows", taken, pretended(65)),
            ("double", taken, pretended(1, torch.float64)),
            ("on the CPU", taken, pretended(1, is_cuda=False)),
            ("little memory", SimpleNamespace(bytes=2**20), pretended(1)),
        )
    }
    assert {name for name, fused in chosen.items() if fused} == {"few rows", "short"}
    monkeypatch.setattr(schedules, "_has_triton", lambda: False)
    assert schedules._form_on_chip(layer.generator, taken, pretended(64)) is None
