"""Recovery: what the log holds beyond the segments comes back into the hot store.

A row whose time lies in a segment that was sealed through the row's sequence is in that segment already and is passed
over, so a row is never doubled, whichever of the two a crash came between: the manifest's switch or the log's trimming.
Every replayed row marks its rollup bucket; recomputing a bucket that was flushed before changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from engine.catalog.catalog import Catalog
from engine.disk.filesystem import FileSystem
from engine.errors import Damage
from engine.ingest.pipeline import FRAME_BATCH
from engine.model.rows import Int32Array, Int64Array, Rows
from engine.query.samples import SampleStore
from engine.segments.layout import SegmentMeta
from engine.wal.payload import decode_batch
from engine.wal.reader import WalReport, read_wal

Mark = Callable[[int, int, Int32Array, Int64Array], None]


@dataclass(slots=True)
class Recovery:
    """What recovery did."""

    frames: int = 0
    rows_replayed: int = 0
    rows_already_sealed: int = 0
    last_sequence: int = 0
    log: WalReport = field(default_factory=WalReport)


def replay(
    fs: FileSystem, directory: str, catalog: Catalog, samples: SampleStore, mark: Mark, *, after_sequence: int
) -> Recovery:
    """Bring every row of the log in ``directory`` that no segment holds into the hot store, in its old order."""
    recovery = Recovery(last_sequence=after_sequence)
    for table_id in {meta.table_id for meta in samples.segments()}:
        # Which tag sets a segment holds is not known without reading it; all of the table's are treated alike.
        newest = max(meta.max_time_ns for meta in samples.segments(table_id))
        samples.hot.assume_seen(catalog.tagset_ids(table_id), newest)
    for frame in read_wal(fs, directory, after_sequence=after_sequence, report=recovery.log):
        if frame.kind != FRAME_BATCH:
            raise Damage(
                f"cannot replay log: got a frame of kind {frame.kind}, want {FRAME_BATCH}; was it written by a newer"
                " version?",
                path=frame.path,
                offset=frame.offset,
            )
        try:
            definitions, tables = decode_batch(frame.payload)
            catalog.native.apply_definitions(definitions)
        except ValueError as error:
            raise Damage(f"cannot replay log: {error}", path=frame.path, offset=frame.offset) from None
        for table_id, rows in tables:
            kept = _not_sealed(rows, samples.segments(table_id), frame.sequence)
            recovery.rows_already_sealed += len(rows) - len(kept)
            recovery.rows_replayed += len(kept)
            samples.hot.append(table_id, kept, frame.sequence)
            mark(table_id, frame.sequence, rows.tagset_ids, rows.times)
        samples.hot.applied_sequence = frame.sequence
        recovery.last_sequence = max(recovery.last_sequence, frame.sequence)
        recovery.frames += 1
    recovery.last_sequence = max(recovery.last_sequence, recovery.log.last_sequence)
    return recovery


def _not_sealed(rows: Rows, segments: tuple[SegmentMeta, ...], sequence: int) -> Rows:
    sealed = np.zeros(len(rows), np.bool_)
    for meta in segments:
        if sequence <= meta.sealed_through:
            sealed |= (rows.times >= meta.start_ns) & (rows.times < meta.end_ns)
    return rows.take(~sealed) if sealed.any() else rows
