"""Which ranges to seal rows into: a pure function of the segments there are and the times of the rows.

A table's segments have disjoint ranges, so rows inside an existing range mean writing that segment again.
Everything else is a choice between few files and little rewriting, made for each UTC day by itself:

- A *busy* day (more than ``small_day_rows`` rows) gets one segment for each base window.
- A *small* day starts with one segment for what comes at once.  Its range ends where the rows end, to the second,
  unless they reach the last slot of a window: the next rows, in order of time, then fall behind it, not inside.
- When more than :data:`MAX_SMALL_FILES` small segments have gathered in a day, neighbours are merged, beginning
  with the smallest and going on while the next one is not larger than all so far.  Sizes then fall
  geometrically, which bounds how often a row is written again.
- When the first rows of a later day arrive, the day before is over and becomes one segment of the whole day.

A day that comes in order in 96 parts has each row written 3.6 times, in 12 parts 2.7 times, at once 1 time.  Rows
that come later than that make their segment be written again; ``SealTask.rewritten_rows`` shows the price, and
:func:`costly` which rows had better wait for company.  Days that are over are packed by ``compaction.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from engine.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_SECOND
from engine.model.rows import Int64Array
from engine.segments.layout import SegmentMeta

BASE_WINDOW_NS = 2 * NS_PER_HOUR
SMALL_DAY_ROWS = 2_000_000
MAX_SMALL_FILES = 8
#: A segment with at least this share of ``small_day_rows`` is not small: it is neither counted nor merged.
SMALL_SHARE = 4
#: Parts of a base window; rows in the last one make a range end with the window.
SLOTS_PER_WINDOW = 8
#: A window with more than this many times ``small_day_rows`` new rows is split, to bound the memory of one
#: seal.
SPLIT_FACTOR = 4
#: Late rows are worth writing their segment again when it has at most this many times as many.
WORTH = 4


@dataclass(frozen=True, slots=True)
class SealTask:
    """Write one segment for ``[start_ns, end_ns)`` with the ``new_rows`` rows and those of ``replaces``.

    ``new_rows`` is 0 where segments are only merged.
    """

    start_ns: int
    end_ns: int
    replaces: tuple[SegmentMeta, ...]
    new_rows: int

    @property
    def rewritten_rows(self) -> int:
        """Return how many rows that are sealed already are written again."""
        return sum(meta.rows for meta in self.replaces)


@dataclass(frozen=True, slots=True)
class _Unit:
    """A range of one day that is to hold the rows of ``replaces`` and ``new_rows`` more."""

    start_ns: int
    end_ns: int
    replaces: tuple[SegmentMeta, ...]
    new_rows: int

    @property
    def rows(self) -> int:
        return self.new_rows + sum(meta.rows for meta in self.replaces)

    @property
    def changes(self) -> bool:
        return self.new_rows > 0 or len(self.replaces) > 1


@dataclass(frozen=True, slots=True)
class _Stretch:
    """New rows ``times[first:last]`` of one day with no segment between them; they may use the range
    given.
    """

    first: int
    last: int
    start_ns: int
    end_ns: int


@dataclass(slots=True)
class _Day:
    """What one UTC day has: segments wholly inside, new rows outside of these, and whether a segment crosses
    it.
    """

    sealed: list[_Unit] = field(default_factory=list)
    stretches: list[_Stretch] = field(default_factory=list)
    crossed: bool = False

    @property
    def rows(self) -> int:
        return sum(unit.rows for unit in self.sealed) + sum(each.last - each.first for each in self.stretches)


def plan_seal(
    existing: Sequence[SegmentMeta],
    times: Int64Array,
    base_window_ns: int = BASE_WINDOW_NS,
    small_day_rows: int = SMALL_DAY_ROWS,
) -> list[SealTask]:
    """Return what to write so that rows at ``times`` (int64, any order) are sealed, in order of time.

    The ranges are disjoint and hold every one of ``times``; each segment of ``existing`` (all of one table)
    lies wholly in one of them, then it is among its ``replaces``, or in none.
    """
    if not len(times):
        return []
    ordered = np.sort(times)
    segments = sorted(existing, key=lambda meta: meta.start_ns)
    day_ns = max(NS_PER_DAY, base_window_ns)
    days, units = _sort_into_days(segments, ordered, day_ns)
    numbers = sorted(days)
    over = {
        before
        for before, number in itertools.pairwise(numbers)
        if days[number].stretches and not days[number].sealed and not days[number].crossed
    }
    for number in numbers:
        day = days[number]
        if number in over and not day.crossed and day.rows <= small_day_rows:
            units.append(_whole_day(day, number * day_ns, (number + 1) * day_ns))
        elif day.stretches or any(unit.new_rows for unit in day.sealed):
            fresh = [
                piece
                for stretch in day.stretches
                for piece in _pieces(ordered, stretch, base_window_ns, small_day_rows, day.rows <= small_day_rows)
            ]
            units += _merge_small(sorted([*day.sealed, *fresh], key=lambda unit: unit.start_ns), small_day_rows)
    units.sort(key=lambda unit: unit.start_ns)
    return [SealTask(unit.start_ns, unit.end_ns, unit.replaces, unit.new_rows) for unit in units if unit.changes]


def costly(existing: Sequence[SegmentMeta], times: Int64Array, worth: int = WORTH) -> npt.NDArray[np.bool_]:
    """Return which rows lie in a segment that has more than ``worth`` rows for each of them: bool, one a row."""
    metas = sorted(existing, key=lambda meta: meta.start_ns)
    if not metas or not len(times):
        return np.zeros(len(times), np.bool_)
    starts = np.array([meta.start_ns for meta in metas], np.int64)
    ends = np.array([meta.end_ns for meta in metas], np.int64)
    rows = np.array([meta.rows for meta in metas], np.int64)
    at = np.searchsorted(starts, times, side="right") - 1
    inside = (at >= 0) & (times < ends[at])
    counts = np.bincount(at[inside], minlength=len(metas))
    dear: npt.NDArray[np.bool_] = inside & (rows > worth * counts)[at]
    return dear


def _sort_into_days(
    segments: Sequence[SegmentMeta], ordered: Int64Array, day_ns: int
) -> tuple[dict[int, _Day], list[_Unit]]:
    """Return the days that have segments or new rows, and apart the segments that cross from one day into
    another.
    """
    days: dict[int, _Day] = {}
    crossing: list[_Unit] = []
    gap_start, at = np.iinfo(np.int64).min, 0
    for meta in (*segments, None):
        gap_end = np.iinfo(np.int64).max if meta is None else meta.start_ns
        end = len(ordered) if meta is None else int(np.searchsorted(ordered, meta.start_ns))
        while at < end:
            number = int(ordered[at]) // day_ns
            last = min(end, int(np.searchsorted(ordered, (number + 1) * day_ns)))
            days.setdefault(number, _Day()).stretches.append(
                _Stretch(at, last, max(gap_start, number * day_ns), min(gap_end, (number + 1) * day_ns))
            )
            at = last
        if meta is None:
            break
        at = int(np.searchsorted(ordered, meta.end_ns))
        gap_start = meta.end_ns
        unit = _Unit(meta.start_ns, meta.end_ns, (meta,), at - end)
        number, last_number = meta.start_ns // day_ns, (meta.end_ns - 1) // day_ns
        if number == last_number:
            days.setdefault(number, _Day()).sealed.append(unit)
        else:
            crossing.append(unit)
            for each in range(number, last_number + 1):
                days.setdefault(each, _Day()).crossed = True
    return days, crossing


def _whole_day(day: _Day, start_ns: int, end_ns: int) -> _Unit:
    new_rows = sum(unit.new_rows for unit in day.sealed) + sum(each.last - each.first for each in day.stretches)
    return _Unit(start_ns, end_ns, tuple(meta for unit in day.sealed for meta in unit.replaces), new_rows)


def _pieces(
    ordered: Int64Array, stretch: _Stretch, window_ns: int, small_day_rows: int, small_day: bool
) -> Iterator[_Unit]:
    """Yield the ranges for a stretch of new rows: one on a small day, otherwise one for each base window."""
    slot_ns = max(1, window_ns // SLOTS_PER_WINDOW)
    if small_day:
        yield _piece(ordered, stretch, stretch.first, stretch.last, window_ns, slot_ns)
        return
    for first, last in _cut(ordered, stretch.first, stretch.last, window_ns):
        if last - first <= SPLIT_FACTOR * small_day_rows:
            yield _piece(ordered, stretch, first, last, window_ns, slot_ns)
        else:
            for begin, end in _cut(ordered, first, last, slot_ns):
                yield _piece(ordered, stretch, begin, end, slot_ns, slot_ns)


def _cut(ordered: Int64Array, first: int, last: int, width_ns: int) -> Iterator[tuple[int, int]]:
    """Yield the index ranges of the rows of each aligned window that has some."""
    while first < last:
        window_end = (int(ordered[first]) // width_ns + 1) * width_ns
        end = min(last, int(np.searchsorted(ordered, window_end)))
        yield first, end
        first = end


def _piece(ordered: Int64Array, stretch: _Stretch, first: int, last: int, window_ns: int, slot_ns: int) -> _Unit:
    """Return the range of the rows ``[first, last)``, from the start of their first window.

    It ends with the last window where rows reach the last slot of it or rows of the stretch follow, otherwise with the
    second of the last row.
    """
    oldest, newest = int(ordered[first]), int(ordered[last - 1])
    end_ns = (newest // window_ns + 1) * window_ns
    if last == stretch.last and newest < end_ns - slot_ns:
        end_ns = (newest // NS_PER_SECOND + 1) * NS_PER_SECOND
    return _Unit(max(stretch.start_ns, oldest // window_ns * window_ns), min(stretch.end_ns, end_ns), (), last - first)


def _merge_small(units: list[_Unit], small_day_rows: int) -> list[_Unit]:
    """Merge neighbours until no more than :data:`MAX_SMALL_FILES` small units are left, if that can be."""
    while sum(_is_small(unit, small_day_rows) for unit in units) > MAX_SMALL_FILES:
        run = _run_to_merge(units, small_day_rows)
        if run is None:
            break
        first, last = run
        merged = units[first:last]
        units[first:last] = [
            _Unit(
                merged[0].start_ns,
                merged[-1].end_ns,
                tuple(meta for unit in merged for meta in unit.replaces),
                sum(unit.new_rows for unit in merged),
            )
        ]
    return units


def _is_small(unit: _Unit, small_day_rows: int) -> bool:
    return unit.rows * SMALL_SHARE < small_day_rows


def _run_to_merge(units: Sequence[_Unit], small_day_rows: int) -> tuple[int, int] | None:
    """Return a range of at least two neighbours to be merged, or None when no two small ones are neighbours.

    It grows from the smallest unit (of equals, the latest): first by its smaller neighbour, then by each
    neighbour that is not larger than what it has grown to.
    """
    seeds = [index for index, unit in enumerate(units) if _is_small(unit, small_day_rows)]
    for seed in sorted(seeds, key=lambda index: (units[index].rows, -index)):
        first, last, rows = seed, seed + 1, units[seed].rows
        while True:
            sides = [
                index
                for index in (first - 1, last)
                if 0 <= index < len(units)
                and _is_small(units[index], small_day_rows)
                and rows + units[index].rows <= small_day_rows
                and (last - first == 1 or units[index].rows <= rows)
            ]
            if not sides:
                break
            side = min(sides, key=lambda index: units[index].rows)
            rows += units[side].rows
            first, last = min(first, side), max(last, side + 1)
        if last - first > 1:
            return first, last
    return None
