"""The newest row of each tag set, or the newest value of each of its fields, among rows that come in any order."""

from __future__ import annotations

import numpy as np

from engine.model.rows import FOREVER_NS, NEVER_NS, Float64Array, Int32Array, Int64Array, Rows, absent_matrix
from native.arrival import newest_rows
from native.columns import is_absent


class NewestRows:
    """Keeps for each of some tag sets (int32[n], ascending) what is newest of the rows it is given.

    ``whole``: the newest row, with the fields it has; otherwise of each field the newest value, at the time of the
    newest row.  No key may come twice.
    """

    def __init__(self, tagset_ids: Int32Array, field_ids: tuple[int, ...], *, whole: bool) -> None:
        self._tagset_ids, self._field_ids, self._whole = tagset_ids, field_ids, whole
        self.times: Int64Array = np.full(len(tagset_ids), NEVER_NS, np.int64)
        self._values: Float64Array = absent_matrix(len(field_ids), len(tagset_ids))
        self._field_times: Int64Array = np.full((0 if whole else len(field_ids), len(tagset_ids)), NEVER_NS, np.int64)
        self._marks: Int32Array = np.full(len(tagset_ids), -1, np.int32)

    def add(self, rows: Rows) -> None:
        """Take note of rows with the fields, of the tag sets."""
        places = np.searchsorted(self._tagset_ids, rows.tagset_ids).astype(np.int32)
        newest, at = self._newer(places, rows.times, self.times)
        self.times[at] = rows.times[newest]
        if self._whole:
            self._values[:, at] = rows.values[:, newest]
            return
        for index, column in enumerate(rows.values):
            present = np.flatnonzero(~is_absent(np.ascontiguousarray(column)))
            times = rows.times[present]
            newest, at = self._newer(places[present], times, self._field_times[index])
            self._field_times[index, at] = times[newest]
            self._values[index, at] = column[present[newest]]

    def _newer(self, places: Int32Array, times: Int64Array, known: Int64Array) -> tuple[Int64Array, Int32Array]:
        """Return (rows, their places): the newest row of each place that is newer than what is known of it."""
        rows = newest_rows(places, np.ascontiguousarray(times), self._marks)
        rows = rows[times[rows] > known[places[rows]]]
        return rows, places[rows]

    @property
    def settled_ns(self) -> int:
        """The time at or before which no further row matters."""
        return int(min(self.times.min(initial=FOREVER_NS), self._field_times.min(initial=FOREVER_NS)))

    def rows(self) -> Rows:
        """Return one row for each tag set that has had one, ascending by tag set."""
        known = np.flatnonzero(self.times != NEVER_NS)
        values = self._values.take(known, axis=1)
        return Rows(self._tagset_ids[known], self.times[known], self._field_ids, values)
