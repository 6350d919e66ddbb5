"""Aggregates of many series on a grid of steps, folded together from whatever sources there are, without sorting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.model.rows import NEVER_NS, Float64Array, Int32Array, Int64Array, Rows
from engine.query.tiercache import TierColumns
from native.folding import fold_buckets, fold_rows, locate_cells

#: What is folded for each aggregate that does not depend on the order of samples, and the tiers' column of it.
FOLDED = {"avg": "sum", "sum": "sum", "count": "sum", "min": "min", "max": "max"}
#: There are at most twice as many cells as samples are expected, and these; 16 bytes each.
SPARE_CELLS = 1 << 20
MAX_CELLS = 1 << 24


@dataclass(frozen=True, slots=True)
class Grid:
    """Tag sets (int32[n], ascending) by steps from ``start_ns`` on."""

    tagset_ids: Int32Array
    start_ns: int
    step_ns: int
    steps: int

    @property
    def size(self) -> int:
        return len(self.tagset_ids) * self.steps

    def places(self) -> tuple[Int32Array, int]:
        """Return the place of each tag set from the lowest on, -1 for others, and the lowest."""
        lowest, highest = int(self.tagset_ids[0]), int(self.tagset_ids[-1])
        places = np.full(highest - lowest + 1, -1, np.int32)
        places[self.tagset_ids - lowest] = np.arange(len(self.tagset_ids), dtype=np.int32)
        return places, lowest


class Cells:
    """The cells of some fields (``field_ids``, ascending) on one grid, while they are being filled."""

    def __init__(self, grid: Grid, field_ids: Sequence[int], aggregate: str) -> None:
        self.grid, self.aggregate, self._how = grid, aggregate, FOLDED[aggregate]
        self._places, self._lowest = grid.places()
        self.counts = {field_id: np.zeros(grid.size, np.int64) for field_id in field_ids}
        self.values = {field_id: np.zeros(grid.size, np.float64) for field_id in field_ids}
        self.newest_ns = NEVER_NS
        #: How many raw samples have been added.
        self.samples = 0

    def locate(self, tagset_ids: Int32Array, times: Int64Array, bounds: Int64Array) -> Int32Array:
        """Return the cell of each row, -1 for rows outside; ``bounds``: ascending ones of half-open ranges of time."""
        grid = self.grid
        return locate_cells(
            np.ascontiguousarray(tagset_ids),
            np.ascontiguousarray(times),
            self._places,
            self._lowest,
            bounds,
            grid.start_ns,
            grid.step_ns,
            grid.steps,
        )

    def add_rows(self, rows: Rows, bounds: Int64Array) -> None:
        """Add raw rows, of which no two have the same key."""
        if not len(rows):
            return
        cells = self.locate(rows.tagset_ids, rows.times, bounds)
        times = np.ascontiguousarray(rows.times)
        for place, field_id in enumerate(rows.field_ids):
            if field_id in self.counts:
                column = np.ascontiguousarray(rows.values[place])
                counts, values = self.counts[field_id], self.values[field_id]
                samples, newest = fold_rows(cells, times, column, self._how, counts, values)
                self.samples += samples
                self.newest_ns = max(self.newest_ns, newest)

    def add_buckets(self, field_id: int, rows: TierColumns, bounds: Int64Array) -> int:
        """Add a tier's rows of one field; return how many they were."""
        cells = self.locate(rows.tagset_ids, rows.times, bounds)
        counts, values = self.counts[field_id], self.values[field_id]
        newest = fold_buckets(cells, rows["count"], rows[self._how], self._how, counts, values, rows["last_time"])
        self.newest_ns = max(self.newest_ns, newest)
        return int(np.count_nonzero(cells >= 0))

    def merged(self, field_id: int, lines: Int64Array, line_count: int) -> tuple[Int64Array, Float64Array]:
        """Return counts and values of each (line, step); ``lines`` int64[n]: that of each tag set.

        Series are taken in the order of the tag sets.
        """
        counts, values = self.counts[field_id], self.values[field_id]
        steps = self.grid.steps
        if line_count == len(lines) and np.array_equal(lines, np.arange(line_count)):
            return counts, values
        merged_counts = np.zeros(line_count * steps, np.int64)
        merged_values = np.zeros(line_count * steps, np.float64)
        cells = (lines[:, None] * steps + np.arange(steps)).ravel().astype(np.int32)
        fold_buckets(cells, counts, values, self._how, merged_counts, merged_values)
        return merged_counts, merged_values

    def values_of(self, counts: Int64Array, values: Float64Array) -> Float64Array:
        """Return the aggregate of some cells that are not empty."""
        if self.aggregate == "avg":
            return values / counts
        return counts.astype(np.float64) if self.aggregate == "count" else values
