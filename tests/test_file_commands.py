"""`adntn compress`, `expand`, `report`, `draw`, `completion`: what they write, print and refuse."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import needs, random_array, relative_error, tolerance
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import adntn
from adntn.cli import main
from adntn.commands.rules import rule
from adntn.files import Weight, write
from adntn.topologies import BY_NAME

SHAPES = {"body.0.weight": (32, 24), "body.0.bias": (32,), "body.1.weight": (16, 8, 3, 3), "head.weight": (10, 32)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tensors = {name: random_array(shape, seed, "float32") for seed, (name, shape) in enumerate(SHAPES.items())}
    tensors["steps"] = np.arange(6).reshape(2, 3)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path / "model.safetensors"


@pytest.fixture
def small(model: Path) -> Path:
    return compressed(model, "body.0=TTN,bond=4", "body.1=MERA,bond=2")


def compressed(model: Path, *rules: str, options: tuple[str, ...] = ()) -> Path:
    small = model.with_name("small.safetensors")
    rules = tuple(word for one in rules for word in ("--rule", one))
    assert main(["compress", str(model), str(small), "--iterations", "3", *rules, *options]) == 0
    return small


RULES = {
    "a layer's name": (["body.0=TTN,bond=2"], {"body.0.weight"}),
    "a weight's name": (["head.weight=LowRank,rank=2"], {"head.weight"}),
    "a pattern passes over what is no weight": (["body.*=TTN"], {"body.0.weight", "body.1.weight"}),
    "the first match decides": (["head=dense", "body.1=dense", "*=TTN"], {"body.0.weight"}),
    "a bias by its whole name": (["body.0.bias=TTN,bond=1"], {"body.0.bias"}),
}


@pytest.mark.parametrize(("rules", "names"), RULES.values(), ids=RULES)
def test_rules_choose_weights_and_all_else_is_copied(rules: list[str], names: set[str], model: Path) -> None:
    small = compressed(model, *rules)
    before, after = load_file(model), load_file(small)
    assert set(adntn.load(small)) == names
    assert {name for name in after if ".cores." not in name} == set(before) - names
    assert all(np.array_equal(after[name], before[name]) for name in set(before) - names)
    with safe_open(small, "np") as file:
        assert file.metadata()["format"] == "pt"


def test_options_are_those_of_the_topologies() -> None:
    made = rule("a=MERA,bond=(3,2),border=periodic,leg=1,activation=[silu],layout='interleaved'").options
    assert made == adntn.MERA.options(bond=(3, 2), border="periodic", leg=1, activation=("silu",), layout="interleaved")
    assert set(BY_NAME) == {"TTN", "AugmentedTTN", "MERA", "Brickwall", "TensorTrain", "LowRank", "Tucker"}


@pytest.mark.parametrize("backend", ["numpy", "torch", "jax"])
def test_the_cores_are_those_of_the_fit(backend: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs(backend)
    small = compressed(model, "body.0=LowRank,rank=3", options=("--backend", backend, "--json"))
    printed = json.loads(capsys.readouterr().out)
    weight = load_file(model)["body.0.weight"]
    generator, cores = adntn.load(small)["body.0.weight"]
    best = np.linalg.svd(weight)[1][3:]
    assert relative_error(generator.weight(cores), weight) == pytest.approx(
        np.linalg.norm(best) / np.linalg.norm(weight), rel=tolerance("float32")
    )
    assert printed["weights"][0]["error"] == pytest.approx(relative_error(generator.weight(cores), weight), rel=1e-4)
    assert (printed["weights"][0]["before"], printed["weights"][0]["after"]) == (32 * 24, generator.parameters)
    assert (printed["bytes_before"], printed["bytes_after"]) == (model.stat().st_size, small.stat().st_size)


def test_the_method_of_the_fits_is_a_choice(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    errors = {}
    for method in ("l-bfgs", "levenberg-marquardt"):
        (model.parent / "small.safetensors").unlink(missing_ok=True)
        compressed(model, "body.0=TTN,bond=2", options=("--method", method, "--json"))
        (row,) = json.loads(capsys.readouterr().out)["weights"]
        weight = load_file(model)["body.0.weight"]
        expected = adntn.fit(adntn.TTN(weight.shape, bond=2), weight, iterations=3, method=method)  # type: ignore[arg-type]
        errors[method] = row["error"]
        assert row["error"] == pytest.approx(expected.error, rel=1e-6)
    assert errors["l-bfgs"] != errors["levenberg-marquardt"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64", "complex64"])
def test_number_types_are_kept(dtype: str, tmp_path: Path) -> None:
    import ml_dtypes  # noqa: F401, PLC0415  (gives NumPy bfloat16)

    weight = random_array((16, 12), dtype="complex128" if dtype == "complex64" else "float64").astype(dtype)
    save_file({"a": weight}, tmp_path / "model.safetensors")
    small = compressed(tmp_path / "model.safetensors", "a=LowRank,rank=2")
    assert {core.dtype.name for core in adntn.load(small)["a"][1].values()} == {dtype}
    assert main(["expand", str(small), str(tmp_path / "dense")]) == 0
    with safe_open(tmp_path / "dense", "np") as file:
        assert file.get_tensor("a").dtype.name == dtype


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_expanding_gives_the_generated_weights_under_their_names(backend: str, small: Path, model: Path) -> None:
    needs(backend)
    dense = small.with_name("dense.safetensors")
    assert main(["expand", str(small), str(dense), "--backend", backend]) == 0
    before, after = load_file(model), load_file(dense)
    assert {name: one.shape for name, one in after.items()} == {name: one.shape for name, one in before.items()}
    generated = adntn.load(small)
    for name, one in after.items():
        if name in generated:
            generator, cores = generated[name]
            assert relative_error(one, generator.weight(cores)) < tolerance("float32")
        else:
            assert np.array_equal(one, before[name])
    with safe_open(dense, "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_file_is_compressed_further(small: Path) -> None:
    smaller = small.with_name("smaller.safetensors")
    assert main(["compress", str(small), str(smaller), "--rule", "head=TTN,bond=2", "--iterations", "2"]) == 0
    before, after = adntn.load(small), adntn.load(smaller)
    assert set(after) == {*before, "head.weight"}
    assert all(after[name][0] == generator for name, (generator, _) in before.items())
    assert main(["expand", str(smaller), str(small.with_name("dense"))]) == 0


def test_torch_builds_a_model_from_the_file(model: Path) -> None:
    needs("torch")
    import torch  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    import adntn_torch  # noqa: PLC0415

    def build() -> nn.Module:
        made = nn.Module()
        made.body = nn.ModuleList([nn.Linear(24, 32), nn.Conv2d(8, 16, 3, bias=False)])
        made.head = nn.Linear(32, 10, bias=False)
        made.register_buffer("steps", torch.zeros(2, 3, dtype=torch.int64))
        return made

    loaded = adntn_torch.load_compressed(build, compressed(model, "body.*=TTN,bond=2"))
    assert list(adntn_torch.generated_layers(loaded)) == ["body.0", "body.1"]
    assert np.array_equal(loaded.head.weight.detach(), load_file(model)["head.weight"])


def test_the_report_says_what_each_weight_is(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["report", str(small), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    generators = {name: generator for name, (generator, _) in adntn.load(small).items()}
    assert (found["bytes"], found["tensors_not_generated"]) == (small.stat().st_size, 3)
    for row in found["weights"]:
        generator = generators[row["name"]]
        assert tuple(row["shape"]) == generator.shape
        assert (row["parameters"], row["ratio"]) == (generator.parameters, generator.ratio)
        assert (row["bytes_dense"], row["bytes_cores"]) == (4 * row["weights"], 4 * row["parameters"])
        assert row["rank_bound"] == generator.report().rank_bound
    assert [row["topology"] for row in found["weights"]] == ["TTN(bond=4)", "MERA(bond=2)"]
    assert found["weights"][0]["schedule"] in {"materialise", "stream", "contract"}
    assert found["weights"][1]["schedule"] is None, "a convolution's depends on its images"
    assert main(["report", str(small)]) == 0
    out = capsys.readouterr().out
    assert "TTN(bond=4)" in out
    assert "body.1.weight" in out


def test_networks_are_drawn_level_by_level(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["draw", str(small)]) == 0
    out = capsys.readouterr().out
    assert all(str(generator) in out for generator, _ in adntn.load(small).values())
    assert main(["draw", str(small), "--weight", "body.1.weight"]) == 0
    out = capsys.readouterr().out
    assert "body.1.weight\nMERA: 16 x 8 x 3 x 3 from" in out
    assert "TTN" not in out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_their_completion(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(command in script for command in ("compress", "expand", "report", "draw", "verify"))
    assert "--rule" in script or "rule" in script
    if shell != "fish":  # which completes files by itself
        assert script.count("_shtab_compgen_files" if shell == "bash" else "_files") > 6
    if found := shutil.which(shell):
        (tmp_path / "script").write_text(script)
        subprocess.run([found, "-n", str(tmp_path / "script")], check=True)


def test_completion_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert 'pip install "adntn[completion]"' in capsys.readouterr().err


# files


@pytest.mark.parametrize("command", ["compress", "expand"])
def test_a_file_that_is_there_is_replaced_only_by_force(
    command: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = compressed(model, "body.0=TTN")
    arguments = [
        command,
        str(source),
        str(source.with_name("out")),
        *(["--rule", "head=TTN"] * (command == "compress")),
    ]
    source.with_name("out").write_text("precious")
    assert main(arguments) == 2
    assert "is there already; --force replaces it" in capsys.readouterr().err
    assert source.with_name("out").read_text() == "precious"
    assert main([*arguments, "--force"]) == 0
    assert load_file(source.with_name("out"))


@pytest.mark.parametrize("command", ["compress", "expand"])
@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_no_file_is_written_over_itself(
    command: str, link: Any, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = small if link is None else small.with_name("link")
    if link is not None:
        link(small, output)
    before = small.read_bytes()
    rules = ["--rule", "head=TTN"] if command == "compress" else []
    assert main([command, str(small), str(output), "--force", *rules]) == 2
    assert "IN and OUT are the same file" in capsys.readouterr().err
    assert small.read_bytes() == before


def test_a_command_that_is_killed_leaves_no_output(tmp_path: Path) -> None:
    save_file({"a": random_array((2048, 2048), dtype="float32")}, tmp_path / "model")
    command = [sys.executable, "-m", "adntn", "compress", str(tmp_path / "model"), str(tmp_path / "small")]
    process = subprocess.Popen([*command, "--rule", "a=TTN,bond=4", "--iterations", "100000"])
    time.sleep(3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait() != 0
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_a_command_that_fails_while_it_writes_leaves_the_file_as_it_was(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(bytes(100))
        raise OSError(28, "No space left on device")

    output = small.with_name("dense")
    output.write_text("before")
    files = sorted(small.parent.iterdir())
    monkeypatch.setattr("safetensors.numpy.save_file", full)
    assert main(["expand", str(small), str(output), "--force"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert output.read_text() == "before"
    assert sorted(small.parent.iterdir()) == files


# bad input

COMPRESS = {
    "nothing of that name": (["hed=TTN"], "'hed' matches nothing; the closest names are head.weight"),
    "nothing but a bias": (["*.bias=TTN"], "choose nothing but tensors of one axis"),
    "integers": (["steps=TTN"], "'steps' holds no floating-point numbers, but int64"),
    "no gain": (["head=TTN,bond=64"], "'head.weight' cannot be compressed: TTN(bond=64) stores"),
    "another shape": (["head=TTN,batch=2"], "TTN(batch=2) makes the shape (2, 10, 32)"),
    "a bond of 0": (["head=TTN,bond=0"], "'head.weight' cannot be compressed: bond must be"),
    "no iterations": (["head=TTN", "--iterations=-1"], "must be at least 0, got -1"),
    "a backend": (["head=TTN", "--backend=absent"], "'absent' is unknown"),
    "a device": (["head=TTN", "--device=cuda:7", "--backend=torch"], "device must be one of"),
}


@pytest.mark.parametrize(("arguments", "words"), COMPRESS.values(), ids=COMPRESS)
def test_bad_rules_are_exit_code_2_and_one_line(
    arguments: list[str], words: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--backend=torch" in arguments:
        needs("torch")
    output = model.with_name("out")
    assert main(["compress", str(model), str(output), "--rule", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("adntn compress: error: ")
    assert words in error
    assert error.count("\n") == 1
    assert not output.exists()


def test_a_weight_that_others_share_stays_dense(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = model.with_name("shared")
    generator = adntn.TTN((32, 24), bond=2)
    cores = {f"a.cores.{name}": core for name, core in generator.init().items()}
    weights = {"a.weight": Weight(generator, "a.cores.", "TTN")}
    write(small, weights, {**cores, "head.weight": random_array((32, 24))}, same={"embedding.weight": "head.weight"})
    assert main(["compress", str(small), str(model.with_name("out")), "--rule", "head=TTN"]) == 2
    assert "'head.weight' cannot be compressed: it is shared with embedding.weight" in capsys.readouterr().err


UNPARSED = {
    "no topology": ("head", "wants PATTERN=TOPOLOGY,option=value"),
    "an unknown topology": ("head=TNT,bond=2", "wants PATTERN=TOPOLOGY"),
    "no pattern": ("=TTN", "wants PATTERN=TOPOLOGY"),
    "an unknown option": ("head=TTN,bund=2", "its options are bond"),
    "an option without a name": ("head=TTN,2", "every option is name=value"),
    "code": ("head=TTN,bond=__import__('os').getpid()", "malformed"),
    "brackets": ("head=TTN,bond=(2", "never closed|invalid syntax"),
    "an end of the brackets": ("head=TTN,bond=2) or (3", "every option is name=value"),
    "another call": ("head=TTN,bond=2)(arity=3", "every option is name=value"),
    "nested without end": (f"head=TTN,bond={'-' * 20_000}1", "nested too deep"),
    "dense with options": ("head=dense,bond=2", "wants PATTERN=TOPOLOGY"),
}


@pytest.mark.parametrize(("text", "words"), UNPARSED.values(), ids=UNPARSED)
def test_a_rule_that_is_none_is_refused_before_any_work(
    text: str, words: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["compress", str(model), str(model.with_name("out")), "--rule", text])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert any(word in error for word in words.split("|"))


@pytest.mark.parametrize("command", ["expand", "report", "draw"])
@pytest.mark.parametrize("kind", ["plain", "cut short", "absent"])
def test_files_that_are_not_compressed_ones_are_refused(
    command: str, kind: str, model: Path, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small.write_bytes(small.read_bytes()[:-1])
    file = {"plain": model, "cut short": small, "absent": model.with_name("absent")}[kind]
    output = [str(model.with_name("out"))] if command == "expand" else []
    capsys.readouterr()
    assert main([command, str(file), *output]) == 2
    words = {"plain": "no generated weights", "cut short": "is damaged", "absent": "absent"}
    error = capsys.readouterr().err
    assert words[kind] in error
    assert error.count("\n") == 1
    assert not model.with_name("out").exists()


def test_a_file_that_would_fill_the_disk_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = adntn.TTN((2**30, 2**30), bond=2)
    cores = {name: np.ones(shape, "float32") for name, shape in generator.core_shapes.items()}
    adntn.save(tmp_path / "bomb", {"a": (generator, cores)})
    assert (tmp_path / "bomb").stat().st_size < 30_000
    assert main(["expand", str(tmp_path / "bomb"), str(tmp_path / "out")]) == 2
    assert f"the generated weights have {4 * 2**60:,} bytes, but the disk has room for" in capsys.readouterr().err


def test_a_weight_to_draw_that_is_not_there_is_named(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["draw", str(small), "--weight", "head"]) == 2
    assert "must be one of body.0.weight, body.1.weight, got 'head'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["compress", "expand", "report", "draw", "completion"])
def test_the_help_shows_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert f"examples:\n  adntn {command}" in capsys.readouterr().out
