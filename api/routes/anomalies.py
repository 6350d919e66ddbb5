"""What detection has noted, over HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from litestar import Request, get
from litestar.handlers import BaseRouteHandler
from litestar.params import FromQuery, QueryParameter

from api.arguments import parse_time
from api.auth import caller_of
from engine.model.times import time_text
from engine.runtime import Engine


def anomaly_routes(engine: Engine) -> list[BaseRouteHandler]:
    """Return the routes of one engine."""

    @get("/v1/anomalies", summary="Anomalies, newest first, each with its reason")
    async def get_anomalies(
        request: Request[Any, Any, Any],
        metric: FromQuery[str | None] = None,
        start: FromQuery[str | None] = None,
        score: Annotated[float, QueryParameter(ge=0.0, le=1.0)] = 0.0,
        before: FromQuery[int | None] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=10_000)] = 1_000,
    ) -> dict[str, Any]:
        since_ns = None if start is None else parse_time(start, engine.clock.now_ns())
        columns = await asyncio.to_thread(
            engine.anomalies.find,
            metric=metric,
            since_ns=since_ns,
            least_score=score,
            before_id=before,
            limit=limit,
            caller=caller_of(request),
        )
        names = list(columns)
        found = [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        for anomaly in found:
            anomaly["time"] = time_text(anomaly["time"])
            anomaly["labels"] = json.loads(anomaly["labels"])
        return {"anomalies": found}

    return [get_anomalies]
