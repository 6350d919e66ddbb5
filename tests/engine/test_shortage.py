"""Want of memory is told as such, in whatever words a library tells it, and never as damage or as a fault of ours."""

from __future__ import annotations

from typing import Any

import duckdb
import pyarrow as pa
import pytest

from engine.errors import Damage
from engine.query.scans import hot_scans
from engine.query.shortage import is_shortage
from engine.query.sources import TableSource

# As pyarrow says it when the address space of the process is used up.
NO_ROOM = OSError("Memory mapping file failed: Cannot allocate memory")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        NO_ROOM,
        duckdb.OutOfMemoryException("x"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
        ImportError("libx.so: failed to map segment from shared object"),
        pa.ArrowMemoryError("malloc of size 64 failed"),
    ],
)
def test_what_says_that_memory_ran_out(error: Exception) -> None:
    assert is_shortage(error)
    hidden = ValueError("cannot clean up")
    hidden.__context__ = error
    assert is_shortage(hidden)


def test_what_a_statement_quotes_says_nothing_of_memory() -> None:
    assert not is_shortage(duckdb.ConversionException("Could not convert string 'Cannot allocate memory' to INT32"))
    assert not is_shortage(OSError("Invalid argument"))
    assert not is_shortage(None)


@pytest.fixture
def failing_maps(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """Errors that maps of Arrow files end with, one each, first to last."""
    errors: list[Exception] = []
    map_file = pa.memory_map

    def memory_map(path: str, *arguments: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return map_file(path, *arguments)

    monkeypatch.setattr(pa, "memory_map", memory_map)
    return errors


def test_hot_rows_without_room_to_map_them_are_not_damaged(failing_maps: list[Exception]) -> None:
    source = TableSource(table_id=0, name="cpu", arrow=("rows.arrow",))
    failing_maps += [NO_ROOM, pa.ArrowInvalid("Not an Arrow file")]
    with pytest.raises(MemoryError, match="cannot read hot rows"):
        hot_scans(source)
    with pytest.raises(Damage, match="Not an Arrow file"):
        hot_scans(source)
