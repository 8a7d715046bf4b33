"""The site: every public name has a place in the reference, and docstrings become the text that they are."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REFERENCE = "\n".join(page.read_text(encoding="utf-8") for page in sorted((DOCS / "api").glob("*.md")))
#: Packages and modules with `__all__` that users import; the others are the library's own affair.
PUBLIC = {
    "adntn": "adntn/__init__.py",
    "adntn.drawing": "adntn/drawing/__init__.py",
    "adntn.topologies": "adntn/topologies/__init__.py",
    "adntn.interop": "adntn/interop/__init__.py",
    "adntn.benchmarking": "adntn/benchmarking/__init__.py",
    "adntn_torch": "backends/adntn_torch/__init__.py",
    "adntn_torch.adapters": "backends/adntn_torch/adapters/__init__.py",
    "adntn_torch.training": "backends/adntn_torch/training/__init__.py",
    "adntn_torch.peft": "backends/adntn_torch/peft.py",
    "adntn_jax": "backends/adntn_jax/__init__.py",
    "adntn_jax.equinox": "backends/adntn_jax/equinox/__init__.py",
    "adntn_jax.nnx": "backends/adntn_jax/nnx/__init__.py",
    "adntn_jax.training": "backends/adntn_jax/training.py",
    "adntn_cupy": "backends/adntn_cupy/__init__.py",
}
#: Modules without `__all__` that the pages tell users to import.
MODULES = (
    "adntn.second_order",
    "adntn.testing",
    "adntn_jax.communication",
    "adntn_jax.distributed",
    "adntn_jax.files",
    "adntn_torch.communication",
    "adntn_torch.distributed",
    "adntn_torch.gauss_newton",
    "adntn_torch.spares",
    "adntn_torch.training.lightning",
    "adntn_torch.training.transformers",
)


def public_names(file: str) -> list[str]:
    """Return the `__all__` of a module, read and not imported: its library may not be installed."""
    for statement in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return list(ast.literal_eval(statement.value))
    raise AssertionError(f"{file} has no __all__")


def with_members(module: str) -> bool:
    """Return whether the reference shows whatever is public in a module."""
    return re.search(rf"automodule:: {re.escape(module)}\n(?!   :no-members:)", REFERENCE) is not None


@pytest.mark.parametrize(("module", "file"), PUBLIC.items(), ids=PUBLIC)
def test_every_public_name_is_in_the_reference(module: str, file: str) -> None:
    named = set(re.findall(r"auto\w+:: [\w.]*?(\w+)$|`(\w+)`", REFERENCE, flags=re.M))
    there = {name for pair in named for name in pair}
    missing = [] if with_members(module) else [name for name in public_names(file) if name not in there]
    assert missing == []


@pytest.mark.parametrize("module", MODULES)
def test_modules_that_users_import_are_in_the_reference(module: str) -> None:
    assert with_members(module)


@pytest.fixture(scope="module")
def configuration() -> ModuleType:
    """docs/conf.py, which Sphinx runs."""
    spec = importlib.util.spec_from_file_location("conf", DOCS / "conf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TEXTS = {
    "a star is a star": ("Patterns with *, and `a * b`.", r"Patterns with \*, and `a * b`."),
    "bars and underscores": ("|W| of name_ and a_name", r"\|W\| of name\_ and a_name"),
    "names over two lines": ("is `left @\nright`, * none", "is `left @\nright`, \\* none"),
    "letters behind a name": ("two `Param`s", r"two `Param`\ s"),
    "examples stay": (">>> 2 ** 3\n8", ">>> 2 ** 3\n8"),
    "a block behind a colon is code": (
        "So:\n\n    a * b\n\n    c\n\nand *",
        "So:\n\n.. code-block::\n\n    a * b\n\n    c\n\nand \\*",
    ),
    "sections are none": ("Args:\n    x: any *args", "Args:\n    x: any \\*args"),
}


@pytest.mark.parametrize(("docstring", "expected"), TEXTS.values(), ids=TEXTS)
def test_docstrings_are_plain_text(configuration: ModuleType, docstring: str, expected: str) -> None:
    assert "\n".join(configuration.as_restructured_text(docstring.splitlines())) == expected
