"""The first rows by time among rows that come in any order, no more of them held than are wanted."""

from __future__ import annotations

from typing import Literal

import numpy as np

from engine.model.rows import Rows, concat
from engine.query.rowstream import RowLimits, too_large, too_many

#: By time, with equal times by number of the tag set; ``-time``: the newest first.
Order = Literal["time", "-time"]


def in_order(rows: Rows, order: Order | None) -> Rows:
    """Return rows in an order, as they are for None."""
    if order is None or not len(rows):
        return rows
    times = rows.times if order == "time" else ~rows.times
    places = np.lexsort((rows.tagset_ids, times))
    return Rows(rows.tagset_ids[places], rows.times[places], rows.field_ids, rows.values.take(places, axis=1))


class OrderedRows:
    """The first rows by an order, one more than ``limit``; without a limit all, which must not be too many."""

    def __init__(self, order: Order, limit: int | None, limits: RowLimits) -> None:
        self._order, self._limits = order, limits
        self._most = None if limit is None else min(limit, limits.max_rows) + 1
        self._parts: list[Rows] = []
        self._count = self._bytes = 0
        self._edge_ns: int | None = None

    def add(self, rows: Rows) -> None:
        """Take note of rows.  Raises QueryLimit when more would have to be held than an answer may have."""
        self._parts.append(rows)
        self._count += len(rows)
        self._bytes += rows.nbytes
        if self._most is None:
            if self._count > self._limits.max_rows:
                raise too_many(self._limits)
        elif self._count >= 2 * self._most or (self._edge_ns is None and self._count >= self._most):
            self._prune(self._most)
        if self._bytes > self._limits.max_bytes:
            if self._most is not None:
                self._prune(self._most)
            if self._bytes > self._limits.max_bytes:
                raise too_large(self._limits)

    def _prune(self, most: int) -> None:
        rows = self.rows()
        if len(rows) > most:
            rows = Rows(rows.tagset_ids[:most], rows.times[:most], rows.field_ids, rows.values[:, :most].copy())
        self._parts, self._count, self._bytes = [rows], len(rows), rows.nbytes
        if len(rows) == most:
            self._edge_ns = int(rows.times[-1])

    def useless(self, low_ns: int, high_ns: int) -> bool:
        """Return whether no row from one time to another, both included, can be among the first."""
        if self._edge_ns is None:
            return False
        return low_ns > self._edge_ns if self._order == "time" else high_ns < self._edge_ns

    def rows(self) -> Rows:
        """Return the rows in order."""
        return in_order(concat(self._parts), self._order)
