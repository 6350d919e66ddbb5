"""The end of a segment file, parsed and checked: what is in it, and which row groups a question needs.

A footer is believed only when its checksum is the manifest's, and its own account (table, range, columns)
matches both the manifest entry and the Parquet schema.  Whatever does not fit is Damage with the path, never
a wrong number.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.disk.filesystem import FileSystem, storage_error
from engine.errors import Damage, NewerFormat, TidegaugeError
from engine.model.rows import Int32Array, Int64Array
from engine.segments.layout import (
    DOUBLE,
    FORMAT_VERSION,
    INTEGER,
    METADATA_KEY,
    TAGSET_COLUMN,
    TIME_COLUMN,
    FieldColumn,
    FooterHeader,
    SegmentMeta,
    footer_of,
)
from native.checksum import crc32c


@dataclass(frozen=True, slots=True)
class Footer:
    """A checked footer: the header and, for each row group, its rows and the range of its keys (arrays of one
    length).
    """

    metadata: pq.FileMetaData
    header: FooterHeader
    extents: tuple[tuple[int, int], ...]
    first_tagsets: Int32Array
    last_tagsets: Int32Array
    first_times: Int64Array
    last_times: Int64Array
    verified: set[int] = field(default_factory=set)

    def verify_group(self, path: str, body: memoryview, meta: SegmentMeta, group: int) -> None:
        """Check the bytes of a row group of the mapped file, once in the life of this object.  Raises
        Damage.
        """
        if group in self.verified:
            return
        begin, end = self.extents[group]
        found = crc32c(body[begin:end])
        if found != meta.group_crc32c[group]:
            raise Damage(
                f"cannot read segment: row group {group} has checksum {found:08x}, want {meta.group_crc32c[group]:08x}",
                path=path,
                offset=begin,
            )
        self.verified.add(group)

    def groups_for(self, start_ns: int | None, end_ns: int | None, tagset_ids: Int32Array | None) -> list[int]:
        """Return the row groups that may hold rows of ``[start_ns, end_ns)`` and of the ascending tag
        sets.
        """
        keep = np.ones(len(self.first_times), np.bool_)
        if start_ns is not None:
            keep &= self.last_times >= start_ns
        if end_ns is not None:
            keep &= self.first_times < end_ns
        if tagset_ids is not None:
            low = np.searchsorted(tagset_ids, self.first_tagsets, side="left")
            keep &= low < np.searchsorted(tagset_ids, self.last_tagsets, side="right")
        return [int(group) for group in np.flatnonzero(keep)]

    def certain_rows(self, start_ns: int, end_ns: int, tagset_ids: Int32Array) -> int:
        """Return how many rows are in row groups of nothing but one of the ascending tag sets, inside the range."""
        inside = (self.first_tagsets == self.last_tagsets) & (self.first_times >= start_ns) & (self.last_times < end_ns)
        groups = np.flatnonzero(inside & np.isin(self.first_tagsets, tagset_ids))
        return sum(self.metadata.row_group(int(group)).num_rows for group in groups)


class FooterCache:
    """The footers of the segments used last; thread-safe.  Files never change, so an entry never goes
    stale.
    """

    def __init__(self, entries: int = 256) -> None:
        self._entries = entries
        self._lock = threading.Lock()
        self._footers: OrderedDict[tuple[str, int], Footer] = OrderedDict()

    def known(self, path: str, meta: SegmentMeta) -> Footer | None:
        """Return a file's footer if it has been parsed lately."""
        key = (path, meta.footer_crc32c)
        with self._lock:
            known = self._footers.get(key)
            if known is not None:
                self._footers.move_to_end(key)
            return known

    def footer(self, path: str, body: memoryview, meta: SegmentMeta) -> Footer:
        """Return the footer of the mapped file ``body``, parsed only when it is not known.  Raises Damage."""
        key = (path, meta.footer_crc32c)
        known = self.known(path, meta)
        if known is not None:
            return known
        footer = parse_footer(path, body, meta)
        with self._lock:
            self._footers[key] = footer
            while len(self._footers) > self._entries:
                self._footers.popitem(last=False)
        return footer


def map_segment(fs: FileSystem, path: str) -> memoryview:
    """Map a segment file; raises Damage when it is missing, Unavailable when the system refuses."""
    try:
        return fs.map(path)
    except FileNotFoundError:
        raise Damage("cannot open segment: the file is missing", path=path) from None
    except OSError as error:
        raise storage_error("open segment", error, path) from error


@contextmanager
def damage_at(path: str) -> Iterator[None]:
    """Turn what a Parquet reader says about bytes that make no sense into Damage."""
    try:
        yield
    except TidegaugeError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError, msgspec.MsgspecError) as error:
        raise Damage(f"cannot read segment: {error}", path=path) from error


class _AnyHeader(msgspec.Struct):
    """The part of a header that every version has."""

    format: int


def parse_footer(path: str, body: memoryview, meta: SegmentMeta) -> Footer:
    """Return the footer of the mapped file ``body``, checked against its manifest entry.  Raises Damage."""
    with damage_at(path):
        tail = footer_of(body)
        if len(tail) != meta.footer_bytes or crc32c(tail) != meta.footer_crc32c:
            raise Damage(
                f"cannot read segment: the footer's {len(tail)} bytes have checksum {crc32c(tail):08x},"
                f" want {meta.footer_bytes} bytes with {meta.footer_crc32c:08x}",
                path=path,
                offset=len(body) - len(tail),
            )
        metadata = pq.read_metadata(pa.BufferReader(pa.py_buffer(body)))
        text = (metadata.metadata or {})[METADATA_KEY.encode()]
        version = msgspec.json.decode(text, type=_AnyHeader).format
        if version > FORMAT_VERSION:
            raise NewerFormat(
                f"cannot read segment: got format {version}, want at most {FORMAT_VERSION};"
                " it was written by a newer version",
                path=path,
            )
        header = msgspec.json.decode(text, type=FooterHeader)
        _check_header(path, header, metadata, meta)
        bounds = [_group_bounds(metadata.row_group(group)) for group in range(metadata.num_row_groups)]
        columns = np.array(bounds, np.int64).reshape(-1, 4).T
        extents = group_extents(metadata)
        return Footer(
            metadata, header, extents, columns[0].astype(np.int32), columns[1].astype(np.int32), columns[2], columns[3]
        )


def group_extents(metadata: pq.FileMetaData) -> tuple[tuple[int, int], ...]:
    """Return the bytes [begin, end) of each row group: its column chunks, which lie one after another."""
    extents = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = [group.column(column) for column in range(group.num_columns)]
        begin = min(
            chunk.data_page_offset
            if chunk.dictionary_page_offset is None
            else min(chunk.dictionary_page_offset, chunk.data_page_offset)
            for chunk in chunks
        )
        extents.append((begin, begin + sum(chunk.total_compressed_size for chunk in chunks)))
    return tuple(extents)


def _group_bounds(group: pq.RowGroupMetaData) -> tuple[int, int, int, int]:
    tagsets, times = group.column(0).statistics, group.column(1).statistics
    if tagsets is None or times is None or not (tagsets.has_min_max and times.has_min_max):
        raise ValueError("a row group lacks the statistics of its keys")
    return tagsets.min_raw, tagsets.max_raw, times.min_raw, times.max_raw


def _check_header(path: str, header: FooterHeader, metadata: pq.FileMetaData, meta: SegmentMeta) -> None:
    """Compare the file's own account with the manifest's and with the columns that are really there."""
    claims = {
        "table number": (header.table_id, meta.table_id),
        "table": (header.table, meta.table),
        "start": (header.start_ns, meta.start_ns),
        "end": (header.end_ns, meta.end_ns),
        "sequence": (header.sequence, meta.sequence),
        "rows": (header.rows, meta.rows),
        "rows in row groups": (metadata.num_rows, meta.rows),
        "row groups": (metadata.num_row_groups, len(meta.group_crc32c)),
        "columns": (header.fields, meta.columns),
    }
    for name, (got, want) in claims.items():
        if got != want:
            raise Damage(f"cannot read segment: got {name} {got!r}, want {want!r} as in the manifest", path=path)
    schema = metadata.schema.to_arrow_schema()
    wanted = [
        TAGSET_COLUMN,
        TIME_COLUMN,
        *(each.column for each in header.tags),
        *(each.column for each in header.fields),
    ]
    if schema.names != wanted:
        raise Damage(f"cannot read segment: got columns {schema.names}, want {wanted}", path=path)
    kinds = [(TAGSET_COLUMN, "int32"), (TIME_COLUMN, "timestamp[ns]")]
    kinds += [(each.column, "string") for each in header.tags]
    for column, kind in kinds:
        if str(schema.field(column).type) != kind:
            raise Damage(f"cannot read segment: column {column} is {schema.field(column).type}, want {kind}", path=path)
    for claimed in header.fields:
        found = schema.field(claimed.column).type
        if not _holds(found, claimed):
            raise Damage(f"cannot read segment: column {claimed.column} is {found}, want {claimed.kind}", path=path)


def _holds(found: pa.DataType, field: FieldColumn) -> bool:
    if field.kind == DOUBLE:
        return bool(pa.types.is_float64(found))
    if field.kind == INTEGER:
        return bool(pa.types.is_int32(found) or pa.types.is_int64(found))
    return bool(pa.types.is_decimal128(found) and found.scale == field.decimals and found.precision in (9, 18))
