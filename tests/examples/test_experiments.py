"""Experiments: what a file declares is what is built, trained, resumed and shown."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import adntn
import experiment_page
import run_experiments
from adntn_torch import generated_layers
from adntn_torch.training import read_checkpoint
from data import load_data, read_dataset, write_dataset
from experiment import Experiment, place, read_experiment
from experiment_jobs import Summed, build, dense_network, holding_out, run_job, save_network, stored_count
from networks import NETWORKS, parameter_count
from training import Stop

ROOT = Path(run_experiments.__file__).parents[1]
DECLARED = sorted((ROOT / "examples" / "experiments").glob("*.toml"))
HEAD = """
title = "A look"
data = "digits"
network = { name = "classifier", hidden = 32 }
seeds = [0, 1]
images = 100
test_images = 50
[recipe]
epochs = 1
batch = 20
"""
VERSIONS = {
    "dense": "",
    "{topology}": """
generate = { "classifier.[03]" = "{topology},bond=2,activation=tanh" }
each = { topology = ["TTN", "MERA"] }
""",
    "two TTN": """
seeds = [0]
generate = { "classifier.3" = "TTN,bond=2" }
copies = 2
""",
    "TTN, frozen": """
seeds = [0]
generate = { "classifier.[03]" = "TTN,bond=2,activation=tanh" }
frozen = true
""",
    "dense, frozen": 'seeds = [0]\nfrozen = ["classifier.[03]"]',
    "small": """
as_large_as = "TTN"
narrow = ["hidden"]
""",
    "random features": """
seeds = [0]
as_large_as = "frozen, read out by TTN"
narrow = ["hidden"]
frozen = ["classifier.[03]"]
""",
    "random projection": """
seeds = [0]
network = { projection = true }
as_large_as = "frozen, read out by TTN"
narrow = ["hidden"]
frozen = ["classifier.0"]
""",
    "frozen, read out by TTN": """
seeds = [0]
frozen = ["classifier.[03]"]
generate = { "classifier.6" = "TTN,bond=2" }
""",
    "beside a seed": """
seeds = [0]
generate = { "classifier.[03]" = "TTN,bond=2,activation=tanh" }
seeded = true
""",
    "pruned": """
seeds = [0]
after = "dense"
prune = ["classifier.[03]"]
keep = 0.1
recipe = { epochs = 1 }
""",
    "int8": """
seeds = [0]
after = "dense"
int8 = true
recipe = { epochs = 0 }
""",
    "fitted and taught": """
generate = { "classifier.3" = "TTN,bond=2" }
after = "dense"
fit = 2
teacher = "dense"
seeds = [0]
""",
}
WITH_TWO_SEEDS = ("dense", "TTN", "MERA", "small")
NAMES = ["dense", "TTN", "MERA", *list(VERSIONS)[2:]]
#: Those that a command runs, each job in a process of its own: with two seeds, after another, and not trained at all.
COMMANDED = {name: VERSIONS[name] for name in ("dense", "{topology}", "pruned", "int8")}


def text(versions: dict[str, str] = VERSIONS, head: str = HEAD) -> str:
    return head + "".join(f'\n[[versions]]\nname = "{name}"\n{rest}\n' for name, rest in versions.items())


def declared(folder: Path, content: str) -> Path:
    file = folder / "look.toml"
    file.write_text(content, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return read_experiment(declared(tmp_path_factory.mktemp("declared"), text()))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an experiment that was run as a user runs it."""
    folder = tmp_path_factory.mktemp("ran")
    file = declared(folder, text(COMMANDED))
    command = [sys.executable, "examples/run_experiments.py", str(file), "--out", str(folder / "out")]
    command += ["--work", str(folder / "work"), "--jobs", "2"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=500, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return folder


@pytest.fixture(scope="module")
def results(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each version's first seed gives, by name."""
    dataset, work = load_data(images=100, test_images=50), tmp_path_factory.mktemp("work")
    jobs = [version for version, seed in experiment.jobs() if seed == 0]
    return {version.name: run_job(experiment, version, 0, dataset, work, stop=Stop()) for version in jobs}


@pytest.mark.parametrize("file", DECLARED, ids=[file.stem for file in DECLARED])
def test_every_experiment_that_ships_says_what_it_stores(file, tmp_path):
    experiment = read_experiment(file)
    experiment = replace(experiment, network={**experiment.network, "hidden": 512})
    dataset = load_data(images=20, test_images=10)
    colours, size = {"digits": (1, 8), "cifar-10": (3, 32), "cifar-10 features": (512, 1)}[experiment.data]
    dataset = replace(dataset, train_images=torch.zeros(20, colours, size, size))
    for version in experiment.versions:
        if not version.needs:
            built = build(experiment, version, 0, dataset, tmp_path)
            assert built.stored >= sum(layer.after for layer in built.layers)
            assert bool(built.layers) == bool(version.generate or version.frozen or version.as_large_as)


def test_a_data_set_comes_back_from_its_file_as_it_was(tmp_path):
    dataset = load_data(images=20, test_images=10)
    write_dataset(dataset, tmp_path / "data.safetensors")
    found = read_dataset(tmp_path / "data.safetensors")
    assert str(found) == str(dataset)
    for name, value in vars(dataset).items():
        other = getattr(found, name)
        assert torch.equal(other, value) if isinstance(value, torch.Tensor) else other == value


def test_images_that_are_held_out_are_tested_on_and_not_trained_on():
    dataset = load_data(images=200, test_images=50)
    held = holding_out(dataset, 50)
    parts = torch.cat([held.train_images, held.test_images]), torch.cat([held.train_labels, held.test_labels])
    for found, before in zip(parts, (dataset.train_images, dataset.train_labels), strict=True):
        assert len(found) == 200
        rows = sorted(tuple(row) for row in found.reshape(200, -1).tolist())
        assert rows == sorted(tuple(row) for row in before.reshape(200, -1).tolist())
    assert held.test_labels.bincount().tolist() == [5] * 10


def test_a_version_is_made_for_every_combination_and_those_that_others_need_come_first(experiment):
    assert [version.name for version in experiment.versions] == NAMES
    jobs = [(version.name, seed) for version, seed in experiment.jobs()]
    assert len(jobs) == len(set(jobs)) == len(NAMES) + len(WITH_TWO_SEEDS)
    assert jobs.index(("dense", 0)) < jobs.index(("pruned", 0))
    assert experiment.version("MERA").rules == {"classifier.[03]": adntn.MERA.options(bond=2, activation="tanh")}


def test_versions_store_what_they_say(experiment, tmp_path):
    dataset = load_data(images=100, test_images=50)
    dense = 64 * 32 + 32 * 32 + 32 * 10 + 32 + 32 + 10
    assert parameter_count(dense_network(experiment, dataset)) == dense
    plain = [name for name in NAMES if not experiment.version(name).needs]
    kept = {name: build(experiment, experiment.version(name), 0, dataset, tmp_path) for name in plain}
    generated = adntn.TTN((32, 64), bond=2).parameters + adntn.TTN((32, 32), bond=2).parameters
    rest = 32 * 10 + 32 + 32 + 10
    assert kept["dense"].stored == dense
    assert kept["TTN"].stored == generated + rest
    assert kept["two TTN"].stored == 2 * adntn.TTN((32, 32), bond=2).parameters + 64 * 32 + rest
    assert kept["TTN, frozen"].stored == kept["dense, frozen"].stored == rest
    assert kept["beside a seed"].stored == kept["TTN"].stored - 2  # the scale of a delta is fixed
    read_out = adntn.TTN((10, 32), bond=2).parameters
    assert kept["frozen, read out by TTN"].stored == read_out + 32 + 32 + 10
    for name, kept_of_each in (("random features", (2, 10)), ("random projection", (1, 10))):
        hidden = kept[name].network.get_submodule("classifier.0").out_features
        biases, weights = kept_of_each
        assert kept[name].stored == (biases + weights) * hidden + 10
        assert kept[name].stored - biases - weights < kept["frozen, read out by TTN"].stored <= kept[name].stored
    small = kept["small"].network
    assert kept["small"].stored == parameter_count(small) >= kept["TTN"].stored
    narrower = dense_network(
        experiment, dataset, others={"hidden": small.get_submodule("classifier.0").out_features - 1}
    )
    assert parameter_count(narrower) < kept["TTN"].stored


def test_running_statistics_are_stored(tmp_path):
    network = NETWORKS["vgg16"](width=0.05, features=8, hidden=4)
    affine = sum(
        one.numel() for layer in network.modules() if isinstance(layer, nn.BatchNorm2d) for one in layer.parameters()
    )
    assert stored_count(network) == parameter_count(network) + affine


def test_what_begins_beside_a_seed_begins_as_that(experiment, tmp_path):
    dataset = load_data(images=100, test_images=50)
    dense = dense_network(experiment, dataset, 0)
    network = build(experiment, experiment.version("beside a seed"), 0, dataset, tmp_path).network
    images = dataset.test_images
    torch.testing.assert_close(network(images), dense(images))
    learning = {name for name, one in network.named_parameters() if one.requires_grad}
    assert not {"classifier.0.weight", "classifier.3.weight"} & learning
    assert {"classifier.6.weight", "classifier.0.bias"} <= learning


def test_weights_of_another_declaration_are_not_begun_with(experiment, tmp_path):
    dataset = load_data(images=100, test_images=50)
    dense = experiment.version("dense")
    path = tmp_path / f"{place('dense', 0)}.safetensors"
    with pytest.raises(FileNotFoundError, match="version 'dense' again"):
        build(experiment, experiment.version("pruned"), 0, dataset, tmp_path)
    save_network(dense_network(experiment, dataset, 0), path, experiment.declaration(dense))
    build(experiment, experiment.version("pruned"), 0, dataset, tmp_path)
    longer = replace(experiment, recipe=replace(experiment.recipe, epochs=2))
    with pytest.raises(ValueError, match="trained by another declaration"):
        build(longer, longer.version("pruned"), 0, dataset, tmp_path)
    assert experiment.declaration(experiment.version("pruned")) != longer.declaration(longer.version("pruned"))


def test_a_sum_of_generators_begins_with_the_deviation_of_one(experiment, tmp_path):
    dataset = load_data(images=100, test_images=50)
    dense = dense_network(experiment, dataset, 0)
    network = build(experiment, experiment.version("two TTN"), 0, dataset, tmp_path).network
    summed = network.get_submodule("classifier.3")
    assert isinstance(summed, Summed)
    first, second = generated_layers(summed).values()
    assert not torch.equal(first.weight, second.weight)
    inputs = torch.randn(5, 32)
    wanted = inputs @ (first.weight + second.weight).T + first.bias
    torch.testing.assert_close(summed(inputs), wanted)
    deviation = float((first.weight + second.weight).detach().std())
    assert math.isclose(deviation, float(dense.get_submodule("classifier.3").weight.detach().std()), rel_tol=0.15)


@pytest.mark.parametrize("name", NAMES)
def test_every_version_is_trained_and_measured(results, name):
    result = results[name]
    assert 0 <= result["test_accuracy"] <= 1
    assert result["peak_memory"] >= 0
    assert len(result["losses"]) == (0 if name == "int8" else 1)
    assert not result["diverged"]


def test_what_is_stored_is_counted_as_it_is(results):
    assert results["int8"]["stored"] < results["dense"]["stored"] / 3
    assert results["pruned"]["layers"][0]["ratio"] == pytest.approx(10, rel=0.01)


def test_every_job_has_a_result_and_the_same_command_runs_nothing_twice(ran, capsys, monkeypatch):
    results = [json.loads(line) for line in (ran / "out" / "look.jsonl").read_text("utf-8").splitlines()]
    assert {(result["version"], result["seed"]) for result in results} == {
        *((name, seed) for name in ("dense", "TTN", "MERA") for seed in (0, 1)),
        ("pruned", 0),
        ("int8", 0),
    }
    assert all(0 <= result["test_accuracy"] <= 1 and result["peak_memory"] >= 0 for result in results)
    monkeypatch.setattr(run_experiments, "keep_freed_memory", lambda: None)
    given = [str(ran / "look.toml"), "--out", str(ran / "out"), "--work", str(ran / "work"), "--list"]
    assert run_experiments.main(given) == 0
    assert capsys.readouterr().out == "0 jobs\n"
    assert run_experiments.main([*given, "--again", "--versions", "T*", "--seeds", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == ["look: TTN, seed 1", "1 jobs: look 1"]


def test_what_chooses_nothing_is_said(ran, capsys):
    given = [str(ran / "look.toml"), "--out", str(ran / "out"), "--work", str(ran / "work"), "--versions", "X*"]
    assert run_experiments.main(given) == 2
    assert "--versions and --seeds choose nothing of dense, TTN" in capsys.readouterr().err


def test_two_runs_of_an_experiment_do_not_meet(ran, tmp_path, capsys):
    arguments = run_experiments.parser().parse_args([str(ran / "look.toml"), "--work", str(tmp_path)])
    experiment = read_experiment(ran / "look.toml")
    with (
        run_experiments.alone([experiment], arguments),
        pytest.raises(ValueError, match="run by another process"),
        run_experiments.alone([experiment], arguments),
    ):
        pass


def test_a_result_that_was_left_is_kept(ran, tmp_path):
    """A run may end after a job has, and before its result is kept."""
    experiment = read_experiment(ran / "look.toml")
    arguments = run_experiments.parser().parse_args([str(ran / "look.toml"), "--work", str(tmp_path)])
    job = run_experiments.Job(ran / "look.toml", experiment, experiment.version("dense"), 0)
    left = {"version": "dense", "seed": 0, "declaration": job.declaration, "test_accuracy": 0.5}
    path = run_experiments.result_of(job, arguments)
    path.parent.mkdir()
    path.write_text(json.dumps(left), encoding="utf-8")
    assert run_experiments.attended(job, tmp_path / "no data", arguments, Stop()) == left


def test_results_of_another_declaration_are_neither_kept_nor_lost(ran, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run_experiments, "keep_freed_memory", lambda: None)
    file = declared(tmp_path, text(COMMANDED).replace("bond=2", "bond=3"))
    before = (ran / "out" / "look.jsonl").read_bytes()
    assert run_experiments.main([str(file), "--out", str(ran / "out"), "--work", str(ran / "work")]) == 2
    assert "'TTN', seed 0, was made as the file said before" in capsys.readouterr().err
    assert (ran / "out" / "look.jsonl").read_bytes() == before


def test_an_interrupted_run_goes_on_and_ends_with_the_numbers_of_an_undisturbed_one(tmp_path):
    file = declared(tmp_path, text({"dense": ""}, HEAD.replace("epochs = 1", "epochs = 60").replace("[0, 1]", "[0]")))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def command(folder: str) -> list[str]:
        places = ["--out", str(tmp_path / folder), "--work", str(tmp_path / folder / "work")]
        return [sys.executable, "examples/run_experiments.py", str(file), *places]

    with subprocess.Popen(command("cut"), cwd=ROOT, env=environment) as process:
        checkpoint = tmp_path / "cut" / "work" / "look" / f"{place('dense', 0)}.checkpoint.pt"
        for _ in range(600):
            if checkpoint.exists() or process.poll() is not None:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130
    step = read_checkpoint(checkpoint).position["step"]
    assert step > 0
    assert not (tmp_path / "cut" / "look.jsonl").exists()
    for folder in ("cut", "whole"):
        subprocess.run(command(folder), cwd=ROOT, check=True, timeout=300, env=environment)
    cut, whole = (json.loads((tmp_path / folder / "look.jsonl").read_text("utf-8")) for folder in ("cut", "whole"))
    assert cut["losses"] == whole["losses"]
    assert len(cut["losses"]) == 60
    assert not checkpoint.exists()
    assert cut["test_accuracy"] == whole["test_accuracy"]


def test_a_page_is_made_of_results(ran, tmp_path, capsys):
    declared(tmp_path, text(COMMANDED))
    template = tmp_path / "page.md.jinja"
    template.write_text(
        "{{ results.conditions('look') }}\n{{ results.table('look') }}\n{{ results.plot('look', 'A look') }}\n"
        "{{ results.test('look', 'TTN') }} {{ results.above('look', 'dense', 'TTN') }}\n"
    )
    assert experiment_page.main([str(ran / "out"), "--template", str(template)]) == 0
    page = (ran / "out.md").read_text("utf-8")
    results = [json.loads(line) for line in (ran / "out" / "look.jsonl").read_text("utf-8").splitlines()]
    accuracies = [100 * result["test_accuracy"] for result in results if result["version"] == "TTN"]
    assert f"{accuracies[0]:.1f}; {accuracies[1]:.1f} %" in page
    assert "1 epochs in batches of 20" in page
    assert "![A look](out/look.png)" in page
    assert (ran / "out" / "look.png").stat().st_size > 10_000
    template.write_text("{{ results.test('look', 'nothing') }}")
    assert experiment_page.main([str(ran / "out"), "--template", str(template)]) == 2
    assert "there is no result of 'nothing'" in capsys.readouterr().err


def test_the_page_that_ships_is_what_its_results_make(tmp_path):
    shutil.copytree(ROOT / "docs" / "results" / "paper", tmp_path / "paper")
    made = experiment_page.page(tmp_path / "paper", experiment_page.TEMPLATE)
    assert made == (ROOT / "docs" / "results" / "paper.md").read_text("utf-8")


def test_layers_and_kernels_are_shown_as_they_were_measured(tmp_path):
    row = {"layer": "fc", "ratio": 2.0, "shape": [4, 4], "weights": 16, "relative": 1.5, "bond": 2, "threads": 2}
    run_experiments.write_results(tmp_path / "imagenet-layers.jsonl", [{**row, "network": "AlexNet"}])
    fits = [
        {"layer": "conv", "version": "TTN", "relative_error": 0.9, "shuffled_error": 0.95, "ratio": 3.0, "steps": 1}
    ]
    run_experiments.write_results(tmp_path / "imagenet-fits.jsonl", fits)
    results = experiment_page.Experiments(tmp_path, tmp_path)
    assert "| fc, 4 x 4 | 16 | 2 | 1.5 to 1.5 (2 threads) |" in results.layer_table("AlexNet")
    assert "| conv | 0.900 / 0.950 (3) |" in results.fit_table()


LEADS = {
    "alone": ([0.7], [0.5], "+20.0"),
    "by less than the spreads": ([0.5, 0.6, 0.7], [0.4, 0.5, 0.6], "-10.0"),
    "by more than the spreads": ([0.8, 0.8, 0.8], [0.4, 0.5, 0.6], "+20.0"),
    "behind": ([0.5, 0.5], [0.8], "-30.0"),
}


@pytest.mark.parametrize(("ours", "theirs", "expected"), LEADS.values(), ids=LEADS)
def test_a_lead_is_what_is_left_when_spreads_are_taken_off(tmp_path, ours, theirs, expected):
    experiment = read_experiment(declared(tmp_path, text({"ours": 'generate = { "*" = "TTN" }', "theirs": ""})))
    rows = [
        {
            "version": name,
            "seed": seed,
            "test_accuracy": accuracy,
            "declaration": experiment.declaration(experiment.version(name)),
        }
        for name, accuracies in (("ours", ours), ("theirs", theirs))
        for seed, accuracy in enumerate(accuracies)
    ]
    run_experiments.write_results(tmp_path / "look.jsonl", rows)
    results = experiment_page.Experiments(tmp_path, tmp_path)
    assert results.lead("look", "ours", ["theirs"]) == expected


def test_a_page_says_nothing_that_its_results_do_not(tmp_path):
    results = experiment_page.Experiments(tmp_path, tmp_path)
    assert results.holds(True, "it is better") == "it is better"
    with pytest.raises(ValueError, match="the results do not say that it is better"):
        results.holds(False, "it is better")


BAD = {
    "no TOML": ("title = ", "is no TOML file"),
    "unknown key": (text({"dense": "colour = 1"}), "version: unknown 'colour'; known are after,"),
    "unknown data": (text({"dense": ""}, HEAD.replace("digits", "faces")), "data must be one of 'digits'"),
    "unknown network": (text({"dense": ""}, HEAD.replace("classifier", "lenet")), "name must be one of alexnet"),
    "unknown topology": (text({"a": 'generate = { "*" = "Tree" }'}), "version 'a', generate: wants PATTERN=TOPOLOGY"),
    "unknown recipe": (text({"a": "recipe = { speed = 1 }"}), "speed"),
    "letters of a layer": (text({"a": 'frozen = "features"'}), "frozen must be like False, got 'features'"),
    "a number in quotes": (text({"a": 'copies = "2"'}), "version: copies must be like 1, got '2'"),
    "a recipe in quotes": (
        text({"a": 'recipe = { epochs = "5" }'}),
        "version 'a', recipe: epochs must be like 6, got '5'",
    ),
    "no seeds": (text({"a": "seeds = []"}), "version 'a': seeds must not be empty"),
    "held out too many": (
        text({"dense": ""}, HEAD.replace("images = 100\n", "images = 100\nheld_out = 100\n", 1)),
        "held_out must not be negative, and less than images (100), got 100",
    ),
    "missing version": (text({"a": 'after = "b"'}), "there is no version 'b', but 'a'"),
    "after itself generated": (
        text({"a": 'generate = { "*" = "TTN" }', "b": 'after = "a"'}),
        "begins after 'a', which is not the dense network",
    ),
    "frozen nothing": (text({"a": "frozen = true"}), "frozen = true needs generate"),
    "twice": (text({"a": ""}) + '[[versions]]\nname = "a"\n', "two versions have the name 'a'"),
    "half a pruning": (text({"a": 'prune = ["*"]'}), "prune needs a keep between 0 and 1"),
    "half a narrowing": (text({"a": 'narrow = ["hidden"]'}), "as_large_as and narrow go together"),
    "fit to nothing": (text({"a": 'generate = { "*" = "TTN" }\nfit = 3'}), "fit needs after"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_declaration_is_refused_with_the_reason(tmp_path, capsys, content, message):
    file = declared(tmp_path, content)
    with pytest.raises(ValueError, match=r"look\.toml") as caught:
        read_experiment(file)
    assert message in str(caught.value)
    assert run_experiments.main([str(file), "--out", str(tmp_path / "out"), "--list"]) == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(("data", "message"), [("cifar-10", "give --data PATH"), ("cifar-10 features", "give --data")])
def test_missing_data_are_asked_for_before_anything_runs(tmp_path, capsys, data, message):
    file = declared(tmp_path, text({"dense": ""}, HEAD.replace('"digits"', f'"{data}"')))
    assert run_experiments.main([str(file), "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
