"""Digests: what happened since the last one and what fires now, once an interval, over restarts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.delivery.message import Message
from tests.engine.test_alert_store import T0, S, Server, rule_of

HOUR_S = 3_600


def digests(server: Server, channel: str) -> list[tuple[int, dict[str, Any]]]:
    rows = server.control.rows(
        "SELECT created_ns, body FROM notifications WHERE channel = ? AND event = 'digest' ORDER BY id", (channel,)
    )
    return [((created_ns - T0) // S, json.loads(body)) for created_ns, body in rows]


@pytest.mark.parametrize("restart", [False, True])
def test_a_digest_tells_what_happened_since_the_last_and_what_fires(tmp_path: Path, restart: bool) -> None:
    rules = [rule_of(), rule_of(name="warm", threshold=50.0, severity="warning")]
    server = Server(str(tmp_path / "control.db"), rules, digests_ns={"daily": HOUR_S * S})
    server.tick(0, {7: 95.0})
    assert digests(server, "daily") == []
    server.tick(600, {7: 95.0, 8: 95.0})
    server.tick(660, {1: 60.0}, "warm")
    server.store.ack(2, by="ann", now_ns=T0 + 700 * S)
    server.tick(900, {7: 5.0, 8: 95.0})
    server.tick(HOUR_S - 1, {8: 95.0})
    assert digests(server, "daily") == []
    if restart:
        server.restart()
    server.tick(HOUR_S, {8: 95.0})
    server.tick(HOUR_S + 5, {8: 95.0})
    ((at, body),) = digests(server, "daily")
    assert at == HOUR_S
    # What fired in the tick in which the count began is before it.
    assert body["message"] == (
        "since 2023-11-14T22:13:20.000000000Z: 2 alerts fired (1 x cpu, 1 x warm), 1 was resolved, 2 fire now"
    )
    assert body["rules"] == [{"rule": "cpu", "fired": 1, "resolved": 1}, {"rule": "warm", "fired": 1, "resolved": 0}]
    listed = [(alert["id"], alert["acknowledged_by"], alert["severity"]) for alert in body["alerts"]]
    assert listed == [(2, "ann", "critical"), (3, None, "warning")]
    text = Message(json.dumps(body).encode()).fill(None, "email")
    assert "still firing: CPU of web-8 at 95 % [critical] host=web-8" in text
    server.tick(2 * HOUR_S, {})
    assert digests(server, "daily")[1][1]["message"] == (
        "since 2023-11-14T23:13:20.000000000Z: 0 alerts fired, 0 were resolved, 2 fire now"
    )
    keys = [key for (key,) in server.control.rows("SELECT delivery FROM notifications")]
    assert len(keys) == len(set(keys))
    server.control.close()
