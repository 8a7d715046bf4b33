"""The class a user meets first: applying, checking what is handed in, reporting, and importing no framework."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import compiled, generic_cores, in_library, random_array, relative_error, tolerance
from matrix import SHAPE, TOPOLOGIES

import adntn

Topology = Callable[[str], adntn.Options]
TTN = adntn.TTN((16, 12), bond=2, activation="tanh")


def test_importing_the_core_imports_no_framework() -> None:
    code = "import adntn, sys; assert not {'torch', 'jax', 'cupy', 'tensornetwork', 'quimb'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("lead", [(), (5,), (2, 3), (0,)])
def test_applying_multiplies_by_the_transposed_weight(library: str, lead: tuple[int, ...]) -> None:
    cores = generic_cores(TTN)
    x = random_array((*lead, 12))
    own = in_library({**cores, "x": x}, library)
    own_x = own.pop("x")
    result = compiled(library, TTN.apply)(own, own_x)
    assert tuple(result.shape) == (*lead, 16)
    assert relative_error(result, x @ TTN.weight(cores).T) < tolerance("float64")


def test_a_batch_is_applied_weight_by_weight() -> None:
    generator = adntn.TTN((16, 12), bond=2, batch=3)
    cores = generic_cores(generator)
    x = random_array((3, 2, 5, 12))
    expected = np.einsum("gabi,goi->gabo", x, generator.weight(cores))
    assert relative_error(generator.apply(cores, x), expected) < tolerance("float64")


BAD_INPUTS: dict[str, tuple[adntn.Generator, tuple[int, ...], str]] = {
    "too narrow": (TTN, (2, 11), r"x must have the shape \(..., 12\), got \(2, 11\)"),
    "a scalar": (TTN, (), r"x must have the shape \(..., 12\), got \(\)"),
    "another batch": (adntn.TTN((16, 12), batch=3), (2, 12), r"x must have the shape \(3, ..., 12\)"),
    "no matrix": (adntn.TTN((4, 4, 3)), (2, 3), r"apply needs a matrix.*\(4, 4, 3\)"),
}


@pytest.mark.parametrize(("generator", "shape", "words"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_inputs_that_do_not_fit_are_named(generator: adntn.Generator, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        generator.apply(generator.init(0), np.zeros(shape, dtype="float32"))


def without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda cores: {key: core for key, core in cores.items() if key != name}


BAD_CORES: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], type[Exception], str]] = {
    "one missing": (without("top"), KeyError, r"cores lack 'top' of shape \(2, 2"),
    "one too many": (lambda cores: {**cores, "tip": cores["top"]}, KeyError, "'tip', which is none"),
    "a wrong shape": (
        lambda cores: {**cores, "top": cores["top"][:1]},
        ValueError,
        r"core 'top' must have the shape \(2, 2.*\), got \(1, 2",
    ),
    "another dtype": (
        lambda cores: {**cores, "top": cores["top"].astype("float64")},
        TypeError,
        "share one dtype: 'top' has 'float64', 'level1/isometry0' has 'float32'",
    ),
    "integers": (
        lambda cores: {name: core.astype("int32") for name, core in cores.items()},
        TypeError,
        "dtypes float32.*got int32",
    ),
    "a list": (lambda cores: {**cores, "top": cores["top"].tolist()}, TypeError, "core 'top' must be an array.*list"),
}


@pytest.mark.parametrize(("change", "error", "words"), BAD_CORES.values(), ids=BAD_CORES)
def test_cores_that_do_not_fit_are_named(
    change: Callable[[dict[str, Any]], dict[str, Any]], error: type[Exception], words: str
) -> None:
    cores = change(TTN.init(0))
    for use in (TTN.weight, TTN.vjp, lambda given: TTN.apply(given, np.zeros((1, 12), "float32"))):
        with pytest.raises(error, match=words):
            use(cores)


def test_cores_are_a_mapping() -> None:
    with pytest.raises(TypeError, match="mapping from names to arrays, got list"):
        TTN.weight(list(TTN.init(0).values()))  # type: ignore[arg-type]
    nn = pytest.importorskip("torch.nn")
    parameters = nn.ParameterDict(TTN.init(0, backend="torch"))
    with pytest.raises(TypeError, match=r"got ParameterDict; take dict\(...\) of it"):
        TTN.weight(parameters)
    assert TTN.weight(dict(parameters)).shape == TTN.shape


def test_cores_of_two_libraries_are_not_mixed() -> None:
    torch = pytest.importorskip("torch")
    cores = TTN.init(0)
    with pytest.raises(TypeError, match="share one library: 'top' has 'torch', 'level1/isometry0' has 'numpy'"):
        TTN.weight({**cores, "top": torch.from_numpy(cores["top"])})
    with pytest.raises(TypeError, match="x and the cores must share one library"):
        TTN.apply(cores, torch.zeros(2, 12))


def test_a_core_may_be_called_as_the_input_is() -> None:
    torch = pytest.importorskip("torch")
    generator = adntn.Custom((3, 4), blocks=[adntn.Block({"x": "r c"})], sizes={"r": 3, "c": 4}, output="r | c")
    with pytest.raises(TypeError, match="x and the cores must share one library: 'x' has 'numpy'"):
        generator.apply(generator.init(0, backend="torch"), np.zeros((2, 4), "float32"))
    assert generator.apply(generator.init(0, backend="torch"), torch.zeros(2, 4)).shape == (2, 3)


def test_weight_adjoints_that_do_not_fit_are_named() -> None:
    _, pullback = TTN.vjp(TTN.init(0))
    with pytest.raises(ValueError, match=r"W_bar must have the weight's shape \(16, 12\), got \(12, 16\)"):
        pullback(np.zeros((12, 16), "float32"))
    with pytest.raises(TypeError, match=r"W_bar must be an array.*float"):
        pullback(1.0)


def test_gradient_descent_written_by_hand_learns() -> None:
    generator = adntn.MERA((16, 16), bond=2, activation="tanh")
    target = generator.weight(generator.init(1, dtype="float64"))
    cores = generator.init(2, dtype="float64")
    errors = []
    for _ in range(300):
        weight, pullback = generator.vjp(cores)
        errors.append(float(np.linalg.norm(weight - target)))
        gradients = pullback(2 * (weight - target))
        cores = {name: core - 0.02 * gradients[name] for name, core in cores.items()}
    assert errors[-1] < 0.7 * errors[0]


def rank(weight: Any) -> int:
    return int(np.linalg.matrix_rank(weight.reshape(weight.shape[0], -1), tol=1e-8 * np.linalg.norm(weight)))


@pytest.mark.parametrize("name", [name for name in TOPOLOGIES if "batch" not in name])
def test_no_weight_exceeds_the_reported_rank(name: str) -> None:
    for activation in ("identity", "tanh"):
        generator = TOPOLOGIES[name](activation)(SHAPE)
        bound = generator.report().rank_bound
        found = max(rank(generator.weight(generic_cores(generator, seed))) for seed in range(3))
        assert found <= (min(SHAPE) if bound is None else bound)


SHARP = {
    "split tree": (adntn.TTN((16, 16), bond=3, leg=1, layout="split", activation="identity"), 3),
    "low rank": (adntn.LowRank((64, 64), rank=5), 5),
    "a tensor train": (adntn.TensorTrain((64, 64), bond=4, layout="split"), 4),
}


@pytest.mark.parametrize(("generator", "bound"), SHARP.values(), ids=SHARP)
def test_the_reported_rank_is_reached(generator: adntn.Generator, bound: int) -> None:
    assert generator.report().rank_bound == bound
    assert rank(generator.weight(generic_cores(generator))) == bound
    assert f"at most {bound}" in str(generator.report())


def test_the_report_says_where_the_network_is_linear() -> None:
    assert "none: an ordinary, multilinear tensor network" in str(adntn.TTN((64, 64), bond=4).report())
    assert adntn.TTN((64, 64), bond=2, leg=1).report().activations == ("tanh",)


def test_an_activation_on_the_weight_lifts_the_bound() -> None:
    generator = adntn.TTN((64, 64), bond=2, leg=1, last_activation="tanh")
    assert generator.report().rank_bound is None
    assert "can be full" in str(generator.report())
    assert rank(generator.weight(generic_cores(generator))) > 16
