"""What the examples' command lines hold: numbers that are checked, and how many processors there are."""

from __future__ import annotations

import argparse
import math
import os


def processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def above_zero(text: str) -> float:
    """Return the number that a text holds, if it is finite and above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"a finite number above 0 is needed, got {text!r}")
    return number


def positive(text: str) -> int:
    """Return the number that a text holds, if it is at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is needed, got {text!r}")
    return int(text)


def seed(text: str) -> int:
    """Return the number that a text holds, if all generators of random numbers can start from it."""
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"a whole number from 0 to 2^63 - 1 is needed, got {text!r}")
    return int(text)
