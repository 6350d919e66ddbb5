"""How a range is divided among tiers and raw samples, against a look at each minute."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import NS_PER_HOUR, NS_PER_MINUTE
from engine.query.split import MAX_INTERVALS, Interval, split

MINUTE = NS_PER_MINUTE
HALF = MINUTE // 2


@settings(max_examples=300, deadline=None)
@given(
    st.integers(-500, 500),
    st.integers(1, 9_000),
    st.sampled_from([1, 3, 2, 10, 30, 120, 180, 240, 2_880, 100_000]),
    st.sets(st.integers(-300, 4_000), max_size=12),
    st.integers(0, 2_000),
    st.integers(-20, 20),
)
def test_every_time_comes_once_and_buckets_are_whole(
    start: int, length: int, step: int, unflushed: set[int], enough: int, shift: int
) -> None:
    whole = (start * HALF, (start + length) * HALF)
    step_ns = step * HALF
    minutes = np.array(sorted(unflushed), np.int64) * MINUTE

    def is_worth(_: object, rest: object) -> bool:
        assert isinstance(rest, list)
        return sum(end - begin for begin, end in rest) > enough * MINUTE

    pieces = split(whole, whole[0] + shift * HALF, step_ns, minutes, is_worth)
    found: list[Interval] = sorted(interval for piece in pieces for interval in piece.intervals)
    assert (found[0][0], found[-1][1]) == whole
    assert all(before[1] == after[0] for before, after in itertools.pairwise(found))
    assert len({piece.tier for piece in pieces}) == len(pieces)
    for piece in pieces:
        assert piece.bounds.tolist() == [each for interval in piece.intervals for each in interval]
        if piece.tier is None:
            assert len(piece.intervals) <= MAX_INTERVALS
            continue
        for begin, end in piece.intervals:
            assert begin % piece.tier.width_ns == end % piece.tier.width_ns == 0
            for bucket in range(begin, end, piece.tier.width_ns):
                last = bucket + piece.tier.width_ns - 1
                assert (bucket - whole[0] - shift * HALF) // step_ns == (last - whole[0] - shift * HALF) // step_ns
                assert not any(bucket <= minute * MINUTE <= last for minute in unflushed)


def test_the_widest_tier_comes_first_and_the_ragged_ends_are_raw() -> None:
    whole = (NS_PER_HOUR - 5 * MINUTE - HALF, 4 * NS_PER_HOUR + 7 * MINUTE)
    pieces = split(whole, whole[0], 10 * NS_PER_HOUR, np.array([2 * NS_PER_HOUR + 3 * MINUTE]), lambda *_: True)
    assert [piece.tier.name if piece.tier else "raw" for piece in pieces] == [
        "rollup_1h", "rollup_15m", "rollup_5m", "rollup_1m", "raw",
    ]  # fmt: skip
    assert pieces[0].intervals == ((NS_PER_HOUR, 2 * NS_PER_HOUR), (3 * NS_PER_HOUR, 4 * NS_PER_HOUR))
    assert pieces[-1].intervals == (
        (whole[0], whole[0] + HALF),
        (2 * NS_PER_HOUR + 3 * MINUTE, 2 * NS_PER_HOUR + 4 * MINUTE),
    )


def test_what_few_raw_samples_answer_is_raw() -> None:
    [piece] = split((0, NS_PER_HOUR), 0, NS_PER_HOUR, np.empty(0, np.int64), lambda *_: False)
    assert (piece.tier, piece.intervals) == (None, ((0, NS_PER_HOUR),))


def test_steps_that_would_leave_many_pieces_are_read_from_a_narrower_tier_or_raw() -> None:
    pieces = split((0, 50 * NS_PER_HOUR), 0, 90 * MINUTE, np.empty(0, np.int64), lambda *_: True)
    assert [piece.tier.name if piece.tier else "raw" for piece in pieces] == ["rollup_15m"]
