"""Generators on NumPy and CuPy: one code path, one answer, on the device, stream and memory that were chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import adntn

SHAPE = (30, 23)


def generator_of(topology: Any, dtype: str) -> adntn.Generator:
    generator: adntn.Generator = topology(SHAPE)
    holomorphic = all(level.activation.holomorphic for level in generator.network.levels)
    if dtype.startswith("complex") and not holomorphic:
        pytest.skip("the activation is not defined for complex cores")
    return generator


def wide(dtype: str) -> str:
    return "complex128" if dtype.startswith("complex") else "float64"


def test_weights_and_gradients_are_those_in_double_precision_on_numpy(
    topology: Any, dtype: str, library: Any, relative_error: Any, tolerance: Any
) -> None:
    generator = generator_of(topology, dtype)
    cores = generator.init(3, backend=library.name, dtype=dtype, device=library.device, std=1.0)
    exact = {name: library.numpy(core).astype(wide(dtype)) for name, core in cores.items()}
    expected, exact_pullback = generator.vjp(exact)
    random = np.random.default_rng(0)
    weight_bar = random.standard_normal(generator.shape).astype(dtype)
    if dtype.startswith("complex"):
        weight_bar = weight_bar * np.asarray(1 + 0.5j, dtype)
    weight, pullback = generator.vjp(cores)
    gradients = pullback(library.array(weight_bar))
    assert weight.dtype == cores["scale"].dtype
    assert relative_error(library.numpy(weight), expected) <= tolerance(dtype)
    for name, gradient in exact_pullback(weight_bar.astype(wide(dtype))).items():
        assert gradients[name].dtype == cores[name].dtype
        assert relative_error(library.numpy(gradients[name]), gradient) <= tolerance(dtype), name


def test_apply_is_the_product_with_the_weight(library: Any, relative_error: Any, tolerance: Any) -> None:
    generator = adntn.MERA(SHAPE, bond=2)
    cores = generator.init(0, backend=library.name, device=library.device)
    x = np.random.default_rng(1).standard_normal((5, SHAPE[1])).astype("float32")
    expected = x.astype("float64") @ library.numpy(generator.weight(cores)).T
    found = generator.apply(cores, library.array(x))
    assert relative_error(library.numpy(found), expected) <= tolerance("float32")


def test_the_same_seed_gives_the_same_cores(topology: Any, library: Any) -> None:
    generator = topology(SHAPE)
    expected = generator.init(7)
    for name, core in generator.init(7, backend=library.name, device=library.device).items():
        np.testing.assert_array_equal(library.numpy(core), expected[name].astype("float64"))


def test_every_device_has_a_name_that_leads_to_it(cupy: Any) -> None:
    adntn_cupy = pytest.importorskip("adntn_cupy")
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
    cupyx = pytest.importorskip("cupyx")
    generator, adam = topology(SHAPE), adntn.Adam()
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
