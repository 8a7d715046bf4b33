"""What layers of every framework take as a topology, and what they refuse, is the core's."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest

import adntn
from adntn.topologies.layers import DEFAULT_TOPOLOGY, TopologyOptions, generator_of

SHAPE = (8, 16)
BAD_TOPOLOGIES = {
    "a name": ("TTN", TypeError, "options such as"),
    "another result": (lambda shape: shape, TypeError, r"adntn.Generator for the shape \(8, 16\), got tuple"),
    "another shape": (adntn.TTN.options(batch=2), ValueError, r"\(8, 16\), but TTN\(batch=2\) generates \(2, 8, 16\)"),
}


@pytest.mark.parametrize(("topology", "error", "words"), BAD_TOPOLOGIES.values(), ids=BAD_TOPOLOGIES)
def test_a_topology_that_does_not_make_the_weight_is_named(topology: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        generator_of(topology, SHAPE)


@pytest.mark.parametrize("topology", [adntn.LowRank.options(rank=2), lambda shape: adntn.LowRank(shape, rank=2)])
def test_options_and_functions_of_a_shape_are_topologies(topology: TopologyOptions) -> None:
    assert generator_of(topology, SHAPE) == adntn.LowRank(SHAPE, rank=2)


def test_every_framework_has_the_same_default() -> None:
    for binding in ("adntn_torch", "adntn_jax"):
        if find_spec(binding.removeprefix("adntn_")) is not None:
            assert import_module(binding).DEFAULT_TOPOLOGY is DEFAULT_TOPOLOGY
