"""Generators and their cores in files of safetensors, which every backend reads: see docs/files.md.

`spelling` says how a generator is written, `header` what else stands in a file's metadata, `contents` reads and writes
files, `file` is what users call.
"""

from adntn.files.contents import Contents, Weight, opened, write
from adntn.files.file import load, save
from adntn.files.values import FormatError

__all__ = ["Contents", "FormatError", "Weight", "load", "opened", "save", "write"]
