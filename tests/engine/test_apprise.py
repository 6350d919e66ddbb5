"""Channels of type apprise against an HTTP receiver, by Apprise's own json:// scheme."""

from __future__ import annotations

import builtins
import io
import json
import logging
from typing import Any

import pytest

from engine.clock import NS_PER_SECOND
from engine.config import Channel
from engine.config_units import Duration
from engine.delivery.everywhere import AppriseSender
from engine.errors import BadConfig
from tests.engine.test_channels import body_of, group_body
from tests.recording_server import Answer, RecordingServer

pytest.importorskip("apprise")
T0 = 1_700_000_000 * NS_PER_SECOND
TOKEN = "t0p-s3cret"


def channel_of(url: str, **changes: Any) -> Channel:
    return Channel(name="else", type="apprise", url=f"{url.replace('http', 'json', 1)}/{TOKEN}", **changes)


def received(server: RecordingServer) -> list[tuple[str, str, str]]:
    bodies = [json.loads(request.body) for request in server.seen]
    return [(body["title"], body["message"], body["type"]) for body in bodies]


def test_what_arrives_of_an_alert_its_end_and_a_group() -> None:
    with RecordingServer(lambda _: Answer(200)) as server:
        sender = AppriseSender(channel_of(server.url, group_text="{total}: {summary}"))
        resolved = json.loads(body_of()) | {"event": "resolved"}
        for body in (body_of(), json.dumps(resolved).encode(), body_of(severity="info"), group_body()):
            assert sender.send("key-1", body, T0).delivered
    text = (
        "cpu (critical, system)\nhost=web-1, rule=of the label\nvalue 96.5123, threshold 90\nsince 2023-11-14T22:13:00Z"
    )
    assert received(server) == [
        ("firing: CPU of web-1 at 96.5 %", text, "failure"),
        ("resolved: CPU of web-1 at 96.5 %", text, "success"),
        ("firing: CPU of web-1 at 96.5 %", text.replace("critical", "info"), "info"),
        ("group: 2 alerts fire (team=a&b)", "5: 2 alerts fire (team=a&b)", "warning"),
    ]


def test_failures_tell_the_status_and_never_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    logged = io.StringIO()
    # As the server logs.
    monkeypatch.setattr(logging.root, "handlers", [logging.StreamHandler(logged)])
    monkeypatch.setattr(logging.root, "level", logging.INFO)
    with RecordingServer(lambda _: Answer(503)) as server:
        sender = AppriseSender(channel_of(server.url))
        refused = sender.send("key-1", body_of(), T0)
    assert (refused.delivered, refused.status, refused.error) == (False, 503, "the answer was 503 (json://...)")
    away = AppriseSender(channel_of(server.url, timeout=Duration.parse("500ms"))).send("key-1", body_of(), T0)
    assert (away.delivered, away.status, away.error) == (False, None, "the service did not take it (json://...)")
    assert TOKEN not in repr((refused, away, sender)) + repr(channel_of(server.url)) + logged.getvalue()


def test_what_apprise_does_not_know_and_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadConfig, match=r"Apprise does not know the URL \(pigeon://\.\.\.\)"):
        AppriseSender(Channel(name="a", type="apprise", url=f"pigeon://{TOKEN}"))
    whole = builtins.__import__

    def without(name: str, *others: Any) -> Any:
        if name == "apprise":
            raise ImportError(name)
        return whole(name, *others)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BadConfig, match=r"pip install 'tidegauge\[apprise\]'"):
        AppriseSender(channel_of("http://127.0.0.1:1"))
