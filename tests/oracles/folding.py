"""The slow, obvious twin of native.folding: a dictionary of lists."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

EARLIEST_NS = -(2**63)


def locate_cells(
    tagset_ids: Sequence[int],
    times: Sequence[int],
    place_of: Mapping[int, int],
    ranges: Sequence[tuple[int, int]],
    origin_ns: int,
    step_ns: int,
    steps: int,
) -> list[int]:
    return [
        place_of[tagset_id] * steps + (time - origin_ns) // step_ns
        if tagset_id in place_of and any(start <= time < end for start, end in ranges)
        else -1
        for tagset_id, time in zip(tagset_ids, times, strict=True)
    ]


def fold(
    cells: Sequence[int], counts: Sequence[int], values: Sequence[float], times: Sequence[int], how: str
) -> tuple[dict[int, tuple[int, float]], int]:
    """Return {cell: (count, value)} and the newest time; rows with a count of 0 are none."""
    found: dict[int, tuple[int, float]] = {}
    newest = EARLIEST_NS
    for cell, count, value, time in zip(cells, counts, values, times, strict=True):
        if cell < 0 or not count:
            continue
        newest = max(newest, time)
        if cell not in found:
            found[cell] = (count, value)
            continue
        before, so_far = found[cell]
        together = {
            "sum": so_far + value,
            "min": value if value < so_far else so_far,
            "max": value if value > so_far else so_far,
        }[how]
        found[cell] = (before + count, together)
    return found, newest


def counts_of(values: Sequence[float]) -> list[int]:
    return [0 if math.isnan(value) else 1 for value in values]
