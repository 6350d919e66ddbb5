"""Silences over HTTP: added, seen on the alert, ended; what an operator may do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.app import Application
from api.auth import needed_scope
from engine.clock import ManualClock
from engine.runtime import Engine
from tests.api.test_error_shape import JSON, Caller, config

NOW_NS = 1_700_000_000_000_000_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW_NS)


@pytest.fixture
def engine(tmp_path: Path, clock: ManualClock) -> Iterator[Engine]:
    running = Engine(str(tmp_path / "data"), config(), clock=clock)
    yield running
    running.close()


def test_a_silence_from_its_beginning_to_its_end(engine: Engine) -> None:
    call = Caller(Application(engine, config()))

    def asked(method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        status, _, raw = call(method, path, b"" if body is None else json.dumps(body).encode(), JSON if body else {})
        return status, json.loads(raw)

    silence = {"match": 'host=~"web-.*",severity="critical"', "by": "ann", "note": "rebuild", "expires_in": "2h"}
    status, added = asked("POST", "/v1/silences", silence)
    assert (status, added) == (
        201,
        {
            "id": 1,
            "state": "active",
            "matchers": [
                {"label": "host", "operator": "=~", "value": "web-.*"},
                {"label": "severity", "operator": "=", "value": "critical"},
            ],
            "starts_at": "2023-11-14T22:13:20.000000000Z",
            "ends_at": "2023-11-15T00:13:20.000000000Z",
            "by": "ann",
            "note": "rebuild",
            "created_at": "2023-11-14T22:13:20.000000000Z",
        },
    )
    later = {"match": 'a="b"', "by": "ann", "starts_at": "2023-11-15T00:00:00Z", "ends_at": "2023-11-16T00:00:00Z"}
    assert asked("POST", "/v1/silences", later)[1]["state"] == "pending"
    line = f"cpu,host=web-7 usage_percent=99 {NOW_NS}".encode()
    assert call("POST", "/write", line)[0] == 204
    engine.watcher.tick()
    (alert,) = asked("GET", "/v1/alerts")[1]["alerts"]
    assert (alert["state"], alert["silenced_by"], alert["notified_at"]) == ("firing", [1], None)
    assert asked("GET", "/v1/alerts/1")[1]["silenced_by"] == [1]
    assert [each["id"] for each in asked("GET", "/v1/silences")[1]["silences"]] == [2, 1]
    columns = "id, state, matchers, CAST(starts_at AS VARCHAR), author, note"
    first = engine.sql(f"SELECT {columns} FROM silences ORDER BY id").table.to_pylist()[0]
    shown = [1, "active", 'host=~"web-.*",severity="critical"', "2023-11-14 22:13:20", "ann", "rebuild"]
    assert list(first.values()) == shown
    assert asked("GET", "/v1/alerts/1")[1]["withheld"] == {"silenced": 1}
    metrics = call("GET", "/metrics", b"", {})[2].decode()
    assert 'tidegauge_notifications_withheld_total{cause="silenced"} 1.0' in metrics
    status, ended = asked("DELETE", "/v1/silences/1")
    assert (status, ended["state"]) == (200, "expired")
    assert asked("GET", "/v1/alerts/1")[1]["silenced_by"] == []
    assert [each["id"] for each in asked("GET", "/v1/silences?state=active,pending")[1]["silences"]] == [2]
    assert [each["id"] for each in asked("GET", "/v1/silences?state=all")[1]["silences"]] == [2, 1]
    engine.watcher.tick()
    assert [each["event"] for each in asked("GET", "/v1/alerts/1")[1]["history"]] == ["firing", "unsilenced"]


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/v1/silences", "read"),
        ("POST", "/v1/silences", "ack"),
        ("DELETE", "/v1/silences/1", "ack"),
        ("POST", "/v1/silencesx", "admin"),
    ],
)
def test_who_may_silence(method: str, path: str, scope: str) -> None:
    assert needed_scope(method, path) == scope


def test_an_alert_is_taken_given_back_and_closed_by_hand(engine: Engine, clock: ManualClock) -> None:
    call = Caller(Application(engine, config()))

    def asked(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        status, _, raw = call(method, path, b"" if body is None else json.dumps(body).encode(), JSON if body else {})
        assert status == 200, raw
        return json.loads(raw)

    assert call("POST", "/write", f"cpu,host=web-7 usage_percent=99 {NOW_NS}".encode())[0] == 204
    engine.watcher.tick()
    assert asked("POST", "/v1/alerts/1/ack", {"by": "ann", "expires_in": "1h"})["acknowledged_by"] == "ann"
    assert not asked("DELETE", "/v1/alerts/1/ack?by=ann&note=lunch")["acknowledged"]
    clock.advance(1.0)
    assert asked("POST", "/v1/alerts/1/close", {"by": "bob", "note": "gone for good"})["state"] == "resolved"
    history = [(event["event"], event["detail"]) for event in asked("GET", "/v1/alerts/1")["history"]]
    assert history[1:3] == [
        ("acknowledged", "by ann until 2023-11-14T23:13:20.000000000Z"),
        ("unacknowledged", "by ann: lunch"),
    ]
    assert history[3][0] == "resolved"
    assert history[3][1].startswith("closed by bob: gone for good")
    assert needed_scope("DELETE", "/v1/alerts/1/ack") == needed_scope("POST", "/v1/alerts/1/close") == "ack"
