"""Everybody: who is in an installation, and the rivals."""

from __future__ import annotations

from adntn.benchmarking.contender import Contender, Task
from adntn.benchmarking.contenders import CONTENDERS

MADE: tuple[Task, ...] = ("weight", "gradients", "forward", "backward", "step")


def tensorly_torch(factorization: str, implementation: str) -> Contender:
    """Return a layer of tensorly-torch.

    >>> tensorly_torch("CP", "reconstructed").name
    'tensorly-torch CP, reconstructed'
    """
    return Contender(
        f"tensorly-torch {factorization}, {implementation}",
        "benchmarks.rivals.tensorly_torch:setup",
        MADE if implementation == "reconstructed" else ("forward", "backward", "step"),
        (("factorization", factorization), ("implementation", implementation)),
    )


NAIVE = Contender("naive autograd", "benchmarks.rivals.naive:setup", MADE)
#: The tensor train of rows and then columns, which the library offers as a tensor but not as a layer.
TRAIN = tensorly_torch("TT", "reconstructed")
RECONSTRUCTED = (*(tensorly_torch(one, "reconstructed") for one in ("BlockTT", "CP")), TRAIN)
FACTORIZED = tuple(tensorly_torch(one, "factorized") for one in ("BlockTT", "CP"))
TENSORKROWCH = Contender("tensorkrowch MPO", "benchmarks.rivals.tensorkrowch:setup", MADE)
QUIMB = Contender("quimb + cotengra", "benchmarks.rivals.quimb:setup", MADE)

RIVALS: tuple[Contender, ...] = (NAIVE, *RECONSTRUCTED, *FACTORIZED, TENSORKROWCH, QUIMB)
EVERYBODY: tuple[Contender, ...] = (*CONTENDERS, *RIVALS)
