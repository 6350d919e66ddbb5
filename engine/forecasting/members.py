"""The simple forecasts that are combined, each made from every origin at once."""

from __future__ import annotations

import numpy as np

from engine.forecasting.design import LEVEL_SEASONS, Design, Origins
from engine.model.rows import Float64Array, Int64Array

#: Seasons over which the newest level goes back to the regression's.
FAST_DECAY, SLOW_DECAY = 4.0, 26.0
SEASONAL_MEANS = (1, 4, 13)
WEEKLY_MEANS = (1, 3)
YEARS = 3
#: Seasons of which the mean is compared with that of as many before, for the newest slope.
SLOPE_SEASONS = 13
FAST, MIDDLING, SLOW = range(len(LEVEL_SEASONS))


def members(plan: Design, origins: Origins, values: Float64Array, held: Float64Array) -> Float64Array:
    """Return the forecasts of every member, float64[m, o, g].

    ``values`` float64[n] as they were, which repetitions repeat; ``held`` the same with outliers cut off, for averages.
    """
    ahead = origins.horizons + 1.0
    fade_fast, fade_slow = (np.exp(-ahead / (seasons * plan.unit)) for seasons in (FAST_DECAY, SLOW_DECAY))
    coefficients = coefficients_at(plan, origins, held)
    trend = coefficients[:, 1, None] * origins.trend
    flat = np.matmul(origins.x, coefficients[:, :, None])[:, :, 0] - trend
    level = origins.level @ held - np.matmul(origins.level_x, coefficients[:, :, None])[:, :, 0]
    fast, middling, slow = level[:, FAST, None], level[:, MIDDLING, None], level[:, SLOW, None]
    returning = flat + middling * fade_slow
    found = [flat + fast * fade_fast, returning, flat + middling, flat + slow, flat + trend + middling]
    seasonal = _Repetition(plan.season, values)
    found += [seasonal.mean(origins, count) for count in SEASONAL_MEANS]
    found.append(_drifting(plan, origins, held))
    if plan.week:
        weekly = _Repetition(plan.week, values)
        for count in WEEKLY_MEANS:
            mean = weekly.mean(origins, count)
            found += [mean, mean + weekly.rise(origins, count, FAST)[:, None] * fade_slow]
    if plan.year:
        yearly = _Repetition(plan.year, values)
        rise = yearly.rise(origins, YEARS, MIDDLING)[:, None] * fade_slow
        young = (origins.ends < plan.year)[:, None]
        found += [
            np.where(young, returning, of) for of in (yearly.mean(origins, 1), yearly.mean(origins, YEARS) + rise)
        ]
    return np.stack(found)


def coefficients_at(plan: Design, origins: Origins, held: Float64Array) -> Float64Array:
    """Return the regression of the history before each origin, float64[o, p]."""
    if len(origins.ends) == 1:
        end = int(origins.ends[0])
        moments = (held[:end] @ plan.x[:end])[None]
    else:
        moments = np.cumsum(plan.x * held[:, None], axis=0)[origins.ends - 1]
    found: Float64Array = np.matmul(origins.inverse, moments[:, :, None])[:, :, 0]
    return found


class _Repetition:
    """Means of the values whole lengths before."""

    def __init__(self, length: int, values: Float64Array) -> None:
        self._length = length
        turns = -(-len(values) // length)
        padded = np.zeros(turns * length)
        padded[: len(values)] = values
        # Row t: the sum of values t, t - length, t - 2 length, …, behind a zero that everything before is.
        self._sums = np.append(np.cumsum(padded.reshape(turns, length), axis=0).ravel()[: len(values)], 0.0)
        self._values = values

    def mean(self, origins: Origins, count: int) -> Float64Array:
        """Return the mean of the last ``count`` values of the same phase, of as many as there are, float64[o, g]."""
        return self.back(origins.ends[:, None] - self._length + origins.horizons % self._length, count)

    def rise(self, origins: Origins, count: int, level: int) -> Float64Array:
        """Return how far above such means the newest values were, float64[o]; what has no such mean counts as 0."""
        rows = np.arange(self._length, len(self._values))
        above = self._values[rows] - self.back(rows - self._length, count)
        found: Float64Array = origins.level[:, level, self._length :] @ above
        return found

    def back(self, rows: Int64Array, count: int) -> Float64Array:
        """Return the mean of the values at ``rows`` and whole lengths before, ``count`` at most."""
        there = np.clip(rows // self._length + 1, 1, count)
        before = np.maximum(rows - there * self._length, -1)
        found: Float64Array = (self._sums[np.maximum(rows, -1)] - self._sums[before]) / there
        return found


def _drifting(plan: Design, origins: Origins, held: Float64Array) -> Float64Array:
    """Return the last seasons' mean shape, going on with the slope between their level and that before."""
    unit, ends = plan.unit, origins.ends
    sums = np.append(0.0, np.cumsum(held))
    seasons = np.minimum(SLOPE_SEASONS, ends // (2 * unit))
    width = np.where(seasons > 0, seasons * unit, np.maximum(1, ends // 2))
    newest = (sums[ends] - sums[ends - width]) / width
    before = (sums[ends - width] - sums[ends - 2 * width]) / width
    slope = (newest - before) / width
    # Means by phase, less the mean of these: the shape without its level.
    phases = ends[:, None] - plan.season + np.arange(plan.season)
    repetition = _Repetition(plan.season, held)
    profile = repetition.back(phases, SLOPE_SEASONS)
    shape = (profile - profile.mean(axis=1, keepdims=True))[:, origins.horizons % plan.season]
    distance = origins.horizons + 1.0 + (width[:, None] - 1) / 2.0
    drifting: Float64Array = newest[:, None] + shape + slope[:, None] * distance
    return drifting
