"""Notifications and dashboards over HTTP: how each stands, what it says, and how much is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.app import Application
from engine.catalog.callers import Caller as Asker
from engine.clock import ManualClock
from engine.config import Channel, Config
from engine.config_units import Duration
from engine.delivery.dashboard import DashboardSender, kept_notifications
from engine.model.matchers import parse_matchers
from engine.runtime import Engine
from tests.api.test_error_shape import Caller, config

NOW_NS = 1_700_000_000_000_000_000
CHANNELS = (
    Channel(name="wall", type="dashboard", keep=3),
    Channel(name="board", type="dashboard", group_by=("rule",), group_wait=Duration(0)),
    Channel(name="gone", url="http://127.0.0.1:1/"),
)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    settings = Config(channels=CHANNELS, query=config().query)
    running = Engine(str(tmp_path / "data"), settings, clock=ManualClock(NOW_NS))
    yield running
    running.close()


def test_what_dashboards_keep_and_how_notifications_stand(engine: Engine) -> None:
    call = Caller(Application(engine, config()))

    def asked(method: str, path: str, status: int = 200) -> Any:
        got, _, raw = call(method, path, b"", {})
        assert got == status, raw
        return json.loads(raw)

    lines = "\n".join(f"cpu,host=web-{host} usage_percent=99 {NOW_NS}" for host in range(5))
    assert call("POST", "/write", lines.encode())[0] == 204
    engine.watcher.tick()
    for channel in ("wall", "board"):
        engine.outbox.deliver_due(NOW_NS + 1, channel)
        engine.outbox.deliver_due(NOW_NS + 1, channel)
    kept = asked("GET", "/v1/dashboard")["notifications"]
    assert [(each["channel"], each["event"]) for each in kept] == [("board", "group"), *[("wall", "firing")] * 3]
    assert [each["alert"]["labels"]["host"] for each in kept[1:]] == ["web-4", "web-3", "web-2"]
    assert kept[0]["time"] == "2023-11-14T22:13:20.000000001Z"
    older = asked("GET", f"/v1/dashboard?channel=wall&limit=1&before={kept[1]['id']}")["notifications"]
    assert older == [kept[2]]
    (message,) = asked("GET", "/v1/notifications?channel=board")["notifications"]
    assert (message["state"], message["event"], message["alert_id"]) == ("delivered", "group", None)
    whole = asked("GET", f"/v1/notifications/{message['id']}")
    assert whole["body"]["total"] == 5
    assert whole["alerts"] == [{"id": number, "events": ["firing"]} for number in range(1, 6)]
    assert asked("GET", "/v1/notifications/999", 404)["error"] == "not_found"
    (waiting,) = asked("GET", "/v1/notifications?state=waiting&alert=2")["notifications"]
    with engine.control.transaction() as connection:
        connection.execute("UPDATE notifications SET dead_ns = ? WHERE id = ?", (NOW_NS, waiting["id"]))
    assert asked("POST", f"/v1/notifications/{waiting['id']}/revive")["state"] == "waiting"
    assert "want dead" in asked("POST", f"/v1/notifications/{waiting['id']}/revive", 400)["message"]


def test_a_delivery_is_kept_once_and_a_limited_caller_sees_only_what_is_theirs(engine: Engine) -> None:
    sender = DashboardSender(engine.control, CHANNELS[0])
    for key, host in (("a", "web-1"), ("b", "web-2"), ("a", "web-1")):
        body = {"event": "firing", "alert": {"labels": {"host": host}}}
        assert sender.send(key, json.dumps(body).encode(), NOW_NS).delivered
    sender.send("c", json.dumps({"event": "digest", "alert": None}).encode(), NOW_NS)
    assert [body["event"] for _, _, body in kept_notifications(engine.control)] == ["digest", "firing", "firing"]
    mine = Asker("ann", parse_matchers('host="web-1"'))
    assert [body["alert"]["labels"] for _, _, body in kept_notifications(engine.control, caller=mine)] == [
        {"host": "web-1"}
    ]
