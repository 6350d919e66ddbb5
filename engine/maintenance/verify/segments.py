"""Segment files read from end to end: checksums, order, ranges, statistics, counts, names."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.disk.filesystem import FileSystem
from engine.errors import Damage, NewerFormat
from engine.maintenance.verify.definitions import Definitions
from engine.maintenance.verify.report import Report
from engine.model.rows import Int32Array, Int64Array
from engine.segments.footer import Footer, damage_at, map_segment, parse_footer
from engine.segments.layout import TAGSET_COLUMN, TIME_COLUMN, SegmentMeta
from engine.segments.manifest_format import Manifest
from engine.segments.reader import verify_segment
from native.sorting import is_strictly_sorted


@dataclass(slots=True)
class _Seen:
    """What the row groups of one segment have shown so far."""

    rows: int = 0
    samples: int = 0
    min_time_ns: int | None = None
    max_time_ns: int | None = None
    last_key: tuple[int, int] | None = None
    #: What is wrong, once for each kind of mistake.
    problems: dict[str, str] = field(default_factory=dict)


def check_segments(
    fs: FileSystem, root: str, manifest: Manifest, definitions: Definitions, report: Report
) -> frozenset[str]:
    """Read every listed segment; return the files whose rows cannot be used."""
    unusable = set()
    for number, meta in enumerate(manifest.segments):
        report.progress("segments", number, len(manifest.segments))
        path = f"{root}/{meta.file}"
        if not fs.exists(path):
            found = "the file is not there"
            report.add("segment_missing", path, found, f"a segment of {meta.table} with {meta.rows} rows")
            unusable.add(meta.file)
            continue
        try:
            verify_segment(fs, root, meta)
            body = map_segment(fs, path)
            footer = parse_footer(path, body, meta)
            for group in range(len(footer.extents)):
                footer.verify_group(path, body, meta, group)
            with damage_at(path):
                _check_rows(path, body, meta, footer, definitions, report)
        except NewerFormat as error:
            report.add("segment_newer", path, error.message, offset=error.offset)
            unusable.add(meta.file)
        except Damage as error:
            report.add("segment_damaged", path, error.message, offset=error.offset)
            unusable.add(meta.file)
        report.checked["segments"] += 1
        report.checked["segment bytes"] += meta.bytes
    return frozenset(unusable)


def _check_rows(
    path: str, body: memoryview, meta: SegmentMeta, footer: Footer, definitions: Definitions, report: Report
) -> None:
    if definitions.whole:
        _check_names(path, meta, footer, definitions, report)
    file = pq.ParquetFile(
        pa.BufferReader(pa.py_buffer(body)),
        metadata=footer.metadata,
        pre_buffer=False,
        page_checksum_verification=True,
    )
    seen = _Seen()
    for group in range(len(footer.extents)):
        table = file.read_row_group(group, use_threads=False)
        _check_group(seen, table, group, meta, footer)
        if definitions.whole:
            _check_tags(path, table, meta, footer, definitions, report)
        report.checked["segment rows"] += table.num_rows
    claims = {
        "rows": (seen.rows, meta.rows),
        "samples": (seen.samples, meta.samples),
        "oldest time": (seen.min_time_ns, meta.min_time_ns),
        "newest time": (seen.max_time_ns, meta.max_time_ns),
    }
    for what, (got, want) in claims.items():
        if got != want:
            seen.problems.setdefault(what, f"{what} {got}, want {want} as in the manifest")
    for problem in seen.problems.values():
        report.add("segment_content", path, problem)


def _check_group(seen: _Seen, table: pa.Table, group: int, meta: SegmentMeta, footer: Footer) -> None:
    tagsets, times = _keys(table)
    if not len(times):
        seen.problems.setdefault("empty", f"row group {group} has no rows")
        return
    first = (int(tagsets[0]), int(times[0]))
    if not is_strictly_sorted(tagsets, times) or (seen.last_key is not None and first <= seen.last_key):
        seen.problems.setdefault("order", f"row group {group} is not sorted by unique (tag set, time)")
    seen.last_key = (int(tagsets[-1]), int(times[-1]))
    low, high = int(times.min()), int(times.max())
    if low < meta.start_ns or high >= meta.end_ns:
        seen.problems.setdefault("range", f"row group {group} has times from {low} to {high}, outside the range")
    statistics = (
        int(footer.first_tagsets[group]),
        int(footer.last_tagsets[group]),
        int(footer.first_times[group]),
        int(footer.last_times[group]),
    )
    decoded = (int(tagsets.min()), int(tagsets.max()), low, high)
    if statistics != decoded:
        seen.problems.setdefault("statistics", f"row group {group} has keys {decoded}, but statistics {statistics}")
    seen.min_time_ns = low if seen.min_time_ns is None else min(seen.min_time_ns, low)
    seen.max_time_ns = high if seen.max_time_ns is None else max(seen.max_time_ns, high)
    seen.rows += table.num_rows
    seen.samples += sum(table.num_rows - table.column(each.column).null_count for each in footer.header.fields)


def _keys(table: pa.Table) -> tuple[Int32Array, Int64Array]:
    tagsets = table.column(TAGSET_COLUMN).to_numpy()
    times = table.column(TIME_COLUMN).cast(pa.int64()).to_numpy()
    return np.ascontiguousarray(tagsets, np.int32), np.ascontiguousarray(times, np.int64)


def _check_names(path: str, meta: SegmentMeta, footer: Footer, definitions: Definitions, report: Report) -> None:
    catalog = definitions.catalog
    if not definitions.has_table(meta.table_id):
        report.add("catalogue_lacks", path, f"table {meta.table_id} ({meta.table})", "what the catalogue defines")
        return
    if catalog.table_name(meta.table_id) != meta.table:
        report.add("segment_names", path, f"table {meta.table}", catalog.table_name(meta.table_id))
    fields = [name.decode() for name in catalog.native.fields(meta.table_id)]
    for column, name in zip(footer.header.fields, footer.header.field_names, strict=True):
        if column.field_id >= len(fields):
            report.add("catalogue_lacks", path, f"field {column.field_id} ({name})", "what the catalogue defines")
        elif fields[column.field_id] != name:
            report.add("segment_names", path, f"field {column.field_id} {name}", fields[column.field_id])


def _check_tags(
    path: str, table: pa.Table, meta: SegmentMeta, footer: Footer, definitions: Definitions, report: Report
) -> None:
    """Compare tag columns with the catalogue: within a tag set each has one value, the catalogue's."""
    tagsets, _ = _keys(table)
    if not len(tagsets):
        return
    starts = np.flatnonzero(np.concatenate([[True], tagsets[1:] != tagsets[:-1]]))
    ids = tagsets[starts]
    strange = definitions.table_of(ids) != meta.table_id
    if strange.any():
        found = f"{int(strange.sum())} tag sets, {int(ids[strange][0])} the first"
        report.add("catalogue_lacks", path, found, f"tag sets of table {meta.table_id} in the catalogue")
        return
    keys, columns = definitions.catalog.tag_columns(ids)
    expected = dict(zip(keys, columns, strict=True))
    known = {tag.key: tag.column for tag in footer.header.tags}
    run_of_row = np.repeat(np.arange(len(ids)), np.diff(np.append(starts, len(tagsets))))
    for key in sorted(set(keys) - set(known)):
        report.add("segment_names", path, f"no column for tag {key}", "one for each tag of its tag sets")
    for key, column in known.items():
        values = [_shown(value) for value in expected.get(key, [None] * len(ids))]
        wanted = pa.array(values, pa.string()).take(pa.array(run_of_row))
        found_column = table.column(column).combine_chunks().cast(pa.string())
        if not wanted.equals(found_column):
            wrong = next(
                row
                for row in range(len(wanted))
                if wanted[row] != found_column[row] or _one_null(wanted, found_column, row)
            )
            name = definitions.tags_text(int(tagsets[wrong]))
            report.add("segment_names", path, f"tag {key}={found_column[wrong]} in row {wrong} of a row group", name)


def _one_null(first: pa.Array, second: pa.Array, row: int) -> bool:
    return bool(first[row].is_valid != second[row].is_valid)


def _shown(value: str | None) -> str | None:
    """Return a tag value as a segment has it: text that is no valid UTF-8 loses the characters that are not."""
    return None if value is None else value.encode("utf-8", "replace").decode()
