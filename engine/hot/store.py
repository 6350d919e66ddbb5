"""The hot store: every row that is in the log and not yet in a segment.

Rows are kept in two kinds of blocks.  A row is *advancing* when it is newer than everything its tag set has had
before, so its key cannot exist anywhere else; all other rows (out of order, repeated, corrected) are *late*.  Readers
therefore have nothing to merge unless a late row falls into the time they ask for.

What is known of each tag set (its newest time, the newest value of each field) stands in arrays of its table that hold
only tag sets in use.  One that has had no new row for a while is forgotten: should it come back, rows that are not
newer than anything forgotten of its table count as late, which is always right and merely costs a merge.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from engine.clock import NS_PER_MINUTE
from engine.hot.block import MAX_BLOCK_ROWS, UNINDEXED_ROWS, Block, RowIndex
from engine.hot.places import Places
from engine.model.rows import FOREVER_NS, NEVER_NS, Float64Array, Int32Array, Int64Array, Rows, absent_matrix
from engine.model.selection import FEW_TAGSETS, Selection, find_indexed, find_rows, rows_at
from engine.segments.deletions import Hole, hole_mask, without_holes
from native.arrival import newest_rows, split_late, touched_rows, update_latest
from native.columns import is_absent

#: More than all numbers of tag sets.
MAX_TAGSETS = 1 << 31
_generations = itertools.count()
_NO_TIMES: Int64Array = np.empty(0, np.int64)
_NO_VALUES: Float64Array = np.empty(0, np.float64)
_Array = TypeVar("_Array", Int32Array, Int64Array, Float64Array)


def _grown(array: _Array, count: int, size: int, fill: float) -> _Array:
    grown = np.full(size, fill, array.dtype)
    grown[:count] = array[:count]
    return grown


@dataclass(frozen=True, slots=True)
class BlockView:
    """The rows of one block at the moment of a snapshot, in order of arrival or (``in_order``) by (tag set, time)."""

    block: Block
    rows: Rows
    min_time_ns: int
    max_time_ns: int
    in_order: bool = False
    index: RowIndex | None = None

    @property
    def late(self) -> bool:
        return self.block.late

    @property
    def rows_without_order(self) -> int:
        """How many rows have to be looked at one by one to find those of a few tag sets."""
        if self.in_order:
            return 0
        return len(self.rows) - (0 if self.index is None else len(self.index.order))

    def find(self, start_ns: int, end_ns: int, wanted: Int32Array | None) -> Selection:
        """Return the places of rows of ``[start_ns, end_ns)`` with a tag set of ``wanted`` (None: all), ascending."""
        rows, index = self.rows, self.index
        if index is None or self.in_order or wanted is None or len(wanted) > FEW_TAGSETS:
            return find_rows(
                rows.tagset_ids, rows.times, start_ns=start_ns, end_ns=end_ns, wanted=wanted, in_order=self.in_order
            )
        return find_indexed(
            rows.tagset_ids, rows.times, index.tagset_ids, index.order, start_ns=start_ns, end_ns=end_ns, wanted=wanted
        )

    def select(
        self, start_ns: int, end_ns: int, tagset_ids: Int32Array | None, field_ids: tuple[int, ...] | None
    ) -> Rows:
        """Return the rows that :meth:`find` finds, see :func:`engine.model.selection.rows_at`."""
        inside = start_ns <= self.min_time_ns and self.max_time_ns < end_ns
        found = self.find(NEVER_NS if inside else start_ns, FOREVER_NS if inside else end_ns, tagset_ids)
        return rows_at(self.rows, found, field_ids)


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
        # By place: the tag set, its newest time, and room for marks while rows are looked through.
        self.count = 0
        self.tagset_ids: Int32Array = np.empty(64, np.int32)
        self.last_times: Int64Array = np.full(64, NEVER_NS, np.int64)
        self.marks: Int32Array = np.full(64, -1, np.int32)
        # By place as well: the minute that was told last to whom is told which minutes have new rows, and the round.
        self.told_minutes: Int64Array = np.full(64, NEVER_NS, np.int64)
        self.told_round = 0
        self.generation = next(_generations)
        # Tag sets below `seen_below` that have no place may have had rows up to `seen_until_ns`.
        self.seen_below = 0
        self.seen_until_ns = NEVER_NS
        #: Newest samples were deleted: what was the newest before may be in a segment.
        self.lost_newest = False
        self.latest_times: dict[int, Int64Array] = {}
        self.latest_values: dict[int, Float64Array] = {}

    @property
    def nbytes(self) -> int:
        return sum(block.nbytes for block in self.blocks)

    def reserve(self, count: int) -> None:
        """Make room for so many tag sets."""
        if count <= len(self.tagset_ids):
            return
        size = max(count, len(self.tagset_ids) * 5 // 4, 256)
        self.tagset_ids = _grown(self.tagset_ids, self.count, size, -1)
        self.last_times = _grown(self.last_times, self.count, size, NEVER_NS)
        self.marks = np.full(size, -1, np.int32)
        self.told_minutes = _grown(self.told_minutes, self.count, size, NEVER_NS)
        for field in self.latest_times:
            self._reserve_field(field, size)

    def latest_of(self, field_id: int) -> tuple[Int64Array, Float64Array]:
        """Return the arrays of a field's newest times and values, by place."""
        if field_id not in self.latest_times:
            self._reserve_field(field_id, len(self.tagset_ids))
        return self.latest_times[field_id], self.latest_values[field_id]

    def _reserve_field(self, field_id: int, size: int) -> None:
        times = self.latest_times.get(field_id, _NO_TIMES)
        values = self.latest_values.get(field_id, _NO_VALUES)
        self.latest_times[field_id] = _grown(times, len(times), size, NEVER_NS)
        self.latest_values[field_id] = _grown(values, len(values), size, np.nan)

    def keep(self, kept: Int32Array) -> None:
        """Keep only the tag sets at these places, in this order."""
        forgotten = np.ones(self.count, np.bool_)
        forgotten[kept] = False
        self.seen_below = max(self.seen_below, int(self.tagset_ids[: self.count][forgotten].max()) + 1)
        self.seen_until_ns = max(self.seen_until_ns, int(self.last_times[: self.count][forgotten].max()))
        self.count = len(kept)
        # New arrays: whoever still reads the old ones is left alone.
        self.tagset_ids, self.last_times = self.tagset_ids[kept], self.last_times[kept]
        self.marks = np.full(len(kept), -1, np.int32)
        self.told_minutes = np.full(len(kept), NEVER_NS, np.int64)
        for field in self.latest_times:
            self.latest_times[field] = self.latest_times[field][kept]
            self.latest_values[field] = self.latest_values[field][kept]
        self.generation = next(_generations)

    @property
    def series_nbytes(self) -> int:
        """How much memory the arrays by place take."""
        by_field = sum(
            self.latest_times[field].nbytes + self.latest_values[field].nbytes for field in self.latest_times
        )
        return self.tagset_ids.nbytes + self.last_times.nbytes + self.marks.nbytes + self.told_minutes.nbytes + by_field

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
        self._places = Places()
        self._nbytes: int | None = 0
        #: Called when readers begin to search a block that is neither sorted nor indexed: :meth:`arrange` is wanted.
        self.on_search: Callable[[], object] | None = None
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
            places = self._places_in(table, rows.tagset_ids)
            late_count, mask = split_late(places, rows.times, table.last_times)
            if mask is None:
                self._append_to(table, rows, sequence, late=False)
            else:
                late = rows.take(mask)
                if late_count < len(rows):
                    self._append_to(table, rows.take(~mask), sequence, late=False)
                self._append_to(table, late, sequence, late=True)
            self._update_latest(table, places, rows)
            self.rows_total += len(rows)
            self.late_rows_total += late_count
            return late_count

    def _append_to(self, table: HotTable, rows: Rows, sequence: int, *, late: bool) -> None:
        block = table.open_block(rows.field_ids, len(rows), late=late)
        if block.count == 0 or block.count + len(rows) > block.capacity:
            self._nbytes = None
        block.append(rows, sequence)

    def _places_in(self, table: HotTable, tagset_ids: Int32Array) -> Int32Array:
        """Return the places of these tag sets of a table, giving places to new ones."""
        places, missing = self._places.of(tagset_ids)
        if missing:
            new = tagset_ids[places < 0]
            _, first = np.unique(new, return_index=True)
            new = new[np.sort(first)]
            start, end = table.count, table.count + len(new)
            table.reserve(end)
            table.tagset_ids[start:end] = new
            if table.seen_below:
                table.last_times[start:end] = np.where(new < table.seen_below, table.seen_until_ns, NEVER_NS)
            table.count = end
            self._places.assign(new, np.arange(start, end, dtype=np.int32))
            places, _ = self._places.of(tagset_ids)
        return places

    def _update_latest(self, table: HotTable, places: Int32Array, rows: Rows) -> None:
        every, every_place = rows, places
        newest = newest_rows(places, rows.times, table.marks)
        if 2 * len(newest) < len(rows):
            # Only the newest row of each tag set can matter, save for fields that it does not have.
            values = np.take(rows.values, newest, axis=1)
            rows = Rows(rows.tagset_ids[newest], rows.times[newest], rows.field_ids, values)
            places = places[newest]
        for index, field in enumerate(rows.field_ids):
            latest = table.latest_of(field)
            if rows is every or not is_absent(rows.values[index]).any():
                update_latest(places, rows.times, rows.values[index], *latest)
            else:
                update_latest(every_place, every.times, every.values[index], *latest)

    def touched_minutes(self, table_id: int, rows: Rows, told_round: int) -> tuple[Int32Array, Int64Array]:
        """Return tag sets and minutes (their starts) of the rows, which have been appended.

        Those that a tag set was told of last are left out, if that was in the same round.
        """
        with self.lock:
            table = self._tables[table_id]
            if table.told_round != told_round:
                table.told_round = told_round
                table.told_minutes.fill(NEVER_NS)
            places, missing = self._places.of(rows.tagset_ids)
            if not missing:
                touched, minutes = touched_rows(places, rows.times, NS_PER_MINUTE, table.told_minutes)
                return table.tagset_ids[touched], minutes
        # Some were forgotten as soon as they had come: their rows are old.
        distinct, inverse = np.unique(rows.tagset_ids, return_inverse=True)
        told = np.full(len(distinct), NEVER_NS, np.int64)
        touched, minutes = touched_rows(inverse.astype(np.int32), rows.times, NS_PER_MINUTE, told)
        return distinct[touched], minutes

    def assume_seen(self, table_id: int, below: int, until_ns: int) -> None:
        """Treat rows at or before ``until_ns`` of the table's tag sets numbered less than ``below`` as late."""
        with self.lock:
            table = self._tables.setdefault(table_id, HotTable())
            table.seen_below = max(table.seen_below, below)
            table.seen_until_ns = max(table.seen_until_ns, until_ns)
            known = np.flatnonzero(table.tagset_ids[: table.count] < below)
            table.last_times[known] = np.maximum(table.last_times[known], until_ns)

    def forget_idle(self, before_ns: int) -> int:
        """Forget what is known of tag sets without a row at or after ``before_ns``; return how many there were.

        Their rows stay, in blocks and segments.
        """
        with self.lock:
            forgotten = 0
            for table in self._tables.values():
                kept = np.flatnonzero(table.last_times[: table.count] >= before_ns).astype(np.int32)
                if len(kept) < table.count:
                    forgotten += table.count - len(kept)
                    table.keep(kept)
            if forgotten:
                self._places = Places()
                for table in self._tables.values():
                    ids = table.tagset_ids[: table.count]
                    self._places.assign(ids, np.arange(table.count, dtype=np.int32))
            return forgotten

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
                _view_of(block)
                for block in table.blocks
                if block.count and block.min_time_ns < end_ns and block.max_time_ns >= start_ns
            ]
        return tuple(sorted(views, key=lambda view: view.late))

    def tagsets_in_use(self, table_id: int) -> tuple[int, Int32Array]:
        """Return (generation, the table's tag sets in use by place).

        While the generation stays the same, places stay, and new ones come at the end.
        """
        with self.lock:
            table = self._tables.get(table_id)
            return (-1, np.empty(0, np.int32)) if table is None else (table.generation, table.tagset_ids[: table.count])

    def counts_in_use(self) -> Int64Array:
        """Return int64[tables]: how many tag sets of each table are in use; tables beyond have none."""
        with self.lock:
            counts = np.zeros(max(self._tables, default=-1) + 1, np.int64)
            for table_id, table in self._tables.items():
                counts[table_id] = table.count
            return counts

    def latest(
        self, table_id: int, field_id: int, among: tuple[int, npt.NDArray[np.bool_]] | None = None
    ) -> Latest | None:
        """Return the newest sample of every series of one field, or None when it has had none since start.

        ``among``: a generation and which of the first places to look at; another generation gives None.
        """
        with self.lock:
            table = self._tables.get(table_id)
            if table is None or field_id not in table.latest_times:
                return None
            if among is not None and among[0] != table.generation:
                return None
            count = table.count if among is None else len(among[1])
            present = table.latest_times[field_id][:count] != NEVER_NS
            if among is not None:
                present &= among[1]
            return Latest(
                table.tagset_ids[:count][present],
                table.latest_times[field_id][:count][present],
                table.latest_values[field_id][:count][present],
            )

    def latest_of(
        self, table_id: int, tagset_ids: Int32Array, field_ids: Sequence[int]
    ) -> tuple[Int64Array, Float64Array, tuple[int, int]]:
        """Return times int64[fields, n], NEVER_NS where nothing is known, and values of the newest samples; and what
        may not be among them: tag sets below a number, which may have had rows up to a time (ns).
        """
        times = np.full((len(field_ids), len(tagset_ids)), NEVER_NS, np.int64)
        values = absent_matrix(len(field_ids), len(tagset_ids))
        with self.lock:
            table = self._tables.get(table_id)
            if table is None:
                return times, values, (0, NEVER_NS)
            places, _ = self._places.of(tagset_ids)
            known = places >= 0
            places = places[known]
            for index, field_id in enumerate(field_ids):
                if field_id in table.latest_times:
                    times[index, known] = table.latest_times[field_id][places]
                    values[index, known] = table.latest_values[field_id][places]
            unknown = (MAX_TAGSETS, FOREVER_NS) if table.lost_newest else (table.seen_below, table.seen_until_ns)
            return times, values, unknown

    @property
    def series_nbytes(self) -> int:
        """How much memory is taken by what is known of each tag set in use."""
        with self.lock:
            return self._places.nbytes + sum(table.series_nbytes for table in self._tables.values())

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

    def note_search(self, view: BlockView) -> None:
        """Note that few rows of a block are looked for."""
        if view.block.searched:
            return
        view.block.searched = True
        arranged = view.in_order or view.index is not None or view.late
        if self.on_search is not None and not arranged and len(view.rows) >= UNINDEXED_ROWS:
            self.on_search()

    def arrange(self) -> int:
        """Index the frozen blocks of many fields, and those in which readers have searched; sort the latter, if frozen,
        the next time.  Readers then need not look at every row.

        Returns how many blocks were sorted or indexed.  Holds no lock while it does.
        """
        with self.lock:
            blocks = [
                (block, block.frozen)
                for table in self._tables.values()
                for block in table.blocks
                if not (block.late or block.in_order) and (block.searched or (block.frozen and block.is_wide))
            ]
        arranged = 0
        for block, frozen in blocks:
            # An index is made in a fortieth of the time: whoever searches now gets that first.
            if block.index_rows():
                arranged += 1
                # Of a block that is still being filled whoever searches again shall have a newer one.
                block.searched &= frozen
            elif frozen and block.searched:
                block.sorted_view()
                arranged += 1
        return arranged

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
        self.put(table_id, remaining_of(sealed, ranges))

    def put(self, table_id: int, remaining: Mapping[int, Block | None]) -> None:
        """Let what :func:`remaining_of` gave take the place of the blocks it was made from."""
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
            seen = table.tagset_ids[: table.count]
            for field, times in table.latest_times.items():
                known = Rows(seen, times[: table.count], (), np.empty((0, table.count)))
                lost = hole_mask(known, hole)
                table.lost_newest |= bool(lost.any())
                times[: table.count][lost] = NEVER_NS
                table.latest_values[field][: table.count][lost] = np.nan
            for block in sorted(kept, key=lambda block: block.late):
                rows = block.view()
                if hole.tagsets is not None:
                    rows = rows.take(hole_mask(rows, Hole(NEVER_NS, FOREVER_NS, hole.tagsets)))
                if len(rows):
                    self._update_latest(table, self._places_in(table, rows.tagset_ids), rows)
            return gone

    def drop(self, table_id: int, before_ns: int) -> int:
        """Forget rows older than ``before_ns`` (retention); return how many."""
        if not any(view.min_time_ns < before_ns for view in self.snapshot(table_id, NEVER_NS, before_ns)):
            return 0
        blocks = self.freeze(table_id)
        dropped = sum(int((block.view().times < before_ns).sum()) for block in blocks)
        self.replace(table_id, blocks, [(NEVER_NS, before_ns)])
        return dropped


def _view_of(block: Block) -> BlockView:
    in_order = block.in_order
    # The order is asked for first: a block may be sorted at any moment, and stays so.
    rows, index = block.indexed_view()
    return BlockView(block, rows, block.min_time_ns, block.max_time_ns, in_order, index)


def remaining_of(sealed: Sequence[Block], ranges: Sequence[tuple[int, int]]) -> dict[int, Block | None]:
    """Return, by the number of each frozen block, the block of its rows outside the half-open ``ranges``, if any.

    Takes no lock: frozen blocks do not change, and with history of many days this takes a while.
    """
    remaining: dict[int, Block | None] = {}
    for block in sealed:
        # One view for the mask and for what is taken by it: a reader may have the block sorted at any moment.
        rows = block.view()
        keep = np.ones(len(rows), np.bool_)
        for start_ns, end_ns in ranges:
            if start_ns <= block.max_time_ns and end_ns > block.min_time_ns:
                keep &= ~((rows.times >= start_ns) & (rows.times < end_ns))
        if keep.all():
            remaining[block.number] = block
        else:
            remaining[block.number] = block.of(rows.take(keep)) if keep.any() else None
    return remaining
