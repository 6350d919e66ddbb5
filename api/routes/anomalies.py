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
from engine.model.matchers import parse_matchers
from engine.model.times import time_text
from engine.runtime import Engine


def anomaly_routes(engine: Engine) -> list[BaseRouteHandler]:
    """Return the routes of one engine."""

    @get("/v1/anomalies", summary="Anomalies, newest first, each with its reason")
    async def get_anomalies(
        request: Request[Any, Any, Any],
        metric: FromQuery[str | None] = None,
        match: FromQuery[str] = "",
        start: FromQuery[str | None] = None,
        end: FromQuery[str | None] = None,
        score: Annotated[float, QueryParameter(ge=0.0, le=1.0)] = 0.0,
        before: FromQuery[int | None] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=10_000)] = 1_000,
    ) -> dict[str, Any]:
        now_ns = engine.clock.now_ns()
        since_ns, until_ns = (None if each is None else parse_time(each, now_ns) for each in (start, end))
        columns = await asyncio.to_thread(
            engine.anomalies.find,
            metric=metric,
            since_ns=since_ns,
            until_ns=until_ns,
            matchers=parse_matchers(match),
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
