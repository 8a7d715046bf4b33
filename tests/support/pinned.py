"""`python tests/support/pinned.py`: is every distribution of this environment the one that tests/constraints.txt names?

Left out is what comes with Python or is pinned by another package: pip itself, and the libraries of CUDA that torch
asks for by their exact versions.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import distributions
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
#: What no constraint can name.
OTHERS = re.compile(r"adntn|pip|setuptools|wheel|nvidia-.*|cuda-.*")


def canonical(name: str) -> str:
    """Return a distribution's name as indices spell it.

    >>> canonical("Opt_Einsum")
    'opt-einsum'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, str]:
    """Return the versions in a file of constraints by name.

    >>> pins("# why\\nnumpy==2.4.6\\nPyYAML==6.0.4  # what for")
    {'numpy': '2.4.6', 'pyyaml': '6.0.4'}
    """
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return {canonical(name): version for name, _, version in (line.partition("==") for line in lines if line)}


def problems(installed: Iterable[tuple[str, str]], wanted: Mapping[str, str]) -> list[str]:
    """Return what is installed without a pin, or in another version; local parts of versions are passed over.

    >>> problems([("torch", "2.13.0+cpu"), ("numpy", "2.0.0")], {"torch": "2.13.0", "numpy": "2.4.6"})
    ['numpy is 2.0.0, not 2.4.6']
    """
    found = []
    for name, version in sorted({(canonical(name), version.partition("+")[0]) for name, version in installed}):
        if OTHERS.fullmatch(name):
            continue
        if name not in wanted:
            found.append(f"{name}=={version} is not pinned")
        elif version != wanted[name]:
            found.append(f"{name} is {version}, not {wanted[name]}")
    return found


def main() -> int:
    """Print what is wrong; return whether anything is."""
    found = [(one.metadata["Name"], one.version) for one in distributions()]
    wrong = problems(found, pins(CONSTRAINTS.read_text(encoding="utf-8")))
    print(*wrong, sep="\n", end="\n" if wrong else "")
    print(f"{len(found)} distributions, {len(wrong)} of them not as {CONSTRAINTS.name} has them")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
