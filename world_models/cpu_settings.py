"""Two settings of the process that training on CPU lives by."""

from __future__ import annotations

import ctypes
import sys

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
NEVER = 2**31 - 1


def prepare_cpu() -> None:
    """Flush denormal numbers to zero, and keep freed memory; both for the whole process, from now on.

    Denormals: gradients of pixels that a decoder is sure of underflow, and arithmetic on denormals takes a hundred
    times longer; a trained convolutional decoder's backward pass becomes three times slower than at its start.
    Threads inherit the setting when they are started.

    Memory: by default glibc hands every large block back to the kernel when it is freed. A training step frees and
    asks for the same hundreds of megabytes again and pays for the page faults, a quarter of a convolutional step.
    """
    torch.set_flush_denormal(True)
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(M_MMAP_MAX, 0)
            libc.mallopt(M_TRIM_THRESHOLD, NEVER)
