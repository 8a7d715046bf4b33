"""The schedule *contract*: x goes into the cores, W is never formed, and the numbers are those of x @ W.T."""

from __future__ import annotations

import importlib
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import (
    EPSILON,
    compiled,
    generic_cores,
    in_double,
    in_library,
    needs,
    random_array,
    reference_weight,
    relative_error,
    tolerance,
)
from matrix import SHAPE, TOPOLOGIES, fits

import adntn
from adntn.contracting import contracted, contracted_vjp
from adntn.program.contract import contraction, halves, slab_rows
from adntn.program.cost import cost

Topology = Callable[[str], adntn.Options]
Arrays = dict[str, Any]
ROWS = (1, 3, 8)
MATRICES = [(8, 8), (12, 10), (11, 13), (1, 6), (64, 27)]


def ends_linear(topology: Topology, shape: tuple[int, ...] = SHAPE, activation: str = "tanh") -> adntn.Generator:
    """The row with an activation between the levels; without any, where it would also stand after the last."""
    generator = topology(activation)(shape)
    return generator if generator.network.levels[-1].activation.is_identity else topology("identity")(shape)


def rows_of(generator: adntn.Generator, rows: int, dtype: str = "float64") -> tuple[Any, Any]:
    """x and a y_bar that is not orthogonal to y."""
    *lead, out, features = generator.shape
    return random_array((*lead, rows, features), 7, dtype), random_array((*lead, rows, out), 8, dtype)


def through_the_weight(generator: adntn.Generator, cores: Arrays, x: Any, y_bar: Any) -> Arrays:
    """y from the tests' own weight, dL/dx from it, and dL/d(core) from dL/dW through the generator's adjoint."""
    cores, x, y_bar = {name: in_double(core) for name, core in cores.items()}, in_double(x), in_double(y_bar)
    weight = reference_weight(generator, cores)
    weight_bar = np.swapaxes(y_bar, -1, -2) @ np.conj(x)
    gradients = generator.vjp(cores)[1](weight_bar)
    return {"y": x @ np.swapaxes(weight, -1, -2), "x_bar": y_bar @ np.conj(weight), **gradients}


def by_contraction(generator: adntn.Generator, cores: Arrays, x: Any, y_bar: Any, **options: int) -> Arrays:
    y, pullback = contracted_vjp(generator, cores, x, **options)
    x_bar, gradients = pullback(y_bar)
    return {"y": y, "x_bar": x_bar, **gradients}


def check(found: Arrays, expected: Arrays, allowed: float) -> None:
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert tuple(array.shape) == expected[name].shape, name
        assert relative_error(array, expected[name]) < allowed, name


@pytest.mark.parametrize("rows", ROWS)
def test_product_and_gradients_are_those_of_the_weight(library_and_topology: tuple[str, Topology], rows: int) -> None:
    library, topology = library_and_topology
    generator = ends_linear(topology)
    cores = generic_cores(generator)
    x, y_bar = rows_of(generator, rows)
    own = in_library({**cores, "x": x, "y_bar": y_bar}, library)
    own_x, own_bar = own.pop("x"), own.pop("y_bar")
    found = compiled(library, lambda at, x, bar: by_contraction(generator, at, x, bar))(own, own_x, own_bar)
    assert all(type(array) is type(own_x) for array in found.values())
    check(found, through_the_weight(generator, cores, x, y_bar), tolerance("float64"))
    y = compiled(library, lambda at, x: contracted(generator, at, x))(own, own_x)
    assert relative_error(y, found["y"]) < tolerance("float64")


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("shape", MATRICES, ids=str)
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_every_matrix_is_contracted(name: str, shape: tuple[int, int], dtype: str) -> None:
    if not fits(name, shape):
        pytest.skip(f"{name} makes the shape {SHAPE} only")
    generator = ends_linear(TOPOLOGIES[name], shape, "sin")  # entire: near the poles of tanh, W itself is uncertain
    cores = generic_cores(generator, seed=1, dtype=dtype)
    x, y_bar = rows_of(generator, 3, dtype)
    expected = through_the_weight(generator, cores, x, y_bar)
    check(by_contraction(generator, cores, x, y_bar), expected, tolerance(dtype))


@pytest.mark.parametrize("rows", [5, 9])
def test_slabs_of_rows_change_nothing(topology: Topology, rows: int) -> None:
    generator = ends_linear(topology)
    cores = generic_cores(generator)
    x, y_bar = rows_of(generator, rows)
    expected = through_the_weight(generator, cores, x, y_bar)
    for largest in (1, 3 * max(step.out.size for step in halves(generator.network, 1).tail.steps)):
        check(by_contraction(generator, cores, x, y_bar, largest=largest), expected, tolerance("float64"))
        y = contracted(generator, cores, x, largest=largest)
        assert relative_error(y, expected["y"]) < tolerance("float64")


@pytest.mark.parametrize("rows", [1, 32, 100, 1000, 4096])
@pytest.mark.parametrize("activation", ["tanh", "identity"])
@pytest.mark.parametrize("constructor", [adntn.TTN, adntn.MERA], ids=str)
def test_no_result_of_a_slab_is_larger_than_allowed(
    constructor: Callable[..., adntn.Generator], activation: str, rows: int
) -> None:
    network = constructor((256, 256), bond=2, activation=activation).network
    slab = slab_rows(network, rows, 2**15)
    assert 1 <= slab <= rows
    assert max(step.out.size for step in halves(network, slab).tail.steps) <= 2**15


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
def test_results_have_the_number_type_of_what_was_given(dtype: str) -> None:
    needs("torch")
    generator = adntn.TTN((12, 10), bond=2, leg=2)
    wide = "float32" if dtype in ("float16", "bfloat16") else dtype
    x, y_bar = rows_of(generator, 3, wide)
    torch_dtype = getattr(importlib.import_module("torch"), dtype)
    own = {
        name: array.to(torch_dtype)
        for name, array in in_library({**generic_cores(generator, dtype=wide), "x": x, "y_bar": y_bar}, "torch").items()
    }
    own_x, own_bar = own.pop("x"), own.pop("y_bar")
    found = by_contraction(generator, own, own_x, own_bar)
    assert all(array.dtype == torch_dtype for array in found.values())
    check(found, through_the_weight(generator, own, own_x, own_bar), tolerance(wide) + EPSILON[dtype])


def test_no_rows_have_the_number_type_that_rows_have() -> None:
    generator = adntn.TTN((12, 10), bond=2)
    cores = generator.init(seed=0, dtype="float16")
    y, pullback = contracted_vjp(generator, cores, np.ones((0, 10), "float16"))
    x_bar, gradients = pullback(y)
    assert {array.dtype.name for array in (y, x_bar, *gradients.values())} == {"float16"}


@pytest.mark.parametrize("lead", [(), (2, 3), (0,), (2, 0)])
def test_leading_axes_are_kept(library: str, lead: tuple[int, ...]) -> None:
    generator = adntn.TTN((16, 11), bond=2)
    cores = generic_cores(generator)
    x = random_array((*lead, 11))
    own = in_library({**cores, "x": x}, library)
    own_x = own.pop("x")
    y, pullback = contracted_vjp(generator, own, own_x)
    assert relative_error(contracted(generator, own, own_x), x @ reference_weight(generator, cores).T) < tolerance(
        "float64"
    )
    assert tuple(y.shape) == (*lead, 16)
    x_bar, gradients = pullback(y)
    assert tuple(x_bar.shape) == x.shape
    assert {name: tuple(gradient.shape) for name, gradient in gradients.items()} == generator.core_shapes
    if x.size == 0:
        assert all(float(np.abs(in_double(gradient)).max()) == 0 for gradient in gradients.values())


LINEAR = {"TTN": 0.05, "AugmentedTTN": 0.05, "MERA": 0.25, "TensorTrain": 0.05}


@pytest.mark.parametrize("rows", [1, 32])
@pytest.mark.parametrize(("name", "share"), LINEAR.items(), ids=LINEAR)
def test_a_linear_weight_is_never_formed_and_costs_a_share_of_the_dense_product(
    name: str, share: float, rows: int
) -> None:
    options = {} if name == "TensorTrain" else {"activation": "identity"}
    program = contraction(getattr(adntn, name)((4096, 4096), bond=2, **options).network, rows)
    assert max(tensor.size for step in program.steps for tensor in (*step.inputs, step.out)) <= rows * 2**15
    assert cost(program).operations < share * 2 * rows * 4096 * 4096


@pytest.mark.parametrize("rows", [1, 32])
def test_no_weight_is_formed_behind_an_activation_either(rows: int) -> None:
    program = contraction(adntn.TTN((4096, 4096), bond=2, activation="tanh").network, rows)
    assert max(step.out.size for step in program.steps) < 4096 * 4096 / 8


def test_what_the_cores_make_alone_does_not_depend_on_the_rows() -> None:
    parts = halves(adntn.MERA((64, 64), bond=2).network, 4)
    assert all(parts.x.legs[0] not in tensor.legs for step in parts.head.steps for tensor in (*step.inputs, step.out))
    whole = contraction(adntn.MERA((64, 64), bond=2).network, 4)
    assert len(parts.head.steps) + len(parts.tail.steps) == len(whole.steps)


def test_numbers_of_rows_share_their_search() -> None:
    network = adntn.TTN((64, 64), bond=2).network
    one, other = contraction(network, 5), contraction(network, 8)
    assert [step.out.name for step in one.steps] == [step.out.name for step in other.steps]
    assert one.inputs[-1].size == 5 * 64
    assert one.outputs[0].size == 5 * 64


@pytest.mark.parametrize(
    "name",
    [name for name in TOPOLOGIES if not TOPOLOGIES[name]("tanh")(SHAPE).network.levels[-1].activation.is_identity],
)
def test_an_activation_after_the_last_level_is_refused(name: str) -> None:
    generator = TOPOLOGIES[name]("tanh")(SHAPE)
    x, _ = rows_of(generator, 0)
    for use in (contracted, contracted_vjp):
        with pytest.raises(ValueError, match=r'needs last_activation="identity", but tanh stands after .*"stream"'):
            use(generator, generic_cores(generator), x)


def test_a_weight_that_is_no_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs a matrix.*\(4, 4, 3\)"):
        contraction(adntn.TTN((4, 4, 3)).network, 2)


def test_labels_and_names_may_be_used_again() -> None:
    """A later level may call another leg what an earlier one has summed; cores may be called x, a leg row."""
    generator = adntn.Custom(
        (4, 6),
        blocks=[
            adntn.Block({"x": "a row"}),
            adntn.Block({"y": "a b c", "z": "row b d"}),
            adntn.Block({"w": "c a row", "v": "d a b"}),
        ],
        sizes={"a": 3, "row": 4, "b": 6, "c": 2, "d": 2},
        output="row | b",
    )
    cores = generic_cores(generator)
    x, y_bar = rows_of(generator, 3)
    check(
        by_contraction(generator, cores, x, y_bar), through_the_weight(generator, cores, x, y_bar), tolerance("float64")
    )


def test_levels_before_the_last_activation_keep_their_paths() -> None:
    generator = adntn.MERA((16, 16), bond=2, activation="tanh")
    chosen = generator.with_path("greedy").with_path([(0, 1), (0, 1), (0, 1)], level=1)
    before = [str(step) for step in chosen.program.steps if step.out.name.startswith(("level1", "Z1", "X1"))]
    assert [str(step) for step in contraction(chosen.network, 3, chosen.paths).steps][: len(before)] == before
    assert [str(step) for step in contraction(chosen.network, 3).steps][: len(before)] != before
    cores = generic_cores(chosen)
    x, y_bar = rows_of(chosen, 3)
    check(by_contraction(chosen, cores, x, y_bar), through_the_weight(chosen, cores, x, y_bar), tolerance("float64"))


def test_the_search_is_repeatable_and_leaves_the_users_random_numbers_alone() -> None:
    code = (
        "import adntn; from adntn.program.contract import contraction;"
        " print(contraction(adntn.MERA((32, 32), bond=2).network, 3))"
    )
    before = random.getstate()
    own = str(contraction(adntn.MERA((32, 32), bond=2).network, 3))
    assert random.getstate() == before
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, env={"PYTHONHASHSEED": seed}
        )
        assert run.stdout.strip() == own
