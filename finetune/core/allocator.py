"""How the C library's memory allocator treats freed memory. Only a program that owns its process may change this."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Names of mallopt's options, from glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory from now on, for the whole process; return False where the C library is another one.

    By itself glibc returns each large tensor to the system and has the next one zeroed page by page. The setting cannot
    be undone (glibc adjusts its thresholds itself only until one is set), so the command line, the server and training
    children call this once at their start, and no library function does.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(MMAP_THRESHOLD, 2**30)
        libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
    except (OSError, AttributeError):
        return False
    return True
