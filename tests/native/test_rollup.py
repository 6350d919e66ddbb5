"""native.rollup against its twin: bucket arithmetic, NaNs, resets, touched buckets, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native import rollup
from native.sorting import sort_and_merge
from tests.oracles import rollup as oracle
from tests.oracles.cells import TAGSETS, TIMES, RowArrays, frozen, row_arrays
from tests.oracles.rollup import same_columns

FEW = settings(max_examples=150, deadline=None)
WIDTHS = st.sampled_from((1, 7, 1_000_000_000, 60_000_000_000, 86_400_000_000_000))
SECOND = 1_000_000_000
MINUTE = 60 * SECOND


def one_series(*samples: tuple[int, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.zeros(len(samples), np.int32),
        np.array([time for time, _ in samples], np.int64),
        np.array([[value for _, value in samples]]),
        np.zeros(1, np.int32),
    )


@FEW
@given(row_arrays(), WIDTHS, st.integers(-(10**12), 10**12), st.data())
def test_aggregate_equals_its_twin(rows: RowArrays, width: int, origin: int, data: st.DataObject) -> None:
    ids, times, values = frozen(*sort_and_merge(*rows))
    fields = len(values)
    numbers = data.draw(st.lists(st.integers(0, 65_535), min_size=fields, max_size=fields, unique=True).map(sorted))
    field_ids = np.array(numbers, np.int32)
    got = rollup.aggregate(ids, times, values, field_ids, width, origin)
    same_columns(got, oracle.aggregate(ids, times, values, field_ids, width, origin))
    assert len(got) == len(got.increases)


def test_a_counter_reset_adds_the_new_value() -> None:
    rows = one_series((0, 10.0), (1, 15.0), (2, 4.0), (3, 4.0), (60, 100.0))
    assert rollup.aggregate(*rows, 60).increases.tolist() == [9.0, 0.0]


def test_sums_run_from_left_to_right() -> None:
    rows = one_series((0, 1e16), (1, 1.0), (2, 1.0), (3, -1e16))
    assert rollup.aggregate(*rows, 60).sums.tolist() == [((1e16 + 1.0) + 1.0) - 1e16]
    assert ((1e16 + 1.0) + 1.0) - 1e16 != 2.0  # or the order would not show


def test_equal_zeros_keep_the_first() -> None:
    columns = rollup.aggregate(*one_series((0, -0.0), (1, 0.0)), 60)
    assert np.signbit(columns.mins).tolist() == [True]
    assert np.signbit(columns.maxs).tolist() == [True]
    assert np.signbit(rollup.aggregate(*one_series((0, -0.0)), 60).sums).tolist() == [True]


@pytest.mark.parametrize(
    ("time", "origin", "want"),
    [
        (-1, 0, -60),
        (-60, 0, -60),
        (-61, 0, -120),
        (0, 0, 0),
        (59, 0, 0),
        (60, 0, 60),
        (5, 7, -53),
        (-54, 7, -113),
    ],
)
def test_bucket_starts_are_floors(time: int, origin: int, want: int) -> None:
    assert rollup.aggregate(*one_series((time, 1.0)), 60, origin).times.tolist() == [want]


def test_the_last_bucket_of_time() -> None:
    last = 2**63 - 1
    columns = rollup.aggregate(*one_series((last - 1, 1.0), (last, 2.0)), 1_000_000_007)
    assert columns.counts.tolist() == [2]
    assert columns.times.tolist() == [last // 1_000_000_007 * 1_000_000_007]


def test_no_rows_no_fields() -> None:
    empty = rollup.aggregate(*one_series(), 60)
    assert len(empty) == 0
    no_fields = rollup.aggregate(
        np.zeros(1, np.int32), np.zeros(1, np.int64), np.empty((0, 1)), np.empty(0, np.int32), 60
    )
    assert len(no_fields) == 0


@FEW
@given(row_arrays(max_fields=0, max_rows=60), WIDTHS)
def test_touched_buckets_equal_their_twin(rows: RowArrays, width: int) -> None:
    got = rollup.touched_buckets(rows[0], rows[1], width)
    want = oracle.touched_buckets(rows[0], rows[1], width)
    for got_array, want_array in zip(got, want, strict=True):
        assert got_array.dtype == want_array.dtype
        assert got_array.tolist() == want_array.tolist()


def test_touched_buckets_outgrow_their_table() -> None:
    random = np.random.default_rng(3)
    ids = random.integers(0, 300, 20_000).astype(np.int32)
    times = random.integers(-(10**4), 10**4, 20_000)
    got = rollup.touched_buckets(ids, times, 100)
    want = oracle.touched_buckets(ids, times, 100)
    assert len(want[0]) > 10_000
    assert got[0].tolist() == want[0].tolist()
    assert got[1].tolist() == want[1].tolist()


@FEW
@given(row_arrays(max_fields=0, max_rows=60), WIDTHS, st.lists(st.tuples(TAGSETS, TIMES), max_size=20), st.data())
def test_select_buckets_equals_its_twin(
    rows: RowArrays, width: int, others: list[tuple[int, int]], data: st.DataObject
) -> None:
    order = np.lexsort((rows[1], rows[0]))
    ids, times = frozen(rows[0][order], rows[1][order])
    pairs = list(zip(*(array.tolist() for array in oracle.touched_buckets(ids, times, width)), strict=True))
    chosen = {pair for pair in pairs if data.draw(st.booleans())}
    chosen |= {(tagset, time // width * width) for tagset, time in others}
    wanted = sorted(chosen)
    wanted_ids = np.array([pair[0] for pair in wanted], np.int32)
    buckets = np.array([pair[1] for pair in wanted], np.int64)
    got = rollup.select_buckets(ids, times, width, *frozen(wanted_ids, buckets))
    assert got.dtype == np.bool_
    assert got.tolist() == oracle.select_buckets(ids, times, width, wanted_ids, buckets).tolist()


def test_selecting_every_touched_bucket_selects_every_row() -> None:
    ids = np.repeat(np.arange(5, dtype=np.int32), 1_000)
    times = np.tile(np.arange(1_000, dtype=np.int64) * SECOND, 5)
    pairs = rollup.touched_buckets(ids, times, MINUTE)
    assert rollup.select_buckets(ids, times, MINUTE, *pairs).all()
    first = rollup.select_buckets(ids, times, MINUTE, pairs[0][:1].copy(), pairs[1][:1].copy())
    assert np.flatnonzero(first).tolist() == list(range(60))


IDS, TIMES2, FIELDS = np.zeros(2, np.int32), np.array([0, 1], np.int64), np.zeros(1, np.int32)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ((IDS, TIMES2, np.zeros((1, 2)), FIELDS, 0), ValueError, "width: got 0 ns, want more than 0"),
        (
            (IDS, TIMES2, np.zeros((2, 2)), FIELDS, 1),
            ValueError,
            "got 2 value columns, want 1 as in field_ids",
        ),
        ((IDS, TIMES2[::-1].copy(), np.zeros((1, 2)), FIELDS, 1), ValueError, "got unsorted rows"),
        ((IDS, np.zeros(2, np.int64), np.zeros((1, 2)), FIELDS, 1), ValueError, "got unsorted rows"),
        ((IDS - 1, TIMES2, np.zeros((1, 2)), FIELDS, 1), ValueError, "ids >= 0"),
        ((IDS, TIMES2, np.zeros((1, 2)), FIELDS + 65_536, 1), ValueError, r"got field_ids \[65536\]"),
        ((IDS, TIMES2, np.zeros((2, 2)), np.array([3, 1], np.int32), 1), ValueError, r"field_ids \[3, 1\]"),
        (
            (IDS, TIMES2, np.zeros((1, 2)), FIELDS.astype(np.int64), 1),
            TypeError,
            "field_ids: got dtype int64",
        ),
    ],
)
def test_aggregate_refuses(arguments: tuple, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        rollup.aggregate(*arguments)


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ([(0, 60), (0, 0)], r"pair 1 = \(0, 0\)"),
        ([(0, 60), (0, 60)], r"pair 1 = \(0, 60\)"),
        ([(0, 61)], r"pair 0 = \(0, 61\), want ascending distinct pairs whose buckets are multiples of 60"),
    ],
)
def test_select_refuses_pairs(pairs: list[tuple[int, int]], sentence: str) -> None:
    ids = np.array([pair[0] for pair in pairs], np.int32)
    buckets = np.array([pair[1] for pair in pairs], np.int64)
    with pytest.raises(ValueError, match=sentence):
        rollup.select_buckets(IDS, TIMES2, 60, ids, buckets)
