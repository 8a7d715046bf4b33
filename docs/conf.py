"""How Sphinx builds the site from these pages: `tox run -e docs`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import adntn

project = "adntn"
author = "the authors of adntn"
copyright = "the authors of adntn, Apache-2.0"  # noqa: A001  (Sphinx calls it so)
version = release = adntn.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["README.md"]

html_theme = "furo"
html_title = f"adntn {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}

myst_heading_anchors = 4
copybutton_exclude = ".linenos, .gp, .go"  # what is copied of a session are its commands

# Docstrings are in Google's style, and say types nowhere: signatures do.
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_preserve_defaults = True
autodoc_mock_imports = ["cupy"]  # it cannot be imported where there is no GPU
maximum_signature_line_length = 100
python_use_unqualified_type_names = True
default_role = "py:obj"  # a link where there is something of that name, and plain code elsewhere

LITERAL = re.compile(r"\S:$")
SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields|Example|Examples):$")


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


def _as_text(line: str) -> str:
    """Return a line in which nothing but backticks has a meaning in reStructuredText."""
    parts = line.split("`")
    parts[::2] = [re.sub(r"([*|\\]|_\b)", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def as_restructured_text(lines: list[str]) -> Iterator[str]:
    """Yield the lines of a docstring, which is plain text with names in backticks, as reStructuredText.

    An indented block behind a colon and an empty line is code.
    """
    code: int | None = None  # the indentation of the line before the block
    example = False
    for number, line in enumerate(lines):
        following = next((one for one in lines[number + 1 :] if one.strip()), "")
        if code is not None and line.strip() and _indentation(line) <= code:
            code = None
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        if code is not None or example or not line.strip():
            yield line
        elif (
            LITERAL.search(line)
            and not SECTION.match(line.strip())
            and not "".join(lines[number + 1 : number + 2]).strip()
            and _indentation(following) > _indentation(line)
        ):
            code = _indentation(line)
            yield _as_text(line) + ":"
        else:
            yield _as_text(line)


def _rewrite(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    lines[:] = as_restructured_text(list(lines))


def setup(app: Any) -> None:
    """Rewrite docstrings before napoleon reads their sections."""
    app.connect("autodoc-process-docstring", _rewrite, priority=400)
