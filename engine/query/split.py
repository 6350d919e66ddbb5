"""Which times of a range are read from which tier, and which from raw samples: each exactly once.

A bucket of a tier stands for its samples where all of them are asked for, all belong to one step of the answer, and
the tier has them all.  What is left is divided among narrower tiers as long as it is worth that, the rest is raw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.model.rows import Int64Array
from engine.rollups.tiers import TIERS, Tier

#: Half-open, in ns.
Interval = tuple[int, int]
#: Each interval left costs a look-up of its own: a tier that would leave more is not used.
MAX_INTERVALS = 16
#: Buckets of a range that are looked at one by one.
_MAX_BUCKETS = 1_000_000


@dataclass(frozen=True, slots=True)
class Piece:
    """Ascending, disjoint intervals that are read from one tier, or from raw samples where ``tier`` is None."""

    tier: Tier | None
    intervals: tuple[Interval, ...]

    @property
    def bounds(self) -> Int64Array:
        return np.array([each for interval in self.intervals for each in interval], np.int64)


def split(
    whole: Interval,
    origin_ns: int,
    step_ns: int,
    unflushed: Int64Array,
    is_worth: Callable[[Tier, Sequence[Interval]], bool],
) -> list[Piece]:
    """Return what to read of ``whole`` from where, from the widest tier to raw samples; nothing is left out.

    Steps of ``step_ns`` are counted from ``origin_ns``.  ``unflushed``: starts, ascending, of minutes that tiers
    may lack samples of.  ``is_worth``: whether a tier is better read for these intervals than raw samples.
    """
    rest: list[Interval] = [whole]
    pieces = []
    for tier in reversed(TIERS):
        if not rest or not is_worth(tier, rest):
            continue
        taken: list[Interval] = []
        left: list[Interval] = []
        for interval in rest:
            inside = whole_buckets(interval, origin_ns, step_ns, tier.width_ns, unflushed)
            taken += inside
            left += without(interval, inside)
        if taken and len(left) <= MAX_INTERVALS:
            pieces.append(Piece(tier, tuple(taken)))
            rest = left
    if rest:
        pieces.append(Piece(None, tuple(rest)))
    return pieces


def whole_buckets(
    interval: Interval, origin_ns: int, step_ns: int, width_ns: int, unflushed: Int64Array
) -> list[Interval]:
    """Return the runs of buckets that lie in the interval and in one step each, without an unflushed minute."""
    first, end = -(-interval[0] // width_ns), interval[1] // width_ns
    if first >= end:
        return []
    dirty = unflushed[(unflushed >= first * width_ns) & (unflushed < end * width_ns)]
    aligned = step_ns % width_ns == 0 and origin_ns % width_ns == 0
    if aligned and not len(dirty):
        return [(first * width_ns, end * width_ns)]
    if end - first > _MAX_BUCKETS:
        return []
    usable = np.ones(end - first, np.bool_)
    if not aligned:
        offsets = np.arange(first, end, dtype=np.int64) * width_ns - origin_ns
        usable = offsets // step_ns == (offsets + (width_ns - 1)) // step_ns
    usable[dirty // width_ns - first] = False
    edges = np.flatnonzero(np.diff(np.concatenate(([False], usable, [False])))).tolist()
    return [
        ((first + low) * width_ns, (first + high) * width_ns) for low, high in zip(edges[::2], edges[1::2], strict=True)
    ]


def without(interval: Interval, taken: Iterable[Interval]) -> list[Interval]:
    """Return what is left of an interval."""
    left = []
    at = interval[0]
    for start, end in taken:
        if at < start:
            left.append((at, start))
        at = end
    if at < interval[1]:
        left.append((at, interval[1]))
    return left
