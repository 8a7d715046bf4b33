"""Training does not take more and more memory."""

from __future__ import annotations

import sys

import pytest
from helpers import needs

from robustness.soak import SIZE, STEPS, growth, held

#: A step that kept a weight would keep this many bytes; what an allocator takes once, a few megabytes, is far less than
#: a quarter of it in each of 200 steps.
WEIGHT = 4 * SIZE * SIZE


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
@pytest.mark.parametrize("name", STEPS)
def test_memory_does_not_grow_with_steps(name: str) -> None:
    needs(name.partition(",")[0])
    assert growth(held(name, steps=100, warm=40)) < WEIGHT / 4


def test_growth_is_the_slope() -> None:
    assert growth([(10, 100.0), (20, 150.0), (30, 200.0)]) == pytest.approx(5.0)
