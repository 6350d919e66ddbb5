"""Rows for statements that need few: looked up in memory and in kept columns of segments, and sent along.

What the query process need not look for it is not given: no hot block is written or mapped for it, and it opens no
segment.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from engine.catalog.catalog import Catalog
from engine.model.rows import FOREVER_NS, NEVER_NS, Rows
from engine.model.selection import FEW_TAGSETS
from engine.query.newest import NewestReader
from engine.query.samples import SampleStore
from engine.query.sources import NeededTable, TableSource
from native.columns import is_absent

#: Beyond so many rows, or cells of them, the files are left to the query process.
MAX_FOUND_ROWS = 100_000
MAX_FOUND_CELLS = 4_000_000


def arrow_of_rows(rows: Rows) -> pa.Table:
    """Return rows with the columns the query process reads: tagset_id, time, and ``f<field id>`` with nulls."""
    columns = {
        "tagset_id": pa.array(rows.tagset_ids),
        "time": pa.array(rows.times).cast(pa.timestamp("ns")),
    }
    for index, field_id in enumerate(rows.field_ids):
        column = np.ascontiguousarray(rows.values[index])
        absent = is_absent(column)
        columns[f"f{field_id}"] = pa.array(column, mask=absent if absent.any() else None)
    return pa.table(columns)


def stream_of(table: pa.Table) -> bytes:
    """Return a table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


class FoundRows:
    """Looks up rows of one engine; callable from any thread."""

    def __init__(self, catalog: Catalog, samples: SampleStore, newest: NewestReader) -> None:
        self._catalog, self._samples, self._newest = catalog, samples, newest

    def source(self, table: NeededTable) -> TableSource | None:
        """Return the rows that a statement needs of a table, None where they are too many to be looked up.

        Inside :meth:`SampleStore.reading`.
        """
        if table.newest:
            found = self._newest_source(table)
            if found is not None:
                return found
        if table.tagset_ids is None or len(table.tagset_ids) > FEW_TAGSETS:
            return None
        start_ns = NEVER_NS if table.start_ns is None else table.start_ns
        end_ns = FOREVER_NS if table.end_ns is None else table.end_ns
        tagset_ids = np.array(table.tagset_ids, np.int32)
        fields = len(self._catalog.fields(table.table_id)) if table.field_ids is None else len(table.field_ids)
        limit = min(MAX_FOUND_ROWS, MAX_FOUND_CELLS // max(1, fields))
        expected = self._samples.expected_rows(table.table_id, start_ns, end_ns)
        share = len(tagset_ids) / max(1, len(self._catalog.tagset_ids(table.table_id)))
        if (
            expected * share > limit
            or self._samples.at_least(table.table_id, start_ns, end_ns, tagset_ids, limit) > limit
        ):
            return None
        rows = self._samples.collect(table.table_id, start_ns, end_ns, tagset_ids, table.field_ids)
        snapshot = self._samples.snapshot(table.table_id, start_ns, end_ns)
        files = len(snapshot.settled) + len(snapshot.disturbed) + len(snapshot.fresh) + len(snapshot.late)
        return _source_of(table, rows, files, exact=table.once)

    def _newest_source(self, table: NeededTable) -> TableSource | None:
        # Which samples a row has decides what its time is: all fields are looked at, named or not.
        field_ids = tuple(field.field_id for field in self._catalog.fields(table.table_id))
        if table.tagset_ids is None:
            tagset_ids = self._catalog.tagset_ids(table.table_id)
        else:
            tagset_ids = np.array(table.tagset_ids, np.int32)
        if len(tagset_ids) * len(field_ids) > MAX_FOUND_CELLS:
            return None
        newest = self._newest.newest(table.table_id, tagset_ids, field_ids)
        if (
            table.skips_nan
            and (np.isnan(newest.values) & ~is_absent(newest.values.ravel()).reshape(newest.values.shape)).any()
        ):
            return None
        return _source_of(table, newest.rows(), int(len(tagset_ids) > 0), exact=False)


def _source_of(table: NeededTable, rows: Rows, files: int, *, exact: bool) -> TableSource:
    return TableSource(
        table_id=table.table_id,
        name=table.name,
        rows=stream_of(arrow_of_rows(rows)) if len(rows) else b"",
        rows_files=files if len(rows) else 0,
        exact=exact,
    )
