"""Which 1m buckets must be recomputed, and their recomputation.

Every appended row marks its (tag set, minute).  A flush recomputes the marked buckets wholly from the de-duplicated raw
samples, wherever these are, so that late, repeated and corrected samples need no case of their own; the store replaces
the buckets and carries the change up the tiers.  A flush that fails keeps its marks for the next one.

Flushing costs the less the more minutes it takes at once, as each touches the open bucket of every wider tier.  So
in the background only hours that are over are flushed, and everything at once when many rows wait; whoever
reads tiers has the rest flushed first.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from engine.clock import NS_PER_HOUR, NS_PER_MINUTE, NS_PER_SECOND
from engine.errors import Damage
from engine.model.rows import FOREVER_NS, Int32Array, Int64Array, Rows, distinct, sort_merge
from engine.model.rows import concat as concat_rows
from engine.model.selection import is_member, select
from engine.rollups.bins import Bins, bins_of
from engine.rollups.pairs import Pairs
from engine.rollups.rows import TierRows, concat
from engine.rollups.store import Piece
from engine.rollups.tiers import QUIET_NS
from native.rollup import select_buckets, touched_buckets
from native.tiers import aggregate_parts, aggregate_rows

LOG = logging.getLogger("tidegauge.rollups")

#: ``collect(table_id, start_ns, end_ns, tagset_ids)`` gives raw rows in any order, a key possibly more than once, and
#: rows that were not asked for among them.
Collect = Callable[[int, int, int, Int32Array], Sequence[Rows]]
#: Stores pieces durably, and the sequence number that the tiers then include.
FlushPieces = Callable[[Sequence[Piece], int], None]
#: ``chosen(table_id, field_ids)``: which of a table's fields are counters, and which have histograms.
Chosen = Callable[[int, tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]]

#: ``expected(table_id, start_ns, end_ns)``: about how many raw rows there are in files, and how many in memory.
Expected = Callable[[int, int, int], tuple[int, int]]

#: Buckets are recomputed a window at a time, so that one flush never reads more raw rows than a window holds ...
WINDOW_NS = 2 * NS_PER_HOUR
#: ... or neighbouring windows together, as long as they hold no more than this: sparse history then takes few steps.
ROWS_AT_A_TIME = 500_000
#: ... and as many (tag set, minute) pairs, by ranges of tag sets: each wider bucket is then touched once, and a single
#: minute of very many series is bounded too.
PAIRS_AT_A_TIME = 65_536
#: ... or a multiple of that, where rows have fewer fields than this.
WIDE_FIELDS = 4
#: As many raw rows are read from files at a time, unless a single minute has more, by multiples of these: memory used
#: again is far cheaper than fresh pages.  Those in memory are aggregated where they are.
ROWS_READ_AT_A_TIME = 131_072
READ_NS = (2 * NS_PER_HOUR, NS_PER_HOUR, NS_PER_HOUR // 2, NS_PER_HOUR // 4, NS_PER_HOUR // 12, NS_PER_MINUTE)
#: Marks are condensed to unique buckets when more rows than this are waiting, and again when they have doubled: when
#: flushes fail for long.  Condensing holds up the thread that acknowledges, and a mark takes only 12 bytes.
CONDENSE_ROWS = 8_000_000
#: In the background what is older than the last full hour is flushed, some time after it is over ...
GRACE_NS = 30 * NS_PER_SECOND
#: ... or everything, once as many rows wait.
MANY_ROWS = 250_000
#: Minutes that are remembered one by one for readers; beyond, all of a table counts as marked.
MAX_MINUTES = 100_000


def _not_known(table_id: int, start_ns: int, end_ns: int) -> tuple[int, int]:
    return ROWS_AT_A_TIME, 0


def _no_choice(table_id: int, field_ids: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (), ()


@dataclass(slots=True)
class _Marks:
    """Rows of one table whose buckets are marked; arrays in order of arrival, the first sequence number of each."""

    tagset_ids: list[Int32Array] = field(default_factory=list)
    times: list[Int64Array] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    rows: int = 0
    #: Rows left when the marks were condensed last.
    unique: int = 0
    oldest_ns: int = FOREVER_NS
    #: Numbers of the minutes in which rows are; None: of too many.
    minutes: set[int] | None = field(default_factory=set)

    def add(self, tagset_ids: Int32Array, times: Int64Array, sequence: int) -> None:
        self.tagset_ids.append(tagset_ids)
        self.times.append(times)
        self.sequences.append(sequence)
        self.rows += len(times)
        if len(times):
            oldest_ns = int(times.min())
            self.oldest_ns = min(self.oldest_ns, oldest_ns)
            self._add_minutes(minutes_of(times, oldest_ns))

    def _add_minutes(self, minutes: Iterable[int] | None) -> None:
        if self.minutes is not None and minutes is not None:
            self.minutes.update(minutes)
        if minutes is None or (self.minutes is not None and len(self.minutes) > MAX_MINUTES):
            self.minutes = None

    def extend(self, newer: _Marks) -> None:
        self.tagset_ids += newer.tagset_ids
        self.times += newer.times
        self.sequences += newer.sequences
        self.rows += newer.rows
        self.oldest_ns = min(self.oldest_ns, newer.oldest_ns)
        self._add_minutes(newer.minutes)

    def condensed(self) -> tuple[Int32Array, Int64Array]:
        return touched_buckets(np.concatenate(self.tagset_ids), np.concatenate(self.times), NS_PER_MINUTE)


class DirtyBuckets:
    """The marks of one engine and the flush that clears them."""

    def __init__(
        self, collect: Collect, flush: FlushPieces, chosen: Chosen = _no_choice, expected: Expected = _not_known
    ) -> None:
        self._collect, self._flush, self._chosen, self._expected = collect, flush, chosen, expected
        self._marks: dict[int, _Marks] = {}
        #: Those that the flush under way has taken.
        self._taken: dict[int, _Marks] = {}
        self._sequence = 0
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        #: Which flush will take the marks that are made now.
        self.round = 1
        #: Of each table, as the last recomputation found it.
        self._fields: dict[int, int] = {}
        self.flushed_sequence = 0
        #: Buckets left as they were because a segment that they need is damaged.
        self.unreadable_buckets = 0

    def mark(self, table_id: int, sequence: int, tagset_ids: Int32Array, times: Int64Array) -> None:
        """Mark the buckets of rows that have just become visible."""
        with self._lock:
            self._mark(table_id, sequence, tagset_ids, times)

    def mark_new(
        self, told_round: int, table_id: int, sequence: int, tagset_ids: Int32Array, times: Int64Array
    ) -> bool:
        """Do the same without the buckets that have been marked in this round; return False when it is over."""
        with self._lock:
            if told_round != self.round:
                return False
            self._mark(table_id, sequence, tagset_ids, times)
            return True

    def _mark(self, table_id: int, sequence: int, tagset_ids: Int32Array, times: Int64Array) -> None:
        if len(times):
            marks = self._marks.setdefault(table_id, _Marks())
            marks.add(tagset_ids, times, sequence)
            if marks.rows > max(CONDENSE_ROWS, 2 * marks.unique):
                condensed = _Marks()
                condensed.add(*marks.condensed(), min(marks.sequences))
                condensed.unique = condensed.rows
                self._marks[table_id] = condensed
        self._sequence = max(self._sequence, sequence)

    @property
    def pending_rows(self) -> int:
        with self._lock:
            return sum(marks.rows for marks in self._marks.values())

    def unflushed(self, table_id: int, start_ns: int, end_ns: int) -> Int64Array | None:
        """Return the starts (ns), ascending, of the minutes that touch the range and that the tiers may lack rows of.

        None where there are too many to tell.  Whatever was visible when it was called is in the tiers but for these.
        """
        first, end = start_ns // NS_PER_MINUTE, -(-end_ns // NS_PER_MINUTE)
        found: set[int] = set()
        with self._lock:
            for marks in (self._taken.get(table_id), self._marks.get(table_id)):
                if marks is None:
                    continue
                if marks.minutes is None:
                    return None
                found.update(minute for minute in marks.minutes if first <= minute < end)
        return np.array(sorted(found), np.int64) * NS_PER_MINUTE

    def flush_due(self, now_ns: int) -> int:
        """Flush what is due in the background; return how many 1m rows were written."""
        if self.pending_rows >= MANY_ROWS:
            return self.flush()
        before_ns = (now_ns - GRACE_NS) // QUIET_NS * QUIET_NS
        with self._lock:
            oldest_ns = min((marks.oldest_ns for marks in self._marks.values()), default=FOREVER_NS)
        # Late samples alone can wait for the hour as well.
        if oldest_ns >= before_ns:
            return 0
        return self.flush(before_ns)

    def flush(self, before_ns: int = FOREVER_NS) -> int:
        """Recompute and store the marked buckets that start before ``before_ns``; return how many 1m rows were written.

        With the default, when it returns, the tiers hold everything that was visible when it was called.
        """
        with self._flushing:
            with self._lock:
                taken, self._marks = self._marks, {}
                self._taken = taken
                self.round += 1
                sequence = self._sequence
            if not taken and sequence <= self.flushed_sequence:
                return 0
            try:
                dirty: list[tuple[int, Pairs]] = []
                held: dict[int, _Marks] = {}
                for table_id, marks in taken.items():
                    tagset_ids, buckets = marks.condensed()
                    late = buckets >= before_ns
                    if late.any():
                        # Which batch a bucket that stays marked came with is not kept; the oldest will do.
                        held.setdefault(table_id, _Marks()).add(
                            tagset_ids[late], buckets[late], self._oldest_of(marks, before_ns)
                        )
                        tagset_ids, buckets = tagset_ids[~late], buckets[~late]
                    if len(buckets):
                        dirty.append((table_id, Pairs(tagset_ids, buckets)))
                through = min((s - 1 for marks in held.values() for s in marks.sequences), default=sequence)
                written = self._write(dirty, max(through, self.flushed_sequence))
            except BaseException:
                self._put_back(taken)
                raise
            self._put_back(held)
            self.flushed_sequence = max(through, self.flushed_sequence)
            return written

    @staticmethod
    def _oldest_of(marks: _Marks, before_ns: int) -> int:
        """Return the lowest sequence number of a mark at or after ``before_ns``."""
        return min(
            sequence
            for sequence, times in zip(marks.sequences, marks.times, strict=True)
            if len(times) and int(times.max()) >= before_ns
        )

    def _put_back(self, marked: dict[int, _Marks]) -> None:
        with self._lock:
            self._taken = {}
            for table_id, marks in marked.items():
                newer = self._marks.get(table_id)
                if newer is not None:
                    marks.extend(newer)
                self._marks[table_id] = marks

    def _write(self, dirty: list[tuple[int, Pairs]], sequence: int) -> int:
        """Store piece by piece: each is exact by itself, and the sequence number comes with the last."""
        written = 0
        waiting: list[Piece] = []
        cells = 0
        for table_id, pairs in dirty:
            for part in self._windows(table_id, pairs):
                if cells >= PAIRS_AT_A_TIME * 4:
                    self._flush(waiting, 0)
                    waiting, cells = [], 0
                for piece in self._pieces(table_id, part):
                    written += piece.rows.series_rows()
                    waiting.append(piece)
                    cells += len(piece.pairs) * max(1, len(piece.rows.field_ids))
        self._flush(waiting, sequence)
        return written

    def _pieces(self, table_id: int, pairs: Pairs) -> list[Piece]:
        """Return what the pairs are to be replaced by: one piece, or one for each part of them that can be read."""
        pieces = []
        whole = True
        start_ns, end_ns = int(pairs.buckets.min()), int(pairs.buckets.max()) + NS_PER_MINUTE
        in_files, _ = self._expected(table_id, start_ns, end_ns)
        for part in windows_of(pairs, in_files):
            try:
                pieces.append(Piece(table_id, self.recompute(table_id, part.tagset_ids, part.buckets), part))
            except Damage as error:
                # What is stored of them is the best there is, and the other buckets must not wait for them.
                LOG.error("%d rollup buckets stay as they are: %s", len(part), error.message)
                self.unreadable_buckets += len(part)
                whole = False
        if whole and len(pieces) > 1:
            return [Piece(table_id, concat([piece.rows for piece in pieces]).sorted(), pairs)]
        return pieces

    def _windows(self, table_id: int, pairs: Pairs) -> Iterator[Pairs]:
        """Yield the pairs in steps that read no more raw rows than fit: a window, several, or a part of one."""
        windows = pairs.buckets // WINDOW_NS
        order = np.argsort(windows, kind="stable")
        numbers, starts = np.unique(windows[order], return_index=True)
        ends = [*starts[1:].tolist(), len(order)]
        first = 0
        for last, end in enumerate(ends):
            following = last + 1
            if following < len(ends):
                near = numbers[following] == numbers[last] + 1
                few = ends[following] - int(starts[first]) <= PAIRS_AT_A_TIME
                span = int(numbers[first]) * WINDOW_NS, (int(numbers[following]) + 1) * WINDOW_NS
                if near and few and sum(self._expected(table_id, *span)) < ROWS_AT_A_TIME:
                    continue
            # In their old order, by tag set and bucket.
            chosen = np.sort(order[int(starts[first]) : end])
            # Each step looks at all rows of its time: where rows are narrow it takes more of them.
            most = PAIRS_AT_A_TIME * max(1, WIDE_FIELDS // self._fields.get(table_id, WIDE_FIELDS))
            yield from Pairs(pairs.tagset_ids[chosen], pairs.buckets[chosen]).chunks(most)
            first = following

    def recompute(self, table_id: int, tagset_ids: Int32Array, buckets: Int64Array) -> TierRows:
        """Return the 1m rows of these (tag set, bucket) pairs, which are sorted and of one table."""
        parts = self._collect(table_id, int(buckets.min()), int(buckets.max()) + NS_PER_MINUTE, distinct(tagset_ids))
        rows = aggregate_buckets(parts, Pairs(tagset_ids, buckets), partial(self._chosen, table_id))
        self._fields[table_id] = max(1, len(rows.field_ids))
        return rows


def minutes_of(times: Int64Array, oldest_ns: int) -> Iterable[int] | None:
    """Return the numbers of the minutes of ``times`` (ns, not empty), the oldest of which is given; None: too many.

    Where they are nearly one there may be others between.
    """
    first, last = oldest_ns // NS_PER_MINUTE, int(times.max()) // NS_PER_MINUTE
    if last - first <= 2:
        return range(first, last + 1)
    numbers = times // NS_PER_MINUTE
    if last - first < MAX_MINUTES:
        present = np.zeros(last - first + 1, np.bool_)
        present[numbers - first] = True
        found: list[int] = (np.flatnonzero(present) + first).tolist()
        return found
    distinct_numbers: Int64Array = np.unique(numbers)
    return distinct_numbers.tolist() if len(distinct_numbers) <= MAX_MINUTES else None


def aggregate_buckets(
    parts: Sequence[Rows],
    pairs: Pairs,
    chosen: Callable[[tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]] = lambda field_ids: ((), ()),
) -> TierRows:
    """Return the 1m rows of ``pairs``; ``parts``: raw rows that have all of theirs, of equal keys the later one counts.

    ``chosen(field_ids)``: which of these fields are counters, and which have histograms.
    """
    parts = [part for part in parts if len(part)]
    field_ids = tuple(sorted({number for part in parts for number in part.field_ids}))
    counters, binned = chosen(field_ids)
    if not parts or binned:
        return _aggregate_sorted(parts, pairs, counters, binned)
    # Rows need not be moved, only looked at in the right order, unless two of them have to be merged.
    lines = [[part.field_ids.index(n) if n in part.field_ids else -1 for n in field_ids] for part in parts]
    columns, repeated = aggregate_parts(
        [(part.tagset_ids, part.times, part.values) for part in parts],
        lines,
        pairs.tagset_ids,
        pairs.buckets,
        NS_PER_MINUTE,
        tuple(field_ids.index(number) for number in counters),
    )
    rows = TierRows.of(columns, field_ids, counters)
    if not len(repeated):
        return rows
    other = pairs.where(is_member(pairs.tagset_ids, repeated))
    return concat([rows, _aggregate_sorted(parts, other, counters, ())]).sorted()


def _aggregate_sorted(
    parts: Sequence[Rows], pairs: Pairs, counters: tuple[int, ...], binned: tuple[int, ...]
) -> TierRows:
    """Do the same with rows in any order, by sorting those that matter."""
    start_ns, end_ns = int(pairs.buckets.min()), int(pairs.buckets.max()) + NS_PER_MINUTE
    wanted = distinct(pairs.tagset_ids)
    rows = sort_merge(
        concat_rows([select(part, start_ns=start_ns, end_ns=end_ns, tagset_ids=wanted) for part in parts])
    )
    rows = rows.take(select_buckets(rows.tagset_ids, rows.times, NS_PER_MINUTE, pairs.tagset_ids, pairs.buckets))
    if not len(rows):
        return TierRows.empty()
    places = tuple(rows.field_ids.index(number) for number in counters)
    columns = aggregate_rows(rows.tagset_ids, rows.times, rows.values, NS_PER_MINUTE, places)
    histograms = {}
    for number in binned:
        line = rows.values[rows.field_ids.index(number)]
        histograms[number] = _histogram(rows, line, columns.tagset_ids, columns.times)
    return TierRows.of(columns, rows.field_ids, counters, histograms)


def _histogram(rows: Rows, values: np.ndarray, tagset_ids: Int32Array, times: Int64Array) -> Bins:
    """Return the bins of each (tag set, bucket), which are sorted and hold every sample."""
    present = ~np.isnan(values)
    ids = rows.tagset_ids[present]
    buckets = rows.times[present] // NS_PER_MINUTE * NS_PER_MINUTE
    keys = np.rec.fromarrays([tagset_ids, times])
    places = np.searchsorted(keys, np.rec.fromarrays([ids, buckets], dtype=keys.dtype))
    return Bins.counted(
        places.astype(np.int64), bins_of(values[present]), np.ones(int(present.sum()), np.int64), len(times)
    )


def windows_of(pairs: Pairs, expected_rows: int) -> Iterator[Pairs]:
    """Yield the pairs in order of time, window by window, so that each has few of the ``expected_rows`` to read."""
    first_ns = int(pairs.buckets.min())
    span_ns = int(pairs.buckets.max()) + NS_PER_MINUTE - first_ns
    step_ns = span_ns // max(1, -(-expected_rows // ROWS_READ_AT_A_TIME))
    if step_ns == span_ns:
        yield pairs
        return
    unit_ns = next((unit_ns for unit_ns in READ_NS if unit_ns <= step_ns), NS_PER_MINUTE)
    windows = pairs.buckets // (max(1, step_ns // unit_ns) * unit_ns)
    for window in np.unique(windows).tolist():
        yield pairs.where(windows == window)
