"""What series will be, over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.handlers import BaseRouteHandler
from litestar.params import FromQuery

from api.arguments import parse_duration_ns, parse_numbers
from api.auth import caller_of
from engine.forecasting.answer import forecast_json
from engine.forecasting.runner import DEFAULT_HORIZONS_DAYS, ForecastQuery
from engine.model.matchers import parse_matchers
from engine.runtime import Engine

DEFAULT_HORIZONS = ",".join(f"{days:g}" for days in DEFAULT_HORIZONS_DAYS)


def forecast_routes(engine: Engine) -> list[BaseRouteHandler]:
    """Return the routes of one engine."""
    # A forecast keeps the interpreter busy: one question at a time, so that others are served between its series.
    turn = asyncio.Lock()

    @get("/v1/forecast", summary="What each series will be, with intervals, and when it reaches a limit")
    async def get_forecast(
        request: Request[Any, Any, Any],
        metric: FromQuery[str],
        match: FromQuery[str] = "",
        horizon: FromQuery[str] = DEFAULT_HORIZONS,
        step: FromQuery[str] = "1d",
        agg: FromQuery[str] = "avg",
        by: FromQuery[str | None] = None,
        season: FromQuery[int | None] = None,
        limit: FromQuery[str] = "",
        path: FromQuery[bool] = False,
    ) -> Response[bytes]:
        query = ForecastQuery(
            metric,
            parse_numbers(horizon, "horizon"),
            parse_duration_ns(step),
            agg,
            parse_matchers(match),
            None if by is None else tuple(label for label in by.split(",") if label),
            season,
            parse_numbers(limit, "limit"),
        )
        async with turn:
            answer = await asyncio.to_thread(engine.forecast, query, caller_of(request))
        return Response(msgspec.json.encode(forecast_json(answer, path=path)), media_type="application/json")

    return [get_forecast]
