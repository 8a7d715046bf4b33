"""Rivals: what they compute is what they are said to compute, with as many parameters as they say."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import relative_error, tolerance

import adntn
from adntn.benchmarking import Case
from benchmarks.contenders import NAIVE, RIVALS
from benchmarks.rivals import naive
from benchmarks.rivals.sizes import counts, groups, nearest, train_size

OPTIONS = {
    "TTN": adntn.TTN.options(bond=3, activation="tanh"),
    "TTN, tanh at the end": adntn.TTN.options(bond=2, activation="tanh", last_activation="tanh"),
    "TTN, shared": adntn.TTN.options(bond=2, activation="relu", share="level"),
    "AugmentedTTN": adntn.AugmentedTTN.options(bond=2, activation="sigmoid"),
    "MERA, periodic": adntn.MERA.options(bond=2, activation="gelu", border="periodic"),
    "MERA, mixing": adntn.MERA.options(bond=2, activation="silu", mixing_activation="tanh"),
}

#: What a rival needs, by the first word of its name.
LIBRARIES = {
    "naive": (),
    "tensorly-torch": ("tltorch",),
    "tensorkrowch": ("tensorkrowch",),
    "quimb": ("quimb", "cotengra"),
}


def disturbed(generator: adntn.Generator) -> dict[str, torch.Tensor]:
    """Cores off their start, where disentanglers are the identity."""
    torch.manual_seed(1)
    start = generator.init(0, backend="torch", dtype="float64")
    return {name: (core + 0.2 * torch.randn_like(core)).requires_grad_() for name, core in start.items()}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("shape", [(24, 16), (6, 4, 3, 3), (22, 10)])
def test_the_naive_generator_makes_the_same_weight_and_gradients(
    options: adntn.Options, shape: tuple[int, ...]
) -> None:
    generator = options(shape)
    cores = disturbed(generator)
    made, pullback = generator.vjp({name: core.detach() for name, core in cores.items()})
    naively = naive.weight(generator.network, cores)
    assert relative_error(naively.detach(), made) < tolerance("float64")
    weight_bar = torch.randn(shape, dtype=torch.float64)
    gradients = torch.autograd.grad(naively, list(cores.values()), weight_bar)
    for name, gradient in zip(cores, gradients, strict=True):
        assert relative_error(gradient, pullback(weight_bar)[name]) < tolerance("float64"), name


def test_every_task_of_the_naive_generator_runs(case: Case) -> None:
    for task in NAIVE.tasks:
        assert NAIVE.ready(case, task).parameters == case.generator.parameters
        NAIVE.ready(case, task).call()


def test_the_network_that_quimb_contracts_is_ours() -> None:
    pytest.importorskip("quimb")
    pytest.importorskip("cotengra")
    from benchmarks.rivals.quimb import Contracted  # noqa: PLC0415

    generator = Case((24, 16), activation="identity").generator
    cores = {name: torch.nn.Parameter(core.detach()) for name, core in disturbed(generator).items()}
    x = torch.randn(5, 16, dtype=torch.float64)
    weight = generator.weight(cores)
    assert relative_error(Contracted(generator, cores, 0).weight().detach(), weight.detach()) < tolerance("float64")
    product = Contracted(generator, cores, 5)(x)
    assert relative_error(product.detach(), (x @ weight.T).detach()) < tolerance("float64")


def test_the_operator_of_tensorkrowch_multiplies_with_its_own_weight(case: Case) -> None:
    pytest.importorskip("tensorkrowch")
    from benchmarks.rivals.tensorkrowch import Operator  # noqa: PLC0415

    operator = Operator(case)
    weight = operator.weight().detach()
    operator.network.reset()  # what it remembers of one contraction does not serve another
    assert float(weight.norm()) > 0
    for _ in range(3):  # the library reuses the nodes of earlier contractions, but must not reuse their numbers
        x = torch.randn(case.x_shape)
        with torch.no_grad():
            assert relative_error(operator(x), x @ weight.T) < tolerance("float32")


@pytest.mark.parametrize("factorization", ["BlockTT", "CP"])
def test_both_implementations_of_tensorly_torch_multiply_with_its_weight(factorization: str, case: Case) -> None:
    pytest.importorskip("tltorch")
    from benchmarks.rivals.tensorly_torch import linear  # noqa: PLC0415

    x = torch.randn(case.x_shape)
    for implementation in ("factorized", "reconstructed"):
        layer, _ = linear(case, factorization, implementation)
        assert relative_error(layer(x).detach(), (x @ layer.weight.to_matrix().T).detach()) < tolerance("float32")


@pytest.mark.parametrize("contender", RIVALS, ids=lambda contender: contender.name)
@pytest.mark.parametrize("kind", ["linear", "with tanh", "convolution"])
def test_a_rival_runs_or_says_why_not(contender, kind: str) -> None:
    for library in LIBRARIES[contender.name.split()[0]]:
        pytest.importorskip(library)
    case = {
        "linear": Case((24, 16), activation="identity", batch=3),
        "with tanh": Case((24, 16), batch=3),
        "convolution": Case((8, 12, 3, 3), batch=2, image=5),
    }[kind]
    for task in contender.tasks:
        try:
            ready = contender.ready(case, task)
        except ValueError as error:
            assert kind != "linear", error  # noqa: PT017 (the reason is shown in tables)
            continue
        ready.call()
        ready.call()  # a second time, as measuring does
        assert 0.3 < ready.parameters / case.generator.parameters < 3


@pytest.mark.parametrize(("size", "count"), [(4096, 5), (25088, 4), (30, 3), (7, 1)])
def test_groups_multiply_to_the_size(size: int, count: int) -> None:
    assert math.prod(groups(size, count)) == size
    assert len(groups(size, count)) == count


def test_too_many_groups_are_said() -> None:
    with pytest.raises(ValueError, match="6 has only 2 prime factors, 3 factors are asked for"):
        groups(6, 3)
    with pytest.raises(ValueError, match="cannot be split"):
        nearest(counts((7, 8), 12), lambda split, rank: rank, 10)


def test_a_train_has_the_parameters_of_its_sites() -> None:
    assert train_size((2, 3, 4), 5) == 2 * 5 + 5 * 3 * 5 + 5 * 4
