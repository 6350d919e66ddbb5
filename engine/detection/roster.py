"""Which series have a row of the detector's state: numbers from 0, given out once, taken back from the silent."""

from __future__ import annotations

import numpy as np

from engine.model.rows import Int64Array

FREE = -1


class Roster:
    """Rows for at most ``most`` series."""

    def __init__(self, most: int, series_ids: Int64Array | None = None) -> None:
        """``series_ids`` int64[n]: the series of each row so far, :data:`FREE` for none."""
        self._most = most
        self.series_ids = np.empty(0, np.int64) if series_ids is None else series_ids.copy()
        self._index()

    def rows_of(self, series_ids: Int64Array) -> Int64Array:
        """Return the row of each series, -1 for those without one."""
        places = np.searchsorted(self._sorted, series_ids)
        places[places == len(self._sorted)] = 0
        if not len(self._sorted):
            return np.full(len(series_ids), -1, np.int64)
        found: Int64Array = np.where(self._sorted[places] == series_ids, self._rows[places], -1)
        return found

    def admit(self, series_ids: Int64Array) -> Int64Array:
        """Give rows to series that have none, as long as there are any; return the rows given, in their order."""
        free = np.flatnonzero(self.series_ids == FREE)
        more = max(0, min(len(series_ids) - len(free), self._most - len(self.series_ids)))
        start = len(self.series_ids)
        self.series_ids = np.concatenate([self.series_ids, np.full(more, FREE, np.int64)])
        rows = np.concatenate([free, np.arange(start, start + more)])[: len(series_ids)]
        self.series_ids[rows] = series_ids[: len(rows)]
        self._index()
        return rows

    def release(self, rows: Int64Array) -> None:
        """Take rows back."""
        self.series_ids[rows] = FREE
        self._index()

    def _index(self) -> None:
        order = np.argsort(self.series_ids, kind="stable")
        order = order[self.series_ids[order] != FREE]
        self._sorted, self._rows = self.series_ids[order], order
