"""The slow, obvious twin of what a rule judges: lists of samples, one series and one group at a time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, pairwise

from engine.config import Rule

SECOND = 1_000_000_000
HOUR = 3_600 * SECOND
LOOKBACK = 300 * SECOND
PERIODS = {"days": 24 * HOUR, "weeks": 7 * 24 * HOUR}
WIDTHS = [minutes * 60 * SECOND for minutes in (1, 5, 15, 60, 180, 1440)]

#: (metric, labels as sorted pairs) -> {time: value}.
Labels = tuple[tuple[str, str], ...]
Samples = Mapping[tuple[str, Labels], Mapping[int, float]]
Numbers = dict[Labels, tuple[float, int]]
Read = Callable[[str, Mapping[str, str]], Numbers]


def judged(rule: Rule, samples: Samples, now: int, stale_after: int) -> Numbers:
    """Return for each series or group (value, time); what has no value is left out."""
    found = combined(rule, lambda metric, match: present(rule, samples, metric, match, now), now - stale_after)
    if rule.compare_with is not None:
        hour = now // HOUR * HOUR
        pasts = [
            combined(rule, reader_of(rule, samples, hour - past * PERIODS[rule.compare_with], HOUR), -math.inf)
            for past in range(1, rule.compare_past + 1)
        ]
        return {
            key: (value, time)
            for key, (given, time) in found.items()
            if (value := related(rule, key, given, pasts)) is not None
        }
    if rule.forecast is not None:
        return forecast(rule, samples, found, now)
    return found


def related(rule: Rule, key: Labels, value: float, pasts: Sequence[Numbers]) -> float | None:
    known = [past[key][0] for past in pasts if key in past]
    if 2 * len(known) < len(pasts) or not known:
        return None
    base = statistics.median(known) if rule.compare_by == "median" else sum(known) / len(known)
    if rule.compare_as == "difference":
        return value - base
    if base == 0:
        return None
    return value / base if rule.compare_as == "ratio" else 100 * (value - base) / abs(base)


def forecast(rule: Rule, samples: Samples, found: Numbers, now: int) -> Numbers:
    assert rule.forecast is not None
    width = next((width for width in WIDTHS if rule.forecast_from <= 36 * width), WIDTHS[-1])
    start = (now - rule.forecast_from) // width * width
    starts = list(range(start, now // width * width, width))
    columns = [combined(rule, reader_of(rule, samples, begin, width), -math.inf) for begin in starts]
    told = {}
    for key, (value, time) in found.items():
        points = [(begin, column[key][0]) for begin, column in zip(starts, columns, strict=True) if key in column]
        if len(points) < 6 or 2 * (points[-1][0] - points[0][0]) < starts[-1] - starts[0]:
            continue
        slope = statistics.median(
            (after - before) / (late - early) for (early, before), (late, after) in combinations(points, 2)
        )
        told[key] = (value + slope * rule.forecast, time)
    return told


def combined(rule: Rule, read: Read, oldest: float) -> Numbers:
    above = read(rule.metric, rule.match)
    below = None
    if rule.divide_by is not None:
        below = read(rule.divide_by, rule.match if rule.divide_match is None else rule.divide_match)
    if rule.group_by is not None:
        shared = tuple(rule.match.items())
        above = grouped(above, rule.group_by, shared, rule.group_aggregate, oldest)
        if below is not None:
            below = grouped(below, rule.group_by, shared, rule.group_aggregate, oldest)
    told: Numbers = {}
    by_on = {} if below is None or rule.divide_on is None else grouped(below, rule.divide_on, (), "sum", oldest)
    for key, (value, time) in above.items():
        if below is not None:
            divisor = below.get(key) if rule.divide_on is None else by_on.get(part(key, rule.divide_on))
            if divisor is None or divisor[0] == 0:
                continue
            value, time = value / divisor[0], min(time, divisor[1])
        told[key] = (value * rule.scale, time)
    return told


def part(labels: Labels, names: Sequence[str], shared: Labels = ()) -> Labels:
    picked = dict(shared) | {name: dict(labels).get(name, "") for name in names}
    return tuple(sorted((name, value) for name, value in picked.items() if value))


def grouped(numbers: Numbers, by: Sequence[str], shared: Labels, how: str, oldest: float) -> Numbers:
    groups: dict[Labels, list[tuple[float, int]]] = {}
    for labels, number in numbers.items():
        groups.setdefault(part(labels, by, shared), []).append(number)
    told = {}
    for labels, members in groups.items():
        counted = [member for member in members if member[1] >= oldest] or members
        values = [value for value, _ in counted]
        value = {
            "avg": sum(values) / len(values),
            "sum": sum(values),
            "min": min(values),
            "max": max(values),
            "count": float(len(values)),
        }[how]
        told[labels] = (value, max(time for _, time in counted))
    return told


def selected(samples: Samples, metric: str, match: Mapping[str, str]) -> dict[Labels, Mapping[int, float]]:
    return {
        labels: points
        for (name, labels), points in samples.items()
        if name == metric and points and all(dict(labels).get(label, "") == value for label, value in match.items())
    }


def present(rule: Rule, samples: Samples, metric: str, match: Mapping[str, str], now: int) -> Numbers:
    told: Numbers = {}
    for labels, points in selected(samples, metric, match).items():
        newest = max(points)
        if rule.aggregate == "last":
            told[labels] = (points[newest], newest)
        elif rule.aggregate == "age":
            told[labels] = ((now - newest) / SECOND, now)
        else:
            value = windowed(points, rule.aggregate, now - rule.over + 1, now + 1, rule.over)
            if value is not None:
                told[labels] = (value, max(time for time in points if time <= now))
    return told


def windowed(points: Mapping[int, float], aggregate: str, start: int, end: int, length: int) -> float | None:
    inside = [points[time] for time in sorted(points) if start <= time < end]
    before = [points[time] for time in sorted(points) if start - LOOKBACK <= time < start][-1:]
    if not inside:
        return None
    if aggregate in ("change", "change_percent"):
        values = [*before, *inside]
        if len(values) < 2:
            return None
        if aggregate == "change":
            return values[-1] - values[0]
        return None if values[0] == 0 else 100 * (values[-1] - values[0]) / abs(values[0])
    if aggregate in ("increase", "rate"):
        values = [*before, *inside]
        risen = sum(b - a if b >= a else b for a, b in pairwise(values))
        return risen if aggregate == "increase" else risen / (length / SECOND)
    return {
        "avg": sum(inside) / len(inside),
        "last": sum(inside) / len(inside),
        "sum": sum(inside),
        "min": min(inside),
        "max": max(inside),
        "count": float(len(inside)),
    }[aggregate]


def reader_of(rule: Rule, samples: Samples, start: int, width: int) -> Read:
    """Return what reads a metric as it was in the bucket of ``width`` at ``start``."""

    def read(metric: str, match: Mapping[str, str]) -> Numbers:
        told: Numbers = {}
        for labels, points in selected(samples, metric, match).items():
            value = windowed(points, rule.aggregate, start, start + width, width)
            if value is not None:
                if rule.aggregate in ("sum", "count", "increase"):
                    value *= rule.over / width
                told[labels] = (value, start)
        return told

    return read
