"""native.bucketgrid against lists of samples."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native.bucketgrid import AGGREGATES, MERGED, TOO_MANY, BucketGrid
from tests.oracles import bucketgrid as oracle

FIELDS = 2
#: Tag sets that differ in more than the bits that are looked at first, and some that differ in no other.
TAGSETS = st.sampled_from([0, 1, 2, 7, 4096, 4097, 9000])
VALUE = st.one_of(st.just(math.nan), st.integers(-3, 9).map(float), st.just(0.1))
ROWS = st.lists(st.tuples(TAGSETS, st.integers(0, 60), st.tuples(VALUE, VALUE)), max_size=40)


def sources(rows: list[oracle.Row], cuts: list[float]) -> list[list[oracle.Row]]:
    places = sorted(int(cut * len(rows)) for cut in cuts)
    bounds = [0, *places, len(rows)]
    return [rows[a:b] for a, b in itertools.pairwise(bounds)]


def taken(grid: BucketGrid, rows: list[oracle.Row], low: int, high: int, *, in_order: bool, without: int) -> int:
    """Give a grid the rows of a source that lacks the field ``without``."""
    if in_order:
        rows = sorted(rows, key=lambda row: (row[0], row[1]))
    columns: list[Any] = [np.array([row[2][field] for row in rows], np.float64) for field in range(FIELDS)]
    if 0 <= without < FIELDS:
        columns[without] = None
    tagsets, times = np.array([row[0] for row in rows], np.int32), np.array([row[1] for row in rows], np.int64)
    return grid.take(tagsets, times, columns, low, high, in_order, 1_000)


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
    ordered=st.tuples(st.booleans(), st.booleans(), st.booleans()),
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
    ordered: tuple[bool, ...],
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
        assert taken(grid, source, low, end, in_order=ordered[number], without=without) == sum(
            tagset in slot_of and low <= time < end for tagset, time, _ in source
        )
        for tagset, time, values in source:
            kept = [None if field == without else value for field, value in enumerate(values)]
            if time >= low:
                known.append((tagset, time, kept))
    samples = newest = 0
    present: set[int] = set()
    for field in range(FIELDS):
        expected = oracle.lines(aggregate, known, slot_of, field, start, end, width)
        found_slots, ends, buckets, values, times = grid.line(field)
        assert sorted(expected) == found_slots
        first = 0
        for slot, last in zip(found_slots, ends, strict=True):
            line = expected[slot]
            assert buckets[first:last].tolist() == sorted(line)
            assert values[first:last].tolist() == [line[bucket][0] for bucket in sorted(line)]
            if times is not None:
                assert times[first:last].tolist() == [line[bucket][1] for bucket in sorted(line)]
            first = last
        assert len(values) == first
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
    ids, times, values = np.array([1, 1, 2, 3], np.int32), np.arange(4), np.arange(4.0)
    assert grid.take(ids, times, [values], 0, 100, in_order, 2) == TOO_MANY
    assert (grid.samples, grid.line(0)[0]) == (0, [])
    assert grid.take(ids, times, [values], 0, 100, in_order, 3) == 3


def test_many_tag_sets_without_gaps_are_told_by_their_number() -> None:
    ids = np.tile(np.arange(100, 700, dtype=np.int32), 2)
    grid = grid_of(list(range(150, 650)))
    assert grid.take(ids, np.repeat([5, 95], 600), [np.arange(1200.0)], 0, 100, False, 10_000) == 1000
    slots, ends, buckets, values, _ = grid.line(0)
    assert (slots, ends) == (list(range(500)), list(range(2, 1002, 2)))
    assert buckets.tolist() == [0, 9] * 500
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
    with pytest.raises(ValueError, match="got 2 columns, want 1"):
        grid.take(one, times, [values, values], 0, 100, False, 10)
    with pytest.raises(ValueError, match="got 2 rows, want 1"):
        grid.take(one, times, [np.zeros(2)], 0, 100, False, 10)
    with pytest.raises(TypeError, match="dtype int64, want float64"):
        grid.take(one, times, [times], 0, 100, False, 10)
    for low, high in ((-1, 100), (0, 101), (50, 40)):
        with pytest.raises(ValueError, match="want times of the buckets"):
            grid.take(one, times, [values], low, high, False, 10)
    with pytest.raises(ValueError, match="cannot read field 1 of 1"):
        grid.line(1)
