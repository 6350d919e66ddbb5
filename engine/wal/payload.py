"""What a batch's frame says: new definitions, then rows by table (docs/formats/wal.md, "Batch payload")."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from engine.disk.filesystem import Bytes
from engine.errors import BadRequest
from engine.model.rows import MAX_FIELDS, Rows
from native.columns import pack_rows, unpack_rows
from native.frames import MAX_PAYLOAD_BYTES

# A constant column takes two bytes whatever its length: lengths alone do not bound what decoding allocates.
MAX_BATCH_CELLS = 1 << 27

_COUNT = struct.Struct("<I")
_TABLE = struct.Struct("<III")


def encode_batch(definitions: Bytes, packed: Sequence[Bytes]) -> list[Bytes]:
    """Return the payload in parts, for ``native.frames.encode_frame``.

    ``definitions``: what the catalogue learned since the frame before, as ``Catalogue.definitions`` gives it;
    ``packed``: what :func:`pack_tables` gave.  Raises BadRequest for a batch too large for one frame.
    """
    return _checked_size([_COUNT.pack(len(definitions)), definitions, *packed])


def pack_tables(tables: Sequence[tuple[int, Rows]]) -> list[Bytes]:
    """Return what a payload says of its tables, in parts; needs neither sequence nor definitions.

    ``tables``: (table number, rows), in the order in which they are to be applied.  Raises BadRequest for a batch too
    large for one frame, which has to be sent in pieces.
    """
    cells = sum(_cells(len(rows), len(rows.field_ids)) for _, rows in tables)
    if cells > MAX_BATCH_CELLS:
        raise BadRequest(f"cannot log batch: got {cells} cells, want at most {MAX_BATCH_CELLS}; send smaller batches")
    parts: list[Bytes] = [_COUNT.pack(len(tables))]
    for table_id, rows in tables:
        parts.append(_TABLE.pack(table_id, len(rows), len(rows.field_ids)))
        parts.append(np.array(rows.field_ids, dtype="<u2").tobytes())
        values = rows.values
        if values.shape[1] > 1 and values.strides[1] != values.itemsize:
            values = np.ascontiguousarray(values)  # rows picked by a mask lie the other way round
        parts.append(pack_rows(np.ascontiguousarray(rows.tagset_ids), np.ascontiguousarray(rows.times), values))
    return _checked_size(parts)


def _checked_size(parts: list[Bytes]) -> list[Bytes]:
    size_bytes = sum(map(len, parts))
    if size_bytes > MAX_PAYLOAD_BYTES:
        raise BadRequest(
            f"cannot log batch: got {size_bytes} bytes, want at most {MAX_PAYLOAD_BYTES}; send smaller batches"
        )
    return parts


def definitions_of(payload: Bytes) -> memoryview:
    """Return the definitions of a payload without looking at its rows; raises ValueError as ``decode_batch`` does."""
    data = memoryview(payload).cast("B").toreadonly()
    (definition_bytes,) = _take(data, 0, _COUNT)
    if definition_bytes > len(data) - _COUNT.size:
        raise ValueError(
            f"cannot decode batch: got {len(data) - _COUNT.size} bytes, want {definition_bytes} of definitions"
            f" (offset {_COUNT.size})"
        )
    return data[_COUNT.size : _COUNT.size + definition_bytes]


def decode_batch(payload: Bytes) -> tuple[memoryview, list[tuple[int, Rows]]]:
    """Return (definitions, [(table number, rows), ...]) of a payload; the rows own their memory.

    Raises ValueError, naming the offset within the payload, for anything ``encode_batch`` would not have
    made.
    """
    data = memoryview(payload).cast("B").toreadonly()
    definitions = definitions_of(data)
    offset = _COUNT.size + len(definitions)
    (table_count,) = _take(data, offset, _COUNT)
    offset += _COUNT.size
    tables: list[tuple[int, Rows]] = []
    cells = 0
    for _ in range(table_count):
        table_id, row_count, field_count = _take(data, offset, _TABLE)
        cells += _cells(row_count, field_count)
        if field_count > MAX_FIELDS or cells > MAX_BATCH_CELLS:
            raise ValueError(
                f"cannot decode batch: got {row_count} rows of {field_count} fields, want at most"
                f" {MAX_BATCH_CELLS} cells in all and {MAX_FIELDS} fields (offset {offset})"
            )
        offset += _TABLE.size
        rows, offset = _decode_rows(data, offset, row_count, field_count)
        tables.append((table_id, rows))
    if offset != len(data):
        raise ValueError(f"cannot decode batch: got {len(data) - offset} bytes more, want none (offset {offset})")
    return definitions, tables


def _decode_rows(data: memoryview, offset: int, row_count: int, field_count: int) -> tuple[Rows, int]:
    end = offset + 2 * field_count
    if end > len(data):
        raise ValueError(
            f"cannot decode batch: got {len(data) - offset} bytes, want {2 * field_count} of field numbers"
            f" (offset {offset})"
        )
    field_ids = np.frombuffer(data[offset:end], dtype="<u2")
    if np.any(field_ids[1:] <= field_ids[:-1]):
        raise ValueError(f"cannot decode batch: got field numbers out of order, want ascending (offset {offset})")
    rows = Rows(
        np.empty(row_count, np.int32),
        np.empty(row_count, np.int64),
        tuple(field_ids.tolist()),
        np.empty((field_count, row_count), np.float64),
    )
    return rows, unpack_rows(data, end, rows.tagset_ids, rows.times, rows.values)


def _take(data: memoryview, offset: int, layout: struct.Struct) -> tuple[int, ...]:
    if len(data) - offset < layout.size:
        raise ValueError(f"cannot decode batch: got {len(data) - offset} bytes, want {layout.size} (offset {offset})")
    return layout.unpack_from(data, offset)


def _cells(row_count: int, field_count: int) -> int:
    """Return what a table counts for: its cells, tag sets and times, and a little for being there at all."""
    return row_count * (field_count + 2) + field_count + 16
