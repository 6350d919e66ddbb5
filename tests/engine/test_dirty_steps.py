"""In which steps marked buckets are recomputed: few for sparse history, small ones for dense, none left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE
from engine.model.rows import Int32Array, Rows
from engine.rollups import dirty
from engine.rollups.dirty import ROWS_AT_A_TIME, WINDOW_NS, DirtyBuckets
from engine.rollups.store import Piece

TAGSETS = 4


class Source:
    """Raw rows every ``interval_ns`` for each tag set; remembers what was read."""

    def __init__(self, interval_ns: int) -> None:
        self.interval_ns = interval_ns
        self.read: list[tuple[int, int]] = []
        self.written: list[Piece] = []

    def expected(self, table_id: int, start_ns: int, end_ns: int) -> tuple[int, int]:
        return (end_ns - start_ns) // self.interval_ns * TAGSETS, 0

    def collect(self, table_id: int, start_ns: int, end_ns: int, tagset_ids: Int32Array) -> list[Rows]:
        self.read.append((start_ns, end_ns))
        first = -(-start_ns // self.interval_ns)
        times = np.arange(first * self.interval_ns, end_ns, self.interval_ns, dtype=np.int64)
        ids = np.repeat(tagset_ids, len(times))
        return [Rows(ids, np.tile(times, len(tagset_ids)), (0,), np.ones((1, len(ids))))]

    def flush(self, pieces: Sequence[Piece], sequence: int) -> None:
        self.written += pieces


def marked(source: Source, times: np.ndarray[tuple[int], np.dtype[np.int64]]) -> DirtyBuckets:
    buckets = DirtyBuckets(source.collect, source.flush, expected=source.expected)
    ids = np.tile(np.arange(TAGSETS, dtype=np.int32), len(times))
    buckets.mark(1, 1, ids, np.repeat(times, TAGSETS))
    return buckets


def test_a_year_of_sparse_history_takes_few_steps() -> None:
    source = Source(15 * NS_PER_MINUTE)
    times = np.arange(0, 365 * NS_PER_DAY, source.interval_ns, dtype=np.int64)
    assert marked(source, times).flush() == len(times) * TAGSETS
    assert len(source.read) <= TAGSETS
    assert sum(piece.rows.series_rows() for piece in source.written) == len(times) * TAGSETS


def test_dense_history_is_read_a_part_of_a_window_at_a_time() -> None:
    source = Source(WINDOW_NS * TAGSETS // ROWS_AT_A_TIME)
    times = np.arange(0, 6 * NS_PER_HOUR, NS_PER_MINUTE, dtype=np.int64)
    marked(source, times).flush()
    assert [end - start for start, end in source.read] == [WINDOW_NS // 4] * 12
    assert [piece.pairs.buckets.max() - piece.pairs.buckets.min() for piece in source.written] == [
        WINDOW_NS - NS_PER_MINUTE
    ] * 3


def test_what_lies_between_far_buckets_is_not_read() -> None:
    source = Source(NS_PER_MINUTE)
    times = np.array([0, 100 * NS_PER_DAY, 200 * NS_PER_DAY], np.int64)
    marked(source, times).flush()
    assert sum(end - start for start, end in source.read) == 3 * NS_PER_MINUTE


@settings(max_examples=60, deadline=None)
@given(
    minutes=st.lists(st.integers(-3_000, 3_000), min_size=1, max_size=60),
    interval_minutes=st.sampled_from([1, 7, 60]),
    most=st.sampled_from([1, 10, 1_000]),
)
def test_every_bucket_is_recomputed_once(minutes: list[int], interval_minutes: int, most: int) -> None:
    source = Source(interval_minutes * NS_PER_MINUTE)
    times = np.array(minutes, np.int64) * NS_PER_MINUTE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dirty, "PAIRS_AT_A_TIME", most)
        marked(source, times).flush()
    pairs = [
        pair
        for piece in source.written
        for pair in zip(piece.pairs.tagset_ids.tolist(), piece.pairs.buckets.tolist(), strict=True)
    ]
    wanted = {(tagset, minute * NS_PER_MINUTE) for minute in minutes for tagset in range(TAGSETS)}
    assert len(pairs) == len(wanted)
    assert set(pairs) == wanted
    assert all(
        list(zip(*_keys(piece), strict=True)) == sorted(zip(*_keys(piece), strict=True)) for piece in source.written
    )


def _keys(piece: Piece) -> tuple[list[int], list[int]]:
    return piece.pairs.tagset_ids.tolist(), piece.pairs.buckets.tolist()


def test_marks_are_condensed_when_they_have_doubled_not_with_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dirty, "CONDENSE_ROWS", 1_000)
    condensed = []
    original = dirty.touched_buckets
    monkeypatch.setattr(dirty, "touched_buckets", lambda *given: condensed.append(1) or original(*given))
    source = Source(NS_PER_MINUTE)
    buckets = DirtyBuckets(source.collect, source.flush)
    for batch in range(400):
        times = (np.arange(100, dtype=np.int64) + batch * 100) * NS_PER_MINUTE
        buckets.mark(1, batch + 1, np.zeros(100, np.int32), times)
    assert len(condensed) <= 8
    assert buckets.pending_rows == 40_000
