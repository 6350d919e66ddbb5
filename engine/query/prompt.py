"""Range queries about few samples: answered from memory in one pass, without waiting for anything.

What is read is known to be little before it is read, so that such a query may run where nothing may take long.  Hot
blocks are looked through or searched, segments by the columns of them that are kept.  Rows are added up where they lie,
and those of one tag set come in order of time (segments before blocks, blocks in order of arrival).  Late rows that
correct none are added behind them where order does not matter; elsewhere the rows asked for are sorted and merged.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter

import numpy as np

from engine.catalog.catalog import Catalog
from engine.clock import NS_PER_SECOND
from engine.hot.store import BlockView
from engine.model.rows import FIELD_ID_BITS, Int64Array, Rows, concat, sort_merge
from engine.model.selection import FEW_TAGSETS, find_rows
from engine.query.grouping import lines_of
from engine.query.samples import SampleStore, Snapshot
from engine.query.selected import Lines, Selected
from engine.query.serieslist import LineBlock
from engine.segments.columns import KeptGroup
from native.bucketgrid import GUARDED, MERGED, BucketGrid

_FIELD = itemgetter(0)
#: A query is prompt with no more cells of rows to add up, ...
MAX_CELLS = 50_000
#: ... rows in no order to look through, ...
MAX_LOOKED_THROUGH = 400_000
#: ... buckets to keep (64 bytes each), ...
MAX_BUCKETS = 8_192
#: ... late rows to sort, ...
MAX_LATE_ROWS = 4_096
#: ... blocks and segments, ...
MAX_SOURCES = 64
#: ... lines with labels to write, ...
MAX_LINES = 256
#: ... and tag sets.
MAX_TAGSETS = 2_000
_NO_ROWS = Rows.empty()


@dataclass(slots=True)
class Part:
    """Lines of one selection, how many samples they are from, and the time of the newest (None without any)."""

    blocks: list[LineBlock]
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
        if not merged and count > MAX_LINES:
            return None
        fields = len(one.metrics)
        # Before the lines are looked for; there is one at least.
        if BucketGrid.size(fields, 1 if merged else count, start_ns, end_ns, step_ns) > MAX_BUCKETS:
            return None
        lines = self._lines(one, None if by is None else tuple(by))
        slots = len(lines.labels)
        if slots > MAX_LINES or BucketGrid.size(fields, slots, start_ns, end_ns, step_ns) > MAX_BUCKETS:
            return None
        folded = "increase" if aggregate == "rate" else aggregate
        make = partial(BucketGrid, folded, one.tagset_ids, lines.of_tagset, slots, fields, start_ns, end_ns, step_ns)
        sources = self._sources(one, start_ns - look_back_ns, end_ns)
        if sources is None:
            return None
        grid = sources.filled(make, folded in MERGED, min(MAX_CELLS, most_cells))
        if grid is None:
            return None
        found = _blocks(grid, one, lines, start_ns, end_ns, step_ns)
        if aggregate == "rate":
            for block in found:
                np.divide(block.values, step_ns / NS_PER_SECOND, out=block.values)
        return Part(found, grid.samples, grid.newest_ns if grid.samples else None)

    def _lines(self, one: Selected, by: tuple[str, ...] | None) -> Lines:
        known = one.lines.get(by)
        if known is None:
            labels, groups = lines_of(self._catalog, one.table_id, one.tagset_ids.astype(np.int64) << FIELD_ID_BITS, by)
            known = one.lines[by] = Lines(labels, groups.astype(np.int32))
        return known

    def _sources(self, one: Selected, start_ns: int, end_ns: int) -> _Sources | None:
        """Return where the rows are; None when looking through them would take too long."""
        snapshot = self._samples.prompt_snapshot(one.table_id, start_ns, end_ns)
        if snapshot is None:
            return None
        if len(snapshot.settled) + len(snapshot.fresh) + len(snapshot.late) > MAX_SOURCES:
            return None
        few = len(one.tagset_ids) <= FEW_TAGSETS
        looked_through = sum(
            view.rows_without_order if few else (0 if view.in_order else len(view.rows))
            for view in (*snapshot.fresh, *snapshot.late)
        )
        if looked_through > MAX_LOOKED_THROUGH or (snapshot.settled and not few):
            return None
        if not one.every:
            for view in snapshot.fresh:
                self._samples.hot.note_search(view)
        groups: list[KeptGroup] = []
        for meta in snapshot.settled:
            found = self._samples.kept_columns(meta, snapshot.start_ns, end_ns, one.tagset_ids, one.field_ids)
            if found is None:
                return None
            groups += found
        return _Sources(one, snapshot, groups, few)


@dataclass(frozen=True, slots=True)
class _Sources:
    """Where the rows of a selection are.  ``few``: they are of so few tag sets that these are looked up one by one."""

    one: Selected
    snapshot: Snapshot
    groups: list[KeptGroup]
    few: bool

    def filled(self, make: Callable[[], BucketGrid], merged: bool, most: int) -> BucketGrid | None:
        """Return a grid with all samples, None when there are more than ``most`` cells.

        ``merged``: it does not matter in which order the samples of a tag set come.
        """
        grid = make()
        if self.snapshot.start_ns >= self.snapshot.end_ns:
            return grid
        late = self._late_rows() if self.snapshot.late else _NO_ROWS
        if len(late) > MAX_LATE_ROWS:
            return None
        if not len(late):
            return grid if self._take(grid, most) >= 0 else None
        if merged:
            # Late rows that correct none are just more rows.
            grid.guard(late.tagset_ids, late.times)
            left = self._take(grid, most)
            if left >= 0:
                grid.guard(late.tagset_ids[:0], late.times[:0])
            if left != GUARDED:
                return grid if left >= 0 and self._take_sorted(grid, late, left) else None
            grid = make()
        if not self.few:
            return None
        return grid if self._take_sorted(grid, self._gathered(), most) else None

    def _take(self, grid: BucketGrid, most: int) -> int:
        """Add the rows that are not late; return how many more cells there may be, or why they were not added."""
        fields = self.one.field_ids
        start_ns, end_ns = self.snapshot.start_ns, self.snapshot.end_ns
        for tagset_ids, times, columns in self.groups:
            grid.use(columns)
            taken = grid.take(tagset_ids, times, 0, start_ns, end_ns, True, most)
            if taken < 0:
                return taken
            most -= taken * len(fields)
        for view in self.snapshot.fresh:
            rows, indexed = view.rows, 0
            _use(grid, rows, fields)
            if self.few and view.index is not None and not view.in_order:
                # The rows in its order first: they came before the rest.
                indexed = len(view.index.order)
                taken = grid.take_indexed(view.index.tagset_ids, view.index.order, rows.times, start_ns, end_ns, most)
                if taken < 0:
                    return taken
                most -= taken * len(fields)
            taken = grid.take(rows.tagset_ids, rows.times, indexed, start_ns, end_ns, view.in_order, most)
            if taken < 0:
                return taken
            most -= taken * len(fields)
        return most

    def _take_sorted(self, grid: BucketGrid, rows: Rows, most: int) -> bool:
        _use(grid, rows, self.one.field_ids)
        start_ns, end_ns = self.snapshot.start_ns, self.snapshot.end_ns
        return grid.take(rows.tagset_ids, rows.times, 0, start_ns, end_ns, True, most) >= 0

    def _late_rows(self) -> Rows:
        """Return the late rows asked for, sorted, each key once."""
        return sort_merge(concat([self._select(view) for view in self.snapshot.late]))

    def _gathered(self) -> Rows:
        """Return all rows asked for, sorted, each key once, late ones having corrected the others."""
        parts = []
        for tagset_ids, times, columns in self.groups:
            found = find_rows(
                tagset_ids,
                times,
                start_ns=self.snapshot.start_ns,
                end_ns=self.snapshot.end_ns,
                wanted=self.one.tagset_ids,
                in_order=True,
            )
            stored = {
                field_id: column[found]
                for field_id, column in zip(self.one.field_ids, columns, strict=True)
                if column is not None
            }
            values = np.stack(list(stored.values())) if stored else np.empty((0, len(times[found])))
            parts.append(Rows(tagset_ids[found], times[found], tuple(stored), values))
        parts += [self._select(view) for view in (*self.snapshot.fresh, *self.snapshot.late)]
        return sort_merge(concat(parts))

    def _select(self, view: BlockView) -> Rows:
        return view.select(self.snapshot.start_ns, self.snapshot.end_ns, self.one.narrowed, self.one.field_ids)


def _use(grid: BucketGrid, rows: Rows, field_ids: Sequence[int]) -> None:
    known = rows.field_ids
    grid.use_matrix(rows.values, [known.index(each) if each in known else -1 for each in field_ids])


def _blocks(grid: BucketGrid, one: Selected, lines: Lines, start_ns: int, end_ns: int, step_ns: int) -> list[LineBlock]:
    """Return the lines of a filled grid, a block for each metric; those of series without a sample are left out."""
    found, buckets, values, newest = grid.lines()
    steps = (end_ns - start_ns - 1) // step_ns + 1
    metrics = list(one.metrics.values())
    order: dict[int, int] = {}
    if len(lines.labels) != len(lines.of_tagset) and len(lines.labels) > 1:
        # Lines come in the order of their first series with a sample.
        seen = (slot for slot, present in zip(lines.of_tagset.tolist(), grid.present(), strict=True) if present)
        order = {slot: number for number, slot in enumerate(dict.fromkeys(seen))}
    copied = [dict(labels) for labels in lines.labels]
    # What the blocks of several metrics have in common is one object, which is then written once.
    labels: dict[tuple[int, ...], list[dict[str, str]]] = {}
    whole: dict[int, tuple[Int64Array, Int64Array]] = {}
    blocks = []
    for field, run in itertools.groupby(found, key=_FIELD):
        spans = list(run)
        first, end = spans[0][2], spans[-1][3]
        places: slice | Int64Array = slice(first, end)
        if order:
            spans.sort(key=lambda span: order[span[1]])
            places = np.concatenate([np.arange(span[2], span[3]) for span in spans])
        slots = tuple([span[1] for span in spans])
        if end - first == steps * len(spans):
            known = whole.get(len(spans))
            if known is None:
                every = start_ns + step_ns * np.arange(steps, dtype=np.int64)
                bounds = steps * np.arange(len(spans) + 1, dtype=np.int64)
                known = whole[len(spans)] = every if len(spans) == 1 else np.tile(every, len(spans)), bounds
            times, bounds = known
        else:
            times = start_ns + step_ns * buckets[places]
            bounds = np.cumsum([0, *(span[3] - span[2] for span in spans)], dtype=np.int64)
        if slots not in labels:
            labels[slots] = [copied[slot] for slot in slots]
        blocks.append(
            LineBlock(
                metrics[field],
                labels[slots],
                bounds,
                times,
                values[places],
                None if newest is None else newest[places],
            )
        )
    return blocks
