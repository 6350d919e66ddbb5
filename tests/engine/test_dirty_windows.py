"""The windows in which the raw rows of dirty buckets are read."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.clock import NS_PER_MINUTE
from engine.rollups.dirty import windows_of
from engine.rollups.pairs import Pairs

PAIR = st.tuples(st.integers(0, 6), st.integers(-200, 900))


@given(st.sets(PAIR, min_size=1, max_size=80), st.integers(1, 90))
def test_windows_hold_every_pair_once_and_few_at_a_time(chosen: set[tuple[int, int]], most: int) -> None:
    every = sorted(chosen)
    pairs = Pairs(
        np.array([tagset for tagset, _ in every], np.int32),
        np.array([minute for _, minute in every], np.int64) * NS_PER_MINUTE,
    )
    seen: list[tuple[int, int]] = []
    last_minute = -(10**6)
    for window in windows_of(pairs, most):
        minutes = (window.buckets // NS_PER_MINUTE).tolist()
        found = list(zip(window.tagset_ids.tolist(), minutes, strict=True))
        assert found == sorted(found)
        assert len(found) <= most or len(set(minutes)) == 1
        assert min(minutes) > last_minute
        last_minute = max(minutes)
        seen += found
    assert sorted(seen) == every
