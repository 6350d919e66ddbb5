"""Answers in the form a client asks for: JSON, CSV, an Arrow stream or Parquet.

JSON: ``{"columns": [{"name", "type"}], "rows": [[...]], "row_count", ...}``.  Times are RFC 3339 in UTC with a Z and as
many digits (0, 3, 6 or 9) as the finest value of the column needs, so nothing is rounded.  NaN and infinities, which
JSON cannot write as numbers, are the strings "NaN", "+Inf" and "-Inf".  Integers and decimals are numbers with all
their digits, maps and structs objects, binary values base64 text.
Values are converted a column at a time; Python touches single cells only where a type leaves no choice.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from engine.errors import BadRequest
from engine.model.rows import Int64Array
from engine.query.sources import SqlAnswer

METADATA_KEY = b"tidegauge"
#: Rows that are encoded at a time.
ENCODED_ROWS = 1_024
#: Times that are written at a time.
CONVERTED_CELLS = 8_192

_ENCODER = msgspec.json.Encoder(decimal_format="number")
_UNIT_NS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_INFINITE = (1 << 63) - 1
_SQL_TYPES = {
    "bool": "BOOLEAN",
    "int8": "TINYINT",
    "int16": "SMALLINT",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "uint8": "UTINYINT",
    "uint16": "USMALLINT",
    "uint32": "UINTEGER",
    "uint64": "UBIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "string": "VARCHAR",
    "large_string": "VARCHAR",
    "string_view": "VARCHAR",
    "binary": "BLOB",
    "large_binary": "BLOB",
    "binary_view": "BLOB",
    "date32[day]": "DATE",
    "time64[us]": "TIME",
    "time64[ns]": "TIME",
    "month_day_nano_interval": "INTERVAL",
    "null": "NULL",
}


def table_of(answer: SqlAnswer) -> pa.Table:
    """Return an answer's rows as an Arrow table, without copying them."""
    return pa.ipc.open_stream(answer.stream).read_all()


def render(table: pa.Table, form: str, metadata: Mapping[str, Any]) -> bytes:
    """Return a table as ``json``, ``objects``, ``csv``, ``arrow`` or ``parquet``.

    ``metadata`` goes into the JSON object, and into the schema of Arrow and Parquet as JSON under the key
    ``tidegauge``; CSV has no place for it.  Raises BadRequest for a form there is not, or that cannot hold a type.
    """
    writers: dict[str, Callable[[pa.Table, Mapping[str, Any]], bytes]] = {
        "json": to_json,
        "objects": to_objects,
        "csv": to_csv,
        "arrow": to_arrow,
        "parquet": to_parquet,
    }
    if form not in writers:
        raise BadRequest(f"cannot answer as {form!r}: want one of {', '.join(writers)}")
    return writers[form](table, metadata)


# --- JSON


def to_objects(table: pa.Table, metadata: Mapping[str, Any]) -> bytes:
    """Return a JSON array with one object a row, its values written as in :func:`to_json`.

    Raises BadRequest for a table with two columns of one name.
    """
    names = distinct_names(table.schema)
    columns = [_values(column.combine_chunks()) for column in table.columns]
    objects = (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))
    return b"[%b]" % _encoded(objects)


def distinct_names(schema: pa.Schema) -> list[str]:
    """Return the names of the columns; raises BadRequest when two are the same."""
    names: list[str] = schema.names
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise BadRequest(f"cannot answer with objects: two columns are called {double!r}; name one with AS")
    return names


def to_json(table: pa.Table, metadata: Mapping[str, Any]) -> bytes:
    """Return a table as one JSON object; keys of ``metadata`` stand behind those of the answer."""
    columns = [_values(column.combine_chunks()) for column in table.columns]
    head = {"columns": [{"name": field.name, "type": sql_type(field.type)} for field in table.schema]}
    rest = {"row_count": table.num_rows}
    rest |= {key: value for key, value in metadata.items() if key not in ("columns", "rows", "row_count")}
    rows = _encoded(zip(*columns, strict=True))
    return b'%b,"rows":[%b],%b' % (_ENCODER.encode(head)[:-1], rows, _ENCODER.encode(rest)[1:])


def _encoded(rows: Iterator[Any]) -> bytes:
    """Return what stands between the brackets of a JSON array.

    A few rows at a time: the encoder keeps the interpreter until it is done, and writes wait to be acknowledged.
    """
    parts = []
    while chunk := list(itertools.islice(rows, ENCODED_ROWS)):
        parts.append(_ENCODER.encode(chunk)[1:-1])
    return b",".join(parts)


def sql_type(type_: pa.DataType) -> str:
    """Return the SQL name of an Arrow type."""
    if pa.types.is_timestamp(type_):
        if type_.tz is not None:
            return "TIMESTAMP WITH TIME ZONE"
        return {"s": "TIMESTAMP_S", "ms": "TIMESTAMP_MS", "us": "TIMESTAMP", "ns": "TIMESTAMP_NS"}[type_.unit]
    if pa.types.is_decimal(type_):
        return f"DECIMAL({type_.precision},{type_.scale})"
    if pa.types.is_dictionary(type_):
        return "VARCHAR"
    if pa.types.is_map(type_):
        return f"MAP({sql_type(type_.key_type)}, {sql_type(type_.item_type)})"
    if pa.types.is_fixed_size_list(type_):
        return f"{sql_type(type_.value_type)}[{type_.list_size}]"
    if _is_list(type_):
        return f"{sql_type(type_.value_type)}[]"
    if pa.types.is_struct(type_):
        return f"STRUCT({', '.join(f'{field.name} {sql_type(field.type)}' for field in type_)})"
    return _SQL_TYPES.get(str(type_), str(type_).upper())


def _is_list(type_: pa.DataType) -> bool:
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_))


#: How many digits times get: as many as the finest of the column needs, or all that their type has.
Digits = Literal["needed", "type"]


def cells_of(array: pa.Array | pa.ChunkedArray, digits: Digits = "needed") -> list[Any]:
    """Return one JSON-ready value for each element."""
    if digits == "type" and isinstance(array, pa.Array) and pa.types.is_timestamp(array.type):
        return _times(array, digits)
    return _values(array)


def _values(array: pa.Array | pa.ChunkedArray) -> list[Any]:
    if isinstance(array, pa.ChunkedArray):
        return [value for chunk in array.chunks for value in _values(chunk)]
    type_ = array.type
    if pa.types.is_floating(type_):
        return _floats(array)
    if pa.types.is_integer(type_):
        return _with_nulls(array, array.fill_null(0).to_numpy(zero_copy_only=False).tolist())
    if pa.types.is_timestamp(type_):
        return _times(array)
    if pa.types.is_dictionary(type_):
        texts = [*_values(array.dictionary), None]
        positions = array.indices.cast(pa.int64()).fill_null(len(texts) - 1).to_numpy(zero_copy_only=False)
        return [texts[position] for position in positions.tolist()]
    if pa.types.is_map(type_):
        return _maps(array)
    if _is_list(type_):
        return _with_nulls(array, _slices(array, _values(array.values)))
    if pa.types.is_struct(type_):
        names = [field.name for field in type_]
        parts = [_values(array.field(index)) for index in range(len(names))]
        rows = zip(*parts, strict=True) if parts else [()] * len(array)
        return _with_nulls(array, [dict(zip(names, row, strict=True)) for row in rows])
    if str(type_) == "month_day_nano_interval":
        return [None if value is None else _duration(*value) for value in array.to_pylist()]
    if pa.types.is_time(type_) or pa.types.is_date(type_):
        return [_moment(value) for value in array.to_pylist()]
    return list(array.to_pylist())


def _with_nulls(array: pa.Array, values: list[Any]) -> list[Any]:
    if array.null_count:
        for index in np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False)).tolist():
            values[index] = None
    return values


def _floats(array: pa.Array) -> list[Any]:
    numbers = array.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False)
    values = numbers.tolist()
    for index in np.flatnonzero(~np.isfinite(numbers)).tolist():
        values[index] = "NaN" if np.isnan(numbers[index]) else "+Inf" if numbers[index] > 0 else "-Inf"
    return _with_nulls(array, values)


def _times(array: pa.Array, digits: Digits = "needed") -> list[Any]:
    unit = array.type.unit
    ticks = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    values = _rfc3339(ticks, unit, digits)
    for index in np.flatnonzero(np.abs(ticks) == _INFINITE).tolist():
        values[index] = "infinity" if ticks[index] > 0 else "-infinity"
    return _with_nulls(array, values)


def _rfc3339(ticks: Int64Array, unit: str, digits: Digits) -> list[str]:
    # A whole column has the same number of digits, so that its texts sort like its times.
    shown = unit
    if digits == "needed":
        shown = next(
            (each for each in ("s", "ms", "us") if not np.any(ticks % max(_UNIT_NS[each] // _UNIT_NS[unit], 1))), "ns"
        )
        shown = min(shown, unit, key=lambda each: -_UNIT_NS[each])
    moments = ticks.view(f"datetime64[{unit}]").astype(f"datetime64[{shown}]")
    texts: list[str] = []
    for start in range(0, len(moments), CONVERTED_CELLS):
        texts += np.datetime_as_string(moments[start : start + CONVERTED_CELLS], timezone="UTC").tolist()
    return texts


def _maps(array: pa.MapArray) -> list[Any]:
    keys = [key if isinstance(key, str) else str(key) for key in _values(array.keys)]
    pairs = list(zip(keys, _values(array.items), strict=True))
    return _with_nulls(array, [dict(each) for each in _slices(array, pairs)])


def _slices(array: pa.Array, values: list[Any]) -> list[Any]:
    if pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
        return [values[index * size : index * size + size] for index in range(array.offset, array.offset + len(array))]
    offsets = array.offsets.to_pylist()
    return [values[start:end] for start, end in itertools.pairwise(offsets)]


def _duration(months: int, days: int, nanoseconds: int) -> str:
    """Return an interval as ISO 8601 writes durations; parts of different sign keep their own."""
    years, months = (abs(part) * (1 if months >= 0 else -1) for part in divmod(abs(months), 12))
    date = "".join(f"{value}{letter}" for value, letter in ((years, "Y"), (months, "M"), (days, "D")) if value)
    seconds = (Decimal(nanoseconds) / 1_000_000_000).normalize()
    return f"P{date}" + (f"T{seconds:f}S" if nanoseconds or not date else "")


def _moment(value: datetime.time | datetime.date | None) -> str | None:
    return None if value is None else value.isoformat()


# --- CSV


def to_csv(table: pa.Table, metadata: Mapping[str, Any]) -> bytes:
    """Return a table as RFC 4180 text with a header; texts are quoted, NULL is an empty field without quotes.

    In a table of one column NULL is ``""``: readers take an empty line for no row at all.
    """
    return csv_table(table, header=True)


def csv_table(table: pa.Table, *, header: bool, digits: Digits = "needed") -> bytes:
    """Return the rows of a table as :func:`to_csv` does, with the header or without it."""
    from pyarrow import csv

    sink = pa.BufferOutputStream()
    columns = [csv_column(column, digits) for column in table.columns]
    if len(columns) == 1 and columns[0].null_count:
        columns = [columns[0].cast(pa.string()).fill_null("")]
    flat = pa.table(columns, names=table.column_names)
    csv.write_csv(flat, sink, csv.WriteOptions(include_header=header, delimiter=",", quoting_style="needed"))
    return bytes(sink.getvalue().to_pybytes())


def csv_column(column: pa.ChunkedArray, digits: Digits = "needed") -> pa.Array | pa.ChunkedArray:
    type_ = column.type
    if pa.types.is_integer(type_) or pa.types.is_boolean(type_) or pa.types.is_string(type_):
        return column
    if pa.types.is_floating(type_):
        finite = pc.all(pc.is_finite(column), min_count=0).as_py()
        if finite is not False:
            return column
    values = cells_of(column.combine_chunks(), digits)
    nested = pa.types.is_nested(type_)
    texts = [_csv_text(value, nested) for value in values]
    return pa.array(texts, pa.string())


def _csv_text(value: Any, nested: bool) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes) or nested:
        text = _ENCODER.encode(value).decode()
        return text.strip('"') if isinstance(value, bytes) else text
    return repr(value) if isinstance(value, float) else str(value)


# --- Arrow and Parquet


def to_arrow(table: pa.Table, metadata: Mapping[str, Any]) -> bytes:
    """Return a table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    table = described(table, metadata)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def to_parquet(table: pa.Table, metadata: Mapping[str, Any]) -> bytes:
    """Return a table as a Parquet file; intervals, which Parquet readers do not share, become ISO 8601 texts."""
    import pyarrow.parquet as pq

    table = plain_table(table)
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(described(table, metadata), sink, compression="zstd")
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise BadRequest(f"cannot answer as Parquet: {error}") from None
    return bytes(sink.getvalue().to_pybytes())


def plain_table(table: pa.Table) -> pa.Table:
    """Return a table as Parquet can hold it: intervals as ISO 8601 texts."""
    for index, field in enumerate(table.schema):
        if str(field.type) == "month_day_nano_interval":
            texts = pa.array(_values(table.column(index).combine_chunks()), pa.string())
            table = table.set_column(index, field.name, texts)
    return table


def described(table: pa.Table, metadata: Mapping[str, Any]) -> pa.Table:
    """Return a table whose schema carries the metadata, as JSON under the key ``tidegauge``."""
    return table.replace_schema_metadata({METADATA_KEY: _ENCODER.encode(dict(metadata))})
