"""A series made ready: gaps filled, on the scale on which it is steadiest, outliers told from the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.errors import BadRequest
from engine.forecasting.design import Design
from engine.forecasting.members import coefficients_at
from engine.model.rows import Float64Array

LEAST_VALUES = 3
#: Values farther than so many spreads from regression and local level count as that far.
OUTLIER = 4.0
LOCAL_SEASONS = 4
MAD_SPREADS = 1.4826
#: Seasonal changes that grow with the level at least with this power of it are forecast as logarithms.
LEAST_GROWTH = 0.5
LEAST_RANGE = 0.05
LEAST_PIECES, PIECES = 8, 20
#: Logarithms go no farther beyond those seen than so many times their range.
FARTHEST = 3.0


@dataclass(frozen=True, slots=True)
class History:
    """``values`` float64[n], about 0 in units of their usual size; ``missing``: steps since the last one.

    ``seasonal_change``: mean absolute change from season to season.  ``rounding``: what no spread is below.
    """

    values: Float64Array
    missing: int
    logarithmic: bool
    centre: float
    unit: float
    positive: bool
    seasonal_change: float
    rounding: float

    def back(self, values: Float64Array) -> Float64Array:
        """Return values on the scale that came, float64[h]; never negative where no value was."""
        if self.logarithmic:
            low, high = self.values.min(), self.values.max()
            far = FARTHEST * max(high - low, 1.0 / self.unit)
            return np.exp(np.clip(values, low - far, high + far) * self.unit + self.centre)
        found = values * self.unit + self.centre
        return np.maximum(found, 0.0) if self.positive else found

    def without_outliers(self, plan: Design) -> Float64Array:
        """Return the values with those far from the regression and their own level cut off."""
        held = self.values
        width = LOCAL_SEASONS * plan.unit
        if plan.rows < 2 * width:
            return held
        for _ in range(2):
            fitted = plan.x @ coefficients_at(plan, plan.now, held)[0]
            rest = self.values - fitted
            whole = plan.rows // width * width
            # The oldest rows that fill no piece go with the first one.
            level = np.repeat(np.median(rest[plan.rows - whole :].reshape(-1, width), axis=1), width)
            level = np.concatenate([np.full(plan.rows - whole, level[0]), level])
            spread = MAD_SPREADS * float(np.median(np.abs(rest - level)))
            if spread > 0:
                held = fitted + level + np.clip(rest - level, -OUTLIER * spread, OUTLIER * spread)
        return held


def history_of(values: Float64Array, season: int) -> History:
    """Return the history of float64[n], NaN where a value is missing.  Raises BadRequest where too few are there."""
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < LEAST_VALUES:
        raise BadRequest(f"cannot forecast: got {len(known)} values, want {LEAST_VALUES} or more")
    first, last = int(known[0]), int(known[-1])
    filled = _filled(values[first : last + 1], season)
    lag = season if len(filled) > 2 * season else 1
    positive = bool(filled.min() >= 0.0)
    logarithmic = _grows(filled, lag)
    scaled = np.log(filled) if logarithmic else filled
    centre = float(np.median(scaled))
    unit = float(np.mean(np.abs(scaled - centre))) or max(abs(centre), 1.0)
    scaled = (scaled - centre) / unit
    return History(
        values=scaled,
        missing=len(values) - 1 - last,
        logarithmic=logarithmic,
        centre=centre,
        unit=unit,
        positive=positive,
        seasonal_change=max(float(np.mean(np.abs(scaled[lag:] - scaled[:-lag]))), 1e-9),
        rounding=1e-12 * (1.0 + abs(centre) / unit),
    )


def _filled(values: Float64Array, season: int) -> Float64Array:
    """Return the values without gaps: the mean of one season before and after where both are known, else a line."""
    missing = np.flatnonzero(~np.isfinite(values))
    if not len(missing):
        return values.copy()
    filled = values.copy()
    inside = missing[(missing >= season) & (missing + season < len(values))]
    filled[inside] = (values[inside - season] + values[inside + season]) / 2.0
    known = np.flatnonzero(np.isfinite(filled))
    left = np.flatnonzero(~np.isfinite(filled))
    filled[left] = np.interp(left, known, filled[known])
    return filled


def _grows(values: Float64Array, lag: int) -> bool:
    """Whether changes grow with the level, so that the logarithm is steadier."""
    if values.min() <= 0.0:
        return False
    change = np.abs(values[lag:] - values[:-lag])
    level = (values[lag:] + values[:-lag]) / 2.0
    pieces = min(PIECES, len(change) // (2 * lag))
    if pieces < LEAST_PIECES:
        return False
    starts = np.arange(pieces) * len(change) // pieces
    sizes = np.diff(np.append(starts, len(change)))
    logs_of_change = np.log(np.add.reduceat(change, starts) / sizes + 1e-9 * level.mean())
    logs_of_level = np.log(np.add.reduceat(level, starts) / sizes)
    spread = float(logs_of_level.std())
    if spread < LEAST_RANGE:
        return False
    slope = (
        float(np.mean((logs_of_level - logs_of_level.mean()) * (logs_of_change - logs_of_change.mean()))) / spread**2
    )
    return slope > LEAST_GROWTH
