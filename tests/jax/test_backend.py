"""JAX as a backend: found by its entry point, its devices, its own differentiation, double precision."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import entry_points

import jax
import numpy as np
import pytest

import adntn
from adntn.backends import GROUP
from adntn.verification.compare import Way, errors
from adntn.verification.reference import reference
from adntn_jax import backend
from adntn_jax.backend import BACKEND


def test_the_entry_point_is_the_backend():
    (found,) = entry_points(group=GROUP, name="jax")
    assert found.load() is BACKEND
    assert BACKEND.name == found.name


def test_cores_are_drawn_on_the_devices_that_are_named():
    names = BACKEND.devices()
    assert len(names) == len(set(names)) == jax.local_device_count()
    for name in names:
        cores = adntn.TTN((4, 4), bond=2).init(backend="jax", device=BACKEND.device(name))
        assert {f"{core.device.platform}:{core.device.id}" for core in cores.values()} == {name}
    assert BACKEND.device("cpu") == jax.local_devices(backend="cpu")[0]


@pytest.mark.parametrize("name", ["abacus", "cpu:99", "cpu:one", ""])
def test_unknown_devices_are_refused_with_those_that_there_are(name):
    with pytest.raises(ValueError, match=f"one of {BACKEND.devices()[0]}.*got '{name}'"):
        BACKEND.device(name)


def test_a_device_by_name_is_refused_with_what_makes_it_one():
    with pytest.raises(ValueError, match=r"device must come from adntn.backend\('jax'\).device\('cpu:0'\)"):
        adntn.TTN((4, 4), bond=2).init(backend="jax", device="cpu:0")


def test_a_number_type_that_is_not_enabled_is_not_blamed_on_the_device():
    with pytest.raises(ValueError, match="dtype 'float64' was asked of jax"):
        adntn.TTN((4, 4), bond=2).init(backend="jax", dtype="float64", device=BACKEND.device("cpu"))


def test_products_are_computed_in_full_precision_where_that_is_asked():
    x = np.ones((2, 2), "float32")
    with BACKEND.full_precision():
        assert "precision = [HIGHEST, HIGHEST]" in jax.jit(jax.numpy.matmul).lower(x, x).as_text()
    assert "HIGHEST" not in jax.jit(jax.numpy.matmul).lower(x, x).as_text()


@pytest.mark.parametrize("options", [backend.QUICK, {"xla_has_no_such_option": True}], ids=["known", "unknown"])
def test_what_runs_once_is_compiled_whichever_options_xla_has(options, monkeypatch):
    monkeypatch.setattr(backend, "QUICK", options)
    assert BACKEND.compile_once(lambda x: {"twice": 2 * x})(3.0)["twice"] == 6.0


def test_verification_compiles_each_computation_whole():
    traced = []
    generator = adntn.LowRank((4, 3), rank=2)

    def native_vjp(generator, cores):
        traced.extend(isinstance(core, jax.core.Tracer) for core in cores.values())
        return BACKEND.native_vjp(generator, cores)

    made = reference(generator, is_complex=False)
    found = errors(generator, made, Way(replace(BACKEND, native_vjp=native_vjp), None, "native"), "float32")
    assert max(found.forward, found.gradient) < 1e-5
    assert traced == [True] * 3


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_native_gradients_are_the_adjoints(dtype, assert_agree):
    generator = adntn.AugmentedTTN((6, 10), bond=2, activation="tanh")
    draw = np.random.default_rng(0)
    weight_bar = draw.normal(size=(6, 10)) + (1j * draw.normal(size=(6, 10)) if dtype == "complex128" else 0)
    expected, reference = generator.vjp(generator.init(dtype=dtype))
    with BACKEND.double_precision():
        cores = generator.init(backend="jax", dtype=dtype)
        for differentiation in ("native", "adjoint"):

            @jax.jit
            def both(cores, weight_bar, path=differentiation):
                weight, pullback = BACKEND.vjp(generator, cores, path)
                return weight, pullback(weight_bar)

            assert_agree(both(cores, weight_bar), (expected, reference(weight_bar)))
