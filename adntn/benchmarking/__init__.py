"""Measuring side by side: time and peak memory of weights and layers, ours and others', in one run.

A *contender* is pure data that names who computes; a *case* says what; an *entry* pairs the two with a task. Entries of
one comparison are timed in turns (A B C A B C ...) in one fresh process; their memory is measured in one process each.
Nothing here knows a framework or a rival: contenders name the function that sets them up.
"""

from adntn.benchmarking.case import Case
from adntn.benchmarking.comparison import Comparison, Measurement, compare
from adntn.benchmarking.contender import Contender, Entry, Ready
from adntn.benchmarking.measure import Timing, interleaved
from adntn.benchmarking.memory import Memory

__all__ = [
    "Case",
    "Comparison",
    "Contender",
    "Entry",
    "Measurement",
    "Memory",
    "Ready",
    "Timing",
    "compare",
    "interleaved",
]
