"""The log read again: frames, sequences, payloads; and its rows, kept for the comparison with segments and tiers.

Rows are held in memory up to a limit; those of later frames are decoded again whenever a range asks for them, so that
a log of any length needs bounded memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from engine.clock import NS_PER_MINUTE
from engine.disk.aside import is_aside
from engine.disk.filesystem import FileSystem
from engine.errors import NewerFormat
from engine.maintenance.verify.definitions import Definitions
from engine.maintenance.verify.report import Report
from engine.model.rows import Int32Array, Int64Array, Rows
from engine.segments.manifest_format import Manifest
from engine.wal.layout import FRAME_BATCH, list_files
from engine.wal.payload import decode_batch
from engine.wal.reader import WalFrame, WalReport, read_wal
from native.frames import FRAME_HEADER_BYTES
from native.rollup import touched_buckets

HELD_BYTES = 256 << 20
_CONDENSE_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class LoggedRows:
    """One table's rows of one frame; ``rows`` is None where they have to be decoded again."""

    table_id: int
    sequence: int
    min_time_ns: int
    max_time_ns: int
    rows: Rows | None
    path: str
    start: int
    stop: int
    place: int  # among the frame's tables


@dataclass(slots=True)
class Log:
    """What the log holds.  ``pending``: by table, (tag set, minute) pairs that the tiers may not include yet."""

    fs: FileSystem
    last_sequence: int = 0
    parts: dict[int, list[LoggedRows]] = field(default_factory=dict)
    pending: dict[int, tuple[Int32Array, Int64Array]] = field(default_factory=dict)
    held_bytes: int = 0

    def rows_of(self, part: LoggedRows) -> Rows:
        if part.rows is not None:
            return part.rows
        _, tables = decode_batch(self.fs.map(part.path)[part.start : part.stop])
        return tables[part.place][1]

    def overlapping(self, table_id: int, start_ns: int, end_ns: int) -> list[LoggedRows]:
        """Return the parts with rows in ``[start_ns, end_ns)``, in order of arrival."""
        parts = self.parts.get(table_id, [])
        return [part for part in parts if part.min_time_ns < end_ns and part.max_time_ns >= start_ns]


def check_log(
    fs: FileSystem,
    directory: str,
    definitions: Definitions,
    manifest: Manifest,
    watermark: int | None,
    report: Report,
    *,
    held_bytes: int = HELD_BYTES,
) -> Log:
    """Read every frame, add its definitions, and keep its rows.

    ``watermark``: the sequence that the tiers include, None when there are no tiers to compare with.
    """
    log = Log(fs, last_sequence=manifest.wal_floor)
    if not fs.exists(directory):
        return log
    _list_others(fs, directory, report)
    files = list_files(fs, directory)
    floor = manifest.wal_floor
    after = min(floor, files[0].first_sequence - 1) if files else floor
    seen = WalReport()
    waiting: dict[int, tuple[list[Int32Array], list[Int64Array], int]] = {}
    try:
        for frame in read_wal(fs, directory, after_sequence=after, report=seen, repair=False):
            report.checked["log frames"] += 1
            report.progress("log", frame.sequence - after, max(1, manifest_last(manifest) - after))
            for place, table_id, rows in _decode(frame, definitions, report):
                _keep(log, frame, table_id, rows, place, held_bytes)
                report.checked["log rows"] += len(rows)
                if watermark is not None and frame.sequence >= watermark:
                    _wait(waiting, table_id, rows)
    except NewerFormat as error:
        report.add("log_newer", error.path, error.message, offset=error.offset)
    log.last_sequence = max(floor, seen.last_sequence)
    log.pending = {table_id: _pairs(*given[:2]) for table_id, given in waiting.items()}
    _tell(seen, log, manifest, directory, report)
    return log


def manifest_last(manifest: Manifest) -> int:
    """Return the highest sequence that the manifest knows of."""
    return max([manifest.wal_floor, *(meta.sealed_through for meta in manifest.segments)])


def _list_others(fs: FileSystem, directory: str, report: Report) -> None:
    ours = {file.path for file in list_files(fs, directory)}
    for name in fs.listdir(directory):
        path = f"{directory}/{name}"
        if path in ours:
            continue
        if is_aside(name):
            report.add("log_set_aside", path, f"{fs.size(path)} bytes set aside by an earlier start")
        elif name.endswith(".tmp"):
            report.add("log_stray", path, "half of a replacement; ignored")
        else:
            report.add("log_stray", path, "not named like a log file")


def _decode(frame: WalFrame, definitions: Definitions, report: Report) -> list[tuple[int, int, Rows]]:
    """Return (place in the frame, table, rows) of what can be used."""
    if frame.kind != FRAME_BATCH:
        report.add("log_newer", frame.path, f"a frame of kind {frame.kind}", f"kind {FRAME_BATCH}", offset=frame.offset)
        return []
    try:
        learned, tables = decode_batch(frame.payload)
        definitions.apply(learned)
    except ValueError as error:
        if definitions.whole:
            report.add("log_unusable", frame.path, str(error), offset=frame.offset)
        return []
    usable = []
    if not definitions.whole:
        return []
    for place, (table_id, rows) in enumerate(tables):
        problem = _unknown(table_id, rows, definitions)
        if problem:
            report.add("catalogue_lacks", frame.path, problem, "what the catalogue defines", offset=frame.offset)
        else:
            usable.append((place, table_id, rows))
    return usable


def _unknown(table_id: int, rows: Rows, definitions: Definitions) -> str | None:
    if not definitions.has_table(table_id):
        return f"table {table_id}"
    if rows.field_ids and rows.field_ids[-1] >= len(definitions.catalog.native.fields(table_id)):
        return f"field {rows.field_ids[-1]} of table {table_id}"
    strange = definitions.table_of(rows.tagset_ids) != table_id
    if strange.any():
        return f"tag set {int(rows.tagset_ids[strange][0])} in table {table_id}"
    return None


def _keep(log: Log, frame: WalFrame, table_id: int, rows: Rows, place: int, held_bytes: int) -> None:
    if not len(rows):
        return
    held = log.held_bytes + rows.nbytes <= held_bytes
    if held:
        log.held_bytes += rows.nbytes
    low, high = int(rows.times.min()), int(rows.times.max())
    start = frame.offset + FRAME_HEADER_BYTES
    log.parts.setdefault(table_id, []).append(
        LoggedRows(
            table_id,
            frame.sequence,
            low,
            high,
            rows if held else None,
            frame.path,
            start,
            start + len(frame.payload),
            place,
        )
    )


def _wait(waiting: dict[int, tuple[list[Int32Array], list[Int64Array], int]], table_id: int, rows: Rows) -> None:
    tagsets, times, count = waiting.get(table_id, ([], [], 0))
    tagsets.append(rows.tagset_ids)
    times.append(rows.times)
    count += len(rows)
    if count > _CONDENSE_ROWS:
        unique, buckets = _pairs(tagsets, times)
        tagsets, times, count = [unique], [buckets], 0
    waiting[table_id] = (tagsets, times, count)


def _pairs(tagsets: list[Int32Array], times: list[Int64Array]) -> tuple[Int32Array, Int64Array]:
    return touched_buckets(np.concatenate(tagsets), np.concatenate(times), NS_PER_MINUTE)


def _tell(seen: WalReport, log: Log, manifest: Manifest, directory: str, report: Report) -> None:
    report.checked["log files"] += seen.files
    for damage in seen.damage:
        report.add("log_damaged", damage.path, str(damage), offset=damage.offset)
    for first, last in seen.missing:
        report.add(
            "log_gap", directory, f"no frames with sequences {first} to {last}", "every sequence from the floor on"
        )
    if seen.torn_path is not None:
        report.add("log_torn", seen.torn_path, f"{seen.torn_bytes} bytes behind the last whole frame")
    if seen.abandoned_bytes:
        report.add("log_abandoned", directory, f"{seen.abandoned_bytes} bytes of appends that had failed")
    sealed = manifest_last(manifest)
    if sealed > log.last_sequence:
        found = f"the log ends at sequence {log.last_sequence}"
        report.add("log_gap", directory, found, f"at least {sealed}, through which a segment was sealed")
