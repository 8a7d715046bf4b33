"""The comparison of second order with Adam: the page says what was run, and what is noted was reached."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adntn
from benchmarks.search_page import COLOURS
from benchmarks.second_order import (
    OutOfTimeError,
    Record,
    fit,
    fit_by_adam,
    main,
    own_target,
    task_by_adam,
    task_by_gauss_newton,
    task_by_lbfgs,
)

TARGET = own_target(adntn.TTN((16, 16), bond=2, activation="tanh"))


class All(Record):
    """Keeps all losses, the highest too, and ends after so many."""

    def __init__(self, most: int) -> None:
        super().__init__(budget=1e6)
        self.most, self.losses = most, list[float]()

    def add(self, loss: float) -> None:
        self.losses.append(loss)
        super().add(loss)
        if len(self.losses) == self.most:
            raise OutOfTimeError


def noted(search: Callable[[int, Any], float], most: int) -> All:
    record = All(most)
    with suppress(OutOfTimeError):
        search(1, record)
    return record


def error(cores: dict[str, Any]) -> float:
    return float(np.linalg.norm(TARGET.generator.weight(cores) - TARGET.weight) / np.linalg.norm(TARGET.weight))


@pytest.mark.parametrize("method", ["l-bfgs", "levenberg-marquardt"])
def test_errors_of_fits_are_those_after_as_many_iterations(method: Any) -> None:
    losses = noted(partial(fit, method, TARGET), 4).losses
    assert losses[0] == pytest.approx(error(TARGET.started(1)))
    after = adntn.fit(TARGET.generator, TARGET.weight, cores=TARGET.started(1), iterations=3, method=method)
    assert losses[3] == pytest.approx(error(after.cores))
    assert losses[3] < losses[0]


SEARCHES: dict[str, tuple[Callable[[int, Any], float], int]] = {
    "fit by Adam": (partial(fit_by_adam, 0.01, TARGET), 30),
    "task by Adam": (partial(task_by_adam, 0.01), 3),
    "task by L-BFGS": (task_by_lbfgs, 10),
    "task by Gauss-Newton": (task_by_gauss_newton, 3),
}


@pytest.mark.parametrize(("search", "most"), SEARCHES.values(), ids=SEARCHES.keys())
def test_searches_find_less_and_the_lowest_is_kept(search: Callable[[int, Any], float], most: int) -> None:
    record = noted(search, most)
    assert record.losses[-1] < record.losses[0]
    assert [loss for _, loss in record.points] == [min(record.losses[: end + 1]) for end in range(most)]


def test_page_numbers_and_plot_are_written(tmp_path: Path) -> None:
    main(["--seeds", "1", "--budget", "0.01", "--out", str(tmp_path)])
    runs = json.loads((tmp_path / "second-order.json").read_text())
    assert {run["method"] for run in runs} == {*COLOURS}
    _, *sections = (tmp_path / "second-order.md").read_text().split("\n## ")
    assert len(sections) == len({run["problem"] for run in runs})
    for section in sections:
        own = [run for run in runs if run["problem"] == section.partition("\n")[0]]
        assert len({run["points"][0][1] for run in own}) == 1, "all methods start from the same"
        for run in own:
            (row,) = [line for line in section.splitlines() if line.startswith(f"| {run['method']}")]
            at_the_end = float(row.split(" to ")[1].split()[0])
            assert at_the_end == pytest.approx(run["points"][-1][1], rel=1e-2)  # three digits
    assert (tmp_path / "second-order.png").stat().st_size > 10_000
