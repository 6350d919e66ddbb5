"""native.tiers against the slow twins of native.rollup and native.merging, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.rollups.long import LINES, NAMES, columns_of, long_table
from engine.rollups.rows import TierRows
from native.tiers import WideColumns, aggregate_parts, aggregate_rows, merge_rows
from tests.oracles import rollup as oracle
from tests.oracles.merging import merge_buckets as oracle_merge

MINUTE = 60
VALUES = st.one_of(
    st.just(float("nan")), st.integers(-5, 5).map(float), st.sampled_from([0.0, -0.0, float("inf"), -float("inf"), 0.1])
)
KEYS = st.lists(st.tuples(st.integers(0, 3), st.integers(-300, 900)), unique=True, min_size=0, max_size=40)


def long_of(columns: WideColumns, fields: int, counters: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    rows = TierRows.of(columns, tuple(range(fields)), counters)
    found = columns_of(long_table([rows]))
    increases = long_table([rows], ["increase"]).column("increase").to_numpy()
    order = np.lexsort((found["time"], found["series_id"]))
    return {**{name: found[name][order] for name in NAMES}, "increase": increases[order]}


def same(got: dict[str, np.ndarray], want: dict[str, np.ndarray], increases: bool) -> None:
    for name, native in zip(NAMES, oracle.COLUMNS, strict=True):
        left, right = got[name], want[native]
        if left.dtype == np.float64:
            both = np.isnan(left) & np.isnan(right)
            assert ((left.view(np.int64) == right.view(np.int64)) | both).all(), name
        else:
            assert left.tolist() == right.tolist(), name
    if increases:
        np.testing.assert_array_equal(got["increase"], want["increases"])


@settings(max_examples=200, deadline=None)
@given(KEYS, st.integers(1, 3), st.data())
def test_aggregates_are_those_of_the_twin(keys: list[tuple[int, int]], fields: int, data: st.DataObject) -> None:
    keys = sorted(keys)
    ids = np.array([tagset for tagset, _ in keys], np.int32)
    times = np.array([time for _, time in keys], np.int64)
    full = data.draw(st.booleans())
    values = np.array(
        data.draw(
            st.lists(
                st.lists(st.integers(-5, 5).map(float) if full else VALUES, min_size=len(keys), max_size=len(keys)),
                min_size=fields,
                max_size=fields,
            )
        ),
        np.float64,
    ).reshape(fields, len(keys))
    counters = tuple(range(fields))
    want = oracle.aggregate(ids, times, values, np.arange(fields, dtype=np.int32), MINUTE)
    narrow = aggregate_rows(ids, times, values, MINUTE, counters)
    same(long_of(narrow, fields, counters), want, increases=True)
    if full and len(keys):
        assert narrow.counts.shape == (1, len(narrow))
    wide = merge_rows(narrow, 5 * MINUTE, counters)
    same(long_of(wide, fields), oracle_merge({k: v for k, v in want.items() if k != "increases"}, 5 * MINUTE), False)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 2, 2**31 - 1]), st.integers(-300, 900)), max_size=40),
    st.booleans(),
    st.integers(1, 3),
    st.data(),
)
def test_rows_are_aggregated_where_they_are(
    arrived: list[tuple[int, int]], in_order: bool, fields: int, data: st.DataObject
) -> None:
    if in_order:
        # Of each tag set by time, tag sets mixed.
        arrived = sorted(set(arrived), key=lambda key: key[1])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(arrived)), max_size=3)))
    everything, parts, lines = [], [], []
    for start, end in zip([0, *cuts], [*cuts, len(arrived)], strict=True):
        rows = arrived[start:end]
        held = data.draw(st.permutations(range(fields)).map(lambda order: order[: max(1, fields - 1)]))
        cells = data.draw(st.lists(st.tuples(*[VALUES for _ in held]), min_size=len(rows), max_size=len(rows)))
        everything += [
            (*key, *(row[held.index(f)] if f in held else np.nan for f in range(fields)))
            for key, row in zip(rows, cells, strict=True)
        ]
        # Room behind each line, as blocks have it.
        values = np.full((len(held), len(rows) + 2), 7.0)
        values[:, : len(rows)] = np.array(cells, np.float64).reshape(len(rows), len(held)).T
        ids, times = np.array([key[0] for key in rows], np.int32), np.array([key[1] for key in rows], np.int64)
        parts.append((ids, times, values[:, : len(rows)]))
        lines.append([held.index(field) if field in held else -1 for field in range(fields)])
    touched = {(tagset, time // MINUTE * MINUTE) for tagset, time in arrived}
    some = data.draw(st.sets(st.sampled_from(sorted(touched)))) if touched else set()
    asked = [*sorted(some), (2**31 - 1, 6_000)]
    counters = tuple(range(fields))
    wanted_ids, buckets = np.array([p[0] for p in asked], np.int32), np.array([p[1] for p in asked], np.int64)
    got, left_out = aggregate_parts(parts, lines, wanted_ids, buckets, MINUTE, counters)

    twice = {key for key in arrived if arrived.count(key) > 1}
    repeated = {tagset for tagset, time in twice if (tagset, time // MINUTE * MINUTE) in asked}
    assert left_out.tolist() == sorted(repeated)
    rest = sorted(r for r in everything if r[0] not in repeated and (r[0], r[1] // MINUTE * MINUTE) in asked)
    matrix = np.array([row[2:] for row in rest], np.float64).reshape(len(rest), fields).T
    want = oracle.aggregate(
        np.array([row[0] for row in rest], np.int32),
        np.array([row[1] for row in rest], np.int64),
        np.ascontiguousarray(matrix),
        np.arange(fields, dtype=np.int32),
        MINUTE,
    )
    same(long_of(got, fields, counters), want, increases=True)


def test_many_rows_of_a_minute_may_come_in_any_order() -> None:
    times = np.arange(500, dtype=np.int64)
    order = np.random.default_rng(3).permutation(500)
    ids, values = np.zeros(500, np.int32), times[np.newaxis].astype(np.float64)
    parts = [
        (ids[:250], times[order[:250]], values[:, order[:250]]),
        (ids[250:], times[order[250:]], values[:, order[250:]]),
    ]
    pairs = np.zeros(2, np.int32), np.array([0, 360], np.int64)
    got, left_out = aggregate_parts(parts, [[0], [0]], *pairs, 120)
    want = aggregate_rows(ids, times, values, 120)
    assert not len(left_out)
    for name in ("counts", "first_times", "last_times", "sums", "mins", "maxs", "firsts", "lasts"):
        assert getattr(got, name).tolist() == getattr(want, name)[:, [0, 3]].tolist()


def test_an_increase_survives_resets_within_and_between_buckets() -> None:
    times = np.array([0, 20, 40, 60, 80, 130], np.int64)
    values = np.array([[10.0, 15.0, 3.0, 4.0, 1.0, 9.0]])
    columns = aggregate_rows(np.zeros(6, np.int32), times, values, MINUTE, (0,))
    assert columns.increases.tolist() == [[5.0 + 3.0, 1.0, 0.0]]
    merged = merge_rows(columns, 5 * MINUTE, (0,))
    assert merged.increases.tolist() == [[5.0 + 3.0 + 1.0 + 1.0 + 8.0]]


def test_what_is_not_known_stays_so() -> None:
    columns = aggregate_rows(np.zeros(2, np.int32), np.array([0, 60]), np.array([[1.0, 2.0]]), MINUTE, (0,))
    columns.increases[0, 1] = np.nan
    assert np.isnan(merge_rows(columns, 5 * MINUTE, (0,)).increases).all()


def test_what_is_refused() -> None:
    ids, times, values = np.zeros(2, np.int32), np.array([0, 1], np.int64), np.zeros((1, 2))
    for bad in (
        lambda: aggregate_rows(ids, times[::-1].copy(), values, MINUTE),
        lambda: aggregate_rows(ids, np.array([1, 1]), values, MINUTE),
        lambda: aggregate_rows(ids, times, values, 0),
        lambda: aggregate_rows(ids, times, values, MINUTE, (1,)),
        lambda: aggregate_rows(ids, times, np.zeros((1, 3)), MINUTE),
        lambda: aggregate_rows(np.array([-1, 0], np.int32), times, values, MINUTE),
    ):
        with pytest.raises(ValueError, match="cannot"):
            bad()
    part, pair = (ids, times, values), (np.zeros(1, np.int32), np.zeros(1, np.int64))
    for parts, lines, pairs in (
        ([part], [[1]], pair),
        ([part], [[-2]], pair),
        ([part], [], pair),
        ([part, part], [[0], []], pair),
        ([(ids, times, np.zeros((1, 3)))], [[0]], pair),
        ([(ids, times, np.zeros((2, 1)).T.repeat(2, 0).T)], [[0]], pair),
        ([(ids, times[:1], values)], [[0]], pair),
        ([part], [[0]], (np.zeros(1, np.int32), np.ones(1, np.int64))),
        ([part], [[0]], (np.zeros(2, np.int32), np.zeros(2, np.int64))),
        ([part], [[0]], (np.array([1, 0], np.int32), np.zeros(2, np.int64))),
        ([part], [[0]], (np.array([-1], np.int32), np.zeros(1, np.int64))),
    ):
        with pytest.raises(ValueError, match="cannot"):
            aggregate_parts(parts, lines, *pairs, MINUTE)
    columns = aggregate_rows(ids, times, values, MINUTE)
    columns.lasts = np.zeros((1, 7))
    with pytest.raises(ValueError, match="cannot use lasts"):
        merge_rows(columns, MINUTE)
    assert set(LINES) <= set(NAMES)
