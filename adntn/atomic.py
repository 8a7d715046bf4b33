"""Files that are there as a whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_IMODE


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the path of a temporary file in the same folder, which takes the place of `path` if all goes well.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "numbers.txt"
    >>> with whole_file(target) as partial:
    ...     written = partial.write_text("1 2 3")
    >>> target.read_text(), [file.name for file in target.parent.iterdir()]
    ('1 2 3', ['numbers.txt'])

    Its bytes are on the disk before it gets its name. It may be read by whom the target, or any new file, may. A
    process that is killed leaves the target as it was, and the temporary file, whose name starts with a dot and ends
    with ".part".
    """
    target = Path(path)
    partial = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.part")  # names may have 255 bytes
    try:
        partial.touch(exist_ok=False)
        mode = (target if target.exists() else partial).stat().st_mode
        yield partial
        with partial.open("rb+") as written:
            os.fsync(written.fileno())
        partial.chmod(S_IMODE(mode))  # who writes it may have put another in its place
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
