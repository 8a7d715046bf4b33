"""Fitting with torch's optimisers: against singular values, and against weights that the generator can make."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import adntn
from adntn_torch import fit


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_low_rank_fits_reach_the_singular_values_bound(dtype, differentiation):
    target = torch.randn(12, 9, dtype=dtype, generator=torch.Generator().manual_seed(0))
    values = np.linalg.svd(target.numpy(), compute_uv=False)
    best = float(np.linalg.norm(values[3:]) / np.linalg.norm(values))
    found = fit(adntn.LowRank((12, 9), rank=3), target, lbfgs=1000, differentiation=differentiation)
    assert best - 1e-12 <= found.error <= best + 1e-4


def test_a_weight_that_the_generator_made_is_found_again_from_nearby():
    generator = adntn.MERA((16, 12), bond=2, activation="tanh")
    cores = generator.init(seed=0, backend="torch", dtype="float64")
    target = generator.weight(cores)
    noise = torch.Generator().manual_seed(0)
    start = {
        name: core + 0.01 * torch.randn(core.shape, dtype=core.dtype, generator=noise) for name, core in cores.items()
    }
    found = fit(generator, target, cores=start, lbfgs=300)
    assert found.history[0] > 1e-3
    assert found.error < 1e-3 * found.history[0]


def test_a_random_start_leaves_the_weight_of_zero_behind():
    """Of independent numbers, a fit explains at least as large a share as it has numbers of its own."""
    generator = adntn.TTN((64, 16, 3, 3), bond=4, activation="tanh")
    weight = torch.randn(generator.shape, generator=torch.Generator().manual_seed(0))
    found = fit(generator, weight, lbfgs=30)
    assert found.history[0] < 1
    assert 1 - found.error**2 > generator.parameters / weight.numel()


RECOVERED = {
    "a tree": adntn.TTN((16, 16), bond=3, leg=1, activation="identity"),
    "low rank": adntn.LowRank((32, 32), rank=4),
    "a tensor train": adntn.TensorTrain((16, 16), bond=3),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("generator", RECOVERED.values(), ids=RECOVERED)
def test_what_a_linear_tree_or_chain_generates_is_recovered(generator, dtype, seed):
    weight = generator.weight(generator.init(seed, backend="torch", dtype="float64")).to(dtype)
    found = fit(generator, weight, seed=seed, lbfgs=20)
    assert {core.dtype for core in found.cores.values()} == {dtype}
    assert found.error < 20 * torch.finfo(dtype).eps
    again = generator.weight({name: core.double() for name, core in found.cores.items()})
    assert float((again - weight.double()).norm() / weight.double().norm()) < 20 * torch.finfo(dtype).eps


@pytest.mark.parametrize("steps", [{"adam": 30, "lbfgs": 0}, {"adam": 0, "lbfgs": 30}, {"adam": 20, "lbfgs": 20}])
def test_the_result_is_the_best_that_was_met(steps):
    generator = adntn.TTN((12, 10), bond=3)
    target = torch.randn(12, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    seen: list[tuple[int, float]] = []
    found = fit(generator, target, **steps, progress=lambda number, error: seen.append((number, error)))
    assert found.error == min(found.history) < found.history[0]
    assert [error for _, error in seen] == list(found.history)
    assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
    weight = generator.weight({name: core.numpy() for name, core in found.cores.items()})
    assert np.linalg.norm(weight - target.numpy()) / np.linalg.norm(target.numpy()) == pytest.approx(
        found.error, rel=1e-4
    )
    assert not any(core.requires_grad for core in found.cores.values())


def test_the_given_start_is_not_changed():
    generator = adntn.TTN((8, 8), bond=2)
    start = generator.init(seed=0, backend="torch")
    copies = {name: core.clone() for name, core in start.items()}
    fit(generator, torch.randn(8, 8), cores=start, adam=3, lbfgs=3)
    assert all(torch.equal(start[name], core) for name, core in copies.items())


BAD = {
    "zero": (torch.zeros(8, 8), {}, ValueError, "zero"),
    "NaN": (torch.full((8, 8), float("nan")), {}, ValueError, "finite, got nan"),
    "another shape": (torch.ones(8, 7), {}, ValueError, r"\(8, 8\), got \(8, 7\)"),
    "integers": (torch.ones(8, 8, dtype=torch.int64), {}, TypeError, "floating-point"),
    "another library": (np.ones((8, 8)), {}, TypeError, "torch.Tensor, got ndarray"),
    "a negative count": (torch.eye(8), {"adam": -1}, ValueError, "adam"),
    "an unknown path": (torch.eye(8), {"differentiation": "magic"}, ValueError, "'magic'"),
    "complex cores": (
        torch.eye(8),
        {"cores": adntn.TTN((8, 8)).init(backend="torch", dtype="complex64")},
        TypeError,
        "real for a real weight",
    ),
}


@pytest.mark.parametrize(("weight", "keywords", "error", "message"), BAD.values(), ids=BAD)
def test_wrong_input_is_named(weight, keywords, error, message):
    with pytest.raises(error, match=message):
        fit(adntn.TTN((8, 8)), weight, **keywords)
