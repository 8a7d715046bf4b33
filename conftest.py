"""Doctests that need a library are collected only where it is installed."""

from importlib.util import find_spec

LIBRARIES = {"adntn/interop/quimb.py": "quimb", "adntn/interop/tensornetwork.py": "tensornetwork"}

collect_ignore = [path for path, library in LIBRARIES.items() if find_spec(library) is None]
