"""Range queries about few samples: answered from memory in one pass, without waiting for anything.

What is read is known to be little before it is read, so that such a query may run where nothing may take long.  Hot
blocks are looked through or searched, segments by the columns of them that are kept.  Rows are added up where they lie:
no late row corrects another one in the time asked for, so each counts, and those of one tag set come in order of time
(segments before blocks, blocks in order of arrival).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.catalog.catalog import Catalog
from engine.clock import NS_PER_SECOND
from engine.model.rows import FIELD_ID_BITS
from engine.model.selection import FEW_TAGSETS
from engine.query.grouping import lines_of
from engine.query.samples import SampleStore
from engine.query.selected import Lines, Selected
from engine.query.serieslist import SeriesPoints
from native.bucketgrid import MERGED, TOO_MANY, BucketGrid

#: A query is prompt with no more cells of rows to add up, ...
MAX_CELLS = 50_000
#: ... rows in no order to look through, ...
MAX_LOOKED_THROUGH = 400_000
#: ... buckets to keep (64 bytes each), ...
MAX_BUCKETS = 16_384
#: ... and tag sets.
MAX_TAGSETS = 2_000


@dataclass(slots=True)
class Part:
    """Lines of one selection, how many samples they are from, and the time of the newest (None without any)."""

    lines: list[SeriesPoints]
    samples: int
    newest_ns: int | None


class PromptReader:
    """Answers prompt queries of one engine; callable from any thread."""

    def __init__(self, catalog: Catalog, samples: SampleStore) -> None:
        self._catalog, self._samples = catalog, samples

    def read(
        self,
        one: Selected,
        aggregate: str,
        by: Sequence[str] | None,
        start_ns: int,
        end_ns: int,
        step_ns: int,
        look_back_ns: int,
        most_cells: int,
    ) -> Part | None:
        """Return the lines of a selection; None where more than ``most_cells``, or much else, has to be looked at.

        ``look_back_ns``: how far before the start the sample may be from which the first step counts.
        """
        merged = by is not None
        count = len(one.tagset_ids)
        if not count or count > MAX_TAGSETS or (merged and aggregate not in MERGED):
            return None
        fields = len(one.metrics)
        # Before the lines are looked for; there is one at least.
        if BucketGrid.size(fields, 1 if merged else count, start_ns, end_ns, step_ns) > MAX_BUCKETS:
            return None
        lines = self._lines(one, None if by is None else tuple(by))
        slots = len(lines.labels)
        if BucketGrid.size(fields, slots, start_ns, end_ns, step_ns) > MAX_BUCKETS:
            return None
        folded = "increase" if aggregate == "rate" else aggregate
        grid = BucketGrid(folded, one.tagset_ids, lines.of_tagset, slots, fields, start_ns, end_ns, step_ns)
        if not self._fill(grid, one, start_ns - look_back_ns, end_ns, min(MAX_CELLS, most_cells)):
            return None
        found = _points(grid, one, lines, start_ns, end_ns, step_ns)
        if aggregate == "rate":
            for line in found:
                np.divide(line.values, step_ns / NS_PER_SECOND, out=line.values)
        return Part(found, grid.samples, grid.newest_ns if grid.samples else None)

    def _lines(self, one: Selected, by: tuple[str, ...] | None) -> Lines:
        known = one.lines.get(by)
        if known is None:
            labels, groups = lines_of(self._catalog, one.table_id, one.tagset_ids.astype(np.int64) << FIELD_ID_BITS, by)
            known = one.lines[by] = Lines(labels, groups.astype(np.int32))
        return known

    def _fill(self, grid: BucketGrid, one: Selected, start_ns: int, end_ns: int, most: int) -> bool:
        """Add the samples of all sources; return False when that would take too long."""
        snapshot = self._samples.undisturbed(one.table_id, start_ns, end_ns)
        if snapshot is None:
            return False
        start_ns = max(start_ns, snapshot.start_ns)
        if start_ns >= end_ns:
            return True
        fields = one.field_ids
        looked_through = 0
        for view in snapshot.fresh:
            if not view.in_order:
                looked_through += len(view.rows)
        if looked_through > MAX_LOOKED_THROUGH or (snapshot.settled and len(one.tagset_ids) > FEW_TAGSETS):
            return False
        for meta in snapshot.settled:
            groups = self._samples.kept_columns(meta, start_ns, end_ns, one.tagset_ids, fields)
            if groups is None:
                return False
            for tagset_ids, times, columns in groups:
                taken = grid.take(tagset_ids, times, columns, start_ns, end_ns, True, most)
                if taken == TOO_MANY:
                    return False
                most -= taken * len(fields)
        for view in snapshot.fresh:
            view.block.searched |= not one.every
            rows = view.rows
            places = [rows.field_ids.index(each) if each in rows.field_ids else -1 for each in fields]
            columns = [None if place < 0 else rows.values[place] for place in places]
            taken = grid.take(rows.tagset_ids, rows.times, columns, start_ns, end_ns, view.in_order, most)
            if taken == TOO_MANY:
                return False
            most -= taken * len(fields)
        return True


def _points(
    grid: BucketGrid, one: Selected, lines: Lines, start_ns: int, end_ns: int, step_ns: int
) -> list[SeriesPoints]:
    """Return the lines of a filled grid, metric by metric; those of series without a sample are left out."""
    every_time = start_ns + step_ns * np.arange((end_ns - start_ns - 1) // step_ns + 1, dtype=np.int64)
    # Lines come in the order of their first series with a sample.
    order = None
    if len(lines.labels) != len(lines.of_tagset) and len(lines.labels) > 1:
        order = list(
            dict.fromkeys(
                slot for slot, present in zip(lines.of_tagset.tolist(), grid.present(), strict=True) if present
            )
        )
    points: list[SeriesPoints] = []
    for place, metric in enumerate(one.metrics.values()):
        slots, ends, buckets, values, newest = grid.line(place)
        made = {}
        first = 0
        for slot, end in zip(slots, ends, strict=True):
            whole = end - first == len(every_time)
            made[slot] = SeriesPoints(
                dict(lines.labels[slot]),
                every_time if whole else every_time[buckets[first:end]],
                values[first:end],
                metric,
                None if newest is None else newest[first:end],
            )
            first = end
        points += made.values() if order is None else [made[slot] for slot in order if slot in made]
    return points
