"""Answers that are too large to be held, in the form a client asks for, a batch of rows at a time.

The forms are those of :mod:`engine.query.results` but for what needs the whole answer first: times have all digits of
their type, and what the answer says about itself comes at the end: behind the rows in JSON, in the footer of Parquet,
in the metadata of a last Arrow batch without rows (under ``tidegauge``); CSV has no place for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import msgspec
import pyarrow as pa
import pyarrow.ipc

from engine.errors import BadRequest, TidegaugeError
from engine.query.results import METADATA_KEY, cells_of, csv_table, distinct_names, plain_table, sql_type

_ENCODER = msgspec.json.Encoder(decimal_format="number")
#: Rows are turned into text so many cells at a time.
TEXT_CELLS = 1 << 16
#: A row group of Parquet gets about so many bytes of Arrow, which is what is held of it.
GROUP_BYTES = 8 << 20


class Form(Protocol):
    """Writes one answer."""

    def begin(self) -> bytes: ...

    def batch(self, batch: pa.RecordBatch) -> Iterator[bytes]: ...

    def end(self, metadata: Mapping[str, Any]) -> bytes: ...

    def fail(self, error: TidegaugeError) -> bytes:
        """Return what tells the reader why the answer ends here; it stays incomplete."""


class _Buffer:
    """A file to write to whose content is taken now and then."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._written = 0

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._written += len(data)
        return len(data)

    def tell(self) -> int:
        return self._written

    def flush(self) -> None:
        """Everything is there already."""

    def close(self) -> None:
        """Nothing is to be closed."""

    def take(self) -> bytes:
        taken, self._parts = b"".join(self._parts), []
        return taken


def _slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    rows = max(1, TEXT_CELLS // max(1, batch.num_columns))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


class JsonForm:
    """The object of ``to_json``, written as it grows."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema, self._rows = schema, 0

    def begin(self) -> bytes:
        columns = [{"name": field.name, "type": sql_type(field.type)} for field in self._schema]
        return b'{"columns":' + _ENCODER.encode(columns) + b',"rows":['

    def batch(self, batch: pa.RecordBatch) -> Iterator[bytes]:
        for part in _slices(batch):
            columns = [cells_of(column, digits="type") for column in part.columns]
            text = _ENCODER.encode(list(zip(*columns, strict=True)))[1:-1]
            yield b"," + text if self._rows else text
            self._rows += part.num_rows

    def end(self, metadata: Mapping[str, Any]) -> bytes:
        about = {"row_count": self._rows} | {
            name: value for name, value in metadata.items() if name not in ("columns", "rows")
        }
        return b"]," + _ENCODER.encode(about)[1:]

    def fail(self, error: TidegaugeError) -> bytes:
        return b"]," + _ENCODER.encode({"error": error.code, "message": error.message})[1:-1]


class ObjectsForm:
    """The array of ``to_objects``, which has no place for what the answer says about itself."""

    def __init__(self, schema: pa.Schema) -> None:
        self._names = distinct_names(schema)
        self._begun = False

    def begin(self) -> bytes:
        return b"["

    def batch(self, batch: pa.RecordBatch) -> Iterator[bytes]:
        for part in _slices(batch):
            columns = [cells_of(column, digits="type") for column in part.columns]
            rows = [dict(zip(self._names, row, strict=True)) for row in zip(*columns, strict=True)]
            text = _ENCODER.encode(rows)[1:-1]
            yield b"," + text if self._begun else text
            self._begun = True

    def end(self, metadata: Mapping[str, Any]) -> bytes:
        return b"]"

    def fail(self, error: TidegaugeError) -> bytes:
        return b""


class CsvForm:
    """The text of ``to_csv``."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema

    def begin(self) -> bytes:
        return self._text(self._schema.empty_table(), header=True)

    def batch(self, batch: pa.RecordBatch) -> Iterator[bytes]:
        for part in _slices(batch):
            yield self._text(pa.Table.from_batches([part]), header=False)

    def end(self, metadata: Mapping[str, Any]) -> bytes:
        return b""

    def fail(self, error: TidegaugeError) -> bytes:
        return b""

    def _text(self, table: pa.Table, *, header: bool) -> bytes:
        return csv_table(table, header=header, digits="type")


class ArrowForm:
    """An Arrow IPC stream."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._buffer = _Buffer()
        self._writer = pa.ipc.new_stream(pa.PythonFile(self._buffer, mode="w"), schema)

    def begin(self) -> bytes:
        return self._buffer.take()

    def batch(self, batch: pa.RecordBatch) -> Iterator[bytes]:
        self._writer.write_batch(batch)
        yield self._buffer.take()

    def end(self, metadata: Mapping[str, Any]) -> bytes:
        self._note({METADATA_KEY: _ENCODER.encode(dict(metadata))})
        self._writer.close()
        return self._buffer.take()

    def fail(self, error: TidegaugeError) -> bytes:
        self._note({b"tidegauge.error": _ENCODER.encode({"error": error.code, "message": error.message})})
        return self._buffer.take()

    def _note(self, metadata: dict[bytes, bytes]) -> None:
        empty = pa.RecordBatch.from_arrays([pa.array([], field.type) for field in self._schema], schema=self._schema)
        self._writer.write_batch(empty, custom_metadata=metadata)


class ParquetForm:
    """A Parquet file, a row group at a time."""

    def __init__(self, schema: pa.Schema) -> None:
        import pyarrow.parquet as pq

        self._buffer = _Buffer()
        self._held: list[pa.RecordBatch] = []
        self._schema = plain_table(schema.empty_table()).schema
        try:
            self._writer = pq.ParquetWriter(
                pa.PythonFile(self._buffer, mode="w"), self._schema, compression="zstd", store_schema=True
            )
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
            raise BadRequest(f"cannot answer as Parquet: {error}") from None

    def begin(self) -> bytes:
        return self._buffer.take()

    def batch(self, batch: pa.RecordBatch) -> Iterator[bytes]:
        self._held.append(batch)
        if sum(each.nbytes for each in self._held) >= GROUP_BYTES:
            yield self._group()

    def end(self, metadata: Mapping[str, Any]) -> bytes:
        rest = self._group() if self._held else b""
        self._writer.add_key_value_metadata({METADATA_KEY: _ENCODER.encode(dict(metadata))})
        self._writer.close()
        return rest + self._buffer.take()

    def fail(self, error: TidegaugeError) -> bytes:
        return b""

    def _group(self) -> bytes:
        table = plain_table(pa.Table.from_batches(self._held))
        self._held = []
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        return self._buffer.take()


FORMS: dict[str, type[JsonForm | ObjectsForm | CsvForm | ArrowForm | ParquetForm]] = {
    "json": JsonForm,
    "objects": ObjectsForm,
    "csv": CsvForm,
    "arrow": ArrowForm,
    "parquet": ParquetForm,
}
