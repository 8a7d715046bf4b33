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
    found = fit(generator, target, start=start, lbfgs=300)
    assert found.history[0] > 1e-3
    assert found.error < 1e-3 * found.history[0]


@pytest.mark.parametrize("steps", [{"adam": 30, "lbfgs": 0}, {"adam": 0, "lbfgs": 30}, {"adam": 20, "lbfgs": 20}])
def test_the_result_is_the_best_that_was_met(steps):
    generator = adntn.TTN((12, 10), bond=3)
    target = torch.randn(12, 10, generator=torch.Generator().manual_seed(1))
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
    fit(generator, torch.randn(8, 8), start=start, adam=3, lbfgs=3)
    assert all(torch.equal(start[name], core) for name, core in copies.items())


@pytest.mark.parametrize(
    ("target", "keywords", "message"),
    [
        (torch.zeros(8, 8), {}, "zero"),
        (torch.full((8, 8), float("nan")), {}, "NaN"),
        (torch.ones(8, 7), {}, r"\(8, 8\), got \(8, 7\)"),
        (torch.ones(8, 8, dtype=torch.int64), {}, "floating-point"),
        (torch.eye(8), {"adam": -1}, "adam"),
        (torch.eye(8), {"differentiation": "magic"}, "native, adjoint"),
    ],
)
def test_wrong_input_is_named(target, keywords, message):
    with pytest.raises(ValueError, match=message):
        fit(adntn.TTN((8, 8)), target, **keywords)
