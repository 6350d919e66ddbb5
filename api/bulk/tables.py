"""Tables in files (Parquet, Arrow, CSV) cut into pieces of rows, with the columns that ``POST /v1/ingest`` expects."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from api.bulk.pieces import BadRow, Piece, Place
from engine.errors import BadRequest

#: Rows a request.  Larger ones would hold up live writers, whose rows are decoded by the same thread.
PIECE_ROWS = 10_000
TIME = "time"
#: Names that a time column has, where none is given, in the order in which they are tried.
TIME_NAMES = ("time", "timestamp", "ts", "_time", "datetime", "date")
_UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns of a file are.  ``table``: the measurement.  ``time``: the time's column, by default the first
    of ``TIME_NAMES``; ``unit`` of times that are numbers.  ``tags``: columns that are tags although they hold numbers.
    ``drop``: columns to leave out.
    """

    table: str
    time: str | None = None
    unit: str = "ns"
    tags: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


def file_metadata(measurement: str) -> dict[str, str]:
    """Return the metadata by which a file's rows are stored: in files a NaN is a value, and null "no sample"."""
    return {"tidegauge.table": measurement, "tidegauge.not_finite": "keep"}


def parquet_pieces(path: str, columns: Columns, start: Place, *, piece_rows: int = PIECE_ROWS) -> Iterator[Piece]:
    """Yield a Parquet file's rows from ``start`` on."""
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        total = max(1, file.metadata.num_rows)
        yield from _pieces(path, file.iter_batches(piece_rows), columns, start, total)
    except (pa.ArrowException, OSError) as error:
        raise BadRequest(f"cannot read {path}: {error}") from None


def arrow_pieces(path: str, columns: Columns, start: Place, *, piece_rows: int = PIECE_ROWS) -> Iterator[Piece]:
    """Yield the rows of an Arrow file or stream from ``start`` on."""
    try:
        with pa.memory_map(path) as source:
            batches = _arrow_batches(source)
            small = (batch.slice(at, piece_rows) for batch in batches for at in range(0, batch.num_rows, piece_rows))
            yield from _pieces(path, small, columns, start, None)
    except (pa.ArrowException, OSError) as error:
        raise BadRequest(f"cannot read {path}: {error}") from None


def named_table(path: str, form: str) -> str | None:
    """Return the measurement that a Parquet or Arrow file says it holds, as ``tidegauge export`` writes it."""
    import pyarrow.parquet as pq

    try:
        if form == "parquet":
            schema = pq.read_schema(path)
        else:
            with pa.memory_map(path) as source:
                is_file = source.read(6) == b"ARROW1"
                source.seek(0)
                schema = (pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)).schema
    except (pa.ArrowException, OSError):
        # Whoever reads the rows tells what is wrong with the file.
        return None
    name = (schema.metadata or {}).get(b"tidegauge.table")
    return None if not name else name.decode("utf-8", "replace")


def _arrow_batches(source: Any) -> Iterator[pa.RecordBatch]:
    if source.read(6) == b"ARROW1":
        source.seek(0)
        file = pa.ipc.open_file(source)
        for index in range(file.num_record_batches):
            yield file.get_batch(index)
        return
    source.seek(0)
    yield from pa.ipc.open_stream(source)


def _pieces(
    path: str, batches: Iterator[pa.RecordBatch], columns: Columns, start: Place, total: int | None
) -> Iterator[Piece]:
    size, at = os.path.getsize(path), 0
    for batch in batches:
        first, at = at, at + batch.num_rows
        if at <= start.offset or not batch.num_rows:
            continue
        table = pa.Table.from_batches([batch]).slice(max(0, start.offset - first))
        first = max(first, start.offset)
        shaped, lines, bad = shape(path, table, columns, range(first + 1, at + 1))
        read = size if total is None else min(size, size * at // total)
        yield Piece(shaped, lines, Place(at, at), read, tuple(bad))


def shape(
    path: str, table: pa.Table, columns: Columns, lines: Sequence[int]
) -> tuple[pa.Table, Sequence[int], list[BadRow]]:
    """Return the rows with a ``time`` column, tags as text and fields as numbers; their lines; and the rows left out.

    A row is left out when its time cannot be read.  ``lines``: for each row where it stands in the file.
    """
    time = time_column(path, table, columns)
    table = table.drop_columns(list(columns.drop))
    times, bad = _times(table.column(time), columns.unit, lines)
    arrays = {TIME: times}
    for name in table.column_names:
        if name == time:
            continue
        column = table.column(name)
        if name in columns.tags:
            arrays[name] = _text(column)
        elif pa.types.is_decimal(column.type):
            arrays[name] = column.cast(pa.float64())
        elif pa.types.is_null(column.type):
            continue
        elif _is_no_cell(column.type):
            raise BadRequest(f"cannot read {path}: column {name!r} is {column.type}; drop it with --drop {name}")
        else:
            arrays[name] = column
    texts = [name for name, column in arrays.items() if name != TIME and _is_text(column.type)]
    if len(arrays) == len(texts) + 1:
        told = f"{', '.join(texts)} hold text, which makes tags" if texts else "there is none beside the time"
        raise BadRequest(f"cannot read {path}: it has no column of numbers ({told})")
    shaped = pa.table(arrays)
    if times.null_count:
        readable = times.is_valid()
        shaped = shaped.filter(readable)
        lines = [lines[at] for at in pc.indices_nonzero(readable).to_pylist()]
    return shaped.replace_schema_metadata(file_metadata(columns.table)), lines, bad


def time_column(path: str, table: pa.Table, columns: Columns) -> str:
    """Return the name of the time's column; raises BadRequest where a column that was named is not there."""
    names = table.column_names
    named = (*columns.tags, *columns.drop, *filter(None, [columns.time]))
    unknown = next((name for name in named if name not in names), None)
    if unknown is not None:
        raise BadRequest(f"cannot read {path}: it has no column {unknown!r}, only {', '.join(names)}")
    time = columns.time or next((name for name in TIME_NAMES if name in names), None)
    if time is None:
        raise BadRequest(
            f"cannot read {path}: no column is the time; say which with --time (columns: {', '.join(names)})"
        )
    return time


def _is_no_cell(kind: pa.DataType) -> bool:
    return bool(pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_temporal(kind))


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column if _is_text(column.type) else column.cast(pa.string())


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(value) or pa.types.is_large_string(value))


def _times(column: pa.ChunkedArray, unit: str, lines: Sequence[int]) -> tuple[pa.ChunkedArray, list[BadRow]]:
    """Return int64 nanoseconds, null where a time cannot be read, and what to say about these."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        whole = column.cast(pa.int64())
        found = _scaled(whole, _UNITS[kind.unit])
    elif pa.types.is_date(kind):
        found = column.cast(pa.timestamp("s")).cast(pa.int64())
        found = _scaled(found, _UNITS["s"])
    elif pa.types.is_integer(kind):
        found = _scaled(column.cast(pa.int64()), _UNITS[unit])
    elif pa.types.is_floating(kind):
        found = pc.round(pc.multiply(column, float(_UNITS[unit]))).cast(pa.int64(), safe=False)
    else:
        found = _parsed(column.cast(pa.string()), unit)
    bad = []
    if found.null_count:
        for at in pc.indices_nonzero(found.is_null()).to_pylist():
            cell = column[at].as_py()
            told = "it is empty" if cell in (None, "") else f"got {cell!r}, want RFC 3339 or a number of {unit}"
            bad.append(BadRow(lines[at], "malformed", f"cannot read the time: {told}"))
    return found, bad


def _scaled(whole: pa.ChunkedArray, factor: int) -> pa.ChunkedArray:
    if factor == 1:
        return whole
    largest = (2**63 - 1) // factor
    fits = pc.and_(pc.less_equal(whole, largest), pc.greater_equal(whole, -largest))
    return pc.multiply(pc.if_else(fits, whole, None), factor)


def _parsed(column: pa.ChunkedArray, unit: str) -> pa.ChunkedArray:
    """Return texts as nanoseconds: whole columns at once where that works, else cell by cell."""
    for kind in (pa.timestamp("ns", tz="UTC"), pa.timestamp("ns")):
        try:
            return column.cast(kind).cast(pa.int64())
        except pa.ArrowInvalid:
            continue
    return pa.chunked_array([pa.array([_parsed_cell(cell, unit) for cell in column.to_pylist()], pa.int64())])


def _parsed_cell(cell: str | None, unit: str) -> int | None:
    from engine.ingest.objects import parse_time_ns

    text = (cell or "").strip()
    if text.lstrip("-").isdigit():
        number = int(text) * _UNITS[unit]
        return number if abs(number) < 2**63 else None
    try:
        parsed = parse_time_ns(text.replace(" ", "T", 1))
    except ValueError:
        return None
    return parsed if abs(parsed) < 2**63 else None
