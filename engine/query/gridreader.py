"""Range queries over many samples: each time of the range read once, from the widest tier that has it or raw.

Everything is folded into one cell for each (series, step) as it comes, without being sorted; series are merged into
lines afterwards, in their order.  So a sum is the addition of a series' samples and buckets in order of time, then
of the series.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from engine.catalog.catalog import Catalog
from engine.model.rows import FIELD_ID_BITS, NEVER_NS, Int32Array, Int64Array
from engine.query.cells import FOLDED, MAX_CELLS, SPARE_CELLS, Cells, Grid
from engine.query.grouping import lines_of
from engine.query.planning import RAW, RAW_SAMPLES_PREFERRED, Planner
from engine.query.samples import SampleStore
from engine.query.selected import Selected
from engine.query.serieslist import LineBlock
from engine.query.split import Interval, Piece

#: Arrangements of series into lines that are remembered, of not more series than these.
MAX_ARRANGED = 64
MAX_ARRANGED_SERIES = 10_000


@dataclass(slots=True)
class GridPart:
    """The lines of one selection.  ``rows``: how many raw samples or tier rows were read, by source, widest first.

    ``lacking``: a time of which raw samples would have to be read that are no longer kept.
    """

    blocks: list[LineBlock]
    rows: dict[str, int] = field(default_factory=dict)
    newest_ns: int | None = None
    lacking: Interval | None = None


@dataclass(frozen=True, slots=True)
class _Arrangement:
    tagset_ids: Int32Array
    labels: list[dict[str, str]]
    lines: Int64Array


class GridReader:
    """Reads grids of one engine; callable from any thread."""

    def __init__(self, catalog: Catalog, samples: SampleStore, planner: Planner) -> None:
        self._catalog, self._samples, self._planner = catalog, samples, planner
        self._lock = threading.Lock()
        self._arranged: dict[tuple[int, tuple[str, ...] | None], _Arrangement] = {}

    def suits(self, one: Selected, aggregate: str, whole: Interval) -> bool:
        """Return whether a selection is certainly of more samples than anything prompt."""
        return aggregate in FOLDED and self._planner.expected(one, [whole]) > RAW_SAMPLES_PREFERRED

    def read(
        self,
        one: Selected,
        aggregate: str,
        by: tuple[str, ...] | None,
        whole: Interval,
        step_ns: int,
        raw_since_ns: int,
    ) -> GridPart | None:
        """Return the lines of a selection for ``[start, end)``; None where the aggregate or the grid is not for this.

        ``raw_since_ns``: the oldest time for which raw samples are still kept.
        """
        steps = -(-(whole[1] - whole[0]) // step_ns)
        grid = Grid(one.tagset_ids, whole[0], step_ns, steps)
        cells = grid.size * len(one.metrics)
        if aggregate not in FOLDED or cells > min(MAX_CELLS, 2 * self._planner.expected(one, [whole]) + SPARE_CELLS):
            return None
        deletions = self._samples.deletions
        while True:
            found = Cells(grid, one.field_ids, aggregate)
            rows: Counter[str] = Counter()
            pieces = self._planner.plan(one, whole, step_ns, raw_since_ns)
            for piece in pieces:
                name = RAW if piece.tier is None else piece.tier.name
                rows[name] = self._fill(found, one, piece)
            # What was deleted meanwhile may have been left out of one source only.
            if deletions is self._samples.deletions:
                break
            deletions = self._samples.deletions
        newest_ns = None if found.newest_ns == NEVER_NS else found.newest_ns
        if RAW in rows:
            rows[RAW] = found.samples
        return GridPart(
            self._blocks(one, by, found),
            {name: count for name, count in rows.items() if count},
            newest_ns,
            self._planner.lacking(pieces, raw_since_ns),
        )

    # --- reading

    def _fill(self, cells: Cells, one: Selected, piece: Piece) -> int:
        """Add what is read of one piece to the cells; return how many rows of a tier."""
        bounds = piece.bounds
        if piece.tier is not None:
            names = ("count", "last_time", FOLDED[cells.aggregate])
            found = self._planner.tier_rows(one, piece, names)
            return sum(cells.add_buckets(field_id, rows, bounds) for field_id, rows in found)
        for start_ns, end_ns in piece.intervals:
            for rows in self._samples.disjoint(one.table_id, start_ns, end_ns, one.narrowed, one.field_ids):
                cells.add_rows(rows, start_ns, end_ns)
        return 0

    # --- lines

    def _blocks(self, one: Selected, by: tuple[str, ...] | None, cells: Cells) -> list[LineBlock]:
        arranged = self._arrange(one, by)
        counts, values = cells.merged(arranged.lines, len(arranged.labels))
        some = counts > 0
        held = some.sum(axis=2)
        every = bool(some.all())
        _, line_count, steps = counts.shape
        grid_times = np.tile(cells.grid.start_ns + np.arange(steps, dtype=np.int64) * cells.grid.step_ns, line_count)
        if every:
            folded = cells.values_of(counts, values).reshape(len(counts), -1)
            bounds = np.arange(line_count + 1, dtype=np.int64) * steps
            return [
                LineBlock(metric, arranged.labels, bounds, grid_times, folded[place])
                for place, metric in enumerate(one.metrics.values())
            ]
        blocks = []
        for place, metric in enumerate(one.metrics.values()):
            present, points = some[place].ravel(), held[place]
            labels = [arranged.labels[line] for line in np.flatnonzero(points).tolist()]
            bounds = np.concatenate(([0], np.cumsum(points[points > 0]))).astype(np.int64)
            found = cells.values_of(counts[place].ravel()[present], values[place].ravel()[present])
            blocks.append(LineBlock(metric, labels, bounds, grid_times[present], found))
        return blocks

    def _arrange(self, one: Selected, by: tuple[str, ...] | None) -> _Arrangement:
        """Return which line each tag set belongs to; remembered until other tag sets are asked for."""
        key = (one.table_id, by)
        known = self._arranged.get(key)
        if known is not None and np.array_equal(known.tagset_ids, one.tagset_ids):
            return known
        series_ids = one.tagset_ids.astype(np.int64) << FIELD_ID_BITS
        known = _Arrangement(one.tagset_ids, *lines_of(self._catalog, one.table_id, series_ids, by))
        with self._lock:
            if len(one.tagset_ids) <= MAX_ARRANGED_SERIES:
                self._arranged[key] = known
            while len(self._arranged) > MAX_ARRANGED:
                self._arranged.pop(next(iter(self._arranged)))
        return known
