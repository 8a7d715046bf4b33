"""Regular expressions that stand in files: Python's matching can take longer than anybody lives."""

from __future__ import annotations

import math
import re

#: So many ways to match may be tried: a second or two.
WAYS = 2**24
#: What an escape or a set of characters stands for is one character.
ONE_CHARACTER = re.compile(r"\\.|\[\^?\]?[^\]]*\]", re.DOTALL)
#: A group that is repeated, or what was matched before: each can make the number of ways exponential.
EXPONENTIAL = re.compile(r"\)(?:[*+]|\{)|\(\?P=|\(\?\(")
REFERENCE = re.compile(r"\\[1-9]")


def takes_long(expression: str, length: int) -> bool:
    r"""Return whether it could take for ever to match an expression with a text of that length, by a generous count.

    Each repetition may end anywhere in the text, and each option be there or not.

    >>> takes_long(r".*decoder.*(SelfAttention|EncDecAttention).*(q|v)$", 80)
    False
    >>> takes_long("(a+)+b", 80), takes_long(".*a" * 20, 80)
    (True, True)
    """
    if REFERENCE.search(expression):
        return True
    plain = ONE_CHARACTER.sub("c", expression)
    if EXPONENTIAL.search(plain):
        return True
    repetitions = len(re.findall(r"[*+{]", plain))
    options = len(re.findall(r"(?<![(*+?}])\?", plain))
    return options > math.log2(WAYS) or math.comb(length + repetitions, repetitions) * 2**options > WAYS
