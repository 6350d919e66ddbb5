"""A rollup tier as an Arrow stream that DuckDB reads: unpacked part by part, only the columns and fields asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from engine.query.rewriting import COUNT, MAX, MIN, SUM
from engine.query.scopes import Scope
from engine.rollups.long import HISTOGRAM, INCREASE, INTEGERS, NAMES, long_table
from engine.rollups.packs import Packs
from engine.rollups.rows import TierRows
from engine.rollups.shelf import UNKNOWN_TABLE, Part
from engine.rollups.store import FOREVER_NS
from engine.rollups.stored import stored_rows

#: Columns of a rollup relation beside metric and labels, and their types in SQL.
SQL_TYPES = {
    **{name: "BIGINT" if name in INTEGERS else "DOUBLE" for name in NAMES},
    **dict.fromkeys(("time", "first_time", "last_time"), "TIMESTAMP_NS"),
    INCREASE: "DOUBLE",
    HISTOGRAM: "MAP(INTEGER, BIGINT)",
}
_ARROW_TYPES = {
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "TIMESTAMP_NS": pa.timestamp("ns"),
    "MAP(INTEGER, BIGINT)": pa.map_(pa.int32(), pa.int64()),
}


def _bounds(scope: Scope, kept_from_ns: int) -> tuple[int, int]:
    """Return the range of times that a scope can use of what is kept."""
    start_ns = kept_from_ns if scope.start_ns is None else max(scope.start_ns, kept_from_ns)
    return start_ns, FOREVER_NS if scope.end_ns is None else scope.end_ns


@dataclass(frozen=True, slots=True)
class TierScan:
    """The rows of ``parts`` that a scope can use.  May be read any number of times while its packs are kept.

    ``read`` takes the number of rows of each batch that has been read.
    """

    packs: Packs
    parts: Sequence[Part]
    scope: Scope
    names: tuple[str, ...]
    kept_from_ns: int
    read: list[int] = field(default_factory=list, compare=False)

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([(name, _ARROW_TYPES[SQL_TYPES[name]]) for name in self.names])

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return pa.RecordBatchReader.from_batches(self.schema, self._batches()).__arrow_c_stream__()

    def _batches(self) -> Iterator[pa.RecordBatch]:
        scope = self.scope
        start_ns, end_ns = _bounds(scope, self.kept_from_ns)
        for part in self.parts:
            for _, rows in stored_rows(self.packs, [part], start_ns, end_ns, scope.tagset_ids, self._fields(part)):
                table = long_table([rows], self.names)
                self.read.append(table.num_rows)
                yield from table.cast(self.schema).to_batches()

    def _fields(self, part: Part) -> list[int] | None:
        if self.scope.fields is None:
            return None
        if part.table_id == UNKNOWN_TABLE:
            return sorted({field_id for field_ids in self.scope.fields.values() for field_id in field_ids})
        return sorted(self.scope.fields.get(part.table_id, ()))


_WIDE = {COUNT: "counts", SUM: "sums", MIN: "mins", MAX: "maxs"}


@dataclass(frozen=True, slots=True)
class WideTierScan:
    """One table's buckets as a statement rewritten to a tier reads them: one row for each (tag set, bucket).

    Columns: tagset_id, time, and for each field count, sum, min and max, NULL where the bucket has no sample of it.
    ``parts``: of that table only.  ``read`` takes the number of rows of each batch that has been read.
    """

    packs: Packs
    parts: Sequence[Part]
    scope: Scope
    field_ids: tuple[int, ...]
    kept_from_ns: int
    read: list[int] = field(default_factory=list, compare=False)

    @property
    def schema(self) -> pa.Schema:
        columns: list[tuple[str, pa.DataType]] = [("tagset_id", pa.int32()), ("time", pa.timestamp("ns"))]
        for field_id in self.field_ids:
            columns += [(f"{prefix}{field_id}", pa.int64() if prefix == COUNT else pa.float64()) for prefix in _WIDE]
        return pa.schema(columns)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return pa.RecordBatchReader.from_batches(self.schema, self._batches()).__arrow_c_stream__()

    def _batches(self) -> Iterator[pa.RecordBatch]:
        scope = self.scope
        start_ns, end_ns = _bounds(scope, self.kept_from_ns)
        for part in self.parts:
            known = list(stored_rows(self.packs, [part], start_ns, end_ns, scope.tagset_ids, self.field_ids))
            # A part without any of the fields has rows all the same, which make groups.
            found = known or list(stored_rows(self.packs, [part], start_ns, end_ns, scope.tagset_ids))
            for _, rows in found:
                self.read.append(len(rows))
                yield self._batch(rows)

    def _batch(self, rows: TierRows) -> pa.RecordBatch:
        columns = [pa.array(rows.tagset_ids), pa.array(rows.times).cast(pa.timestamp("ns"))]
        for field_id in self.field_ids:
            if field_id not in rows.field_ids:
                columns += [pa.nulls(len(rows), pa.int64() if prefix == COUNT else pa.float64()) for prefix in _WIDE]
                continue
            place = rows.field_ids.index(field_id)
            absent = rows.line("counts", place) == 0
            mask = absent if absent.any() else None
            columns += [pa.array(np.ascontiguousarray(rows.line(line, place)), mask=mask) for line in _WIDE.values()]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)
