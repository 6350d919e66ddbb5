"""What scalers poll and what people on call look at: decisions, alerts, rules."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any
from urllib.parse import unquote

import msgspec
from litestar import Request, delete, get, post
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from api.arguments import parse_duration_ns
from api.asgi import Receive, Scope, Send, respond, respond_error
from api.auth import caller_of
from api.routes.bottlenecks import shown_finding
from engine.alerting.alerts import Alert, alert_json, time_text
from engine.alerting.silences import ACTIVE, Silence
from engine.catalog.callers import Caller
from engine.errors import BadRequest, TidegaugeError, Unavailable
from engine.model.matchers import parse_matchers
from engine.runtime import Engine
from engine.scaling.answer import decision_json

LOG = logging.getLogger("tidegauge.api")
_SCALE = "/v1/scale/"
_KEDA = "/keda"


class AckBody(msgspec.Struct, forbid_unknown_fields=True):
    """Who takes an alert in hand; ``expires_in`` as a duration ("2h"), after which it is nobody's again."""

    by: str
    note: str = ""
    expires_in: str | None = None


class CloseBody(msgspec.Struct, forbid_unknown_fields=True):
    """Who ends an alert by hand, and why."""

    by: str
    note: str = ""


def shown_alert(alert: Alert, silences: Sequence[Silence], now_ns: int, links: Mapping[str, str]) -> dict[str, Any]:
    """Return an alert as the API shows it: what notifications say, who has it in hand, and what silences it.

    ``links``: where there is something to look at of it.
    """
    return alert_json(alert) | {
        "acknowledged": alert.acknowledged(now_ns),
        "acknowledged_by": alert.acknowledged_by,
        "acknowledged_note": alert.acknowledged_note,
        "acknowledged_until": time_text(alert.acknowledged_until_ns),
        "notified_at": time_text(alert.notified_ns),
        "withheld": alert.withheld,
        "evidence": dict(links),
        "silenced_by": [silence.id for silence in silences if silence.covers(alert)],
    }


def found_evidence(engine: Engine, alert: Alert, caller: Caller) -> dict[str, list[dict[str, Any]]]:
    """Return what detection has noted of the alert's series, and bottlenecks of its service, around its time."""
    anomalies, bottlenecks = engine.evidence_of(alert, caller)
    return {
        "anomalies": [each | {"time": time_text(each["time"])} for each in anomalies],
        "bottlenecks": [shown_finding(each) for each in bottlenecks],
    }


class WatchHandlers:
    """The raw handlers of what must answer in about a millisecond."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def scale(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``GET /v1/scale/{target}`` and ``GET /v1/scale/{target}/keda``."""
        target = unquote(scope["path"].removeprefix(_SCALE))
        keda = target.endswith(_KEDA)
        try:
            decision = self._engine.scale(target.removesuffix(_KEDA))
            if keda:
                if decision.desired is None:
                    # Anything but 200 makes KEDA count a failure and use its fallback; a number would be believed.
                    raise Unavailable(f"cannot decide for {decision.target!r}: {decision.reason}")
                body: Any = {"value": decision.desired, "desired": decision.desired, "reason": decision.reason}
            else:
                body = decision_json(decision, self._engine.clock.now_ns())
        except TidegaugeError as error:
            await respond_error(send, error)
        except Exception as error:
            LOG.exception("a decision failed unexpectedly", exc_info=error)
            await respond_error(send, error)
        else:
            await respond(send, 200, msgspec.json.encode(body), "application/json")


def watch_routes(engine: Engine) -> list[BaseRouteHandler]:
    """Return the routes of one engine."""

    @get("/v1/alerts", summary="Alerts, newest first; open ones unless states are named")
    async def get_alerts(
        request: Request[Any, Any, Any],
        states: Annotated[str, QueryParameter(name="state")] = "pending,firing",
        rule: FromQuery[str | None] = None,
        severity: FromQuery[str | None] = None,
        category: FromQuery[str | None] = None,
        match: FromQuery[str] = "",
        before: FromQuery[int | None] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=10_000)] = 1_000,
    ) -> dict[str, Any]:
        labels = {}
        for matcher in parse_matchers(match):
            if matcher.operator != "=":
                raise BadRequest(f"cannot list alerts: got operator {matcher.operator!r} in match, want =")
            labels[matcher.label] = matcher.value
        wanted = [] if states == "all" else [each.strip() for each in states.split(",") if each.strip()]
        found = await asyncio.to_thread(
            engine.alerts.find,
            states=wanted,
            rule=rule,
            severity=severity,
            category=category,
            labels=labels or None,
            before_id=before,
            limit=limit,
            caller=caller_of(request),
        )
        return {"alerts": await asyncio.to_thread(shown, found)}

    def shown(alerts: Sequence[Alert]) -> list[dict[str, Any]]:
        now_ns = engine.clock.now_ns()
        silences = engine.silences.find(now_ns, states=(ACTIVE,))
        return [shown_alert(alert, silences, now_ns, engine.alerts.evidence_links(alert)) for alert in alerts]

    @get("/v1/alerts/{alert_id:int}", summary="One alert with its history")
    async def get_alert(request: Request[Any, Any, Any], alert_id: FromPath[int]) -> dict[str, Any]:
        return await asyncio.to_thread(one_alert, alert_id, caller_of(request))

    def one_alert(alert_id: int, caller: Caller) -> dict[str, Any]:
        alert = engine.alerts.get(alert_id, caller)
        events = engine.alerts.events(alert_id)
        names = list(events)
        history = [dict(zip(names, row, strict=True)) for row in zip(*events.values(), strict=True)]
        for event in history:
            event["time"] = time_text(event["time"])
        answer = shown([alert])[0]
        answer["evidence"] |= {"found": found_evidence(engine, alert, caller)}
        return answer | {"history": history}

    @post("/v1/alerts/{alert_id:int}/ack", status_code=200, summary="Take an alert in hand")
    async def ack_alert(
        request: Request[Any, Any, Any], alert_id: FromPath[int], data: JSONBody[AckBody]
    ) -> dict[str, Any]:
        return await asyncio.to_thread(acknowledge, alert_id, data, caller_of(request))

    def checked(alert_id: int, action: str, by: str, caller: Caller) -> None:
        if not by.strip():
            raise BadRequest(f"cannot {action}: 'by' is empty, want a name")
        if caller.limited:
            engine.alerts.get(alert_id, caller)

    def acknowledge(alert_id: int, data: AckBody, caller: Caller) -> dict[str, Any]:
        checked(alert_id, "acknowledge", data.by, caller)
        now_ns = engine.clock.now_ns()
        expires_ns = None if data.expires_in is None else now_ns + parse_duration_ns(data.expires_in)
        engine.alerts.ack(alert_id, by=data.by, note=data.note, expires_ns=expires_ns, now_ns=now_ns)
        return shown([engine.alerts.get(alert_id)])[0]

    @delete("/v1/alerts/{alert_id:int}/ack", status_code=200, summary="Give an alert back that somebody has in hand")
    async def release_alert(
        request: Request[Any, Any, Any], alert_id: FromPath[int], by: FromQuery[str], note: FromQuery[str] = ""
    ) -> dict[str, Any]:
        return await asyncio.to_thread(release, alert_id, by, note, caller_of(request))

    def release(alert_id: int, by: str, note: str, caller: Caller) -> dict[str, Any]:
        checked(alert_id, "release", by, caller)
        engine.alerts.release(alert_id, by=by, note=note, now_ns=engine.clock.now_ns())
        return shown([engine.alerts.get(alert_id)])[0]

    @post("/v1/alerts/{alert_id:int}/close", status_code=200, summary="End an alert by hand; scope ack")
    async def close_alert(
        request: Request[Any, Any, Any], alert_id: FromPath[int], data: JSONBody[CloseBody]
    ) -> dict[str, Any]:
        return await asyncio.to_thread(close, alert_id, data, caller_of(request))

    def close(alert_id: int, data: CloseBody, caller: Caller) -> dict[str, Any]:
        checked(alert_id, "close", data.by, caller)
        engine.rule_watch.close(alert_id, by=data.by, note=data.note, now_ns=engine.clock.now_ns())
        return shown([engine.alerts.get(alert_id)])[0]

    @get("/v1/rules", summary="The rules and how many series each has pending and firing")
    async def get_rules() -> dict[str, Any]:
        source = engine.reloader.source
        return {
            "rules": engine.rules(),
            "source": {
                "file": source.path,
                "loaded_at": time_text(source.loaded_ns),
                "problem": source.problem,
                "waiting": source.waiting,
            },
        }

    @post("/v1/rules/reload", status_code=200, summary="Take up rules and channels of the file; scope admin")
    async def reload_rules() -> dict[str, Any]:
        reloaded = await asyncio.to_thread(engine.reloader.reload)
        return {
            **asdict(reloaded.rules),
            "channels": asdict(reloaded.channels),
            "parts": reloaded.parts,
            "given_up": reloaded.given_up,
            "waiting": engine.reloader.source.waiting,
        }

    @get("/v1/scale", summary="The configured scaling targets")
    async def get_targets() -> dict[str, list[str]]:
        return {"targets": engine.decider.targets}

    return [get_alerts, get_alert, ack_alert, release_alert, close_alert, get_rules, reload_rules, get_targets]
