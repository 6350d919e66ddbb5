"""Rows of one table that satisfy conditions, each exactly once, a block at a time.

Settled rows are filtered where they are; rows that late ones correct are merged with these first (last arrival wins,
field by field).  Of a block no more is read than it takes to tell that nothing in it matches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from engine.model.rows import FOREVER_NS, NEVER_NS, Int32Array, Rows
from engine.model.selection import FEW_TAGSETS, Selection
from engine.query.blocks import ColumnBlock, ColumnBounds, GroupBlock, HotBlock
from engine.query.comparisons import Comparison
from engine.query.laterows import LateRows
from engine.query.newest import NotPrompt
from engine.query.samples import SampleStore, Snapshot
from engine.segments.deletions import Hole, hole_mask
from engine.segments.layout import FieldColumn, SegmentMeta

#: A scan is prompt that looks through no more rows in no order, of these late ones.
PROMPT_ROWS, PROMPT_LATE_ROWS = 400_000, 10_000
#: In which order blocks are read: as they are, or by the time of their oldest or newest row.
Direction = Literal["any", "oldest", "newest"]


@dataclass(frozen=True, slots=True)
class ScanRequest:
    """Rows with ``start_ns <= time < end_ns`` of some tag sets (int32, ascending) with some fields.

    ``every``: they are all that the table has; ``field_ids``: ascending.  ``conditions``: (field, comparison), all of
    which a row has to satisfy.  ``promptly``: raise NotPrompt where it takes more than a little while.
    """

    table_id: int
    start_ns: int
    end_ns: int
    tagset_ids: Int32Array
    field_ids: tuple[int, ...]
    conditions: tuple[tuple[int, Comparison], ...] = ()
    direction: Direction = "any"
    every: bool = False
    promptly: bool = False

    @property
    def narrowed(self) -> Int32Array | None:
        return None if self.every else self.tagset_ids

    @property
    def needed(self) -> tuple[int, ...]:
        """The fields that are looked at, ascending."""
        return tuple(sorted({*self.field_ids, *(field_id for field_id, _ in self.conditions)}))


@dataclass(slots=True)
class ScanCounts:
    """How many rows of row groups and hot blocks were looked at, and in how many files and blocks.

    ``found``: how many of them were of the tag sets and times asked for, where answers are to be prompt.
    """

    rows_read: int = 0
    files: int = 0
    found: int = 0


#: Whether rows from one time to another, both included, are of no use any more.
Useless = Callable[[int, int], bool]


def never(low_ns: int, high_ns: int) -> bool:
    """Return that rows are of use."""
    return False


class RowScanner:
    """Scans the rows of one engine; callable from any thread."""

    def __init__(self, samples: SampleStore) -> None:
        self._samples = samples
        self._bounds = ColumnBounds()

    def scan(self, request: ScanRequest, counts: ScanCounts, useless: Useless = never) -> Iterator[Rows]:
        """Yield the rows that match, with the fields in the order of the request, each key once, in no order.

        Files stay until the iterator has ended or is closed.  ``useless`` is asked before a block is read.
        Raises Damage.
        """
        with self._samples.reading():
            snapshot = self._samples.snapshot(request.table_id, request.start_ns, request.end_ns)
            if request.promptly:
                _require_few(request, snapshot)
            late = None
            if snapshot.late:
                late = LateRows(snapshot.late, snapshot.start_ns, request.end_ns, request.tagset_ids, request.needed)
                counts.rows_read += len(late)
                counts.files += len(snapshot.late)
            for block in self._blocks(request, snapshot, counts):
                skipped = useless(block.low_ns, block.high_ns) or _excluded(block, request)
                touching = late if late is not None and late.touch(block) else None
                if skipped and touching is None:
                    continue
                rows = _matching(block, request, snapshot.start_ns, touching, counts)
                counts.rows_read += block.rows
                if rows is not None:
                    yield rows
            if late is not None and len(late):
                yield _accepted(late.rows, request)

    def _blocks(self, request: ScanRequest, snapshot: Snapshot, counts: ScanCounts) -> Iterator[ColumnBlock]:
        segments = [*snapshot.settled, *snapshot.disturbed]
        keep = len(request.tagset_ids) <= FEW_TAGSETS or self._fits(request, segments)
        sources: list[SegmentMeta | HotBlock] = [*segments]
        for view in snapshot.fresh:
            view.block.searched |= not request.every
            sources.append(HotBlock(view, self._bounds))
        if request.direction == "newest":
            sources.sort(key=lambda each: each.max_time_ns if isinstance(each, SegmentMeta) else each.high_ns)
            sources.reverse()
        elif request.direction == "oldest":
            sources.sort(key=lambda each: each.min_time_ns if isinstance(each, SegmentMeta) else each.low_ns)
        for source in sources:
            counts.files += 1
            if isinstance(source, HotBlock):
                yield source
            else:
                yield from self._groups(source, request, snapshot.start_ns, keep=keep)

    def _fits(self, request: ScanRequest, segments: Sequence[SegmentMeta]) -> bool:
        """Return whether all that may be decoded takes no more than half of what is kept of decoded columns."""
        row_bytes = 8 * len(request.needed) + 12
        return row_bytes * sum(meta.rows for meta in segments) <= self._samples.columns.max_bytes // 2

    def _groups(self, meta: SegmentMeta, request: ScanRequest, start_ns: int, *, keep: bool) -> Iterator[GroupBlock]:
        samples = self._samples
        opened = samples.known_segment(meta) if request.promptly else samples.open_segment(meta)
        if opened is None:
            raise NotPrompt
        stored: dict[int, list[FieldColumn]] = {}
        for column in opened.footer.header.fields:
            stored.setdefault(column.field_id, []).append(column)
        holes = samples.holes(meta)
        for group in opened.footer.groups_for(start_ns, request.end_ns, request.narrowed):
            yield GroupBlock(
                opened, group, holes, stored, samples.columns, self._bounds, keep=keep, promptly=request.promptly
            )


def _require_few(request: ScanRequest, snapshot: Snapshot) -> None:
    """Raise NotPrompt where many rows may have to be looked at."""
    unordered = sum(view.rows_without_order for view in snapshot.fresh)
    late = sum(len(view.rows) for view in snapshot.late)
    if len(request.tagset_ids) > FEW_TAGSETS or unordered > PROMPT_ROWS or late > PROMPT_LATE_ROWS:
        raise NotPrompt


def _excluded(block: ColumnBlock, request: ScanRequest) -> bool:
    """Return whether it is known that nothing in a block satisfies the conditions."""
    for field_id, comparison in request.conditions:
        bounds = block.bounds(field_id)
        if bounds is not None and comparison.excludes(*bounds):
            return True
    return False


def _matching(
    block: ColumnBlock, request: ScanRequest, start_ns: int, late: LateRows | None, counts: ScanCounts
) -> Rows | None:
    """Return the rows of a block that match and that no late row corrects, None without one."""
    tagsets, times = block.keys()
    inside = start_ns <= block.low_ns and block.high_ns < request.end_ns
    found = block.find(
        NEVER_NS if inside else start_ns,
        FOREVER_NS if inside else request.end_ns,
        _wanted_in(block, tagsets, request),
    )
    if request.promptly:
        counts.found += _count(found)
        if counts.found > PROMPT_ROWS:
            raise NotPrompt
    found = _outside(tagsets, times, found, block.holes)
    if late is not None:
        found = late.claim(block, found)
    for field_id, comparison in request.conditions:
        if not _count(found):
            return None
        column = block.column(field_id)
        if column is None:
            return None
        found = _narrowed(found, comparison.accepts(column[found]))
    if not _count(found):
        return None
    return Rows(tagsets[found], times[found], request.field_ids, block.gather(request.field_ids, found))


def _wanted_in(block: ColumnBlock, tagsets: Int32Array, request: ScanRequest) -> Int32Array | None:
    """Return the tag sets that may be in the block, None when all of its are asked for."""
    wanted = request.tagset_ids
    first, last = block.tagsets
    if request.every:
        # What has come since the question was asked may be of tag sets that there were not, with higher numbers.
        known = int(wanted[-1]) if len(wanted) else -1
        if last <= known or int(tagsets.max(initial=-1)) <= known:
            return None
    return wanted[np.searchsorted(wanted, first) : np.searchsorted(wanted, last, side="right")]


def _outside(tagsets: Int32Array, times: npt.NDArray[np.int64], found: Selection, holes: Sequence[Hole]) -> Selection:
    if not holes or not _count(found):
        return found
    keys = Rows(tagsets[found], times[found], (), np.empty((0, _count(found))))
    kept = np.ones(len(keys), np.bool_)
    for hole in holes:
        kept &= ~hole_mask(keys, hole)
    return _narrowed(found, kept)


def _accepted(rows: Rows, request: ScanRequest) -> Rows:
    """Return those rows that satisfy the conditions, with the fields of the answer."""
    accepted = np.ones(len(rows), np.bool_)
    for field_id, comparison in request.conditions:
        accepted &= comparison.accepts(rows.values[rows.field_ids.index(field_id)])
    index = [rows.field_ids.index(field_id) for field_id in request.field_ids]
    values = rows.values[index].take(np.flatnonzero(accepted), axis=1)
    return Rows(rows.tagset_ids[accepted], rows.times[accepted], request.field_ids, values)


def _count(found: Selection) -> int:
    return int(found.stop - found.start) if isinstance(found, slice) else len(found)


def _narrowed(found: Selection, accepted: npt.NDArray[np.bool_]) -> Selection:
    """Return the accepted ones of the places found."""
    places = np.flatnonzero(accepted)
    if len(places) == len(accepted):
        return found
    if isinstance(found, slice):
        if found.start:
            places += found.start
        return places
    return found[places]
