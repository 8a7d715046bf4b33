"""Generated layers in several processes: losses and gradients as in one, and no message as large as a weight."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("torch is built without gloo", allow_module_level=True)

import torch.distributed as dist  # noqa: E402
from processes import torchrun  # noqa: E402
from torch import nn  # noqa: E402
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict  # noqa: E402
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402
from torch.distributed.tensor.parallel import parallelize_module  # noqa: E402
from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: E402

import adntn  # noqa: E402
import adntn_torch  # noqa: E402
from adntn_torch.communication import Messages  # noqa: E402
from adntn_torch.distributed import ColwiseGenerated, RowwiseGenerated, replicate_cores  # noqa: E402
from adntn_torch.training import save_checkpoint  # noqa: E402

EPSILON = torch.finfo(torch.float64).eps
BYTES = 8
WEIGHT = 32 * 64 * BYTES
#: Before torch 2.10, `clip_grad_norm_` adds its 1e-6 to the parts of a length that is spread, instead of to the whole.
CLIPPED_IN_PARTS = torch.__version__ < "2.10"


@pytest.mark.parametrize("processes", [2, 4])
def test_training_goes_as_in_one_process_and_no_weight_is_sent(processes: int, tmp_path: Path) -> None:
    """One test for all engines and topologies: processes take longer to start than to train."""
    found = torchrun("spread_training.py", processes, str(tmp_path / "found.json"))
    assert len(found) == 4
    for way, topologies in found.items():
        assert len(topologies) == 3
        for topology, case in topologies.items():
            assert case["losses"][-1] < case["losses"][0], (way, topology)
            # steps that are too long or too short by 1e-6 move the loss by about as much of what they gain
            clipped = 1e-6 * (case["losses"][0] - case["losses"][-1])
            near = clipped if CLIPPED_IN_PARTS and way != "DDP" else 100 * EPSILON
            assert case["error of losses"] <= near, (way, topology)
            assert case["error of gradients"] <= 1000 * EPSILON, (way, topology)
            assert 0 < max(case["messages"]) < WEIGHT / 2, (way, topology)
            if way == "DDP":
                assert sum(case["messages"]) == BYTES * case["parameters"], topology
            else:  # the cores of a layer are one message
                assert all(BYTES * cores in case["messages"] for cores in case["cores"]), (way, topology)


def test_a_killed_process_costs_no_more_than_the_steps_since_the_checkpoint(tmp_path: Path) -> None:
    found = torchrun("restarted_training.py", 2, str(tmp_path), str(tmp_path / "found.json"), restarts=1)
    assert not found["first life"]
    assert 0 < found["disturbed"]["first step"] <= 3
    assert found["disturbed"]["losses"] == found["undisturbed"]["losses"]
    assert found["disturbed"]["losses"][-1] < found["disturbed"]["losses"][0]


def test_a_run_in_stages_writes_once_and_resumes_every_process(tmp_path: Path) -> None:
    first, second = torchrun("resumed_training.py", 2, str(tmp_path), str(tmp_path / "found.json"))
    for found in (first, second):
        assert found["resumed"] == found["whole"]
        assert found["resumed"]["parameters"] == first["whole"]["parameters"]
        assert [found["asked"][epoch : epoch + 12] for epoch in (0, 12)] != [found["asked"][:12]] * 2
    assert first["whole"]["torch"] != second["whole"]["torch"]
    assert first["resumed history"] == first["history"]
    assert len((tmp_path / "whole.jsonl").read_text().splitlines()) == 3 * (3 + 1)
    assert (tmp_path / "own.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    assert len([*(tmp_path / "steps").iterdir()]) == 2


def test_one_file_is_not_for_what_is_spread_over_processes(four: DeviceMesh, tmp_path: Path) -> None:
    model = nn.Sequential(linear(), nn.Linear(64, 4))
    fully_shard(model, mesh=four, ignored_params=replicate_cores(model))
    with pytest.raises(
        ValueError, match=r"model has '0.bias', .* spread over processes.* torch.distributed.checkpoint"
    ):
        save_checkpoint(tmp_path / "checkpoint.pt", model)


@pytest.fixture
def four() -> Iterator[DeviceMesh]:
    """Four processes that are not there: collectives return at once."""
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=4)
    yield init_device_mesh("cpu", (4,))
    dist.destroy_process_group()


def linear(in_features: int = 32, out_features: int = 64, **options: Any) -> adntn_torch.Linear:
    return adntn_torch.Linear(in_features, out_features, topology=adntn.TTN.options(bond=2), seed=0, **options)


@pytest.mark.parametrize("schedule", ["materialise", "recompute", "stream", "contract"])
@pytest.mark.parametrize(("style", "dimension"), [(ColwiseGenerated, 0), (RowwiseGenerated, 1)])
def test_each_process_makes_its_own_part(four: DeviceMesh, style: Any, dimension: int, schedule: Any) -> None:
    options = {"topology": adntn.TTN.options(bond=2, leg=1), "schedule": schedule, "bias": False, "seed": 0}
    layer = adntn_torch.Linear(32, 64, dtype=torch.float64, **options)
    whole = layer.weight.detach()
    made = whole.chunk(4, dimension)[1]
    parallel = parallelize_module(copy.deepcopy(layer), four, style(use_local_output=False))
    assert parallel.choice(rows=3).taken.schedule == schedule
    assert torch.allclose(parallel.weight, made, rtol=0, atol=100 * EPSILON)
    x = torch.randn(3, made.shape[1], dtype=torch.float64)
    if style is ColwiseGenerated:  # nothing is to be added up, so that processes that are not there are not missed
        y = parallel(x).to_local()
        assert torch.allclose(y, x @ made.T, rtol=0, atol=1000 * EPSILON)
    description = f"part 2 of 4 of the {('rows', 'columns')[dimension]}"
    assert description in repr(parallel)


def test_tensor_parallel_layers_send_activations_and_cores_alone(four: DeviceMesh) -> None:
    up, down = linear(32, 64), linear(64, 32)
    plan = {"0": ColwiseGenerated(), "2": RowwiseGenerated()}
    model = parallelize_module(nn.Sequential(up, nn.ReLU(), down), four, plan)
    x = torch.randn(5, 32, requires_grad=True)
    with Messages() as messages:
        model(x).sum().backward()
    expected = [32 * 5, down.generator.parameters, up.generator.parameters, 32 * 5]
    assert sorted(message.size for message in messages.all) == sorted(4 * numbers for numbers in expected)


def test_frozen_parts_and_cores_from_elsewhere(four: DeviceMesh) -> None:
    layer = parallelize_module(linear(), four, ColwiseGenerated())
    other = linear()
    other.reset_parameters(seed=5)
    layer.load_cores({name: core.detach() for name, core in other.cores.items()})
    assert torch.allclose(layer.eval().freeze().frozen_weight, other.weight[16:32], atol=1e-6)
    with pytest.raises(RuntimeError, match="spread over processes cannot be made dense"):
        layer.to_dense()


@pytest.mark.parametrize("style", [ColwiseGenerated, RowwiseGenerated])
def test_plans_that_do_not_fit_say_why(four: DeviceMesh, style: Any) -> None:
    with pytest.raises(TypeError, match=rf"{style.__name__} is for adntn_torch.Linear, got Linear\(in_features=8"):
        parallelize_module(nn.Linear(8, 8), four, style())
    with pytest.raises(TypeError, match=r"is for adntn_torch.Linear, got Conv1d\("):
        parallelize_module(adntn_torch.Conv1d(8, 8, 3), four, style())
    with pytest.raises(ValueError, match=r"Linear\(in_features=30, .* cannot be shared by 4 processes: .* are 1, 2, 6"):
        parallelize_module(linear(30, 30), four, style())
    with pytest.raises(ValueError, match=r"of size 2 cannot be cut into 4 equal parts: its legs are \(2,\)"):
        parallelize_module(linear(2, 2), four, style())
    with pytest.raises(ValueError, match=r"of size 22 cannot be cut into 4 equal parts: it is padded to 24"):
        parallelize_module(linear(22, 22), four, style())
    with pytest.raises(ValueError, match="engine must be None for a tensor-parallel layer, got 'numpy'"):
        parallelize_module(linear(engine="numpy"), four, style())
    parallel = parallelize_module(linear(), four, style())
    with pytest.raises(ValueError, match="spread over processes already"):
        parallelize_module(parallel, four, style())
    with pytest.raises(ValueError, match="layer '0' is spread over processes already"):
        replicate_cores(nn.Sequential(parallel), four)
    square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    with pytest.raises(ValueError, match="mesh must be a DeviceMesh of one dimension"):
        replicate_cores(linear(), square)


@pytest.mark.parametrize("engine", ["FSDP2", "tensor parallel"])
def test_a_spread_model_is_gathered_before_it_is_saved(four: DeviceMesh, engine: str, tmp_path: Path) -> None:
    model = nn.Sequential(linear(), nn.Linear(64, 64))
    if engine == "FSDP2":
        fully_shard(model, mesh=four, ignored_params=replicate_cores(model))
    else:
        parallelize_module(model, four, {"0": ColwiseGenerated()})
    with pytest.raises(ValueError, match=r"'0\.(bias|cores\..*)' is spread over processes: gather the state dict"):
        adntn_torch.save_compressed(model, tmp_path / "file")
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    whole = nn.Sequential(linear(), nn.Linear(64, 64))
    whole.load_state_dict(state)
    adntn_torch.save_compressed(whole, tmp_path / "file")


def test_replicating_cores_needs_generated_layers_and_processes() -> None:
    with pytest.raises(ValueError, match="model has no generated layer: Linear"):
        replicate_cores(nn.Linear(2, 2))
    adapted = nn.Sequential(nn.Linear(8, 8))
    adntn_torch.adapt(adapted, ["0"])
    with pytest.raises(ValueError, match="layer '0' is adapted: FSDP2 reads weights"):
        replicate_cores(adapted)
    with pytest.raises(RuntimeError, match="no process group: start the program with torchrun"):
        replicate_cores(linear())


def test_every_layer_keeps_its_cores_whole_under_fsdp(four: DeviceMesh) -> None:
    table = adntn_torch.Embedding(64, 32, seed=0)
    head = adntn_torch.Linear(32, 64, seed=0).tie(table)  # the cores are the same, the biases are not
    model = nn.Sequential(table, head, adntn_torch.Conv1d(4, 4, 3, seed=0))
    before = {name: parameter.numel() for name, parameter in model.named_parameters() if ".cores." in name}
    cores = replicate_cores(model)
    fully_shard(model, mesh=four, ignored_params=cores)
    whole = {name: parameter for name, parameter in model.named_parameters() if ".cores." in name}
    assert {name: core.to_local().numel() for name, core in whole.items()} == before
    assert {*whole.values()} == cores
    assert head.bias.to_local().numel() == 64 // 4
    with Messages() as messages:
        model(torch.zeros(2, 4, dtype=torch.int64)).sum().backward()
    sent = [message.size for message in messages.all]
    assert sent.count(4 * table.generator.parameters) == 2  # once as a table, once as a head
    assert all(core.grad is not None for core in cores)
