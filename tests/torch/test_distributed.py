"""Generated layers in several processes: the losses and gradients of one process, and no message as large as a weight."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

torch = pytest.importorskip("torch")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("torch is built without gloo", allow_module_level=True)

from processes import torchrun  # noqa: E402

EPSILON = torch.finfo(torch.float64).eps
BYTES = 8
WEIGHT = 32 * 64 * BYTES


@pytest.fixture(scope="module", params=[2, 4])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return torchrun("spread_training.py", request.param, str(tmp_path_factory.mktemp("found") / "found.json"))


WAYS = ["DDP", "FSDP2", "tensor parallel", "tensor parallel, other layouts"]


@pytest.mark.parametrize("topology", ["TTN", "AugmentedTTN", "MERA"])
@pytest.mark.parametrize("way", WAYS)
def test_training_goes_as_in_one_process_and_no_weight_is_sent(found: Any, way: str, topology: str) -> None:
    case = found[way][topology]
    assert case["losses"][-1] < case["losses"][0]
    assert case["error of losses"] <= 100 * EPSILON
    assert case["error of gradients"] <= 1000 * EPSILON
    assert 0 < max(case["messages"]) < WEIGHT / 2
    if way == "DDP":
        assert sum(case["messages"]) == BYTES * case["parameters"]
    else:  # the cores of a layer are one message
        assert all(BYTES * cores in case["messages"] for cores in case["cores"])
