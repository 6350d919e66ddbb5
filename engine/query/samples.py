"""Every raw sample there is, exactly once: sealed segments and hot blocks seen as one.

A *snapshot* is taken under one lock, so that a row is seen either in its hot block or in its segment.  Files that a
seal has replaced are deleted only when no reader from before is left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from engine.disk.filesystem import FileSystem
from engine.hot.block import Block
from engine.hot.store import BlockView, HotStore, remaining_of
from engine.model.rows import FOREVER_NS, NEVER_NS, Float64Array, Int32Array, Int64Array, Rows, concat, sort_merge
from engine.model.selection import FEW_TAGSETS
from engine.segments.columns import (
    DEFAULT_CACHE_BYTES,
    KEYS,
    ColumnCache,
    KeptGroup,
    OpenSegment,
    kept_groups,
    search_segment,
)
from engine.segments.deletions import Deletion, Hole, expired_hole, holes_of, without_holes
from engine.segments.footer import FooterCache, damage_at, map_segment
from engine.segments.layout import FieldColumn, SegmentMeta
from engine.segments.reader import decode_field, decode_keys, read_segment, segment_path

#: Bytes of a row's tag set and time.
KEY_BYTES = 12


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The sources of one table for one time range.

    ``settled``: segments without a late row in their time, to be read as they are; ``disturbed``: segments that late
    rows may correct; ``fresh``: hot blocks of rows that exist nowhere else; ``late``: the others, in order of arrival.
    """

    table_id: int
    start_ns: int
    end_ns: int
    settled: tuple[SegmentMeta, ...]
    disturbed: tuple[SegmentMeta, ...]
    fresh: tuple[BlockView, ...]
    late: tuple[BlockView, ...]


@dataclass(frozen=True, slots=True)
class RowColumns:
    """Rows as columns that may lie apart.  ``columns``: float64[n] by field.  The arrays are shared: read only.

    ``in_order``: the rows ascend by (tag set, time).
    """

    tagset_ids: Int32Array
    times: Int64Array
    columns: dict[int, Float64Array]
    in_order: bool

    @staticmethod
    def of(rows: Rows, *, in_order: bool) -> RowColumns:
        columns = {field_id: rows.values[place] for place, field_id in enumerate(rows.field_ids)}
        return RowColumns(rows.tagset_ids, rows.times, columns, in_order)


class SampleStore:
    """Segments and hot store of one engine, read together."""

    def __init__(
        self,
        fs: FileSystem,
        root: str,
        hot: HotStore,
        segments: Sequence[SegmentMeta],
        deletions: Sequence[Deletion] = (),
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        """``cache_bytes``: for decoded columns of segments that are searched."""
        self.hot = hot
        self._fs, self._root = fs, root
        self._segments: dict[int, tuple[SegmentMeta, ...]] = {}
        #: What has been deleted and may still be in a segment; replaced whole, never changed.
        self.deletions: tuple[Deletion, ...] = tuple(deletions)
        self._hidden_before_ns: dict[int, int] = {}
        self._unhidden = threading.local()
        self._footers = FooterCache()
        #: Decoded columns of segments that were searched lately.
        self.columns = ColumnCache(cache_bytes)
        self._lock = threading.Lock()
        self._epoch = 0
        self._readers: dict[int, int] = {}
        self._doomed: list[tuple[int, Callable[[], None]]] = []
        for meta in segments:
            self._segments[meta.table_id] = (*self._segments.get(meta.table_id, ()), meta)

    # --- who reads

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep the files of every snapshot taken inside from being deleted."""
        with self._lock:
            epoch = self._epoch
            self._readers[epoch] = self._readers.get(epoch, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                self._readers[epoch] -= 1
                if not self._readers[epoch]:
                    del self._readers[epoch]
            self._sweep()

    def _sweep(self) -> None:
        with self._lock:
            oldest = min(self._readers, default=self._epoch + 1)
            ready = [remove for epoch, remove in self._doomed if epoch < oldest]
            self._doomed = [(epoch, remove) for epoch, remove in self._doomed if epoch >= oldest]
        for remove in ready:
            remove()

    # --- what changes

    def segments(self, table_id: int | None = None) -> tuple[SegmentMeta, ...]:
        if table_id is not None:
            return self._segments.get(table_id, ())
        return tuple(meta for metas in self._segments.values() for meta in metas)

    def swap(
        self,
        table_id: int,
        added: Sequence[SegmentMeta],
        removed: Sequence[SegmentMeta],
        sealed: Sequence[Block],
        ranges: Sequence[tuple[int, int]],
        delete: Callable[[SegmentMeta], None],
    ) -> None:
        """Let ``added`` take the place of ``removed`` and of the sealed rows, at one instant for every reader."""
        gone = {meta.file for meta in removed}
        # Before the lock, which every write waits for.
        remaining = remaining_of(sealed, ranges)
        with self.hot.lock:
            kept = [meta for meta in self._segments.get(table_id, ()) if meta.file not in gone]
            self._segments[table_id] = tuple(sorted([*kept, *added], key=lambda meta: meta.start_ns))
            if sealed:
                self.hot.put(table_id, remaining)
        with self._lock:
            doomed = [(self._epoch, lambda meta=meta: delete(meta)) for meta in removed]
            self._doomed.extend(doomed)
            self._epoch += 1
        self._sweep()

    def delete(self, deletions: Sequence[Deletion], new: Sequence[Deletion] = ()) -> int:
        """Let ``deletions`` count, of which ``new`` take effect on rows in memory; return how many of these went."""
        with self.hot.lock:
            self.deletions = tuple(deletions)
            return sum(self.hot.delete(each.table_id, each.hole) for each in new)

    def hide_before(self, table_id: int, before_ns: int) -> None:
        """Let no reader see a row of a table that is older than ``before_ns`` any more."""
        with self.hot.lock:
            if before_ns > self._hidden_before_ns.get(table_id, NEVER_NS):
                self._hidden_before_ns[table_id] = before_ns

    @contextmanager
    def unhidden(self) -> Iterator[None]:
        """Let this thread see what is only hidden and has not gone: tiers may still need it, rewriting keeps it."""
        before = getattr(self._unhidden, "active", False)
        self._unhidden.active = True
        try:
            yield
        finally:
            self._unhidden.active = before

    def _visible_from_ns(self, table_id: int) -> int:
        if getattr(self._unhidden, "active", False):
            return NEVER_NS
        return self._hidden_before_ns.get(table_id, NEVER_NS)

    def holes(self, meta: SegmentMeta) -> tuple[Hole, ...]:
        """Return which rows of a segment do not count: deleted ones, and those that have outlived their retention."""
        holes = holes_of(self.deletions, meta) if self.deletions else ()
        visible_from_ns = self._visible_from_ns(meta.table_id)
        return holes if meta.min_time_ns >= visible_from_ns else (*holes, expired_hole(visible_from_ns))

    # --- reading

    def snapshot(self, table_id: int, start_ns: int, end_ns: int) -> Snapshot:
        """Return the sources that may hold rows with ``start_ns <= time < end_ns``; retention may raise the start."""
        start_ns = max(start_ns, self._visible_from_ns(table_id))
        with self.hot.lock:
            segments = [
                meta
                for meta in self._segments.get(table_id, ())
                if meta.min_time_ns < end_ns and meta.max_time_ns >= start_ns
            ]
            views = self.hot.snapshot(table_id, start_ns, end_ns)
        late = tuple(view for view in views if view.late)
        settled: list[SegmentMeta] = []
        disturbed: list[SegmentMeta] = []
        for meta in segments:
            (disturbed if any_between(late, meta.min_time_ns, meta.max_time_ns) else settled).append(meta)
        fresh = tuple(view for view in views if not view.late)
        return Snapshot(table_id, start_ns, end_ns, tuple(settled), tuple(disturbed), fresh, late)

    def prompt_snapshot(self, table_id: int, start_ns: int, end_ns: int) -> Snapshot | None:
        """Return the same snapshot at once, all segments taken for settled; None where a write is under way."""
        if not self.hot.lock.acquire(blocking=False):
            return None
        try:
            start_ns = max(start_ns, self._visible_from_ns(table_id))
            views = self.hot.snapshot(table_id, start_ns, end_ns)
            segments = tuple(
                meta
                for meta in self._segments.get(table_id, ())
                if meta.min_time_ns < end_ns and meta.max_time_ns >= start_ns
            )
        finally:
            self.hot.lock.release()
        late: tuple[BlockView, ...] = ()
        if views and views[-1].late:
            # They are the last ones.
            late = tuple(view for view in views if view.late)
            views = views[: -len(late)]
        return Snapshot(table_id, start_ns, end_ns, segments, (), views, late)

    def newest_time_ns(self, table_id: int) -> int:
        """Return the newest time of a row of the table, or the earliest possible time when it has none."""
        with self.hot.lock:
            times = [meta.max_time_ns for meta in self._segments.get(table_id, ())]
            times += [view.max_time_ns for view in self.hot.snapshot(table_id, NEVER_NS, FOREVER_NS)]
        return max(times, default=NEVER_NS)

    def expected_rows(self, table_id: int, start_ns: int, end_ns: int) -> int:
        """Return about how many rows the range holds, assuming that each source is evenly spread over its time."""
        return sum(self.expected_sources(table_id, start_ns, end_ns))

    def expected_sources(self, table_id: int, start_ns: int, end_ns: int) -> tuple[int, int]:
        """Return the same apart: about how many rows are in files, and how many in memory."""
        with self.hot.lock:
            sources = [(m.min_time_ns, m.max_time_ns, m.rows) for m in self._segments.get(table_id, ())]
            views = self.hot.snapshot(table_id, start_ns, end_ns)
        in_files = _expected(sources, start_ns, end_ns)
        in_memory = _expected([(v.min_time_ns, v.max_time_ns, len(v.rows)) for v in views], start_ns, end_ns)
        return in_files, in_memory

    def at_least(self, table_id: int, start_ns: int, end_ns: int, tagset_ids: Int32Array, enough: int) -> int:
        """Return a number of rows that there certainly are of these tag sets (ascending) in the range.

        It is that of the row groups that hold nothing else; counting ends beyond ``enough``.  Raises Damage.
        """
        found = 0
        with self.reading():
            snapshot = self.snapshot(table_id, start_ns, end_ns)
            for meta in (*snapshot.settled, *snapshot.disturbed):
                found += self.open_segment(meta).footer.certain_rows(start_ns, end_ns, tagset_ids)
                if found > enough:
                    break
        return found

    def known_segment(self, meta: SegmentMeta) -> OpenSegment | None:
        """Return a segment if it has been opened lately."""
        path = segment_path(self._root, meta)
        footer = self._footers.known(path, meta)
        return None if footer is None else OpenSegment(self._fs, path, meta, footer)

    def open_segment(self, meta: SegmentMeta) -> OpenSegment:
        """Return a segment of which single columns of row groups are to be decoded.  Raises Damage."""
        known = self.known_segment(meta)
        if known is not None:
            return known
        path = segment_path(self._root, meta)
        footer = self._footers.footer(path, map_segment(self._fs, path), meta)
        return OpenSegment(self._fs, path, meta, footer)

    def read(
        self,
        meta: SegmentMeta,
        start_ns: int,
        end_ns: int,
        tagset_ids: Int32Array | None = None,
        field_ids: tuple[int, ...] | None = None,
    ) -> Rows:
        """Return the rows of a segment that count."""
        if tagset_ids is not None and len(tagset_ids) <= FEW_TAGSETS:
            rows = search_segment(
                self._fs,
                self._root,
                meta,
                start_ns=start_ns,
                end_ns=end_ns,
                tagset_ids=tagset_ids,
                field_ids=field_ids,
                footers=self._footers,
                columns=self.columns,
            )
        else:
            rows = read_segment(
                self._fs,
                self._root,
                meta,
                start_ns=start_ns,
                end_ns=end_ns,
                tagset_ids=tagset_ids,
                field_ids=field_ids,
                cache=self._footers,
            )
        return without_holes(rows, self.holes(meta))

    def kept_columns(
        self, meta: SegmentMeta, start_ns: int, end_ns: int, tagset_ids: Int32Array, field_ids: tuple[int, ...]
    ) -> list[KeptGroup] | None:
        """Return the rows of a segment that may be asked for, as :func:`engine.segments.columns.kept_groups` does.

        None where something would have to be decoded, or where rows do not count.
        """
        if self.holes(meta):
            return None
        return kept_groups(
            segment_path(self._root, meta),
            meta,
            start_ns=start_ns,
            end_ns=end_ns,
            tagset_ids=tagset_ids,
            field_ids=field_ids,
            footers=self._footers,
            columns=self.columns,
        )

    def collect(
        self,
        table_id: int,
        start_ns: int,
        end_ns: int,
        tagset_ids: Int32Array | None = None,
        field_ids: tuple[int, ...] | None = None,
    ) -> Rows:
        """Return the table's rows in ``[start_ns, end_ns)``, sorted by (tag set, time), each key once.

        ``tagset_ids`` (ascending) and ``field_ids`` narrow what is returned; None means all.
        """
        return sort_merge(self.gather(table_id, start_ns, end_ns, tagset_ids, field_ids))

    def undecoded_cells(
        self, table_id: int, start_ns: int, end_ns: int, tagset_ids: Int32Array | None, field_ids: tuple[int, ...]
    ) -> int:
        """Return how many cells of row groups have to be decoded to read these, keys included.  Raises Damage."""
        cells = 0
        with self.reading():
            snapshot = self.snapshot(table_id, start_ns, end_ns)
            for meta in (*snapshot.settled, *snapshot.disturbed):
                opened = self.open_segment(meta)
                for group in opened.footer.groups_for(snapshot.start_ns, end_ns, tagset_ids):
                    key = (opened.path, meta.footer_crc32c, group)
                    unknown = sum(self.columns.known((*key, field_id)) is None for field_id in (KEYS, *field_ids))
                    if unknown:
                        cells += unknown * int(opened.footer.metadata.row_group(group).num_rows)
        return cells

    def disjoint(
        self,
        table_id: int,
        start_ns: int,
        end_ns: int,
        tagset_ids: Int32Array | None,
        field_ids: tuple[int, ...],
    ) -> Iterator[RowColumns]:
        """Yield the same rows part by part, each key in one of them once; others may be among them.

        The rows of a tag set come in order of time.  Decoded columns of segments are kept as far as they fit.
        """
        with self.reading():
            snapshot = self.snapshot(table_id, start_ns, end_ns)
            if any_between(snapshot.late, snapshot.start_ns, end_ns - 1):
                yield RowColumns.of(self.collect(table_id, start_ns, end_ns, tagset_ids, field_ids), in_order=True)
                return
            segments = (*snapshot.settled, *snapshot.disturbed)
            size = sum(meta.rows for meta in segments) * (KEY_BYTES + 8 * len(field_ids))
            for meta in segments:
                if size <= self.columns.max_bytes // 2 and not self.holes(meta):
                    yield from self._kept_groups(meta, snapshot.start_ns, end_ns, tagset_ids, field_ids)
                else:
                    rows = self.read(meta, snapshot.start_ns, end_ns, tagset_ids, field_ids)
                    yield RowColumns.of(rows, in_order=True)
        for view in snapshot.fresh:
            view.block.searched |= tagset_ids is not None
            if snapshot.start_ns > start_ns:
                # What has outlived its retention is not to be seen, whatever else comes along.
                rows = view.select(snapshot.start_ns, end_ns, tagset_ids, field_ids)
            else:
                rows = view.rows
            yield RowColumns.of(rows, in_order=view.in_order)

    def _kept_groups(
        self,
        meta: SegmentMeta,
        start_ns: int,
        end_ns: int,
        tagset_ids: Int32Array | None,
        field_ids: tuple[int, ...],
    ) -> Iterator[RowColumns]:
        """Yield the row groups of a segment of which all rows count, by way of the columns kept.  Raises Damage."""
        opened = self.open_segment(meta)
        stored: dict[int, list[FieldColumn]] = {}
        for column in opened.footer.header.fields:
            if column.field_id in field_ids:
                stored.setdefault(column.field_id, []).append(column)
        with damage_at(opened.path):
            for group in opened.footer.groups_for(start_ns, end_ns, tagset_ids):
                key = (opened.path, meta.footer_crc32c, group)
                keys = self.columns.column((*key, KEYS), partial(decode_keys, opened.table, group))
                assert isinstance(keys, tuple)
                columns = {}
                for field_id, parts in stored.items():
                    found = self.columns.column((*key, field_id), partial(decode_field, opened.table, group, parts))
                    assert isinstance(found, np.ndarray)
                    columns[field_id] = found
                yield RowColumns(*keys, columns, in_order=True)

    def gather(
        self,
        table_id: int,
        start_ns: int,
        end_ns: int,
        tagset_ids: Int32Array | None = None,
        field_ids: tuple[int, ...] | None = None,
    ) -> Rows:
        """Return the same rows in no order; of rows with the same key the later one wins, field by field."""
        snapshot, parts = self._read_segments(table_id, start_ns, end_ns, tagset_ids, field_ids)
        for view in (*snapshot.fresh, *snapshot.late):
            view.block.searched |= tagset_ids is not None
            parts.append(view.select(snapshot.start_ns, end_ns, tagset_ids, field_ids))
        return concat(parts)

    def parts(self, table_id: int, start_ns: int, end_ns: int, tagset_ids: Int32Array) -> list[Rows]:
        """Return the same rows part by part and without moving those in memory, so that others are among them.

        Of rows with the same key the one in the later part wins, or the later one of a part.
        """
        snapshot, parts = self._read_segments(table_id, start_ns, end_ns, tagset_ids, None)
        for view in (*snapshot.fresh, *snapshot.late):
            looked_up = view.in_order and len(tagset_ids) <= FEW_TAGSETS
            if looked_up or snapshot.start_ns > start_ns:
                parts.append(view.select(snapshot.start_ns, end_ns, tagset_ids, None))
            else:
                parts.append(view.rows)
        return parts

    def _read_segments(
        self,
        table_id: int,
        start_ns: int,
        end_ns: int,
        tagset_ids: Int32Array | None,
        field_ids: tuple[int, ...] | None,
    ) -> tuple[Snapshot, list[Rows]]:
        with self.reading():
            snapshot = self.snapshot(table_id, start_ns, end_ns)
            parts = [
                self.read(meta, snapshot.start_ns, end_ns, tagset_ids, field_ids)
                for meta in (*snapshot.settled, *snapshot.disturbed)
            ]
        return snapshot, parts


def _expected(sources: Sequence[tuple[int, int, int]], start_ns: int, end_ns: int) -> int:
    """Return about how many rows of ``sources``, (first, last, rows) each, lie in the range."""
    expected = 0.0
    for low, high, rows in sources:
        overlap = min(high + 1, end_ns) - max(low, start_ns)
        if overlap > 0:
            expected += rows * overlap / (high + 1 - low)
    return round(expected)


def any_between(views: Sequence[BlockView], low_ns: int, high_ns: int) -> bool:
    """Return whether a row of ``views`` has a time from ``low_ns`` to ``high_ns``, both included."""
    for view in views:
        if view.max_time_ns < low_ns or view.min_time_ns > high_ns:
            continue
        times: Int64Array = view.rows.times
        if ((times >= low_ns) & (times <= high_ns)).any():
            return True
    return False
