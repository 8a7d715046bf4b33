"""Regular expressions that stand in files: Python's matching can take longer than anybody lives."""

from __future__ import annotations

import math
import re

#: So many ways to match may be tried: a second or two.
WAYS = 2**24
#: What an escape or a set of characters stands for is one character.
ONE_CHARACTER = re.compile(r"\\.|\[\^?\]?[^\]]*\]", re.DOTALL)
#: A group that is repeated, or what was matched before: each can make the number of ways exponential. So can either
#: behind spaces and comments, which the flag x allows.
EXPONENTIAL = re.compile(r"\)(?:[*+]|\{)|\(\?P=|\(\?\(|\(\?[a-zA-Z]*x")
REFERENCE = re.compile(r"\\[1-9]")


def takes_long(expression: str, length: int) -> bool:
    r"""Return whether it could take for ever to match an expression with a text of that length, by a generous count.

    Each repetition may end anywhere in the text, each option be there or not, each alternative be the one.

    >>> takes_long(r".*decoder.*(SelfAttention|EncDecAttention).*(q|v)$", 80)
    False
    >>> takes_long("(a+)+b", 80), takes_long(".*a" * 20, 80), takes_long("(a|.)" * 40, 80)
    (True, True, True)
    """
    if REFERENCE.search(expression):
        return True
    plain = ONE_CHARACTER.sub("c", expression)
    if EXPONENTIAL.search(plain):
        return True
    repetitions = len(re.findall(r"[*+{]", plain))
    choices = len(re.findall(r"(?<![(*+?}])\?", plain)) + _alternatives(plain)
    most = math.log2(WAYS)
    if choices > most or min(length, repetitions) > most:  # so many that counting them takes long itself
        return True
    return math.log2(math.comb(length + repetitions, repetitions)) + choices > most


def _alternatives(plain: str) -> float:
    """Return how many choices between two the alternatives are worth: in each group one of them is taken.

    >>> _alternatives("(a|b|c|(d|e))(f|g)")
    4.0
    """
    counts, choices = [1], 0.0
    for character in re.findall(r"[(|)]", plain):
        if character == "(":
            counts.append(1)
        elif character == "|":
            counts[-1] += 1
        elif len(counts) > 1:  # else it is no expression
            choices += math.log2(counts.pop())
    return choices + sum(map(math.log2, counts))
