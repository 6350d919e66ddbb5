"""Blocks of columns, of which a scan reads no more than it needs: row groups of segments and hot blocks.

Keys come first, then the columns that are compared, then of the rows that are left the others.  The lowest and highest
value of a column is remembered once it has been seen, so that a block in which nothing can match is not read again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from engine.hot.store import BlockView
from engine.model.rows import Float64Array, Int32Array, Int64Array, absent_matrix
from engine.model.selection import Selection, find_rows
from engine.query.comparisons import bounds_of
from engine.query.newest import NotPrompt
from engine.segments.columns import KEYS, ColumnCache, ColumnKey, OpenSegment
from engine.segments.deletions import Hole
from engine.segments.footer import damage_at
from engine.segments.layout import FieldColumn
from engine.segments.reader import decode_field, decode_keys, fill_field

#: Columns whose lowest and highest values are remembered: about 20 MB.
MAX_KNOWN_BOUNDS = 1 << 17
#: Before and after all numbers of tag sets.
_ALL_TAGSETS = (0, (1 << 31) - 1)


class ColumnBounds:
    """The lowest and highest values of columns that never change, those looked at last; thread-safe."""

    def __init__(self, most: int = MAX_KNOWN_BOUNDS) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._bounds: OrderedDict[ColumnKey, tuple[float, float]] = OrderedDict()

    def known(self, key: ColumnKey) -> tuple[float, float] | None:
        with self._lock:
            return self._bounds.get(key)

    def learn(self, key: ColumnKey, column: Float64Array) -> None:
        """Remember the bounds of a whole column; does nothing when they are known."""
        if self.known(key) is not None:
            return
        bounds = bounds_of(column)
        with self._lock:
            self._bounds[key] = bounds
            while len(self._bounds) > self._most:
                self._bounds.popitem(last=False)


class ColumnBlock(Protocol):
    """Rows of one table, none of whose keys is twice in it, column by column.

    ``low_ns``, ``high_ns`` and ``tagsets``, (lowest, highest), bound the keys; ``in_order``: the rows ascend by them.
    ``holes``: which rows do not count.
    """

    rows: int
    low_ns: int
    high_ns: int
    tagsets: tuple[int, int]
    in_order: bool
    holes: Sequence[Hole]

    def keys(self) -> tuple[Int32Array, Int64Array]:
        """Return tag sets and times of all rows."""

    def find(self, start_ns: int, end_ns: int, wanted: Int32Array | None) -> Selection:
        """Return the places of rows of ``[start_ns, end_ns)`` with a tag set of ``wanted`` (None: all), ascending."""

    def bounds(self, field_id: int) -> tuple[float, float] | None:
        """Return the lowest and highest value of a field if they are known; NaN where it has none."""

    def column(self, field_id: int) -> Float64Array | None:
        """Return a field's cells of all rows, None when the block does not have it."""

    def gather(self, field_ids: Sequence[int], found: Selection) -> Float64Array:
        """Return float64[fields, n]: the cells of some rows."""


class GroupBlock:
    """One row group of a segment."""

    in_order = True

    def __init__(
        self,
        opened: OpenSegment,
        group: int,
        holes: Sequence[Hole],
        stored: dict[int, list[FieldColumn]],
        columns: ColumnCache,
        bounds: ColumnBounds,
        *,
        keep: bool,
        promptly: bool = False,
    ) -> None:
        """``stored``: the columns of each field; ``keep``: leave decoded columns in ``columns``.

        ``promptly``: raise NotPrompt instead of decoding one.
        """
        footer = opened.footer
        self.rows = int(footer.metadata.row_group(group).num_rows)
        self.low_ns, self.high_ns = int(footer.first_times[group]), int(footer.last_times[group])
        self.tagsets = int(footer.first_tagsets[group]), int(footer.last_tagsets[group])
        self.holes = holes
        self._opened, self._group, self._stored = opened, group, stored
        self._columns, self._bounds, self._keep, self._promptly = columns, bounds, keep, promptly
        #: What has been decoded of this block to compare it.
        self._compared: dict[int, Float64Array] = {}

    def keys(self) -> tuple[Int32Array, Int64Array]:
        with damage_at(self._opened.path):
            found = self._column(KEYS, partial(decode_keys, self._opened.table, self._group))
        assert isinstance(found, tuple)
        return found

    def find(self, start_ns: int, end_ns: int, wanted: Int32Array | None) -> Selection:
        return find_rows(*self.keys(), start_ns=start_ns, end_ns=end_ns, wanted=wanted, in_order=True)

    def bounds(self, field_id: int) -> tuple[float, float] | None:
        if field_id not in self._stored:
            return np.nan, np.nan
        return self._bounds.known(self._key(field_id))

    def column(self, field_id: int) -> Float64Array | None:
        stored = self._stored.get(field_id)
        if stored is None:
            return None
        with damage_at(self._opened.path):
            found = self._column(field_id, partial(decode_field, self._opened.table, self._group, stored))
        assert isinstance(found, np.ndarray)
        self._bounds.learn(self._key(field_id), found)
        self._compared[field_id] = found
        return found

    def gather(self, field_ids: Sequence[int], found: Selection) -> Float64Array:
        count = found.stop - found.start if isinstance(found, slice) else len(found)
        whole = all(field_id in self._stored for field_id in field_ids)
        values = np.empty((len(field_ids), count)) if whole else absent_matrix(len(field_ids), count)
        missing: list[int] = []
        for index, field_id in enumerate(field_ids):
            if field_id not in self._stored:
                continue
            known: object = self._compared.get(field_id)
            if known is None:
                known = self.column(field_id) if self._keep else self._columns.known(self._key(field_id))
            if isinstance(known, np.ndarray):
                values[index] = known[found]
            else:
                missing.append(index)
        if missing:
            names = [column.column for index in missing for column in self._stored[field_ids[index]]]
            with damage_at(self._opened.path):
                table = self._opened.table(self._group, names)
                for index in missing:
                    fill_field(values[index], table, self._stored[field_ids[index]], found)
        return values

    def _key(self, field_id: int) -> ColumnKey:
        return self._opened.path, self._opened.meta.footer_crc32c, self._group, field_id

    def _column(
        self, field_id: int, decode: Callable[[], tuple[Int32Array, Int64Array] | Float64Array]
    ) -> tuple[Int32Array, Int64Array] | Float64Array:
        key = self._key(field_id)
        if self._keep and not self._promptly:
            return self._columns.column(key, decode)
        known = self._columns.known(key)
        if known is None and self._promptly:
            raise NotPrompt
        return decode() if known is None else known


class HotBlock:
    """The rows of one hot block, which are in memory."""

    tagsets = _ALL_TAGSETS
    holes: Sequence[Hole] = ()

    def __init__(self, view: BlockView, bounds: ColumnBounds) -> None:
        self._view, self._bounds = view, bounds
        self.rows, self.in_order = len(view.rows), view.in_order
        self.low_ns, self.high_ns = view.min_time_ns, view.max_time_ns

    def keys(self) -> tuple[Int32Array, Int64Array]:
        return self._view.rows.tagset_ids, self._view.rows.times

    def find(self, start_ns: int, end_ns: int, wanted: Int32Array | None) -> Selection:
        return self._view.find(start_ns, end_ns, wanted)

    def bounds(self, field_id: int) -> tuple[float, float] | None:
        if field_id not in self._view.rows.field_ids:
            return np.nan, np.nan
        return self._bounds.known(self._key(field_id)) if self._view.block.frozen else None

    def column(self, field_id: int) -> Float64Array | None:
        rows = self._view.rows
        if field_id not in rows.field_ids:
            return None
        column: Float64Array = rows.values[rows.field_ids.index(field_id)]
        if self._view.block.frozen:
            self._bounds.learn(self._key(field_id), column)
        return column

    def gather(self, field_ids: Sequence[int], found: Selection) -> Float64Array:
        rows = self._view.rows
        count = found.stop - found.start if isinstance(found, slice) else len(found)
        whole = set(field_ids) <= set(rows.field_ids)
        values = np.empty((len(field_ids), count)) if whole else absent_matrix(len(field_ids), count)
        for index, field_id in enumerate(field_ids):
            if field_id in rows.field_ids:
                column = rows.values[rows.field_ids.index(field_id)]
                if isinstance(found, slice):
                    values[index] = column[found]
                else:
                    np.take(column, found, out=values[index], mode="clip")
        return values

    def _key(self, field_id: int) -> ColumnKey:
        # The number of a block is never given again, and no segment has an empty path.
        return "", self._view.block.number, self.rows, field_id
