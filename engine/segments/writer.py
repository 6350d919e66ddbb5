"""Sorted rows of one table as a Parquet segment: column kinds, encodings, row groups
(docs/formats/segment.md).

Each field is classified over the whole segment, then converted and encoded one row group at a time; what is
held at once is one row group in Arrow form and the compressed file.  The loops (classification, scaling,
encoding, zstd) run without the GIL.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from engine.disk.filesystem import FileSystem, storage_error
from engine.errors import Bug
from engine.model.rows import Float64Array, Int64Array, Rows
from engine.segments.footer import group_extents
from engine.segments.layout import (
    DECIMAL_PREFIX,
    DOUBLE,
    FORMAT_VERSION,
    INTEGER,
    MAX_DECIMALS,
    METADATA_KEY,
    PAGE_ROWS,
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
    segment_file,
)
from native.checksum import crc32c
from native.columns import decimals_of, is_absent, scale_to_int64
from native.sorting import is_strictly_sorted

DELTA = "DELTA_BINARY_PACKED"
SPLIT = "BYTE_STREAM_SPLIT"
PLAIN = "PLAIN"
DICTIONARY = "dictionary"

# A column is sampled in a few contiguous pieces: delta and LZ coding depend on neighbours, so single cells
# say nothing.
SAMPLE_PIECES = 8
SAMPLE_PIECE_ROWS = 1_024
# A dictionary is only considered when each of its values occurs about four times in the sample or more often.
MAX_SAMPLED_DISTINCT = SAMPLE_PIECES * SAMPLE_PIECE_ROWS // 4
DICTIONARY_PAGE_BYTES = 4 << 20  # past this pyarrow goes on without a dictionary
MINIBLOCK = {
    32: 32,
    64: 64,
}  # values that share a bit width in pyarrow's DELTA_BINARY_PACKED, by physical type


@dataclass(frozen=True, slots=True)
class ColumnPlan:
    """How one field is stored: ``kind`` as in FieldColumn, physical ``bits`` (32 or 64), Parquet
    ``encoding``.
    """

    kind: str
    decimals: int
    bits: int
    encoding: str

    @property
    def arrow_type(self) -> pa.DataType:
        if self.kind == DOUBLE:
            return pa.float64()
        if self.kind == INTEGER:
            return pa.int32() if self.bits == 32 else pa.int64()
        return pa.decimal32(9, self.decimals) if self.bits == 32 else pa.decimal64(18, self.decimals)


def write_segment(fs: FileSystem, root: str, spec: SegmentSpec, rows: Rows, tags_of: TagsOf) -> SegmentMeta:
    """Write ``rows`` as a segment below ``root`` and return its manifest entry; the file is durable on
    return.

    ``rows`` must be sorted by (tag set, time) without equal keys and lie in the spec's range.  Fields without
    a sample get no column.  Raises Bug for rows that break this, DiskFull and Unavailable when the file
    cannot be written (nothing but a temporary file may be left then, which the next start removes).
    """
    body, columns = encode_segment(spec, rows, tags_of)
    file = segment_file(spec.table, spec.start_ns, spec.end_ns, spec.sequence)
    path = f"{root}/{file}"
    try:
        fs.makedirs(path.rpartition("/")[0])
        fs.write_atomic(path, [memoryview(body)])
    except OSError as error:
        raise storage_error("write segment", error, path) from error
    view = memoryview(body)
    footer = footer_of(view)
    extents = group_extents(pq.read_metadata(pa.BufferReader(body)))
    return SegmentMeta(
        table_id=spec.table_id,
        table=spec.table,
        file=file,
        start_ns=spec.start_ns,
        end_ns=spec.end_ns,
        min_time_ns=int(rows.times.min()),
        max_time_ns=int(rows.times.max()),
        rows=len(rows),
        samples=rows.sample_count(),
        bytes=body.size,
        crc32c=crc32c(view),
        footer_bytes=len(footer),
        footer_crc32c=crc32c(footer),
        group_crc32c=tuple(crc32c(view[begin:end]) for begin, end in extents),
        sealed_through=spec.sealed_through,
        created_ns=spec.created_ns,
        sequence=spec.sequence,
        columns=columns,
    )


def encode_segment(spec: SegmentSpec, rows: Rows, tags_of: TagsOf) -> tuple[pa.Buffer, tuple[FieldColumn, ...]]:
    """Return the Parquet file as one buffer, and its field columns in file order."""
    _check(spec, rows)
    starts, tagset_ids = _tagset_runs(rows)
    tag_keys, tag_values = tags_of(tagset_ids)
    plans = {
        field_id: plan
        for field_id, column in zip(rows.field_ids, rows.values, strict=True)
        if (plan := plan_column(column)) is not None
    }
    tag_columns, field_columns = column_names_for(
        tag_keys, {field_id: spec.field_names[field_id] for field_id in plans}
    )
    columns = tuple(FieldColumn(field_columns[field_id], field_id, plan.kind) for field_id, plan in plans.items())
    schema = _schema(tag_columns, columns, plans)
    header = FooterHeader(
        format=FORMAT_VERSION,
        table=spec.table,
        table_id=spec.table_id,
        start_ns=spec.start_ns,
        end_ns=spec.end_ns,
        rows=len(rows),
        sequence=spec.sequence,
        created_ns=spec.created_ns,
        tags=tuple(TagColumn(column, key) for key, column in tag_columns.items()),
        fields=columns,
        field_names=tuple(spec.field_names[column.field_id] for column in columns),
    )
    tags = [_tag_dictionary(tag_values[list(tag_keys).index(key)]) for key in tag_columns]
    sink = pa.BufferOutputStream()
    writer = pq.ParquetWriter(
        sink,
        schema,
        version="2.6",
        data_page_version="2.0",
        compression="zstd",
        compression_level=spec.zstd_level,
        use_dictionary=[
            *tag_columns.values(),
            *(each.column for each in columns if plans[each.field_id].encoding == DICTIONARY),
        ],
        column_encoding={
            TAGSET_COLUMN: DELTA,
            TIME_COLUMN: DELTA,
            **{
                each.column: plans[each.field_id].encoding
                for each in columns
                if plans[each.field_id].encoding != DICTIONARY
            },
        },
        dictionary_pagesize_limit=DICTIONARY_PAGE_BYTES,
        max_rows_per_page=PAGE_ROWS,
        write_statistics=[TAGSET_COLUMN, TIME_COLUMN],
        write_page_index=True,
        write_page_checksum=True,
        store_schema=False,
        store_decimal_as_integer=True,
        sorting_columns=[pq.SortingColumn(0), pq.SortingColumn(1)],
    )
    positions = {field_id: index for index, field_id in enumerate(rows.field_ids)}
    for begin, end in row_groups(starts, len(rows), spec.row_group_rows):
        arrays = [pa.array(rows.tagset_ids[begin:end]), _times(rows.times[begin:end])]
        arrays += _repeated_tags(tags, starts, begin, end)
        for column in columns:
            cells = rows.values[positions[column.field_id], begin:end]
            arrays.append(_field(cells, plans[column.field_id]))
        writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=end - begin)
    writer.add_key_value_metadata({METADATA_KEY: msgspec.json.encode(header).decode()})
    writer.close()
    return sink.getvalue(), columns


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


def plan_column(values: Float64Array) -> ColumnPlan | None:
    """Return how a field is stored, or None when every cell is absent.

    Integers and decimals are 32 bits wide where all of them fit: pyarrow's delta encoding then takes smaller
    blocks.
    """
    decimals = decimals_of(values, MAX_DECIMALS)
    if decimals < 0:
        return ColumnPlan(DOUBLE, 0, 64, _double_encoding(_sample(values)))
    low, high = np.fmin.reduce(values), np.fmax.reduce(values)
    if np.isnan(low):
        return None
    largest = int(np.rint(max(abs(low), abs(high)) * 10.0**decimals))
    narrow = largest < 10**9 if decimals else low >= -(2**31) and high < 2**31
    bits = 32 if narrow else 64
    sample = _sample(values)
    scaled, valid = np.empty(len(sample), np.int64), np.empty(len(sample), np.uint8)
    scale_to_int64(sample, decimals, scaled, valid)
    kind = f"{DECIMAL_PREFIX}{decimals}" if decimals else INTEGER
    return ColumnPlan(kind, decimals, bits, _integer_encoding(scaled[valid.view(np.bool_)], bits))


def _integer_encoding(sample: Int64Array, bits: int) -> str:
    """Choose between deltas and a dictionary by the bits a value each would take."""
    block = MINIBLOCK[bits]
    if len(sample) <= block:
        return DELTA
    deltas = np.diff(sample)[: (len(sample) - 1) // block * block].reshape(-1, block)
    spread = (deltas.max(axis=1) - deltas.min(axis=1)).astype(np.float64)
    delta_bits = float(np.ceil(np.log2(spread + 1)).mean())
    if delta_bits < 1.0:  # almost constant, or evenly rising: nothing beats deltas of no width
        return DELTA
    return DICTIONARY if _dictionary_bits(sample) + 0.5 < delta_bits else DELTA


def _double_encoding(sample: Float64Array) -> str:
    """Choose for values that are no short decimals: by compressing the sample, since no rule of thumb holds.

    Split bytes win on measured noise, plain ones on decimals that a NaN or a negative zero keeps from being
    stored as such, a dictionary on a few repeated levels.
    """
    cells = sample[~is_absent(sample)]
    if not len(cells):
        return SPLIT
    codec = pa.Codec("zstd", compression_level=1)
    as_bytes = np.ascontiguousarray(cells).view(np.uint8)
    sizes = {
        SPLIT: 8.0 * codec.compress(np.ascontiguousarray(as_bytes.reshape(-1, 8).T), asbytes=False).size / len(cells),
        PLAIN: 8.0 * codec.compress(as_bytes, asbytes=False).size / len(cells),
        DICTIONARY: _dictionary_bits(cells.view(np.int64)) + 0.5,
    }
    return min(sizes, key=lambda encoding: (sizes[encoding], encoding != SPLIT))


def _dictionary_bits(sample: Int64Array) -> float:
    """Return about how many bits a value takes with a dictionary: the entropy, or infinity for too many
    values.
    """
    _, counts = np.unique(sample, return_counts=True)
    if len(counts) > MAX_SAMPLED_DISTINCT:
        return float("inf")
    share = counts / len(sample)
    return float(-(share * np.log2(share)).sum())


def _sample(values: Float64Array) -> Float64Array:
    """Return the column, or some contiguous pieces that are spread over it."""
    if len(values) <= SAMPLE_PIECES * SAMPLE_PIECE_ROWS:
        return values
    begins = np.linspace(0, len(values) - SAMPLE_PIECE_ROWS, SAMPLE_PIECES).astype(np.int64)
    return np.concatenate([values[begin : begin + SAMPLE_PIECE_ROWS] for begin in begins.tolist()])


def _check(spec: SegmentSpec, rows: Rows) -> None:
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


def _schema(tag_columns: dict[str, str], columns: tuple[FieldColumn, ...], plans: dict[int, ColumnPlan]) -> pa.Schema:
    return pa.schema(
        [
            pa.field(TAGSET_COLUMN, pa.int32(), nullable=False),
            pa.field(TIME_COLUMN, pa.timestamp("ns"), nullable=False),
            *(pa.field(column, pa.dictionary(pa.int32(), pa.string())) for column in tag_columns.values()),
            *(pa.field(each.column, plans[each.field_id].arrow_type) for each in columns),
        ]
    )


def _tagset_runs(rows: Rows) -> tuple[Int64Array, npt.NDArray[np.int32]]:
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
        indices = local.indices
        picked = pa.array(np.repeat(np.arange(len(indices), dtype=np.int32), lengths))
        repeated.append(pa.DictionaryArray.from_arrays(indices.take(picked), local.dictionary))
    return repeated


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
