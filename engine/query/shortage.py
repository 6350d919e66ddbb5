"""Whether something failed for want of memory, address space or threads: each library says so in words of its own."""

from __future__ import annotations

import duckdb
import pyarrow as pa

#: In lower case.  What DuckDB says may quote a statement, so of its errors only the kind counts, and C++'s own word.
_WORDS = ("cannot allocate memory", "can't start new thread", "failed to map", "resource temporarily unavailable")
_KINDS = (OSError, RuntimeError, ImportError, pa.ArrowException)


def is_shortage(error: BaseException | None) -> bool:
    """Return whether memory ran out, possibly hidden by what a clean-up raised afterwards."""
    while error is not None:
        if isinstance(error, (MemoryError, duckdb.OutOfMemoryException)) or "std::bad_alloc" in str(error):
            return True
        if isinstance(error, _KINDS) and not isinstance(error, duckdb.Error):
            text = str(error).lower()
            if any(words in text for words in _WORDS):
                return True
        error = error.__context__
    return False
