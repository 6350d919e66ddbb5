"""Range queries over many samples: each time of the range read once, from the widest tier that has it or raw.

Everything is folded into one cell for each (series, step) as it comes, without being sorted; series are merged into
lines afterwards, in their order.  So a sum is the addition of a series' samples and buckets in order of time, then
of the series.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa

from engine.catalog.catalog import Catalog
from engine.model.rows import FIELD_ID_BITS, NEVER_NS, Int32Array, Int64Array
from engine.query.cells import FOLDED, MAX_CELLS, SPARE_CELLS, Cells, Grid
from engine.query.grouping import lines_of
from engine.query.samples import SampleStore
from engine.query.selected import Selected
from engine.query.serieslist import LineBlock
from engine.query.split import Interval, Piece, split
from engine.query.tiercache import TierCache, TierColumns
from engine.rollups.tiers import Tier

#: Up to so many raw samples are read rather than a tier that has to be fetched from the query process, ...
RAW_SAMPLES_PREFERRED = 100_000
#: ... or one whose rows are in memory.
RAW_SAMPLES_BESIDE_KEPT = 5_000
#: Up to so many are read rather than flushed into the tiers first.
RAW_SAMPLES_BEFORE_FLUSH = 2_000_000
#: Of fewer than one in so many tag sets the tiers' rows are fetched alone, and not kept.
KEPT_SHARE = 16
RAW = "raw"
#: Arrangements of series into lines that are remembered, of not more series than these.
MAX_ARRANGED = 64
MAX_ARRANGED_SERIES = 10_000


class Tiers(Protocol):
    """The tiers of one engine, as range queries see them."""

    cache: TierCache

    def rows(self, tier: str, start_ns: int, end_ns: int, series_ids: Int64Array, names: Sequence[str]) -> pa.Table:
        """Return columns of a tier's rows, sorted by (series, time), everything visible included."""

    def unflushed(self, table_id: int, start_ns: int, end_ns: int) -> Int64Array | None:
        """Return the starts (ns) of the minutes of a range that the tiers may lack samples of.

        None where that cannot be told, or where the tiers must follow something else first: they must be flushed.
        """

    def flush(self) -> None:
        """Bring the tiers up to date with what is visible."""


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

    def __init__(self, catalog: Catalog, samples: SampleStore, tiers: Tiers | None) -> None:
        self._catalog, self._samples, self._tiers = catalog, samples, tiers
        self._lock = threading.Lock()
        self._arranged: dict[tuple[int, tuple[str, ...] | None], _Arrangement] = {}

    def suits(self, one: Selected, aggregate: str, whole: Interval) -> bool:
        """Return whether a selection is certainly of more samples than anything prompt."""
        return aggregate in FOLDED and self._expected(one, [whole]) > RAW_SAMPLES_PREFERRED

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
        if aggregate not in FOLDED or cells > min(MAX_CELLS, 2 * self._expected(one, [whole]) + SPARE_CELLS):
            return None
        deletions = self._samples.deletions
        while True:
            found = Cells(grid, one.field_ids, aggregate)
            rows: Counter[str] = Counter()
            pieces = self._plan(one, whole, step_ns, raw_since_ns)
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
            None if self._tiers is None else _lacking(pieces, raw_since_ns),
        )

    # --- what is read from where

    def _plan(self, one: Selected, whole: Interval, step_ns: int, raw_since_ns: int) -> list[Piece]:
        tiers = self._tiers
        if tiers is None or not self._may_pay(one, whole, raw_since_ns):
            return [Piece(None, (whole,))]

        def is_worth(tier: Tier, rest: Sequence[Interval]) -> bool:
            if any(start < raw_since_ns for start, _ in rest):
                return True
            samples = self._expected(one, rest)
            if samples <= RAW_SAMPLES_BESIDE_KEPT:
                return False
            return samples > RAW_SAMPLES_PREFERRED or tiers.cache.knows(
                tier, one.table_id, one.field_ids, rest[0][0], rest[-1][1]
            )

        unflushed = tiers.unflushed(one.table_id, *whole)
        if unflushed is not None:
            pieces = split(whole, step_ns, unflushed, is_worth)
            if not len(unflushed) or not self._is_too_much(one, pieces, raw_since_ns):
                return pieces
        # From then on everything that was visible when the question came is in the tiers.
        tiers.flush()
        return split(whole, step_ns, np.empty(0, np.int64), is_worth)

    def _may_pay(self, one: Selected, whole: Interval, raw_since_ns: int) -> bool:
        return whole[0] < raw_since_ns or self._expected(one, [whole]) > RAW_SAMPLES_BESIDE_KEPT

    def _is_too_much(self, one: Selected, pieces: Sequence[Piece], raw_since_ns: int) -> bool:
        raw = [interval for piece in pieces if piece.tier is None for interval in piece.intervals]
        lost = any(start < raw_since_ns for start, _ in raw)
        return lost or self._expected(one, raw) > RAW_SAMPLES_BEFORE_FLUSH

    def _expected(self, one: Selected, intervals: Sequence[Interval]) -> int:
        """Return about how many raw samples the intervals hold."""
        rows = sum(self._samples.expected_rows(one.table_id, start, end) for start, end in intervals)
        share = 1.0
        if not one.every:
            share = len(one.tagset_ids) / max(1, len(self._catalog.tagset_ids(one.table_id)))
        return round(rows * share * len(one.metrics))

    # --- reading

    def _fill(self, cells: Cells, one: Selected, piece: Piece) -> int:
        """Add what is read of one piece to the cells; return how many rows of a tier."""
        bounds = piece.bounds
        if piece.tier is not None:
            return sum(
                cells.add_buckets(field_id, rows, bounds) for field_id, rows in self._tier_rows(cells, one, piece)
            )
        for start_ns, end_ns in piece.intervals:
            for rows in self._samples.disjoint(one.table_id, start_ns, end_ns, one.narrowed, one.field_ids):
                cells.add_rows(rows, start_ns, end_ns)
        return 0

    def _tier_rows(self, cells: Cells, one: Selected, piece: Piece) -> Iterator[tuple[int, TierColumns]]:
        assert self._tiers is not None
        assert piece.tier is not None
        cache, tier = self._tiers.cache, piece.tier
        start_ns, end_ns = piece.intervals[0][0], piece.intervals[-1][1]
        names = ("count", "last_time", *({FOLDED[cells.aggregate]} - {"count"}))
        every = self._catalog.tagset_ids(one.table_id)
        kept = cache.knows(tier, one.table_id, one.field_ids, start_ns, end_ns) or (
            len(one.tagset_ids) * KEPT_SHARE >= len(every)
            and cache.keeps(tier, len(every), len(one.field_ids), start_ns, end_ns)
        )
        if kept:
            return cache.read(tier, one.table_id, every, one.field_ids, start_ns, end_ns, names)
        return cache.direct(tier, one.tagset_ids, one.field_ids, start_ns, end_ns, names)

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


def _lacking(pieces: Sequence[Piece], raw_since_ns: int) -> Interval | None:
    """Return the time from the first to the last raw sample that is wanted but no longer kept, if there is such."""
    gone = [
        (start_ns, min(end_ns, raw_since_ns))
        for piece in pieces
        if piece.tier is None
        for start_ns, end_ns in piece.intervals
        if start_ns < raw_since_ns
    ]
    return (gone[0][0], gone[-1][1]) if gone else None
