"""An append-only block of rows.

Only the committing thread appends; any thread may read the first ``count`` rows at any time, because rows below
``count`` are never written again and a grown or sorted block leaves the old arrays to whoever still reads them.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass

import numpy as np

from engine.model.rows import Float64Array, Int32Array, Int64Array, Rows, absent_matrix, sort_merge
from native.slabs import slab_array
from native.sorting import sort_order

FIRST_CAPACITY_ROWS = 256
MAX_BLOCK_ROWS = 131_072
#: Blocks of this capacity and more are in memory that is used again when they have been sealed.
SLAB_ROWS = 16_384
#: So many rows that no index has are looked through before a new one is made.
UNINDEXED_ROWS = 4_096
#: From so many fields on a frozen block is indexed at once: 8 bytes a row, and some 12 ns.
WIDE_FIELDS = 4
_block_numbers = itertools.count(1)
_Arrays = tuple[Int32Array, Int64Array, Float64Array]


@dataclass(frozen=True, slots=True)
class RowIndex:
    """Where each tag set's rows are among the first ``len(order)`` of a block that is not sorted.

    ``order`` int32[n]: places of rows, by tag set and in each by time; ``tagset_ids`` int32[n]: whose they are.
    """

    tagset_ids: Int32Array
    order: Int32Array


def _allocate(fields: int, capacity: int) -> _Arrays:
    if capacity < SLAB_ROWS:
        return np.empty(capacity, np.int32), np.empty(capacity, np.int64), np.empty((fields, capacity), np.float64)
    return (
        slab_array((capacity,), np.int32),
        slab_array((capacity,), np.int64),
        slab_array((fields, capacity), np.float64),
    )


class Block:
    """Rows of one table over a fixed list of fields, in order of arrival."""

    def __init__(self, field_ids: tuple[int, ...], *, late: bool, capacity: int = FIRST_CAPACITY_ROWS) -> None:
        self.number = next(_block_numbers)
        self.field_ids = field_ids
        self.late = late
        self.count = 0
        self.frozen = False
        #: Readers look for few of its rows: once it is frozen it is worth sorting, before that an index.
        self.searched = False
        self.first_sequence = 0
        self.last_sequence = 0
        self.min_time_ns = 0
        self.max_time_ns = 0
        # One attribute, so that a reader in another thread always gets three arrays that belong together.
        self._arrays: _Arrays = _allocate(len(field_ids), capacity)
        self._sorted: Rows | None = None
        # With the arrays that it is an index of.
        self._index: tuple[_Arrays, RowIndex] | None = None
        self._sort_lock = threading.Lock()

    @property
    def capacity(self) -> int:
        return len(self._arrays[1])

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._arrays)

    def append(self, rows: Rows, sequence: int) -> None:
        """Add rows whose fields are among this block's; the caller holds the store's lock."""
        added = len(rows)
        end = self.count + added
        if end > self.capacity:
            self._grow(end)
        start = self.count
        tagset_ids, times, values = self._arrays
        tagset_ids[start:end] = rows.tagset_ids
        times[start:end] = rows.times
        if rows.field_ids == self.field_ids:
            values[:, start:end] = rows.values
        else:
            values[:, start:end] = absent_matrix(len(self.field_ids), 1)
            for index, field in enumerate(rows.field_ids):
                values[self.field_ids.index(field), start:end] = rows.values[index]
        low, high = int(rows.times.min()), int(rows.times.max())
        if self.count == 0:
            self.first_sequence, self.min_time_ns, self.max_time_ns = sequence, low, high
        else:
            self.min_time_ns, self.max_time_ns = min(self.min_time_ns, low), max(self.max_time_ns, high)
        self.last_sequence = sequence
        self.count = end

    def _grow(self, wanted: int) -> None:
        grown = _allocate(len(self.field_ids), max(wanted, min(self.capacity * 4, MAX_BLOCK_ROWS)))
        tagset_ids, times, values = self._arrays
        grown[0][: self.count] = tagset_ids[: self.count]
        grown[1][: self.count] = times[: self.count]
        grown[2][:, : self.count] = values[:, : self.count]
        self._arrays = grown

    def view(self) -> Rows:
        """Return the rows so far, without copying: in order of arrival, or sorted once the block has been sorted."""
        tagset_ids, times, values = self._arrays
        count = self.count
        return Rows(tagset_ids[:count], times[:count], self.field_ids, values[:, :count])

    def indexed_view(self) -> tuple[Rows, RowIndex | None]:
        """Return :meth:`view` and an index of its first rows if there is one."""
        index, arrays, count = self._index, self._arrays, self.count
        tagset_ids, times, values = arrays
        rows = Rows(tagset_ids[:count], times[:count], self.field_ids, values[:, :count])
        return rows, index[1] if index is not None and index[0] is arrays else None

    def index_rows(self) -> bool:
        """Make an index of the rows so far; return whether enough of them had none.  One thread at a time."""
        arrays, count = self._arrays, self.count
        indexed = len(self._index[1].order) if self._index is not None and self._index[0] is arrays else 0
        if count - indexed < UNINDEXED_ROWS:
            return False
        tagset_ids = arrays[0][:count]
        order = sort_order(tagset_ids, arrays[1][:count]).astype(np.int32)
        self._index = arrays, RowIndex(tagset_ids[order], order)
        return True

    @property
    def is_wide(self) -> bool:
        """Whether an index takes little beside the rows: it is made before anybody asks."""
        return len(self.field_ids) >= WIDE_FIELDS

    @property
    def in_order(self) -> bool:
        """Whether :meth:`view` gives rows sorted by (tag set, time); once it does, it always will."""
        return self._sorted is not None and not self.late

    def sorted_view(self) -> Rows:
        """Return a frozen block's rows sorted by (tag set, time) and merged; computed once."""
        with self._sort_lock:
            if self._sorted is None:
                rows = sort_merge(self.view())
                if not self.late:
                    # Strictly newer rows hold no key twice, so the sorted rows can stand in for the others.
                    self._arrays = rows.tagset_ids, rows.times, rows.values
                self._index = None
                # Last: whoever sees it takes the rows above for sorted.
                self._sorted = rows
            return self._sorted

    def of(self, rows: Rows) -> Block:
        """Return a frozen block of these rows, which are some of this one's."""
        block = Block(self.field_ids, late=self.late, capacity=len(rows))
        block.append(rows, self.first_sequence)
        block.last_sequence = self.last_sequence
        block.frozen = True
        return block
