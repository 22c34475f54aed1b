"""Freed memory goes back to the board for the time of a pause, not to the allocator's drawer."""

import ctypes

_C = ctypes.CDLL(None)


def give_back() -> None:
    """Returns what is free in the heap to the kernel. Without glibc's call for it, does nothing."""
    trim = getattr(_C, "malloc_trim", None)
    if trim is not None:
        trim(0)
