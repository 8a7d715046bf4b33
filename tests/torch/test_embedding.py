"""Embeddings whose rows are made on demand: torch's, but for what is stored and held."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adntn
import adntn_torch
from adntn_torch import compress, expand
from adntn_torch.gather_op import gather_rows

TTN = adntn.TTN.options(bond=2)
DOUBLE = {"dtype": torch.float64, "seed": 0}
INDICES = {
    "scalar": torch.tensor(7),
    "many times": torch.tensor([[3, 3], [3, 29]]),
    "int32": torch.tensor([0, 5, 3], dtype=torch.int32),
    "none": torch.zeros(2, 0, dtype=torch.int64),
    "every row, backwards": torch.arange(29, -1, -1),
}


def gradients(layer: adntn_torch.Embedding, indices: Tensor) -> dict[str, Tensor]:
    layer.zero_grad()
    layer(indices).sin().sum().backward()
    return {name: core.grad.clone() for name, core in layer.cores.items()}


@pytest.mark.parametrize("indices", INDICES.values(), ids=INDICES.keys())
@pytest.mark.parametrize("padding_idx", [None, 3])
def test_gathered_rows_and_gradients_are_those_of_the_whole_table(
    indices: Tensor, padding_idx: int | None, topology: Any, differentiation: str
) -> None:
    options = {"topology": topology, "padding_idx": padding_idx, **DOUBLE}
    rows = adntn_torch.Embedding(30, 10, schedule="gather", differentiation=differentiation, **options)
    table = adntn_torch.Embedding(30, 10, schedule="materialise", **options)
    torch.testing.assert_close(rows(indices), table(indices), rtol=1e-12, atol=1e-12)
    expected = gradients(table, indices)
    for name, gradient in gradients(rows, indices).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-10)


def test_second_derivatives_are_there_natively_and_refused_by_the_adjoint() -> None:
    native = adntn_torch.Embedding(8, 6, topology=TTN, schedule="gather", differentiation="native", **DOUBLE)
    top, indices = native.cores["top"], torch.tensor([1, 5])
    (first,) = torch.autograd.grad(native(indices).sin().sum(), top, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), top)
    assert second.any()
    layer = adntn_torch.Embedding(8, 6, topology=TTN, schedule="gather", **DOUBLE)
    (first,) = torch.autograd.grad(layer(indices).sin().sum(), layer.cores["top"], create_graph=True)
    with pytest.raises(RuntimeError, match='differentiation="native"'):
        first.square().sum().backward()


def test_compiled_lookups_have_no_graph_break_for_any_number_of_tokens() -> None:
    torch.compiler.reset()
    layer = adntn_torch.Embedding(30, 10, padding_idx=3, topology=TTN, schedule="gather", **DOUBLE)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for tokens in (4, 5, 6, 9, 17):
        indices = torch.arange(tokens)
        expected = gradients(layer, indices)
        layer.zero_grad()
        y = compiled(indices)
        torch.testing.assert_close(y, layer(indices))
        y.sin().sum().backward()
        for name, core in layer.cores.items():
            torch.testing.assert_close(core.grad, expected[name])
    with torch.no_grad():
        torch.testing.assert_close(compiled(indices), layer(indices))


def test_the_operator_is_sound() -> None:
    layer = adntn_torch.Embedding(8, 6, topology=TTN, **DOUBLE)
    cores = [core.detach().requires_grad_() for core in layer.cores.values()]
    torch.library.opcheck(gather_rows, (torch.tensor([[1, 2], [7, 1]]), cores, layer._key))


IN_ANOTHER_PROCESS = """
import pickle, sys, torch
layer = pickle.loads(sys.stdin.buffer.read())
print(torch.compile(layer, fullgraph=True, backend="eager")(torch.tensor([1, 2])).sum().item())
"""


def test_an_unpickled_layer_compiles_in_another_process() -> None:
    layer = adntn_torch.Embedding(8, 6, topology=TTN, schedule="gather", **DOUBLE)
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS], input=pickle.dumps(layer), capture_output=True, check=True
    )
    assert float(done.stdout) == pytest.approx(layer(torch.tensor([1, 2])).sum().item())


def test_functional_transformations_reach_the_rows() -> None:
    layer = adntn_torch.Embedding(8, 6, topology=TTN, schedule="gather", **DOUBLE)
    state = dict(layer.named_parameters())
    indices = torch.tensor([[1, 5], [2, 2]])

    def loss(state: dict[str, Tensor], indices: Tensor) -> Tensor:
        return torch.func.functional_call(layer, state, (indices,)).sin().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(state, indices)
    for place in range(2):
        expected = gradients(layer, indices[place])
        for name, gradient in expected.items():
            torch.testing.assert_close(each[f"cores.{name}"][place], gradient)


@pytest.mark.parametrize("indices", [torch.tensor([0, 30]), torch.tensor(-1)])
@pytest.mark.parametrize("schedule", ["gather", "materialise"])
def test_rows_that_are_not_there_are_an_index_error_as_in_torch(indices: Tensor, schedule: str) -> None:
    with pytest.raises(IndexError):
        nn.Embedding(30, 4)(indices)
    with pytest.raises(IndexError, match=r"from 0 to 29|out of range"):
        adntn_torch.Embedding(30, 4, topology=TTN, schedule=schedule)(indices)


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"schedule": "stream"}, ValueError, "one of auto, gather, materialise, got 'stream'"),
        ({"schedule": "gather", "engine": "numpy"}, ValueError, "engine='numpy', got \"gather\""),
        ({"memory_limit": 0}, ValueError, "memory_limit must be a positive number"),
        ({"padding_idx": 30}, AssertionError, "within num_embeddings"),
        ({"max_norm": 1.0}, TypeError, "max_norm"),
    ],
)
def test_wrong_keywords_are_named(keywords: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        adntn_torch.Embedding(30, 4, **keywords)


def test_the_table_starts_as_torchs() -> None:
    layer = adntn_torch.Embedding(400, 96, padding_idx=0, seed=1)
    assert float(layer.weight.detach()[1:].std()) == pytest.approx(1, rel=0.1)
    assert not layer.weight[0].any()
    assert not layer(torch.tensor(0)).any()


def test_auto_gathers_few_tokens_of_a_large_table_within_the_limit_any() -> None:
    layer = adntn_torch.Embedding(30522, 384, topology=adntn.TTN.options(bond=4), seed=0)
    assert layer._gathers(torch.zeros(8, dtype=torch.int64))
    assert not layer._gathers(torch.zeros(2**18, dtype=torch.int64))
    limited = adntn_torch.Embedding(30522, 384, memory_limit=2**24, seed=0)
    assert limited._gathers(torch.zeros(2**18, dtype=torch.int64))


def test_a_frozen_table_is_kept_and_let_go() -> None:
    layer = adntn_torch.Embedding(30, 10, padding_idx=2, topology=TTN, schedule="gather", **DOUBLE).eval()
    indices = torch.tensor([2, 5, 29])
    expected = layer(indices).detach()
    torch.testing.assert_close(layer.freeze()(indices), expected)
    assert layer.unfreeze().frozen_weight is None
    torch.testing.assert_close(layer(indices).detach(), expected)


def test_state_dicts_and_copies_round_trip() -> None:
    source, target = (adntn_torch.Embedding(30, 10, topology=TTN, schedule="gather", seed=seed) for seed in range(2))
    indices = torch.tensor([1, 2])
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    target.load_state_dict(torch.load(file, weights_only=True), strict=True)
    for twin in (target, copy.deepcopy(source), pickle.loads(pickle.dumps(source))):
        assert torch.equal(twin(indices), source(indices))


class Model(nn.Module):
    """A table and a head."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(300, 32, **keywords), nn.Linear(32, 300)

    def forward(self, indices: Tensor) -> Tensor:
        return self.head(self.table(indices).mean(-2))


def test_embeddings_are_compressed_and_expanded() -> None:
    model, indices = Model(padding_idx=5).double(), torch.tensor([[1, 5], [7, 299]])
    names = model.state_dict().keys()
    compression = compress(model, {"table": TTN})
    assert compression.rows[0].shape == (300, 32)
    assert model.table.padding_idx == 5
    expected = model(indices)
    assert type(expand(model).table) is nn.Embedding
    assert model.state_dict().keys() == names
    torch.testing.assert_close(model(indices), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"max_norm": 1.0}, "max_norm=1.0 changes"),
        ({"sparse": True}, "sparse"),
        ({"scale_grad_by_freq": True}, "scale"),
    ],
)
def test_tables_that_a_generated_one_cannot_stand_for_are_refused(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compress(Model(**keywords), {"table": TTN})


def test_a_head_may_share_the_cores_of_the_table() -> None:
    table = adntn_torch.Embedding(30, 10, topology=TTN, schedule="gather", **DOUBLE)
    head = adntn_torch.Linear(10, 30, bias=False, topology=TTN, **DOUBLE).tie(table)
    dense = table.to_dense()
    indices = torch.tensor([[1, 2], [29, 1]])
    y = head(table(indices))
    expected = nn.functional.linear(dense(indices), dense.weight)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    assert len(list(nn.ModuleList([table, head]).parameters())) == len(table.cores)
    y.sin().sum().backward()
    expected.sin().sum().backward()
    cores = {name: core.detach().requires_grad_() for name, core in table.cores.items()}
    bars = torch.autograd.grad(table.generator.weight(cores), list(cores.values()), dense.weight.grad)
    for core, bar in zip(table.cores.values(), bars, strict=True):
        torch.testing.assert_close(core.grad, bar, rtol=1e-10, atol=1e-10)


def test_layers_that_do_not_fit_each_other_are_not_tied() -> None:
    table = adntn_torch.Embedding(30, 10, topology=TTN)
    with pytest.raises(ValueError, match="the same generator"):
        adntn_torch.Linear(30, 10, topology=TTN).tie(table)
    with pytest.raises(ValueError, match="padding_idx"):
        adntn_torch.Linear(10, 30, topology=TTN).tie(adntn_torch.Embedding(30, 10, padding_idx=1, topology=TTN))
