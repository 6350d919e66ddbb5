"""The slow, obvious twin of native.groups: lists of members, one group at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

EARLIEST_NS = -(2**63)


def aggregate_groups(
    values: Sequence[float], times: Sequence[int], groups: Sequence[int], group_count: int, how: str, oldest_ns: int
) -> tuple[list[float], list[int]]:
    found, newest = [], []
    for group in range(group_count):
        members = [
            (value, time)
            for value, time, of in zip(values, times, groups, strict=True)
            if of == group and not math.isnan(value)
        ]
        members = [member for member in members if member[1] >= oldest_ns] or members
        numbers = [value for value, _ in members]
        newest.append(max((time for _, time in members), default=EARLIEST_NS))
        if not numbers:
            found.append(math.nan)
        elif how == "count":
            found.append(float(len(numbers)))
        elif how in ("min", "max"):
            found.append(min(numbers) if how == "min" else max(numbers))
        else:
            total = 0.0
            for number in numbers:
                total += number
            found.append(total if how == "sum" else total / len(numbers))
    return found, newest
