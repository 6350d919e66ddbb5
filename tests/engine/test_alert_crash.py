"""kill -9 before every single statement of an alert's life: each event is put into the outbox exactly once.

What a killed process leaves is what its files hold at that instant, so the files are copied before each
statement that writes, and a server is started on each of the copies.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.alerting.groups import Grouping
from engine.alerting.silences import SilenceStore
from engine.config import Channel, Escalation
from engine.config_units import Duration
from engine.delivery.attempt import Attempt
from engine.delivery.outbox import Outbox
from engine.model.matchers import parse_matchers
from tests.engine.test_alert_store import T0, S, Server, rule_of

HOT, COOL = {7: 95.0}, {7: 10.0}
STEP = Escalation(name="team", after=Duration(10 * S), channels=("phone", "ops"))
CHANNELS = {name: Channel(name=name, url="http://127.0.0.1/") for name in ("ops", "phone")}
Sent = list[tuple[str, bytes]]
Step = Callable[[Server, Outbox], Any]


def deliver(now_s: int) -> Step:
    return lambda server, outbox: outbox.deliver_due(T0 + now_s * S)


def tick(now_s: int, rows: dict[int, float]) -> Step:
    return lambda server, outbox: server.tick(now_s, rows)


def acknowledge(server: Server, outbox: Outbox) -> None:
    server.store.ack(1, by="ann", expires_ns=T0 + 25 * S, now_ns=T0 + 20 * S)


def silence(server: Server, outbox: Outbox) -> None:
    matchers = parse_matchers('rule="cpu"')
    SilenceStore(server.control).add(
        matchers, start_ns=T0 + 40 * S, end_ns=T0 + 60 * S, author="ann", now_ns=T0 + 40 * S
    )


STEPS: list[Step] = [
    *(tick(0, HOT), deliver(1), tick(10, HOT), deliver(11), acknowledge, tick(30, HOT), deliver(31)),
    *(silence, tick(45, COOL), deliver(46), tick(60, COOL), deliver(61)),
]
TOLD = [
    *(("ops", "firing"), ("phone", "escalated"), ("ops", "escalated")),
    *(("ops", "firing"), ("phone", "firing"), ("ops", "resolved"), ("phone", "resolved")),
]


class Recorder:
    def __init__(self, sent: Sent) -> None:
        self._sent = sent

    def send(self, delivery: str, body: bytes, now_ns: int) -> Attempt:
        self._sent.append((delivery, body))
        return Attempt(True, 204)


@dataclass(frozen=True)
class Life:
    steps: Sequence[Step]
    groupings: Mapping[str, Grouping] = field(default_factory=dict)


PLAIN = Life(STEPS)
# The end comes within the interval after the first message, and a third alert comes and goes within it.
GROUPED = Life(
    [
        *(tick(0, {7: 95.0, 8: 95.0}), deliver(1), tick(5, HOT), deliver(6), tick(10, {7: 95.0, 9: 95.0}), deliver(11)),
        *(tick(20, {7: 10.0, 8: 10.0, 9: 10.0}), deliver(21), tick(35, COOL), deliver(36), tick(70, COOL)),
    ],
    {"ops": Grouping(("rule",), wait_ns=5 * S, interval_ns=30 * S)},
)


def run(
    path: Path, first: int, sent: Sent, before: Callable[[int], None] = lambda number: None, life: Life = PLAIN
) -> list[Any]:
    """Run the steps from ``first`` on and return what the outbox holds; ``before(step)`` precedes each statement."""
    escalation = () if life.groupings else (STEP,)
    server = Server(str(path), [rule_of()], channels=("ops",), escalation=escalation, groupings=life.groupings)
    outbox = Outbox(server.control, CHANNELS, sender=lambda channel: Recorder(sent))
    for number, step in enumerate(life.steps[first:], first):
        server.control._writer.set_trace_callback(lambda statement, number=number: before(number))
        step(server, outbox)
    server.control._writer.set_trace_callback(None)
    rows = server.control.rows("SELECT channel, event, delivery, delivered_ns FROM notifications ORDER BY id")
    assert server.control.check() == []
    server.control.close()
    return rows


def killed_everywhere(tmp_path: Path, life: Life) -> tuple[list[Any], Sent, list[tuple[int, Path, Sent]]]:
    """Return what a whole life leaves and has sent, and the files before each statement that wrote."""
    killed: list[tuple[int, Path, Sent]] = []
    sent: Sent = []
    path = tmp_path / "whole" / "control.db"
    path.parent.mkdir()

    def copy(number: int) -> None:
        to = tmp_path / str(len(killed))
        shutil.copytree(path.parent, to, ignore=shutil.ignore_patterns("*-shm"))
        killed.append((number, to / path.name, list(sent)))

    return run(path, 0, sent, copy, life), sent, killed


def test_a_kill_before_any_statement_neither_loses_nor_doubles_an_event(tmp_path: Path) -> None:
    whole, sent, killed = killed_everywhere(tmp_path, PLAIN)
    assert [(channel, event) for channel, event, _, _ in whole] == TOLD
    assert sorted(key for key, _ in sent) == sorted(key for _, _, key, _ in whole)
    assert len(killed) > 50
    for number, left, sent_before in killed:
        received = list(sent_before)
        rows = run(left, number, received)
        assert [(channel, event) for channel, event, _, _ in rows] == TOLD
        assert all(delivered_ns is not None for *_, delivered_ns in rows)
        # The receiver tells what came twice by the key: one body each, and one key for each event.
        assert {key for key, _ in received} == {key for _, _, key, _ in rows}
        assert len(dict(received)) == len(set(received)) == len(TOLD)
        assert len(received) <= len(TOLD) + 1


def test_a_kill_before_any_statement_leaves_each_event_in_exactly_one_message_of_a_group(tmp_path: Path) -> None:
    def told(messages: Sent) -> list[tuple[int, str]]:
        listed = [alert for body in dict(messages).values() for alert in json.loads(body)["alerts"]]
        return sorted((alert["id"], event) for alert in listed for event in alert["events"])

    whole, sent, killed = killed_everywhere(tmp_path, GROUPED)
    expected = [(alert, event) for alert in (1, 2, 3) for event in ("firing", "resolved")]
    assert [(channel, event) for channel, event, _, _ in whole] == [("ops", "group")] * 2
    assert told(sent) == expected
    assert len(killed) > 50
    for number, left, sent_before in killed:
        received = list(sent_before)
        rows = run(left, number, received, life=GROUPED)
        assert all(delivered_ns is not None for *_, delivered_ns in rows)
        assert {key for key, _ in received} == {key for _, _, key, _ in rows}
        # One body for each key, whatever came twice.
        assert len(dict(received)) == len(set(received)) == 2
        assert told(received) == expected
        assert len(received) <= 3
