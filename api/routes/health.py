"""Liveness, readiness and self-metrics."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Response, get
from litestar.handlers import BaseRouteHandler

from engine.runtime import Engine
from engine.vitals import CONTENT_TYPE


def health_routes(engine: Engine) -> list[BaseRouteHandler]:
    """Return the routes of one engine."""

    @get("/health/live", summary="Is the process alive")
    async def live() -> dict[str, str]:
        return {"status": "alive"}

    @get("/health/ready", summary="Can the server take writes and answer queries")
    async def ready() -> Response[dict[str, Any]]:
        state = engine.readiness()
        return Response(state, status_code=200 if state["ready"] else 503)

    @get("/health", summary="The probe of Influx clients")
    async def health() -> dict[str, str]:
        state = engine.readiness()
        return {"name": "tidegauge", "status": "pass" if state["ready"] else "fail", "message": state["state"]}

    @get("/metrics", summary="Self-metrics in Prometheus' text format")
    async def metrics() -> Response[bytes]:
        return Response(await asyncio.to_thread(engine.vitals.render), media_type=CONTENT_TYPE)

    return [live, ready, health, metrics]
