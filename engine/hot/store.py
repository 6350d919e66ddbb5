"""The hot store: every row that is in the log and not yet in a segment.

Rows are kept in two kinds of blocks.  A row is *advancing* when it is newer than everything its tag set has had
before, so its key cannot exist anywhere else; all other rows (out of order, repeated, corrected) are *late*.  Readers
therefore have nothing to merge unless a late row falls into the time they ask for.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.clock import NS_PER_MINUTE
from engine.hot.block import MAX_BLOCK_ROWS, Block
from engine.model.rows import FOREVER_NS, NEVER_NS, Float64Array, Int32Array, Int64Array, Rows
from engine.segments.deletions import Hole, hole_mask, without_holes
from native.arrival import newest_rows, split_late, touched_rows, update_latest
from native.columns import is_absent


@dataclass(frozen=True, slots=True)
class BlockView:
    """The rows of one block at the moment of a snapshot, in order of arrival or sorted."""

    block: Block
    rows: Rows
    min_time_ns: int
    max_time_ns: int

    @property
    def late(self) -> bool:
        return self.block.late


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest sample of one field for every tag set of a table that has one.

    ``tagset_ids``: int32[n] in order of first sight; ``times``: int64[n]; ``values``: float64[n].
    """

    tagset_ids: Int32Array
    times: Int64Array
    values: Float64Array


class HotTable:
    """Blocks of one table and the newest value of each of its series."""

    def __init__(self) -> None:
        self.field_ids: tuple[int, ...] = ()
        self.blocks: list[Block] = []
        self.advancing: Block | None = None
        self.late: Block | None = None
        self.local_count = 0
        self.local_tagsets: Int32Array = np.empty(64, np.int32)
        self.latest_times: dict[int, Int64Array] = {}
        self.latest_values: dict[int, Float64Array] = {}

    @property
    def nbytes(self) -> int:
        return sum(block.nbytes for block in self.blocks)

    def open_block(self, field_ids: tuple[int, ...], rows: int, *, late: bool) -> Block:
        """Return the block that takes ``rows`` more rows with these fields, starting another where needed."""
        if not set(field_ids) <= set(self.field_ids):
            self.field_ids = tuple(sorted({*self.field_ids, *field_ids}))
        current = self.late if late else self.advancing
        filled = current is not None and current.count > MAX_BLOCK_ROWS // 2
        if current is not None and (
            current.frozen
            or current.count + rows > MAX_BLOCK_ROWS
            or (current.field_ids != field_ids and not set(field_ids) <= set(current.field_ids))
        ):
            current.frozen = True
            current = None
        if current is None:
            # A table that has filled a block is likely to fill the next one too: no growing, no copying.
            usual = MAX_BLOCK_ROWS if filled else 256
            current = Block(self.field_ids, late=late, capacity=max(usual, rows))
            self.blocks.append(current)
            if late:
                self.late = current
            else:
                self.advancing = current
        return current


class HotStore:
    """All tables' recent rows.  Appending is the committing thread's; everything else is for any thread."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._tables: dict[int, HotTable] = {}
        self._last_times: Int64Array = np.full(1024, NEVER_NS, np.int64)
        self._local_index: Int32Array = np.full(1024, -1, np.int32)
        self._marks: Int32Array = np.full(1024, -1, np.int32)
        self._nbytes: int | None = 0
        self.applied_sequence = 0
        self.rows_total = 0
        self.late_rows_total = 0

    # --- writing

    def append(self, table_id: int, rows: Rows, sequence: int) -> int:
        """Add rows in order of arrival; return how many were late."""
        if not len(rows):
            return 0
        with self.lock:
            table = self._tables.setdefault(table_id, HotTable())
            self._reserve(int(rows.tagset_ids.max()) + 1)
            late_count, mask = split_late(rows.tagset_ids, rows.times, self._last_times)
            if mask is None:
                self._append_to(table, rows, sequence, late=False)
            else:
                late = rows.take(mask)
                if late_count < len(rows):
                    self._append_to(table, rows.take(~mask), sequence, late=False)
                self._append_to(table, late, sequence, late=True)
            self._update_latest(table, rows)
            self.rows_total += len(rows)
            self.late_rows_total += late_count
            return late_count

    def _append_to(self, table: HotTable, rows: Rows, sequence: int, *, late: bool) -> None:
        block = table.open_block(rows.field_ids, len(rows), late=late)
        if block.count == 0 or block.count + len(rows) > block.capacity:
            self._nbytes = None
        block.append(rows, sequence)

    def _reserve(self, tagsets: int) -> None:
        if tagsets > len(self._last_times):
            size = max(tagsets, 2 * len(self._last_times))
            last_times = np.full(size, NEVER_NS, np.int64)
            last_times[: len(self._last_times)] = self._last_times
            local_index = np.full(size, -1, np.int32)
            local_index[: len(self._local_index)] = self._local_index
            self._last_times, self._local_index = last_times, local_index
            self._marks = np.full(size, -1, np.int32)

    def _update_latest(self, table: HotTable, rows: Rows) -> None:
        every = rows
        newest = newest_rows(rows.tagset_ids, rows.times, self._marks)
        if 2 * len(newest) < len(rows):
            # Only the newest row of each tag set can matter, save for fields that it does not have.
            values = np.take(rows.values, newest, axis=1)
            rows = Rows(rows.tagset_ids[newest], rows.times[newest], rows.field_ids, values)
        local = self._local_index[rows.tagset_ids]
        if (local < 0).any():
            new = rows.tagset_ids[local < 0]
            _, first = np.unique(new, return_index=True)
            new = new[np.sort(first)]
            end = table.local_count + len(new)
            if end > len(table.local_tagsets):
                grown = np.empty(max(end, 2 * len(table.local_tagsets)), np.int32)
                grown[: table.local_count] = table.local_tagsets[: table.local_count]
                table.local_tagsets = grown
            table.local_tagsets[table.local_count : end] = new
            self._local_index[new] = np.arange(table.local_count, end, dtype=np.int32)
            table.local_count = end
            local = self._local_index[rows.tagset_ids]
        capacity = len(table.local_tagsets)
        for index, field in enumerate(rows.field_ids):
            times = table.latest_times.get(field)
            if times is None or len(times) < capacity:
                grown_times = np.full(capacity, NEVER_NS, np.int64)
                grown_values = np.full(capacity, np.nan, np.float64)
                if times is not None:
                    grown_times[: len(times)] = times
                    grown_values[: len(times)] = table.latest_values[field]
                table.latest_times[field], table.latest_values[field] = grown_times, grown_values
            latest = table.latest_times[field], table.latest_values[field]
            if rows is every or not is_absent(rows.values[index]).any():
                update_latest(local, rows.times, rows.values[index], *latest)
            else:
                update_latest(self._local_index[every.tagset_ids], every.times, every.values[index], *latest)

    def touched_minutes(self, rows: Rows) -> tuple[Int32Array, Int64Array]:
        """Return tag sets and minutes (their starts) that cover all of the rows', which have been appended."""
        with self.lock:
            return touched_rows(rows.tagset_ids, rows.times, NS_PER_MINUTE, self._marks)

    def assume_seen(self, tagset_ids: Int32Array, until_ns: int) -> None:
        """Treat rows of these tag sets at or before ``until_ns`` as late: segments may hold the same keys."""
        if len(tagset_ids):
            with self.lock:
                self._reserve(int(tagset_ids.max()) + 1)
                self._last_times[tagset_ids] = np.maximum(self._last_times[tagset_ids], until_ns)

    # --- reading

    def table_ids(self) -> list[int]:
        with self.lock:
            return list(self._tables)

    def snapshot(self, table_id: int, start_ns: int, end_ns: int) -> tuple[BlockView, ...]:
        """Return the blocks with rows in ``[start_ns, end_ns)`` in order of arrival, advancing ones first."""
        with self.lock:
            table = self._tables.get(table_id)
            if table is None:
                return ()
            views = [
                BlockView(block, block.view(), block.min_time_ns, block.max_time_ns)
                for block in table.blocks
                if block.count and block.min_time_ns < end_ns and block.max_time_ns >= start_ns
            ]
        return tuple(sorted(views, key=lambda view: view.late))

    def latest(self, table_id: int, field_id: int) -> Latest | None:
        """Return the newest sample of every series of one field, or None when it has had none since start."""
        with self.lock:
            table = self._tables.get(table_id)
            if table is None or field_id not in table.latest_times:
                return None
            count = table.local_count
            times = table.latest_times[field_id][:count].copy()
            values = table.latest_values[field_id][:count].copy()
            tagset_ids = table.local_tagsets[:count].copy()
        present = times != NEVER_NS
        if present.all():
            return Latest(tagset_ids, times, values)
        return Latest(tagset_ids[present], times[present], values[present])

    @property
    def nbytes(self) -> int:
        """How much memory the blocks take; asked for with every write, so it is summed up only after it has changed."""
        with self.lock:
            if self._nbytes is None:
                self._nbytes = sum(table.nbytes for table in self._tables.values())
            return self._nbytes

    def held_rows(self) -> int:
        """Return how many rows are held that are not yet in a segment."""
        with self.lock:
            return sum(block.count for table in self._tables.values() for block in table.blocks)

    def block_numbers(self) -> set[int]:
        with self.lock:
            return {block.number for table in self._tables.values() for block in table.blocks}

    # --- sealing

    def freeze(self, table_id: int) -> list[Block]:
        """Stop appending to the table's blocks and return them: they hold every row applied so far."""
        with self.lock:
            table = self._tables.get(table_id)
            if table is None:
                return []
            for block in table.blocks:
                block.frozen = True
            table.advancing = table.late = None
            return list(table.blocks)

    def replace(self, table_id: int, sealed: Sequence[Block], ranges: Sequence[tuple[int, int]]) -> None:
        """Drop from the ``sealed`` blocks every row in the half-open time ``ranges``: segments hold them now."""
        remaining: dict[int, Block | None] = {}
        for block in sealed:
            rows = block.view()
            keep = np.ones(len(rows), np.bool_)
            for start_ns, end_ns in ranges:
                keep &= ~((rows.times >= start_ns) & (rows.times < end_ns))
            remaining[block.number] = block if keep.all() else block.without(keep)
        with self.lock:
            table = self._tables[table_id]
            blocks = [remaining.get(block.number, block) for block in table.blocks]
            table.blocks = [block for block in blocks if block is not None]
            self._nbytes = None

    def oldest_sequence(self) -> int | None:
        """Return the lowest log sequence of a row held here, or None when nothing is held."""
        with self.lock:
            sequences = [b.first_sequence for table in self._tables.values() for b in table.blocks if b.count]
        return min(sequences) if sequences else None

    def oldest_sequence_in(self, table_id: int, start_ns: int, end_ns: int) -> int | None:
        """Return a log sequence that no row held of this table and time is older than, None when none is held."""
        found = None
        for view in self.snapshot(table_id, start_ns, end_ns):
            times = view.rows.times
            if ((times >= start_ns) & (times < end_ns)).any():
                found = min(view.block.first_sequence, found or view.block.first_sequence)
        return found

    def delete(self, table_id: int, hole: Hole) -> int:
        """Forget the rows in a hole, and what was the newest because of them; return how many rows."""
        with self.lock:
            table = self._tables.get(table_id)
            if table is None:
                return 0
            blocks = self.freeze(table_id)
            kept: list[Block] = []
            gone = 0
            for block in blocks:
                rows = block.view()
                left = without_holes(rows, (hole,))
                gone += len(rows) - len(left)
                if left is rows:
                    kept.append(block)
                elif len(left):
                    kept.append(block.of(left))
            table.blocks = kept
            self._nbytes = None
            seen = table.local_tagsets[: table.local_count]
            for field, times in table.latest_times.items():
                known = Rows(seen, times[: table.local_count], (), np.empty((0, table.local_count)))
                lost = hole_mask(known, hole)
                times[: table.local_count][lost] = NEVER_NS
                table.latest_values[field][: table.local_count][lost] = np.nan
            for block in sorted(kept, key=lambda block: block.late):
                rows = block.view()
                if hole.tagsets is not None:
                    rows = rows.take(hole_mask(rows, Hole(NEVER_NS, FOREVER_NS, hole.tagsets)))
                if len(rows):
                    self._update_latest(table, rows)
            return gone

    def drop(self, table_id: int, before_ns: int) -> int:
        """Forget rows older than ``before_ns`` (retention); return how many."""
        if not any(view.min_time_ns < before_ns for view in self.snapshot(table_id, NEVER_NS, before_ns)):
            return 0
        blocks = self.freeze(table_id)
        dropped = sum(int((block.view().times < before_ns).sum()) for block in blocks)
        self.replace(table_id, blocks, [(NEVER_NS, before_ns)])
        return dropped
