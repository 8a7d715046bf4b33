"""Rows looked up on demand are those of the weight, their gradients too, and nothing is made that is as large."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import autoray
import numpy as np
import pytest
from helpers import compiled, generic_cores, in_library, reference_weight, relative_error, tolerance
from matrix import SHAPE, SHAPES, fits

import adntn
from adntn.gathering import gathered, gathered_vjp, slabs_of
from adntn.machine import DEFAULT
from adntn.program.gather import is_worth_it, lookup

INDICES = {"scalar": 5, "many times": [3, 3, 3], "matrix": [[0, 15, 7], [2, 2, 9]], "none": np.zeros((2, 0), "int64")}


def rows_of(weight: np.ndarray, indices: Any, batch: int | None) -> np.ndarray:
    return weight[indices] if batch is None else weight[:, indices]


@pytest.mark.parametrize("indices", INDICES.values(), ids=INDICES.keys())
@pytest.mark.parametrize("largest", [2**19, 40])
def test_rows_and_gradients_are_those_of_the_weight(
    topology: Callable[[str], adntn.Options], indices: Any, largest: int
) -> None:
    generator, indices = topology("tanh")(SHAPE), np.asarray(indices)
    cores = generic_cores(generator)
    made, pullback = gathered_vjp(generator, cores, indices, slabs_of(generator.network, indices.size, (), largest))
    expected = rows_of(reference_weight(generator, cores), indices, generator.network.batch)
    assert made.shape == expected.shape
    assert indices.size == 0 or relative_error(made, expected) <= tolerance("float64")
    bar = np.random.default_rng(0).standard_normal(made.shape)
    weight, pull_weight = generator.vjp(cores)
    weight_bar = np.zeros_like(weight)
    if generator.network.batch is None:
        np.add.at(weight_bar, indices, bar)
    else:
        np.add.at(weight_bar, (slice(None), indices), bar)
    gradients = pullback(bar)
    for name, share in pull_weight(weight_bar).items():
        size = np.linalg.norm(share) or 1.0
        assert np.linalg.norm(gradients[name] - share) <= tolerance("float64") * size, name


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weights_of_any_shape_have_rows(
    topology: Callable[[str], adntn.Options], shape: tuple[int, ...], request: Any
) -> None:
    name = request.node.callspec.id.removesuffix(f"-{shape}").removeprefix(f"{shape}-")
    if not fits(name, shape):
        pytest.skip("the topology has no weight of this shape")
    generator = topology("sin")(shape)
    cores = generic_cores(generator)
    indices = np.arange(shape[0])[::-1]
    expected = rows_of(reference_weight(generator, cores), indices, generator.network.batch)
    assert relative_error(generator.rows(cores, indices), expected) <= tolerance("float64")


def test_every_library_looks_up_and_differentiates(
    library_and_topology: tuple[str, Callable[[str], adntn.Options]],
) -> None:
    library, topology = library_and_topology
    generator = topology("sin")(SHAPE)
    host = generic_cores(generator)
    cores, plain = in_library(host, library), np.array([[3, 0], [3, 15]])
    indices = autoray.do("asarray", plain, like=library)

    def both(cores: dict[str, Any], indices: Any) -> tuple[Any, Any]:
        rows, pullback = generator.rows_vjp(cores, indices)
        return rows, pullback(rows)

    rows, gradients = compiled(library, both)(cores, indices)
    expected, pullback = generator.rows_vjp(host, plain)
    assert relative_error(rows, expected) <= tolerance("float64")
    for name, gradient in pullback(expected).items():
        assert relative_error(gradients[name], gradient) <= tolerance("float64"), name


@pytest.mark.parametrize("dtype", ["float32", "complex64", "complex128", "int32"])
def test_number_types(dtype: str) -> None:
    generator = adntn.MERA(SHAPE, bond=2)
    kind = "float64" if dtype == "int32" else dtype
    cores = generic_cores(generator, dtype=kind)
    indices = np.array([1, 14, 1], dtype if dtype == "int32" else "int64")
    rows, pullback = generator.rows_vjp(cores, indices)
    assert rows.dtype == kind
    weight, pull_weight = generator.vjp(
        {name: core.astype("complex128" if "complex" in kind else "float64") for name, core in cores.items()}
    )
    assert relative_error(rows, weight[indices]) <= tolerance(kind)
    bar = np.zeros_like(weight)
    np.add.at(bar, indices, rows)
    gradients = pullback(rows)
    for name, gradient in pull_weight(bar).items():
        assert relative_error(gradients[name], gradient) <= 2 * tolerance(kind), name


TABLE = (30522, 384)
LEAN = {
    "TTN": adntn.TTN.options(bond=4),
    "TTN, activation on the weight": adntn.TTN.options(bond=4, last_activation="tanh"),
    "TTN, split": adntn.TTN.options(bond=4, layout="split"),
    "AugmentedTTN": adntn.AugmentedTTN.options(bond=4),
    "AugmentedTTN, one boundary, mixing": adntn.AugmentedTTN.options(bond=4, boundaries=[1], mixing_activation="tanh"),
    "MERA": adntn.MERA.options(bond=4),
    "TensorTrain": adntn.TensorTrain.options(bond=8),
    "LowRank": adntn.LowRank.options(rank=8),
}


@pytest.mark.parametrize("options", LEAN.values(), ids=LEAN.keys())
def test_a_lookup_holds_a_small_part_of_the_table(options: adntn.Options) -> None:
    generator = options(TABLE)
    cores, indices = generator.init(), np.array([101, 7592, 2088, 102, 0, 30521, 101, 3])
    bar = np.ones((8, TABLE[1]), "float32")

    def step() -> None:
        _, pullback = generator.rows_vjp(cores, indices)
        pullback(bar)

    step()  # plans
    tracemalloc.start()
    step()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= 4 * np.prod(TABLE) / 10


def test_many_tokens_hold_no_more_than_their_rows_and_one_slab() -> None:
    generator = adntn.TTN((4096, 64), bond=4)
    cores, indices = generator.init(), np.arange(8192) % 4096
    largest = 2**14
    slabs = slabs_of(generator.network, indices.size, (), largest)
    gathered(generator, cores, indices, slabs)
    tracemalloc.start()
    rows = gathered(generator, cores, indices, slabs)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= 2 * rows.nbytes + 16 * 4 * largest


def test_few_tokens_are_worth_a_lookup_and_all_rows_are_not() -> None:
    network = adntn.TTN(TABLE, bond=4).network
    assert is_worth_it(network, 8, (), DEFAULT, 4)
    assert not is_worth_it(network, 2**18, (), DEFAULT, 4)
    mixing = adntn.MERA((2048, 64), bond=2, mixing_activation="tanh").network
    assert not is_worth_it(mixing, 512, (), DEFAULT, 4)


def test_a_lookup_prints_as_formulas() -> None:
    text = str(lookup(adntn.LowRank((6, 4), rank=2).network, 3))
    assert "piece 1 (row // 1 % 6) of" in text
    assert "return" in text


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        (np.array([0, 16]), IndexError, "indices must be from 0 to 15"),
        (np.array(-1), IndexError, "indices must be from 0 to 15"),
        (np.array([0.0]), TypeError, "indices must be an array of integers, got float64"),
        ([0, 1], TypeError, "indices must be an array of integers, got list"),
    ],
)
def test_wrong_indices_are_named(indices: Any, error: type[Exception], message: str) -> None:
    generator = adntn.TTN(SHAPE, bond=2)
    with pytest.raises(error, match=message):
        generator.rows(generator.init(), indices)


def test_a_wrong_adjoint_is_named() -> None:
    generator = adntn.TTN(SHAPE, bond=2)
    _, pullback = generator.rows_vjp(generator.init(), np.array([1, 2]))
    with pytest.raises(ValueError, match=r"rows_bar must have the shape of the rows, \(2, 12\), got \(12,\)"):
        pullback(np.ones(12, "float32"))
