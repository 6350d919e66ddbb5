"""The slow, obvious twin of native.bucketgrid: lists of samples by field, slot and bucket."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

#: Tag set, time, and the value of each field, None where the source has no such field.
Row = tuple[int, int, Sequence[float | None]]


def lines(
    aggregate: str,
    rows: Sequence[Row],
    slot_of: Mapping[int, int],
    field: int,
    start_ns: int,
    end_ns: int,
    width_ns: int,
) -> dict[int, dict[int, tuple[float, int]]]:
    """Return slot -> bucket -> (value, time of the newest sample) of one field; ``rows`` in order of time."""
    found: dict[int, dict[int, list[tuple[float, int]]]] = {}
    before: dict[tuple[int, int], float] = {}
    last: dict[int, float] = {}
    for tagset, time, values in rows:
        value = values[field]
        if tagset not in slot_of or value is None or math.isnan(value) or time >= end_ns:
            continue
        slot = slot_of[tagset]
        if time >= start_ns:
            bucket = (time - start_ns) // width_ns
            cell = found.setdefault(slot, {}).setdefault(bucket, [])
            if not cell and tagset in last:
                before[slot, bucket] = last[tagset]
            cell.append((value, time))
        last[tagset] = value
    return {
        slot: {
            bucket: (
                _value(aggregate, [value for value, _ in cell], before.get((slot, bucket))),
                max(time for _, time in cell),
            )
            for bucket, cell in buckets.items()
        }
        for slot, buckets in found.items()
    }


def _value(aggregate: str, values: list[float], before: float | None) -> float:
    match aggregate:
        case "count":
            return float(len(values))
        case "min":
            return min(values)
        case "max":
            return max(values)
        case "first":
            return values[0]
        case "last":
            return values[-1]
        case "increase":
            rises = sum(
                (b if b < a else b - a for a, b in itertools.pairwise(values)),
                0.0,
            )
            if before is None:
                return rises
            return rises + (values[0] - before if values[0] >= before else values[0])
    total = values[0]
    for value in values[1:]:
        total += value
    return total if aggregate == "sum" else total / len(values)
