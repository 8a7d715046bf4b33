"""The bars: the right ratio of the right numbers, from measurements that are made up."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from adntn.benchmarking import Case, Comparison, Entry, Measurement, Memory
from benchmarks import acceptance
from benchmarks.bars import BARS, FULL, SHORT, Row, Scope, Wanted, power
from benchmarks.cases import scaling, side_by_side
from benchmarks.document import Document, verdict
from benchmarks.table import latest, page, write

Seconds = Callable[[Entry], float]
SMALL = Scope(
    shape=(64, 64), topologies=("TTN", "MERA"), bonds=(2,), batches=(1, 32, 256), shapes=((64, 64),), giant=(64, 64)
)


def made_up(
    seconds: Seconds, memory: Callable[[Entry], Memory] = lambda entry: Memory(0, 0)
) -> Callable[[Wanted], Comparison]:
    """A `compare` that does not measure."""

    def compare(wanted: Wanted) -> Comparison:
        measurements = tuple(
            Measurement(
                one.label,
                one.contender.name,
                one.case,
                one.task,
                seconds=seconds(one) if wanted.time else None,
                memory=memory(one) if one.label in wanted.memory else None,
            )
            for one in wanted.entries
        )
        return Comparison(wanted.title, measurements, {})

    return compare


def find(rows: list[Row], words: str) -> list[Row]:
    return [row for row in rows if words in row.what]


def test_bar_1_divides_by_a_copy_or_a_copy_and_a_tanh() -> None:
    times = {"copy": 2.0, "tanh": 4.0, "TTN": 9.0, "MERA": 27.0, "ours, into a buffer": 1.0, "ours, newly made": 2.0}
    rows = list(BARS[1](made_up(lambda entry: times.get(entry.label, 8.0)), SMALL))
    for library in ("numpy", "torch"):
        (linear,) = find(rows, f"{library} by one copy")[:1]
        assert (linear.ratio, linear.limit, linear.met) == (4.5, 4.0, False)
        (pointwise,) = find(rows, f"{library} by one copy and one tanh")
        assert (pointwise.ratio, pointwise.limit, pointwise.met) == (1.5, 1.5, True)
        assert {row.ratio for row in find(rows, f"{library} by the TTN's")} == {3.0}
        assert {row.limit for row in find(rows, f"{library} by the TTN's")} == {2.5}
    (held, *_) = find(rows, "W into a buffer by tensorly-torch BlockTT")
    assert (held.ratio, held.limit, held.met) == (1 / 8, 1 / 8, True)
    (new, *_) = find(rows, "W newly made by tensorly-torch CP")
    assert (new.ratio, new.met) == (1 / 4, False)
    assert {row.met for row in find(rows, "tensorly-torch TT")} == {None}
    assert "linear" in held.case


def test_bar_2_takes_the_weight_and_its_gradient_off_the_peak() -> None:
    weight = 64 * 64 * 4
    compare = made_up(
        lambda entry: {"gradients": 8.0, "weight": 2.0, "weight into a buffer": 1.0}[entry.label],
        lambda entry: Memory(held=weight, above=weight + weight // 4, kept=10**9),
    )
    rows = list(BARS[2](compare, SMALL))
    assert {(row.ratio, row.met) for row in find(rows, "by W newly made")} == {(4.0, True)}
    assert {(row.ratio, row.met) for row in find(rows, "by W into a buffer")} == {(8.0, False)}
    assert {(row.ratio, row.met) for row in find(rows, "peak memory")} == {(0.25, True)}


def test_bar_3_takes_inputs_and_outputs_off_and_has_a_limit_for_each_batch() -> None:
    times = {"adntn, stream": 3.0, "adntn, auto": 2.0, "naive autograd": 3.0, "dense": 2.0, "dense, fused Adam": 1.0}

    def memory(entry: Entry) -> Memory:
        assert entry.label == "adntn, stream"
        return Memory(held=2 * entry.case.x_bytes, above=2 * entry.case.y_bytes + entry.case.weight_bytes // 8)

    rows = list(BARS[3](made_up(lambda entry: times[entry.label], memory), SMALL))
    assert {(row.ratio, row.met) for row in find(rows, "stream: peak memory")} == {(1 / 8, True)}
    assert {(row.ratio, row.met) for row in find(rows, "stream: step")} == {(1.0, True)}
    limits = {int(row.case.split("batch ")[1].split(",")[0]): row.limit for row in find(rows, "fused Adam")}
    assert limits == {1: None, 32: 2.0, 256: 1.25}
    assert {row.limit for row in find(rows, "layer's, Adam")} == {None, 1.0}
    assert {row.met for row in find(rows, "fused Adam") if "batch 256" in row.case} == {False}


def test_bar_4_compares_all_that_is_held_with_the_dense_layer() -> None:
    def memory(entry: Entry) -> Memory:
        return Memory(held=90, above=20) if entry.label == "dense" else Memory(held=10, above=101)

    rows = list(BARS[4](made_up(lambda entry: 1.0, memory), SMALL))
    peaks = find(rows, "peak memory")
    assert {row.ratio for row in peaks} == {111 / 110}
    assert {row.met for row in peaks} == {False}
    assert len(peaks) == 2 * 2 * 3  # topologies, tasks, batches
    assert {(row.ratio, row.met) for row in find(rows, "frozen")} == {(1.0, True)}


def test_bar_5_wants_a_third_of_the_dense_product() -> None:
    rows = list(BARS[5](made_up(lambda entry: 1.0 if entry.label == "adntn, contract" else 3.0), SMALL))
    assert {row.limit for row in find(rows, "by the dense layer's")} == {1 / 3}
    assert all(row.met for row in rows)
    assert all("linear" in row.case for row in find(rows, "tensorly-torch"))


def test_bar_6_is_met_within_2_gib() -> None:
    rows = list(BARS[6](made_up(lambda entry: 60.0, lambda entry: Memory(2**30, 2**30 + 1)), SMALL))
    assert {row.met for row in find(rows, "by 2 GiB")} == {False}
    assert {row.measured for row in find(rows, "time")} == {60.0}


def test_bar_7_is_the_exponent_and_what_the_batch_adds() -> None:
    def seconds(entry: Entry) -> float:
        if entry.task == "backward":
            return 1.0 * entry.case.batch + (10.0 if entry.label.startswith("adntn") else 0.0)
        return float(math.prod(entry.case.shape)) ** 1.5

    rows = list(BARS[7](made_up(seconds), SMALL))
    assert [row.ratio for row in find(rows, "exponent")] == pytest.approx([1.5, 1.5])
    assert {row.ratio for row in find(rows, "at batch 256")} == {1.0}
    assert {row.met for row in find(rows, "at batch 256")} == {True}


def test_bar_9_has_no_limits_and_the_share_of_the_bandwidth() -> None:
    rows = list(BARS[9](made_up(lambda entry: 3.0 if entry.label == "ours" else 1.0), SMALL))
    assert {row.met for row in rows} == {None}
    assert [row.ratio for row in find(rows, "bytes of W")] == pytest.approx([1 / 6, 1 / 6])


def test_what_could_not_be_measured_meets_nothing_and_says_why() -> None:
    def compare(wanted: Wanted) -> Comparison:
        lines = tuple(
            Measurement(one.label, one.contender.name, one.case, one.task, reason="TypeError: no")
            for one in wanted.entries
        )
        return Comparison(wanted.title, lines, {})

    for bar in BARS.values():
        for row in bar(compare, SMALL):
            assert row.met is None
            assert row.reason == "TypeError: no"


def test_a_power_law_without_a_number_has_no_exponent() -> None:
    assert math.isnan(power([1, 2], [1.0, math.nan]))


def test_every_scope_has_the_cases_of_the_bars() -> None:
    assert len(list(FULL.cases())) == 6
    assert [str(case) for case in SHORT.cases()] == ["1024 x 1024, TTN bond 2, tanh, batch 32, float32"]


def test_every_plan_has_labels_that_differ() -> None:
    for full in (False, True):
        for plan in (*side_by_side(full), *scaling(full)):
            labels = [entry.label for entry in plan.entries]
            assert len(set(labels)) == len(labels) > 1


def documents(case: Case) -> Document:
    comparisons = tuple(
        (
            group,
            Comparison(
                f"{group} {power}",
                (Measurement("dense", "dense", Case((2**power, 2**power)), "step", seconds=1.0, memory=Memory(1, 2)),),
                {},
            ),
        )
        for group in ("size", "side by side")
        for power in (3, 4)
    )
    rows = (
        Row(1, str(case), "met", 1.0, 1.0, 1.0),
        Row(1, str(case), "missed", 3.0, 1.0, 1.5),
        Row(2, str(case), "without a number", math.nan, 1.0, 1.5, "B", "because"),
    )
    return Document("python -m benchmarks", {"processor": "some", "threads": "2"}, comparisons, rows)


def test_results_survive_json_and_become_a_page_with_plots(case: Case, tmp_path: Path) -> None:
    document = documents(case)
    document.write(tmp_path / "one.json")
    again = Document.read(tmp_path / "one.json")
    assert again.to_json() == document.to_json()
    assert "NaN" not in (tmp_path / "one.json").read_text()
    write([again], tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"results.json", "results.md", "size_step.svg", "size_step.png"}
    text = (tmp_path / "out" / "results.md").read_text()
    assert "1 of 3 meet the bar, 1 miss it (the farthest by a factor of 2), 1 have no number" in text
    assert "without a number (because)" in text
    assert "### side by side 3" in text
    assert page([document], []) != text  # without plots


def test_a_verdict_counts_rows_with_a_limit(case: Case) -> None:
    rows = [*documents(case).rows, Row(9, str(case), "no limit", 1.0, 1.0, None)]
    assert verdict(rows).startswith("1 of 3 meet")


def test_the_command_measures_the_bars_asked_for_and_names_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(acceptance, "measuring", lambda threads, repeats, found: made_up(lambda entry: 1.0))
    file = tmp_path / "bars.json"
    arguments = ["--bars", "5", "--short", "--bonds", "4", "--json", str(file)]
    monkeypatch.setattr("sys.argv", ["acceptance", *arguments])
    acceptance.main()
    written = json.loads(file.read_text())
    assert written["command"] == "python -m benchmarks.acceptance --bars 5 --short --bonds 4"
    assert {row["bar"] for row in written["rows"]} == {5}
    assert str(tmp_path) not in file.read_text()
    assert "bar 5: " in capsys.readouterr().out


def test_of_rows_that_were_measured_twice_the_later_ones_are_shown() -> None:
    def row(bar: int, measured: float) -> Row:
        return Row(bar, "a case", "this by that", measured, reference=1.0, limit=2.0)

    first = Document("first", {}, rows=(row(1, 1.0), row(2, 1.0)))
    second = Document("second", {}, rows=(row(2, 3.0), row(3, 1.0)))
    third = Document("third", {}, rows=(row(3, 4.0),))
    shown = latest([first, second, third])
    assert [(one.command, [(row.bar, row.measured) for row in one.rows]) for one in shown] == [
        ("first", [(1, 1.0)]),
        ("second", [(2, 3.0)]),
        ("third", [(3, 4.0)]),
    ]
    assert [one.command for one in latest([third, third])] == ["third"]
