"""Training without automatic differentiation: our adjoint with our Adam, and fits by SciPy, on NumPy and CuPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import relative_error, tolerance

import adntn


def textbook_adam(core: np.ndarray, gradients: list[np.ndarray], rate: float) -> np.ndarray:
    """Algorithm 1 of arXiv:1412.6980, number by number; a complex number moves by its own magnitude."""
    core = core.copy()
    for index in np.ndindex(core.shape):
        mean, square = 0.0, 0.0
        for step, gradient in enumerate(gradients, start=1):
            mean = 0.9 * mean + 0.1 * gradient[index]
            square = 0.999 * square + 0.001 * abs(gradient[index]) ** 2
            core[index] -= rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    return core


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_adam_takes_the_steps_of_its_paper(dtype: str, library: Any) -> None:
    random = np.random.default_rng(0)
    factor = 1 + 2j if dtype.startswith("complex") else 1
    shapes = {"scale": (), "top": (2, 3), "wide": (4, 1, 2)}
    start = {name: np.asarray(factor * random.standard_normal(shape), dtype) for name, shape in shapes.items()}
    each = [{name: np.asarray(random.standard_normal(shape) * factor**step, dtype) for name, shape in shapes.items()}
            for step in range(4)]  # fmt: skip
    adam = adntn.Adam(learning_rate=0.1)
    cores = {name: library.array(core) for name, core in start.items()}
    state = adam.init(cores)
    for gradients in each:
        reordered = {name: library.array(gradients[name]) for name in reversed(gradients)}
        cores, state = adam.update(cores, reordered, state)
    assert state.step == 4
    for name, core in start.items():
        expected = textbook_adam(core.astype(np.result_type(dtype, "float64")), [one[name] for one in each], 0.1)
        assert cores[name].dtype == core.dtype
        assert tuple(cores[name].shape) == shapes[name]
        assert relative_error(library.numpy(cores[name]), expected) <= tolerance(dtype)


def test_adam_leaves_what_it_was_given(library: Any) -> None:
    cores = {"top": library.array(np.ones(3))}
    adam = adntn.Adam()
    state = adam.init(cores)
    adam.update(cores, cores, state)
    np.testing.assert_array_equal(library.numpy(cores["top"]), np.ones(3))
    np.testing.assert_array_equal(library.numpy(state.square), np.zeros(3))


def test_short_numbers_keep_their_moments_in_float32(library: Any) -> None:
    cores = {"top": library.array(np.ones(3, "float16"))}
    tiny = {"top": library.array(np.full(3, 1e-4, "float16"))}  # its square is no float16
    adam = adntn.Adam(learning_rate=0.5)
    moved, state = adam.update(cores, tiny, adam.init(cores))
    assert str(state.square.dtype) == "float32"
    assert str(moved["top"].dtype) == "float16"
    np.testing.assert_allclose(library.numpy(moved["top"]), 0.5, rtol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_the_adjoint_and_adam_train_a_generator(dtype: str, library: Any) -> None:
    generator = adntn.MERA((16, 12), bond=2, activation="tanh")
    target = generator.weight(generator.init(1, backend=library.name, dtype=dtype, device=library.device))
    cores = generator.init(0, backend=library.name, dtype=dtype, device=library.device)
    adam = adntn.Adam(learning_rate=0.02)
    state = adam.init(cores)
    norm = np.linalg.norm(library.numpy(target))
    errors = []
    for _ in range(200):
        weight, pullback = generator.vjp(cores)
        errors.append(np.linalg.norm(library.numpy(weight - target)) / norm)
        cores, state = adam.update(cores, pullback(weight - target), state)
    assert errors[-1] < 0.6 * errors[0]


BAD_ADAMS = {
    "learning_rate": ({"learning_rate": 0.0}, "learning_rate.*0.0"),
    "learning_rate, NaN": ({"learning_rate": float("nan")}, "learning_rate.*nan"),
    "decay": ({"decay": (0.9, 1.0)}, r"decay.*\(0.9, 1.0\)"),
    "epsilon": ({"epsilon": -1e-8}, "epsilon.*-1e-08"),
}


@pytest.mark.parametrize(("options", "words"), BAD_ADAMS.values(), ids=BAD_ADAMS)
def test_an_adam_out_of_range_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        adntn.Adam(**options)


BAD_GRADIENTS = {
    "missing": ({"top": np.ones(3)}, KeyError, "'scale'"),
    "unknown": ({"top": np.ones(3), "scale": np.ones(()), "other": np.ones(1)}, KeyError, "'other'"),
    "another shape": ({"top": np.ones(2), "scale": np.ones(())}, ValueError, r"'top'.*\(3,\).*\(2,\)"),
    "another dtype": ({"top": np.ones(3, "float32"), "scale": np.ones(())}, TypeError, "'top'.*float64.*float32"),
}


@pytest.mark.parametrize(("gradients", "error", "words"), BAD_GRADIENTS.values(), ids=BAD_GRADIENTS)
def test_gradients_that_do_not_fit_are_named(gradients: dict[str, Any], error: type[Exception], words: str) -> None:
    cores, adam = {"top": np.ones(3), "scale": np.ones(())}, adntn.Adam()
    with pytest.raises(error, match=words):
        adam.update(cores, gradients, adam.init(cores))


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_a_low_rank_fit_reaches_the_truncated_svd(dtype: str, library: Any) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((12, 10)) + (1j * random.standard_normal((12, 10)) if "complex" in dtype else 0)
    weight = weight.astype(dtype)
    values = np.linalg.svd(weight.astype(np.result_type(dtype, "float64")), compute_uv=False)
    found = adntn.fit(adntn.LowRank((12, 10), rank=2), library.array(weight), iterations=2000)
    assert found.error == pytest.approx(np.sqrt(np.sum(values[2:] ** 2) / np.sum(values**2)), rel=1e-4)
    assert {str(core.dtype) for core in found.cores.values()} == {dtype}
    assert library.numpy(found.cores["left"]).shape == (12, 2)


def test_a_fit_starts_from_the_hierarchical_svd_wherever_the_weight_is(library: Any) -> None:
    generator = adntn.TTN((24, 20), bond=3, activation="identity")
    weight = generator.weight(generator.init(1, dtype="float64"))
    assert adntn.fit(generator, library.array(weight), iterations=0).error < 1e-12
