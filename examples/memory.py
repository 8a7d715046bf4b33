"""One setting of the C library's allocator that makes training with large generated weights faster."""

from __future__ import annotations

import ctypes

# Numbers of glibc's malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Ask the allocator to keep memory that was freed for the next request; return whether it is one that can.

    A 4096 x 4096 weight and its gradient are 64 MiB each and are new in every step. By default glibc gives such blocks
    back to the system and takes fresh ones, and the page faults of touching these cost more than the arithmetic.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False  # another C library (macOS, Windows, musl), whose allocator decides for itself
    # One arena, because only the main one holds blocks of any size, and torch's backward pass has a thread of its own.
    options = ((ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, 256 * 2**20))
    return all(bool(set_option(option, value)) for option, value in options)
