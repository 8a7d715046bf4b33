"""Pictures of costs, weights and trainings have the right numbers; files are whole, and readable on any page."""

from __future__ import annotations

import io
import json
import math
import sys
import tracemalloc
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers import needs
from matrix import TOPOLOGIES

import adntn
from adntn import drawing
from adntn.drawing import palette
from adntn.drawing.records import CurvesPicture, curves_picture, read_records
from adntn.drawing.sample import LARGEST, WeightPicture, drawn
from adntn.drawing.steps import MOST_STEPS, CostsPicture
from adntn.machine import DEFAULT
from adntn.program.cost import cost
from adntn.program.seconds import program_seconds

MERA = adntn.MERA((64, 64), bond=2, activation="tanh")


# costs


@pytest.mark.parametrize("row", ["MERA", "Brickwall, depth 3", "LowRank", "TTN, batch"])
@pytest.mark.parametrize("itemsize", [4, 8])
def test_steps_cost_together_what_the_program_costs(
    row: str, itemsize: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADNTN_CACHE", str(tmp_path))  # no calibration
    generator = TOPOLOGIES[row]("tanh")((16, 12))
    picture = drawing.costs(generator, itemsize=itemsize).picture
    assert isinstance(picture, CostsPicture)
    expected = cost(generator.program, itemsize)
    assert picture.total.operations == expected.operations
    assert picture.total.bytes_moved == expected.bytes_moved
    assert picture.total.seconds == pytest.approx(program_seconds(generator.program, DEFAULT, itemsize))
    formulas = [one.step for one in picture.steps]
    assert len(formulas) == len(generator.program.steps)
    for formula, step in zip(formulas, generator.program.steps, strict=True):
        assert formula.startswith(f"{step.out.name} = ")
        assert all(tensor.name in formula for tensor in step.inputs)


@pytest.mark.parametrize("itemsize", [0, -4, 4.0, True, "float32"])
def test_a_number_takes_some_bytes(itemsize: Any) -> None:
    with pytest.raises(ValueError, match=f"itemsize must be a positive number of bytes.*got {itemsize!r}"):
        drawing.costs(MERA, itemsize=itemsize)


def test_costs_are_those_on_a_backend_that_is_there() -> None:
    with pytest.raises(ImportError, match="nolibrary"):
        drawing.costs(MERA, backend="nolibrary")


def test_of_a_long_program_the_costliest_steps_are_shown_in_order_and_the_others_together() -> None:
    generator = adntn.Brickwall((1024, 1024), depth=8)
    steps = generator.program.steps
    picture = drawing.costs(generator).picture
    assert isinstance(picture, CostsPicture)
    assert len(steps) > len(picture.steps) == MOST_STEPS
    assert picture.total.operations == cost(generator.program).operations
    *shown, others = picture.steps
    assert others.step == f"{len(steps) - MOST_STEPS + 1} other steps"
    names = [step.out.name for step in steps]
    places = [names.index(one.step.partition(" = ")[0]) for one in shown]
    assert places == sorted(places)
    assert min(one.seconds for one in shown) >= others.seconds / (len(steps) - MOST_STEPS + 1)


# weights


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_a_small_weight_is_shown_number_by_number(library: str) -> None:
    needs(library)
    cores = MERA.init(3, backend=library)
    picture = MERA.draw("weight", cores).picture
    assert isinstance(picture, WeightPicture)
    dense = MERA.weight(MERA.init(3))
    np.testing.assert_allclose(picture.values, dense, atol=8 * np.finfo("float32").eps * np.abs(dense).max())
    assert list(picture.rows) == list(picture.columns) == list(range(64))


WEIGHTS: dict[str, tuple[adntn.Generator, str, Any]] = {
    "a kernel is its channels against all else": (
        adntn.TTN((16, 8, 3, 3), bond=2),
        "float64",
        lambda w: w.reshape(16, 72),
    ),
    "a vector is one column": (adntn.TTN((30,), bond=2), "float64", lambda w: w.reshape(30, 1)),
    "a batch is one below the other": (adntn.TTN((8, 6), bond=2, batch=3), "float64", lambda w: w.reshape(24, 6)),
    "a complex one is its absolute values": (adntn.TTN((8, 6), bond=2), "complex128", np.abs),
    "one in 16 bits": (adntn.TTN((8, 6), bond=2), "bfloat16", lambda w: w.astype("float32")),
}


@pytest.mark.parametrize(("generator", "dtype", "as_matrix"), WEIGHTS.values(), ids=WEIGHTS)
def test_a_weight_is_read_as_a_matrix(generator: adntn.Generator, dtype: str, as_matrix: Any) -> None:
    cores = generator.init(1, dtype=dtype)
    picture = drawing.weight(generator, cores).picture
    assert isinstance(picture, WeightPicture)
    epsilon = 2.0**-7 if dtype == "bfloat16" else np.finfo(dtype).eps
    dense = as_matrix(generator.weight(cores))
    np.testing.assert_allclose(picture.values, dense, atol=16 * epsilon * np.abs(dense).max())
    assert np.quantile(np.abs(dense), 0.9) < picture.limit * (1 + epsilon) <= np.abs(dense).max() * (1 + 9 * epsilon)


def test_a_large_weight_is_sampled_at_the_rows_and_columns_that_are_named() -> None:
    generator = adntn.MERA((2048, 1536), bond=4)
    cores = generator.init(0, dtype="float64")
    picture = drawing.weight(generator, cores).picture
    assert isinstance(picture, WeightPicture)
    assert picture.values.shape == (LARGEST, LARGEST)
    dense = generator.weight(cores)[np.ix_(picture.rows, picture.columns)]
    np.testing.assert_allclose(picture.values, dense, atol=1e-13 * np.abs(dense).max())
    assert "512 of 2,048 rows and 512 of 1,536 columns" in picture.title


@pytest.mark.parametrize(("count", "most"), [(5, 5), (6, 5), (65536, 512), (1000, 1)])
def test_one_is_drawn_from_each_of_equal_runs_and_not_always_the_first(count: int, most: int) -> None:
    numbers = drawn(count, most)
    assert len(numbers) == min(count, most)
    for place, number in enumerate(numbers):
        assert place * count // most <= number < (place + 1) * count // most
    if count > 2 * most:
        assert len({number % (count // most) for number in numbers}) > min(most, count // most) // 4
    assert list(numbers) == list(drawn(count, most))


def test_a_weight_of_65536_by_65536_is_never_made() -> None:
    generator = adntn.TTN((65536, 65536), bond=4)
    cores = {name: np.full(shape, 0.5, "float32") for name, shape in generator.core_shapes.items()}
    tracemalloc.start()
    picture = drawing.weight(generator, cores).picture
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(picture, WeightPicture)
    assert picture.values.shape == (LARGEST, LARGEST)
    assert peak < 2**28  # of 2**34 bytes


def test_a_weight_that_is_not_finite_has_no_picture() -> None:
    cores = MERA.init()
    with pytest.raises(ValueError, match="not finite"):
        MERA.draw("weight", {**cores, "scale": np.asarray(math.inf, "float32")})


# curves

LINES = [
    {"stage": "fit", "epoch": 1, "step": 0, "layer": "0", "relative_error": 0.9},
    {"stage": "fit", "epoch": 1, "step": 0, "mean_loss": 0.81},
    {
        "stage": "task",
        "epoch": 1,
        "step": 1,
        "loss": 2.0,
        "rates": {"cores": 0.01, "others": 0.001},
        "gradient_norm": 1.5,
    },
    {
        "stage": "task",
        "epoch": 1,
        "step": 2,
        "loss": 0.1,
        "rates": {"cores": 0.02, "others": 0.002},
        "gradient_norm": None,
    },
    {"stage": "task", "epoch": 1, "step": 2, "mean_loss": 1.05, "validation": 0.25},
    {"stage": "fine-tune", "epoch": 1, "step": 3, "loss": 0.05, "rates": {"cores": 0.02, "others": 0.002}},
]


def points(picture: CurvesPicture) -> dict[str, dict[str, tuple[tuple[float, float], ...]]]:
    return {panel.name: {curve.name: curve.points for curve in panel.curves} for panel in picture.panels}


def test_curves_are_the_numbers_of_the_record(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in LINES) + '{"stage": "cut sho')
    picture = drawing.curves(file).picture
    assert isinstance(picture, CurvesPicture)
    assert points(picture) == {
        "loss": {"loss": ((1, 2.0), (2, 0.1), (3, 0.05)), "mean_loss": ((0, 0.81), (2, 1.05))},
        "validation": {"validation": ((2, 0.25),)},
        "relative error": {"relative_error/0": ((0, 0.9),)},
        "rates": {
            "rates/cores": ((1, 0.01), (2, 0.02), (3, 0.02)),
            "rates/others": ((1, 0.001), (2, 0.002), (3, 0.002)),
        },
        "gradient norm": {"gradient_norm": ((1, 1.5),)},
    }
    assert picture.stages == (("fit", 0, 0), ("task", 0, 2), ("fine-tune", 2, 3))
    assert [panel.is_logarithmic for panel in picture.panels] == [True, False, False, True, False]
    assert drawing.curves(LINES).picture == picture


def test_what_run_returns_and_writes_is_drawn(tmp_path: Path) -> None:
    needs("torch")
    import torch  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    from adntn_torch.training import Stage, run  # noqa: PLC0415

    batches = [(torch.ones(8, 4), torch.zeros(8, 2))] * 5

    def objective(batch: Any, outputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(outputs, batch[1])

    def optimiser(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1)

    stage = Stage("task", objective, optimiser, epochs=2, clip=1.0, validate=lambda model: 0.5)
    history = run(nn.Linear(4, 2), [stage], batches, metrics=tmp_path / "metrics.jsonl")
    written = drawing.curves(tmp_path / "metrics.jsonl").picture
    returned = drawing.curves(history).picture
    assert isinstance(written, CurvesPicture)
    assert isinstance(returned, CurvesPicture)
    assert [panel.name for panel in written.panels] == ["loss", "validation", "rates", "gradient norm"]
    expected = tuple((one.step, one.loss) for one in history)
    assert points(written)["loss"]["mean_loss"] == points(returned)["loss"]["loss"] == expected
    assert len(points(written)["loss"]["loss"]) == 10


def test_a_table_of_lightning_is_read(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text("core_gradient_norm,epoch,ratio,step,train_loss\n,,418.6,0,\n0.5,0,,9,1.25\n0.25,0,,19,0.75\n")
    assert points(curves_picture("", read_records(file))) == {
        "loss": {"train_loss": ((9, 1.25), (19, 0.75))},
        "gradient norm": {"core_gradient_norm": ((9, 0.5), (19, 0.25))},
    }


def test_a_last_line_that_is_whole_is_read_without_its_end(tmp_path: Path) -> None:
    (tmp_path / "metrics.JSONL").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}')
    assert points(curves_picture("", read_records(tmp_path / "metrics.JSONL"))) == {
        "loss": {"loss": ((1, 0.5), (2, 0.25))}
    }


def test_rows_that_are_longer_or_shorter_than_the_head_of_their_table_are_read(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss\n1,0.5,7,8\n2\n3,0.25\n")
    assert points(curves_picture("", read_records(tmp_path / "metrics.csv"))) == {
        "loss": {"loss": ((1, 0.5), (3, 0.25))}
    }


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_numbers_of_any_library_are_numbers(library: str) -> None:
    needs(library)
    loss = adntn.TTN((4, 4), bond=2).init(backend=library)["scale"]
    assert points(curves_picture("", [{"step": np.int64(3), "loss": loss}])) == {"loss": {"loss": ((3, float(loss)),)}}


@pytest.mark.parametrize(
    "value", [True, np.bool_(True), None, "0.5", [0.5], np.ones(1), 1j, np.complex64(1), 10**400, math.nan]
)
def test_what_is_no_number_is_passed_over(value: Any) -> None:
    records = [{"step": 1, "loss": value}, {"step": value, "loss": 7.0}, {"step": 2, "loss": 0.5}]
    assert points(curves_picture("", records)) == {"loss": {"loss": ((2, 0.5),)}}


BAD_RECORDS: dict[str, tuple[str, str, str]] = {
    "another ending": ("metrics.txt", "", "end in .jsonl or .csv, got '.*metrics.txt'"),
    "no JSON": ("metrics.jsonl", "loss 0.5\n", "line 1 of '.*metrics.jsonl' is no JSON"),
    "no object": (
        "metrics.jsonl",
        '{"step": 1, "loss": 1}\n[1, 2]\n',
        r"line 2 of '.*' must be an object .* got '\[1, 2\]'",
    ),
    "an integer that is too long": ("metrics.jsonl", f'{{"step": {"9" * 5000}}}\n', "line 1 of '.*' is no JSON"),
    "no text": ("metrics.jsonl", "\udcff\udcfe", "'.*metrics.jsonl' is no text of records"),
    "a cell without an end": ("metrics.csv", 'step,"' + "a" * 200_000, "'.*metrics.csv' is no text of records"),
    "nothing": ("metrics.jsonl", "", "records hold no curve"),
    "no steps": ("metrics.csv", "loss\n0.5\n", "records hold no curve"),
    "no numbers": ("metrics.csv", "step,loss\n1,nan\n", "records hold no curve"),
}


@pytest.mark.parametrize(("name", "text", "words"), BAD_RECORDS.values(), ids=BAD_RECORDS)
def test_files_that_hold_no_curves_are_refused(name: str, text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match=words):
        drawing.curves(tmp_path / name)


def test_records_that_are_none_are_refused() -> None:
    with pytest.raises(TypeError, match=r"records must be mappings .* got 0.5"):
        drawing.curves([0.5, 0.25])


# files

DRAWINGS = {
    "network": MERA.draw(),
    "costs": MERA.draw("costs"),
    "weight": MERA.draw("weight", MERA.init()),
    "curves": drawing.curves(LINES),
    "curves with long names": drawing.curves(
        [{"step": step, f"relative_error/encoder.layers.{layer}.weight": 1.0} for step in (1, 2) for layer in range(20)]
    ),
    "a batch": adntn.TTN((8, 6), bond=2, batch=60).draw("weight", adntn.TTN((8, 6), bond=2, batch=60).init()),
    "a convolution": adntn.AugmentedTTN((512, 256, 3, 3), bond=4).draw(),
    "a long title": adntn.LowRank((65536, 4096), batch=3).draw(),
    "many steps": adntn.Brickwall((1024, 1024), depth=8).draw("costs"),
}
KINDS = ("network", "costs", "weight", "curves")


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_of_the_kind_that_their_ending_says_and_the_same_each_time(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made = DRAWINGS[kind]
    svg = made.save(tmp_path / "picture.svg")
    assert ElementTree.parse(svg).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert svg.read_bytes() == made.save(tmp_path / "again.SVG").read_bytes()
    assert svg.stat().st_size < 200_000
    assert made.save(str(tmp_path / "picture.png")).read_bytes().startswith(b"\x89PNG\r\n")


def test_notebooks_keep_small_copies() -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image  # noqa: PLC0415

    made = DRAWINGS["weight"]
    with Image.open(io.BytesIO(made._repr_png_())) as shown:
        assert shown.mode == "P"
        assert shown.size == tuple(round(80 * inches) for inches in made.figure().get_size_inches())
        colours = [colour for _, colour in shown.convert("RGB").getcolors()]
    for wanted in (palette.PAPER, palette.INK, palette.NEGATIVE, palette.POSITIVE):
        values = [int(wanted[place : place + 2], 16) for place in (1, 3, 5)]
        distances = [max(abs(one - other) for one, other in zip(values, colour, strict=True)) for colour in colours]
        assert min(distances) <= 16, wanted


@pytest.mark.parametrize("made", DRAWINGS.values(), ids=DRAWINGS)
def test_no_text_is_cut_off_or_covers_another(made: drawing.Drawing, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.text import Text  # noqa: PLC0415

    shown: list[tuple[str, Any]] = []
    plain = Text.draw

    def draw(self: Text, renderer: Any) -> None:
        plain(self, renderer)
        if self.get_visible() and self.get_text().strip():
            shown.append((self.get_text(), self.get_window_extent(renderer)))

    monkeypatch.setattr(Text, "draw", draw)
    figure = made.figure()
    figure.draw_without_rendering()
    assert len(shown) >= 4
    for number, (text, box) in enumerate(shown):
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert inside, text
        assert not [other for other, own in shown[:number] if box.overlaps(own)], text


def test_the_image_of_a_weight_has_its_numbers() -> None:
    pytest.importorskip("matplotlib")
    (image,) = (axes.images[0] for axes in DRAWINGS["weight"].figure().axes if axes.images)
    assert np.array_equal(image.get_array(), DRAWINGS["weight"].picture.values)
    assert image.norm.vmin == -image.norm.vmax


def test_a_figure_does_not_depend_on_the_style_of_others(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import matplotlib as mpl  # noqa: PLC0415

    plain = DRAWINGS["network"].save(tmp_path / "plain.svg").read_bytes()
    with mpl.rc_context(
        {"axes.facecolor": "black", "font.size": 30, "lines.dashed_pattern": [9, 9], "text.color": "red"}
    ):
        before = dict(mpl.rcParams)
        assert DRAWINGS["network"].save(tmp_path / "styled.svg").read_bytes() == plain
        assert dict(mpl.rcParams) == before


def test_drawings_stand_beside_one_another_in_a_figure_of_ones_own() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(12, 4))
    for part, made in zip(figure.subfigures(1, 2), (MERA.draw(), MERA.draw("costs")), strict=True):
        made.paint(part)
    assert [len(part.axes) for part in figure.subfigs] == [1, 3]


def test_a_file_that_cannot_be_written_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure  # noqa: PLC0415

    def full(self: Figure, file: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "picture.svg").write_text("before")
    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="No space"):
        DRAWINGS["network"].save(tmp_path / "picture.svg")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("picture.svg", "before")]


@pytest.mark.parametrize("name", ["picture", "picture.jpg", "svg"])
def test_files_of_other_kinds_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"file must end in \.svg or \.png, got '.*{name}'"):
        DRAWINGS["network"].save(tmp_path / name)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "adntn\[drawing\]"'):
        MERA.draw().save(tmp_path / "picture.svg")


def test_drawings_that_there_are_not_are_refused() -> None:
    with pytest.raises(ValueError, match='what must be "network", "costs" or "weight", got \'cost\''):
        MERA.draw("cost")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs cores"):
        MERA.draw("weight")


# colours

TEXTS = (palette.INK, palette.PALE_INK, palette.ACTIVATION)
MARKS = (*palette.KINDS.values(), *palette.DIMENSIONS, *palette.CURVES, palette.NEGATIVE, palette.POSITIVE)


def test_texts_and_marks_keep_their_contrast_on_the_paper() -> None:
    assert all(palette.contrast(colour, palette.PAPER) >= 4.5 for colour in TEXTS)
    assert all(palette.contrast(colour, palette.PAPER) >= 3 for colour in MARKS)
    assert all(palette.contrast(colour, palette.ZERO) >= 3 for colour in (palette.NEGATIVE, palette.POSITIVE))


def test_without_paper_no_text_could_be_read_on_light_and_on_dark_pages() -> None:
    greys = (f"#{value:02x}{value:02x}{value:02x}" for value in range(256))
    on_both = (min(palette.contrast(grey, "#ffffff"), palette.contrast(grey, "#0d1117")) for grey in greys)
    assert max(on_both) < 4.5
