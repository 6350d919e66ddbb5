"""Compaction: segments that are many and small become few, as ``engine/segments/compaction.py`` plans it.

A merge runs beside sealing and reading.  It counts only if its inputs are still those that count when it is done;
otherwise its file is given up, and the next run plans anew.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from engine.catalog.catalog import Catalog
from engine.clock import Clock
from engine.disk.filesystem import FileSystem
from engine.errors import Damage, Unavailable
from engine.maintenance.seal import Sealer
from engine.model.rows import NEVER_NS, Int32Array, Rows
from engine.query.samples import SampleStore
from engine.segments.compaction import MergeTask, plan_compaction
from engine.segments.deletions import touches
from engine.segments.layout import ZSTD_LEVEL, SegmentMeta, SegmentSpec
from engine.segments.manifest import ManifestStore
from engine.segments.merge import merge_segments
from engine.vitals import Vitals

LOG = logging.getLogger("tidegauge.compaction")
#: Level of the days that are over: docs/formats/segment.md, "Choices".
COLD_ZSTD_LEVEL = 6
#: A merged file may be this much larger than its inputs together, which it never is in practice.
ROOM_FACTOR = 1.1


class Compactor:
    """Merges the segments of one engine; one merge at a time."""

    def __init__(
        self,
        *,
        fs: FileSystem,
        root: str,
        catalog: Catalog,
        samples: SampleStore,
        manifest: ManifestStore,
        sealer: Sealer,
        commit_lock: AbstractContextManager[object],
        keep_ns: Callable[[int], int | None],
        has_room: Callable[[int], bool],
        vitals: Vitals,
        clock: Clock,
    ) -> None:
        """``keep_ns(table_id)``: how long rows are kept, None for ever; ``has_room(bytes)``: may a file be written."""
        self._fs, self._root, self._catalog = fs, root, catalog
        self._samples, self._manifest, self._sealer = samples, manifest, sealer
        self._commit_lock, self._keep_ns, self._has_room = commit_lock, keep_ns, has_room
        self._vitals, self._clock = vitals, clock
        self._running = threading.Lock()
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Let a merge under way end at its next part; nothing of it remains."""
        self._stopping.set()

    def run(self) -> int:
        """Do the merges that are due; return how many segments took the place of others."""
        with self._running:
            done = 0
            with self._sealer.exclusive():
                # Those that no file and no part of the log can hold any more have left the manifest.
                self._samples.delete(self._manifest.current.deletions)
            for table_id in sorted({meta.table_id for meta in self._samples.segments()}):
                metas = self._samples.segments(table_id)
                tasks = plan_compaction(metas, self._clock.now_ns(), keep_ns=self._keep_ns(table_id))
                for task in (*tasks, *self._with_deleted_rows(metas, tasks)):
                    if self._stopping.is_set():
                        return done
                    done += self._merge(table_id, task)
            return done

    def _with_deleted_rows(self, metas: Sequence[SegmentMeta], tasks: Sequence[MergeTask]) -> list[MergeTask]:
        """Return what rewrites the segments that hold deleted rows, unless they are merged anyway."""
        planned = {meta.file for task in tasks for meta in task.replaces}
        return [
            MergeTask(meta.start_ns, meta.end_ns, (meta,), cold=True)
            for meta in metas
            if meta.file not in planned and any(touches(each, meta) for each in self._samples.deletions)
        ]

    def _merge(self, table_id: int, task: MergeTask) -> bool:
        if not self._has_room(int(task.bytes * ROOM_FACTOR)):
            self._vitals.compactions.labels("no_room").inc()
            return False
        spec = self._spec(table_id, task)
        try:
            with self._samples.unhidden():
                meta = merge_segments(
                    self._fs, self._root, spec, task.replaces, Rows.empty(), self._catalog.tag_columns, self._read
                )
        except Damage as error:
            self._vitals.compactions.labels("damaged").inc()
            self._manifest.note_damage(error)
            LOG.error("segments of %s are not merged: %s", spec.table, error.message)
            return False
        with self._sealer.exclusive():
            if not set(task.replaces) <= set(self._samples.segments(table_id)):
                # Rows were sealed into one of the inputs meanwhile.
                self._vitals.compactions.labels("overtaken").inc()
                if meta is not None:
                    self._manifest.delete_file(meta)
                return False
            added = () if meta is None else (meta,)
            self._manifest.commit(add=added, remove=task.replaces)
            self._samples.swap(table_id, added, task.replaces, (), (), self._manifest.delete_file)
        self._vitals.compactions.labels("done").inc()
        if meta is not None:
            self._vitals.wrote("compacted", meta.rows, meta.bytes)
            LOG.info("merged %d segments of %s into %s", len(task.replaces), meta.table, meta.file)
        return True

    def _spec(self, table_id: int, task: MergeTask) -> SegmentSpec:
        with self._commit_lock:
            # What is in the log up to here is in the new file or was in none of the inputs' ranges; rows of the range
            # that are still in memory must come back after a crash.  Too low a number only means that rows are
            # replayed over themselves.
            held = self._samples.hot.oldest_sequence_in(table_id, task.start_ns, task.end_ns)
            through = min(meta.sealed_through for meta in task.replaces)
            through = through if held is None else min(through, held - 1)
        return SegmentSpec(
            table_id=table_id,
            table=self._catalog.table_name(table_id),
            start_ns=task.start_ns,
            end_ns=task.end_ns,
            sealed_through=through,
            sequence=self._manifest.reserve_sequence(),
            field_names={field.field_id: field.name for field in self._catalog.fields(table_id)},
            created_ns=max(meta.created_ns for meta in task.replaces),
            routed=self._catalog.is_pooled(table_id),
            zstd_level=COLD_ZSTD_LEVEL if task.cold else ZSTD_LEVEL,
        )

    def _read(self, meta: SegmentMeta, start_ns: int, end_ns: int, tagset_ids: Int32Array | None) -> Rows:
        if self._stopping.is_set():
            raise Unavailable(f"cannot merge segments of {meta.table}: the engine is closing")
        return self._samples.read(meta, max(start_ns, NEVER_NS), end_ns, tagset_ids)
