"""The doctests of a backend are collected only where its framework is installed."""

from importlib.util import find_spec

FRAMEWORKS = {"adntn_cupy": "cupy", "adntn_torch": "torch"}

collect_ignore = [package for package, framework in FRAMEWORKS.items() if find_spec(framework) is None]
