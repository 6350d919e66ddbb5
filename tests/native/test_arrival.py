"""native.arrival against its twin, with a batch's history carried from one call to the next."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native import arrival
from native.columns import ABSENT_BITS
from tests.oracles import arrival as oracle
from tests.oracles.cells import CELLS, TIMES

FEW = settings(max_examples=150, deadline=None)
TAGSETS = 5
BATCHES = st.lists(st.lists(st.tuples(st.integers(0, TAGSETS - 1), TIMES, CELLS), max_size=25), min_size=1, max_size=3)
NEVER = np.iinfo(np.int64).min


def columns_of(batch: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    columns = (
        np.array([row[0] for row in batch], np.int32),
        np.array([row[1] for row in batch], np.int64),
        np.array([row[2] for row in batch], np.uint64).view(np.float64),
    )
    for column in columns:
        column.flags.writeable = False
    return columns


@FEW
@given(BATCHES)
def test_split_late_equals_its_twin(batches: list[list[tuple[int, int, int]]]) -> None:
    got_times, want_times = (np.full(TAGSETS, NEVER, np.int64) for _ in range(2))
    for batch in batches:
        ids, times, _ = columns_of(batch)
        late, mask = arrival.split_late(ids, times, got_times)
        want_late, want_mask = oracle.split_late(ids, times, want_times)
        assert late == want_late
        assert (mask is None) == (want_mask is None)
        if mask is not None and want_mask is not None:
            assert mask.dtype == np.bool_
            assert mask.tolist() == want_mask.tolist()
        assert got_times.tolist() == want_times.tolist()


@FEW
@given(BATCHES)
def test_update_latest_equals_its_twin(batches: list[list[tuple[int, int, int]]]) -> None:
    got = np.full(TAGSETS, NEVER, np.int64), np.zeros(TAGSETS)
    want = np.full(TAGSETS, NEVER, np.int64), np.zeros(TAGSETS)
    for batch in batches:
        rows = columns_of(batch)
        arrival.update_latest(*rows, *got)
        oracle.update_latest(*rows, *want)
        assert got[0].tolist() == want[0].tolist()
        assert got[1].view(np.uint64).tolist() == want[1].view(np.uint64).tolist()


@FEW
@given(BATCHES)
def test_newest_rows_equals_its_twin(batches: list[list[tuple[int, int, int]]]) -> None:
    marks = np.full(TAGSETS, -1, np.int32)
    for batch in batches:
        ids, times, _ = columns_of(batch)
        got = arrival.newest_rows(ids, times, marks)
        assert got.dtype == np.int64
        assert got.tolist() == oracle.newest_rows(ids, times)
        assert marks.tolist() == [-1] * TAGSETS


@FEW
@given(BATCHES, st.sampled_from([1, 3, 60]), st.booleans())
def test_touched_rows_equals_its_twin(
    batches: list[list[tuple[int, int, int]]], bucket_ns: int, below_zero: bool
) -> None:
    told, last = np.full(TAGSETS, NEVER, np.int64), dict[int, int]()
    for batch in batches:
        ids, times, _ = columns_of(batch)
        times = -(times // 2) if below_zero else times
        touched, starts = arrival.touched_rows(ids, times, bucket_ns, told)
        assert (touched.dtype, starts.dtype) == (np.int32, np.int64)
        want = oracle.touched_rows(ids, times, bucket_ns, last)
        assert list(zip(touched.tolist(), starts.tolist(), strict=True)) == want
        assert told.tolist() == [last.get(tagset, NEVER) for tagset in range(TAGSETS)]


def test_a_duplicate_is_late_and_a_rise_is_not() -> None:
    last = np.array([10, NEVER], np.int64)
    late, mask = arrival.split_late(np.array([0, 0, 1, 0, 0], np.int32), np.array([10, 11, 3, 11, 12], np.int64), last)
    assert late == 2
    assert mask is not None
    assert mask.tolist() == [True, False, False, True, False]
    assert last.tolist() == [12, 3]


def test_absent_is_no_sample_and_a_stale_marker_is_one() -> None:
    times, values = np.full(1, NEVER, np.int64), np.zeros(1)
    column = np.array([np.float64(2.5).view(np.uint64), 0x7FF0000000000002, ABSENT_BITS], np.uint64)
    arrival.update_latest(np.zeros(3, np.int32), np.array([1, 2, 3], np.int64), column.view(np.float64), times, values)
    assert times.tolist() == [2]
    assert values.view(np.uint64).tolist() == [0x7FF0000000000002]


def test_an_unknown_tag_set_changes_nothing() -> None:
    ids, times = np.array([0, 2], np.int32), np.array([5, 5], np.int64)
    last, values = np.zeros(2, np.int64), np.zeros(2)
    with pytest.raises(ValueError, match=r"got 2 in row 1, want 0..1 as in last_times"):
        arrival.split_late(ids, times, last)
    with pytest.raises(ValueError, match=r"got 2 in row 1, want 0..1 as in marks"):
        arrival.newest_rows(ids, times, np.full(2, -1, np.int32))
    with pytest.raises(ValueError, match=r"got 2 in row 1, want 0..1 as in told"):
        arrival.touched_rows(ids, times, 60, np.full(2, NEVER, np.int64))
    with pytest.raises(ValueError, match="got 0 ns, want more than 0"):
        arrival.touched_rows(ids, times, 0, np.full(3, NEVER, np.int64))
    with pytest.raises(ValueError, match=r"got -1 in row 0, want 0..1 as in latest_times"):
        arrival.update_latest(ids - 1, times, np.zeros(2), last, values)
    assert last.tolist() == [0, 0]
    assert values.tolist() == [0.0, 0.0]


def test_other_shapes_are_refused() -> None:
    ids, times = np.zeros(2, np.int32), np.zeros(2, np.int64)
    fixed = np.zeros(2, np.int64)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="cannot fill last_times: got a read-only array"):
        arrival.split_late(ids, times, fixed)
    with pytest.raises(TypeError, match="last_times: got dtype float64, want int64"):
        arrival.split_late(ids, times, np.zeros(2))
    with pytest.raises(ValueError, match="latest_values: got 1 rows, want 2 as in latest_times"):
        arrival.update_latest(ids, times, np.zeros(2), np.zeros(2, np.int64), np.zeros(1))
    with pytest.raises(ValueError, match="column: got 3 rows, want 2"):
        arrival.update_latest(ids, times, np.zeros(3), np.zeros(2, np.int64), np.zeros(2))


def test_no_rows() -> None:
    nothing = np.empty(0, np.int64)
    assert arrival.split_late(np.empty(0, np.int32), nothing, np.empty(0, np.int64)) == (0, None)
    arrival.update_latest(np.empty(0, np.int32), nothing, np.empty(0), np.empty(0, np.int64), np.empty(0))


@given(st.dictionaries(st.integers(0, 3_000), st.integers(0, 100), max_size=40), st.lists(st.integers(0, 5_000)))
@settings(max_examples=100, deadline=None)
def test_places_are_found_through_pages(known: dict[int, int], asked: list[int]) -> None:
    directory = np.full(12, -1, np.int32)
    used = sorted({tagset_id >> 8 for tagset_id in known})
    directory[used] = np.arange(len(used))
    pages = np.full((len(used), 256), -1, np.int32)
    for tagset_id, place in known.items():
        pages[directory[tagset_id >> 8], tagset_id & 255] = place
    found, missing = arrival.find_places(np.array(asked, np.int32), directory, pages)
    assert found.tolist() == [known.get(tagset_id, -1) for tagset_id in asked]
    assert missing == sum(tagset_id not in known for tagset_id in asked)


def test_places_refuse_what_would_lead_out_of_the_pages() -> None:
    ids = np.array([1], np.int32)
    with pytest.raises(ValueError, match="got page 1, want fewer than 1"):
        arrival.find_places(ids, np.array([1], np.int32), np.zeros((1, 256), np.int32))
    with pytest.raises(ValueError, match="got 255 places each, want 256"):
        arrival.find_places(ids, np.array([0], np.int32), np.zeros((1, 255), np.int32))
    with pytest.raises(ValueError, match="got -1 in row 0, want 0 or more"):
        arrival.find_places(-ids, np.array([0], np.int32), np.zeros((1, 256), np.int32))
