"""The hot store against the obvious dictionary."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.hot.block import Block
from engine.hot.store import HotStore
from engine.model.rows import FOREVER_NS, NEVER_NS, Rows, absent_matrix, concat, sort_merge
from tests.oracles import samples

rows_strategy = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.integers(0, 12),
        st.dictionaries(st.integers(0, 3), st.integers(-9, 9), min_size=1),
    ),
    min_size=1,
    max_size=12,
)


def build(cells: list[tuple[int, int, dict[int, int]]]) -> Rows:
    field_ids = tuple(sorted({field for *_, fields in cells for field in fields}))
    values = absent_matrix(len(field_ids), len(cells))
    for at, (*_, fields) in enumerate(cells):
        for field, value in fields.items():
            values[field_ids.index(field), at] = value
    tagset_ids = np.array([cell[0] for cell in cells], np.int32)
    return Rows(tagset_ids, np.array([cell[1] for cell in cells], np.int64), field_ids, values)


def everything(store: HotStore, start_ns: int = NEVER_NS, end_ns: int = FOREVER_NS) -> Rows:
    parts = [view.rows for view in store.snapshot(1, start_ns, end_ns)]
    return sort_merge(concat(parts)).between(start_ns, end_ns)


@given(st.lists(rows_strategy, min_size=1, max_size=6), st.integers(0, 12), st.integers(0, 12))
@settings(max_examples=150, deadline=None)
def test_reads_what_was_written_last_arrival_winning(
    batches: list[list[tuple[int, int, dict[int, int]]]], a: int, b: int
) -> None:
    store, model = HotStore(), {}
    for sequence, cells in enumerate(batches, 1):
        store.append(1, build(cells), sequence)
        samples.write(model, build(cells))
    assert samples.read(everything(store)) == model
    start, end = min(a, b), max(a, b) + 1
    assert samples.read(everything(store, start, end)) == samples.between(model, start, end)


@given(st.lists(rows_strategy, min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_advancing_rows_are_strictly_newer_and_never_repeat_a_key(
    batches: list[list[tuple[int, int, dict[int, int]]]],
) -> None:
    store, newest, late = HotStore(), {}, 0
    for sequence, cells in enumerate(batches, 1):
        for tagset_id, time_ns, _ in cells:
            if time_ns <= newest.get(tagset_id, -1):
                late += 1
            newest[tagset_id] = max(time_ns, newest.get(tagset_id, -1))
        store.append(1, build(cells), sequence)
    fresh = concat([view.rows for view in store.snapshot(1, NEVER_NS, FOREVER_NS) if not view.late])
    keys = list(zip(fresh.tagset_ids.tolist(), fresh.times.tolist(), strict=True))
    assert len(keys) == len(set(keys))
    assert store.late_rows_total == late


@given(st.lists(rows_strategy, min_size=1, max_size=4), st.lists(rows_strategy, max_size=3), st.integers(0, 13))
@settings(max_examples=100, deadline=None)
def test_sealing_takes_away_just_the_rows_of_the_sealed_range(
    before: list[list[tuple[int, int, dict[int, int]]]],
    after: list[list[tuple[int, int, dict[int, int]]]],
    cut: int,
) -> None:
    store, sealed_model, left_model = HotStore(), {}, {}
    for sequence, cells in enumerate(before, 1):
        store.append(1, build(cells), sequence)
        samples.write(sealed_model, build(cells))
    blocks = store.freeze(1)
    for sequence, cells in enumerate(after, len(before) + 1):
        store.append(1, build(cells), sequence)
        samples.write(left_model, build(cells))
    store.replace(1, blocks, [(0, cut)])
    expected = samples.between(sealed_model, cut, 1_000)
    for key, cell in left_model.items():
        expected[key] = {**expected.get(key, {}), **cell}
    assert samples.read(everything(store)) == expected


def test_latest_is_the_newest_sample_of_each_series() -> None:
    store = HotStore()
    store.append(1, build([(0, 10, {0: 1}), (1, 10, {0: 2, 1: 7})]), 1)
    store.append(1, build([(0, 20, {1: 5}), (1, 5, {0: 9}), (1, 10, {0: 3})]), 2)
    latest = store.latest(1, 0)
    assert latest is not None
    found = {int(i): (int(t), float(v)) for i, t, v in zip(latest.tagset_ids, latest.times, latest.values, strict=True)}
    assert found == {0: (10, 1.0), 1: (10, 3.0)}
    latest = store.latest(1, 1)
    assert latest is not None
    assert dict(zip(latest.tagset_ids.tolist(), latest.values.tolist(), strict=True)) == {0: 5.0, 1: 7.0}
    assert store.latest(1, 9) is None
    assert store.latest(2, 0) is None


def test_rows_known_to_segments_are_late_after_a_restart() -> None:
    store = HotStore()
    store.assume_seen(np.array([3], np.int32), 100)
    assert store.append(1, build([(3, 100, {0: 1}), (3, 101, {0: 1}), (4, 1, {0: 1})]), 1) == 1


def test_oldest_sequence_follows_what_is_held() -> None:
    store = HotStore()
    assert store.oldest_sequence() is None
    store.append(1, build([(0, 10, {0: 1})]), 7)
    blocks = store.freeze(1)
    store.append(1, build([(0, 20, {0: 1})]), 8)
    assert store.oldest_sequence() == 7
    store.replace(1, blocks, [(0, 20)])
    assert store.oldest_sequence() == 8


def test_dropping_forgets_old_rows_only() -> None:
    store = HotStore()
    store.append(1, build([(0, 10, {0: 1}), (0, 30, {0: 2})]), 1)
    assert store.drop(1, 20) == 1
    assert samples.read(everything(store)) == {(0, 30): {0: 2.0}}
    assert store.drop(1, 20) == 0


def test_a_view_taken_before_growing_and_sorting_keeps_its_rows() -> None:
    block = Block((0,), late=False, capacity=4)
    block.append(build([(1, 10, {0: 1}), (0, 10, {0: 2})]), 1)
    view = block.view()
    block.append(build([(0, 20 + at, {0: at}) for at in range(40)]), 2)
    block.frozen = True
    assert block.sorted_view().tagset_ids.tolist() == [0] * 41 + [1]
    assert view.tagset_ids.tolist() == [1, 0]
    assert view.values[0].tolist() == [1.0, 2.0]


@given(st.lists(rows_strategy, min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_memory_held_is_that_of_all_blocks(batches: list[list[tuple[int, int, dict[int, int]]]]) -> None:
    store = HotStore()
    for sequence, cells in enumerate(batches, 1):
        store.append(1, build(cells * 50), sequence)
        blocks = {view.block for view in store.snapshot(1, NEVER_NS, FOREVER_NS)}
        assert store.nbytes == sum(block.nbytes for block in blocks)
    store.drop(1, FOREVER_NS)
    assert store.nbytes == 0


def test_a_table_that_filled_a_block_starts_the_next_one_at_full_size() -> None:
    store = HotStore()
    rows = Rows(np.zeros(50_000, np.int32), np.arange(50_000, dtype=np.int64), (0,), np.zeros((1, 50_000)))
    for sequence in range(1, 4):
        moved = Rows(rows.tagset_ids, rows.times + sequence * 50_000, rows.field_ids, rows.values)
        store.append(1, moved, sequence)
    first, second = (view.block for view in store.snapshot(1, NEVER_NS, FOREVER_NS))
    assert (first.count, second.count, second.capacity) == (100_000, 50_000, 131_072)
