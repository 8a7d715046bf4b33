"""Generators on NumPy and CuPy: one code path, one answer, on the device, stream and memory that were chosen."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest
from matrix import SHAPE

import adntn


def test_every_device_has_a_name_that_leads_to_it(cupy: Any) -> None:
    adntn_cupy = import_module("adntn_cupy")
    generator = adntn.TTN(SHAPE)
    names = adntn_cupy.BACKEND.devices()
    assert names[0] == "cuda:0"
    for number, name in enumerate(names):
        device = adntn_cupy.BACKEND.device(name)
        cores = generator.init(backend="cupy", device=device)
        assert {core.device.id for core in cores.values()} == {number}
        with device:
            weight, pullback = generator.vjp(cores)
            assert weight.device.id == number
            assert {gradient.device.id for gradient in pullback(weight).values()} == {number}
    with pytest.raises(ValueError, match=f"cuda:0.*'cuda:{len(names)}'"):
        adntn_cupy.BACKEND.device(f"cuda:{len(names)}")


def test_a_device_that_is_no_context_of_cupys_is_refused(cupy: Any) -> None:
    with pytest.raises(ValueError, match=r"device must come from adntn.backend\('cupy'\).device\('cuda:0'\)"):
        adntn.TTN(SHAPE).init(backend="cupy", device="cuda:0")


def test_nothing_waits_for_the_device_in_a_step(topology: Any, cupy: Any) -> None:
    cupyx = import_module("cupyx")
    generator, adam = topology("tanh")(SHAPE), adntn.Adam()
    cores = generator.init(backend="cupy")
    target = cupy.ones(generator.shape, dtype="float32")
    state = adam.init(cores)

    def step() -> None:
        nonlocal cores, state
        weight, pullback = generator.vjp(cores)
        cores, state = adam.update(cores, pullback(weight - target), state)

    step()  # compiles kernels
    with cupyx.allow_synchronize(False):
        step()
    assert state.step == 2


def test_work_goes_to_the_current_stream(cupy: Any) -> None:
    generator = adntn.TTN((256, 256), bond=4)
    cores = generator.init(backend="cupy")
    before = generator.weight(cores).get()
    slow = cupy.ones((8192, 8192), dtype="float32")
    cupy.cuda.Device().synchronize()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        for _ in range(10):
            slow = slow @ slow * 1e-4
        cores["scale"] *= 3  # happens after the slow products; whoever does not queue up sees the old value
        weight = generator.weight(cores)
    stream.synchronize()
    np.testing.assert_allclose(weight.get(), 3 * before, rtol=1e-5)


def test_memory_comes_from_the_pool_and_goes_back(cupy: Any) -> None:
    generator = adntn.TTN((512, 512), bond=4)
    cores = generator.init(backend="cupy")
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        generator.weight(cores)
        idle = pool.used_bytes()
        weight, pullback = generator.vjp(cores)
        assert pool.used_bytes() - idle >= weight.nbytes
        del weight, pullback
        assert pool.used_bytes() == idle
