"""What does not depend on a series' values: regressors, past origins and their inverses, shared by equal lengths.

All forecasts here are linear in the values, so a past origin costs a product with a matrix that is known beforehand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from engine.model.rows import Float64Array, Int64Array

DAY_SECONDS = 86_400.0
YEAR_SECONDS = 365.25 * DAY_SECONDS
DAYS_A_WEEK = 7

YEAR_HARMONICS = 6
#: The weekly shape may change over the year where a season has at most so many steps.
LONGEST_CHANGING_SEASON = 12
#: Penalties of the regression, in rows: a coefficient known from so many rows is halved.
SEASON_PENALTY = 1.0
CHANGING_PENALTY = 5.0
YEAR_PENALTY = 3.0
TREND_PENALTY = 0.002
#: So many past origins at most; fewer where the regression has many columns, as each keeps an inverse.
ORIGINS = 60
INVERSE_CELLS = 1_000_000
#: A week must have been seen so many times before it is told from a day, and before an origin counts.
LEAST_WEEKS = 3
LEAST_YEARS = 1.25
#: Averages over so many seasons: of the level, from fast to slow, and the first ones of the seasonal means.
LEVEL_SEASONS = (1.0, 4.0, 13.0)
#: Ends of the stretches of horizons that have weights and spreads of their own, in seasons.
STRETCHES = (1, 2, 4, 8, 13, 26, 39, 53)
GRID = 96
#: An origin as old as the oldest one counts so much less than the newest.
OLDEST_WEIGHT = 0.1
STEPS_WITHOUT_SEASON = 7


@dataclass(frozen=True, slots=True)
class Origins:
    """Past ends of history and the horizons looked at from each.

    ``ends`` int64[o], ``horizons`` int64[g], 0 for the first step ahead; ``at`` int64[o, g]: rows, ``ends + horizons``;
    ``x`` float64[o, g, p] regressors there; ``trend`` float64[o, g] of it since the last row of history; ``inverse``
    float64[o, p, p]; ``level`` float64[o, 3, n] weights of the values, and ``level_x`` float64[o, 3, p] the same
    weights' average of the regressors.
    """

    ends: Int64Array
    horizons: Int64Array
    at: Int64Array
    x: Float64Array
    trend: Float64Array
    inverse: Float64Array
    level: Float64Array
    level_x: Float64Array


@dataclass(frozen=True, slots=True)
class Design:
    """The plan for series of ``rows`` values.

    ``season``: steps of the short season, 1 for none; ``week``: steps of a week where that is another season, else 0;
    ``year``: steps of a year, a multiple of the season, else 0.  ``x`` float64[n, p].  ``stretches`` int64[b + 1]: ends
    of the stretches of horizons; ``counts`` float64[o * g, b]: what each error of a past origin counts in each stretch,
    sums to 1 in those in ``known`` bool[b]; ``independent`` float64[b]: how many errors that is without those that
    overlap.
    """

    rows: int
    horizon: int
    season: int
    week: int
    year: int
    x: Float64Array
    now: Origins
    past: Origins
    stretches: Int64Array
    counts: Float64Array
    known: npt.NDArray[np.bool_]
    independent: Float64Array

    @property
    def unit(self) -> int:
        """Steps that averages and decays are measured in."""
        return self.season if self.season > 1 else STEPS_WITHOUT_SEASON


#: A design takes 4 to 16 MB.
@lru_cache(maxsize=2)
def design(rows: int, horizon: int, season: int, step_seconds: float) -> Design:
    """Return the plan for ``rows`` values of ``step_seconds`` each and ``horizon`` steps ahead."""
    if rows < 2 * season + 2:
        season = 1
    daily = season > 1 and abs(season * step_seconds - DAY_SECONDS) < 1e-6 * DAY_SECONDS
    week = DAYS_A_WEEK * season if daily and rows >= LEAST_WEEKS * DAYS_A_WEEK * season else 0
    year_steps = YEAR_SECONDS / step_seconds
    yearly = rows >= LEAST_YEARS * year_steps and year_steps > 4 * max(week, season)
    year = round(year_steps / season) * season if yearly else 0
    x, penalty = regressors(rows, horizon, season, week, year_steps if yearly else 0.0)
    ends = _ends(rows, horizon, season, week, x.shape[1])
    horizons = _grid(horizon, season)
    unit = season if season > 1 else STEPS_WITHOUT_SEASON
    inverses = _inverses(x, penalty, np.append(ends, rows))
    past = _origins(x, ends, horizons, inverses[:-1], rows, unit)
    now = _origins(x, np.array([rows]), np.arange(horizon), inverses[-1:], rows, unit)
    stretches = np.unique(np.append(0, np.minimum(np.array(STRETCHES) * season, horizon)))
    stretches = np.append(stretches[stretches < horizon], horizon)
    counts, known, independent = _counts(past, stretches, rows, season)
    return Design(rows, horizon, season, week, year, x[:rows], now, past, stretches, counts, known, independent)


def regressors(rows: int, horizon: int, season: int, week: int, year_steps: float) -> tuple[Float64Array, Float64Array]:
    """Return float64[n + h, p] and the penalty of each column; column 0 is 1, column 1 the trend."""
    t = np.arange(rows + horizon)
    columns = [np.ones(len(t)), (t - rows / 2) / rows]
    penalty = [1e-6, TREND_PENALTY * rows]
    phases = [(t % season == phase) - 1.0 / season for phase in range(season)] if season > 1 else []
    columns += phases
    penalty += [SEASON_PENALTY] * len(phases)
    if week:
        columns += [(t % week == phase).astype(np.float64) for phase in range(week)]
        penalty += [SEASON_PENALTY] * week
    for harmonic in range(1, YEAR_HARMONICS + 1) if year_steps else ():
        for wave in (np.sin, np.cos):
            turn = wave(2 * math.pi * harmonic * t / year_steps)
            columns.append(turn)
            penalty.append(YEAR_PENALTY * harmonic**2)
            if harmonic == 1 and season <= LONGEST_CHANGING_SEASON:
                columns += [turn * phase for phase in phases]
                penalty += [CHANGING_PENALTY] * len(phases)
    return np.column_stack(columns), np.array(penalty)


def _ends(rows: int, horizon: int, season: int, week: int, columns: int) -> Int64Array:
    """Return the past origins, oldest first: from half of the history on, at equal distances, at least one."""
    first = max(rows // 2, min(rows - 1, 2 * season + 2))
    if week:
        first = max(first, min(LEAST_WEEKS * week, rows - max(horizon, week)))
    most = max(8, min(ORIGINS, INVERSE_CELLS // columns**2))
    distance = max(1, -(-(rows - first) // most))
    return np.arange(rows - distance, first - 1, -distance)[::-1].copy()


def _grid(horizon: int, season: int) -> Int64Array:
    """Return horizons, 0 for the first step: the first two seasons, then evenly spread ones."""
    near = min(horizon, max(2 * season, GRID // 2))
    far = np.linspace(near, horizon - 1, GRID - GRID // 2) if near < horizon else np.empty(0)
    return np.unique(np.append(np.arange(near), np.round(far))).astype(np.int64)


def _inverses(x: Float64Array, penalty: Float64Array, ends: Int64Array) -> Float64Array:
    gram = np.diag(penalty)
    inverses = np.empty((len(ends), len(penalty), len(penalty)))
    done = 0
    for index, end in enumerate(ends.tolist()):
        block = x[done:end]
        gram = gram + block.T @ block
        inverses[index] = np.linalg.inv(gram)
        done = end
    return inverses


def _origins(
    x: Float64Array, ends: Int64Array, horizons: Int64Array, inverse: Float64Array, rows: int, unit: int
) -> Origins:
    at = ends[:, None] + horizons
    known = np.minimum(at, len(x) - 1)
    level = np.zeros((len(ends), len(LEVEL_SEASONS), rows))
    for index, seasons in enumerate(LEVEL_SEASONS):
        gain = 1.0 / (seasons * unit)
        for origin, end in enumerate(ends.tolist()):
            weights = (1.0 - gain) ** np.arange(end - 1, -1, -1.0)
            level[origin, index, :end] = weights / weights.sum()
    return Origins(
        ends=ends,
        horizons=horizons,
        at=at,
        x=x[known],
        trend=x[known, 1] - x[ends - 1, 1][:, None],
        inverse=inverse,
        level=level,
        level_x=level @ x[:rows],
    )


def _counts(
    past: Origins, stretches: Int64Array, rows: int, season: int
) -> tuple[Float64Array, npt.NDArray[np.bool_], Float64Array]:
    ends = past.ends
    seen = past.at < rows
    age = (ends[-1] - ends) / max(1, ends[-1] - ends[0])
    weights = np.where(seen, (OLDEST_WEIGHT**age)[:, None], 0.0)
    counts = np.zeros((len(stretches) - 1, *seen.shape))
    independent = np.zeros(len(stretches) - 1)
    for index, (begin, end) in enumerate(pairwise(stretches.tolist())):
        inside = (past.horizons >= begin) & (past.horizons < end)
        counts[index][:, inside] = weights[:, inside]
        reached = rows - ends[0] - begin
        if reached > 0:
            independent[index] = 1.0 + max(0, reached - 1) / (begin + season)
    total = counts.sum(axis=(1, 2))
    known = total > 0
    counts[known] /= total[known, None, None]
    return counts.reshape(len(counts), -1).T.copy(), known, independent
