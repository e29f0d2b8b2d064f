"""Keep freed memory in the process while training on CPU.

By default glibc hands every large block back to the kernel when it is freed. A training step frees and asks for the
same hundreds of megabytes again, so each step pays for the page faults: a quarter to a third of a convolutional step.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell malloc never to trim or map; returns whether this platform's malloc took it (glibc on Linux only)."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    return bool(libc.mallopt(M_MMAP_MAX, 0)) and bool(libc.mallopt(M_TRIM_THRESHOLD, NEVER))
