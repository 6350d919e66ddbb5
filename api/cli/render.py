"""Rows of an SQL answer as text for people, and as CSV, JSON, Arrow or Parquet for programs."""

from __future__ import annotations

import io
import math
import unicodedata
from typing import Any

import msgspec
import pyarrow as pa

MAX_TABLE_ROWS = 1_000
_GAP = "  "
_NULL = "NULL"


def render_table(table: pa.Table, *, seconds: float, max_rows: int = MAX_TABLE_ROWS) -> str:
    """Return rows aligned in columns, numbers to the right, then the number of rows and the time it took.

    More than ``max_rows`` are not shown, and the last line says so.
    """
    shown = table.slice(0, max_rows)
    right = [_is_number(field.type) for field in shown.schema]
    columns = [[_cell(text) for text in _texts(column)] for column in shown.columns]
    names = [_cell(name) for name in shown.column_names]
    widths = [
        max((_width(line) for cell in (name, *column) for line in cell), default=0)
        for name, column in zip(names, columns, strict=True)
    ]
    rows = [names, [["-" * width] for width in widths], *zip(*columns, strict=True)]
    lines = [line for row in rows for line in _lines_of(row, widths, right)]
    lines.append(_count_line(table.num_rows, max_rows, seconds))
    return "\n".join(lines) + "\n"


def render_vertical(table: pa.Table, *, seconds: float, max_rows: int = MAX_TABLE_ROWS) -> str:
    """Return each row as a block of lines, a column a line: for rows that are wider than the terminal."""
    shown = table.slice(0, max_rows)
    names = [_cell(name)[0] for name in shown.column_names]
    width = max(map(_width, names), default=0)
    columns = [[_cell(text) for text in _texts(column)] for column in shown.columns]
    lines = []
    for number, row in enumerate(zip(*columns, strict=True), start=1):
        lines.append(f"-[ row {number} ]-")
        for name, cell in zip(names, row, strict=True):
            first, *rest = cell
            lines.append(f"{name}{' ' * (width - _width(name))} | {first}".rstrip())
            lines += [f"{' ' * width} | {line}".rstrip() for line in rest]
    lines.append(_count_line(table.num_rows, max_rows, seconds))
    return "\n".join(lines) + "\n"


def _count_line(count: int, max_rows: int, seconds: float) -> str:
    took = f"{1_000 * seconds:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"
    if count > max_rows:
        return f"{max_rows} of {count} rows shown ({took}); another --format gives all of them"
    return f"{count} {'row' if count == 1 else 'rows'} ({took})"


def render_csv(table: pa.Table) -> bytes:
    """Return CSV with a header line; an absent value is empty, what has parts is JSON, times are RFC 3339."""
    from pyarrow import csv

    plain = pa.table(
        [column if _is_plain(column.type) else pa.array(_texts(column), pa.string()) for column in table.columns],
        names=table.column_names,
    )
    sink = io.BytesIO()
    csv.write_csv(plain, sink)
    return sink.getvalue()


def render_json(table: pa.Table) -> bytes:
    """Return a JSON array with one object a row; NaN and infinities become null, times RFC 3339 texts."""
    columns = [_json_values(column) for column in table.columns]
    names = table.column_names
    rows = [msgspec.json.encode(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]
    return b"[" + b",\n ".join(rows) + b"]\n"


def render_arrow(table: pa.Table) -> bytes:
    """Return an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def render_parquet(table: pa.Table) -> bytes:
    """Return a Parquet file."""
    from pyarrow import parquet

    sink = io.BytesIO()
    parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_plain(kind: pa.DataType) -> bool:
    """Tell whether CSV holds the type as it is."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_string(kind))


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    """Return each value as text, None for an absent one."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _texts(column.cast(kind.value_type))
    if pa.types.is_timestamp(kind):
        return [None if text is None else _rfc3339(text) for text in column.cast(pa.string()).to_pylist()]
    if pa.types.is_floating(kind):
        return [None if value is None else _float_text(value) for value in column.to_pylist()]
    if pa.types.is_boolean(kind):
        return [None if value is None else str(value).lower() for value in column.to_pylist()]
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return [None if value is None else value.hex() for value in column.to_pylist()]
    if pa.types.is_nested(kind):
        values = _json_values(column)
        return [None if value is None else msgspec.json.encode(value).decode() for value in values]
    return [None if value is None else str(value) for value in column.to_pylist()]


def _json_values(column: pa.ChunkedArray) -> list[Any]:
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return list(column.to_pylist())
    if pa.types.is_floating(kind):
        return [value if value is not None and math.isfinite(value) else None for value in column.to_pylist()]
    if pa.types.is_map(kind):
        return [
            None if pairs is None else {str(key): _plain(value) for key, value in pairs} for pairs in column.to_pylist()
        ]
    if pa.types.is_nested(kind):
        return [_plain(value) for value in column.to_pylist()]
    return list(_texts(column))


def _plain(value: Any) -> Any:
    """Return a nested value as JSON can hold it."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _rfc3339(text: str) -> str:
    """Return Arrow's text of a time, "2026-01-02 03:04:05.600000000", as RFC 3339; ours are all UTC."""
    day, _, clock = text.removesuffix("Z").partition(" ")
    whole, _, fraction = clock.partition(".")
    fraction = fraction.rstrip("0")
    return f"{day}T{whole}{'.' + fraction if fraction else ''}Z"


def _float_text(value: float) -> str:
    return repr(value) if math.isfinite(value) else {True: "NaN"}.get(math.isnan(value), f"{value:+}"[0] + "Infinity")


def _cell(text: str | None) -> list[str]:
    """Return a value's lines; control characters, which could drive the terminal, become visible escapes."""
    if text is None:
        return [_NULL]
    return [
        "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
        for line in text.split("\n")
    ]


def _width(text: str) -> int:
    """Return how many cells of a terminal a text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    combining = sum(unicodedata.combining(c) > 0 for c in text)
    return len(text) + wide - combining


def _lines_of(row: Any, widths: list[int], right: list[bool]) -> list[str]:
    """Return a row as lines, more than one when a value has line breaks."""
    height = max((len(cell) for cell in row), default=0)
    lines = []
    for number in range(height):
        parts = []
        for cell, width, to_right in zip(row, widths, right, strict=True):
            text = cell[number] if number < len(cell) else ""
            padding = " " * (width - _width(text))
            parts.append(padding + text if to_right else text + padding)
        lines.append(_GAP.join(parts).rstrip())
    return lines
