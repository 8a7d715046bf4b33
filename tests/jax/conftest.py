"""The matrices of the JAX tests: topologies, paths of differentiation; and when two trees of arrays agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")

jax.config.update("jax_num_cpu_devices", 4)  # for shard_map; only possible before JAX computes anything

import adntn  # noqa: E402
import adntn_jax  # noqa: E402

TOPOLOGIES = {
    "TTN": adntn.TTN.options(bond=2),
    "TTN, activation on the weight": adntn.TTN.options(bond=2, last_activation="tanh"),
    "TTN, shared, gelu": adntn.TTN.options(bond=3, share="level", activation="gelu", layout="interleaved"),
    "AugmentedTTN": adntn.AugmentedTTN.options(bond=2, activation="silu"),
    "MERA": adntn.MERA.options(bond=2, activation="tanh"),
    "Brickwall": adntn.Brickwall.options(activation="sin"),
    "TensorTrain": adntn.TensorTrain.options(bond=3),
    "LowRank": adntn.LowRank.options(rank=3),
    "Tucker": adntn.Tucker.options(rank=2),
}


@pytest.fixture(params=TOPOLOGIES.values(), ids=TOPOLOGIES.keys())
def topology(request: pytest.FixtureRequest) -> adntn_jax.TopologyOptions:
    options: adntn_jax.TopologyOptions = request.param
    return options


@pytest.fixture(params=adntn_jax.DIFFERENTIATIONS)
def differentiation(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


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
            tolerance = 1000 * max(np.finfo(one.dtype).eps, np.finfo(other.dtype).eps)
            assert np.linalg.norm((one - other).ravel()) <= tolerance * np.linalg.norm(other.ravel())

    return check


def _arrays(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
