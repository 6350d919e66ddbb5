"""Memory that libraries keep for themselves after large pieces of work goes back to the system."""

from __future__ import annotations

import ctypes
from contextlib import suppress

import pyarrow as pa


def release_unused() -> None:
    """Return what Arrow's pool and the C library hold of memory that nobody uses; some tens of milliseconds at most."""
    pa.default_memory_pool().release_unused()
    # Only glibc has it; other C libraries do so by themselves.
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
