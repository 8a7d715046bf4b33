"""Any generator, from its start to a file and back: weight, adjoint, every schedule, and the same bytes again.

A long search for generators that break this: HYPOTHESIS_PROFILE=long python -m pytest tests/test_round_trip.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (gives NumPy bfloat16)
import numpy as np
from helpers import in_double, random_array
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import generators

import adntn
from adntn.arrays import DTYPES, place
from adntn.files.file import on_host
from adntn.program.schedule import SCHEDULES
from adntn.verification.compare import difference
from adntn.verification.reference import reference, reference_of
from adntn.verification.tolerance import EPSILON, ILL_CONDITIONED, depth, tolerance

ALL = tuple(adntn.ACTIVATIONS)
HOLOMORPHIC = tuple(name for name, activation in adntn.ACTIVATIONS.items() if activation.holomorphic)
#: What 16 bits, and gradients of a few numbers in them, still hold.
LARGEST = 2.0**10
#: Each takes long, because the right answer is looked for anew.
EXAMPLES = settings().max_examples // 4


def inner(left: Any, right: Any) -> float:
    return float(np.vdot(in_double(left), in_double(right)).real)


def short_numbers(shape: tuple[int, ...], seed: int, dtype: str) -> Any:
    """Random numbers that every number type has exactly, as multiples of 1/16."""
    is_complex = dtype.startswith("complex")
    drawn = random_array(shape, seed, "complex128" if is_complex else "float64")
    return place(np.round(np.asarray(drawn) * 16) / 16, "numpy", dtype)


@st.composite
def points(draw: st.DrawFn, shapes: st.SearchStrategy[tuple[int, ...]]) -> tuple[adntn.Generator, str, Any]:
    """A generator, a number type, and a place that is not ill-conditioned, with the right answers there."""
    dtype = draw(st.sampled_from(DTYPES))
    is_complex = dtype.startswith("complex")
    generator = draw(generators(HOLOMORPHIC if is_complex else ALL, shapes))
    made = reference(generator, is_complex=is_complex)
    assume(made.condition <= ILL_CONDITIONED)
    assume(max(float(np.linalg.norm(made.weight)), *made.sizes.values()) < LARGEST)
    return generator, dtype, made


@settings(max_examples=EXAMPLES)
@given(points(st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)), st.integers(0, 2**32))
def test_a_generator_goes_from_its_start_to_a_file_and_back(point: tuple[adntn.Generator, str, Any], seed: int) -> None:
    generator, dtype, made = point
    allowed = tolerance(dtype, depth(generator), made.condition)
    start = generator.init(seed, dtype=dtype)
    assert all(np.isfinite(in_double(core)).all() for core in start.values())

    cores = {name: place(core, "numpy", dtype) for name, core in made.cores.items()}
    weight, pullback = generator.vjp(cores)
    assert difference(in_double(weight), made.weight, float(np.linalg.norm(made.weight)) or 1.0) <= allowed
    gradients = pullback(place(made.weight_bar, "numpy", dtype))
    for name, gradient in gradients.items():
        assert difference(in_double(gradient), made.gradients[name], made.sizes[name]) <= allowed, name

    along = {name: short_numbers(core.shape, place, dtype) for place, (name, core) in enumerate(cores.items())}
    _, tangent = generator.jvp(cores, along)
    found = sum(inner(gradients[name], along[name]) for name in cores)
    natural = sum(made.sizes[name] * float(np.linalg.norm(in_double(along[name]))) for name in cores)
    natural += float(np.linalg.norm(made.weight_bar) * np.linalg.norm(in_double(tangent)))
    assert abs(found - inner(made.weight_bar, tangent)) <= allowed * natural

    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder) / "first", Path(folder) / "second"
        adntn.save(first, {"a": (generator, cores), "b": (generator, start), "c": (generator, cores)})
        loaded = adntn.load(first)
        adntn.save(second, loaded)
        assert first.read_bytes() == second.read_bytes()
    for name, kept in (("a", cores), ("b", start), ("c", cores)):
        again, found_cores = loaded[name]
        assert again == generator
        assert {one: on_host(core).tobytes() for one, core in found_cores.items()} == {
            one: on_host(core).tobytes() for one, core in kept.items()
        }
    assert loaded["a"][0].weight(loaded["a"][1]).tobytes() == generator.weight(cores).tobytes()


@settings(max_examples=EXAMPLES)
@given(
    points(st.tuples(st.integers(1, 12), st.integers(1, 12))),
    st.sampled_from(SCHEDULES),
    st.integers(0, 5),
    st.sampled_from([None, 2**20]),
)
def test_every_schedule_is_the_product_with_the_weight(
    point: tuple[adntn.Generator, str, Any], schedule: Any, rows: int, limit: int | None
) -> None:
    generator, dtype, made = point
    assume(schedule != "contract" or generator.network.levels[-1].activation.is_identity)
    lead = () if generator.network.batch is None else (generator.network.batch,)
    cores = {name: place(core, "numpy", dtype) for name, core in made.cores.items()}
    x = short_numbers((*lead, rows, generator.shape[-1]), 1, dtype)
    y_bar = short_numbers((*lead, rows, generator.shape[-2]), 2, dtype)
    allowed = 2 * tolerance(dtype, depth(generator), made.condition)  # of the weight, and of the product

    y, pullback = generator.apply_vjp(cores, x, schedule=schedule, memory_limit=limit)
    x_bar, gradients = pullback(y_bar)
    wide, wide_bar, transposed = in_double(x), in_double(y_bar), made.weight.swapaxes(-1, -2)
    size = float(np.linalg.norm(made.weight))
    alone = generator.apply(cores, x, schedule=schedule, memory_limit=limit)  # may scale the weight, not its product
    for found in (y, alone):
        assert difference(in_double(found), wide @ transposed, size * float(np.linalg.norm(wide)) or 1.0) <= allowed
    exact = wide_bar @ made.weight.conj()
    assert difference(in_double(x_bar), exact, size * float(np.linalg.norm(wide_bar)) or 1.0) <= allowed

    right = reference_of(generator, made.cores, wide_bar.swapaxes(-1, -2) @ wide.conj())
    assume(right.condition <= ILL_CONDITIONED)
    # dL/dW may be made and rounded on the way, which arrives as a change of it does
    allowed = 2 * tolerance(dtype, depth(generator), right.condition) + right.condition * EPSILON[dtype]
    for name, gradient in gradients.items():
        assert difference(in_double(gradient), right.gradients[name], right.sizes[name]) <= allowed, name
