"""Memory that libraries keep for themselves after large pieces of work goes back to the system."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from contextlib import suppress

import pyarrow as pa

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
#: Threads share so many heaps: with one each, as is usual, what one has freed the others cannot use.
ARENAS = 2
#: Pieces from this size on go back to the system when they are freed.  The C library would raise the limit to 32 MiB by
#: itself, and freed arrays of that size stay in a heap that long-lived small pieces keep from shrinking.
LARGE_BYTES = 4 << 20
TRIM_BYTES = 8 << 20


def bound_heaps(environment: Mapping[str, str] = os.environ) -> bool:
    """Keep this process' heaps few and small; return whether that was done.  To be called before there are threads.

    Who has set a variable of the C library's allocator (``MALLOC_...``, ``GLIBC_TUNABLES``) is left with that.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in environment):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    settings = ((_M_ARENA_MAX, ARENAS), (_M_MMAP_THRESHOLD, LARGE_BYTES), (_M_TRIM_THRESHOLD, TRIM_BYTES))
    taken = [mallopt(name, value) == 1 for name, value in settings]
    return all(taken)


def release_unused() -> None:
    """Return what Arrow's pool and the C library hold of memory that nobody uses; some tens of milliseconds at most."""
    pa.default_memory_pool().release_unused()
    # Only glibc has it; other C libraries do so by themselves.
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
