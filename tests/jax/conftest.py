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

import adntn_jax  # noqa: E402


@pytest.fixture(params=LAYER_TOPOLOGIES.values(), ids=LAYER_TOPOLOGIES.keys())
def topology(request: pytest.FixtureRequest) -> adntn_jax.TopologyOptions:
    options: adntn_jax.TopologyOptions = request.param
    return options


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
