"""native.bucketgrid against lists of samples."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native.bucketgrid import AGGREGATES, GUARDED, MERGED, TOO_MANY, BucketGrid
from tests.oracles import bucketgrid as oracle

FIELDS = 2
#: Tag sets that differ in more than the bits that are looked at first, and some that differ in no other.
TAGSETS = st.sampled_from([0, 1, 2, 7, 4096, 4097, 9000])
VALUE = st.one_of(st.just(math.nan), st.integers(-3, 9).map(float), st.just(0.1))
HOWS = st.sampled_from(["in order", "indexed", "in two", "as they came"])
ROWS = st.lists(st.tuples(TAGSETS, st.integers(0, 60), st.tuples(VALUE, VALUE)), max_size=40)


def sources(rows: list[oracle.Row], cuts: list[float]) -> list[list[oracle.Row]]:
    places = sorted(int(cut * len(rows)) for cut in cuts)
    bounds = [0, *places, len(rows)]
    return [rows[a:b] for a, b in itertools.pairwise(bounds)]


def taken(grid: BucketGrid, rows: list[oracle.Row], low: int, high: int, *, how: str, without: int) -> int:
    """Give a grid the rows of a source that lacks the field ``without``."""
    order = sorted(range(len(rows)), key=lambda at: (rows[at][0], rows[at][1]))
    if how == "in order":
        rows = [rows[at] for at in order]
    columns: list[Any] = [np.array([row[2][field] for row in rows], np.float64) for field in range(FIELDS)]
    if 0 <= without < FIELDS:
        columns[without] = None
    tagsets, times = np.array([row[0] for row in rows], np.int32), np.array([row[1] for row in rows], np.int64)
    if without % 2:
        grid.use(columns)
    else:
        matrix = np.array([np.arange(len(rows)), *(column for column in columns if column is not None)], np.float64)
        kept = [field for field in range(FIELDS) if field != without]
        grid.use_matrix(matrix[:, : len(rows)], [kept.index(at) + 1 if at in kept else -1 for at in range(FIELDS)])
    if how == "indexed":
        places = np.array(order, np.int32)
        return grid.take_indexed(tagsets[places], places, times, low, high, 1_000)
    if how == "in two":
        # The first half by an index, the rest as they came.
        half = len(rows) // 2
        places = np.array([at for at in order if at < half], np.int32)
        first = grid.take_indexed(tagsets[places], places, times, low, high, 1_000)
        return first + grid.take(tagsets, times, half, low, high, False, 1_000)
    return grid.take(tagsets, times, 0, low, high, how == "in order", 1_000)


@settings(max_examples=400, deadline=None)
@given(
    rows=ROWS,
    cuts=st.lists(st.floats(0, 1), max_size=2),
    wanted=st.sets(TAGSETS, min_size=1, max_size=5),
    slots=st.integers(1, 3),
    aggregate=st.sampled_from(sorted(AGGREGATES)),
    start=st.integers(0, 30),
    length=st.integers(1, 40),
    width=st.integers(1, 20),
    hows=st.tuples(HOWS, HOWS, HOWS),
    without=st.integers(-1, FIELDS),
)
def test_a_grid_has_what_lists_of_samples_have(
    rows: list[oracle.Row],
    cuts: list[float],
    wanted: set[int],
    slots: int,
    aggregate: str,
    start: int,
    length: int,
    width: int,
    hows: tuple[str, ...],
    without: int,
) -> None:
    # In order of time, and no key twice: what late rows would correct is not for a grid.
    rows = sorted(
        {(tagset, time): (tagset, time, values) for tagset, time, values in rows}.values(), key=lambda r: r[1]
    )
    tagsets = sorted(wanted)
    merged = aggregate in MERGED
    slot_of = {tagset: place % slots if merged else place for place, tagset in enumerate(tagsets)}
    count = slots if merged else len(tagsets)
    end = start + length
    low = start - 10 if aggregate == "increase" else start
    grid = BucketGrid(
        aggregate,
        np.array(tagsets, np.int32),
        np.array([slot_of[each] for each in tagsets], np.int32),
        count,
        FIELDS,
        start,
        end,
        width,
    )
    known: list[oracle.Row] = []
    for number, source in enumerate(sources(rows, cuts)):
        assert taken(grid, source, low, end, how=hows[number], without=without) == sum(
            tagset in slot_of and low <= time < end for tagset, time, _ in source
        )
        for tagset, time, cells in source:
            kept = [None if field == without else value for field, value in enumerate(cells)]
            if time >= low:
                known.append((tagset, time, kept))
    found, buckets, values, times = grid.lines()
    samples = newest = 0
    present: set[int] = set()
    for field in range(FIELDS):
        expected = oracle.lines(aggregate, known, slot_of, field, start, end, width)
        mine = [line[1:] for line in found if line[0] == field]
        assert [slot for slot, _, _ in mine] == sorted(expected)
        for slot, first, last in mine:
            line = expected[slot]
            assert buckets[first:last].tolist() == sorted(line)
            assert values[first:last].tolist() == [line[bucket][0] for bucket in sorted(line)]
            if times is not None:
                assert times[first:last].tolist() == [line[bucket][1] for bucket in sorted(line)]
        assert (times is not None) == (aggregate == "last")
        for tagset, time, kept in known:
            value = kept[field]
            if tagset in slot_of and start <= time < end and value is not None and not math.isnan(value):
                samples, newest = samples + 1, max(newest, time)
                present.add(tagset)
    assert grid.samples == samples
    assert not samples or grid.newest_ns == newest
    assert grid.present() == [tagset in present for tagset in tagsets]


def grid_of(tagsets: list[int], aggregate: str = "max", fields: int = 1) -> BucketGrid:
    slots = np.arange(len(tagsets), dtype=np.int32)
    return BucketGrid(aggregate, np.array(tagsets, np.int32), slots, len(tagsets), fields, 0, 100, 10)


@pytest.mark.parametrize("in_order", [False, True])
def test_more_rows_than_may_be_looked_at_are_not_added(in_order: bool) -> None:
    grid = grid_of([1, 2])
    ids, times = np.array([1, 1, 2, 3], np.int32), np.arange(4)
    grid.use([np.arange(4.0)])
    assert grid.take(ids, times, 0, 0, 100, in_order, 2) == TOO_MANY
    assert grid.take_indexed(ids, np.arange(4, dtype=np.int32), times, 0, 100, 2) == TOO_MANY
    assert (grid.samples, grid.lines()[0]) == (0, [])
    assert grid.take(ids, times, 0, 0, 100, in_order, 3) == 3


@settings(max_examples=200, deadline=None)
@given(rows=ROWS, guarded=st.sets(st.tuples(st.sampled_from([1, 7, 4097]), st.integers(0, 60)), max_size=8), how=HOWS)
def test_nothing_is_taken_of_a_source_with_a_guarded_key(
    rows: list[oracle.Row], guarded: set[tuple[int, int]], how: str
) -> None:
    rows = sorted({(row[0], row[1]): row for row in rows}.values(), key=lambda row: row[1])
    grid = grid_of([1, 7, 4097], fields=FIELDS)
    keys = sorted(guarded)
    grid.guard(np.array([key[0] for key in keys], np.int32), np.array([key[1] for key in keys], np.int64))
    found = taken(grid, rows, 0, 100, how=how, without=-1)
    wanted = [row for row in rows if row[0] in (1, 7, 4097)]
    if any((row[0], row[1]) in guarded for row in wanted):
        assert found == GUARDED or how == "in two"
        assert found != len(wanted)
        grid.guard(np.empty(0, np.int32), np.empty(0, np.int64))
        assert taken(grid, rows, 0, 100, how="in order", without=-1) == len(wanted)
    else:
        assert found == len(wanted)


def test_only_ascending_keys_of_the_grid_are_guarded() -> None:
    grid = grid_of([1, 2])
    for tagsets, times in (([3], [1]), ([2, 1], [1, 1]), ([1, 1], [2, 1]), ([1, 1], [1, 1])):
        with pytest.raises(ValueError, match="cannot guard keys"):
            grid.guard(np.array(tagsets, np.int32), np.array(times, np.int64))


def test_many_tag_sets_without_gaps_are_told_by_their_number() -> None:
    ids = np.tile(np.arange(100, 700, dtype=np.int32), 2)
    grid = grid_of(list(range(150, 650)))
    grid.use([np.arange(1200.0)])
    assert grid.take(ids, np.repeat([5, 95], 600), 0, 0, 100, False, 10_000) == 1000
    lines, buckets, values, _ = grid.lines()
    assert lines == [(0, slot, 2 * slot, 2 * slot + 2) for slot in range(500)]
    assert buckets[:1000].tolist() == [0, 9] * 500
    assert values[:4].tolist() == [50.0, 650.0, 51.0, 651.0]


def test_what_is_no_grid_and_no_source_is_refused() -> None:
    one = np.array([1], np.int32)
    with pytest.raises(KeyError, match="median"):
        BucketGrid("median", one, one * 0, 1, 1, 0, 10, 1)
    for tagsets, slots, count, end, width in (
        ([2, 1], [0, 0], 1, 10, 1), ([1, 1], [0, 0], 1, 10, 1), ([1], [1], 1, 10, 1), ([1], [-1], 1, 10, 1),
        ([-1], [0], 1, 10, 1), ([1], [0], 1, 0, 1), ([1], [0], 1, 10, 0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="cannot make buckets"):
            BucketGrid("max", np.array(tagsets, np.int32), np.array(slots, np.int32), count, 1, 0, end, width)
    with pytest.raises(ValueError, match="want at most 268435456"):
        BucketGrid("max", one, one * 0, 1, 1, 0, 2**62, 1)
    with pytest.raises(ValueError, match="got 1 rows, want 2"):
        BucketGrid("max", np.array([1, 2], np.int32), np.zeros(1, np.int32), 1, 1, 0, 10, 1)
    grid = grid_of([1])
    times, values = np.array([5]), np.array([1.0])
    with pytest.raises(ValueError, match="got columns of 0"):
        grid.take(one, times, 0, 0, 100, False, 10)
    with pytest.raises(ValueError, match="got 2 columns, want 1"):
        grid.use([values, values])
    with pytest.raises(TypeError, match="dtype int64, want float64"):
        grid.use([times])
    with pytest.raises(ValueError, match="got 2 rows, want 1"):
        grid_of([1], fields=2).use([values, np.zeros(2)])
    with pytest.raises(ValueError, match="got 0 columns, want 1"):
        grid.use_matrix(values[None], [])
    with pytest.raises(ValueError, match="row 1 of 1"):
        grid.use_matrix(values[None], [1])
    with pytest.raises(ValueError, match="contiguous"):
        grid.use_matrix(np.zeros((1, 4))[:, ::2], [0])
    grid.use([np.zeros(2)])
    with pytest.raises(ValueError, match="cannot add 1 rows: got columns of 2"):
        grid.take(one, times, 0, 0, 100, False, 10)
    grid.use_matrix(values[None], [0])
    for low, high in ((-1, 100), (0, 101), (50, 40)):
        with pytest.raises(ValueError, match="want times of the buckets"):
            grid.take(one, times, 0, low, high, False, 10)
    with pytest.raises(ValueError, match="got row 1 of 1 in the order"):
        grid.take_indexed(one, one, times, 0, 100, 10)
    with pytest.raises(ValueError, match="got 2 rows, want 1 as in sorted_ids"):
        grid.take_indexed(one, np.zeros(2, np.int32), times, 0, 100, 10)
    assert grid.take(one, times, 1, 0, 100, False, 10) == 0
    assert grid.take(one, times, 0, 0, 100, False, 10) == 1
