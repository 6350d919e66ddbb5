"""Range queries about few samples: answered from memory in one pass, without waiting for anything.

What is read is known to be little before it is read, so that such a query may run where nothing may take long.  Hot
blocks are looked through or searched, segments by the columns of them that are kept.  Rows are added up where they lie:
no late row corrects another one in the time asked for, so each counts, and those of one tag set come in order of time
(segments before blocks, blocks in order of arrival).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from engine.catalog.catalog import Catalog
from engine.clock import NS_PER_SECOND
from engine.hot.store import BlockView
from engine.model.rows import FIELD_ID_BITS, Int64Array
from engine.model.selection import FEW_TAGSETS
from engine.query.grouping import lines_of
from engine.query.samples import SampleStore
from engine.query.selected import Lines, Selected
from engine.query.serieslist import LineBlock
from native.bucketgrid import MERGED, TOO_MANY, BucketGrid

_FIELD = itemgetter(0)
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

    def _fill(self, grid: BucketGrid, one: Selected, start_ns: int, end_ns: int, most: int) -> bool:
        """Add the samples of all sources; return False when that would take too long."""
        snapshot = self._samples.undisturbed(one.table_id, start_ns, end_ns)
        if snapshot is None:
            return False
        start_ns = max(start_ns, snapshot.start_ns)
        if start_ns >= end_ns:
            return True
        fields = one.field_ids
        few = len(one.tagset_ids) <= FEW_TAGSETS
        looked_through = sum(_rows_without_order(view, few) for view in snapshot.fresh)
        if looked_through > MAX_LOOKED_THROUGH or (snapshot.settled and not few):
            return False
        for meta in snapshot.settled:
            groups = self._samples.kept_columns(meta, start_ns, end_ns, one.tagset_ids, fields)
            if groups is None:
                return False
            for tagset_ids, times, columns in groups:
                grid.use(columns)
                taken = grid.take(tagset_ids, times, 0, start_ns, end_ns, True, most)
                if taken == TOO_MANY:
                    return False
                most -= taken * len(fields)
        for view in snapshot.fresh:
            view.block.searched |= not one.every
            rows, indexed = view.rows, 0
            known = rows.field_ids
            grid.use_matrix(rows.values, [known.index(each) if each in known else -1 for each in fields])
            if few and view.index is not None and not view.in_order:
                # The rows in its order first: they came before the rest.
                indexed = len(view.index.order)
                taken = grid.take_indexed(view.index.tagset_ids, view.index.order, rows.times, start_ns, end_ns, most)
                if taken == TOO_MANY:
                    return False
                most -= taken * len(fields)
            taken = grid.take(rows.tagset_ids, rows.times, indexed, start_ns, end_ns, view.in_order, most)
            if taken == TOO_MANY:
                return False
            most -= taken * len(fields)
        return True


def _rows_without_order(view: BlockView, few: bool) -> int:
    """Return how many rows of a block have to be looked at one by one."""
    if view.in_order:
        return 0
    return len(view.rows) - (len(view.index.order) if few and view.index is not None else 0)


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
