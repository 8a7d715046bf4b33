"""Paths that a user chooses: they change the order of contractions and nothing else, and a bad one is refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import opt_einsum
import pytest

import adntn


def cotengra_optimiser(name: str) -> Any:
    cotengra = pytest.importorskip("cotengra")
    options = {"optlib": "random", "methods": ["greedy"], "max_repeats": 4, "parallel": False, "progbar": False}
    return getattr(cotengra, name)(**options)


OPTIMISERS: dict[str, Callable[[], Any]] = {
    "greedy": lambda: "greedy",
    "dp": lambda: "dp",
    "opt_einsum, random greedy": lambda: opt_einsum.RandomGreedy(max_repeats=4),
    "opt_einsum, branch and bound": lambda: opt_einsum.BranchBound(nbranch=2),
    "opt_einsum, a function": lambda: opt_einsum.paths.greedy,
    "cotengra, hyper": lambda: cotengra_optimiser("HyperOptimizer"),
    "cotengra, reusable": lambda: cotengra_optimiser("ReusableHyperOptimizer"),
}
GENERATORS = {
    "TTN": adntn.TTN((24, 20), bond=3),
    "MERA, periodic, batch": adntn.MERA((8, 8), border="periodic", batch=2),
    "Brickwall": adntn.Brickwall((8, 8), depth=2, activation="silu"),
    "TensorTrain": adntn.TensorTrain((16, 16), bond=3, depth=2, activation="sin", last_activation="tanh"),
    "LowRank": adntn.LowRank((6, 5), rank=2),
    "Tucker": adntn.Tucker((6, 5, 4), rank=3),
}


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("optimiser", OPTIMISERS.values(), ids=OPTIMISERS)
@pytest.mark.parametrize("generator", GENERATORS.values(), ids=GENERATORS)
def test_a_path_changes_neither_weight_nor_gradients(
    generator: adntn.Generator, optimiser: Callable[[], Any], dtype: str
) -> None:
    chosen = generator
    for level in range(len(generator.network.levels)):  # some optimisers serve one contraction only
        chosen = chosen.with_path(optimiser(), level=level)
    cores = generator.init(0, dtype=dtype)
    np.testing.assert_equal(chosen.init(0, dtype=dtype), cores)
    weight, pullback = generator.vjp(cores)
    other, other_pullback = chosen.vjp(cores)
    np.testing.assert_allclose(other, weight, rtol=0, atol=1e-13 * np.abs(weight).max())
    weight_bar = np.random.default_rng(0).standard_normal(weight.shape).astype(dtype)
    for name, gradient in pullback(weight_bar).items():
        atol = 1e-12 * max(1.0, float(np.abs(gradient).max()))
        np.testing.assert_allclose(other_pullback(weight_bar)[name], gradient, rtol=0, atol=atol, err_msg=name)


def test_the_program_follows_the_path() -> None:
    generator = adntn.Tucker((6, 5), rank=3).with_path([(1, 2), (0, 1)], level=1)
    factors_first = [
        step for step in generator.program.steps if {"factor0", "factor1"} <= {t.name for t in step.inputs}
    ]
    assert len(factors_first) == 1
    state_first = generator.with_path([(0, 1), (0, 1)], level=1)
    assert not any({"factor0", "factor1"} <= {t.name for t in step.inputs} for step in state_first.program.steps)


def path_info(inputs: list[frozenset[str]], output: frozenset[str], sizes: dict[str, int], path: Any) -> Any:
    symbols = {label: opt_einsum.get_symbol(place) for place, label in enumerate(sizes)}
    words = ["".join(symbols[label] for label in labels) for labels in (*inputs, output)]
    shapes = [tuple(sizes[label] for label in labels) for labels in inputs]
    equation = f"{','.join(words[:-1])}->{words[-1]}"
    return opt_einsum.contract_path(equation, *shapes, shapes=True, optimize=path)[1]


def contraction_tree(inputs: list[frozenset[str]], output: frozenset[str], sizes: dict[str, int], path: Any) -> Any:
    return pytest.importorskip("cotengra").ContractionTree.from_path(inputs, output, sizes, path=path)


@pytest.mark.parametrize("held_by", [path_info, contraction_tree])
@pytest.mark.parametrize("path", [[(0, 1), (0, 1)], [(0, 2), (0, 1)], [(1, 2), (0, 1)]], ids=str)
def test_what_holds_a_path_is_taken_for_it(held_by: Callable[..., Any], path: list[tuple[int, int]]) -> None:
    asked: list[Any] = []

    def optimiser(*contraction: Any) -> Any:
        asked.append(contraction)
        return path

    generator = adntn.Tucker((6, 5), rank=3)
    expected = generator.with_path(optimiser, level=1)
    (contraction,) = asked
    found = generator.with_path(held_by(*contraction, path), level=1)
    assert [set(step) for step in found.paths[1] or ()] == [set(step) for step in expected.paths[1] or ()]


def test_a_generator_with_a_path_is_a_value_and_searches_once() -> None:
    calls = []

    def optimiser(inputs: list[frozenset[str]], output: frozenset[str], sizes: dict[str, int]) -> Any:
        calls.append(len(inputs))
        return opt_einsum.paths.greedy(inputs, output, sizes)

    generator = adntn.TensorTrain((16, 16), bond=3)
    chosen = generator.with_path(optimiser)
    assert calls == [8]
    assert chosen.program is chosen.program
    assert chosen.adjoint is chosen.adjoint
    assert calls == [8]
    assert chosen != generator
    assert hash(chosen) == hash(pickle.loads(pickle.dumps(chosen)))
    assert chosen == pickle.loads(pickle.dumps(chosen)) == generator.with_path(chosen.paths[0])


def test_an_optimiser_is_not_asked_where_there_is_no_choice() -> None:
    def optimiser(inputs: list[frozenset[str]], output: frozenset[str], sizes: dict[str, int]) -> Any:
        raise AssertionError(f"asked about {len(inputs)} tensors")

    assert adntn.LowRank((6, 5), rank=2).with_path(optimiser).paths == (((0, 1),),)


def test_levels_without_a_new_path_keep_theirs() -> None:
    generator = adntn.TTN((16, 16), bond=2, leg=2)
    first = generator.with_path("greedy", level=1)
    second = first.with_path("greedy", level=2)
    assert first.paths[2] is None
    assert second.paths[1] == first.paths[1]
    assert second.paths[2] is not None


BAD_PATHS: dict[str, tuple[Any, type[Exception], str]] = {
    "an unknown name": ("fastest", ValueError, "optimize.*'fastest'.*greedy"),
    "a number": (3, TypeError, "optimize must be a name.*got 3"),
    "positions that are no integers": ([(0, 1), ("a", "b")], TypeError, "optimize must be"),
    "too few steps": ([(0, 1)], ValueError, "level 1 must have 2 steps for 3 tensors, got 1"),
    "too many steps": ([(0, 1)] * 3, ValueError, "level 1 must have 2 steps for 3 tensors, got 3"),
    "three at once": ([(0, 1, 2), (0, 1)], ValueError, r"level 1.*0 to 2 here, got \(0, 1, 2\)"),
    "a tensor with itself": ([(1, 1), (0, 1)], ValueError, r"two different.*got \(1, 1\)"),
    "a tensor that is not there": ([(0, 1), (0, 2)], ValueError, r"0 to 1 here, got \(0, 2\)"),
    "a negative position": ([(0, 1), (0, -1)], ValueError, r"0 to 1 here, got \(0, -1\)"),
    "an optimiser that is wrong": (lambda inputs, output, sizes: [(0, 7)] * 2, ValueError, r"got \(0, 7\)"),
}


@pytest.mark.parametrize(("path", "error", "words"), BAD_PATHS.values(), ids=BAD_PATHS)
def test_a_bad_path_is_refused_at_once(path: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        adntn.Tucker((6, 5), rank=3).with_path(path, level=1)


@pytest.mark.parametrize("level", [-1, 2, 0.5, True])
def test_a_level_that_is_not_there_is_refused(level: Any) -> None:
    with pytest.raises(ValueError, match="level must be an integer from 0 to 1"):
        adntn.Tucker((6, 5), rank=3).with_path("greedy", level=level)


@pytest.mark.parametrize("name", ["opt_einsum, random greedy", "opt_einsum, branch and bound", "cotengra, hyper"])
def test_an_optimiser_for_one_contraction_says_so_where_there_are_several(name: str) -> None:
    with pytest.raises(ValueError, match="serves one level: name the level"):
        adntn.TTN((24, 20), bond=3).with_path(OPTIMISERS[name]())


def test_an_optimiser_for_many_contractions_serves_every_level() -> None:
    chosen = adntn.TTN((24, 20), bond=3).with_path(cotengra_optimiser("ReusableHyperOptimizer"))
    assert None not in chosen.paths


def test_one_path_for_levels_of_different_sizes_is_refused() -> None:
    with pytest.raises(ValueError, match="level 0 must have 0 steps for 1 tensors, got 2"):
        adntn.Tucker((6, 5), rank=3).with_path([(0, 1), (0, 1)])
