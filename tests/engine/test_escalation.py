"""Escalation: each step once, in time, stopped by an acknowledgement, over any restart."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.alerting.silences import SilenceStore
from engine.config import Escalation
from engine.config_units import Duration
from engine.model.matchers import parse_matchers
from tests.engine.test_alert_store import T0, S, Server, rule_of

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
HOT, COOL = {7: 95.0}, {7: 10.0}


def step_of(name: str, after_s: int, *channels: str, **changes: Any) -> Escalation:
    return Escalation(name=name, after=Duration(after_s * S), channels=channels, **changes)


STEPS = (step_of("boss", 600, "mail"), step_of("team", 300, "phone", "ops"))


def server_of(path: Path | str, *steps: Escalation, **changes: Any) -> Server:
    return Server(str(path), [rule_of(**changes)], escalation=steps)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = server_of(tmp_path / "control.db", *STEPS)
    yield running
    running.control.close()


def sent(server: Server) -> list[tuple[str, str]]:
    return [(channel, event) for channel, event, _ in server.notifications()]


@pytest.mark.parametrize("restart", [False, True])
def test_each_step_is_taken_once_in_time_and_hears_of_the_end(server: Server, restart: bool) -> None:
    told = []
    for now_s in (0, 10, 299, 300, 305, 599, 600, 700):
        if restart:
            server.restart()
        told.append((now_s, server.tick(now_s, HOT)))
    assert [entry for entry in told if entry[1]] == [(0, ["firing"]), (300, ["escalated"]), (600, ["escalated"])]
    assert server.tick(800, COOL) == ["resolved"]
    assert sent(server) == [
        ("ops", "firing"),
        ("phone", "escalated"),
        ("ops", "escalated"),
        ("mail", "escalated"),
        ("ops", "resolved"),
        ("phone", "resolved"),
        ("mail", "resolved"),
    ]
    assert server.history(1)[1] == (
        "escalated",
        "step team: neither acknowledged nor resolved within 5m; notifies phone, ops",
    )
    ((body,),) = server.control.rows("SELECT body FROM notifications WHERE event = 'escalated' AND channel = 'mail'")
    assert (json.loads(body)["event"], json.loads(body)["alert"]["state"]) == ("escalated", "firing")
    keys = [key for (key,) in server.control.rows("SELECT delivery FROM notifications")]
    assert len(set(keys)) == len(keys) == 7


def test_what_is_resolved_in_time_does_not_escalate(server: Server) -> None:
    server.tick(0, HOT)
    server.tick(299, COOL)
    server.tick(1_000, COOL)
    assert sent(server) == [("ops", "firing"), ("ops", "resolved")]


def test_an_acknowledgement_stops_the_clock_and_its_expiry_starts_it_again(server: Server) -> None:
    server.tick(0, HOT)
    server.store.ack(1, by="ann", expires_ns=T0 + 1_000 * S, now_ns=T0 + 200 * S)
    server.store.ack(1, by="bob", expires_ns=T0 + 2_000 * S, now_ns=T0 + 900 * S)
    assert server.tick(1_900, HOT) == []
    assert server.tick(2_000, HOT) == ["unacknowledged"]
    server.restart()
    # 200 s had passed when it was acknowledged.
    assert server.tick(2_099, HOT) == []
    assert server.tick(2_100, HOT) == ["escalated"]
    assert server.tick(2_399, HOT) == []
    assert server.tick(2_400, HOT) == ["escalated"]


def test_an_acknowledgement_without_an_end_stops_it_for_good(server: Server) -> None:
    server.tick(0, HOT)
    server.tick(300, HOT)
    server.store.ack(1, by="ann", now_ns=T0 + 400 * S)
    assert server.tick(100_000, HOT) == []


def test_an_acknowledgement_before_the_firing_does_not_count_backwards(tmp_path: Path) -> None:
    server = server_of(tmp_path / "control.db", step_of("team", 100, "phone"), for_=50)
    server.tick(0, HOT)
    server.store.ack(1, by="ann", expires_ns=T0 + 80 * S, now_ns=T0 + 10 * S)
    assert server.tick(60, HOT) == ["firing"]
    assert server.tick(80, HOT) == ["unacknowledged"]
    assert server.tick(179, HOT) == []
    assert server.tick(180, HOT) == ["escalated"]
    server.control.close()


def test_a_step_at_once_tells_whom_the_alert_does_not_tell_anyway(tmp_path: Path) -> None:
    server = server_of(tmp_path / "control.db", step_of("now", 0, "ops", "phone"), step_of("nobody", 0, "ops"))
    assert server.tick(0, HOT) == ["firing", "escalated"]
    assert server.tick(5, HOT) == []
    assert sent(server) == [("ops", "firing"), ("phone", "escalated")]
    assert server.history(1)[1] == ("escalated", "step now: neither acknowledged nor resolved; notifies phone")
    server.control.close()


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({}, True),
        ({"category": "system"}, True),
        ({"category": "security"}, False),
        ({"severity": "critical", "category": "system"}, True),
        ({"severity": "warning"}, False),
    ],
)
def test_which_alerts_a_step_concerns(tmp_path: Path, changes: dict[str, Any], taken: bool) -> None:
    server = server_of(tmp_path / "control.db", step_of("team", 10, "phone", **changes))
    server.tick(0, HOT)
    assert bool(server.tick(10, HOT)) is taken
    server.control.close()


def test_under_a_silence_no_step_is_taken_before_its_end(server: Server) -> None:
    server.tick(0, HOT)
    SilenceStore(server.control).add(
        parse_matchers('rule="cpu"'), start_ns=T0, end_ns=T0 + 450 * S, author="ann", now_ns=T0
    )
    assert server.tick(300, HOT) == []
    assert server.tick(450, HOT) == ["escalated"]
    assert server.tick(455, HOT) == []


def test_what_is_held_back_is_looked_at_again_once_that_may_have_changed(tmp_path: Path) -> None:
    server = server_of(tmp_path / "control.db", step_of("team", 100, "phone"))
    silences = SilenceStore(server.control)

    def silence(match: str) -> int:
        matchers = parse_matchers(match)
        return silences.add(matchers, start_ns=T0, end_ns=T0 + 9_000 * S, author="ann", now_ns=T0).id

    first, second = silence('host="web-7"'), silence('host="web-8"')
    server.tick(0, {6: 95.0, 7: 95.0, 8: 95.0})
    hot = {6: 95.0, 7: 95.0, 8: 95.0}
    assert sent(server) == [("ops", "firing")]
    # The first one's step is due, and held from now on.
    third = silence('host="web-6"')
    for now_s in (100, 105, 110):
        assert server.tick(now_s, hot) == []
    silences.end(first, T0 + 111 * S)
    assert server.tick(115, hot) == ["unsilenced"]
    for now_s in (120, 125):
        assert server.tick(now_s, hot) == []
    # Another becomes due while the first is held still.
    assert server.tick(215, hot) == ["escalated"]
    silences.end(third, T0 + 216 * S)
    assert server.tick(220, hot) == ["escalated"]
    # What has ended under a silence that goes on is owed nobody.
    server.tick(225, {6: 95.0, 7: 95.0, 8: 10.0})
    assert server.tick(230, {6: 95.0, 7: 95.0, 8: 10.0}) == []
    silences.end(second, T0 + 231 * S)
    assert server.tick(235, {6: 95.0, 7: 95.0, 8: 10.0}) == []
    server.control.close()


def test_an_alert_that_nobody_was_told_of_does_not_escalate(tmp_path: Path) -> None:
    server = server_of(tmp_path / "control.db", step_of("team", 10, "phone"), cooldown=1_000)
    server.tick(0, HOT)
    server.tick(1, COOL)
    assert server.tick(2, HOT) == ["firing"]
    assert server.tick(500, HOT) == []
    assert server.tick(1_001, HOT) == ["notified"]
    assert server.tick(1_011, HOT) == ["escalated"]
    server.control.close()


def next_steps(server: Server) -> dict[int, int | None]:
    """Return in which second after T0 each alert's next step is due, by what the alert says."""
    return {
        alert_id: None if due_ns is None else (due_ns - T0) // S
        for alert_id, due_ns in server.control.rows("SELECT id, next_step_ns FROM alerts WHERE state = 'firing'")
    }


def test_each_alert_says_when_its_next_step_is_due(server: Server) -> None:
    server.tick(0, HOT)
    assert next_steps(server) == {1: 300}
    server.store.ack(1, by="ann", expires_ns=T0 + 150 * S, now_ns=T0 + 100 * S)
    assert next_steps(server) == {1: None}
    server.tick(150, HOT)
    assert next_steps(server) == {1: 350}
    server.store.ack(1, by="ann", now_ns=T0 + 160 * S)
    server.store.release(1, by="ann", now_ns=T0 + 170 * S)
    assert next_steps(server) == {1: 360}
    server.tick(360, HOT)
    assert next_steps(server) == {1: 660}
    server.tick(660, HOT)
    assert next_steps(server) == {1: None}


def test_other_steps_after_a_restart_are_taken_of_the_alerts_that_fire(server: Server) -> None:
    server.tick(0, HOT)
    server.tick(300, HOT)
    # The team's step has been taken; now the boss hears sooner, and a new one and one for others come.
    server.escalation = (
        step_of("team", 60, "phone"),
        step_of("boss", 400, "mail"),
        step_of("lawyers", 100, "fax"),
        step_of("security", 0, "fax", category="security"),
    )
    server.restart()
    assert server.tick(310, HOT) == ["escalated"]
    assert sent(server)[-1] == ("fax", "escalated")
    assert next_steps(server) == {1: 400}
    assert server.tick(399, HOT) == []
    assert server.tick(400, HOT) == ["escalated"]
    # Without steps nothing is due, whatever stood there before; and again with them.
    server.escalation = ()
    server.restart()
    assert server.tick(500, HOT) == []
    assert next_steps(server) == {1: None}
    server.escalation = STEPS
    server.restart()
    assert server.tick(510, HOT) == []
    assert next_steps(server) == {1: None}
    assert server.tick(520, COOL) == ["resolved"]
    # Whoever was told is told of the end.
    assert {channel for channel, event in sent(server) if event == "resolved"} == {"ops", "phone", "fax", "mail"}


def frozen(path: Path, version: int) -> None:
    """Write the control database that a server of an earlier version has left."""
    connection = sqlite3.connect(path)
    connection.executescript((VECTORS / "control" / str(version) / "control.sql").read_text())
    connection.close()


def test_alerts_of_an_earlier_version_escalate_as_they_would_have(tmp_path: Path) -> None:
    frozen(tmp_path / "control.db", 18)
    steps = (step_of("team", 300, "phone", "ops"), step_of("boss", 600, "mail"))
    server = server_of(tmp_path / "control.db", *steps, for_=5)
    # Fired at 10 s: 2 is acknowledged from 100 to 500 s, 3 for good, 4 silenced, 5 had the first step; 6 is pending.
    hot = {1: 95.0, 2: 95.0, 3: 95.0, 4: 95.0, 6: 95.0}
    assert server.tick(321, hot) == []
    assert next_steps(server) == {2: None, 3: None, 4: 310, 5: 610}
    assert server.tick(330, hot) == ["firing"]
    assert next_steps(server)[6] == 630
    assert server.tick(609, hot) == ["unacknowledged"]
    assert server.tick(610, hot) == ["escalated"]
    assert server.history(5)[-1][1].startswith("step boss: ")
    assert server.tick(630, hot) == ["escalated"]
    assert server.tick(709, hot) == []
    assert next_steps(server)[2] == 710
    assert server.tick(710, hot) == ["escalated"]
    server.control.close()


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.sampled_from(["tick", "restart", "ack"])), max_size=15),
    st.integers(1, 90),
)
def test_steps_are_taken_as_a_stop_watch_says(
    tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[int, str]], lasts_s: int
) -> None:
    """The oracle counts unacknowledged seconds one by one."""
    server = server_of(
        tmp_path_factory.mktemp("db") / "control.db", *(step_of(f"s{n}", n * 50, "p") for n in (1, 2, 3))
    )
    server.tick(0, HOT)
    now_s, watch_s, acknowledged_until_s, taken = 0, 0, 0, 0
    for wait_s, action in plan:
        for second in range(now_s, now_s + wait_s):
            watch_s += second >= acknowledged_until_s
        now_s += wait_s
        if action == "restart":
            server.restart()
        elif action == "ack":
            server.store.ack(1, by="ann", expires_ns=T0 + (now_s + lasts_s) * S, now_ns=T0 + now_s * S)
            acknowledged_until_s = now_s + lasts_s
            continue
        due = min(3, watch_s // 50) if now_s >= acknowledged_until_s else taken
        events = server.tick(now_s, HOT)
        assert events.count("escalated") == max(0, due - taken)
        taken = max(taken, due)
    server.control.close()
