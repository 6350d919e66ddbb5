"""Bottlenecks over HTTP: what has been found, and looking now."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import Annotated, Any

import msgspec
from litestar import get, post
from litestar.handlers import BaseRouteHandler
from litestar.params import FromQuery, JSONBody, QueryParameter

from api.arguments import parse_duration_ns, parse_time
from engine.detection.findings import STATES
from engine.errors import BadRequest
from engine.maintenance.bottlenecks import Question, Report
from engine.model.times import time_text
from engine.runtime import Engine

_TIMES = ("time", "last_seen", "first_moved", "outcome_time")


class Change(msgspec.Struct, forbid_unknown_fields=True):
    """``service`` was changed at ``time``."""

    service: str
    time: str


class QuestionBody(msgspec.Struct, forbid_unknown_fields=True):
    """What to look at; what is left out is as configured.  ``graph``: [caller, callee]; ``entry``: a column."""

    window: str | None = None
    history: str | None = None
    end: str | None = None
    service_labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    entry: str | None = None
    graph: tuple[tuple[str, str], ...] = ()
    changes: tuple[Change, ...] = ()


def shown_finding(finding: dict[str, Any]) -> dict[str, Any]:
    """Return a stored finding as the API shows it: what it said, what was expected of it, what became of it."""
    shown = {name: time_text(value) if name in _TIMES else value for name, value in finding.items()}
    effect = {name: shown.pop(f"effect_{name}") for name in ("metric", "share", "from", "to", "by")}
    outcome, time, share = (shown.pop(name) for name in ("outcome", "outcome_time", "outcome_share"))
    return shown | {
        "state": "open" if outcome is None else "closed",
        "effect": effect,
        "outcome": None if outcome is None else {"verdict": outcome, "time": time, "share": share},
    }


def shown_report(report: Report) -> dict[str, Any]:
    """Return what an analysis looked at."""
    windows = report.windows
    return {
        "analysed_at": time_text(report.analysed_ns),
        "basis": windows.basis,
        "normal_start": time_text(windows.normal_start_ns),
        "start": time_text(windows.start_ns),
        "end": time_text(windows.end_ns),
        "entry": report.entry,
        "services": report.services,
        "series": report.series,
        "left_out": report.left_out,
        "problem": report.problem,
    }


def bottleneck_routes(engine: Engine) -> list[BaseRouteHandler]:
    """Return the routes of one engine."""

    @get("/v1/bottlenecks", summary="Bottlenecks with evidence and advice; looks now when asked to")
    async def get_bottlenecks(
        states: Annotated[str, QueryParameter(name="state")] = "open",
        service: FromQuery[str | None] = None,
        start: FromQuery[str | None] = None,
        before: FromQuery[int | None] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=10_000)] = 100,
        force: FromQuery[bool] = False,
        window: FromQuery[str | None] = None,
        history: FromQuery[str | None] = None,
        label: FromQuery[str | None] = None,
    ) -> dict[str, Any]:
        wanted = _states(states)
        since_ns = None if start is None else parse_time(start, engine.clock.now_ns())
        if window is not None or history is not None or label is not None:
            labels = tuple(each.strip() for each in (label or "").split(",") if each.strip())
            return await asyncio.to_thread(answer, QuestionBody(window=window, history=history, service_labels=labels))
        if force:
            await asyncio.to_thread(engine.look_for_bottlenecks)
        found = await asyncio.to_thread(
            engine.bottlenecks.find, states=wanted, service=service, since_ns=since_ns, before_id=before, limit=limit
        )
        latest = engine.bottleneck_finder.latest
        return {
            "analysis": None if latest is None else shown_report(latest),
            "bottlenecks": [shown_finding(each) for each in found],
        }

    @post("/v1/bottlenecks", status_code=200, summary="Look now, with a call graph and changes; nothing is kept")
    async def post_bottlenecks(data: JSONBody[QuestionBody]) -> dict[str, Any]:
        return await asyncio.to_thread(answer, data)

    def answer(body: QuestionBody) -> dict[str, Any]:
        now_ns = engine.clock.now_ns()
        question = Question(
            window_ns=None if body.window is None else parse_duration_ns(body.window),
            history_ns=None if body.history is None else parse_duration_ns(body.history),
            end_ns=None if body.end is None else parse_time(body.end, now_ns),
            service_labels=body.service_labels,
            entry=body.entry,
            graph=body.graph,
            changes=tuple((change.service, parse_time(change.time, now_ns)) for change in body.changes),
            metrics=body.metrics,
        )
        report = engine.look_for_bottlenecks(question)
        found = []
        for finding in report.findings:
            stated = {name.removesuffix("_ns"): value for name, value in asdict(finding).items()}
            stated |= {"evidence": json.loads(finding.evidence), "times_seen": 1}
            found.append(
                shown_finding({"id": None} | stated | dict.fromkeys(("outcome", "outcome_time", "outcome_share")))
            )
        return {"analysis": shown_report(report), "bottlenecks": found}

    return [get_bottlenecks, post_bottlenecks]


def _states(text: str) -> tuple[str, ...]:
    if text == "all":
        return ()
    states = tuple(each.strip() for each in text.split(",") if each.strip())
    unknown = [state for state in states if state not in STATES]
    if unknown:
        raise BadRequest(f"cannot list bottlenecks: got state {unknown[0]!r}, want {', '.join(STATES)} or all")
    return states
