"""The matrices of the torch tests: topologies, paths of differentiation, layers with an input for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from matrix import LAYER_TOPOLOGIES

torch = pytest.importorskip("torch")

import adntn_torch  # noqa: E402
from adntn.machine import DEFAULT  # noqa: E402

#: The class, its arguments, and the shape of an input.
LAYERS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "Linear": ("Linear", {"in_features": 30, "out_features": 23}, (5, 30)),
    "Linear, sequences": ("Linear", {"in_features": 16, "out_features": 8, "bias": False}, (2, 5, 16)),
    "Linear, one vector": ("Linear", {"in_features": 16, "out_features": 8}, (16,)),
    "Conv1d, dilated": ("Conv1d", {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "dilation": 2}, (2, 4, 16)),
    "Conv1d, same": ("Conv1d", {"in_channels": 4, "out_channels": 6, "kernel_size": 4, "padding": "same"}, (2, 4, 9)),
    "Conv2d": ("Conv2d", {"in_channels": 3, "out_channels": 8, "kernel_size": 3, "padding": 1}, (2, 3, 8, 8)),
    "Conv2d, groups": (
        "Conv2d",
        {"in_channels": 4, "out_channels": 8, "kernel_size": (3, 5), "groups": 2, "stride": (2, 1), "bias": False},
        (2, 4, 9, 9),
    ),
    "Conv2d, circular": (
        "Conv2d",
        {"in_channels": 2, "out_channels": 4, "kernel_size": 3, "padding": (1, 2), "padding_mode": "circular"},
        (1, 2, 6, 6),
    ),
    "Conv2d, reflect and same": (
        "Conv2d",
        {"in_channels": 2, "out_channels": 4, "kernel_size": 4, "padding": "same", "padding_mode": "reflect"},
        (2, 6, 6),
    ),
    "Conv2d, pointwise": ("Conv2d", {"in_channels": 8, "out_channels": 16, "kernel_size": 1}, (1, 8, 3, 3)),
    "Conv3d": ("Conv3d", {"in_channels": 2, "out_channels": 4, "kernel_size": (1, 3, 3)}, (1, 2, 3, 6, 6)),
    "ConvTranspose1d, dilated": (
        "ConvTranspose1d",
        {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "dilation": 2, "bias": False},
        (2, 4, 9),
    ),
    "ConvTranspose2d, groups and output padding": (
        "ConvTranspose2d",
        {
            "in_channels": 4,
            "out_channels": 6,
            "kernel_size": (3, 4),
            "stride": (2, 3),
            "padding": 1,
            "output_padding": (1, 2),
            "groups": 2,
        },
        (2, 4, 4, 3),
    ),
    "ConvTranspose3d": (
        "ConvTranspose3d",
        {"in_channels": 2, "out_channels": 4, "kernel_size": (1, 3, 2), "stride": 2},
        (2, 2, 3, 3),
    ),
    "BatchedLinear": ("BatchedLinear", {"count": 3, "in_features": 10, "out_features": 7}, (3, 2, 5, 10)),
    "Embedding": ("Embedding", {"num_embeddings": 23, "embedding_dim": 10}, (2, 5)),
    "Embedding, padding": (
        "Embedding",
        {"num_embeddings": 30, "embedding_dim": 7, "padding_idx": -30, "schedule": "gather"},
        (40,),
    ),
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Biases are drawn by torch: no test shall depend on which ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=LAYER_TOPOLOGIES.values(), ids=LAYER_TOPOLOGIES.keys())
def topology(request: pytest.FixtureRequest) -> adntn_torch.TopologyOptions:
    options: adntn_torch.TopologyOptions = request.param
    return options


@pytest.fixture(params=LAYERS.values(), ids=LAYERS.keys())
def built(request: pytest.FixtureRequest) -> tuple[adntn_torch.GeneratedLayer, torch.nn.Module, torch.Tensor]:
    """A generated layer in float64, torch's own with the generated weight and the bias copied in, and an input."""
    kind, arguments, shape = request.param
    layer = getattr(adntn_torch, kind)(**arguments, dtype=torch.float64, seed=0)
    of_torch = {name: value for name, value in arguments.items() if name != "schedule"}
    dense = layer.dense_kind(**of_torch, dtype=torch.float64)
    cores = {name: core.detach().numpy() for name, core in layer.cores.items()}
    with torch.no_grad():
        dense.weight.copy_(torch.from_numpy(layer.generator.weight(cores)))
        if getattr(dense, "padding_idx", None) is not None:
            dense.weight[dense.padding_idx] = 0
        if layer.bias is not None:
            dense.bias.copy_(layer.bias)
    generator = torch.Generator().manual_seed(0)
    if kind == "Embedding":
        return layer, dense, torch.randint(layer.num_embeddings, shape, generator=generator)
    return layer, dense, torch.randn(shape, dtype=torch.float64, generator=generator)


@pytest.fixture
def _small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine for which tiles are cut out of small weights too."""
    for name in ("adntn.machine.machine", "adntn.generator.machine"):
        monkeypatch.setattr(name, lambda *asked: replace(DEFAULT, cache_bytes=2**14))


@pytest.fixture(params=["auto", "materialise", "recompute", "stream"])
def schedule(request: pytest.FixtureRequest) -> str:
    return request.param
