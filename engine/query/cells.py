"""Aggregates of many series on a grid of steps, folded together from whatever sources there are, without sorting."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from engine.model.rows import NEVER_NS, Float64Array, Int32Array, Int64Array
from engine.model.selection import FEW_TAGSETS, Selection, find_rows
from engine.query.samples import RowColumns
from engine.query.tiercache import TierColumns
from native.folding import fold_buckets, fold_rows, locate_cells, locate_in_order

#: What is folded for each aggregate that does not depend on the order of samples, and the tiers' column of it.
FOLDED = {"avg": "sum", "sum": "sum", "count": "sum", "min": "min", "max": "max"}
#: There are at most twice as many cells as samples are expected, and these; 16 bytes each.
SPARE_CELLS = 1 << 20
MAX_CELLS = 1 << 24
#: From so many samples of a part on it is folded by several threads, without the interpreter's lock.
CELLS_FOR_THREADS = 500_000
_FOLDERS = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="tidegauge-fold")


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


@dataclass(frozen=True, slots=True)
class _Located:
    """Which of a chunk's rows are asked for, and their cells; the keys and bounds that this was found for."""

    tagset_ids: Int32Array
    times: Int64Array
    bounds: Int64Array
    chosen: Selection
    cells: Int32Array
    count: int


class Cells:
    """The cells of some fields (``field_ids``, ascending) on one grid, while they are being filled.

    ``counts`` int64[fields, cells]; ``values`` float64[fields, cells], of no meaning where the count is 0.
    """

    def __init__(self, grid: Grid, field_ids: Sequence[int], aggregate: str) -> None:
        self.grid, self.aggregate, self._how = grid, aggregate, FOLDED[aggregate]
        self._places, self._lowest = grid.places()
        self._place_of = {field_id: place for place, field_id in enumerate(field_ids)}
        self.counts = np.zeros((len(field_ids), grid.size), np.int64)
        self.values = np.zeros((len(field_ids), grid.size), np.float64)
        self.newest_ns = NEVER_NS
        #: How many raw samples have been added.
        self.samples = 0
        self._located: _Located | None = None

    def add_rows(self, rows: RowColumns, start_ns: int, end_ns: int) -> None:
        """Add the raw rows of ``[start_ns, end_ns)``, of which no two have the same key."""
        times = np.ascontiguousarray(rows.times)
        chosen: Int32Array | None = None
        if rows.in_order:
            chosen, cells = locate_in_order(
                np.ascontiguousarray(rows.tagset_ids),
                times,
                self._places,
                self._lowest,
                start_ns,
                end_ns,
                self.grid.start_ns,
                self.grid.step_ns,
                self.grid.steps,
            )
            if len(chosen) == len(times):
                chosen = None
            else:
                times = times[chosen]
        else:
            cells = self._locate(rows.tagset_ids, times, np.array((start_ns, end_ns), np.int64))

        def fold(field_id: int) -> tuple[int, int]:
            column, place = rows.columns[field_id], self._place_of[field_id]
            given = np.ascontiguousarray(column if chosen is None else column[chosen])
            return fold_rows(cells, times, given, self._how, self.counts[place], self.values[place])

        field_ids = [field_id for field_id in rows.columns if field_id in self._place_of]
        # Each field has cells of its own, so that they may be folded at the same time.
        each = _FOLDERS.map if len(field_ids) > 1 and len(cells) * len(field_ids) > CELLS_FOR_THREADS else map
        for samples, newest in each(fold, field_ids):
            self.samples += samples
            self.newest_ns = max(self.newest_ns, newest)

    def add_buckets(self, field_id: int, rows: TierColumns, bounds: Int64Array) -> int:
        """Add a tier's rows of one field; return how many they were."""
        located = self._located_in(rows, bounds)
        place, chosen = self._place_of[field_id], located.chosen
        newest = fold_buckets(
            located.cells,
            rows["count"][chosen],
            rows[self._how][chosen],
            self._how,
            self.counts[place],
            self.values[place],
            rows["last_time"][chosen],
        )
        self.newest_ns = max(self.newest_ns, newest)
        return located.count

    def _located_in(self, rows: TierColumns, bounds: Int64Array) -> _Located:
        """Locate a chunk's rows; its fields mostly have the same keys, which are located once."""
        known = self._located
        if (
            known is None
            or known.tagset_ids is not rows.tagset_ids
            or known.times is not rows.times
            or known.bounds is not bounds
        ):
            wanted = self.grid.tagset_ids
            chosen: Selection = slice(None)
            if len(wanted) <= FEW_TAGSETS:
                chosen = find_rows(rows.tagset_ids, rows.times, wanted=wanted, in_order=True)
            cells = self._locate(rows.tagset_ids[chosen], rows.times[chosen], bounds)
            count = int(np.count_nonzero(cells >= 0))
            known = self._located = _Located(rows.tagset_ids, rows.times, bounds, chosen, cells, count)
        return known

    def _locate(self, tagset_ids: Int32Array, times: Int64Array, bounds: Int64Array) -> Int32Array:
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

    def merged(self, lines: Int64Array, line_count: int) -> tuple[Int64Array, Float64Array]:
        """Return counts and values [fields, lines, steps]; ``lines`` int64[n]: that of each tag set.

        Series are taken in the order of the tag sets.
        """
        shape = (len(self.counts), line_count, self.grid.steps)
        if line_count == len(lines) and np.array_equal(lines, np.arange(line_count)):
            return self.counts.reshape(shape), self.values.reshape(shape)
        counts, values = np.zeros(shape, np.int64), np.zeros(shape, np.float64)
        cells = (lines[:, None] * self.grid.steps + np.arange(self.grid.steps)).ravel().astype(np.int32)
        for place in range(len(counts)):
            fold_buckets(
                cells, self.counts[place], self.values[place], self._how, counts[place].ravel(), values[place].ravel()
            )
        return counts, values

    def values_of(self, counts: Int64Array, values: Float64Array) -> Float64Array:
        """Return the aggregate of some cells that are not empty."""
        if self.aggregate == "avg":
            return values / counts
        return counts.astype(np.float64) if self.aggregate == "count" else values
