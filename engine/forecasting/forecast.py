"""Forecasts of one series: simple members weighted by their past errors, intervals from the errors of the whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.errors import BadRequest
from engine.forecasting.design import Design, design
from engine.forecasting.history import History, history_of
from engine.forecasting.members import members
from engine.model.rows import Float64Array, Int64Array

#: A member's weight is its mean absolute error to minus this power, once its errors are well known.
POWER = 8.0
#: So many independent errors mean half of that power.
DOUBT = 0.3
#: Part of the typical seasonal change that is added to each error, so that a lucky zero does not decide all.
LEAST_ERROR = 0.05
LEVELS = (0.025, 0.1, 0.9, 0.975)
NORMAL = np.array([-1.959963984540054, -1.2815515655446004, 1.2815515655446004, 1.959963984540054])
#: From so many errors on, half of a quantile comes from them and half from the normal distribution.
LEAST_ERRORS = 50
#: Past errors are of weights that knew them, and few where the horizon is long: intervals are wider by
#: sqrt(1 + this / independent errors).
WIDENING = 2.0
LONGEST_HORIZON = 10_000
MOST_ROWS = 2_200


@dataclass(frozen=True, slots=True)
class Forecast:
    """Values ahead, float64[h] each: the middle and the intervals that hold 80 % and 95 % of what comes."""

    mean: Float64Array
    lo80: Float64Array
    hi80: Float64Array
    lo95: Float64Array
    hi95: Float64Array


def forecast(values: Float64Array, horizon: int, *, season: int = 7, step_seconds: float = 86_400.0) -> Forecast:
    """Forecast ``horizon`` steps behind float64[n], values at equal distances with NaN where one is missing.

    ``season``: steps of the short repetition, 1 for none.  A week is looked for beside a daily one, a year where the
    history has one.  The newest 2,200 values count.  The same values give the same forecast.  Raises BadRequest for
    fewer than three values, and for a horizon, season or step that cannot be.
    """
    require_possible(horizon, season, step_seconds)
    history = history_of(values[-MOST_ROWS:], season)
    ahead = horizon + history.missing
    plan = design(len(history.values), ahead, season, float(step_seconds))
    held = history.without_outliers(plan)
    past = members(plan, plan.past, history.values, held)
    now = members(plan, plan.now, history.values, held)[:, 0]
    actual = history.values[np.minimum(plan.past.at, plan.rows - 1)].ravel()
    errors = actual - past.reshape(len(past), -1)
    weights = _weights(plan, errors, history)
    by_grid = _between(plan, weights, plan.past.horizons)
    combined = np.einsum("mog,mg->og", past, by_grid).ravel()
    middle = np.einsum("mh,mh->h", now, _between(plan, weights, plan.now.horizons))
    bands = _bands(plan, actual - combined, history)
    low95, low80, high80, high95 = (history.back(middle + band)[history.missing :] for band in bands)
    return Forecast(history.back(middle)[history.missing :], low80, high80, low95, high95)


def require_possible(horizon: int, season: int, step_seconds: float) -> None:
    """Raise BadRequest for a horizon, season or step that cannot be."""
    if not 1 <= horizon <= LONGEST_HORIZON:
        raise BadRequest(f"cannot forecast: got horizon {horizon}, want 1 to {LONGEST_HORIZON} steps")
    if not 1 <= season <= MOST_ROWS // 2:
        raise BadRequest(f"cannot forecast: got season {season}, want 1 (none) to {MOST_ROWS // 2}; use longer steps")
    if not 0.0 < step_seconds < float("inf"):
        raise BadRequest(f"cannot forecast: got step_seconds {step_seconds}, want more than 0")


def _weights(plan: Design, errors: Float64Array, history: History) -> Float64Array:
    """Return the weight of each member in each stretch of horizons, float64[m, b]; those of a stretch sum to 1."""
    mean = np.abs(errors) @ plan.counts + LEAST_ERROR * history.seasonal_change
    # Farther ahead than there have been errors, the weights of the farthest stretch hold.
    last = int(np.flatnonzero(plan.known)[-1])
    mean[:, last + 1 :] = mean[:, last, None]
    power = POWER * plan.independent / (plan.independent + DOUBT)
    power[last + 1 :] = power[last]
    weights = (mean.min(axis=0) / mean) ** power
    found: Float64Array = weights / weights.sum(axis=0)
    return found


def _between(plan: Design, of_stretches: Float64Array, horizons: Int64Array) -> Float64Array:
    """Return what belongs to each horizon, float64[..., h], going straight between the middles of the stretches."""
    middles = (plan.stretches[:-1] + plan.stretches[1:] - 1) / 2.0
    return np.stack([np.interp(horizons, middles, row) for row in of_stretches])


def _bands(plan: Design, errors: Float64Array, history: History) -> Float64Array:
    """Return what the intervals' ends are away from the middle, float64[4, h]."""
    square = errors**2 @ plan.counts
    last = int(np.flatnonzero(plan.known)[-1])
    middles = (plan.stretches[:-1] + plan.stretches[1:]) / 2.0
    # Nothing is known of farther horizons: spreads grow as those of a random walk.
    square[last + 1 :] = square[last] * middles[last + 1 :] / middles[last]
    square = np.maximum.accumulate(square)
    independent = np.maximum(plan.independent, 1.0)
    floor = history.rounding**2
    seen = (plan.past.at < plan.rows).ravel()
    at_grid = np.sqrt(_between(plan, square[None], plan.past.horizons)[0] + floor)
    standard = (errors.reshape(plan.past.at.shape) / at_grid).ravel()[seen]
    quantiles = NORMAL
    if len(standard) >= LEAST_ERRORS:
        quantiles = (NORMAL + np.quantile(standard, LEVELS)) / 2.0
    # The middle stays inside, whatever side past errors were on.
    quantiles = np.where(NORMAL < 0, np.minimum(quantiles, 0.0), np.maximum(quantiles, 0.0))
    spread = _between(plan, np.sqrt((square + floor) * (1.0 + WIDENING / independent))[None], plan.now.horizons)[0]
    bands: Float64Array = quantiles[:, None] * spread
    return bands
