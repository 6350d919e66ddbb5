"""native.sorting against its twin: every path, every kind of cell, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native import sorting
from native.columns import ABSENT_BITS
from tests.oracles import sorting as oracle
from tests.oracles.cells import TIMES, RowArrays, row_arrays

FEW = settings(max_examples=150, deadline=None)


def same_rows(got: RowArrays, want: RowArrays) -> None:
    for got_array, want_array in zip(got, want, strict=True):
        assert got_array.dtype == want_array.dtype
        assert got_array.shape == want_array.shape
        np.testing.assert_array_equal(
            got_array.view(np.uint8) if got_array.size else got_array,
            want_array.view(np.uint8) if want_array.size else want_array,
        )


def shuffled(seed: int, tagsets: np.ndarray, rows: int, fields: int, times: int) -> RowArrays:
    random = np.random.default_rng(seed)
    values = random.random((fields, rows))
    values[random.random((fields, rows)) < 0.3] = np.uint64(ABSENT_BITS).view(np.float64)
    return (
        random.choice(tagsets, rows).astype(np.int32),
        random.integers(-times, times, rows) * 10**9,
        values,
    )


def test_absent_has_the_same_bits_everywhere() -> None:
    assert oracle.ABSENT_BITS == ABSENT_BITS
    # The pattern compiled into native.sorting: a later cell with exactly these bits erases nothing.
    ids, times = np.zeros(2, np.int32), np.zeros(2, np.int64)
    cells = np.array([[np.float64(4.0).view(np.uint64), ABSENT_BITS]], np.uint64).view(np.float64)
    assert sorting.sort_and_merge(ids, times, cells)[2].tolist() == [[4.0]]
    for bit in range(64):
        near = np.array([[np.float64(4.0).view(np.uint64), ABSENT_BITS ^ (1 << bit)]], np.uint64)
        merged = sorting.sort_and_merge(ids, times, near.view(np.float64))[2]
        assert int(merged.view(np.uint64)[0, 0]) == ABSENT_BITS ^ (1 << bit)


@FEW
@given(row_arrays())
def test_merge_equals_its_twin(rows: RowArrays) -> None:
    same_rows(sorting.sort_and_merge(*rows), oracle.sort_and_merge(*rows))


@FEW
@given(row_arrays(max_fields=0, max_rows=60))
def test_order_and_check_equal_their_twins(rows: RowArrays) -> None:
    ids, times, _ = rows
    order = sorting.sort_order(ids, times)
    assert order.dtype == np.int64
    assert order.tolist() == oracle.sort_order(ids, times).tolist()
    assert sorting.is_strictly_sorted(ids, times) is oracle.is_strictly_sorted(ids, times)


@FEW
@given(row_arrays())
def test_merging_is_idempotent_and_sorted(rows: RowArrays) -> None:
    once = sorting.sort_and_merge(*rows)
    assert sorting.is_strictly_sorted(once[0], once[1])
    same_rows(sorting.sort_and_merge(*once), once)


@FEW
@given(row_arrays(max_fields=2))
def test_merging_in_two_steps_is_merging_once(rows: RowArrays) -> None:
    ids, times, values = rows
    cut = len(ids) // 2
    first = sorting.sort_and_merge(ids[:cut], times[:cut], np.ascontiguousarray(values[:, :cut]))
    together = (
        np.concatenate([first[0], ids[cut:]]),
        np.concatenate([first[1], times[cut:]]),
        np.ascontiguousarray(np.concatenate([first[2], values[:, cut:]], axis=1)),
    )
    same_rows(sorting.sort_and_merge(*together), sorting.sort_and_merge(*rows))


@given(st.lists(TIMES, max_size=80))
@FEW
def test_one_tag_set(times: list[int]) -> None:
    stamps = np.array(times, np.int64)
    ids = np.full(len(times), 9, np.int32)
    assert sorting.sort_order(ids, stamps).tolist() == oracle.sort_order(ids, stamps).tolist()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("tagsets", "times"),
    [
        pytest.param(np.arange(50), 10_000, id="counting, times go back"),
        pytest.param(np.arange(2), 20, id="mostly duplicates"),
        pytest.param(np.random.default_rng(0).integers(-(2**31), 2**31, 500), 10_000, id="radix, three digits"),
        pytest.param(np.arange(40) * 200_000, 100, id="radix, few far apart"),
        pytest.param(np.array([-(2**31), 2**31 - 1]), 5, id="both ends of int32"),
    ],
)
def test_thousands_of_rows(seed: int, tagsets: np.ndarray, times: int) -> None:
    rows = shuffled(seed, tagsets, 3_000, 2, times)
    assert sorting.sort_order(*rows[:2]).tolist() == oracle.sort_order(*rows[:2]).tolist()
    same_rows(sorting.sort_and_merge(*rows), oracle.sort_and_merge(*rows))


@pytest.mark.parametrize("runs", [1, 2, 3, 5, 16, 17, 100, 700])
def test_time_runs_of_one_tag_set(runs: int) -> None:
    # Current data behind late data: ascending stretches, which the sort merges instead of sorting.
    times = np.concatenate([np.arange(0, 4_000, runs) + run for run in reversed(range(runs))]).astype(np.int64)
    ids = np.zeros(len(times), np.int32)
    assert sorting.sort_order(ids, times).tolist() == oracle.sort_order(ids, times).tolist()


def test_time_ordered_rows_of_many_tag_sets() -> None:
    ids = np.tile(np.arange(300, dtype=np.int32), 20)
    times = np.repeat(np.arange(20, dtype=np.int64), 300)
    assert sorting.sort_order(ids, times).tolist() == oracle.sort_order(ids, times).tolist()


@pytest.mark.parametrize("apart", [1, 3_000_000])
def test_a_single_nanosecond_back_is_noticed(apart: int) -> None:
    # Two tag sets whose times only rise, and one that goes back once, by the least there is.
    ids = np.array([2, 0, 1, 2, 0, 1, 2], np.int32) * np.int32(apart)
    times = np.array([0, 10, 10, 0, 20, 9, 1], np.int64)
    assert sorting.sort_order(ids, times).tolist() == [1, 4, 5, 2, 0, 3, 6]
    assert sorting.sort_order(ids, times).tolist() == oracle.sort_order(ids, times).tolist()


def test_extreme_times_do_not_wrap() -> None:
    ids = np.array([3, 3, 3, 1], np.int32)
    times = np.array([2**63 - 1, -(2**63), 0, -(2**63)], np.int64)
    assert sorting.sort_order(ids, times).tolist() == [3, 1, 2, 0]


def test_results_are_the_callers_own() -> None:
    rows = (np.arange(3, dtype=np.int32), np.arange(3, dtype=np.int64), np.ones((1, 3)))
    merged = sorting.sort_and_merge(*rows)
    for array in merged:
        array[...] = 0
    assert rows[0].tolist() == [0, 1, 2]
    assert rows[2].tolist() == [[1.0, 1.0, 1.0]]


INT32, INT64 = np.zeros(2, np.int32), np.zeros(2, np.int64)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ((INT64, INT64, np.zeros((1, 2))), TypeError, "tagset_ids: got dtype int64, want int32"),
        ((INT32, INT32, np.zeros((1, 2))), TypeError, "times: got dtype int32, want int64"),
        ((INT32, INT64, np.zeros((1, 2), np.float32)), TypeError, "values: got dtype float32, want float64"),
        ((INT32, INT64, np.zeros(2)), ValueError, "values: got 1 dimensions, want 2"),
        (
            (INT32, np.zeros(3, np.int64), np.zeros((1, 2))),
            ValueError,
            "times: got 3 rows, want 2 as in tagset_ids",
        ),
        ((INT32, INT64, np.zeros((2, 1))), ValueError, "values: got 1 rows, want 2 as in tagset_ids"),
        ((INT32, INT64, np.zeros((2, 2)).T[:, ::-1]), ValueError, "values: got a strided array"),
        ((INT32, np.zeros(4, np.int64)[::2], np.zeros((1, 2))), ValueError, "times: got a strided array"),
        (([0, 1], INT64, np.zeros((1, 2))), TypeError, "tagset_ids: got list, want a numpy array of int32"),
        ((INT32, INT64.astype(">i8"), np.zeros((1, 2))), TypeError, "times: got dtype >i8"),
    ],
)
def test_other_shapes_are_refused(arguments: tuple, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence.replace("[", r"\[")):
        sorting.sort_and_merge(*arguments)
