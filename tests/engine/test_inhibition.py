"""Inhibition: what a firing alert explains is told only when that alert has ended; and the sign of life."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.alerting.rules import RuleInput
from engine.config import Inhibition
from tests.engine.test_alert_store import T0, S, Server, rule_of


def inhibition(**changes: Any) -> Inhibition:
    values = {"name": "down", "source": {"rule": "probe"}, "target": {"rule": "cpu"}, "equal": ("host",)} | changes
    return Inhibition(**values)


def server_of(path: Path, *inhibitions: Inhibition) -> Server:
    # The consequence's rule comes first: the order of the rules must not matter.
    rules = [rule_of(), rule_of(name="probe", category="integration", severity="warning")]
    return Server(str(path / "control.db"), rules, inhibitions=inhibitions)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = server_of(tmp_path, inhibition())
    yield running
    running.control.close()


def tick(server: Server, now_s: int, cpu: dict[int, float], probe: dict[int, float]) -> list[tuple[str, str]]:
    """Judge both rules; return rule and event of what happened."""

    def given(rows: dict[int, float]) -> RuleInput:
        return RuleInput(
            np.array(sorted(rows), dtype=np.int32),
            np.array([rows[key] for key in sorted(rows)], dtype=np.float64),
            np.full(len(rows), T0 + now_s * S, dtype=np.int64),
        )

    events = server.watch.tick({"cpu": given(cpu), "probe": given(probe)}, server.labels_of, T0 + now_s * S)
    return [(event.alert.rule, event.event) for event in events]


def told(server: Server) -> list[tuple[str, str]]:
    return server.control.rows(
        "SELECT rule, event FROM notifications JOIN alerts ON alerts.id = alert_id ORDER BY notifications.id"
    )  # type: ignore[return-value]


@pytest.mark.parametrize("restart", [False, True])
def test_a_consequence_of_the_same_tick_is_told_when_its_cause_has_ended(server: Server, restart: bool) -> None:
    assert tick(server, 0, {7: 95.0}, {7: 95.0}) == [("probe", "firing"), ("cpu", "firing")]
    assert told(server) == [("probe", "firing")]
    assert server.history(2) == [("firing", "not notified: alert 1 fires (down)")]
    if restart:
        server.restart()
    assert tick(server, 5, {7: 95.0}, {7: 95.0}) == []
    assert tick(server, 10, {7: 95.0}, {7: 1.0}) == [("probe", "resolved"), ("cpu", "unsilenced")]
    assert tick(server, 15, {7: 95.0}, {7: 1.0}) == []
    assert told(server) == [("probe", "firing"), ("probe", "resolved"), ("cpu", "firing")]


def test_a_consequence_that_ends_with_its_cause_is_never_told(server: Server) -> None:
    tick(server, 0, {}, {7: 95.0})
    tick(server, 5, {7: 95.0}, {7: 95.0})
    tick(server, 10, {7: 1.0}, {7: 1.0})
    tick(server, 15, {7: 1.0}, {7: 1.0})
    assert told(server) == [("probe", "firing"), ("probe", "resolved")]


def test_another_host_is_not_held_back_unless_nothing_must_be_equal(tmp_path: Path) -> None:
    for equal, expected in ((("host",), [("probe", "firing"), ("cpu", "firing")]), ((), [("probe", "firing")])):
        directory = tmp_path / str(len(equal))
        directory.mkdir()
        server = server_of(directory, inhibition(equal=equal))
        tick(server, 0, {8: 95.0}, {7: 95.0})
        assert told(server) == expected
        server.control.close()


def test_two_sources_of_one_inhibition_do_not_hush_each_other_up(tmp_path: Path) -> None:
    server = server_of(tmp_path, inhibition(source={"host": "web-7"}, target={"host": "web-7"}))
    tick(server, 0, {7: 95.0}, {7: 95.0})
    assert sorted(told(server)) == [("cpu", "firing"), ("probe", "firing")]
    server.control.close()


def test_a_heartbeat_comes_once_an_interval_over_restarts(tmp_path: Path) -> None:
    server = Server(str(tmp_path / "control.db"), [rule_of()], heartbeats_ns={"ops": 60 * S})

    def beats() -> list[Any]:
        rows = server.control.rows("SELECT created_ns, body, delivery FROM notifications WHERE event = 'heartbeat'")
        return [((created_ns - T0) // S, json.loads(body), key) for created_ns, body, key in rows]

    keys = set()
    for now_s, expected_s in ((0, 0), (30, 0), (59, 0), (60, 60), (61, 60), (500, 500)):
        server.tick(now_s, {7: 95.0})
        server.restart()
        # Only the newest is kept, delivered or not.
        ((at_s, body, key),) = beats()
        assert at_s == expected_s
        assert (body["event"], body["alert"], body["delivery"]) == ("heartbeat", None, key)
        assert body["message"].endswith(", 1 alerts fire")
        keys.add(key)
    assert len(keys) == 3
    # A clock that was set back does not silence it.
    server.tick(100, {7: 95.0})
    assert beats()[0][0] == 100
    server.control.close()
