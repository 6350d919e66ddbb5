"""Decoded columns of segments that were searched or written lately: questions about their series decode nothing.

A search for few series needs a few rows of a row group but has to decode it whole.  What it decodes is kept here, the
keys and each field apart, within a bound on memory; reads of whole segments pass by, or they would push out the rest.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.disk.filesystem import FileSystem
from engine.model.rows import Float64Array, Int32Array, Int64Array, Rows
from engine.model.selection import find_rows
from engine.segments.footer import Footer, FooterCache, damage_at, map_segment
from engine.segments.layout import FieldColumn, SegmentMeta
from engine.segments.reader import decode_field, decode_keys, segment_path

DEFAULT_CACHE_BYTES = 256 << 20

#: File, its footer's checksum, row group, and the field; -1 for the keys.
ColumnKey = tuple[str, int, int, int]
KEYS = -1
_Column = tuple[Int32Array, Int64Array] | Float64Array
#: The tag sets and times of a row group's rows, ascending, and a column for each field, None where it has none.
KeptGroup = tuple[Int32Array, Int64Array, list[Float64Array | None]]


class ColumnCache:
    """Decoded columns by segment, row group and field, those used last; thread-safe."""

    def __init__(self, max_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._columns: OrderedDict[ColumnKey, _Column] = OrderedDict()
        self.nbytes = 0

    def column(self, key: ColumnKey, decode: Callable[[], _Column]) -> _Column:
        """Return a column, decoded unless it is known.  The arrays are shared: read only."""
        with self._lock:
            known = self._columns.get(key)
            if known is not None:
                self._columns.move_to_end(key)
                return known
        found = decode()
        self.put(key, found)
        return found

    def put(self, key: ColumnKey, column: _Column) -> None:
        """Keep a column unless it is kept already or takes more than a quarter of the room there is."""
        size = _size_of(column)
        if size > self.max_bytes // 4:
            return
        with self._lock:
            if key not in self._columns:
                self._columns[key] = column
                self.nbytes += size
            while self.nbytes > self.max_bytes:
                _, dropped = self._columns.popitem(last=False)
                self.nbytes -= _size_of(dropped)

    def known(self, key: ColumnKey) -> _Column | None:
        """Return a column if it is kept."""
        with self._lock:
            known = self._columns.get(key)
            if known is not None:
                self._columns.move_to_end(key)
            return known


def _size_of(column: _Column) -> int:
    return column.nbytes if isinstance(column, np.ndarray) else sum(each.nbytes for each in column)


@dataclass(slots=True)
class OpenSegment:
    """A segment that is mapped and parsed only when something has to be decoded."""

    fs: FileSystem
    path: str
    meta: SegmentMeta
    footer: Footer
    file: pq.ParquetFile | None = None
    body: memoryview | None = None

    def table(self, group: int, names: Sequence[str]) -> pa.Table:
        if self.file is None or self.body is None:
            self.body = map_segment(self.fs, self.path)
            source = pa.BufferReader(pa.py_buffer(self.body))
            self.file = pq.ParquetFile(source, metadata=self.footer.metadata, pre_buffer=False)
        self.footer.verify_group(self.path, self.body, self.meta, group)
        return self.file.read_row_group(group, columns=list(names), use_threads=False)


def search_segment(
    fs: FileSystem,
    root: str,
    meta: SegmentMeta,
    *,
    start_ns: int,
    end_ns: int,
    tagset_ids: Int32Array,
    field_ids: Sequence[int] | None,
    footers: FooterCache,
    columns: ColumnCache,
) -> Rows:
    """Return what :func:`engine.segments.reader.read_segment` does, by way of the columns kept.

    ``tagset_ids``: ascending.  Raises Damage.
    """
    path = segment_path(root, meta)
    footer = footers.known(path, meta) or footers.footer(path, map_segment(fs, path), meta)
    opened = OpenSegment(fs, path, meta, footer)
    stored: dict[int, list[FieldColumn]] = {}
    for column in sorted(footer.header.fields, key=lambda each: each.field_id):
        if field_ids is None or column.field_id in field_ids:
            stored.setdefault(column.field_id, []).append(column)
    kept = tuple(stored)
    tagset_parts: list[Int32Array] = []
    time_parts: list[Int64Array] = []
    value_parts: list[Float64Array] = []
    with damage_at(path):
        for group in footer.groups_for(start_ns, end_ns, tagset_ids):
            keys = columns.column((path, meta.footer_crc32c, group, KEYS), partial(decode_keys, opened.table, group))
            assert isinstance(keys, tuple)
            tagsets, times = keys
            found = find_rows(tagsets, times, start_ns=start_ns, end_ns=end_ns, wanted=tagset_ids, in_order=True)
            if isinstance(found, slice) and found.start == found.stop:
                continue
            tagset_parts.append(tagsets[found])
            time_parts.append(times[found])
            values = np.empty((len(kept), len(time_parts[-1])), np.float64)
            for index, (field_id, of_field) in enumerate(stored.items()):
                key = (path, meta.footer_crc32c, group, field_id)
                decoded = columns.column(key, partial(decode_field, opened.table, group, of_field))
                assert isinstance(decoded, np.ndarray)
                values[index] = decoded[found]
            value_parts.append(values)
    if not time_parts:
        return Rows.empty(kept)
    if len(time_parts) == 1:
        return Rows(tagset_parts[0], time_parts[0], kept, value_parts[0])
    return Rows(np.concatenate(tagset_parts), np.concatenate(time_parts), kept, np.concatenate(value_parts, axis=1))


def kept_groups(
    path: str,
    meta: SegmentMeta,
    *,
    start_ns: int,
    end_ns: int,
    tagset_ids: Int32Array,
    field_ids: Sequence[int],
    footers: FooterCache,
    columns: ColumnCache,
) -> list[KeptGroup] | None:
    """Return the row groups in which rows of ``[start_ns, end_ns)`` and of the ascending tag sets may be.

    None unless everything of them is kept: nothing is opened or decoded.  The arrays are shared: read only.
    """
    footer = footers.known(path, meta)
    if footer is None:
        return None
    stored = {column.field_id for column in footer.header.fields}
    found: list[KeptGroup] = []
    for group in footer.groups_for(start_ns, end_ns, tagset_ids):
        keys = columns.known((path, meta.footer_crc32c, group, KEYS))
        if keys is None:
            return None
        assert isinstance(keys, tuple)
        values: list[Float64Array | None] = []
        for field_id in field_ids:
            if field_id not in stored:
                values.append(None)
                continue
            column = columns.known((path, meta.footer_crc32c, group, field_id))
            if column is None:
                return None
            assert isinstance(column, np.ndarray)
            values.append(column)
        found.append((*keys, values))
    return found
