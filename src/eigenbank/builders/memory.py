"""Handing freed memory back to the system: glibc keeps it, in pieces that the next large matrix fits in none of."""

import ctypes
import functools
import sys
from collections.abc import Callable


def give_back() -> None:
    """Return what was freed to the system, where the allocator can be asked to (glibc); elsewhere do nothing."""
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim
