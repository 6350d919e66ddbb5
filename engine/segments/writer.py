"""Sorted rows of one table as a Parquet segment: column kinds, encodings, row groups
(docs/formats/segment.md).

Each field is classified over the whole segment, then converted and encoded one row group at a time; what is
held at once is one row group in Arrow form and the compressed file.  The loops (classification, scaling,
encoding, zstd) run without the GIL.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from engine.disk.filesystem import FileSystem, storage_error
from engine.errors import Bug
from engine.model.rows import FOREVER_NS, NEVER_NS, Float64Array, Int64Array, Rows
from engine.segments.classify import DELTA, DICTIONARY, DICTIONARY_PAGE_BYTES, ColumnPlan, plan_column
from engine.segments.footer import group_extents
from engine.segments.layout import (
    DOUBLE,
    METADATA_KEY,
    PAGE_ROWS,
    ROUTED_ROWS,
    TAGSET_COLUMN,
    TIME_COLUMN,
    FieldColumn,
    FooterHeader,
    SegmentMeta,
    SegmentSpec,
    TagColumn,
    TagsOf,
    column_names_for,
    footer_of,
    format_of,
    segment_file,
)
from engine.segments.route import RoutedPlan, RouteSurvey, routed_names, time_encoding
from engine.segments.written import WrittenColumns
from native.checksum import crc32c
from native.columns import is_absent, scale_to_int64
from native.sorting import is_strictly_sorted

FieldPlan = ColumnPlan | RoutedPlan


def columns_of_plan(plan: FieldPlan) -> tuple[ColumnPlan, ...]:
    """Return the columns that a field is stored in."""
    return (plan,) if isinstance(plan, ColumnPlan) else plan.columns


def plan_routes(values: Float64Array, starts: Int64Array) -> RoutedPlan | None:
    """Return how a routed field is stored, or None when every cell is absent."""
    survey = RouteSurvey()
    survey.add(values, starts)
    return survey.plan()


def write_segment(
    fs: FileSystem, root: str, spec: SegmentSpec, rows: Rows, tags_of: TagsOf, *, written: WrittenColumns | None = None
) -> SegmentMeta:
    """Write ``rows`` as a segment below ``root`` and return its manifest entry; the file is durable on
    return.

    ``rows`` must be sorted by (tag set, time) without equal keys and lie in the spec's range.  Fields without
    a sample get no column.  ``written`` gets each row group.  Raises Bug for rows that break this, DiskFull and
    Unavailable when the file cannot be written (nothing but a temporary file may be left then, which the next start
    removes).
    """
    body, columns = encode_segment(spec, rows, tags_of, written)
    file = segment_file(spec.table, spec.start_ns, spec.end_ns, spec.sequence)
    path = f"{root}/{file}"
    try:
        fs.makedirs(path.rpartition("/")[0])
        fs.write_atomic(path, [memoryview(body)])
    except OSError as error:
        raise storage_error("write segment", error, path) from error
    totals = Totals()
    totals.add(rows)
    return meta_of(spec, memoryview(body), columns, totals)


@dataclass(slots=True)
class Totals:
    """What a manifest entry says about all rows together; filled part by part."""

    rows: int = 0
    samples: int = 0
    min_time_ns: int = FOREVER_NS
    max_time_ns: int = NEVER_NS

    def add(self, rows: Rows) -> None:
        if len(rows):
            self.rows += len(rows)
            self.samples += rows.sample_count()
            self.min_time_ns = min(self.min_time_ns, int(rows.times.min()))
            self.max_time_ns = max(self.max_time_ns, int(rows.times.max()))


def meta_of(spec: SegmentSpec, body: memoryview, columns: tuple[FieldColumn, ...], totals: Totals) -> SegmentMeta:
    """Return the manifest entry of a finished file whose bytes are ``body``."""
    footer = footer_of(body)
    extents = group_extents(pq.read_metadata(pa.BufferReader(pa.py_buffer(body))))
    return SegmentMeta(
        table_id=spec.table_id,
        table=spec.table,
        file=segment_file(spec.table, spec.start_ns, spec.end_ns, spec.sequence),
        start_ns=spec.start_ns,
        end_ns=spec.end_ns,
        min_time_ns=totals.min_time_ns,
        max_time_ns=totals.max_time_ns,
        rows=totals.rows,
        samples=totals.samples,
        bytes=len(body),
        crc32c=crc32c(body),
        footer_bytes=len(footer),
        footer_crc32c=crc32c(footer),
        group_crc32c=tuple(crc32c(body[begin:end]) for begin, end in extents),
        sealed_through=spec.sealed_through,
        created_ns=spec.created_ns,
        sequence=spec.sequence,
        columns=columns,
        format=format_of(columns),
    )


def encode_segment(
    spec: SegmentSpec, rows: Rows, tags_of: TagsOf, written: WrittenColumns | None = None
) -> tuple[pa.Buffer, tuple[FieldColumn, ...]]:
    """Return the Parquet file as one buffer, and its field columns in file order."""
    check_rows(spec, rows)
    starts, tagset_ids = tagset_starts(rows)
    tag_keys, _ = tags_of(tagset_ids)
    plans: dict[int, FieldPlan] = {}
    for field_id, column in zip(rows.field_ids, rows.values, strict=True):
        plan = plan_routes(column, starts) if spec.routed else plan_column(column)
        if plan is not None:
            plans[field_id] = plan
    sink = pa.BufferOutputStream()
    times = time_encoding(rows.times) if spec.routed else DELTA
    encoder = SegmentEncoder(sink, spec, plans, tag_keys, tags_of, times, written)
    encoder.write(rows, row_groups(starts, len(rows), spec.group_rows))
    encoder.finish()
    return sink.getvalue(), encoder.columns


class SegmentEncoder:
    """Writes the row groups of one segment to a sink, in order; columns and their kinds are known beforehand.

    ``plans``: how each field number is stored; ``tag_keys``: every tag key that any of the tag sets has;
    ``time_encoding``: that of the times; ``written`` gets each row group.
    """

    def __init__(
        self,
        sink: Any,
        spec: SegmentSpec,
        plans: Mapping[int, FieldPlan],
        tag_keys: Sequence[str],
        tags_of: TagsOf,
        time_encoding: str = DELTA,
        written: WrittenColumns | None = None,
    ) -> None:
        self._spec, self._plans, self._tags_of = spec, dict(plans), tags_of
        columns_of = {field_id: columns_of_plan(plan) for field_id, plan in self._plans.items()}
        names = {field_id: spec.field_names[field_id] for field_id in self._plans}
        further = {field_id: routed_names(names[field_id], plans)[1:] for field_id, plans in columns_of.items()}
        tag_columns, field_columns = column_names_for(tag_keys, names, further)
        self._tag_columns = tag_columns
        self._stored = tuple(plan for plans in columns_of.values() for plan in plans)  # one for each of `columns`
        self.columns = tuple(
            FieldColumn(column, field_id, plan.kind)
            for field_id, plans in columns_of.items()
            for column, plan in zip(field_columns[field_id], plans, strict=True)
        )
        self._schema = _schema(tag_columns, self.columns, self._stored)
        self._written = written
        self._rows = 0
        encodings = {each.column: plan.encoding for each, plan in zip(self.columns, self._stored, strict=True)}
        self._writer = pq.ParquetWriter(
            sink,
            self._schema,
            version="2.6",
            data_page_version="2.0",
            compression="zstd",
            compression_level=spec.zstd_level,
            use_dictionary=[
                *tag_columns.values(),
                *(column for column, encoding in encodings.items() if encoding == DICTIONARY),
            ],
            column_encoding={
                TAGSET_COLUMN: DELTA,
                TIME_COLUMN: time_encoding,
                **{column: encoding for column, encoding in encodings.items() if encoding != DICTIONARY},
            },
            dictionary_pagesize_limit=DICTIONARY_PAGE_BYTES,
            max_rows_per_page=ROUTED_ROWS if spec.routed else PAGE_ROWS,
            write_statistics=[TAGSET_COLUMN, TIME_COLUMN],
            write_page_index=True,
            write_page_checksum=True,
            store_schema=False,
            store_decimal_as_integer=True,
            sorting_columns=[pq.SortingColumn(0), pq.SortingColumn(1)],
        )

    def write(self, rows: Rows, groups: Iterable[tuple[int, int]]) -> None:
        """Write rows ``[begin, end)`` for each of ``groups`` as one row group."""
        starts, tagset_ids = tagset_starts(rows)
        tag_keys, tag_values = self._tags_of(tagset_ids)
        known = dict(zip(tag_keys, tag_values, strict=True))
        nothing = [None] * len(tagset_ids)
        tags = [_tag_dictionary(known.get(key, nothing)) for key in self._tag_columns]
        cells = self._cells(rows, starts)
        for begin, end in groups:
            arrays = [pa.array(rows.tagset_ids[begin:end]), _times(rows.times[begin:end])]
            arrays += _repeated_tags(tags, starts, begin, end)
            for column, plan in zip(cells, self._stored, strict=True):
                if column is None:
                    arrays.append(pa.nulls(end - begin, plan.arrow_type))
                else:
                    arrays.append(_field(column[begin:end], plan))
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema), row_group_size=end - begin)
            self._rows += end - begin
            if self._written is not None:
                self._written.add(rows, begin, end)

    def _cells(self, rows: Rows, starts: Int64Array) -> list[Float64Array | None]:
        """Return the cells of each stored column; None for a field that the rows do not have."""
        cells: list[Float64Array | None] = []
        for field_id, plan in self._plans.items():
            values = rows.values[rows.field_ids.index(field_id)] if field_id in rows.field_ids else None
            if values is None or isinstance(plan, ColumnPlan):
                cells += [values] * len(columns_of_plan(plan))
            else:
                cells += list(plan.split(np.ascontiguousarray(values), starts))
        return cells

    def finish(self) -> None:
        """Write the footer."""
        spec = self._spec
        header = FooterHeader(
            format=format_of(self.columns),
            table=spec.table,
            table_id=spec.table_id,
            start_ns=spec.start_ns,
            end_ns=spec.end_ns,
            rows=self._rows,
            sequence=spec.sequence,
            created_ns=spec.created_ns,
            tags=tuple(TagColumn(column, key) for key, column in self._tag_columns.items()),
            fields=self.columns,
            field_names=tuple(spec.field_names[column.field_id] for column in self.columns),
        )
        self._writer.add_key_value_metadata({METADATA_KEY: msgspec.json.encode(header).decode()})
        self._writer.close()


def row_groups(starts: Int64Array, rows: int, limit: int) -> Iterator[tuple[int, int]]:
    """Yield [begin, end) of each row group: whole tag sets up to ``limit`` rows, or a part of one that alone
    is more.

    ``starts``: int64, ascending, the first row of each tag set, beginning with 0.
    """
    ends = np.append(starts[1:], rows)
    begin = 0
    while begin < rows:
        last = int(np.searchsorted(ends, begin + limit, side="right")) - 1
        end = int(ends[last]) if last >= 0 and ends[last] > begin else begin + limit
        yield begin, end
        begin = end


def check_rows(spec: SegmentSpec, rows: Rows) -> None:
    if not len(rows):
        raise Bug(f"cannot write segment of {spec.table}: got no rows")
    low, high = int(rows.times.min()), int(rows.times.max())
    if low < spec.start_ns or high >= spec.end_ns:
        raise Bug(
            f"cannot write segment of {spec.table}: got rows from {low} to {high},"
            f" want times in [{spec.start_ns}, {spec.end_ns})"
        )
    if not is_strictly_sorted(rows.tagset_ids, rows.times):
        raise Bug(f"cannot write segment of {spec.table}: rows are not sorted by unique (tag set, time)")


def _schema(tag_columns: dict[str, str], columns: tuple[FieldColumn, ...], plans: tuple[ColumnPlan, ...]) -> pa.Schema:
    return pa.schema(
        [
            pa.field(TAGSET_COLUMN, pa.int32(), nullable=False),
            pa.field(TIME_COLUMN, pa.timestamp("ns"), nullable=False),
            *(pa.field(column, pa.dictionary(pa.int32(), pa.string())) for column in tag_columns.values()),
            *(pa.field(each.column, plan.arrow_type) for each, plan in zip(columns, plans, strict=True)),
        ]
    )


def tagset_starts(rows: Rows) -> tuple[Int64Array, npt.NDArray[np.int32]]:
    changes = np.flatnonzero(rows.tagset_ids[1:] != rows.tagset_ids[:-1]) + 1
    starts = np.concatenate([np.zeros(1, np.int64), changes])
    return starts, rows.tagset_ids[starts]


def _tag_dictionary(values: object) -> pa.DictionaryArray:
    """Return one tag's value of each tag set; text that is no valid UTF-8 loses the characters that are
    not.
    """
    try:
        column = pa.array(values, pa.string())
    except UnicodeEncodeError:
        assert isinstance(values, list | tuple)
        column = pa.array(
            [None if each is None else each.encode("utf-8", "replace").decode() for each in values],
            pa.string(),
        )
    return column.dictionary_encode()


def _repeated_tags(
    tags: list[pa.DictionaryArray], starts: Int64Array, begin: int, end: int
) -> list[pa.DictionaryArray]:
    """Return the tag columns of one row group; each with a dictionary of only the values in it."""
    if not tags:
        return []
    first = int(np.searchsorted(starts, begin, side="right")) - 1
    last = int(np.searchsorted(starts, end, side="left"))
    lengths = np.diff(np.append(starts[first:last], end).clip(begin, end))
    repeated = []
    for tag in tags:
        local = tag.slice(first, last - first).cast(pa.string()).dictionary_encode()
        repeated.append(pa.DictionaryArray.from_arrays(_repeated(local.indices, lengths), local.dictionary))
    return repeated


def _repeated(indices: pa.Array, lengths: Int64Array) -> pa.Array:
    """Return each int32 index as many times as its length says, nulls too; far faster than taking them."""
    total = int(lengths.sum())
    if indices.null_count == len(indices):
        return pa.nulls(total, pa.int32())
    repeated = np.repeat(indices.fill_null(0).to_numpy(), lengths)
    bitmap = None
    if indices.null_count:
        present = np.repeat(indices.is_valid().to_numpy(zero_copy_only=False), lengths)
        bitmap = pa.py_buffer(np.packbits(present, bitorder="little"))
    return pa.Array.from_buffers(pa.int32(), total, [bitmap, pa.py_buffer(repeated)])


def _times(times: Int64Array) -> pa.Array:
    contiguous = np.ascontiguousarray(times)
    return pa.Array.from_buffers(pa.timestamp("ns"), len(times), [None, pa.py_buffer(contiguous)])


def _field(cells: Float64Array, plan: ColumnPlan) -> pa.Array:
    """Return one field's cells of a row group in their stored type, absent cells as nulls."""
    cells = np.ascontiguousarray(cells)
    if plan.kind == DOUBLE:
        present = ~is_absent(cells)
        data: npt.NDArray[np.generic] = cells
    else:
        scaled, valid = np.empty(len(cells), np.int64), np.empty(len(cells), np.uint8)
        scale_to_int64(cells, plan.decimals, scaled, valid)
        present = valid.view(np.bool_)
        data = scaled.astype(np.int32) if plan.bits == 32 else scaled
    bitmap = None if present.all() else pa.py_buffer(np.packbits(present, bitorder="little"))
    return pa.Array.from_buffers(plan.arrow_type, len(cells), [bitmap, pa.py_buffer(data)])
