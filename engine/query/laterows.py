"""Late rows laid over the rows that they correct, field by field.

A late row's key is in no more than one other place, a row group or a fresh hot block: what the late row does not have
is taken from there, and that row is left out there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from engine.hot.store import BlockView
from engine.model.rows import Int32Array, Int64Array, Rows, absent_matrix, concat, distinct, sort_merge
from engine.model.selection import Selection, is_member
from engine.query.blocks import ColumnBlock
from native.columns import is_absent


class LateRows:
    """The late rows of one question, each key once, completed by what they correct as that is come across."""

    def __init__(
        self,
        views: Sequence[BlockView],
        start_ns: int,
        end_ns: int,
        tagset_ids: Int32Array | None,
        field_ids: tuple[int, ...],
    ) -> None:
        """``views``: in order of arrival; ``tagset_ids``, ``field_ids``: ascending."""
        parts = [view.select(start_ns, end_ns, tagset_ids, field_ids) for view in views]
        rows = sort_merge(concat(parts))
        values = absent_matrix(len(field_ids), len(rows))
        for field_id, column in zip(rows.field_ids, rows.values, strict=True):
            values[field_ids.index(field_id)] = column
        self.rows = Rows(rows.tagset_ids, rows.times, field_ids, values)
        self._tagsets: Int32Array = distinct(rows.tagset_ids)
        self._times: Int64Array = np.unique(rows.times)
        self._places = self._combined(rows.tagset_ids, rows.times)

    def __len__(self) -> int:
        return len(self.rows)

    def touch(self, block: ColumnBlock) -> bool:
        """Return whether a late row may correct one of the block's."""
        if not len(self.rows):
            return False
        first, last = block.tagsets
        return _any_from_to(self._times, block.low_ns, block.high_ns) and _any_from_to(self._tagsets, first, last)

    def claim(self, block: ColumnBlock, found: Selection) -> Selection:
        """Complete late rows from those of a block's rows that they correct; return the other rows' places."""
        every_tagset, every_time = block.keys()
        tagsets, times = every_tagset[found], every_time[found]
        among = is_member(tagsets, self._tagsets) if len(tagsets) else np.zeros(0, np.bool_)
        candidates = np.flatnonzero(among)
        at = np.searchsorted(self._times, times[candidates])
        at[at == len(self._times)] = 0
        candidates = candidates[self._times[at] == times[candidates]]
        wanted = self._combined(tagsets[candidates], times[candidates])
        places = np.searchsorted(self._places, wanted)
        places[places == len(self._places)] = 0
        same = self._places[places] == wanted
        candidates, places = candidates[same], places[same]
        if not len(candidates):
            return found
        positions = np.arange(found.start, found.stop) if isinstance(found, slice) else found
        corrected = block.gather(self.rows.field_ids, positions[candidates])
        for column, cells in zip(self.rows.values, corrected, strict=True):
            lacking = is_absent(column[places])
            column[places[lacking]] = cells[lacking]
        rest: npt.NDArray[np.bool_] = np.ones(len(positions), np.bool_)
        rest[candidates] = False
        return positions[rest]

    def _combined(self, tagset_ids: Int32Array, times: Int64Array) -> Int64Array:
        """Return one number for each key, which ascend as keys do; tag sets and times are among the late rows'."""
        combined: Int64Array = np.searchsorted(self._tagsets, tagset_ids).astype(np.int64)
        combined *= len(self._times)
        combined += np.searchsorted(self._times, times)
        return combined


def _any_from_to(ascending: npt.NDArray[np.integer], low: int, high: int) -> bool:
    at = int(np.searchsorted(ascending, low))
    return at < len(ascending) and int(ascending[at]) <= high
