"""Forecasts as they are answered over HTTP and by ``forecast()`` in Python."""

from __future__ import annotations

import math
from typing import Any

from engine.forecasting.crossing import Crossing
from engine.forecasting.forecast import Forecast
from engine.forecasting.runner import ForecastAnswer, SeriesForecast, steps_of
from engine.model.times import time_text

_PATHS = ("mean", "lo80", "hi80", "lo95", "hi95")


def forecast_json(answer: ForecastAnswer, *, path: bool = False) -> dict[str, Any]:
    """Return the answer of ``GET /v1/forecast`` (docs/forecasting.md); ``path``: with every step on the way."""
    query = answer.query
    return {
        "metric": query.metric,
        "aggregate": query.aggregate,
        "step_seconds": query.step_ns / 1e9,
        "season": answer.season,
        "from": time_text(answer.end_ns),
        "tier": answer.tier,
        "rows_read": answer.rows_read,
        "fresh_to": answer.fresh_to_ns,
        "reason": answer.reason,
        "series": [_series(answer, line, path) for line in answer.series],
        "skipped": [{"labels": line.labels, "reason": line.reason} for line in answer.skipped],
    }


def _series(answer: ForecastAnswer, line: SeriesForecast, path: bool) -> dict[str, Any]:
    query = answer.query
    known = [value for value in line.values.tolist() if math.isfinite(value)]
    points = [
        {"days": days, "time": _time(answer, step), **_values(line.ahead, step)}
        for days, step in zip(query.horizons_days, steps_of(query), strict=True)
    ]
    found: dict[str, Any] = {
        "labels": line.labels,
        "history": {"from": time_text(line.start_ns), "values": len(known), "missing": len(line.values) - len(known)},
        "last": known[-1],
        "points": points,
        "limits": [_crossing(answer, one) for one in line.crossings],
    }
    if path:
        steps = len(line.ahead.mean)
        found["path"] = {
            "times": [answer.end_ns + step * query.step_ns for step in range(steps)],
            **{name: getattr(line.ahead, name).tolist() for name in _PATHS},
        }
    return found


def _values(ahead: Forecast, step: int) -> dict[str, float]:
    return {name: float(getattr(ahead, name)[step - 1]) for name in _PATHS}


def _crossing(answer: ForecastAnswer, found: Crossing) -> dict[str, Any]:
    steps = {
        "expected": found.expected,
        "earliest": found.earliest,
        "earliest80": found.earliest80,
        "latest80": found.latest80,
        "latest": found.latest,
    }
    return {
        "limit": found.limit,
        "direction": found.direction,
        **{name: None if step is None else _time(answer, step) for name, step in steps.items()},
    }


def _time(answer: ForecastAnswer, step: int) -> str:
    return time_text(answer.end_ns + (step - 1) * answer.query.step_ns)
