"""The windows in which the raw rows of dirty buckets are read."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.clock import NS_PER_HOUR, NS_PER_MINUTE
from engine.rollups.dirty import ROWS_READ_AT_A_TIME, windows_of
from engine.rollups.pairs import Pairs

PAIR = st.tuples(st.integers(0, 6), st.integers(-200, 900))


def pairs_of(chosen: set[tuple[int, int]]) -> Pairs:
    every = sorted(chosen)
    return Pairs(
        np.array([tagset for tagset, _ in every], np.int32),
        np.array([minute for _, minute in every], np.int64) * NS_PER_MINUTE,
    )


@given(st.sets(PAIR, min_size=1, max_size=80), st.integers(0, 2_000 * ROWS_READ_AT_A_TIME))
def test_windows_hold_every_pair_once_and_follow_each_other(chosen: set[tuple[int, int]], rows: int) -> None:
    seen: list[tuple[int, int]] = []
    last_minute = -(10**6)
    for window in windows_of(pairs_of(chosen), rows):
        minutes = (window.buckets // NS_PER_MINUTE).tolist()
        found = list(zip(window.tagset_ids.tolist(), minutes, strict=True))
        assert found == sorted(found)
        assert min(minutes) > last_minute
        last_minute = max(minutes)
        seen += found
    assert sorted(seen) == sorted(chosen)


def test_windows_are_as_narrow_as_the_rows_are_many() -> None:
    pairs = pairs_of({(0, minute) for minute in range(120)})

    def widths(rows: int) -> list[int]:
        return [len(window) for window in windows_of(pairs, rows)]

    assert widths(ROWS_READ_AT_A_TIME) == [120]
    assert widths(4 * ROWS_READ_AT_A_TIME) == [30] * 4
    assert widths(7 * ROWS_READ_AT_A_TIME) == [15] * 8
    assert widths(10_000 * ROWS_READ_AT_A_TIME) == [1] * 120
    far = pairs_of({(0, 60 * hour) for hour in range(24)})
    assert max(window.buckets.max() - window.buckets.min() for window in windows_of(far, 400_000)) < 6 * NS_PER_HOUR
