"""Forecasts of stored series: read the past on a grid of steps, forecast each series, tell when limits are reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from engine.clock import NS_PER_DAY, NS_PER_SECOND
from engine.errors import BadRequest, QueryLimit
from engine.forecasting.crossing import Crossing, crossing
from engine.forecasting.forecast import LONGEST_HORIZON, MOST_ROWS, Forecast, forecast, require_possible
from engine.forecasting.history import LEAST_VALUES
from engine.forecasting.seasons import usual_season
from engine.model.matchers import Matcher
from engine.model.rows import Float64Array
from engine.query.range import RangeAnswer, RangeQuery
from engine.query.serieslist import SeriesPoints

#: What one question may ask for.
MOST_SERIES = 200
MOST_LIMITS = 20
SHORTEST_STEP_NS = 60 * NS_PER_SECOND
DEFAULT_HORIZONS_DAYS = (30.0, 60.0, 90.0, 120.0, 180.0, 365.0)


@dataclass(frozen=True, slots=True)
class ForecastQuery:
    """``by``: as in a range query.  ``season``: None for the usual one of the step.  ``limits``: may be reached."""

    metric: str
    horizons_days: tuple[float, ...] = DEFAULT_HORIZONS_DAYS
    step_ns: int = NS_PER_DAY
    aggregate: str = "avg"
    matchers: tuple[Matcher, ...] = ()
    by: tuple[str, ...] | None = None
    season: int | None = None
    limits: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class SeriesForecast:
    """One line: ``start_ns`` of its first value, ``values`` float64[n] with NaN for gaps, the newest step last.

    ``steps`` in the crossings and the arrays of ``ahead`` count from the step behind the newest one of the question,
    whenever the series' own last value was.
    """

    labels: dict[str, str]
    start_ns: int
    values: Float64Array
    ahead: Forecast
    crossings: tuple[Crossing, ...]


@dataclass(frozen=True, slots=True)
class SkippedSeries:
    """A line that could not be forecast, and why."""

    labels: dict[str, str]
    reason: str


@dataclass(slots=True)
class ForecastAnswer:
    """Forecasts and where they come from; ``end_ns``: the start of the first step ahead."""

    query: ForecastQuery
    season: int
    end_ns: int
    tier: str
    rows_read: int
    fresh_to_ns: int | None
    #: Why there is neither a forecast nor a series that was left out.
    reason: str | None = None
    series: list[SeriesForecast] = field(default_factory=list)
    skipped: list[SkippedSeries] = field(default_factory=list)


def run(query: ForecastQuery, now_ns: int, read: Callable[[RangeQuery], RangeAnswer]) -> ForecastAnswer:
    """Answer one question.  The step that is not over yet does not count.

    Raises BadRequest for a question that makes no sense, QueryLimit for one about too many series.
    """
    steps = _steps(query)
    season = usual_season(query.step_ns / NS_PER_SECOND) if query.season is None else query.season
    require_possible(max(steps), season, query.step_ns / NS_PER_SECOND)
    end_ns = now_ns // query.step_ns * query.step_ns
    start_ns = end_ns - MOST_ROWS * query.step_ns
    # The step that is not over is read as well, so that a series that has nothing else is told of.
    until_ns = end_ns + query.step_ns
    found = read(RangeQuery(query.metric, start_ns, until_ns, query.step_ns, query.aggregate, query.matchers, query.by))
    if len(found.series) > MOST_SERIES:
        raise QueryLimit(
            f"cannot forecast {len(found.series)} series at once, the limit is {MOST_SERIES};"
            " narrow the matchers or merge with by="
        )
    answer = ForecastAnswer(query, season, end_ns, found.tier, found.rows_read, found.fresh_to_ns, found.reason)
    for line in found.series:
        values = _on_grid(line, start_ns, query.step_ns)
        known = values[np.isfinite(values)]
        if len(known) < LEAST_VALUES:
            reason = f"it has {len(known)} values in steps that are over, want {LEAST_VALUES} or more"
            answer.skipped.append(SkippedSeries(line.labels, reason))
            continue
        ahead = forecast(values, max(steps), season=season, step_seconds=query.step_ns / NS_PER_SECOND)
        crossings = tuple(crossing(ahead, float(known[-1]), limit) for limit in query.limits)
        first = int(np.flatnonzero(np.isfinite(values))[0])
        answer.series.append(
            SeriesForecast(line.labels, start_ns + first * query.step_ns, values[first:], ahead, crossings)
        )
    return answer


def steps_of(query: ForecastQuery) -> tuple[int, ...]:
    """Return each horizon in steps ahead."""
    return tuple(max(1, round(days * NS_PER_DAY / query.step_ns)) for days in query.horizons_days)


def _steps(query: ForecastQuery) -> tuple[int, ...]:
    if query.step_ns < SHORTEST_STEP_NS:
        raise BadRequest(f"cannot forecast: the step is {query.step_ns / 1e9:g} s, want 60 s or more")
    if not query.horizons_days:
        raise BadRequest("cannot forecast: got no horizon, want days such as 30,60,90")
    for days in query.horizons_days:
        if not 0 < days * NS_PER_DAY / query.step_ns <= LONGEST_HORIZON:
            most = LONGEST_HORIZON * query.step_ns / NS_PER_DAY
            raise BadRequest(
                f"cannot forecast {days:g} days ahead: want more than 0 and at most {most:g} with this step"
            )
    if len(query.limits) > MOST_LIMITS:
        raise BadRequest(f"cannot forecast: got {len(query.limits)} limits, want at most {MOST_LIMITS}")
    return steps_of(query)


def _on_grid(line: SeriesPoints, start_ns: int, step_ns: int) -> Float64Array:
    """Return the values of all steps that are over, NaN where one has none."""
    values = np.full(MOST_ROWS + 1, np.nan)
    values[(line.times - start_ns) // step_ns] = line.values
    return values[:MOST_ROWS]
