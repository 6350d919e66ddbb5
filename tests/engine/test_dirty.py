"""How marked buckets are divided into pieces, and recomputed from rows in any order."""

from __future__ import annotations

from collections.abc import Sequence
from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.clock import NS_PER_MINUTE
from engine.model.rows import Int32Array, Rows, concat, sort_merge
from engine.rollups import dirty
from engine.rollups.dirty import DirtyBuckets, aggregate_buckets
from engine.rollups.long import NAMES, columns_of, long_table
from engine.rollups.pairs import Pairs
from engine.rollups.store import Piece
from native.columns import ABSENT
from tests.oracles import rollup as oracle

buckets_of_tagsets = st.sets(st.tuples(st.integers(0, 40), st.integers(0, 400)), min_size=1)


@given(buckets_of_tagsets, st.integers(1, 60))
def test_pieces_are_bounded_even_within_one_minute(wanted: set[tuple[int, int]], most: int) -> None:
    flushed: list[Piece] = []

    def flush(pieces: Sequence[Piece], sequence: int) -> None:
        flushed.extend(pieces)

    def collect(table_id: int, start_ns: int, end_ns: int, tagset_ids: Int32Array) -> list[Rows]:
        asked = set(tagset_ids.tolist())
        rows = [
            (tagset, minute)
            for tagset, minute in wanted
            if tagset in asked and start_ns <= minute * NS_PER_MINUTE < end_ns
        ]
        found = np.array(sorted(rows), np.int64).reshape(-1, 2)
        return [Rows(found[:, 0].astype(np.int32), found[:, 1] * NS_PER_MINUTE, (0,), np.ones((1, len(found))))]

    marks = DirtyBuckets(collect, flush)
    ids, minutes = np.array(list(wanted), np.int64).T
    marks.mark(1, 1, ids.astype(np.int32), minutes * NS_PER_MINUTE + 1)
    with patch.object(dirty, "PAIRS_AT_A_TIME", most), patch.object(dirty, "WIDE_FIELDS", 1):
        assert marks.flush() == len(wanted)
    assert all(0 < len(piece.pairs) <= most for piece in flushed)
    pairs = [pair for p in flushed for pair in zip(p.pairs.tagset_ids.tolist(), p.pairs.buckets.tolist(), strict=True)]
    assert sorted(pairs) == sorted((tagset, minute * NS_PER_MINUTE) for tagset, minute in wanted)


@given(st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 300), st.sampled_from([1.0, 2.5, ABSENT])))))
def test_late_and_repeated_rows_count_as_they_would_merged(drawn: list[list[tuple[int, int, float]]]) -> None:
    parts = [
        Rows(
            np.array([row[0] for row in rows], np.int32),
            np.array([row[1] for row in rows], np.int64) * (NS_PER_MINUTE // 10),
            (number % 2, 5),
            np.array([[row[2] for row in rows], [row[1] for row in rows]], np.float64),
        )
        for number, rows in enumerate(drawn)
    ]
    merged = sort_merge(concat(parts))
    keys = {*zip(merged.tagset_ids.tolist(), (merged.times // NS_PER_MINUTE).tolist(), strict=True)}
    wanted = [*sorted(keys - {(0, 0)}), (7, 7)]
    pairs = Pairs(np.array([w[0] for w in wanted], np.int32), np.array([w[1] for w in wanted]) * NS_PER_MINUTE)
    rows = merged.take(~((merged.tagset_ids == 0) & (merged.times < NS_PER_MINUTE)))
    want = oracle.aggregate(rows.tagset_ids, rows.times, rows.values, np.array(rows.field_ids, np.int32), NS_PER_MINUTE)
    found = columns_of(long_table([aggregate_buckets(parts, pairs)]))
    order = np.lexsort((found["time"], found["series_id"]))
    for name, native in zip(NAMES, oracle.COLUMNS, strict=True):
        np.testing.assert_array_equal(found[name][order], want[native], name)
