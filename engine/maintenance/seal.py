"""Sealing: hot rows become Parquet segments, and the log they came from may go.

Order of events, so that a crash between any two loses nothing and doubles nothing: the segments are written and synced,
the catalogue is persisted, the manifest names the segments (the switch), readers see them, old files are deleted; log
files go once both segments and tiers hold what is in them.  Rows that are both in a segment and in a log file that has
not gone yet are recognised at recovery by the segment's ``sealed_through``.

Late rows that would have a large segment written again wait in memory: some hours, into days gone by a day, unless
memory or log are at their limit.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import numpy as np

from engine.catalog.catalog import Catalog
from engine.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE, NS_PER_SECOND, Clock
from engine.config import Storage
from engine.disk.filesystem import FileSystem
from engine.errors import Damage
from engine.hot.block import Block
from engine.model.rows import FOREVER_NS, NEVER_NS, Int64Array, concat
from engine.query.samples import SampleStore
from engine.rollups.dirty import DirtyBuckets
from engine.segments.layout import SegmentMeta, SegmentSpec
from engine.segments.manifest import ManifestStore
from engine.segments.merge import merge_segments
from engine.segments.plan import SealTask, costly, plan_seal
from engine.segments.written import WrittenColumns
from engine.vitals import Vitals
from engine.wal.writer import WalWriter

LOG = logging.getLogger("tidegauge.sealing")

#: What share of the limits sealing aims for once a limit has been reached.
RELIEF = 0.8
#: What share of the memory limit is worth sealing because the log is long.
WORTH_SEALING = 0.1
#: How long late rows wait for more before a large segment is written again for them: one of today, an older one.
LATE_WAIT_NS = 4 * NS_PER_HOUR
OLD_LATE_WAIT_NS = NS_PER_DAY
#: ... but only while the log is shorter than this share of its limit.
LATE_LOG_SHARE = 0.25
#: Columns of segments that end this long before the newest row of their table are not kept in memory.
KEPT_NS = NS_PER_DAY
#: How often finished windows are looked for.
CHECK_NS = 5 * NS_PER_MINUTE
#: As many tables, or rows, are sealed between two commits of the manifest: a commit writes all of it.
GROUP_TABLES = 64
GROUP_ROWS = 2_000_000
#: How often the log is looked at for files that may go.
TRIM_NS = 15 * NS_PER_SECOND


@dataclass(slots=True)
class _Sealed:
    """What has been written of one table and does not count yet."""

    table_id: int
    blocks: list[Block]
    added: list[SegmentMeta] = field(default_factory=list)
    removed: list[SegmentMeta] = field(default_factory=list)
    ranges: list[tuple[int, int]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(meta.rows for meta in self.added)


class Sealer:
    """Seals the tables of one engine; one seal at a time."""

    def __init__(
        self,
        *,
        fs: FileSystem,
        root: str,
        settings: Storage,
        catalog: Catalog,
        samples: SampleStore,
        manifest: ManifestStore,
        wal: WalWriter,
        dirty: DirtyBuckets,
        commit_lock: AbstractContextManager[object],
        vitals: Vitals,
        clock: Clock,
    ) -> None:
        self._fs, self._root, self._settings = fs, root, settings
        self._catalog, self._samples, self._hot = catalog, samples, samples.hot
        self._manifest, self._wal, self._dirty = manifest, wal, dirty
        self._commit_lock, self._vitals, self._clock = commit_lock, vitals, clock
        self._sealing = threading.Lock()
        self._last_ns = self._trimmed_ns = self._late_ns = self._old_late_ns = clock.now_ns()
        self._persisted_for = 0
        #: Late rows that have been left in memory by the last seal, by table.
        self._waiting: dict[int, int] = {}

    def run(self) -> int:
        """Seal what is due: finished windows from time to time, more when memory or log are at their limit."""
        now_ns = self._clock.now_ns()
        self._keep_definitions()
        if now_ns - self._trimmed_ns >= TRIM_NS:
            # Tiers catch up after samples have been sealed; only then may the log go.
            self._trimmed_ns = now_ns
            self.trim_log()
        if self._waiting and self._wal.bytes_on_disk > LATE_LOG_SHARE * int(self._settings.wal_limit):
            # The log cannot be shortened while rows wait whose only durable copy it is, and a start has to replay it.
            return self.seal()
        if self._pressed():
            sealed = self.seal(finished_only=True, patient=True)
            if self._pressed(RELIEF):
                sealed += self.seal(patient=True)
            if self._pressed(RELIEF):
                sealed += self.seal()
            return sealed
        if now_ns - self._last_ns >= min(CHECK_NS, int(self._settings.seal_after)):
            self._last_ns = now_ns
            window = int(self._settings.partition)
            return self.seal(before_ns=(now_ns - int(self._settings.seal_after)) // window * window, patient=True)
        return 0

    def _keep_definitions(self) -> None:
        """Persist the catalogue for each log file that has been begun.

        A file that is damaged later then takes no definition with it that frames behind it build upon.
        """
        newest = self._wal.newest_file_sequence
        if newest != self._persisted_for:
            self._catalog.persist()
            self._persisted_for = newest

    def _pressed(self, share: float = 1.0) -> bool:
        held = self._hot.nbytes / int(self._settings.hot_limit)
        # A long log presses only while there is something to seal; otherwise it waits for the tiers.
        logged = self._wal.bytes_on_disk / int(self._settings.wal_limit)
        return held > share or (logged > share and held > WORTH_SEALING)

    @property
    def waiting_rows(self) -> int:
        """How many late rows wait in memory, since writing their segments again is not yet worth it."""
        return sum(self._waiting.values())

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep segments from being replaced by sealing inside."""
        with self._sealing:
            yield

    def seal(self, before_ns: int = FOREVER_NS, *, finished_only: bool = False, patient: bool = False) -> int:
        """Seal every row older than ``before_ns``; return how many segments were written.

        ``finished_only`` leaves out the window that holds each table's newest row, which is likely to get more;
        ``patient`` late rows that had better wait for company.
        """
        with self._sealing:
            written = 0
            # Segments that end in here may be written again for a few rows.
            now_ns = self._clock.now_ns()
            spared_ns: tuple[int, int] | None = None
            if patient:
                recent, old = now_ns - self._late_ns >= LATE_WAIT_NS, now_ns - self._old_late_ns >= OLD_LATE_WAIT_NS
                self._late_ns = now_ns if recent else self._late_ns
                self._old_late_ns = now_ns if old else self._old_late_ns
                border_ns = now_ns // NS_PER_DAY * NS_PER_DAY
                spared_ns = (NEVER_NS if not old else border_ns, border_ns if recent else FOREVER_NS)
            group: list[_Sealed] = []
            for table_id in self._hot.table_ids():
                until_ns = before_ns
                if finished_only:
                    window = int(self._settings.partition)
                    until_ns = min(until_ns, self._samples.newest_time_ns(table_id) // window * window)
                sealed = self._seal_table(table_id, until_ns, spared_ns)
                if sealed is not None:
                    group.append(sealed)
                    written += len(sealed.added)
                if len(group) >= GROUP_TABLES or sum(each.rows for each in group) >= GROUP_ROWS:
                    self._commit(group)
                    group = []
            self._commit(group)
            self.trim_log()
            return written

    def _commit(self, group: list[_Sealed]) -> None:
        """Let what has been written count: one manifest for all, then the switch of each table's readers."""
        if not group:
            return
        self._catalog.persist()
        self._manifest.commit(
            add=[meta for each in group for meta in each.added],
            remove=[meta for each in group for meta in each.removed],
        )
        for each in group:
            self._samples.swap(each.table_id, each.added, each.removed, each.blocks, each.ranges, self._delete)
            self._vitals.seals.labels("written").inc(len(each.added))
            self._vitals.sealed_samples.inc(sum(meta.samples for meta in each.added))

    def _seal_table(self, table_id: int, before_ns: int, spared_ns: tuple[int, int] | None) -> _Sealed | None:
        with self._commit_lock:
            blocks = self._hot.freeze(table_id)
            through = self._hot.applied_sequence
        self._waiting.pop(table_id, None)
        if not blocks:
            return None
        times: Int64Array = np.concatenate([block.view().times for block in blocks])
        times = times[times < before_ns]
        existing = self._samples.segments(table_id)
        if spared_ns is not None:
            begin_ns, end_ns = spared_ns
            dear = costly([meta for meta in existing if begin_ns <= meta.max_time_ns < end_ns], times)
            if dear.any():
                self._waiting[table_id] = int(dear.sum())
                times = times[~dear]
        tasks = plan_seal(existing, times, base_window_ns=int(self._settings.partition))
        if not tasks:
            return None
        sealed = _Sealed(table_id, blocks)
        for task in tasks:
            try:
                written = self._to_keep(table_id, task)
                meta = self._write(table_id, task, blocks, _sealed_through(task, through), written)
            except Damage as error:
                # These rows stay in memory and in the log until the file is repaired or gone; others must not wait.
                self._vitals.seals.labels("damaged").inc()
                self._manifest.note_damage(error)
                LOG.error("rows of %s stay in the log: %s", self._catalog.table_name(table_id), error.message)
                continue
            if meta is not None:
                sealed.added.append(meta)
                if written is not None:
                    # Nobody asks for it before it counts, and if it never does it grows old there.
                    written.put(self._samples.columns, self._root, meta)
                share = task.new_rows / max(1, task.new_rows + task.rewritten_rows)
                self._vitals.wrote("sealed", task.new_rows, round(meta.bytes * share))
                self._vitals.wrote("rewritten", task.rewritten_rows, meta.bytes - round(meta.bytes * share))
            sealed.removed.extend(task.replaces)
            sealed.ranges.append((task.start_ns, task.end_ns))
        return sealed if sealed.ranges else None

    def _to_keep(self, table_id: int, task: SealTask) -> WrittenColumns | None:
        """Return what takes a segment's columns for queries; None for pooled tables and for what nobody asks for next.

        A pooled table has few rows of a series in a row group, and all its series would push the others out.
        """
        if self._catalog.is_pooled(table_id) or task.end_ns < self._samples.newest_time_ns(table_id) - KEPT_NS:
            return None
        return WrittenColumns(self._samples.columns.max_bytes // 2)

    def _write(
        self, table_id: int, task: SealTask, blocks: list[Block], through: int, written: WrittenColumns | None
    ) -> SegmentMeta | None:
        """Write all rows of a range, each key once: segments first, late rows last, as they arrived."""
        over = concat(
            [
                block.view().between(task.start_ns, task.end_ns)
                for late in (False, True)
                for block in blocks
                if block.late is late and block.min_time_ns < task.end_ns and block.max_time_ns >= task.start_ns
            ]
        )
        spec = SegmentSpec(
            table_id=table_id,
            table=self._catalog.table_name(table_id),
            start_ns=task.start_ns,
            end_ns=task.end_ns,
            sealed_through=through,
            sequence=self._manifest.reserve_sequence(),
            field_names={field.field_id: field.name for field in self._catalog.fields(table_id)},
            created_ns=self._clock.now_ns(),
            routed=self._catalog.is_pooled(table_id),
        )
        with self._samples.unhidden():
            return merge_segments(
                self._fs,
                self._root,
                spec,
                task.replaces,
                over,
                self._catalog.tag_columns,
                self._samples.read,
                written=written,
            )

    def _delete(self, meta: SegmentMeta) -> None:
        self._manifest.delete_file(meta)

    def trim_log(self) -> None:
        """Delete the log files whose every row is in segments and tiers."""
        with self._commit_lock:
            oldest = self._hot.oldest_sequence()
            floor = self._hot.applied_sequence if oldest is None else oldest - 1
        floor = min(floor, self._dirty.flushed_sequence)
        if floor > self._manifest.current.wal_floor:
            self._catalog.persist()
            self._manifest.commit(wal_floor=floor)
        self._wal.drop_through(self._manifest.droppable_through)


def _sealed_through(task: SealTask, applied_sequence: int) -> int:
    """Return through which sequence a new segment holds every row of its range.

    While the log is being replayed the segments that are replaced may know more than what has been applied.  Where
    they fill the range, rows that they hold must not be applied again: an older one would come after a newer one.
    """
    at = task.start_ns
    for meta in sorted(task.replaces, key=lambda meta: meta.start_ns):
        if meta.start_ns > at:
            break
        at = max(at, meta.end_ns)
    if not task.replaces or at < task.end_ns:
        return applied_sequence
    return max(applied_sequence, min(meta.sealed_through for meta in task.replaces))
