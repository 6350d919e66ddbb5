"""Deployments over HTTP: record, list, and whether one may go on."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, post
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from api.arguments import parse_duration_ns, parse_time
from api.auth import caller_of
from api.canary import CallerSource, DeployQuestion, judge_deploy, verdict_json
from engine.catalog.callers import Caller
from engine.clock import NS_PER_DAY, NS_PER_SECOND
from engine.deploys.gate import DEFAULT_CONFIDENCE, DEFAULT_TOLERANCE
from engine.deploys.store import DEFAULT_LIST_LIMIT, Deploy
from engine.errors import BadRequest
from engine.model.matchers import parse_matchers
from engine.model.times import time_text
from engine.runtime import Engine

#: Samples a series and side, unless a step is given.
STEPS = 12
MOST_STEPS = 1_000
LONGEST_NS = 7 * NS_PER_DAY


class DeployBody(msgspec.Struct, forbid_unknown_fields=True):
    """What was put where, and when (now, if not given).  ``baseline``, ``canary``: matchers, as in queries."""

    service: str
    version: str
    time: str | None = None
    baseline: str = ""
    canary: str = ""
    labels: dict[str, str] = {}
    by: str = ""
    note: str = ""


def shown_deploy(deploy: Deploy) -> dict[str, Any]:
    """Return a deployment as the API shows it."""
    return {
        "id": deploy.id,
        "time": time_text(deploy.time_ns),
        "service": deploy.service,
        "version": deploy.version,
        "baseline": deploy.baseline,
        "canary": deploy.canary,
        "labels": deploy.labels,
        "by": deploy.author,
        "note": deploy.note,
        "recorded_at": time_text(deploy.recorded_ns),
    }


def deploy_routes(engine: Engine) -> list[BaseRouteHandler]:
    """Return the routes of one engine."""
    # A verdict keeps the interpreter busy: one at a time, so that others are served meanwhile.
    turn = asyncio.Lock()

    @get("/v1/deploys", summary="Recorded deployments, last recorded first")
    async def get_deploys(
        request: Request[Any, Any, Any],
        service: FromQuery[str | None] = None,
        version: FromQuery[str | None] = None,
        match: FromQuery[str] = "",
        start: FromQuery[str | None] = None,
        end: FromQuery[str | None] = None,
        before: FromQuery[int | None] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=10_000)] = DEFAULT_LIST_LIMIT,
    ) -> dict[str, Any]:
        now_ns = engine.clock.now_ns()
        since_ns, until_ns = (None if each is None else parse_time(each, now_ns) for each in (start, end))
        found = await asyncio.to_thread(
            engine.deploys.find,
            service=service,
            version=version,
            since_ns=since_ns,
            until_ns=until_ns,
            matchers=parse_matchers(match),
            before_id=before,
            limit=limit,
            caller=caller_of(request),
        )
        return {"deploys": [shown_deploy(each) for each in found]}

    @post("/v1/deploys", status_code=201, summary="Record a deployment; 200 for one that is known; scope write")
    async def post_deploy(data: JSONBody[DeployBody]) -> Response[dict[str, Any]]:
        deploy, new = await asyncio.to_thread(record, data)
        return Response(shown_deploy(deploy), status_code=201 if new else 200)

    def record(data: DeployBody) -> tuple[Deploy, bool]:
        now_ns = engine.clock.now_ns()
        return engine.deploys.record(
            data.service,
            data.version,
            time_ns=now_ns if data.time is None else parse_time(data.time, now_ns),
            now_ns=now_ns,
            baseline=data.baseline,
            canary=data.canary,
            labels=data.labels,
            author=data.by,
            note=data.note,
        )

    @get("/v1/deploys/{deploy_id:int}/verdict", summary="Promote, hold or roll back, with reasons")
    async def get_verdict(
        request: Request[Any, Any, Any],
        deploy_id: FromPath[int],
        metric: FromQuery[list[str] | None] = None,
        for_: Annotated[str, QueryParameter(name="for")] = "2m",
        step: FromQuery[str | None] = None,
        warm_up: FromQuery[str] = "0s",
        end: FromQuery[str] = "now",
        confidence: FromQuery[float] = DEFAULT_CONFIDENCE,
        tolerance: FromQuery[float] = DEFAULT_TOLERANCE,
    ) -> dict[str, Any]:
        pairs = [text.partition("=") for text in metric or ()]
        for_seconds = _seconds(for_, "for")
        question = DeployQuestion(
            end_ns=parse_time(end, engine.clock.now_ns()),
            for_seconds=for_seconds,
            step_seconds=max(1, for_seconds // STEPS) if step is None else _seconds(step, "step"),
            warm_up_seconds=_seconds(warm_up, "warm_up", least=0),
            metrics=tuple(name for name, _, _ in pairs),
            directions={name: worse for name, equals, worse in pairs if equals},
            confidence=confidence,
            tolerance=tolerance,
        )
        if for_seconds > MOST_STEPS * question.step_seconds:
            raise BadRequest(
                f"cannot judge a deployment: got {for_seconds // question.step_seconds} steps of"
                f" {question.step_seconds} s, want at most {MOST_STEPS}"
            )
        caller = caller_of(request)
        deploy = await asyncio.to_thread(engine.deploys.get, deploy_id, caller)
        async with turn:
            return await asyncio.to_thread(judge, deploy, question, caller)

    def judge(deploy: Deploy, question: DeployQuestion, caller: Caller) -> dict[str, Any]:
        engine.recovery.require_finished("judge a deployment")
        labels = engine.config.bottlenecks.service_labels
        found = judge_deploy(CallerSource(engine, caller), deploy, engine.deploys, question, labels)
        return {
            "deploy": shown_deploy(deploy),
            **verdict_json(found.verdict),
            "baseline": found.baseline,
            "canary": found.canary,
            "start": time_text(found.start_ns),
            "end": time_text(found.end_ns),
            "step_seconds": question.step_seconds,
        }

    return [get_deploys, post_deploy, get_verdict]


def _seconds(text: str, name: str, *, least: int = 1) -> int:
    time_ns = parse_duration_ns(text)
    if not least * NS_PER_SECOND <= time_ns <= LONGEST_NS or time_ns % NS_PER_SECOND:
        raise BadRequest(f"cannot judge a deployment: got {name} {text!r}, want whole seconds, {least}s to 7d")
    return time_ns // NS_PER_SECOND
