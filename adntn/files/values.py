"""Values of JSON, in which anything may stand, as what they have to be: each function returns it or raises."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

Json = Any  # what json.loads returns

#: No tensor has more numbers: what says so is broken, or means harm.
LARGEST_SIZE = 2**63 - 1
#: No float is larger; integers, of which JSON has any, are.
LARGEST_FLOAT = sys.float_info.max
#: So much of a wrong value stands in an error.
SHOWN = 60


class FormatError(ValueError):
    """A file is not what it should be: cut short, damaged, of an unknown version, or of something else."""


def parsed(written: bytes, where: str) -> Json:
    """Return what JSON in UTF-8 says."""
    try:
        return json.loads(written.decode("utf-8"))
    except RecursionError:
        raise FormatError(f"{where} is nested too deep") from None
    except ValueError as error:
        raise FormatError(f"{where} is no JSON: {error}") from None


def fields(value: Json, where: str, required: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Json]:
    """Return a mapping that has the required fields, and no others than these and the optional ones.

    >>> fields({"shape": [2]}, "core 'top'", ["shape"], ["inputs"])
    {'shape': [2]}
    """
    given, required = named(value, where), tuple(required)
    if missing := [name for name in required if name not in given]:
        raise FormatError(f"{where} lacks {missing[0]!r}")
    if unknown := [name for name in given if name not in (*required, *optional)]:
        raise FormatError(f"{where} has the unknown field {shown(unknown[0])}")
    return given


def named(value: Json, where: str) -> dict[str, Json]:
    """Return a mapping from names to anything."""
    if not isinstance(value, dict):
        raise FormatError(f"{where} must be an object, got {shown(value)}")
    return value


def items(value: Json, where: str) -> list[Json]:
    """Return a list of anything."""
    if not isinstance(value, list):
        raise FormatError(f"{where} must be a list, got {shown(value)}")
    return value


def text(value: Json, where: str) -> str:
    """Return a string."""
    if not isinstance(value, str):
        raise FormatError(f"{where} must be a string, got {shown(value)}")
    return value


def texts(value: Json, where: str) -> tuple[str, ...]:
    """Return a list of strings."""
    return tuple(text(item, where) for item in items(value, where))


def integer(value: Json, where: str, least: int = 1) -> int:
    """Return an integer of at least `least` that a size could be."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST_SIZE:
        raise FormatError(f"{where} must be integers from {least} to {LARGEST_SIZE}, got {shown(value)}")
    return value


def integers(value: Json, where: str, least: int = 1) -> tuple[int, ...]:
    """Return a list of such integers."""
    return tuple(integer(item, where, least) for item in items(value, where))


def product(sizes: Iterable[int], where: str) -> int:
    """Return the product of sizes, which a tensor could have.

    >>> product((2**40, 2**40), "the shape")
    Traceback (most recent call last):
    ...
    adntn.files.values.FormatError: the shape has more than 9223372036854775807 numbers
    """
    made = 1
    for size in sizes:
        made *= size
        if made > LARGEST_SIZE:
            raise FormatError(f"{where} has more than {LARGEST_SIZE} numbers")
    return made


def shown(value: Json) -> str:
    """Return a value as it stands in an error: short, and never what is nested."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    written = repr(value[:SHOWN]) if isinstance(value, str) else repr(value)
    return written if len(written) <= SHOWN + 2 else f"{written[:SHOWN]}..."
