"""Comparisons: contenders that fail leave their reason, results survive JSON, tables show ratios."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import helpers
import pytest
from helpers import needs

from adntn.benchmarking import Case, Comparison, Contender, Entry, Measurement, Memory, compare
from adntn.benchmarking.comparison import Prediction, timed
from adntn.benchmarking.contender import TASKS, entries
from adntn.benchmarking.contenders import (
    CONTENDERS,
    DENSE,
    LAYER,
    applied_on,
    copy_on,
    generator_on,
    product_on,
    tanh_on,
)
from adntn.benchmarking.table import markdown, rows

ABSENT = Contender("absent", "no.such.module:setup", ("weight",))


def made(case: Case) -> Comparison:
    """A comparison with made-up numbers."""
    measurements = (
        Measurement("dense", "dense", case, "step", 384, "", 0.002, (0.001, 0.003), Memory(2**20, 2**20, 4096)),
        Measurement("ours", "ours", case, "step", 40, "a note", 0.001, (0.0005, 0.0015), Memory(2**18, 2**18)),
        Measurement("theirs", "theirs", case, "step", reason="ValueError: no layer"),
    )
    return Comparison("a title", measurements, {"ours": Prediction(1_000, 2**20, 2**19)})


def test_a_comparison_survives_json(case: Case) -> None:
    comparison = made(case)
    assert Comparison.from_json(json.loads(json.dumps(comparison.to_json()))) == comparison


def test_an_entry_survives_json(case: Case) -> None:
    for contender in CONTENDERS:
        entry = Entry("one", contender, case, contender.tasks[0])
        assert Entry.from_json(json.loads(json.dumps(entry.to_json()))) == entry


def test_tables_show_ratios_to_the_first_line_and_reasons(case: Case) -> None:
    dense, ours, theirs = rows(made(case))
    assert dense[:5] == ("dense", "384", "2 ms", "1", "1 ms to 3 ms")
    assert ours[2:7] == ("1 ms", "0.5", "500 µs to 1.5 ms", "0.5 MiB", "0.25")
    assert ours[8:] == ("1e-06 Gop, 1.0 MiB moved, peak 0.5 MiB", "a note")
    assert theirs[1:] == ("",) * 8 + ("ValueError: no layer",)
    assert "| theirs |  |  |" in markdown(made(case))


def test_who_fails_leaves_the_reason_and_the_others_are_timed(case: Case) -> None:
    lines = (Entry("absent", ABSENT, case, "weight"), Entry("numpy", generator_on("numpy"), case, "weight"))
    answers = timed({"entries": [line.to_json() for line in lines], "repeats": 1})
    assert answers["absent"]["reason"] == "ModuleNotFoundError: No module named 'no'"
    assert answers["absent"]["seconds"] is None
    assert answers["numpy"]["seconds"] > 0
    assert answers["numpy"]["parameters"] == case.generator.parameters


def test_a_whole_comparison_in_fresh_processes(case: Case) -> None:
    lines = (Entry("absent", ABSENT, case, "weight"), Entry("numpy", generator_on("numpy"), case, "weight"))
    found = compare("both", lines, threads=1, repeats=2, memory=())
    assert [one.label for one in found.measurements] == ["absent", "numpy"]
    assert found.seconds("numpy") > 0
    assert found.seconds("absent") != found.seconds("absent")  # there is none
    assert list(found.predictions) == ["numpy"]
    report = case.generator.report(case.itemsize)
    assert found.predictions["numpy"].operations == report.forward.operations


def dying(case: Case, task: str) -> None:
    """Run in a fresh process, which it ends, as the kernel does where memory runs out."""
    os._exit(9)


def test_a_process_that_dies_is_a_reason(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), os.path.dirname(helpers.__file__)]))
    line = Entry("fatal", Contender("fatal", "test_comparison:dying", ("weight",)), case, "weight")
    assert compare("dying", (line,), threads=1, memory=())["fatal"].reason == "time: no answer, exit code 9"
    assert compare("dying", (line,), threads=1, time=False)["fatal"].reason == "memory: no answer, exit code 9"


def test_labels_must_be_unique(case: Case) -> None:
    line = Entry("one", DENSE, case, "step")
    with pytest.raises(ValueError, match="labels of entries must be unique"):
        compare("twice", (line, line), threads=1)


def test_a_task_that_a_contender_does_not_do_is_said(case: Case) -> None:
    with pytest.raises(ValueError, match="does not do 'weight', only forward, backward, step"):
        DENSE.ready(case, "weight")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_contenders(task: str, case: Case) -> None:
    assert entries(CONTENDERS, case, task)


@pytest.mark.parametrize("shape", [(24, 16), (8, 12, 3, 3)])
@pytest.mark.parametrize("task", ["forward", "backward", "step"])
def test_layers_are_ready_for_matrices_and_kernels(shape: tuple[int, ...], task: str) -> None:
    needs("torch")
    case = Case(shape, batch=2, image=5)
    for contender in (DENSE, LAYER):
        assert tuple(contender.ready(case, task).call().shape) == case.y_shape


@pytest.mark.parametrize("library", ["numpy", "jax"])
def test_generators_are_applied_where_torch_has_no_layers(library: str, case: Case) -> None:
    needs(library)
    plain = replace(applied_on(library, "auto"), options=(("backend", library),))  # without a word about schedules
    assert tuple(plain.ready(case, "forward").call().shape) == case.y_shape
    assert tuple(product_on(library).ready(case, "forward").call().shape) == case.y_shape
    if "backward" in plain.tasks:
        y, (gradients, x_bar) = plain.ready(case, "backward").call()
        assert (tuple(y.shape), tuple(x_bar.shape)) == (case.y_shape, case.x_shape)
        assert set(gradients) == set(case.generator.core_shapes)


def test_what_is_no_product_is_said() -> None:
    with pytest.raises(ValueError, match="a convolution is no product of two matrices"):
        product_on("numpy").ready(Case((8, 12, 3, 3)), "forward")


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_copy_and_tanh_write_into_the_same_buffer(library: str, case: Case) -> None:
    needs(library)
    for contender in (copy_on(library), tanh_on(library)):
        call = contender.ready(case, "weight into a buffer").call
        first = call()
        assert first is call() or first is None  # numpy.copyto returns nothing


def test_numpy_does_not_pass_for_a_gpu() -> None:
    case = Case((24, 16), device="cuda:0")
    with pytest.raises(ValueError, match="NumPy computes on the CPU only, the case is on cuda:0"):
        generator_on("numpy").ready(case, "weight")


BAD = {
    "shape": ({"shape": (3,)}, "shape must be"),
    "topology": ({"shape": (4, 4), "topology": "Tree"}, "topology must be one of TTN"),
    "batch": ({"shape": (4, 4), "batch": 0}, "batch must be at least 1, got 0"),
    "dtype": ({"shape": (4, 4), "dtype": "int8"}, "dtype must be one of float32"),
}


@pytest.mark.parametrize(("arguments", "words"), BAD.values(), ids=BAD)
def test_bad_cases_are_said(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Case(**arguments)
