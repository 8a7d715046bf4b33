"""Schedules: every one gives the same numbers, the choice is the fastest that fits, and bad requests are named."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    OBJECTS,
    generic_cores,
    in_library,
    measured,
    needs,
    random_array,
    reference_weight,
    relative_error,
    tolerance,
)
from matrix import SHAPE

import adntn
from adntn.machine import DEFAULT, cache_file, forget
from adntn.program.schedule import Choice, choose, rounded
from adntn.program.task import DenseForecast, Task
from adntn.verification.compare import in_double
from adntn.verification.tolerance import EPSILON


@pytest.fixture(autouse=True)
def _uncalibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ADNTN_CACHE", str(tmp_path))
    forget()
    yield
    forget()


Topology = Callable[[str], adntn.Options]

SHARED = ("auto", "materialise", "recompute", "stream")
LARGE = adntn.TTN((1024, 1024), bond=2)


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("lead", [(), (5,), (2, 3), (0,)])
def test_every_schedule_gives_the_same_numbers(topology: Topology, library: str, lead: tuple[int, ...]) -> None:
    needs(library)
    generator = topology("tanh")(SHAPE)
    cores = generic_cores(generator)
    weight = reference_weight(generator, cores)
    batch = () if generator.network.batch is None else (generator.network.batch,)
    if batch and not lead:
        lead = (1,)
    x, y_bar = random_array((*batch, *lead, SHAPE[1])), random_array((*batch, *lead, SHAPE[0]), 1)
    expected = np.einsum("g...i,goi->g...o" if batch else "...i,oi->...o", x, weight)
    x_bar = np.einsum("g...o,goi->g...i" if batch else "...o,oi->...i", y_bar, weight)
    weight_bar = np.einsum("gao,gai->goi" if batch else "ao,ai->oi", *(flat(array, batch) for array in (y_bar, x)))
    _, residuals = generator.forward(cores)
    wanted = generator.pullback(residuals, cores, weight_bar)
    own = in_library({**cores, "x": x, "y_bar": y_bar}, library)
    own_x, own_bar = own.pop("x"), own.pop("y_bar")
    for schedule in SHARED:
        y = generator.apply(own, own_x, schedule=schedule)  # type: ignore[arg-type]
        again, pullback = generator.apply_vjp(own, own_x, schedule=schedule)  # type: ignore[arg-type]
        found_x, found = pullback(own_bar)
        for result in (y, again):
            assert tuple(result.shape) == expected.shape
            assert close(result, expected)
        assert close(found_x, x_bar)
        assert set(found) == set(wanted)
        for name, gradient in wanted.items():
            assert close(found[name], gradient), (schedule, name)


def flat(array: Any, batch: tuple[int, ...]) -> Any:
    return array.reshape(*batch, math.prod(array.shape[len(batch) : -1]), array.shape[-1])


def close(found: Any, expected: Any) -> bool:
    """Zero rows have no norm to compare with."""
    if not np.any(expected):
        return not np.any(np.asarray(found))
    return relative_error(found, expected) < tolerance("float64")


# The choice


@pytest.mark.parametrize("training", [False, True])
def test_the_report_of_a_layer_says_which_schedule_is_taken_and_why(training: bool) -> None:
    plain, report = LARGE.report(), LARGE.report(rows=64, training=training, memory_limit=2**22)
    assert plain.choice is None
    task = Task(LARGE.network, rows=64, training=training, keeps=training)
    assert report.choice == choose(task, DEFAULT, "auto", 2**22)
    assert str(report).startswith(str(plain))
    more = str(report).splitlines()[len(str(plain).splitlines()) :]
    assert f"{report.choice.taken.schedule}, the fastest predicted within the limit of 4,194,304 bytes" in more[0]
    assert len(more) == 1 + len(report.choice.forecasts) + 1
    products, copies = (3, 2) if training else (1, 1)  # of W, dW and dx; W and dW
    seconds = products * DEFAULT.seconds(2 * 64 * 1024**2, 4 * (1024**2 + 2 * 64 * 1024))
    assert report.choice.dense.seconds == pytest.approx(seconds, rel=0.1)
    assert report.choice.dense.bytes == copies * 4 * 1024**2
    assert more[-1].split(maxsplit=3) == ["a", "dense", "layer", report.choice.dense.cost]
    with pytest.raises(ValueError, match="rows must be a positive integer, or None, got 0"):
        LARGE.report(rows=0)


def test_the_fastest_within_the_limit_is_taken() -> None:
    for rows in (1, 64, 4096):
        free = choose(Task(LARGE.network, rows=rows), DEFAULT, "auto", 2**40)
        assert free.taken.seconds == min(one.seconds for one in free.forecasts)
        limited = choose(Task(LARGE.network, rows=rows), DEFAULT, "auto", 2**22)
        assert limited.taken.bytes <= 2**22
        assert all(one.seconds >= limited.taken.seconds for one in limited.forecasts if one.bytes <= 2**22)


@pytest.mark.parametrize("schedule", SHARED)
def test_a_limit_that_nothing_fits_names_the_least_that_works(schedule: Any) -> None:
    task = Task(LARGE.network, rows=16)
    with pytest.raises(ValueError, match="memory_limit=10 bytes is too little") as caught:
        choose(task, DEFAULT, schedule, 10)
    least = int(str(caught.value).rsplit("is ", 1)[1].split(" (")[0].replace(",", ""))
    assert choose(task, DEFAULT, schedule, least).taken.bytes == least
    with pytest.raises(ValueError, match="too little"):
        choose(task, DEFAULT, schedule, least - 1)


@pytest.mark.parametrize("shape", [(1024, 1024), (4096, 4096), (4096, 25088), (512, 512, 3, 3)], ids=str)
@pytest.mark.parametrize("bond", [2, 4])
@pytest.mark.parametrize("constructor", [adntn.TTN, adntn.AugmentedTTN, adntn.MERA], ids=lambda one: one.name)
def test_auto_takes_no_more_than_the_dense_layer(
    constructor: adntn.Topology, bond: int, shape: tuple[int, ...]
) -> None:
    network = constructor(shape, bond=bond, activation="tanh").network
    copies = 2 if len(shape) > 2 else 1  # libraries of convolutions lay kernels and their gradients out anew
    for training in (False, True):
        for rows in (1, 32, 256, 4096):
            task = Task(network, rows=rows, training=training)
            assert choose(task, DEFAULT).taken.bytes <= copies * task.weight_bytes * (2 if training else 1)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "complex64"])
@pytest.mark.parametrize("schedule", ["materialise", "recompute", "stream"])
def test_no_schedule_holds_more_than_its_limit(schedule: Any, dtype: str, training: bool) -> None:
    generator = adntn.TTN((1024, 1024), bond=2, activation="sin", last_activation="sin")
    cores, x = generator.init(seed=0, dtype=dtype), np.ones((8, 1024), dtype)

    def run(limit: int) -> None:
        if training:
            y, pullback = generator.apply_vjp(cores, x, schedule=schedule, memory_limit=limit)
            pullback(y)
        else:
            generator.apply(cores, x, schedule=schedule, memory_limit=limit)

    with pytest.raises(ValueError, match="the least that works is ") as error:
        run(1)
    limit = int(str(error.value).rpartition("works is ")[2].partition(" ")[0].replace(",", ""))
    theirs = (2 if training else 1) * x.nbytes + OBJECTS
    assert measured(lambda: run(limit)) < limit + theirs


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("schedule", ["materialise", "recompute", "stream", "contract"])
def test_numbers_of_16_bits_stay_such_numbers(schedule: Any, dtype: str) -> None:
    generator = adntn.TTN((16, 12), bond=2, activation="tanh")
    cores = generator.init(seed=0, dtype=dtype, std=1.0)
    x = np.ones((3, 12), cores["scale"].dtype)
    y, pullback = generator.apply_vjp(cores, x, schedule=schedule)
    x_bar, gradients = pullback(y)
    assert {str(one.dtype) for one in (y, x_bar, *gradients.values())} == {dtype}
    assert np.array_equal(y, generator.apply(cores, x, schedule=schedule))
    weight = reference_weight(generator, cores)
    assert relative_error(y, in_double(x) @ weight.T) < 4 * EPSILON[dtype]
    assert relative_error(x_bar, in_double(y) @ weight) < 4 * EPSILON[dtype]


def test_a_choice_says_what_was_taken_why_and_what_others_would_cost() -> None:
    made = choose(Task(LARGE.network), DEFAULT)
    assert isinstance(made, Choice)
    lines = str(made).splitlines()
    assert lines[0].startswith(f"{made.taken.schedule}, the fastest predicted within the dense layer's")
    names = [*(one.schedule for one in made.forecasts), "a dense layer"]
    assert [line.split(":")[0].strip() for line in lines[1:]] == names


def products(rows: int, columns: int, out: int) -> float:
    """What the product of so many rows with a weight takes at least: its operations, and x, W and y moved once."""
    return DEFAULT.seconds(2 * rows * columns * out, 4 * (columns * out + rows * (columns + out)))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("schedule", ["materialise", "recompute", "stream"])
@pytest.mark.parametrize(("shape", "beyond"), [((1024, 1024), 1.05), ((128, 128, 3, 3), 1.2)], ids=["matrix", "kernel"])
def test_many_rows_take_as_long_as_their_products_and_few_as_long_as_the_weight(
    shape: tuple[int, ...], beyond: float, schedule: Any, compiled: bool
) -> None:
    network = adntn.TTN(shape, bond=2, activation="tanh").network
    out, columns = shape[0], math.prod(shape[1:])
    seconds = {
        (rows, training): choose(Task(network, (), rows, training, compiled=compiled), DEFAULT, schedule).taken.seconds
        for rows in (1, 64, 4096, 65536)
        for training in (False, True)
    }
    for rows in (1, 64, 4096, 65536):
        once = products(rows, columns, out)
        assert seconds[rows, False] > once
        assert seconds[rows, True] > 3 * once
        assert seconds[rows, True] > 2.5 * seconds[rows, False]
    if schedule != "stream":  # it makes tiles for each of the products, and adds up what they give
        assert seconds[65536, False] < beyond * once
        assert seconds[65536, True] < 3 * beyond * once
    for training in (False, True):
        few, some, many, most = (seconds[rows, training] for rows in (1, 64, 4096, 65536))
        assert few < some < many < most
        assert few > 2 * products(1, columns, out)


@pytest.mark.parametrize("rank", [4, 64])
def test_contracting_takes_as_long_as_the_products_of_the_cores(rank: int) -> None:
    network = adntn.LowRank((2048, 1024), rank=rank).network
    for rows in (4096, 65536):
        once = products(rows, 1024, rank) + products(rows, rank, 2048)
        for training, times in ((False, 1), (True, 3)):
            found = choose(Task(network, (), rows, training), DEFAULT, "contract").taken
            assert times * once < found.seconds < 4 * times * once, (rows, training)  # some are turned round


def test_time_and_memory_are_said_in_milliseconds_and_bytes() -> None:
    assert DenseForecast(0.0015, 4096).cost == "1.50 ms predicted, 4,096 bytes"


@pytest.mark.parametrize("limit", [2**22, 2**20, 2**24])
@pytest.mark.parametrize("size", [1024, 256])
def test_schedules_that_a_limit_excludes_are_marked(size: int, limit: int) -> None:
    task = Task(adntn.TTN((size, size), bond=4).network, rows=64)
    made = choose(task, DEFAULT, "auto", limit)
    assert not made.costs[made.taken.schedule].endswith("over the limit")
    for one in made.forecasts:
        if made.costs[one.schedule].endswith("over the limit"):
            with pytest.raises(ValueError, match=f"the least that works is {one.bytes:,} "):
                choose(task, DEFAULT, one.schedule, limit)
        else:
            assert choose(task, DEFAULT, one.schedule, limit).taken == one


def test_nothing_is_marked_where_no_limit_is_kept() -> None:
    asked_for = choose(Task(LARGE.network, rows=64), DEFAULT, "stream")
    assert asked_for.reason == "as asked for"
    network = adntn.TTN((2048, 2048), bond=4, activation="tanh").network
    beyond = choose(Task(network, itemsize=2, streams=False, contracts=False), DEFAULT)
    assert beyond.reason == "which takes the least memory"
    assert beyond.taken.bytes > beyond.dense.bytes
    for made in (asked_for, beyond):
        assert made.limit is None
        assert "over the limit" not in str(made)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a misspelt schedule": ({"schedule": "strem"}, ValueError, "schedule must be one of auto, .*got 'strem'"),
    "a limit in words": ({"memory_limit": "1 GB"}, TypeError, "memory_limit must be an integer.*'1 GB'"),
    "a limit of True": ({"memory_limit": True}, TypeError, "memory_limit must be an integer.*True"),
    "a limit of a half": ({"memory_limit": 0.5}, TypeError, "memory_limit must be an integer.*0.5"),
    "no memory": ({"memory_limit": 0}, ValueError, "memory_limit must be a positive number of bytes.*0"),
    "little memory": ({"memory_limit": 7}, ValueError, "the least that works is"),
}


@pytest.mark.parametrize(("arguments", "error", "words"), BAD.values(), ids=BAD)
def test_bad_requests_are_named(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    x = np.zeros((2, 1024), "float32")
    for use in (LARGE.apply, LARGE.apply_vjp):
        with pytest.raises(error, match=words):
            use(LARGE.init(), x, **arguments)


@pytest.mark.parametrize("rows", [-1, 1.5, "8"])
def test_numbers_of_rows_are_checked(rows: Any) -> None:
    with pytest.raises(ValueError, match=f"rows must be an integer, and not negative, got {rows!r}"):
        rounded(rows)


def test_rows_that_are_no_array_are_named() -> None:
    for use in (LARGE.apply, LARGE.apply_vjp):
        with pytest.raises(TypeError, match="x must be an array of the cores' library, got list"):
            use(LARGE.init(), [[1.0] * 1024])


@pytest.mark.parametrize("library", ["jax", "array_api_strict"])
def test_arrays_that_cannot_be_written_are_not_streamed(library: str) -> None:
    needs(library)
    generator = adntn.TTN((16, 12), bond=2)
    cores = generic_cores(generator, dtype="float32")
    x = random_array((5, 12), dtype="float32")
    own = in_library({**cores, "x": x}, library)
    own_x = own.pop("x")
    for use in (generator.apply, generator.apply_vjp):
        with pytest.raises(ValueError, match='"stream" needs arrays that can be written'):
            use(own, own_x, schedule="stream")
    expected = x @ reference_weight(generator, cores).T
    for schedule in ("auto", "materialise", "recompute"):
        assert relative_error(generator.apply(own, own_x, schedule=schedule), expected) < tolerance("float32")  # type: ignore[arg-type]
        y, pullback = generator.apply_vjp(own, own_x, schedule=schedule)  # type: ignore[arg-type]
        assert relative_error(y, expected) < tolerance("float32")
        assert set(pullback(y)[1]) == set(cores)


def test_a_corrupt_calibration_only_warns() -> None:
    cache_file().write_text("{")
    forget()
    with pytest.warns(UserWarning, match="is ignored"):
        LARGE.apply(LARGE.init(), np.zeros((1, 1024), "float32"))
    with warnings.catch_warnings(action="error"):
        LARGE.apply(LARGE.init(), np.zeros((1, 1024), "float32"))
