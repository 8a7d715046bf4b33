"""The command: a small run of everything, and whether what it wrote is true."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_data import FORMS, fake
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from compress_network import main, options_of, parser, settings_of
from data import load_data
from networks import HIDDEN_LAYERS
from report import LEGEND, Result, markdown, spread
from versions import Version, build, shape_for, versions_of

pytestmark = pytest.mark.usefixtures("narrow_module")

NETWORKS = ("alexnet", "vgg16")
GENERATED = ("TTN", "aTTN", "MERA")
COMMAND = shlex.split(
    "--width 0.05 --images 60 --test-images 30 --epochs 2 --batch 20 --bond 2 --dropout 0.1 --seed 3 --threads 1"
)
OTHERS = ("TTN, frozen", "aTTN, frozen", "MERA, frozen", "dense, frozen", "small, equal total", "small, equal layers")


@pytest.fixture(scope="module")
def output(narrow_module: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of both networks with all controls."""
    folder = tmp_path_factory.mktemp("run") / "results"
    assert main([*COMMAND, "--output", str(folder)]) == 0
    return folder


def read(folder: Path) -> dict[str, Any]:
    """Return the results document, which must be JSON as everyone reads it: without NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    document: dict[str, Any] = json.loads((folder / "results.json").read_text("utf-8"), parse_constant=refuse)
    return document


@pytest.fixture
def document(output: Path) -> dict[str, Any]:
    return read(output)


def test_everything_promised_is_written_and_nothing_else(output):
    networks = {
        f"{n}-{v}{suffix}" for n in NETWORKS for v in GENERATED for suffix in (".safetensors", ".cores.safetensors")
    }
    assert {path.name for path in output.iterdir()} == {
        "results.json",
        "results.md",
        "accuracy_against_ratio.png",
        *networks,
    }
    with Image.open(output / "accuracy_against_ratio.png") as plot:
        plot.load()
        assert plot.format == "PNG"
        assert plot.width > plot.height > 500, "one panel beside the other"
        assert len(plot.convert("RGB").getcolors(10**6)) > 10


def test_every_version_of_every_network_is_there_once_in_order(document):
    found = [(entry["network"], entry["version"]) for entry in document["results"]]
    assert found == [(network, version) for network in NETWORKS for version in ("dense", *GENERATED, *OTHERS)]
    assert document["finished"]


def test_the_numbers_agree_with_each_other(document):
    dense = {entry["network"]: entry["parameters"] for entry in document["results"] if entry["version"] == "dense"}
    for entry in document["results"]:
        before, after = (sum(layer[key] for layer in entry["layers"]) for key in ("before", "after"))
        assert entry["dense_parameters"] == dense[entry["network"]]
        assert entry["ratio"] == entry["dense_parameters"] / entry["parameters"]
        assert entry["replaced_ratio"] == (before / after if after else None)
        for layer in entry["layers"]:
            assert layer["before"] == math.prod(layer["shape"])
            assert layer["ratio"] == (layer["before"] / layer["after"] if layer["after"] else None)
        if not entry["version"].startswith("small"):
            assert entry["parameters"] == entry["dense_parameters"] - before + after
        assert len(entry["losses"]) == 2
        assert not entry["diverged"]
        for name, count in (("train_accuracy", 60), ("test_accuracy", 30)):
            assert 0 <= entry[name] <= 1
            assert entry[name] * count == pytest.approx(round(entry[name] * count)), "a part of so many images"
    assert document["seconds"] == pytest.approx(sum(entry["seconds"] for entry in document["results"]))
    assert len({entry["test_accuracy"] for entry in document["results"]}) > 3


@pytest.mark.parametrize("version", GENERATED)
@pytest.mark.parametrize("network", NETWORKS)
def test_stored_networks_have_the_counted_numbers_and_give_the_reported_accuracy(output, document, network, version):
    entry = next(e for e in document["results"] if (e["network"], e["version"]) == (network, version))
    whole, cores = (load_file(output / f"{network}-{version}{end}") for end in (".safetensors", ".cores.safetensors"))
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert sum(v.numel() for name, v in whole.items() if not name.endswith(statistics)) == entry["parameters"]
    assert [layer["name"] for layer in entry["layers"]] == list(HIDDEN_LAYERS)
    for layer in entry["layers"]:
        inside = [value for name, value in cores.items() if name.startswith(f"{layer['name']}.")]
        assert sum(value.numel() for value in inside) == layer["after"]
    assert sum(value.numel() for value in cores.values()) == sum(layer["after"] for layer in entry["layers"])
    assert len(cores) == sum(".cores." in name for name in whole)
    with safe_open(output / f"{network}-{version}.safetensors", "pt") as file:
        note = file.metadata()
    assert (note["network"], note["version"]) == (network, version)

    settings = settings_of(parser().parse_args(COMMAND))
    options, dataset = options_of(settings), load_data(images=60, test_images=30)
    shape = shape_for(network, dataset, settings.width, settings.dropout, seed=99)
    model = build(shape, Version(version, "generated", options[version]), HIDDEN_LAYERS, ()).network
    model.load_state_dict(whole, strict=True)
    model.eval()
    for images, labels, name in (
        (dataset.train_images, dataset.train_labels, "train_accuracy"),
        (dataset.test_images, dataset.test_labels, "test_accuracy"),
    ):
        with torch.no_grad():
            right = int((model(images).argmax(1) == labels).sum())
        assert right / len(labels) == entry[name]


def test_the_page_is_made_from_the_numbers(output, document):
    page = (output / "results.md").read_text("utf-8")
    assert page == markdown(document)
    assert LEGEND in page
    assert f"`{document['command']}`" in page
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| ")
    ]
    rows = [row for row in rows if row[0] not in ("version", "---")]
    for row, entry in zip(rows, document["results"], strict=True):
        accuracies = [f"{100 * entry[name]:.1f} %" for name in ("train_accuracy", "test_accuracy")]
        assert [row[0], row[3], *row[4:6]] == [entry["version"], f"{entry['parameters']:,}", *accuracies]


def test_results_come_back_from_json_as_they_were(document):
    for entry in document["results"]:
        assert json.loads(json.dumps(Result.from_json(entry).to_json())) == entry


def test_the_command_in_the_document_makes_the_same_numbers_again(document, tmp_path):
    program, script, *given = shlex.split(document["command"])
    assert (program, script) == ("python", "examples/compress_network.py")
    again = [*given, "--network", "vgg16", "--topologies", "MERA", "--no-controls", "--output", str(tmp_path)]
    assert main(again) == 0
    fixed = {(e["network"], e["version"]): {**e, "seconds": 0.0} for e in document["results"]}
    found = [{**entry, "seconds": 0.0} for entry in read(tmp_path)["results"]]
    assert found == [fixed["vgg16", "dense"], fixed["vgg16", "MERA"]]


def test_a_finished_run_that_is_resumed_trains_nothing(output, document, capsys, monkeypatch):
    monkeypatch.setattr("compress_network.train", None)
    assert main([*COMMAND, "--output", str(output), "--resume"]) == 0
    assert read(output) == document
    assert "Written to" in capsys.readouterr().out


SHORT = [*COMMAND, "--network", "alexnet", "--topologies", "TTN"]


def test_autocast_changes_how_numbers_are_made_and_is_on_the_page(output, document, tmp_path):
    assert main([*SHORT, "--no-controls", "--autocast", "--output", str(tmp_path)]) == 0
    found = read(tmp_path)
    plain = {entry["version"]: entry["losses"] for entry in document["results"] if entry["network"] == "alexnet"}
    for entry in found["results"]:
        assert entry["losses"] != plain[entry["version"]]
        assert entry["losses"] == pytest.approx(plain[entry["version"]], rel=0.1)
    assert "products in bfloat16" in (tmp_path / "results.md").read_text("utf-8")
    assert "bfloat16" not in (output / "results.md").read_text("utf-8")


def test_where_only_convolutions_are_replaced_there_are_no_small_networks(tmp_path):
    assert main([*SHORT, "--epochs", "1", "--layers", "features.[57]", "--output", str(tmp_path)]) == 0
    entries = {entry["version"]: entry for entry in read(tmp_path)["results"]}
    assert list(entries) == ["dense", "TTN", "TTN, frozen", "dense, frozen"]
    assert [layer["name"] for layer in entries["TTN"]["layers"]] == ["features.5", "features.7"]


def test_a_diverged_run_is_marked_and_the_others_are_trained(tmp_path):
    command = [*SHORT, "--no-controls", "--core-rate", "1e30", "--epochs", "1", "--output", str(tmp_path)]
    assert main(command) == 0
    dense, generated = read(tmp_path)["results"]
    assert (dense["diverged"], generated["diverged"]) == (False, True)
    assert "TTN (diverged)" in (tmp_path / "results.md").read_text("utf-8")


@pytest.mark.parametrize("form", FORMS)
def test_cifar_10_is_found_and_re_encoding_is_noted(tmp_path, form):
    FORMS[form](tmp_path, fake())
    command = ["--width", "0.05", "--epochs", "1", "--batch", "10", "--bond", "2", "--threads", "1", "--no-controls"]
    command += [
        "--data",
        str(tmp_path),
        "--network",
        "alexnet",
        "--topologies",
        "TTN",
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(command) == 0
    document = read(tmp_path / "out")
    assert document["note"] == ("JPEG re-encoded" if form == "jpeg" else "")
    assert (document["images"], document["test_images"]) == (20, 12)
    assert document["data"] in (tmp_path / "out" / "results.md").read_text("utf-8")


def test_defaults_suit_the_data():
    digits, cifar = (settings_of(parser().parse_args(given)) for given in ([], ["--data", "there"]))
    assert digits.recipe.epochs < cifar.recipe.epochs
    assert digits.recipe.batch < cifar.recipe.batch
    other = {"epochs": cifar.recipe.epochs, "batch": cifar.recipe.batch}
    assert replace(digits, data="there", recipe=replace(digits.recipe, **other)) == cifar
    assert set(options_of(digits)) == set(GENERATED)
    assert len(versions_of(options_of(digits), controls=True)) == 10


@given(st.lists(st.floats(0, 100), min_size=1, max_size=17).map(sorted), st.floats(0.1, 5))
def test_labels_keep_their_order_and_distance_and_stay_between_the_edges(heights, spacing):
    top = max(100.0, spacing * len(heights))
    places = spread(heights, spacing, 0.0, top)
    assert all(after - before >= spacing - 1e-9 for before, after in pairwise(places))
    assert places[0] >= -1e-9
    assert places[-1] <= top + 1e-9
    if all(after - before >= spacing for before, after in pairwise(heights)):
        assert places == pytest.approx(heights), "what is far enough apart stays where it is"
