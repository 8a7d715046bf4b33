"""Real sentences with a real task, that any machine has: the docstrings of Python's library and of dependencies.

The task: find a function's summary by its name and its parameters, among those of other functions. Nothing is imported;
source files are only parsed.
"""

from __future__ import annotations

import ast
import importlib.util
import platform
import re
import sysconfig
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

#: Dependencies of this project whose docstrings are read too.
PACKAGES = ("numpy", "scipy", "sklearn")
DISTRIBUTIONS = {"sklearn": "scikit-learn"}
#: Folders that hold no documentation of a public function.
PASSED_OVER = {"site-packages", "test", "tests", "idlelib", "lib2to3", "_vendor", "externals"}
FEWEST_WORDS, MOST_WORDS = 4, 30


@dataclass(frozen=True)
class Pair:
    """A function's name with its parameters in words, and the first sentence of its docstring."""

    name: str
    summary: str


@dataclass(frozen=True)
class Sentences:
    """Pairs for training, for choosing learning rates, and for the results; no two of them share a source file."""

    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    test: tuple[Pair, ...]


def sources() -> dict[str, Path]:
    """Return the folders of the packages that are installed, by name and version."""
    found = {f"Python {platform.python_version()}": Path(sysconfig.get_paths()["stdlib"])}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            distribution = DISTRIBUTIONS.get(name, name)
            found[f"{distribution} {metadata.version(distribution)}"] = Path(spec.origin).parent
    return found


def read(folders: Sequence[Path]) -> Sentences:
    """Return the pairs in all source files below some folders; each name and each summary stands there once."""
    parts: tuple[list[Pair], ...] = ([], [], [])
    seen: set[str] = set()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            inside = path.relative_to(folder)
            if PASSED_OVER.isdisjoint(inside.parts):
                part = parts[_part(f"{folder.name}/{inside.as_posix()}")]
                for pair in _pairs(path):
                    if seen.isdisjoint((pair.name, pair.summary)):
                        seen |= {pair.name, pair.summary}
                        part.append(pair)
    return Sentences(*map(tuple, parts))


def _part(name: str) -> int:
    """Return the part of a source file: of ten, eight are for training, one for validation, one for the results."""
    return max(0, zlib.crc32(name.encode()) % 10 - 7)


def _pairs(path: Path) -> Iterator[Pair]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the files' own syntax
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return  # a template, or of another time
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            summary = first_sentence(ast.get_docstring(node) or "")
            if FEWEST_WORDS <= len(summary.split()) <= MOST_WORDS:
                arguments = [argument.arg for argument in node.args.args if argument.arg not in {"self", "cls"}]
                yield Pair(in_words(node.name, *arguments), summary)


def first_sentence(docstring: str) -> str:
    r"""Return the first sentence of a docstring.

    >>> first_sentence("Return the sum. It is exact.\n\nMore of it.")
    'Return the sum.'
    """
    paragraph = re.split(r"\n\s*\n", docstring.strip())[0]
    return re.split(r"(?<=[.!?])\s", " ".join(paragraph.split()))[0]


def in_words(*names: str) -> str:
    """Return names in words.

    >>> in_words("readCSV_file", "sep")
    'read csv file sep'
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", " ".join(names).replace("_", " "))
    return " ".join(spaced.lower().split())
