"""Notifications over HTTP: how each stands, what it says, and those that dashboards keep."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from litestar import Request, get, post
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, FromQuery, QueryParameter

from api.auth import caller_of
from engine.delivery.outbox import Notification
from engine.model.times import time_text
from engine.runtime import Engine


def shown_notification(notification: Notification) -> dict[str, Any]:
    """Return how a notification stands."""
    return {
        "id": notification.id,
        "delivery": notification.delivery,
        "channel": notification.channel,
        "event": notification.event,
        "alert_id": notification.alert_id,
        "state": notification.state,
        "created_at": time_text(notification.created_ns),
        "attempts": notification.attempts,
        "last_attempt_at": time_text(notification.last_attempt_ns),
        "last_status": notification.last_status,
        "last_error": notification.last_error,
        "delivered_at": time_text(notification.delivered_ns),
    }


def notification_routes(engine: Engine) -> list[BaseRouteHandler]:
    """Return the routes of one engine."""

    @get("/v1/notifications", summary="Notifications, newest first, and how each stands")
    async def get_notifications(
        wanted: Annotated[str | None, QueryParameter(name="state")] = None,
        channel: FromQuery[str | None] = None,
        alert: FromQuery[int | None] = None,
        before: FromQuery[int | None] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=10_000)] = 100,
    ) -> dict[str, Any]:
        found = await asyncio.to_thread(
            engine.outbox.find, state=wanted, channel=channel, alert_id=alert, before_id=before, limit=limit
        )
        return {"notifications": [shown_notification(each) for each in found]}

    @get("/v1/notifications/{notification_id:int}", summary="One notification with what it says, and of which alerts")
    async def get_notification(notification_id: FromPath[int]) -> dict[str, Any]:
        return await asyncio.to_thread(one, notification_id)

    def one(notification_id: int) -> dict[str, Any]:
        shown = shown_notification(engine.outbox.get(notification_id))
        shown["body"] = json.loads(engine.outbox.body(notification_id))
        shown["alerts"] = [
            {"id": alert_id, "events": events} for alert_id, events in engine.outbox.alerts_of(notification_id)
        ]
        return shown

    @post("/v1/notifications/{notification_id:int}/revive", status_code=200, summary="Try a dead notification again")
    async def revive_notification(notification_id: FromPath[int]) -> dict[str, Any]:
        await asyncio.to_thread(engine.outbox.revive, notification_id, engine.clock.now_ns())
        return await asyncio.to_thread(one, notification_id)

    @get("/v1/dashboard", summary="What channels of type dashboard have been told, newest first")
    async def get_dashboard(
        request: Request[Any, Any, Any],
        channel: FromQuery[str | None] = None,
        event: FromQuery[str | None] = None,
        before: FromQuery[int | None] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=10_000)] = 100,
    ) -> dict[str, Any]:
        found = await asyncio.to_thread(
            engine.kept_notifications,
            channel=channel,
            event=event,
            before_id=before,
            limit=limit,
            caller=caller_of(request),
        )
        return {
            "notifications": [
                {"id": number, "time": time_text(time_ns)} | notification for number, time_ns, notification in found
            ]
        }

    return [get_notifications, get_notification, revive_notification, get_dashboard]
