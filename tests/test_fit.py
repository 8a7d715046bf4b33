"""Fitting a dense weight: against the singular value decompositions that bound what is possible."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from helpers import relative_error

import adntn

LINEAR_TREES = {
    "TTN": adntn.TTN.options(bond=3, activation="identity"),
    "TTN, arity 3": adntn.TTN.options(bond=3, arity=3, leg=1, activation="identity"),
    "TTN, interleaved": adntn.TTN.options(bond=2, activation="identity", layout="interleaved"),
    "TTN, batch": adntn.TTN.options(bond=2, activation="identity", batch=2),
    "low rank": adntn.LowRank.options(rank=3),
    "low rank, above the dimension": adntn.LowRank.options(rank=30),
    "tensor train": adntn.TensorTrain.options(bond=3),
    "tensor train, split, batch": adntn.TensorTrain.options(bond=2, layout="split", batch=2),
    "MERA at the identity": adntn.MERA.options(bond=3, activation="identity"),
}


def random_weight(shape: tuple[int, ...], dtype: str = "float64", seed: int = 0) -> Any:
    random = np.random.default_rng(seed)
    weight = random.standard_normal(shape)
    return (weight + 1j * random.standard_normal(shape) if dtype.startswith("complex") else weight).astype(dtype)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("options", LINEAR_TREES.values(), ids=LINEAR_TREES)
def test_the_hierarchical_svd_recovers_what_a_tree_of_its_bonds_generates(options: adntn.Options, dtype: str) -> None:
    generator = options((24, 20))
    weight = generator.weight(generator.init(1, dtype=dtype))
    assert relative_error(generator.weight(adntn.hierarchical_svd(generator, weight)), weight) < 1e-12


@pytest.mark.parametrize("bond", [1, 2, 3])
def test_the_hierarchical_svd_is_within_its_quasi_optimal_bound(bond: int) -> None:
    generator = adntn.TTN((16, 16), bond=bond, leg=1, activation="identity")
    weight = random_weight((16, 16))
    error = np.linalg.norm(generator.weight(adntn.hierarchical_svd(generator, weight)) - weight)
    # the tree of 8 legs of 2: pairs of legs, then halves; at each isometry, what the weight itself loses
    legs = weight.reshape((2,) * 8)
    tails = []
    for width in (2, 4):
        for start in range(0, 8, width):
            own = list(range(start, start + width))
            others = [axis for axis in range(8) if axis not in own]
            values = np.linalg.svd(legs.transpose(own + others).reshape(2**width, -1), compute_uv=False)
            tails.append(np.sum(values[bond:] ** 2))
    assert generator.core_shapes["top"] == (bond, bond)
    assert error**2 <= sum(tails) * (1 + 1e-12)
    assert error**2 >= max(tails) * (1 - 1e-12), "no tree of these bonds is nearer than its worst cut allows"


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize("rank", [1, 3])
def test_a_low_rank_fit_reaches_the_truncated_svd(rank: int, dtype: str) -> None:
    weight = random_weight((12, 10), dtype)
    values = np.linalg.svd(weight, compute_uv=False)
    best = np.sqrt(np.sum(values[rank:] ** 2) / np.sum(values**2))
    found = adntn.fit(adntn.LowRank((12, 10), rank=rank), weight, iterations=2000)
    assert found.error == pytest.approx(best, rel=1e-4)
    assert found.cores["left"].dtype == weight.dtype


@pytest.mark.parametrize("topology", ["TTN", "AugmentedTTN", "MERA"])
def test_a_nonlinear_fit_finds_a_weight_of_its_own_kind(topology: str) -> None:
    generator = getattr(adntn, topology)((8, 8), bond=2, activation="tanh")
    cores = generator.init(3, dtype="float64")
    weight = generator.weight(cores)
    start = {name: core + 0.05 * random_weight(core.shape, seed=5) for name, core in cores.items()}
    found = adntn.fit(generator, weight, cores=start, iterations=2000)
    assert found.history[0] > 0.05
    assert found.error < 1e-3
    assert found.error == pytest.approx(relative_error(generator.weight(found.cores), weight))


def test_a_weight_of_a_library_with_functions_only_is_fitted() -> None:
    """Arrays of the array API standard have no method that changes their number type."""
    strict = pytest.importorskip("array_api_strict")
    generator = adntn.TTN((8, 6), bond=2, activation="identity")
    weight = random_weight((8, 6)).astype("float32")
    found = adntn.fit(generator, strict.asarray(weight), iterations=5)
    assert found.error == pytest.approx(adntn.fit(generator, weight, iterations=5).error, rel=1e-6)
    assert {core.dtype for core in found.cores.values()} == {strict.float32}


@pytest.mark.parametrize("library", ["torch", "jax"])
@pytest.mark.parametrize("options", [adntn.MERA.options(bond=2), adntn.TTN.options(bond=2, activation="identity")])
def test_a_fit_finds_the_same_wherever_the_weight_is(options: adntn.Options, library: str) -> None:
    module = pytest.importorskip(library)
    generator, weight = options((8, 6)), random_weight((8, 6))
    with module.enable_x64(True) if library == "jax" else nullcontext():
        given = (module.numpy if library == "jax" else module).asarray(weight)
        found = adntn.fit(generator, given, iterations=5)
    expected = adntn.fit(generator, weight, iterations=5)
    assert found.error == pytest.approx(expected.error, rel=1e-9)
    for name, core in expected.cores.items():
        assert type(found.cores[name]) is type(given)
        assert relative_error(np.asarray(found.cores[name]), core) < 1e-6


def test_a_fit_says_how_jax_gets_its_double_precision() -> None:
    jax = pytest.importorskip("jax")
    with pytest.raises(ValueError, match=r"float64.*jax.*float32.*jax_enable_x64"):
        adntn.fit(adntn.TTN((8, 8)), jax.numpy.ones((8, 8)))


def test_a_fit_never_ends_worse_than_it_began() -> None:
    generator = adntn.MERA((12, 10), bond=3, activation="identity")
    weight = random_weight((12, 10))
    start = adntn.fit(generator, weight, iterations=0)
    found = adntn.fit(generator, weight, iterations=30)
    assert start.error == pytest.approx(start.history[0])
    assert found.error <= start.error
    assert list(found.history) == sorted(found.history, reverse=True)


WEIGHT = random_weight((8, 8))
BAD_WEIGHTS = {
    "a list": ([[0.0]], TypeError, "NumPy array"),
    "another shape": (WEIGHT[:4], ValueError, r"\(8, 8\).*\(4, 8\)"),
    "integers": (np.ones((8, 8), dtype=int), TypeError, "int64"),
    "NaN": (np.where(np.eye(8) > 0, np.nan, WEIGHT), ValueError, r"nan at \(0, 0\)"),
    "infinity": (np.where(np.eye(8) > 0, np.inf, WEIGHT), ValueError, r"inf at \(0, 0\)"),
    "zeros": (np.zeros((8, 8)), ValueError, "all zero"),
}


@pytest.mark.parametrize(("weight", "error", "words"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_a_weight_that_cannot_be_fitted_is_named(weight: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        adntn.fit(adntn.TTN((8, 8)), weight)


NO_TREES = {
    "activations": (adntn.TTN((8, 8), leg=1, last_activation="tanh"), "activations"),
    "no top": (adntn.Brickwall((8, 8), last_activation="identity"), "more than one core"),
    "shared": (adntn.TTN((8, 8), leg=1, activation="identity", share="all"), "shared"),
}


@pytest.mark.parametrize(("generator", "words"), NO_TREES.values(), ids=NO_TREES)
def test_the_hierarchical_svd_says_why_a_network_is_no_linear_tree(generator: adntn.Generator, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        adntn.hierarchical_svd(generator, WEIGHT)


@pytest.mark.parametrize("bond", [1, 2, 3])
def test_a_chain_is_within_its_quasi_optimal_bound(bond: int) -> None:
    generator = adntn.TensorTrain((8, 8), bond=bond, layout="split")
    weight = random_weight((8, 8))
    error = np.linalg.norm(generator.weight(adntn.hierarchical_svd(generator, weight)) - weight)
    cuts = [np.linalg.svd(weight.reshape(2**cut, -1), compute_uv=False)[bond:] for cut in range(1, 6)]
    tails = [np.sum(values**2) for values in cuts]
    assert max(tails) * (1 - 1e-12) <= error**2 <= sum(tails) * (1 + 1e-12)


def test_complex_cores_do_not_start_a_real_fit() -> None:
    generator = adntn.TTN((8, 8), leg=1, activation="identity")
    with pytest.raises(TypeError, match="real for a real weight"):
        adntn.fit(generator, WEIGHT, cores=generator.init(dtype="complex128"))


SECOND_ORDER = {
    "TTN": adntn.TTN.options(bond=2, activation="tanh"),
    "TTN, shared": adntn.TTN.options(bond=2, activation="tanh", share="level"),
    "TTN, batch": adntn.TTN.options(bond=2, activation="tanh", batch=2),
    "AugmentedTTN": adntn.AugmentedTTN.options(bond=2, activation="silu"),
    "MERA": adntn.MERA.options(bond=2, activation="tanh", layout="split"),
    "TensorTrain": adntn.TensorTrain.options(bond=2, depth=2, activation="sin"),
}


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("options", SECOND_ORDER.values(), ids=SECOND_ORDER)
def test_the_scale_is_the_best_one_and_its_start_does_not_matter(options: adntn.Options, dtype: str) -> None:
    generator = options((12, 10))
    weight, start = random_weight(generator.shape, dtype), generator.init(0, dtype=dtype)
    far = {**start, "scale": start["scale"] * -1e3}
    found, other = (adntn.fit(generator, weight, cores=cores, iterations=3) for cores in (start, far))
    assert found.history == pytest.approx(other.history, rel=1e-6)
    made = generator.weight(found.cores).reshape(generator.network.batch or 1, -1)
    wanted = weight.reshape(made.shape)
    slopes = np.sum(made.conj() * (made - wanted), 1)  # of the squared error along each scale
    assert np.all(np.abs(slopes) < 1e-12 * np.sum(np.abs(made * wanted), 1))


def test_a_random_start_leaves_the_weight_of_zero_behind() -> None:
    """Of independent numbers, a fit explains at least as large a share as it has numbers of its own."""
    generator, weight = adntn.TTN((64, 16, 3, 3), bond=4, activation="tanh"), random_weight((64, 16, 3, 3))
    found = adntn.fit(generator, weight, iterations=15)
    assert found.history[0] < 1
    assert 1 - found.error**2 > generator.parameters / weight.size


def test_a_negative_number_of_iterations_is_refused() -> None:
    with pytest.raises(ValueError, match=r"iterations.*-1"):
        adntn.fit(adntn.TTN((8, 8)), WEIGHT, iterations=-1)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("shape", [(8, 8), (11, 13)], ids=["plain", "padded"])
@pytest.mark.parametrize("options", SECOND_ORDER.values(), ids=SECOND_ORDER)
def test_gauss_newton_steps_end_exactly_at_a_weight_of_the_same_kind(
    options: adntn.Options, shape: tuple[int, int], dtype: str
) -> None:
    generator = options(shape)
    cores = generator.init(3, dtype=dtype)
    weight = generator.weight(cores)
    start = {name: core + 0.02 * random_weight(core.shape, dtype, 5) for name, core in cores.items()}
    seen: list[tuple[int, float]] = []
    found = adntn.fit(
        generator,
        weight,
        cores=start,
        method="levenberg-marquardt",
        progress=lambda number, error: seen.append((number, error)),
    )
    assert found.history[0] > 0.01
    assert found.error < 1e-10
    assert found.error == pytest.approx(relative_error(generator.weight(found.cores), weight), abs=1e-14)
    assert seen == list(enumerate(found.history))[1:]
    assert list(found.history) == sorted(found.history, reverse=True)
    # near an exact solution a step leaves a small part of the error, and an ever smaller one
    near = [error for error in found.history if error < 1e-3]
    assert min(later / earlier for earlier, later in pairwise(near)) < 0.01


def test_gauss_newton_steps_lower_the_error_where_no_solution_is_exact() -> None:
    generator, weight = adntn.MERA((12, 10), bond=2, activation="tanh"), random_weight((12, 10))
    found = adntn.fit(generator, weight, method="levenberg-marquardt", iterations=40)
    other = adntn.fit(generator, weight, iterations=40)
    assert found.error < other.error < found.history[0]
    # a minimum: no number of the cores changes the error to first order
    generated, pullback = generator.vjp(adntn.fit(generator, weight, method="levenberg-marquardt").cores)
    residual = generated - weight
    slopes = np.concatenate([gradient.reshape(-1) for gradient in pullback(residual).values()])
    assert np.linalg.norm(slopes) < 0.02 * np.linalg.norm(residual) ** 2


@pytest.mark.parametrize("library", ["torch", "jax", "array_api_strict"])
def test_gauss_newton_steps_are_the_same_wherever_the_weight_is(library: str) -> None:
    module = pytest.importorskip(library)
    generator, weight = adntn.TTN((8, 6), bond=2, activation="tanh"), random_weight((8, 6))
    with module.enable_x64(True) if library == "jax" else nullcontext():
        given = (module.numpy if library == "jax" else module).asarray(weight)
        found = adntn.fit(generator, given, iterations=3, method="levenberg-marquardt")
    expected = adntn.fit(generator, weight, iterations=3, method="levenberg-marquardt")
    assert found.history == pytest.approx(expected.history, rel=1e-9)
    assert type(found.cores["top"]) is type(given)


def test_a_float32_weight_is_fitted_in_double_precision() -> None:
    generator = adntn.TTN((8, 8), bond=2, activation="tanh")
    weight = generator.weight(generator.init(3))
    start = {name: core + np.float32(0.01) for name, core in generator.init(3).items()}
    found = adntn.fit(generator, weight, cores=start, method="levenberg-marquardt")
    assert found.history[-1] < 2e-7
    assert found.cores["top"].dtype == "float32"


def test_a_method_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="method must be one of l-bfgs, levenberg-marquardt, got 'newton'"):
        adntn.fit(adntn.TTN((8, 8)), WEIGHT, method="newton")  # type: ignore[arg-type]


def test_too_many_numbers_for_a_matrix_are_an_error_before_any_work() -> None:
    generator = adntn.LowRank((200, 200), rank=50)
    with pytest.raises(ValueError, match=r"at most 16,384 numbers at once, but the cores have 20,001; \"l-bfgs\""):
        adntn.fit(generator, np.ones((200, 200)), method="levenberg-marquardt")


def test_a_search_from_cores_that_are_no_numbers_says_so() -> None:
    generator = adntn.TTN((16, 12), bond=2, activation="tanh")
    cores = {name: np.full_like(core, np.nan) for name, core in generator.init(seed=0).items()}
    with pytest.raises(ValueError, match="the error must be finite where the search begins, got nan"):
        adntn.fit(generator, np.eye(16, 12), cores=cores, method="levenberg-marquardt")
