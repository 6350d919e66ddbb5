"""Silences over HTTP: list, add, end."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, post
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, JSONBody, QueryParameter

from api.arguments import parse_duration_ns, parse_time
from api.auth import caller_of
from engine.alerting.silences import Silence
from engine.catalog.callers import Caller
from engine.errors import BadRequest
from engine.model.matchers import Matcher, parse_matchers
from engine.model.times import time_text
from engine.runtime import Engine


class SilenceBody(msgspec.Struct, forbid_unknown_fields=True):
    """What to silence (``match`` as in queries), who says so, and for how long: ``ends_at`` or ``expires_in``."""

    match: str
    by: str
    note: str = ""
    starts_at: str | None = None
    ends_at: str | None = None
    expires_in: str | None = None


def shown_silence(silence: Silence, now_ns: int) -> dict[str, Any]:
    """Return a silence as the API shows it."""
    return {
        "id": silence.id,
        "state": silence.state(now_ns),
        "matchers": [
            {"label": matcher.label, "operator": matcher.operator, "value": matcher.value}
            for matcher in silence.matchers
        ],
        "starts_at": time_text(silence.start_ns),
        "ends_at": time_text(silence.end_ns),
        "by": silence.author,
        "note": silence.note,
        "created_at": time_text(silence.created_ns),
    }


def silence_routes(engine: Engine) -> list[BaseRouteHandler]:
    """Return the routes of one engine."""

    @get("/v1/silences", summary="Silences, newest first; those that are not over unless states are named")
    async def get_silences(
        request: Request[Any, Any, Any],
        states: Annotated[str, QueryParameter(name="state")] = "pending,active",
        limit: Annotated[int, QueryParameter(ge=1, le=10_000)] = 1_000,
    ) -> dict[str, Any]:
        wanted = [] if states == "all" else [each.strip() for each in states.split(",") if each.strip()]
        now_ns = engine.clock.now_ns()
        found = await asyncio.to_thread(
            engine.silences.find, now_ns, states=wanted, limit=limit, caller=caller_of(request)
        )
        return {"silences": [shown_silence(silence, now_ns) for silence in found]}

    @post("/v1/silences", status_code=201, summary="Silence alerts for a while; scope ack")
    async def post_silence(request: Request[Any, Any, Any], data: JSONBody[SilenceBody]) -> dict[str, Any]:
        return await asyncio.to_thread(add, data, caller_of(request))

    def add(data: SilenceBody, caller: Caller) -> dict[str, Any]:
        now_ns = engine.clock.now_ns()
        start_ns = now_ns if data.starts_at is None else parse_time(data.starts_at, now_ns)
        if (data.ends_at is None) == (data.expires_in is None):
            raise BadRequest("cannot silence without an end: want either 'ends_at' or 'expires_in'")
        if data.ends_at is not None:
            end_ns = parse_time(data.ends_at, now_ns)
        else:
            end_ns = start_ns + parse_duration_ns(data.expires_in or "")
        silence = engine.silences.add(
            # One that is limited by labels silences nothing beyond them.
            _with(parse_matchers(data.match), caller.matchers),
            start_ns=start_ns,
            end_ns=end_ns,
            author=data.by,
            note=data.note,
            now_ns=now_ns,
        )
        return shown_silence(silence, now_ns)

    @delete("/v1/silences/{silence_id:int}", status_code=200, summary="End a silence now; scope ack")
    async def delete_silence(request: Request[Any, Any, Any], silence_id: FromPath[int]) -> dict[str, Any]:
        now_ns = engine.clock.now_ns()
        silence = await asyncio.to_thread(engine.silences.end, silence_id, now_ns, caller_of(request))
        return shown_silence(silence, now_ns)

    return [get_silences, post_silence, delete_silence]


def _with(matchers: tuple[Matcher, ...], limit: tuple[Matcher, ...]) -> tuple[Matcher, ...]:
    return (*matchers, *(each for each in limit if each not in matchers))
