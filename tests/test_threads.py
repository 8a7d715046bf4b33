"""One generator in the hands of many threads at once: everyone gets the same bits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import autoray
import numpy as np
import pytest
from helpers import Cores, in_library, random_array

import adntn
from adntn.arrays import can_be_written
from adntn.files.file import on_host

THREADS, ROUNDS = 8, 3
SHAPE, DTYPE = (48, 40), "float32"
#: Built anew in each test and round, so that what is made once is made by all threads at once.
BUILD: dict[str, Callable[[int], adntn.Generator]] = {
    "MERA": lambda number: adntn.MERA(SHAPE, bond=2 + number, activation="tanh", last_activation="gelu"),
    "TTN, batch": lambda number: adntn.TTN(SHAPE, bond=2 + number, activation="silu", batch=2),
    "LowRank": lambda number: adntn.LowRank(SHAPE, rank=2 + number, last_activation="tanh"),
    "TensorTrain": lambda number: adntn.TensorTrain(SHAPE, bond=3 + number, depth=2, activation="tanh"),
}


def bits(result: Any) -> Any:
    """Everything in a result as bytes."""
    if isinstance(result, dict):
        return {name: bits(one) for name, one in result.items()}
    return [bits(one) for one in result] if isinstance(result, list | tuple) else on_host(result).tobytes()


def everything(generator: adntn.Generator, cores: Cores, x: Any, weight_bar: Any, indices: Any) -> list[Any]:
    """Weight, products, rows and their adjoints, by every schedule that the library has."""
    weight, pullback = generator.vjp(cores)
    found = [weight, pullback(weight_bar)]
    for schedule in ("materialise", "stream") if can_be_written(x) else ("materialise",):
        y, pull = generator.apply_vjp(cores, x, schedule=schedule)
        found += [y, *pull(y)]
    if generator.network.batch is None:
        rows, pull_rows = generator.rows_vjp(cores, indices)
        found += [rows, pull_rows(rows)]
    return [bits(one) for one in found]


@pytest.mark.parametrize("name", BUILD)
def test_eight_threads_get_the_same_bits_as_one(name: str, library: str) -> None:
    if library == "jax" and name != "LowRank":
        pytest.skip("JAX compiles every step anew, which takes seconds for each network")
    for number in range(1 if library == "jax" else ROUNDS):
        generator = BUILD[name](number)
        lead = generator.shape[:-2]
        cores = in_library(generator.init(0), library)  # double precision is an option of each thread of JAX
        given = [random_array((*lead, 5, SHAPE[1]), 1, DTYPE), random_array(generator.shape, 2, DTYPE), np.arange(3)]
        arrays = [autoray.do("asarray", one, like=library) for one in given]
        together = threading.Barrier(THREADS)

        def work(_: int, generator: Any = generator, cores: Any = cores, arrays: Any = arrays) -> list[Any]:
            together.wait()  # noqa: B023  (used up within the round)
            return everything(generator, cores, *arrays)

        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(work, range(THREADS)))
        alone = everything(BUILD[name](number), cores, *arrays)
        assert all(one == alone for one in found)
