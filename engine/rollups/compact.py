"""Which small parts of a tier are to become one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.rollups.shelf import Part
from engine.rollups.tiers import Tier

#: A part that reaches over as many buckets stays as it is.
GROWN_BUCKETS = 24
#: Neighbours become one as soon as they reach over as many buckets together, or are as many.
CROWD_BUCKETS = 120
CROWD_PARTS = 64
#: Parts further apart are no neighbours.
GAP_BUCKETS = 16


@dataclass(frozen=True, slots=True)
class Group:
    """Parts of one tier and one table that are next to each other in time."""

    parts: list[Part]


def crowded(parts: Sequence[Part], tier: Tier) -> Iterator[Group]:
    """Yield the groups of neighbouring small parts that are due.  The newest bucket is left out: it still changes."""
    newest_ns = max((part.last_ns for part in parts), default=0)
    young = [
        part
        for part in parts
        if part.last_ns < newest_ns and (part.last_ns - part.first_ns) // tier.width_ns < GROWN_BUCKETS
    ]
    group: list[Part] = []
    end_ns = 0
    for part in sorted(young, key=lambda each: (each.first_ns, each.number)):
        if group and part.first_ns > end_ns + GAP_BUCKETS * tier.width_ns:
            if _due(group, end_ns, tier):
                yield Group(group)
            group = []
        end_ns = max(end_ns, part.last_ns) if group else part.last_ns
        group.append(part)
    if group and _due(group, end_ns, tier):
        yield Group(group)


def _due(group: Sequence[Part], end_ns: int, tier: Tier) -> bool:
    span = (end_ns - group[0].first_ns) // tier.width_ns + 1
    times = len({part.first_ns for part in group})
    return times >= 2 and (span >= CROWD_BUCKETS or (len(group) >= CROWD_PARTS and times >= 8))
