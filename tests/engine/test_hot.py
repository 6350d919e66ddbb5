"""The hot store against the obvious dictionary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.hot import block as block_module
from engine.hot import store as store_module
from engine.hot.block import Block
from engine.hot.store import HotStore, remaining_of
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
    store.assume_seen(1, 4, 100)
    assert store.append(1, build([(3, 100, {0: 1}), (3, 101, {0: 1}), (4, 1, {0: 1})]), 1) == 1


def test_tag_sets_that_had_no_row_for_long_are_forgotten_and_may_come_back() -> None:
    store = HotStore()
    store.append(1, build([(0, 10, {0: 1}), (1, 50, {0: 2}), (900, 60, {0: 3}), (2, 30, {0: 4})]), 1)
    store.append(2, build([(3, 20, {0: 5})]), 2)
    assert store.counts_in_use().tolist() == [0, 4, 1]
    before = store.tagsets_in_use(1)
    assert store.forget_idle(50) == 3
    assert store.counts_in_use().tolist() == [0, 2, 0]
    assert store.held_rows() == 5
    assert store.tagsets_in_use(1)[0] != before[0]
    assert before[1].tolist() == [0, 1, 900, 2]
    latest = store.latest(1, 0)
    assert latest is not None
    assert (latest.tagset_ids.tolist(), latest.values.tolist()) == ([1, 900], [2.0, 3.0])
    # Up to the newest time that was forgotten (30) rows of known tag sets may be repeated; a new one cannot have any.
    assert store.append(1, build([(0, 30, {0: 1}), (2, 31, {0: 1}), (1, 40, {0: 1}), (901, 1, {0: 1})]), 3) == 2
    assert store.forget_idle(1) == 0


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 600).map(lambda n: n * n % 601), st.integers(0, 60)), max_size=12),
        max_size=12,
    ),
    st.lists(st.integers(0, 70), max_size=12),
)
@settings(max_examples=200, deadline=None)
def test_forgetting_never_lets_a_key_count_as_new_twice(batches: list[list[tuple[int, int]]], cuts: list[int]) -> None:
    """Against lists: an advancing row is newer than all its tag set ever had; the others are late."""
    store = HotStore()
    cuts = sorted(cuts)
    newest: dict[int, int] = {}
    for sequence, batch in enumerate(batches, 1):
        late = 0
        for tagset_id, time in batch:
            late += time <= newest.get(tagset_id, -1)
            newest[tagset_id] = max(time, newest.get(tagset_id, -1))
        if batch:
            assert store.append(1, build([(tagset_id, time, {0: 1.0}) for tagset_id, time in batch]), sequence) >= late
        if sequence <= len(cuts):
            store.forget_idle(cuts[sequence - 1])
            in_use = store.tagsets_in_use(1)[1].tolist()
            assert {tagset_id for tagset_id, time in newest.items() if time >= cuts[sequence - 1]} <= set(in_use)
    keys = [
        (tagset_id, time)
        for view in store.snapshot(1, 0, 100)
        if not view.late
        for tagset_id, time in zip(view.rows.tagset_ids.tolist(), view.rows.times.tolist(), strict=True)
    ]
    assert len(keys) == len(set(keys))


def test_memory_follows_the_tag_sets_in_use() -> None:
    store = HotStore()
    for hour in range(200):
        ids = np.arange(hour * 1_000, (hour + 1) * 1_000, dtype=np.int32)
        times = np.full(1_000, hour * 3_600, np.int64)
        store.append(1, Rows(ids, times, (0,), np.ones((1, 1_000))), hour + 1)
        store.forget_idle((hour - 1) * 3_600)
        assert store.series_nbytes < 400_000
    assert store.counts_in_use().tolist() == [0, 2_000]


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


def test_touched_minutes_are_told_even_of_what_has_just_been_forgotten() -> None:
    store = HotStore()
    minute = 60_000_000_000
    rows = build([(7, 5, {0: 1}), (300, minute, {0: 1}), (7, minute + 9, {0: 1}), (7, 6, {0: 1})])
    store.append(1, rows, 1)
    expected = {(7, 0), (300, minute), (7, minute)}
    for told_round in range(1, 3):
        ids, minutes = store.touched_minutes(1, rows, told_round)
        assert set(zip(ids.tolist(), minutes.tolist(), strict=True)) == expected
        assert store.forget_idle(10 * minute) in (2, 0)


def test_a_minute_is_told_once_a_round() -> None:
    store = HotStore()
    minute = 60_000_000_000
    first, second = (
        build([(7, 5, {0: 1}), (8, 5, {0: 1})]),
        build([(7, 6, {0: 1}), (8, minute, {0: 1}), (9, 6, {0: 1})]),
    )
    for sequence, rows in ((1, first), (2, second)):
        store.append(1, rows, sequence)
    told = [
        store.touched_minutes(1, rows, number) for number, rows in ((1, first), (1, second), (1, second), (2, second))
    ]
    assert [list(zip(ids.tolist(), minutes.tolist(), strict=True)) for ids, minutes in told] == [
        [(7, 0), (8, 0)],
        [(8, minute), (9, 0)],
        [],
        [(7, 0), (8, minute), (9, 0)],
    ]


def test_a_block_that_is_sorted_while_it_is_sealed_keeps_the_right_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    hot = HotStore()
    times = np.arange(10, dtype=np.int64)
    # Two tag sets in turn: sorting by tag set moves nearly every row.
    ids = np.tile(np.array([1, 0], np.int32), 10)
    hot.append(0, Rows(ids, np.repeat(times, 2), (0,), np.repeat(times, 2)[None, :].astype(np.float64)), 1)
    [block] = hot.freeze(0)
    view = Block.view

    def sorted_behind_its_back(self: Block) -> Rows:
        rows = view(self)
        monkeypatch.setattr(Block, "view", view)
        self.sorted_view()
        return rows

    monkeypatch.setattr(Block, "view", sorted_behind_its_back)
    remaining = remaining_of([block], [(0, 5)])
    monkeypatch.undo()
    left = remaining[block.number]
    assert left is not None
    rows = left.view()
    assert sorted(zip(rows.tagset_ids.tolist(), rows.times.tolist(), rows.values[0].tolist(), strict=True)) == [
        (tagset, time, float(time)) for tagset in (0, 1) for time in range(5, 10)
    ]


def test_an_index_is_of_the_rows_it_was_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_module, "UNINDEXED_ROWS", 3)
    block = Block((0,), late=False, capacity=8)

    def append(start: int, count: int) -> None:
        times = np.arange(start, start + count, dtype=np.int64)
        block.append(Rows((times % 3).astype(np.int32), times, (0,), times[None, :].astype(np.float64)), start + 1)

    append(0, 2)
    assert not block.index_rows()
    append(2, 5)
    assert block.index_rows()
    append(7, 1)
    rows, index = block.indexed_view()
    assert index is not None
    assert (index.tagset_ids.tolist(), index.order.tolist()) == ([0, 0, 0, 1, 1, 2, 2], [0, 3, 6, 1, 4, 2, 5])
    assert len(rows) == 8
    assert not block.index_rows()
    append(8, 4)
    # It has grown: its rows are elsewhere, at the same places, and are indexed anew.
    assert block.indexed_view()[1] is None
    assert block.index_rows()
    block.frozen = True
    block.sorted_view()
    assert block.indexed_view()[1] is None


def test_a_large_block_is_wanted_arranged_when_it_is_searched_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_module, "UNINDEXED_ROWS", 4)
    monkeypatch.setattr(store_module, "UNINDEXED_ROWS", 4)
    hot, asked = HotStore(), []
    hot.on_search = lambda: asked.append(True)

    def append(start: int, count: int) -> None:
        times = np.arange(start, start + count, dtype=np.int64)
        hot.append(0, Rows((times % 3).astype(np.int32), times, (0,), times[None, :].astype(np.float64)), start + 1)

    def search() -> int:
        for view in hot.snapshot(0, NEVER_NS, FOREVER_NS):
            hot.note_search(view)
        return len(asked)

    append(0, 3)
    # So small a block is looked through as fast as it is searched.
    assert (search(), hot.arrange()) == (0, 0)
    hot.freeze(0)
    append(3, 9)
    assert (search(), search()) == (1, 1)
    assert hot.arrange() == 2
    append(12, 9)
    # From then on it is arranged from time to time.
    assert (search(), hot.arrange(), search()) == (1, 1, 1)


def test_a_full_block_is_indexed_first_and_sorted_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_module, "UNINDEXED_ROWS", 4)
    hot = HotStore()
    times = np.arange(9, dtype=np.int64)
    hot.append(0, Rows((times % 3).astype(np.int32), times, (0,), times[None, :].astype(np.float64)), 1)
    hot.freeze(0)
    found = []
    for _ in range(3):
        (view,) = hot.snapshot(0, NEVER_NS, FOREVER_NS)
        hot.note_search(view)
        found.append((view.index is not None, view.in_order, hot.arrange()))
    assert found == [(False, False, 1), (True, False, 1), (False, True, 0)]


@pytest.mark.parametrize("fields", [1, block_module.WIDE_FIELDS])
def test_a_full_block_of_many_fields_is_indexed_before_anybody_searches_it(
    monkeypatch: pytest.MonkeyPatch, fields: int
) -> None:
    monkeypatch.setattr(block_module, "UNINDEXED_ROWS", 4)
    hot = HotStore()
    times = np.arange(9, dtype=np.int64)
    values = np.tile(times.astype(np.float64), (fields, 1))
    hot.append(0, Rows((times % 3).astype(np.int32), times, tuple(range(fields)), values), 1)
    assert hot.arrange() == 0  # more rows may come
    hot.freeze(0)
    wide = fields > 1
    assert (hot.arrange(), hot.arrange()) == (int(wide), 0)
    (view,) = hot.snapshot(0, NEVER_NS, FOREVER_NS)
    assert (view.index is not None, view.in_order) == (wide, False)
