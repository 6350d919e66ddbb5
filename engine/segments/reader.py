"""Segments read back: rows with their exact bits, pruned by time and tag set (docs/formats/segment.md).

Only row groups whose statistics meet the question are decoded, keys before fields.  What is on disk is
checked on the way: the footer and each row group that is read, against their checksums in the manifest.
Whatever does not fit is Damage with the path, never a wrong number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from engine.disk.filesystem import FileSystem
from engine.errors import Damage
from engine.model.rows import Float64Array, Int32Array, Int64Array, Rows
from engine.segments.footer import FooterCache, damage_at, map_segment, parse_footer
from engine.segments.layout import (
    DOUBLE,
    INTEGER,
    TAGSET_COLUMN,
    TIME_COLUMN,
    FieldColumn,
    FooterHeader,
    SegmentMeta,
)
from native.checksum import crc32c
from native.columns import ABSENT_BITS, is_absent

Item = TypeVar("Item", bound=np.generic)
Selection = slice | npt.NDArray[np.int64]


def segment_path(root: str, meta: SegmentMeta) -> str:
    """Return the path of a segment's file, for readers of other processes; :func:`column_names` is its mapping.

    They must turn decimals into doubles by dividing by 10^k, as DuckDB and polars do.  pyarrow's cast multiplies by
    10^-k and misses by one unit in the last place.
    """
    return f"{root}/{meta.file}"


def column_names(meta: SegmentMeta) -> dict[int, tuple[str, ...]]:
    """Return the Parquet columns of each field number that the segment has; a routed field has several."""
    names: dict[int, tuple[str, ...]] = {}
    for column in meta.columns:
        names[column.field_id] = (*names.get(column.field_id, ()), column.column)
    return names


def arrow_schema(fs: FileSystem, root: str, meta: SegmentMeta) -> pa.Schema:
    """Return the file's Arrow schema: keys, tags, fields (decimals as decimal128).  Raises Damage."""
    path = segment_path(root, meta)
    with damage_at(path):
        return parse_footer(path, map_segment(fs, path), meta).metadata.schema.to_arrow_schema()


def read_header(fs: FileSystem, root: str, meta: SegmentMeta) -> FooterHeader:
    """Return what the file says about itself.  Raises Damage."""
    path = segment_path(root, meta)
    return parse_footer(path, map_segment(fs, path), meta).header


def verify_segment(fs: FileSystem, root: str, meta: SegmentMeta) -> None:
    """Check size, checksum of the whole file, footer and schema; raises Damage."""
    path = segment_path(root, meta)
    body = map_segment(fs, path)
    if len(body) != meta.bytes:
        raise Damage(f"cannot verify segment: got {len(body)} bytes, want {meta.bytes}", path=path)
    checksum = crc32c(body)
    if checksum != meta.crc32c:
        raise Damage(f"cannot verify segment: got checksum {checksum:08x}, want {meta.crc32c:08x}", path=path)
    parse_footer(path, body, meta)


def read_segment(
    fs: FileSystem,
    root: str,
    meta: SegmentMeta,
    *,
    start_ns: int | None = None,
    end_ns: int | None = None,
    tagset_ids: npt.ArrayLike | None = None,
    field_ids: Sequence[int] | None = None,
    cache: FooterCache | None = None,
) -> Rows:
    """Return the rows of a segment, sorted by (tag set, time), with every value's exact bits.

    ``start_ns``, ``end_ns`` (half-open), ``tagset_ids`` (any order) and ``field_ids`` narrow what is
    returned; None means no limit.  A field the segment does not have is not among the result's ``field_ids``.
    Raises Damage.
    """
    path = segment_path(root, meta)
    body = map_segment(fs, path)
    footer = parse_footer(path, body, meta) if cache is None else cache.footer(path, body, meta)
    wanted = None if tagset_ids is None else np.unique(np.asarray(tagset_ids, dtype=np.int32))
    fields = [each for each in footer.header.fields if field_ids is None or each.field_id in field_ids]
    columns = sorted(fields, key=lambda each: each.field_id)
    with damage_at(path):
        file = pq.ParquetFile(
            pa.BufferReader(pa.py_buffer(body)),
            metadata=footer.metadata,
            pre_buffer=False,
        )
        groups = footer.groups_for(start_ns, end_ns, wanted)
        for group in groups:
            footer.verify_group(path, body, meta, group)
        return _read_rows(file, groups, columns, start_ns, end_ns, wanted)


def _read_rows(
    file: pq.ParquetFile,
    groups: Sequence[int],
    columns: Sequence[FieldColumn],
    start_ns: int | None,
    end_ns: int | None,
    wanted: Int32Array | None,
) -> Rows:
    picked: list[tuple[int, Selection]] = []
    tagsets: list[Int32Array] = []
    times: list[Int64Array] = []
    for group in groups:
        keys = file.read_row_group(group, columns=[TAGSET_COLUMN, TIME_COLUMN], use_threads=False)
        group_tagsets = _keys(keys.column(TAGSET_COLUMN), np.int32)
        group_times = _keys(keys.column(TIME_COLUMN), np.int64)
        selection = _select(group_tagsets, group_times, start_ns, end_ns, wanted)
        if selection is None:
            continue
        picked.append((group, selection))
        tagsets.append(group_tagsets[selection])
        times.append(group_times[selection])
    field_ids = tuple(dict.fromkeys(column.field_id for column in columns))
    if not picked:
        return Rows.empty(field_ids)
    values = np.empty((len(field_ids), sum(len(part) for part in times)), np.float64)
    at = 0
    names = [column.column for column in columns]
    for (group, selection), part in zip(picked, times, strict=True):
        end = at + len(part)
        if names:
            table = file.read_row_group(group, columns=names, use_threads=False)
            for index, field_id in enumerate(field_ids):
                stored = [column for column in columns if column.field_id == field_id]
                fill_field(values[index, at:end], table, stored, selection)
        at = end
    return Rows(np.concatenate(tagsets), np.concatenate(times), field_ids, values)


#: Reads columns of a row group: (row group, column names) -> table.
ReadGroup = Callable[[int, Sequence[str]], pa.Table]


def decode_keys(read: ReadGroup, group: int) -> tuple[Int32Array, Int64Array]:
    """Return the tag sets and times of a whole row group, which ascend."""
    keys = read(group, [TAGSET_COLUMN, TIME_COLUMN])
    return _keys(keys.column(TAGSET_COLUMN), np.int32), _keys(keys.column(TIME_COLUMN), np.int64)


def decode_field(read: ReadGroup, group: int, stored: Sequence[FieldColumn]) -> Float64Array:
    """Return the cells of a field, which has one or several columns, of a whole row group."""
    table = read(group, [column.column for column in stored])
    values = np.empty(table.num_rows, np.float64)
    fill_field(values, table, stored, slice(0, table.num_rows))
    return values


def fill_field(out: Float64Array, table: pa.Table, stored: Sequence[FieldColumn], selection: Selection) -> None:
    """Write the selected cells of a field, which has one or several columns of ``table``, into ``out``."""
    _fill(out, table.column(stored[0].column), stored[0], selection)
    for column in stored[1:]:
        _fill_gaps(out, table.column(column.column), column, selection)


def _select(
    tagsets: Int32Array,
    times: Int64Array,
    start_ns: int | None,
    end_ns: int | None,
    wanted: Int32Array | None,
) -> Selection | None:
    """Return which rows of a group are asked for: a slice where they are contiguous, None when there are
    none.
    """
    count = len(tagsets)
    mask: npt.NDArray[np.bool_] | None = None
    if wanted is not None:
        low = np.searchsorted(tagsets, wanted, side="left")
        high = np.searchsorted(tagsets, wanted, side="right")
        some = low < high
        edges = np.zeros(count + 1, np.int8)
        edges[low[some]] += 1
        edges[high[some]] -= 1
        mask = np.cumsum(edges[:-1], dtype=np.int8).view(np.bool_)
    for bound, inside in ((start_ns, np.greater_equal), (end_ns, np.less)):
        if bound is not None:
            within = inside(times, bound)
            mask = within if mask is None else mask & within
    if mask is None:
        return slice(0, count) if count else None
    rows = np.flatnonzero(mask)
    if not len(rows):
        return None
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last + 1 - first == len(rows) else rows


def _fill(out: Float64Array, column: pa.ChunkedArray, field: FieldColumn, selection: Selection) -> None:
    """Write the selected cells of a field into ``out``, ABSENT for nulls."""
    array = _one_array(column)
    if field.kind == DOUBLE:
        out[:] = _data(array, np.float64)[selection]
    elif field.kind == INTEGER:
        stored: npt.NDArray[np.integer] = (
            _data(array, np.int32) if array.type.bit_width == 32 else _data(array, np.int64)
        )
        out[:] = stored[selection]
    else:
        # decimal128, little-endian: the lower of two words is the integer, which has at most 18 digits.
        words = _data(array, np.int64).reshape(-1, 2)[:, 0]
        np.divide(words[selection], 10.0**field.decimals, out=out)
    if array.null_count:
        bitmap = array.buffers()[0]
        bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")
        present = bits[array.offset : array.offset + len(array)].view(np.bool_)
        out.view(np.uint64)[~present[selection]] = ABSENT_BITS


def _fill_gaps(out: Float64Array, column: pa.ChunkedArray, field: FieldColumn, selection: Selection) -> None:
    """Write the cells that a further column of a routed field has over what is absent so far."""
    if column.null_count == len(column):
        return
    cells = np.empty_like(out)
    _fill(cells, column, field, selection)
    present = ~is_absent(cells)
    if not is_absent(out)[present].all():
        raise ValueError(f"column {field.column} has a value where another column of its field has one")
    out[present] = cells[present]


def _keys(column: pa.ChunkedArray, dtype: type[Item]) -> npt.NDArray[Item]:
    array = _one_array(column)
    if array.null_count:
        raise ValueError(f"{array.null_count} keys are null")
    return _data(array, dtype)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _data(array: pa.Array, dtype: type[Item]) -> npt.NDArray[Item]:
    """Return the values of a fixed-width array without a copy, as items of ``dtype``."""
    width = array.type.bit_width // 8
    buffer = array.buffers()[-1]
    begin, end = array.offset * width, (array.offset + len(array)) * width
    return np.frombuffer(memoryview(buffer)[begin:end], dtype)
