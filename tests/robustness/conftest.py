"""What tries to break the library is a folder of the repository, on the path here."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

NEEDED = {"test_saves.py": "torch"}
collect_ignore = [name for name, library in NEEDED.items() if find_spec(library) is None]

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
