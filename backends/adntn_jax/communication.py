"""What devices send to each other: the collectives of a compiled function, read from the program that XLA has made."""

from __future__ import annotations

import math
import re
from typing import Any

COLLECTIVE = re.compile(r"= (.+?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


def messages(compiled: Any) -> list[int]:
    """Return the size of each collective of a compiled function in bytes: of all that it makes.

    >>> import jax
    >>> messages(jax.jit(lambda x: 2 * x).lower(1.0).compile())
    []

    Args:
        compiled: what `jax.jit(function).lower(...).compile()` returns.
    """
    found = (COLLECTIVE.search(line) for line in compiled.as_text().splitlines())
    return [sum(map(_bytes, ARRAY.finditer(match[1]))) for match in found if match]


def _bytes(array: re.Match[str]) -> int:
    """Return the bytes of an array that XLA writes as f32[4,8]; a truth value takes one."""
    bits, sizes = int(array[2] or 8), array[3]
    return bits * math.prod(int(size) for size in sizes.split(",") if size) // 8
