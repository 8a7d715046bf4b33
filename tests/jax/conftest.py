"""The matrices of the JAX tests: topologies, paths of differentiation; and when two trees of arrays agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from helpers import relative_error, tolerance
from matrix import LAYER_TOPOLOGIES

jax = pytest.importorskip("jax")

jax.config.update("jax_num_cpu_devices", 4)  # for shard_map; only possible before JAX computes anything

import adntn  # noqa: E402
import adntn_jax  # noqa: E402


@pytest.fixture(params=LAYER_TOPOLOGIES.values(), ids=LAYER_TOPOLOGIES.keys())
def topology(request: pytest.FixtureRequest) -> adntn_jax.TopologyOptions:
    options: adntn_jax.TopologyOptions = request.param
    return options


LAST_TANH = adntn.TTN.options(bond=2, last_activation="tanh")
#: Keywords of layers, the error and what it says.
WRONG_SCHEDULES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"schedule": "steam"}, ValueError, "one of auto, materialise, recompute, stream, contract, got 'steam'"),
    ({"schedule": "stream", "differentiation": "native"}, ValueError, "\"native\", got 'stream'"),
    ({"schedule": "recompute", "engine": "numpy"}, ValueError, "the engine 'numpy', got 'recompute'"),
    (
        {"schedule": "contract", "topology": LAST_TANH},
        ValueError,
        'contract" needs last_activation="identity", but tanh',
    ),
    ({"schedule": "contract", "engine": "numpy"}, ValueError, "the engine 'numpy', got 'contract'"),
    ({"memory_limit": 0}, ValueError, "memory_limit must be a positive number of bytes, or None, got 0"),
    ({"memory_limit": "1 GiB"}, TypeError, "got '1 GiB'"),
]


@pytest.fixture
def refused() -> Callable[[str, int, dict[str, Any]], str]:
    """Why a layer refuses a schedule, given its class, its groups and how it computes; nothing if it does not."""

    def why(kind: str, groups: int, way: dict[str, Any]) -> str:
        if way["schedule"] == "stream" and groups > 1:
            return 'schedule must not be "stream" for a convolution with groups'
        return "needs a matrix" if way["schedule"] == "contract" and kind != "Linear" else ""

    return why


@pytest.fixture(params=WRONG_SCHEDULES, ids=lambda row: str(row[0]))
def wrong_schedule(request: pytest.FixtureRequest) -> tuple[dict[str, Any], type[Exception], str]:
    row: tuple[dict[str, Any], type[Exception], str] = request.param
    return row


@pytest.fixture(autouse=True, scope="module")
def _few_optimisations() -> Iterator[None]:
    """Most of the time would go into XLA's optimisations; they are on where JAX runs through the core's tests."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 and complex128, for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def assert_agree() -> Callable[[Any, Any], None]:
    """Two trees of arrays agree within rounding, each array by its norm."""

    def check(own: Any, expected: Any) -> None:
        assert jax.tree.structure(own) == jax.tree.structure(expected)
        for one, other in zip(_arrays(own), _arrays(expected), strict=True):
            assert one.shape == other.shape
            assert relative_error(one, other) <= max(tolerance(one.dtype.name), tolerance(other.dtype.name))

    return check


def _arrays(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
