"""The forecaster's members, one origin, one step at a time, by the definitions in docs/forecasting.md."""

from __future__ import annotations

import math

import numpy as np

from engine.model.rows import Float64Array


def level(rest: list[float], gain: float) -> float:
    """Return the exponentially weighted mean of what is oldest first, its weights summing to 1."""
    weights = [(1 - gain) ** age for age in range(len(rest) - 1, -1, -1)]
    return sum(weight * value for weight, value in zip(weights, rest, strict=True)) / sum(weights)


def repeated(values: list[float], end: int, ahead: int, length: int, count: int) -> float:
    """Return the mean of the last ``count`` values before ``end`` of the phase of step ``ahead`` + 1 behind it."""
    row = end - length + ahead % length
    found = [values[row - back * length] for back in range(count) if row - back * length >= 0]
    return sum(found) / len(found)


def rise(values: list[float], end: int, length: int, count: int, gain: float) -> float:
    """Return the weighted mean of how far values were above such means, those without one counting 0."""
    above = [0.0] * end
    for t in range(length, end):
        found = [values[t - back * length] for back in range(1, count + 1) if t >= back * length]
        above[t] = values[t] - sum(found) / len(found)
    return level(above, gain)


def regression(x: Float64Array, penalty: Float64Array, held: list[float], end: int) -> Float64Array:
    """Return the ridge regression of the values before ``end``: least squares with a row more for each penalty."""
    rows = np.vstack([x[:end], np.diag(np.sqrt(penalty))])
    wanted = np.append(held[:end], np.zeros(len(penalty)))
    return np.linalg.lstsq(rows, wanted, rcond=None)[0]


def drift(held: list[float], end: int, ahead: int, unit: int, season: int) -> float:
    """Return the level of the last 13 seasons and its shape, going on with the slope since the 13 before."""
    seasons = min(13, end // (2 * unit))
    width = seasons * unit if seasons else max(1, end // 2)
    newest = sum(held[end - width : end]) / width
    before = sum(held[end - 2 * width : end - width]) / width
    shape = [repeated(held, end, phase, season, 13) for phase in range(season)]
    mean = sum(shape) / season
    return newest + shape[ahead % season] - mean + (newest - before) / width * (ahead + 1 + (width - 1) / 2)


def members(
    x: Float64Array,
    penalty: Float64Array,
    values: list[float],
    held: list[float],
    end: int,
    ahead: int,
    *,
    unit: int,
    season: int,
    week: int,
    year: int,
) -> list[float]:
    """Return every member's forecast of step ``ahead`` + 1 behind the values before ``end``."""
    coefficients = regression(x, penalty, held, end)
    rest = [held[t] - float(x[t] @ coefficients) for t in range(end)]
    trend = float(coefficients[1] * (x[end + ahead, 1] - x[end - 1, 1]))
    flat = float(x[end + ahead] @ coefficients) - trend
    fast, middling, slow = (level(rest, 1 / (seasons * unit)) for seasons in (1, 4, 13))
    fade = math.exp(-(ahead + 1) / (26 * unit))
    found = [
        flat + fast * math.exp(-(ahead + 1) / (4 * unit)),
        flat + middling * fade,
        flat + middling,
        flat + slow,
        flat + trend + middling,
        repeated(values, end, ahead, season, 1),
        repeated(values, end, ahead, season, 4),
        repeated(values, end, ahead, season, 13),
        drift(held, end, ahead, unit, season),
    ]
    if week:
        for count in (1, 3):
            mean = repeated(values, end, ahead, week, count)
            found += [mean, mean + rise(values, end, week, count, 1 / unit) * fade]
    if year and end < year:
        found += [found[1], found[1]]
    elif year:
        found.append(repeated(values, end, ahead, year, 1))
        found.append(repeated(values, end, ahead, year, 3) + rise(values, end, year, 3, 1 / (4 * unit)) * fade)
    return found
