"""Files that are almost right: bytes changed, and, where there is JSON in them, values changed inside of it.

Bytes that are changed at random seldom come past the first check of a reader. So JSON is taken apart, changed and put
together again, also the header of a file of safetensors, and JSON that stands as a text inside of JSON.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

#: What readers are wrong about: limits of numbers, kinds that are not expected, texts that mean something elsewhere.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, 3, -1, 7, 64, 65537, 2**31, 2**63 - 1, 2**63, 2**200, 10**400, 0.0, 0.5, 1e308, -0.0),
    *(float("nan"), float("inf"), "", "a", "0", "tanh", "identity", "scale", "batch", "a b | c", ".", "\0", "\ud800"),
    *([], {}, [[]], [0, 0], [1, 1], [-1], [2**62, 4], [{}], {"": 0}, {"tensor": "float32", "of": []}, {"tuple": []}),
    *("(a+)+b", "(.*)*x", "[", "TTN", "LowRank", "float8_e4m3fn", "I64", [None], "a" * 300, "1e5", "dense", "tensor0"),
)
#: Bytes that are put in: of JSON, pickles, zip archives, safetensors and options.
TOKENS = (
    *(b"{", b"}", b"[", b"]", b'"', b",", b":", b"\0", b"\xff", b"(", b")", b"=", b"*", b"-", b"not ", b"9" * 30),
    *(b"PK\x03\x04", b"\x80\x02", b"cos\nsystem\n", b"c__builtin__\neval\n", b"R.", b"NaN", b"Infinity", b"\\ud800"),
    *(
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 8),
        b"__metadata__",
        b"adntn",
        b'"version":2',
        b"[" * 2000,
        b"(" * 300,
    ),
)


@dataclass
class _Inside:
    """JSON that stands as a text inside of JSON."""

    value: Any


def mutated(blob: bytes, random: Random, others: Callable[[], bytes]) -> bytes:
    """Return a file with one to a few changes.

    Args:
        blob: the file.
        random: decides; the same numbers make the same changes.
        others: another file of the kind, of which parts are taken.
    """
    made = blob
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 5))):
        change = random.choice((_json, _json, _json, _flip, _cut, _insert, _repeat, _splice))
        made = change(made, random, others)
    return made


def _flip(blob: bytes, random: Random, others: Callable[[], bytes]) -> bytes:
    changed = bytearray(blob)
    for _ in range(random.choice((1, 1, 2, 8))):
        if changed:
            changed[random.randrange(len(changed))] ^= random.randrange(1, 256)
    return bytes(changed)


def _cut(blob: bytes, random: Random, others: Callable[[], bytes]) -> bytes:
    start, end = sorted(random.randrange(len(blob) + 1) for _ in range(2))
    return blob[:start] if random.random() < 0.3 else blob[:start] + blob[end:]


def _insert(blob: bytes, random: Random, others: Callable[[], bytes]) -> bytes:
    place = random.randrange(len(blob) + 1)
    over = random.choice((0, 0, 1, 8))
    return blob[:place] + random.choice(TOKENS) + blob[place + over :]


def _repeat(blob: bytes, random: Random, others: Callable[[], bytes]) -> bytes:
    start, end = sorted(random.randrange(len(blob) + 1) for _ in range(2))
    return blob[:end] + blob[start:end][:1000] * random.choice((1, 1, 3)) + blob[end:]


def _splice(blob: bytes, random: Random, others: Callable[[], bytes]) -> bytes:
    other = others()
    return blob[: random.randrange(len(blob) + 1)] + other[random.randrange(len(other) + 1) :]


def _json(blob: bytes, random: Random, others: Callable[[], bytes]) -> bytes:
    """Change a value of the JSON in a file; the bytes, where there is none."""
    taken = _taken_apart(blob)
    if taken is None:
        return _flip(blob, random, others)
    value, together = taken
    places = list(_places(value))
    if not places:
        return _insert(blob, random, others)
    holder, key = random.choice(places)
    kind = random.random()
    if kind < 0.5:
        _put(holder, key, random.choice(VALUES))
    elif kind < 0.65:
        other_holder, other_key = random.choice(places)
        _put(holder, key, json.loads(_written(_get(other_holder, other_key))))  # a copy
    elif kind < 0.8 and not isinstance(holder, _Inside):
        del holder[key]
    elif isinstance(holder, list):
        holder.insert(key, random.choice((_get(holder, key), random.choice(VALUES))))
    elif isinstance(holder, dict):
        holder[random.choice((f"{key}2", *map(str, VALUES[:20]), key.upper()))] = _get(holder, key)
    else:
        number = _get(holder, key)
        _put(holder, key, [number])
    try:
        return together(value)
    except (RecursionError, ValueError):
        return _flip(blob, random, others)


def _taken_apart(blob: bytes) -> tuple[Any, Callable[[Any], bytes]] | None:
    """Return the JSON in a file, and the function that puts it back."""
    if (made := _opened(blob)) is not None:
        return made, lambda value: _written(value).encode("utf-8", "surrogatepass")
    if len(blob) > 8:
        end = 8 + struct.unpack("<Q", blob[:8])[0]
        if end <= len(blob) and (made := _opened(blob[8:end])) is not None:
            return made, lambda value: _with_length(_written(value).encode("utf-8", "surrogatepass")) + blob[end:]
    return None


def _with_length(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


def _opened(written: bytes | str) -> Any:
    """Return an object or a list of JSON, with the JSON in its texts opened, too; None if it is none."""
    try:
        value = json.loads(written)
    except (RecursionError, ValueError):
        return None
    if not isinstance(value, dict | list):
        return None
    for holder, key in list(_places(value)):
        text = _get(holder, key)
        if isinstance(text, str) and text[:1] in ("{", "[") and (inner := _opened(text)) is not None:
            _put(holder, key, _Inside(inner))
    return value


def _written(value: Any) -> str:
    return json.dumps(value, default=lambda inside: _written(inside.value), separators=(",", ":"))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each place where a value stands: what holds it, and its key there."""
    stack = [value]
    while stack:
        holder = stack.pop()
        if isinstance(holder, _Inside):
            keys: Any = ("value",)
        else:
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            yield holder, key
            if isinstance(inner := _get(holder, key), dict | list | _Inside):
                stack.append(inner)


def _get(holder: Any, key: Any) -> Any:
    return holder.value if isinstance(holder, _Inside) else holder[key]


def _put(holder: Any, key: Any, value: Any) -> None:
    if isinstance(holder, _Inside):
        holder.value = value
    else:
        holder[key] = value
