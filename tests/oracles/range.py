"""Range queries the obvious way: a loop over buckets, series and samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: (labels, time, value), one a sample, each (labels, time) once.
Sample = tuple[dict[str, str], int, float]
LOOKBACK_NS = 300 * 10**9


def answer(
    samples: Sequence[Sample], start_ns: int, end_ns: int, step_ns: int, aggregate: str, by: tuple[str, ...] | None
) -> dict[tuple[tuple[str, str], ...], dict[int, float]]:
    """Return {labels: {bucket start: value}}."""
    groups: dict[tuple[tuple[str, str], ...], list[list[tuple[int, float]]]] = {}
    by_series: dict[tuple[tuple[str, str], ...], list[tuple[int, float]]] = {}
    for labels, time_ns, value in samples:
        by_series.setdefault(tuple(sorted(labels.items())), []).append((time_ns, value))
    for key, points in by_series.items():
        shown = key if by is None else tuple((label, dict(key).get(label, "")) for label in by)
        groups.setdefault(shown, []).append(sorted(points))
    found: dict[tuple[tuple[str, str], ...], dict[int, float]] = {}
    for shown, all_series in groups.items():
        line: dict[int, float] = {}
        for bucket in range(start_ns, end_ns, step_ns):
            value = _value(all_series, bucket, min(bucket + step_ns, end_ns), start_ns, step_ns, aggregate)
            if value is not None:
                line[bucket] = value
        if line:
            found[shown] = line
    return found


def _value(
    all_series: list[list[tuple[int, float]]], low: int, high: int, start_ns: int, step_ns: int, aggregate: str
) -> float | None:
    inside = [(t, v) for points in all_series for t, v in points if low <= t < high and not math.isnan(v)]
    if not inside:
        return None
    values = [value for _, value in inside]
    if aggregate in ("increase", "rate"):
        total = 0.0
        for points in all_series:
            previous: float | None = None
            for time_ns, value in points:
                if time_ns < start_ns - LOOKBACK_NS or math.isnan(value):
                    continue
                if low <= time_ns < high and previous is not None:
                    total += value - previous if value >= previous else value
                previous = value
        return total if aggregate == "increase" else total / (step_ns / 1e9)
    return {
        "avg": sum(values) / len(values),
        "sum": sum(values),
        "min": min(values),
        "max": max(values),
        "count": float(len(values)),
    }[aggregate]


def highest(
    lines: dict[tuple[tuple[str, str], ...], dict[int, float]], count: int, *, lowest: bool = False
) -> dict[tuple[tuple[str, str], ...], dict[int, float]]:
    """Return {labels: {bucket start: value}} with the points that fewer than ``count`` others of their bucket beat.

    Of equal values the line that comes first wins.
    """
    kept: dict[tuple[tuple[str, str], ...], dict[int, float]] = {}
    for place, (labels, line) in enumerate(lines.items()):
        for bucket, value in line.items():
            mine = (value if lowest else -value, place)
            others = [
                (other[bucket] if lowest else -other[bucket], at)
                for at, other in enumerate(lines.values())
                if bucket in other
            ]
            if sum(each < mine for each in others) < count:
                kept.setdefault(labels, {})[bucket] = value
    return kept
