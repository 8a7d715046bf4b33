"""torch.export and ONNX: the same outputs, with the generators in the graph or expanded, and small files."""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from matrix import LAYER_TOPOLOGIES
from torch import nn

import adntn
import adntn_torch
from adntn_torch import compress, export_onnx

needs_onnxscript = pytest.mark.skipif(find_spec("onnxscript") is None, reason="onnxscript is not installed")

#: Three layers, a few hundred roundings on the way to each number, in another order.
TOLERANCE = 200 * torch.finfo(torch.float32).eps
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
BATCH = torch.export.Dim("batch", min=1, max=64)


def network(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    convolution = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*convolution, nn.Linear(1024, 256), nn.ReLU(), nn.Linear(256, 10))
    rules = {"0": adntn.MERA.options(bond=2), "4": adntn.TTN.options(bond=4), "6": adntn.AugmentedTTN.options(bond=2)}
    compress(model, rules, **options)
    return model.eval()


def relative(found: Any, expected: torch.Tensor) -> float:
    found = torch.as_tensor(found)
    return float((found - expected).detach().norm() / expected.detach().norm())


def outputs(file: Path, x: torch.Tensor) -> torch.Tensor:
    """What onnxruntime makes of a file."""
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (name,) = (one.name for one in session.get_inputs())
    return torch.from_numpy(session.run(None, {name: x.numpy()})[0])


@pytest.mark.parametrize(
    "options",
    [{}, {"differentiation": "native"}, {"schedule": "recompute", "memory_limit": 2**22}],
    ids=str,
)
def test_torch_export_keeps_the_generators(options: dict[str, Any]) -> None:
    model = network(**options)
    program = torch.export.export(model, (X,), dynamic_shapes=({0: BATCH},))
    for x in (X, X[:1].repeat(5, 1, 1, 1)):
        assert relative(program.module()(x), model(x)) < TOLERANCE
    written = io.BytesIO()
    torch.export.save(program, written)
    dense = 4 * sum(layer.weight.numel() for layer in adntn_torch.generated_layers(model).values())
    assert written.tell() < dense / 2


@needs_onnxscript
@pytest.mark.parametrize("expand", [False, True])
def test_onnxruntime_gives_the_same_outputs_for_any_batch(expand: bool, tmp_path: Path) -> None:
    model = network()
    export_onnx(model, (X,), tmp_path / "model.onnx", expand=expand, dynamic_shapes=({0: BATCH},))
    for x in (X, X[:1].repeat(5, 1, 1, 1)):
        assert relative(outputs(tmp_path / "model.onnx", x), model(x)) < TOLERANCE
    assert list(adntn_torch.generated_layers(model)) == ["0", "4", "6"], "the model stays as it is"


@needs_onnxscript
@pytest.mark.parametrize("topology", LAYER_TOPOLOGIES.values(), ids=LAYER_TOPOLOGIES)
def test_every_topology(topology: adntn.Options, tmp_path: Path) -> None:
    layer = adntn_torch.Linear(96, 80, topology=topology, seed=0).eval()
    x = torch.randn(3, 96, generator=torch.Generator().manual_seed(0))
    export_onnx(layer, (x,), tmp_path / "model.onnx")
    assert relative(outputs(tmp_path / "model.onnx", x), layer(x)) < TOLERANCE


LAYERS = {
    "Conv1d": (lambda: adntn_torch.Conv1d(16, 24, 3, padding_mode="circular", padding=1), (2, 16, 9)),
    "Conv2d": (lambda: adntn_torch.Conv2d(16, 24, 3, stride=2, groups=2), (2, 16, 9, 9)),
    "Conv3d": (lambda: adntn_torch.Conv3d(4, 8, 3, dilation=2), (1, 4, 6, 6, 6)),
}


@needs_onnxscript
@pytest.mark.parametrize(("build", "shape"), LAYERS.values(), ids=LAYERS)
def test_convolutions(build: Callable[[], nn.Module], shape: tuple[int, ...], tmp_path: Path) -> None:
    layer, x = build().eval(), torch.randn(shape, generator=torch.Generator().manual_seed(0))
    export_onnx(layer, (x,), tmp_path / "model.onnx")
    assert relative(outputs(tmp_path / "model.onnx", x), layer(x)) < TOLERANCE


@needs_onnxscript
@pytest.mark.parametrize("expand", [False, True])
def test_adapters_are_exported(expand: bool, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
    compress(model, {"0": adntn.TTN.options(bond=2)})
    adntn_torch.adapt(model, ["2"], topology=adntn.TTN.options(bond=2))
    for core in model[2].adntn_delta["default"].parameters():
        nn.init.normal_(core)
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    export_onnx(model.eval(), (x,), tmp_path / "model.onnx", expand=expand)
    assert relative(outputs(tmp_path / "model.onnx", x), model(x)) < TOLERANCE


@needs_onnxscript
def test_a_file_with_generators_is_small_and_holds_no_weight(tmp_path: Path) -> None:
    model = network()
    sizes = {}
    for expand in (False, True):
        program = export_onnx(model, (X,), tmp_path / "model.onnx", expand=expand)
        sizes[expand] = (tmp_path / "model.onnx").stat().st_size
        largest = max(one.const_value.size for one in program.model.graph.initializers.values())
        assert (largest >= 1024 * 256) is expand
    assert sizes[True] > 4 * 1024 * 256
    assert sizes[False] < sizes[True] / 20
    assert str(Path(__file__).parent) not in (tmp_path / "model.onnx").read_text(encoding="latin-1")


@needs_onnxscript
def test_frozen_layers_are_generated_in_the_file_and_stay_frozen(tmp_path: Path) -> None:
    model = network()
    model[4].freeze()
    kept = model[4].frozen_weight
    export_onnx(model, (X,), tmp_path / "model.onnx")
    assert model[4].frozen_weight is kept
    assert (tmp_path / "model.onnx").stat().st_size < kept.numel()
    assert relative(outputs(tmp_path / "model.onnx", X), model(X)) < TOLERANCE


@needs_onnxscript
def test_an_engine_cannot_be_traced_but_expanded(tmp_path: Path) -> None:
    model = network(engine="numpy")
    with pytest.raises(ValueError, match="layer '0' has its weight from the engine 'numpy'"):
        export_onnx(model, (X,), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    export_onnx(model, (X,), tmp_path / "model.onnx", expand=True)
    assert relative(outputs(tmp_path / "model.onnx", X), model(X)) < TOLERANCE


@needs_onnxscript
def test_an_export_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("before")
    with pytest.raises(torch.onnx.OnnxExporterError):
        export_onnx(network(), (torch.zeros(2, 3, 5, 5),), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
