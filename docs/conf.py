"""How Sphinx builds the site from these pages: `tox run -e docs`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import adntn

project = "adntn"
author = "the authors of adntn"
copyright = "the authors of adntn, Apache-2.0"
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
autodoc_default_options = {"members": True, "exclude-members": "convolve", "show-inheritance": True}
autodoc_preserve_defaults = True
autodoc_mock_imports = ["cupy"]  # it cannot be imported where there is no GPU
maximum_signature_line_length = 100
python_use_unqualified_type_names = True
smartquotes_action = "D"  # dashes only: "name" is a string of Python
default_role = "py:obj"  # a link where there is something of that name, and plain code elsewhere

SECTION = re.compile(r"\s*(Args|Attributes|Raises|Returns|Yields):$")


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """Yield runs of lines without an empty one in between, and the empty lines one by one."""
    for empty, run in groupby(lines, key=lambda line: not line.strip()):
        block = list(run)
        yield from [[line] for line in block] if empty else [block]


def _as_text(block: str) -> str:
    """Return text in which nothing but backticks has a meaning in reStructuredText."""
    parts = block.split("`")
    parts[::2] = [re.sub(r"([*|\\]|_\b)", r"\\\1", part) for part in parts[::2]]
    return re.sub(r"(`[^`]+`)(?=\w)", r"\1\\ ", "`".join(parts))


def as_restructured_text(lines: list[str]) -> Iterator[str]:
    """Yield the lines of a docstring, which is plain text with names in backticks, as reStructuredText.

    A block behind a colon and an empty line, and further in than these, is code.
    """
    text, code = "", False  # the last line of text; whether what is here is code
    for block in _blocks(lines):
        if not block[0].strip():
            yield from block
            continue
        deeper = _indentation(block[0]) > _indentation(text)
        if deeper and not code and text.endswith(":") and not SECTION.match(text):
            code = True
            yield from (" " * _indentation(text) + ".. code-block::", "")
        code = code and deeper
        if code or block[0].lstrip().startswith(">>>"):
            yield from block
        else:
            text = block[-1]
            yield from _as_text("\n".join(block)).split("\n")


def _rewrite(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    lines[:] = as_restructured_text(list(lines))


def _signature(
    _app: Any, _what: str, _name: str, described: Any, _options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Show functions that are defaults as dots, which can be parsed, and what calling a topology returns."""
    shown = signature and re.sub(r"<(?:function|factory|class)[^>]*>", "...", signature)
    return shown, "Generator" if isinstance(described, adntn.Topology) else returns


def setup(app: Any) -> None:
    """Rewrite docstrings before napoleon reads their sections, and what signatures say badly."""
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-process-docstring", _rewrite, priority=400)
