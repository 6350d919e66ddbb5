"""Liveness, readiness and self-metrics."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from litestar import Response, get
from litestar.handlers import BaseRouteHandler
from litestar.params import QueryParameter

from engine.errors import BadRequest
from engine.maintenance.recover import LONGEST_RETRY_AFTER_SECONDS
from engine.runtime import Engine
from engine.vitals import CONTENT_TYPE


def health_routes(engine: Engine) -> list[BaseRouteHandler]:
    """Return the routes of one engine."""

    @get("/health/live", summary="Is the process alive")
    async def live() -> dict[str, str]:
        return {"status": "alive"}

    @get("/health/ready", summary="Can the server take writes and answer queries; ?for=writes asks for writes alone")
    async def ready(wanted: Annotated[str, QueryParameter(name="for")] = "all") -> Response[dict[str, Any]]:
        if wanted not in ("all", "writes", "queries"):
            raise BadRequest(f"cannot tell readiness for {wanted!r}: want all, writes or queries")
        state = engine.readiness()
        if state["ready" if wanted == "all" else wanted]:
            return Response(state, status_code=200)
        return Response(state, status_code=503, headers={"Retry-After": str(retry_after_seconds(state))})

    def retry_after_seconds(state: dict[str, Any]) -> int:
        estimate = state["recovery"]["estimated_seconds"]
        return 1 if estimate is None else max(1, min(LONGEST_RETRY_AFTER_SECONDS, round(estimate)))

    @get("/health", summary="The probe of Influx clients")
    async def health() -> dict[str, str]:
        state = engine.readiness()
        return {"name": "tidegauge", "status": "pass" if state["ready"] else "fail", "message": state["state"]}

    @get("/metrics", summary="Self-metrics in Prometheus' text format")
    async def metrics() -> Response[bytes]:
        return Response(await asyncio.to_thread(engine.vitals.render), media_type=CONTENT_TYPE)

    @get("/v1/storage", summary="What takes how much of the disk: rollup tiers, segments, log")
    async def storage() -> dict[str, Any]:
        return await asyncio.to_thread(engine.storage)

    return [live, ready, health, metrics, storage]
