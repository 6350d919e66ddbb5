"""native.merging against its twin: rows in any order, exact sums, and what is refused."""

from __future__ import annotations

import random as random_module

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native.merging import merge_buckets
from native.rollup import aggregate
from native.sorting import sort_and_merge
from tests.oracles import rollup as oracle
from tests.oracles.cells import RowArrays, frozen, row_arrays
from tests.oracles.merging import merge_buckets as oracle_merge
from tests.oracles.rollup import same_columns

FEW = settings(max_examples=150, deadline=None)
SECOND = 1_000_000_000
MINUTE = 60 * SECOND


@FEW
@given(row_arrays(max_fields=2), st.sampled_from((1, 3, 10)), st.randoms(use_true_random=False))
def test_merge_equals_its_twin_in_any_order(rows: RowArrays, factor: int, random: random_module.Random) -> None:
    ids, times, values = sort_and_merge(*rows)
    field_ids = np.arange(len(values), dtype=np.int32)
    narrow = oracle.aggregate(ids, times, values, field_ids, SECOND)
    want = oracle_merge(narrow, factor * SECOND)
    order = np.arange(len(narrow["times"]))
    random.shuffle(order)
    for position in (slice(None), order):
        given_columns = frozen(*(np.ascontiguousarray(narrow[name][position]) for name in oracle.COLUMNS))
        same_columns(merge_buckets(*given_columns, factor * SECOND), want)


@FEW
@given(row_arrays(max_fields=1), st.sampled_from((2, 60)))
def test_merging_whole_numbers_is_aggregating_wider(rows: RowArrays, factor: int) -> None:
    ids, times, values = sort_and_merge(*rows)
    with np.errstate(invalid="ignore"):  # the cells include signalling NaNs
        values = np.where(np.isfinite(values), np.trunc(np.clip(values, -(2.0**31), 2.0**31)), np.nan)
    field_ids = np.arange(len(values), dtype=np.int32)
    narrow = aggregate(ids, times, values, field_ids, SECOND)
    merged = merge_buckets(*(getattr(narrow, name) for name in oracle.COLUMNS), factor * SECOND)
    wide = oracle.aggregate(ids, times, values, field_ids, factor * SECOND)
    for name in oracle.COLUMNS:
        assert getattr(merged, name).tolist() == wide[name].tolist(), name


def test_merging_runs_as_flushes_leave_them() -> None:
    series = np.tile(np.arange(200, dtype=np.int64) << 16, 30)
    times = np.repeat(np.arange(30, dtype=np.int64) * MINUTE, 200)
    numbers = np.random.default_rng(5).random((5, 6_000))
    columns = dict(
        zip(
            oracle.COLUMNS,
            (series, times, np.ones(6_000, np.int64), *numbers, times, times + 1),
            strict=True,
        )
    )
    got = merge_buckets(*columns.values(), 5 * MINUTE)
    same_columns(got, oracle_merge(columns, 5 * MINUTE))


def test_distinct_series_outgrow_their_table() -> None:
    random = np.random.default_rng(11)
    order = random.permutation(20_000)
    series = np.repeat(random.choice(2**47, 5_000, replace=False), 4)[order]
    times = np.tile(np.arange(4, dtype=np.int64) * MINUTE - 2 * MINUTE, 5_000)[order]
    columns = dict(
        zip(
            oracle.COLUMNS,
            (series, times, np.ones(20_000, np.int64), *random.random((5, 20_000)), times, times + 1),
            strict=True,
        )
    )
    same_columns(merge_buckets(*columns.values(), 5 * MINUTE), oracle_merge(columns, 5 * MINUTE))


def test_sums_run_from_left_to_right_in_time_order() -> None:
    times = np.array([3, 0, 2, 1], np.int64) * MINUTE
    sums = np.array([-1e16, 1e16, 1.0, 1.0])
    ones = np.ones(4, np.int64)
    merged = merge_buckets(np.zeros(4, np.int64), times, ones, sums, sums, sums, sums, sums, times, times, 5 * MINUTE)
    assert merged.sums.tolist() == [((1e16 + 1.0) + 1.0) - 1e16]
    assert merged.firsts.tolist() == [1e16]
    assert merged.lasts.tolist() == [-1e16]


def test_a_single_nanosecond_back_is_noticed() -> None:
    times = np.array([10, 10, 9, 20], np.int64)
    series = np.array([1, 0, 1, 0], np.int64) << 16
    values = np.array([1.0, 2.0, 3.0, 4.0])
    ones = np.ones(4, np.int64)
    merged = merge_buckets(series, times, ones, *[values] * 5, times, times, MINUTE)
    assert merged.firsts.tolist() == [2.0, 3.0]
    assert merged.lasts.tolist() == [4.0, 1.0]


def test_no_buckets() -> None:
    empty = [np.empty(0, np.float64 if name in oracle.FLOAT_COLUMNS else np.int64) for name in oracle.COLUMNS]
    assert len(merge_buckets(*empty, 60)) == 0


def test_merge_refuses_a_bucket_given_twice() -> None:
    columns = [np.zeros(2, np.int64) if name not in oracle.FLOAT_COLUMNS else np.zeros(2) for name in oracle.COLUMNS]
    with pytest.raises(ValueError, match="got series 0 at 0 ns twice"):
        merge_buckets(*columns, 60)
    columns[3] = np.zeros(3)
    with pytest.raises(ValueError, match="sums: got 3 rows, want 2 as in series_ids"):
        merge_buckets(*columns, 60)
    columns[3] = np.zeros(2)
    with pytest.raises(ValueError, match="width: got 0 ns"):
        merge_buckets(*columns, 0)
