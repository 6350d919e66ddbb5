"""How marked buckets are divided into pieces."""

from __future__ import annotations

from collections.abc import Sequence
from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.clock import NS_PER_MINUTE
from engine.model.rows import Int32Array, Rows
from engine.rollups import dirty
from engine.rollups.dirty import DirtyBuckets
from engine.rollups.store import Piece

buckets_of_tagsets = st.sets(st.tuples(st.integers(0, 40), st.integers(0, 400)), min_size=1)


@given(buckets_of_tagsets, st.integers(1, 60))
def test_pieces_are_bounded_even_within_one_minute(wanted: set[tuple[int, int]], most: int) -> None:
    flushed: list[Piece] = []

    def flush(pieces: Sequence[Piece], sequence: int) -> None:
        flushed.extend(pieces)

    def collect(table_id: int, start_ns: int, end_ns: int, tagset_ids: Int32Array) -> Rows:
        asked = set(tagset_ids.tolist())
        rows = [
            (tagset, minute)
            for tagset, minute in wanted
            if tagset in asked and start_ns <= minute * NS_PER_MINUTE < end_ns
        ]
        found = np.array(sorted(rows), np.int64).reshape(-1, 2)
        return Rows(found[:, 0].astype(np.int32), found[:, 1] * NS_PER_MINUTE, (0,), np.ones((1, len(found))))

    marks = DirtyBuckets(collect, flush)
    ids, minutes = np.array(list(wanted), np.int64).T
    marks.mark(1, 1, ids.astype(np.int32), minutes * NS_PER_MINUTE + 1)
    with patch.object(dirty, "PAIRS_AT_A_TIME", most):
        assert marks.flush() == len(wanted)
    assert all(0 < len(piece.pairs) <= most for piece in flushed)
    pairs = [pair for p in flushed for pair in zip(p.pairs.tagset_ids.tolist(), p.pairs.buckets.tolist(), strict=True)]
    assert sorted(pairs) == sorted((tagset, minute * NS_PER_MINUTE) for tagset, minute in wanted)
