"""Two settings of the process that training on CPU lives by."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
NEVER = 2**31 - 1


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Flush denormal numbers to zero for as long as this lasts (usable as a decorator).

    Gradients of pixels that a decoder is sure of underflow, and arithmetic on denormals is slow in hardware: a trained
    decoder's step takes longer than the same step at its start. Other code in the process may rely on denormals, so
    what was set before comes back.
    """
    before = denormals_are_flushed()
    on_every_thread(lambda: torch.set_flush_denormal(True))
    try:
        yield
    finally:
        on_every_thread(lambda: torch.set_flush_denormal(before))


def denormals_are_flushed() -> bool:
    """Whether this thread rounds numbers below the smallest normal one to zero."""
    halves = [sys.float_info.min, 0.5]  # in a list, or the product is computed when this file is compiled
    return halves[0] * halves[1] == 0.0


def on_every_thread(function: Callable[[], object]) -> None:
    """Call a function on this thread and on each of the threads that torch computes with for it.

    How a processor rounds is a setting of each thread, and `torch.set_flush_denormal` reaches only its caller's.
    The others are GNU OpenMP's, so they are reached through the library that torch brings along; where torch was
    built with something else, only this thread is.
    """
    function()
    threads, library = torch.get_num_threads(), Path(torch.__file__).parent / "lib" / "libgomp.so.1"
    if threads > 1 and library.exists():
        on_each = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: function() and None)
        ctypes.CDLL(str(library)).GOMP_parallel(on_each, None, ctypes.c_uint(threads), ctypes.c_uint(0))


def keep_freed_memory() -> None:
    """Tell glibc, for the rest of the process, not to hand freed memory back to the kernel.

    By default it does so with every large block. A training step frees and asks for the same hundreds of megabytes
    again and pays for the page faults.
    """
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(M_MMAP_MAX, 0)
            libc.mallopt(M_TRIM_THRESHOLD, NEVER)
