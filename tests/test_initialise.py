"""Starts: the wanted standard deviation at any depth, the same on every backend, disentanglers at the identity."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import in_double, random_array, relative_error, tolerance
from matrix import SHAPE

import adntn
from adntn.initialise import core_at_zero
from adntn.verification.tolerance import EPSILON

Topology = Callable[[str], adntn.Options]
#: Shapes of 2 to 24 legs of 2.
DEPTHS = [(2, 2), (8, 8), (64, 64), (512, 256), (4096, 4096)]
DEEP: dict[str, Callable[[str], adntn.Options]] = {
    "TTN": lambda f: adntn.TTN.options(bond=2, leg=1, activation=f),
    "TTN, ternary": lambda f: adntn.TTN.options(bond=3, arity=3, leg=1, activation=f, last_activation=f),
    "AugmentedTTN": lambda f: adntn.AugmentedTTN.options(bond=2, leg=1, activation=f, mixing_activation=f),
    "MERA": lambda f: adntn.MERA.options(bond=2, leg=1, activation=f, mixing_activation=f),
    "Brickwall": lambda f: adntn.Brickwall.options(depth=3, activation=f),
    "TensorTrain": lambda f: adntn.TensorTrain.options(bond=3, depth=2, activation=f),
}


def deviation(generator: adntn.Generator, cores: Any) -> float:
    return float(np.std(generator.weight(cores)))


@pytest.mark.parametrize("std", [None, 0.02, 30.0])
def test_weights_start_with_the_wanted_deviation(topology: Topology, activation: str, std: float | None) -> None:
    generator = topology(activation)(SHAPE)
    weight = generator.weight(generator.init(3, dtype="float64", std=std))
    wanted = 1 / np.sqrt(12) if std is None else std
    each = weight if generator.network.batch else weight[None]
    for one in each:
        assert np.std(one) == pytest.approx(wanted, rel=0.1)


@pytest.mark.parametrize("shape", DEPTHS, ids=str)
@pytest.mark.parametrize("options", DEEP.values(), ids=DEEP)
def test_the_deviation_is_right_at_any_depth(options: Topology, shape: tuple[int, ...], activation: str) -> None:
    if shape == DEPTHS[-1] and activation not in ("tanh", "relu") and options is not DEEP["MERA"]:
        pytest.skip("16,777,216 weights: every activation with MERA, every topology with tanh and relu")
    generator = options(activation)(shape)
    assert deviation(generator, generator.init(0, std=0.5)) == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_weights_start_with_the_wanted_deviation(topology: Topology, dtype: str) -> None:
    generator = topology("tanh")(SHAPE)
    weight = generator.weight(generator.init(3, dtype=dtype, std=0.3))
    each = weight if generator.network.batch else weight[None]
    assert all(np.std(one) == pytest.approx(0.3, rel=0.1) for one in each)
    assert np.std(weight.imag) > 0.1


def test_one_seed_gives_one_start_on_every_library(topology: Topology, library: str) -> None:
    generator = topology("tanh")(SHAPE)
    expected = generator.init(5)
    found = generator.init(5, backend=library)
    assert list(found) == list(expected) == list(generator.core_shapes)
    for name, core in found.items():
        assert np.array_equal(in_double(core), in_double(expected[name]))
    assert any(not np.array_equal(core, expected[name]) for name, core in generator.init(6).items())


@pytest.mark.parametrize("activation", ["tanh", "relu", "identity"])
@pytest.mark.parametrize("constructor", [adntn.AugmentedTTN, adntn.MERA], ids=lambda one: one.name)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_augmented_trees_and_meras_start_as_their_tree(
    constructor: adntn.Topology[Any], activation: str, dtype: str
) -> None:
    if dtype == "complex128" and activation == "relu":
        pytest.skip("relu is not holomorphic")
    tree = adntn.TTN((24, 40), bond=3, activation=activation)
    mixed = constructor((24, 40), bond=3, activation=activation)
    assert mixed.parameters > tree.parameters
    found, expected = (one.weight(one.init(2, dtype=dtype)) for one in (mixed, tree))
    assert relative_error(found, expected) < tolerance(dtype)


def test_a_linear_tree_is_drawn_isometric(library: str) -> None:
    generator = adntn.TTN((24, 20), bond=3, leg=1, activation="identity")
    cores = generator.init(1, backend=library, dtype="float64")
    for name, core in generator.network.core.items():
        if name == "top":
            continue
        matrix = in_double(cores[name]).reshape(core.shape[0], -1)
        gram = matrix @ matrix.T
        np.testing.assert_allclose(gram / gram[0, 0], np.eye(len(gram)), atol=1e-12)


@pytest.mark.parametrize("rank", [1, 2])
def test_no_start_is_dead(rank: int) -> None:
    for seed in range(50):
        for batch in (None, 4):
            generator = adntn.Tucker((8, 8), rank=rank, activation="relu", batch=batch)
            cores = generator.init(seed, dtype="float64", std=0.1)
            weight, pullback = generator.vjp(cores)
            each = weight if batch else weight[None]
            assert all(np.std(one) == pytest.approx(0.1, rel=0.1) for one in each)
            assert np.all(pullback(weight)["scale"] != 0)


def test_states_before_activations_have_unit_size() -> None:
    generator = adntn.MERA((256, 256), bond=2, leg=1, activation="tanh")
    cores = generator.init(0, dtype="float64")
    outputs = [step.out for step in generator.program.steps if step.out.name.startswith("Z")]
    levels = {tensor.name: tensor for tensor in outputs[:-1]}  # the last one carries the scale as well
    from adntn.arrays import namespace  # noqa: PLC0415
    from adntn.program.run import run  # noqa: PLC0415

    assert len(levels) >= 2
    for array in run(generator.program.returning(levels.values()), cores, namespace("numpy", False)):
        assert np.sqrt(np.mean(array**2)) == pytest.approx(1.0, rel=1e-9)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a negative seed": ({"seed": -1}, ValueError, "seed must be an integer of at least 0, got -1"),
    "a seed that is no integer": ({"seed": 1.5}, ValueError, "seed.*1.5"),
    "integers": ({"dtype": "int64"}, ValueError, "dtype must be one of float32, .*got 'int64'"),
    "no deviation": ({"std": 0.0}, ValueError, "std must be a positive number, got 0.0"),
    "an infinite deviation": ({"std": float("inf")}, ValueError, "std.*inf"),
    "a library that is not there": ({"backend": "nolibrary"}, ImportError, "'nolibrary' is not installed"),
}


@pytest.mark.parametrize(("options", "error", "words"), BAD.values(), ids=BAD)
def test_bad_starts_are_named(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        adntn.TTN((8, 8)).init(**options)


def test_double_precision_is_never_lost_silently() -> None:
    jax = pytest.importorskip("jax")
    with jax.enable_x64(False), pytest.raises(ValueError, match="jax_enable_x64"):
        adntn.TTN((8, 8)).init(backend="jax", dtype="float64")


def test_complex_starts_need_holomorphic_activations() -> None:
    with pytest.raises(ValueError, match="relu is not defined for complex"):
        adntn.TTN((16, 16), leg=1, activation="relu", last_activation="relu").init(dtype="complex64")


def test_one_core_at_zero_makes_the_weight_zero_and_not_its_gradient(topology: Topology, activation: str) -> None:
    generator = topology(activation)(SHAPE)
    cores = generator.init(seed=0, dtype="float64")
    zero = core_at_zero(generator.network)
    cores[zero] = np.zeros_like(cores[zero])
    weight, pullback = generator.vjp(cores)
    assert not np.any(weight)
    gradients = pullback(random_array(generator.shape))
    assert np.any(gradients[zero])


def test_the_scale_is_zero_only_where_no_core_can_be() -> None:
    for activation in adntn.ACTIVATIONS:
        zero = core_at_zero(adntn.LowRank((8, 64), rank=2, last_activation=activation).network)
        assert zero == ("scale" if activation in {"relu", "sigmoid", "softplus"} else "left")
    assert core_at_zero(adntn.TTN((8, 8), bond=2, leg=1, share="all").network) == "scale"


IMPOSSIBLE = [("float16", 1e-30), ("float16", 1e6), ("bfloat16", 1e-45), ("float32", 1e-50), ("complex64", 1e50)]


@pytest.mark.parametrize(("dtype", "std"), IMPOSSIBLE)
def test_a_deviation_that_a_number_type_does_not_hold_is_refused(dtype: str, std: float) -> None:
    with pytest.raises(ValueError, match=rf"std must be possible in {dtype}, .* got {re.escape(f'{std:.1e}')}"):
        adntn.TTN((8, 8)).init(dtype=dtype, std=std)
    weight = adntn.TTN((8, 8)).weight(adntn.TTN((8, 8)).init(dtype="float64", std=std))
    assert np.std(weight) == pytest.approx(std)


@pytest.mark.parametrize(("dtype", "std"), [("float16", 1e-4), ("float16", 1e3), ("float32", 1e-30), ("float32", 1e30)])
def test_deviations_at_the_edge_are_met(dtype: str, std: float) -> None:
    generator = adntn.TTN((64, 64), bond=2, activation="tanh")
    weight = generator.weight(generator.init(dtype=dtype, std=std)).astype("float64")
    assert np.std(weight) == pytest.approx(std, rel=64 * EPSILON[dtype])


def test_numpy_has_bfloat16_in_a_process_that_has_imported_nothing_else() -> None:
    code = "import adntn; print(adntn.LowRank((4, 4), rank=1).init(dtype='bfloat16')['scale'].dtype)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "bfloat16"
